"""What the policy that comes with counterseal answers, question by question."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from counterseal.tests.trust.policy_world import LAPLACE, OUTPUT, TERMS, asked, exact
from counterseal.trust.policy.lints import lints
from counterseal.trust.policy.policy import OVER_CAP, SitePolicy, default_text, schema_text
from counterseal.trust.policy.request import PolicyRequest
from counterseal.trust.terms import PrivacyTerms

DEFAULT = SitePolicy.default()


def priceless(action: str, **facts: object) -> PolicyRequest:
    """A private run in which nothing is priced now."""
    return asked(action=action, terms=None, epsilon_run=None, **facts)


def terms(**changes: object) -> PrivacyTerms:
    return PrivacyTerms.model_validate({**TERMS.model_dump(), **changes})


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (asked(), "private-training"),
        (asked(epsilon_run=8.0), "private-training"),
        (asked(epsilon_run=0.0), "private-training"),
        (asked(terms=OUTPUT), "private-training"),
        (asked(terms=LAPLACE), "private-training"),
        (asked(terms=OUTPUT, unit=None), "private-training"),
        (asked(terms=terms(unit="patient"), unit="patient"), "private-training"),
        (asked(anchored=False), "private-training"),  # an option that is off
        (asked(unprotected_allowed=True), "private-training"),
        (asked(epsilon_after=8.0, epsilon_cap=8.0), "private-training"),
        (exact(unprotected_allowed=True), "unprotected-training"),
        (asked(action="evaluate"), "evaluate-and-receive"),
        (exact(action="evaluate"), "evaluate-and-receive"),
        (exact(action="receive"), "evaluate-and-receive"),
        (priceless("receive"), "evaluate-and-receive"),
        (priceless("releaseMetrics", public=True), "metrics-that-say-nothing-new"),
        (asked(action="releaseMetrics", public=True), "metrics-that-say-nothing-new"),
        (exact(action="releaseMetrics", unprotected_allowed=True), "metrics-that-say-nothing-new"),
    ],
)
def test_allowed(request_: PolicyRequest, reason: str) -> None:
    verdict = DEFAULT.decide(request_)
    assert verdict.allowed and verdict.reasons == (reason,) and not verdict.errors


@pytest.mark.parametrize(
    ("request_", "reasons"),
    [
        (asked(epsilon_run=8.00001), ()),  # 8.0001 once it is rounded up
        (asked(epsilon_run=1e6), ()),
        (asked(terms=terms(delta=1.1e-5)), ()),
        (asked(unit="patient"), ()),
        (asked(unit=None), ()),
        (asked(terms=terms(unit="patient")), ()),
        (asked(terms=TERMS.model_copy(update={"mechanism": "trust-me"})), ()),
        (exact(), ("no-unprotected-training",)),
        (asked(server_validates_updates=True), ("no-validation-of-single-updates",)),
        (
            exact(server_validates_updates=True),
            ("no-unprotected-training", "no-validation-of-single-updates"),
        ),
        (asked(action="releaseMetrics"), ("no-private-metrics",)),
        (asked(action="releaseMetrics", unprotected_allowed=True), ("no-private-metrics",)),
        (exact(action="releaseMetrics"), ("no-private-metrics",)),
        (priceless("releaseMetrics", unprotected_allowed=True), ("no-private-metrics",)),
        (asked(epsilon_after=8.01, epsilon_cap=8.0), (OVER_CAP,)),
    ],
)
def test_denied(request_: PolicyRequest, reasons: tuple[str, ...]) -> None:
    verdict = DEFAULT.decide(request_)
    assert not verdict.allowed and verdict.reasons == reasons and not verdict.errors


def test_it_has_no_warnings_and_advice_for_every_prohibition() -> None:
    assert lints(DEFAULT) == ()
    assert all(one.advice for one in DEFAULT.policies if one.effect == "forbid")


def test_its_options_work_when_switched_on() -> None:
    lines = default_text().decode().split("OPTIONS.")[1].splitlines()
    options = [line.removeprefix("// ") for line in lines if re.match(r"// (@|forbid|unless|when)", line)]
    text = default_text() + "\n".join(["", *options]).encode()
    policy = SitePolicy(text)
    assert len(policy.policies) == len(DEFAULT.policies) + 3 and lints(policy) == ()
    ours = {"federation": "our-federation"}
    assert policy.decide(asked(**ours)).allowed
    assert policy.decide(asked(anchored=False, **ours)).reasons == ("anchored-ledger",)
    assert policy.decide(asked(commit_before_upload=False, **ours)).reasons == ("commit-before-upload",)
    assert policy.decide(asked(action="receive")).reasons == ("our-federations",)
    assert policy.decide(exact(anchored=False, unprotected_allowed=True, **ours)).allowed


def test_every_policy_of_it_is_needed() -> None:
    """Without its prohibitions, a permit that somebody adds would open what they keep shut."""
    open_all = '@id("careless") permit (principal, action, resource);'
    policy = SitePolicy(default_text() + open_all.encode())
    for denied in (exact(), asked(action="releaseMetrics"), asked(server_validates_updates=True)):
        assert not policy.decide(denied).allowed
    assert policy.decide(asked(epsilon_run=99.0)).allowed  # what no prohibition covers is what a permit can open


def test_the_manual_is_right() -> None:
    """Every policy in it loads and says what it is said to say; the digest is the default policy's."""
    manual = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    blocks = re.findall(r"(?:^    .*\n)+", manual.partition("## Changes")[2], re.M)
    added = SitePolicy(default_text() + "".join(blocks).encode())
    assert [one.id for one in added.policies[-3:]] == ["site-level-only", "not-the-registry", "known-models"]
    assert lints(added) == ()
    assert added.decide(asked(terms=OUTPUT, model="cnn")).allowed
    assert added.decide(asked(model="cnn")).reasons == ("site-level-only",)
    assert added.decide(asked(terms=OUTPUT)).reasons == ("known-models",)
    assert added.decide(asked(terms=OUTPUT, model="cnn", dataset="registry")).reasons == ("not-the-registry",)
    assert f"digest  {DEFAULT.digest}" in manual
    for fact in re.findall(r"(\w+)\??: ", re.sub(r"//.*", "", schema_text().decode())):
        assert fact in manual or fact in {"principal", "resource", "context"}, fact
