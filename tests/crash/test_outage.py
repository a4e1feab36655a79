"""A server that comes back hours later: every deadline has passed, every ticket is too old. Nothing is lost for that."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.verify import verify
from counterseal.runtime.server.run import RunResult
from counterseal.tests.federation import SERVER, DirectTransport, Federation, run_config

from .points import Point, Recorder, Watch, probe_of, unwatched


class Killed(BaseException):
    """The process ends here."""


class Thrower:
    """Ends a life in this process: who must survive is only the disk, and every folder is opened anew."""

    def __init__(self, point: Point) -> None:
        self._count = Recorder()
        self._point = point

    def __call__(self, party: str, step: str) -> None:
        self._count(party, step)
        if self._count.points[-1] == self._point:
            raise Killed


def live(federation: Federation, watch: Watch) -> RunResult:
    config = run_config(rounds=1, round_seconds=60)
    with contextlib.ExitStack() as stack:
        sites = {name: stack.enter_context(federation.site(name)) for name in federation.sites}
        server = federation.server(DirectTransport(sites), probe=probe_of(watch, SERVER))
        with server:
            return server.run(config, federation.first_parameters(config))


WHEN = {
    "before anybody was asked to witness the start": "log.journal.done|3",
    "between two witnesses of the start": "log.journal.done|4",
    "before the round was opened": "log.journal.done|6",
    "between two receipts of the round": "log.journal.done|8",
    "before the commit": "blob.done|2",
    "between two witnesses of the end": "log.journal.done|14",
    "before the model was handed out": "log.journal.done|18",
    "between two that took the model": "log.journal.done|19",
}


@pytest.mark.parametrize("when", WHEN)
def test_a_run_is_resumed_hours_later(tmp_path: Path, when: str) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    with pytest.raises(Killed):
        live(federation, Thrower(Point.parse(f"{SERVER}|{WHEN[when]}")))
    federation.clock.advance(7_200)
    result = live(federation, unwatched)
    assert (result.outcome, result.versions, result.witnessed) == ("completed", 1, True)
    for name in federation.sites:
        assert (federation.folder / name / "models" / "run-1.safetensors").exists(), when
    source = FolderSource(federation.log_folder)
    findings = verify(source, Trust(federation.charter, objects=source.objects()))
    assert [row for row in findings.rows if row.status is Status.FAIL] == []
