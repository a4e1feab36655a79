"""Whole runs whose members are those of a Globus group: one is removed, and one outage passes, while they go on.

Real configurations, real parties, the real client library; the services are the stand-in. Sites are in this process, and an
answer of Globus serves for no time at all here: how long it serves is tested with its class.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AccessDenied, AggregateCommit, Event, ModelRelease, RoundOpen, peek_event
from counterseal.audit.verify import verify
from counterseal.runtime.assembly import open_server, open_site
from counterseal.runtime.config import load_server, load_site
from counterseal.runtime.progress import Progress, RoundStarted
from counterseal.runtime.server.run import RunResult
from counterseal.runtime.training.registry import build_trainer
from counterseal.tests.federation import DirectTransport
from counterseal.tests.standin.cloud import Cloud

from .heart_world import HeartFederation

pytestmark = pytest.mark.processes


@pytest.fixture
def heart(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HeartFederation:
    monkeypatch.setattr("counterseal.runtime.globus.authorizer.KEPT_SECONDS", 0.0)
    return HeartFederation.make(cloud, tmp_path, rounds=3, minimum=2, round_seconds=30)


def run(heart: HeartFederation, observe: Callable[[Progress], None]) -> tuple[RunResult, list[Event]]:
    """Run the federation to its end; return the result, and the log."""
    config = load_server(heart.founded.server_config)
    with contextlib.ExitStack() as stack:
        sites = {
            site: stack.enter_context(open_site(load_site(path))) for site, path in heart.founded.site_configs.items()
        }
        server = stack.enter_context(open_server(config, transport=DirectTransport(sites), observe=observe))
        settings = config.run_config
        first = build_trainer(settings, site=heart.server).initial_parameters(settings.seed)
        result = server.run(settings, first)
        events = [peek_event(server.log.entry(index)) for index in range(server.log.size)]
    source = FolderSource(config.log)
    findings = verify(source, Trust(heart.founded.charter, objects=source.objects()))
    assert [row.id for row in findings.rows if row.status is Status.FAIL] == []
    return result, events


def at_round(version: int, act: Callable[[], None]) -> Callable[[Progress], None]:
    def observe(event: Progress) -> None:
        if isinstance(event, RoundStarted) and event.version == version:
            act()

    return observe


def test_a_member_that_is_removed_in_the_middle_of_a_run_is_out(heart: HeartFederation) -> None:
    gone, *others = heart.sites
    result, events = run(heart, at_round(1, lambda: heart.cloud.member(heart.group, gone, status="removed")))
    assert result.outcome == "completed"
    commits = [[one.site for one in event.inputs] for event in events if isinstance(event, AggregateCommit)]
    assert [sorted(sites) for sites in commits if sites] == [sorted(heart.sites), others, others], commits
    denied = [event for event in events if isinstance(event, AccessDenied)]
    assert {(event.decision.identity, event.decision.reason) for event in denied} == {(gone, "removed")}
    assert all(heart.group in event.decision.source for event in denied)
    # The group no longer lets the removed site look, so it answers "outage": nobody waits for it until the deadline.
    assert [event.at for event in denied] == ["admission", "ticket"]
    assert events[-1].time - events[0].time < 20
    release = next(event for event in events if isinstance(event, ModelRelease))
    assert gone not in release.recipients


def test_an_outage_in_the_middle_of_a_run_is_waited_out(heart: HeartFederation) -> None:
    timer = threading.Timer(2.5, heart.cloud.open)

    def away() -> None:
        heart.cloud.close()
        timer.start()

    result, events = run(heart, at_round(1, away))
    timer.join()
    assert result.outcome == "completed"
    commits = [[one.site for one in event.inputs] for event in events if isinstance(event, AggregateCommit)]
    assert [sorted(sites) for sites in commits if sites] == [sorted(heart.sites)] * 3
    assert not [event for event in events if isinstance(event, AccessDenied)]


def test_every_decision_is_in_the_log_with_its_source(heart: HeartFederation) -> None:
    _, events = run(heart, lambda event: None)
    decisions = [one for event in events if isinstance(event, RoundOpen | AggregateCommit) for one in event.decisions]
    assert {one.identity for one in decisions} == {heart.server, *heart.sites}
    assert {one.source for one in decisions} == {f"TEST CLOUD, no Globus group {heart.group}"}
    assert all(one.allowed and one.reason == "active" for one in decisions)


def test_a_site_refuses_a_server_that_its_own_login_does_not_see_as_manager(heart: HeartFederation) -> None:
    """The server's own view is held still; each site asks with a login of its own."""
    site = heart.sites[0]
    with open_site(load_site(heart.founded.site_configs[site])) as opened:
        assert opened._ask_about_server().allowed
        heart.cloud.member(heart.group, heart.server, role="member")
        assert opened._ask_about_server().reason == "wrong_role"
        paths = [path for _, path, status in heart.cloud.requests if "/groups/v2/groups/" in path and status == 200]
        assert len(paths) == 2
