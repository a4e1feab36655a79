"""The verifier on logs that the real server wrote: honest runs pass, also when sites fail, leave or are removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from counterseal.audit.checks.evidence import Trust, gather
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.leaf_checks import read_events
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, RoundAbort, RunEnd
from counterseal.audit.verify import verify
from counterseal.tests.federation import DirectTransport, Federation, run_config
from counterseal.trust.dsse import read


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def run(federation: Federation, transport: DirectTransport) -> None:
    config = run_config(round_seconds=2, minimum_sites=2)
    with federation.server(transport) as server:
        server.run(config, federation.first_parameters(config))


def failed(federation: Federation) -> list[tuple[str, tuple[str, ...]]]:
    source = FolderSource(federation.log_folder)
    findings = verify(source, Trust(federation.charter, objects=source.objects()))
    return [(row.id, row.reasons) for row in findings.rows if row.status is Status.FAIL]


def types(federation: Federation) -> list[type]:
    evidence = gather(FolderSource(federation.log_folder), Trust(federation.charter))
    return [type(one.event) for one in read_events(evidence).events]


def test_an_honest_run(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path)
    run(federation, DirectTransport({name: federation.site(name) for name in federation.sites}))
    findings = verify(FolderSource(federation.log_folder), Trust(federation.charter))
    assert {row.status for row in findings.rows if row.id != "16"} == {Status.PASS}, findings
    assert types(federation).count(AggregateCommit) == 2


def test_a_run_with_a_silent_site(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path, 4)
    run(federation, DirectTransport({name: federation.site(name) for name in federation.sites[1:]}))
    assert failed(federation) == []
    assert types(federation)[-1] is RunEnd


def test_a_member_removed_in_the_middle(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path, 4)
    gone, count = federation.sites[0], 0

    def meddle(site: str, delivery: bytes) -> bytes:
        nonlocal count
        count += 1
        if count == 4:
            federation.remove(gone)
        return delivery

    run(federation, DirectTransport({name: federation.site(name) for name in federation.sites}, meddle=meddle))
    assert failed(federation) == []
    assert types(federation)[-1] is RunEnd


def test_a_run_whose_rounds_abort(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path, 3)

    def meddle(site: str, delivery: bytes) -> bytes | None:
        ticket = json.loads(read(json.loads(delivery)["ticket"].encode()).payload)
        return None if ticket["kind"] == "train" and site != federation.sites[0] else delivery

    run(federation, DirectTransport({name: federation.site(name) for name in federation.sites}, meddle=meddle))
    assert failed(federation) == []
    assert RoundAbort in types(federation)
