"""Decisions: errors deny, numbers are rounded towards "no", names are never text, and nothing raises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.tests.trust.policy_world import ANY, BASE, LAPLACE, OUTPUT, TERMS, asked, exact, one, policy
from counterseal.trust.canonical import canonical
from counterseal.trust.errors import MalformedError, SitePolicyError
from counterseal.trust.identifiers import sha256
from counterseal.trust.policy.nearby import flips, typical_terms
from counterseal.trust.policy.numbers import decimal_down, decimal_up, delta_exponent
from counterseal.trust.policy.policy import OVER_CAP, SitePolicy, Verdict, default_text, schema_text
from counterseal.trust.policy.request import PolicyRequest, question, read_request
from counterseal.trust.terms import PrivacyTerms

FIXED = settings(derandomize=True, deadline=None, max_examples=150, database=None)
OPEN = f'@id("open") {ANY};'
DEFAULT = SitePolicy.default()


# Errors deny.


OVERFLOW = one(
    "context.version + 9223372036854775807 > 0", name="overflow", head="forbid (principal, action, resource)"
)
STRANGER = one(
    'Counterseal::Server::"nobody".federation == "x"', name="stranger", head="forbid (principal, action, resource)"
)


@pytest.mark.parametrize("failing", [OVERFLOW, STRANGER, OVERFLOW.replace("forbid", "permit")])
def test_a_policy_that_fails_denies_where_cedar_would_skip_it(failing: str) -> None:
    """The fault to plant: leave `answer.errors` out of `SitePolicy.decide`, and the prohibition is gone."""
    assert policy(OPEN).decide(asked()).allowed
    verdict = policy(OPEN, failing).decide(asked())
    assert not verdict.allowed and not verdict.reasons
    assert len(verdict.errors) == 1 and "while evaluating policy" in verdict.errors[0]


def test_it_fails_for_some_requests_only() -> None:
    picky = policy(OPEN, OVERFLOW)
    assert picky.decide(asked(version=3)).errors
    assert picky.decide(asked(version=0)).reasons == ("overflow",)  # 2^63 - 1 itself is a number


def test_the_engine_may_fail_in_any_way(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = policy(OPEN)

    class Panic(BaseException):
        """As pyo3's: no Exception."""

    for failure in (Panic("boom"), ValueError("boom"), MemoryError(), RecursionError("deep"), TypeError("x")):

        def fail(*_: Any, failure: BaseException = failure, **__: Any) -> Any:
            raise failure

        monkeypatch.setattr(cedarpy, "is_authorized", fail)
        verdict = ready.decide(asked())
        assert not verdict.allowed and verdict.errors, failure

    for answer in (
        {"decision": "NoDecision", "diagnostics": {"reason": [], "errors": []}},
        {"decision": "Allow", "diagnostics": {"reason": [], "errors": []}},
        {"decision": "Allow", "diagnostics": {"reason": ["policy0"], "errors": ["x"]}},
        {"decision": "Allow", "diagnostics": {"reason": ["policy7"], "errors": []}},
        {"decision": "Allow", "diagnostics": {"reason": ["policy-1"], "errors": []}},
        {"decision": "Allow", "diagnostics": {"reason": ["other"], "errors": []}},
        {"decision": "allow", "diagnostics": {"reason": ["policy0"], "errors": []}},
        {},
    ):
        result = cedarpy.AuthzResult(answer)
        monkeypatch.setattr(cedarpy, "is_authorized", lambda *_, result=result: result)
        assert not ready.decide(asked()).allowed, answer


