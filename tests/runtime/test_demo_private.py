"""A private demonstration: epsilon printed, in the log, in the ledger, and the same when other people compute it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from opacus.accountants import PRVAccountant
from pydantic import ValidationError
from rich.console import Console

from counterseal.audit.checks.evidence import Trust, gather
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.runtime.anchors.opening import open_ledger
from counterseal.runtime.config import load_site
from counterseal.runtime.demo.document import document
from counterseal.runtime.demo.play import DemoResult
from counterseal.runtime.demo.privacy import answers, odds
from counterseal.runtime.demo.report import render, report_data
from counterseal.runtime.demo.screen import Screen
from counterseal.runtime.demo.settings import DemoSettings

from .demo_world import played

SETTINGS = DemoSettings.of(model="logistic", sites=3, rounds=2, epsilon=4.0)
ADMM = DemoSettings.of(model="logistic", sites=3, rounds=2, epsilon=4.0, algorithm="iiadmm", privacy="output-gaussian")


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return played(tmp_path_factory.mktemp("demo") / "out", SETTINGS)


def test_epsilon_is_in_the_log_in_the_ledger_and_computed_again(private: DemoResult) -> None:
    assert private.good and len(private.accounts) == 3
    assert private.findings.row("15").status is Status.PASS
    for one in private.accounts:
        terms = one.terms
        assert one.spending.releases == terms.releases == 2 and one.agrees and one.stated <= 4.0
        # Somebody else's accountant, fed with the literal numbers of run.start: its answer is at most 0.02 too large.
        other = PRVAccountant()
        other.history = [(terms.noise_multiplier, terms.sampling_rate, terms.steps * 2)]
        upper = other.get_epsilon(terms.delta)
        assert upper - 0.03 <= one.stated <= upper + 1e-3
        ledger = open_ledger(load_site(private.founded.site_configs[one.site]).privacy.ledger)  # type: ignore[union-attr]
        (balance,) = ledger.balances()
        assert balance.releases == 2 and balance.open_runs == 0 and ledger.anchored
        assert balance.spent >= one.stated - 0.01  # the filter over all runs is never tighter than the statement of one


def test_nothing_but_the_update_left(private: DemoResult) -> None:
    sites = [site for one in private.rounds for site in one["sites"]]
    assert len(sites) == 6 and all(site["metrics"] == {} and site["epsilon"] > 0 for site in sites)
    assert private.sealed.metrics == 0
    evidence = gather(FolderSource(private.founded.folder / "server" / "log"), Trust(private.founded.charter))
    log = b"".join(base64.b64decode(json.loads(leaf)["payload"]) for leaf in evidence.leaves)
    assert b"accuracy" in log  # the run's configuration names the metric
    assert all(word not in log for word in (b'"before"', b'"after"', b'"examples"', b"site_failed"))


def test_the_screen_and_the_document_say_it(private: DemoResult) -> None:
    text = StringIO()
    Screen(Console(file=text, width=160)).finish(private, Path("report.html"))
    said = text.getvalue()
    assert "What each site's releases can say, at most" in said and f"{private.accounts[0].stated:g}" in said
    assert "site-a alone (unprotected)" in said and "centralised (unprotected)" in said
    assert "Differential privacy of each record" in said and "used no differential privacy" not in said
    kept = json.loads(json.dumps(document(private, Path("report.html"))))["privacy"]
    assert kept["comparisons"] == "unprotected" and kept["sites"]["site-b"]["agrees"] is True


def test_the_report_answers_in_words(private: DemoResult) -> None:
    for reader in (None, "site-b"):
        page = render(report_data(private, for_site=reader))
        for word in (
            "noise multiplier",
            "sampling",
            "add-remove",
            "Each site, inside its own walls",
            "unprotected",
            "computed again",
        ):
            assert word in page, word
        assert ("<td>site-a</td><td>dp-sgd</td>" in page) == (reader is None)
    terms = private.accounts[0].terms
    said = {one.question: one.answer for one in answers(terms, private.accounts)}
    assert f"{odds(private.accounts[0].stated):.2%}" in said["How much can still be learned?"]
    assert (
        "one record" in said["Who or what is protected?"] and f"{terms.noise_multiplier:g}" in said["How is it done?"]
    )


def test_a_stated_epsilon_that_is_not_so_is_shown(private: DemoResult) -> None:
    first, *rest = private.accounts
    low = replace(first, spending=first.spending.model_copy(update={"epsilon": 0.5}))
    lying = replace(private, accounts=(low, *rest))
    assert not low.agrees and not lying.good
    text = StringIO()
    Screen(Console(file=text, width=160)).finish(lying, Path("report.html"))
    assert "NO " in text.getvalue()


def test_admm_with_output_perturbation(tmp_path: Path) -> None:
    result = played(tmp_path / "out", ADMM)
    assert result.good and {one.terms.mechanism for one in result.accounts} == {"output-gaussian"}
    assert all(one.terms.unit == "site" and one.stated <= 4.0 and one.agrees for one in result.accounts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"privacy": "output-gaussian", "algorithm": "iceadmm"}, "sends its dual"),
        ({"epsilon": -1.0}, "greater than 0"),
        ({"privacy": "rot13"}, "dp-sgd"),
    ],
)
def test_wrong_settings(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DemoSettings.of(**options)
