"""A demonstration with noise at the server: it says that the server is trusted, what epsilon, and how bad it is."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from counterseal.audit.events import AggregateCommit, RunStart
from counterseal.privacy.central import expected_noise
from counterseal.runtime.central import central_accounts
from counterseal.runtime.config import load_server, load_site
from counterseal.runtime.demo.document import document
from counterseal.runtime.demo.keep import keep
from counterseal.runtime.demo.play import DemoResult, _events
from counterseal.runtime.demo.report import render, report_data
from counterseal.runtime.demo.screen import Screen
from counterseal.runtime.demo.settings import DemoSettings

from .cli_world import call
from .demo_world import played

SETTINGS = DemoSettings.of(privacy="central", sites=3, rounds=2)


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return played(tmp_path_factory.mktemp("demo") / "out", SETTINGS)


def test_the_run_is_the_one_that_was_asked_for(central: DemoResult) -> None:
    account = central.central
    assert central.good and account is not None and central.terms is None and central.accounts == ()
    assert (account.commits, account.rounds) == (2, 2) and 7.9 < account.epsilon <= 8.0 == SETTINGS.epsilon
    run = load_server(central.founded.server_config).run_config
    assert run.aggregation.rule == "dp-fedavg" and run.privacy is None and not run.evaluation.sites
    for path in central.founded.site_configs.values():
        site = load_site(path)
        assert site.unprotected and site.privacy is None
    assert central.sealed.metrics == 0


def test_the_screen_and_the_document_say_how_bad_it_is(central: DemoResult) -> None:
    text = StringIO()
    Screen(Console(file=text, width=200)).finish(central, Path("report.html"))
    said, account = " ".join(text.getvalue().split()), central.central
    assert account is not None
    noise = expected_noise(3, central.parameters, account.terms.rule.noise_multiplier, 0.5)
    assert noise > 5 * 0.5 and f"{noise:.3g}" in said and f"{noise / 0.5:,.1f} times as much" in said
    for words in (
        "dp-fedavg (the server is trusted)",
        "Privacy from the server and the auditor",
        "NO That the noise is smaller than a step",
        "add-remove: its update counts or not",
        "site-a alone (unprotected)",
    ):
        assert words in said, words
    assert "used no differential privacy" not in said
    kept = json.loads(json.dumps(document(central, Path("report.html"))))["privacy"]
    assert (
        "trusted" in kept["noise_added_by"] and kept["epsilon"] == account.epsilon and kept["terms"]["unit"] == "site"
    )
    assert kept["noise_norm"] == pytest.approx(noise)


def test_the_report_answers_in_words(central: DemoResult, tmp_path: Path) -> None:
    for reader in (None, "site-b"):
        page = render(report_data(central, for_site=reader))
        for words in (
            "of one site, if the server is trusted",
            "The server sees every site&#39;s update exactly",
            "times as much",
            "no site can check",
            "Sites send no metrics in such a run",
        ):
            assert words in page, words
        assert "sampling</th>" not in page
    keep(central, tmp_path)


def test_the_audit_computes_it_again_from_the_log(central: DemoResult) -> None:
    folder = central.founded.folder
    options = (folder / "server" / "log", "--charter", folder / "sites" / "site-a" / "charter")
    done = call("audit", "privacy", *options)
    assert done.exit_code == 0 and "Trusted: the server and the auditor" in done.stdout, done.output
    assert "No run in this log" not in done.stdout
    (one,) = json.loads(call("audit", "privacy", *options, "--json").stdout)["servers"]
    assert central.central is not None and one["epsilon"] == central.central.epsilon and one["versions"] == 2
    assert one["terms"]["noise_multiplier"] == central.central.terms.rule.noise_multiplier
    assert json.loads(call("audit", "privacy", *options, "--json", "--run", "other").stdout)["servers"] == []


def test_only_versions_that_were_made_cost_something(central: DemoResult) -> None:
    events = _events(central.founded)
    start = [one for one in events if isinstance(one[1], RunStart)]
    commits = [one for one in events if isinstance(one[1], AggregateCommit)]
    none, one, two = (central_accounts([*start, *commits[:count]])[0] for count in (0, 1, 2))
    assert none.epsilon == 0 < one.epsilon < two.epsilon == two.whole.epsilon


@pytest.mark.parametrize(
    ("options", "said"),
    [({"algorithm": "iiadmm"}, "that is fedavg"), ({"sites": 27}, "less than or equal to 26")],
    ids=str,
)
def test_wrong_settings(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DemoSettings.of(privacy="central", **options)