def test_an_interruption_is_not_a_denial(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    ready = policy(OPEN)
    monkeypatch.setattr(cedarpy, "is_authorized", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ready.decide(asked())


def test_a_verdict_cannot_allow_with_errors() -> None:
    for reasons, errors in (((), ()), (("a",), ("e",))):
        with pytest.raises(ValueError, match="allowed"):
            Verdict(True, reasons, errors)


# Facts that cannot be asked about.


@pytest.mark.parametrize(
    ("facts", "where"),
    [
        ({"epsilon_run": float("nan")}, "epsilon_run"),
        ({"epsilon_run": float("inf")}, "epsilon_run"),
        ({"epsilon_run": -0.1}, "epsilon_run"),
        ({"epsilon_run": 1e15}, "epsilon_run"),
        ({"epsilon_run": 10**400}, "epsilon_run"),
        ({"epsilon_run": "4"}, "epsilon_run"),
        ({"epsilon_run": True}, "epsilon_run"),
        ({"epsilon_run": None}, "epsilon_run"),
        ({"terms": None}, "terms"),
        ({"terms": None, "epsilon_run": None}, "terms"),
        ({"private": False}, "terms"),
        ({"private": False, "action": "receive"}, "terms"),
        ({"private": False, "terms": None}, "epsilon_run"),
        ({"private": True, "terms": None, "action": "receive"}, "epsilon_run"),
        ({"private": 1}, "private"),
        ({"private": None}, "private"),
        ({"terms": {"mechanism": "dp-sgd"}}, "terms"),
        ({"terms": TERMS.model_copy(update={"delta": -1e-5})}, "delta"),
        ({"terms": TERMS.model_copy(update={"delta": 1.0})}, "delta"),
        ({"terms": TERMS.model_copy(update={"delta": float("nan")})}, "delta"),
        ({"terms": TERMS.model_copy(update={"noise_multiplier": float("inf")})}, "noise_multiplier"),
        ({"terms": TERMS.model_copy(update={"releases": 2**64})}, "releases"),
        ({"terms": TERMS.model_copy(update={"steps": 1.5})}, "steps"),
        ({"epsilon_after": 1.0}, "epsilon_cap"),
        ({"epsilon_cap": 1.0}, "epsilon_after"),
        ({"epsilon_after": float("nan"), "epsilon_cap": 8.0}, "epsilon_after"),
        ({"epsilon_after": 1.0, "epsilon_cap": float("inf")}, "epsilon_cap"),
        ({"version": -1}, "version"),
        ({"version": 2**53}, "version"),
        ({"version": True}, "version"),
        ({"release": 1.0}, "release"),
        ({"anchored": None}, "anchored"),
        ({"anchored": 1}, "anchored"),
        ({"public": "no"}, "public"),
        ({"action": "witness"}, "action"),
        ({"action": None}, "action"),
        ({"server": ""}, "server"),
        ({"server": "x" * 301}, "server"),
        ({"server": "a\x00b"}, "server"),
        ({"server": "a\nb"}, "server"),
        ({"server": "\ud800"}, "server"),
        ({"server": "a\u202eb"}, "server"),
        ({"server": b"bytes"}, "server"),
        ({"dataset": {"__entity": {"type": "Counterseal::Dataset", "id": "x"}}}, "dataset"),
        ({"model": {"__extn": {"fn": "decimal", "arg": "1.0"}}}, "model"),
        ({"rule": 7}, "rule"),
        ({"population": []}, "population"),
    ],
)
def test_a_fact_without_a_valid_value_denies(facts: dict[str, Any], where: str) -> None:
    verdict = policy(OPEN).decide(asked(**facts))
    assert not verdict.allowed and not verdict.reasons
    assert verdict.errors[0].startswith(f"{where}: ")


@pytest.mark.parametrize("thing", [None, 1, "train", object(), {}, BASE.terms])
def test_what_is_no_request_denies(thing: Any) -> None:
    assert policy(OPEN).decide(thing).errors


# Names are values, never text.


@pytest.mark.parametrize(
    "name",
    [
        'x", "y',
        'x"::Counterseal::Server::"admin',
        "admin\\",
        'x" || true || "',
        "*",
        "ad*min",
        "Ädmin",
        "\u0430dmin",  # Cyrillic a
        '{"__entity": {"type": "Counterseal::Server", "id": "admin"}}',
        '{"__extn": {"fn": "decimal", "arg": "1.0"}}',
        "admin//",
        "\U0001f600",
        "admin ",
    ],
)
def test_a_name_is_only_itself(name: str) -> None:
    """One policy for the principal, one for the resource, one for a text: none is met by anything but the very name."""
    guarded = policy(
        '@id("who") permit (principal == Counterseal::Server::"admin", action, resource);',
        '@id("what") permit (principal, action, resource == Counterseal::Dataset::"admin");',
        one('context.federation == "admin" || principal.federation == "admin"', name="where"),
        one('context has model && context.model like "admin"', name="like"),
    )
    for fact in ("server", "dataset", "federation", "model"):
        assert guarded.decide(asked(**{fact: "admin"})).allowed
        verdict = guarded.decide(asked(**{fact: name}))
        assert not verdict.allowed and not verdict.errors, (fact, verdict)
    spelled = json.dumps(name, ensure_ascii=False).replace("*", "*")
    assert policy(one(f"context.federation == {spelled}")).decide(asked(federation=name)).allowed


def test_a_missing_fact_is_missing() -> None:
    modelled = policy(one('context has model && context.model == "mlp"'))
    assert modelled.decide(asked(model="mlp")).allowed
    assert not modelled.decide(asked(model=None)).allowed and not modelled.decide(asked(model=None)).errors
    assert policy(one("!(resource has population) && !(context has budget)")).decide(asked()).allowed


def test_every_fact_can_be_spoken_about() -> None:
    everything = " && ".join(
        [
            'principal == Counterseal::Server::"server@fed.example" && principal.group_source == "roster"',
            'principal.federation == "ours" && context.federation == "ours" && context.run == "run-1"',
            f'resource == Counterseal::Dataset::"hearts" && context.charter == "{"ab" * 32}"',
            'resource has population && resource.population == "cohort" && resource has unit && resource.unit == "record"',
            "!resource.public && context.version == 3 && context has release && context.release == 2",
            'context has rule && context.rule == "fedavg" && context has trainer && context.trainer == "torch"',
            'context has model && context.model == "mlp" && context.anchored && context.commit_before_upload',
            "context.auditor && !context.server_validates_updates && !context.unprotected_allowed && context has privacy",
            'context.privacy.mechanism == "dp-sgd" && context.privacy.unit == "record"',
            'context.privacy.adjacency == "add-remove" && context.privacy.epsilon_run == decimal("4.0")',
            'context.privacy.delta_exponent == 5 && context.privacy.noise_multiplier == decimal("1.1")',
            'context.privacy.clip_norm == decimal("1.0") && context.privacy.sampling_rate == decimal("0.02")',
            "context.privacy.steps == 50 && context.privacy.releases == 20 && context has budget",
            'context.budget.epsilon_after == decimal("5.5") && context.budget.epsilon_cap == decimal("10.0")',
        ]
    )
    full = asked(
        population="cohort",
        release=2,
        rule="fedavg",
        trainer="torch",
        model="mlp",
        epsilon_after=5.5,
        epsilon_cap=10.0,
    )
    verdict = policy(one(everything)).decide(full)
    assert verdict.allowed, verdict


# Numbers.


@pytest.mark.parametrize(
    ("epsilon", "allowed"),
    [(8.0, True), (7.9999, True), (7.99991, True), (8.0000000001, False), (8.00004, False), (8.0001, False)],
)
def test_epsilon_is_rounded_up_before_it_is_compared(epsilon: float, allowed: bool) -> None:
    limit = policy(one('context has privacy && context.privacy.epsilon_run.lessThanOrEqual(decimal("8.0"))'))
    assert limit.decide(asked(epsilon_run=epsilon)).allowed is allowed


@pytest.mark.parametrize(
    ("delta", "exponent"),
    [(0.0, 400), (1e-5, 5), (1.0000000001e-5, 4), (9.99e-6, 5), (1e-6, 6), (0.05, 1), (0.5, 0), (5e-324, 323)],
)
def test_delta_becomes_the_power_that_bounds_it(delta: float, exponent: int) -> None:
    assert delta_exponent(delta) == exponent
    assert delta == 0 or Decimal(repr(delta)) <= Decimal(10) ** -exponent


@FIXED
@given(st.floats(0, 9e14))
def test_rounding_never_goes_the_wrong_way(value: float) -> None:
    up, down = Decimal(decimal_up(value, "x")), Decimal(decimal_down(value, "x"))
    assert float(down) <= value <= float(up)
    assert up - down <= Decimal("0.0001")
    assert down <= Decimal(repr(value)) <= up


@FIXED
@given(st.floats(0, 0.1), st.floats(0, 0.1))
def test_a_smaller_delta_never_has_a_smaller_exponent(one_: float, other: float) -> None:
    low, high = sorted((one_, other))
    assert delta_exponent(low) >= delta_exponent(high)


def test_the_cap_needs_no_policy() -> None:
    everything = policy(OPEN)
    assert everything.decide(asked(epsilon_after=8.0, epsilon_cap=8.0)).allowed
    assert everything.decide(asked(epsilon_after=8.0000001, epsilon_cap=8.0)).reasons == (OVER_CAP,)
    assert exact().epsilon_after is None and everything.decide(exact()).allowed


# The digest.


def test_the_digest_is_of_policy_and_schema() -> None:
    expected = sha256(canonical({"policy": sha256(default_text()), "schema": sha256(schema_text())}))
    assert DEFAULT.digest == expected


def test_one_byte_is_another_digest() -> None:
    data = default_text()
    seen = {SitePolicy(data).digest, SitePolicy(data + b"\n").digest, SitePolicy(b" " + data).digest}
    seen.add(SitePolicy(data.replace(b"8.0", b"8.1", 1)).digest)
    seen.add(SitePolicy(data.replace(b"THE SITE", b"The SITE", 1)).digest)
    assert len(seen) == 5


# Requests as JSON.


def test_a_request_is_read_from_json() -> None:
    values = {one.name: getattr(BASE, one.name) for one in fields(BASE)}
    data = json.dumps({**values, "terms": TERMS.model_dump(mode="json")}).encode()
    assert read_request(data) == BASE


@pytest.mark.parametrize(
    "change",
    [
        {"bogus": 1},
        {"anchored": "yes"},
        {"epsilon_run": "4"},
        {"action": "steal"},
        {"terms": {"mechanism": "x"}},
        {"version": 1.5},
    ],
)
def test_a_wrong_request_is_refused(change: dict[str, Any]) -> None:
    values = {one.name: getattr(BASE, one.name) for one in fields(BASE)}
    data = json.dumps({**values, "terms": TERMS.model_dump(mode="json"), **change}).encode()
    with pytest.raises(SitePolicyError) as caught:
        read_request(data)
    assert next(iter(change)) in caught.value.where
    for raw in (b"", b"{", b"[]", b'{"action": NaN}'):
        with pytest.raises((SitePolicyError, MalformedError)):
            read_request(raw)


# Whatever comes.

_NUMBERS = st.one_of(st.floats(), st.integers(), st.none(), st.booleans(), st.text(max_size=3))
_WORDS = st.one_of(
    st.text(max_size=8), st.sampled_from(["ours", "record", "site", "patient"]), st.none(), st.integers()
)
_FLAGS = st.one_of(st.booleans(), st.none(), st.integers(0, 1))
_TERMS = st.one_of(
    st.sampled_from([TERMS, OUTPUT, LAPLACE, None, 3]),
    st.builds(
        lambda field, value: TERMS.model_copy(update={field: value}),
        st.sampled_from(sorted(PrivacyTerms.model_fields)),
        _NUMBERS,
    ),
)
_ACTIONS = st.one_of(st.sampled_from(["train", "evaluate", "receive", "releaseMetrics"]), _WORDS)


def _anything() -> st.SearchStrategy[PolicyRequest]:
    kinds: dict[str, st.SearchStrategy[Any]] = {"action": _ACTIONS, "terms": _TERMS}
    kinds |= dict.fromkeys(("version", "release", "epsilon_run", "epsilon_after", "epsilon_cap"), _NUMBERS)
    for field in fields(PolicyRequest):
        kinds.setdefault(field.name, _FLAGS if isinstance(getattr(BASE, field.name), bool) else _WORDS)
    changes = st.fixed_dictionaries({}, optional=kinds)
    return changes.map(lambda some: replace(BASE, **some))


@FIXED
@given(_anything())
def test_no_request_makes_a_decision_raise(request_: PolicyRequest) -> None:
    verdict = DEFAULT.decide(request_)
    assert not (verdict.allowed and verdict.errors)
    json.dumps(verdict.errors)


@FIXED
@given(_anything())
def test_what_is_asked_is_plain_json(request_: PolicyRequest) -> None:
    """Either a typed error, or values that Cedar's schema takes without an error."""
    try:
        asked_, entities = question(request_)
    except (SitePolicyError, TypeError):
        return
    json.dumps([asked_, entities], allow_nan=False).encode()
    assert not DEFAULT.decide(request_).errors


_CONDITIONS = st.sampled_from(
    [
        "true",
        "false",
        "context has privacy",
        "context.anchored",
        "resource.public",
        'context.federation == "ours"',
        "context.version + 9223372036854775807 > 0",
        'context has privacy && context.privacy.epsilon_run.greaterThan(decimal("2.0"))',
        'Counterseal::Server::"nobody".federation == "x"',
    ]
)


@FIXED
@given(_anything(), _CONDITIONS, st.sampled_from(["when", "unless"]), _CONDITIONS)
def test_another_prohibition_never_allows_more(request_: PolicyRequest, condition: str, word: str, permit: str) -> None:
    before = [one(permit, name="some"), default_text().decode()]
    forbid = f'@id("more") forbid (principal, action, resource) {word} {{ {condition} }};'
    if policy(*before, forbid).decide(request_).allowed:
        assert policy(*before).decide(request_).allowed


# Requests nearby.


def _all_flips() -> Iterator[tuple[PolicyRequest, str]]:
    yield asked(epsilon_run=9.5), "epsilon_run were at most 8.0"
    yield asked(epsilon_after=9.0, epsilon_cap=8.0), "epsilon_after were at most 8.0"
    yield asked(terms=typical_terms(delta=1e-3)), "delta were 1e-05"
    yield asked(unit="patient"), "the data's unit were 'record'"
    yield asked(unit="patient"), "unit were patient"
    yield exact(), "unprotected_allowed were true"
    yield exact(), "the run had privacy terms (dp-sgd, epsilon 1)"
    yield asked(server_validates_updates=True), "server_validates_updates were false"
    yield asked(action="releaseMetrics"), "public were true"
    yield exact(server_validates_updates=True), "server_validates_updates were false, and unprotected_allowed were true"


@pytest.mark.parametrize(("request_", "text"), list(_all_flips()))
def test_a_change_that_would_help_is_found(request_: PolicyRequest, text: str) -> None:
    assert text in flips(DEFAULT, request_)


def test_names_and_counts_of_the_policy_are_tried() -> None:
    strict = policy(
        OPEN,
        '@id("f") forbid (principal, action, resource) unless { ["theirs"].contains(context.federation) };',
    )
    assert flips(strict, asked()) == ("federation were 'theirs'",)
    known = policy('@id("k") permit (principal == Counterseal::Server::"known", action, resource);')
    assert flips(known, asked()) == ("server were 'known'",)
    few = policy(one("context has privacy && context.privacy.releases <= 7"))
    assert flips(few, asked()) == ("releases were at most 7",)
    noisy = policy(one('context has privacy && context.privacy.noise_multiplier.greaterThan(decimal("2.5"))'))
    assert "noise_multiplier were 3.0" in flips(noisy, asked())
    assert flips(policy("// nothing"), asked()) == ()


def test_flips_are_true_whatever_is_asked() -> None:
    for request_ in (asked(epsilon_run=float("nan")), asked(version=-1), asked(server="a\x00")):
        assert isinstance(flips(DEFAULT, request_), tuple)
