"""Four sites behind real endpoint daemons, S3 and a Globus group: a whole run, and runs with everything breaking.

The server's log decides what happened; each test reads it with the verifier that an outsider would use.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from counterseal.audit.checks.evidence import Trust, gather
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.leaf_checks import read_events
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AccessDenied, AggregateCommit, Event, ReceiptFile, UpdateAdmit
from counterseal.audit.verify import verify
from counterseal.runtime.api import run_federation
from counterseal.runtime.config import GlobusConfig, LoaderConfig, PassphraseConfig, RunConfig, load_server
from counterseal.runtime.delivery import Answer
from counterseal.runtime.errors import GlobusRefusedError
from counterseal.runtime.founding.federation import Founded, found_federation
from counterseal.runtime.progress import Progress, RoundStarted
from counterseal.runtime.server.run import RunResult
from counterseal.runtime.training.arrays import write_arrays
from counterseal.runtime.transports.compute.results import Outcome
from counterseal.runtime.transports.compute.service import ComputeService
from counterseal.tests.federation import data_of, run_config
from counterseal.tests.standin.federation import GlobusPlace, globus_place
from counterseal.trust.canonical import parse

pytestmark = pytest.mark.processes


@dataclass
class Scene:
    """The federation of this module; runs are told apart by their names."""

    place: GlobusPlace
    founded: Founded

    def run(self, config: RunConfig, observe: Callable[[Progress], None] = lambda event: None) -> RunResult:
        settings = load_server(self.founded.server_config).model_copy(update={"run": config})
        return run_federation(settings, observe=observe)

    def events(self, run: str | None = None) -> list[Event]:
        source = FolderSource(load_server(self.founded.server_config).log)
        found = [one.event for one in read_events(gather(source, Trust(self.founded.charter))).events]
        return [one for one in found if run is None or getattr(one, "run", None) == run]

    def require_good_log(self) -> None:
        """What an outsider's verifier says of everything that happened so far."""
        findings = verify(FolderSource(load_server(self.founded.server_config).log), Trust(self.founded.charter))
        assert findings.passed, [row for row in findings.rows if row.status is Status.FAIL]

    def require_once(self, run: str, versions: int, sites: int) -> None:
        """Nothing lost, nothing twice: each version has one commit, each counted update one receipt and one admission."""
        events = self.events(run)
        commits = [one for one in events if isinstance(one, AggregateCommit)]
        assert [one.version for one in commits] == list(range(versions))
        counted = [given.ticket for one in commits for given in one.inputs]
        assert len(counted) == len(set(counted)) and all(len(one.inputs) >= sites for one in commits)
        admitted = Counter(one.ticket for one in events if isinstance(one, UpdateAdmit))
        receipts = Counter(one.ticket for one in events if isinstance(one, ReceiptFile))
        assert all(admitted[ticket] == receipts[ticket] == 1 for ticket in counted)
        assert set(receipts.values()) == {1}

    @property
    def logs(self) -> str:
        return "\n".join(daemon.log()[-4000:] for daemon in self.place.daemons.values())


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix="counterseal-globus-"))
    folder.chmod(0o755)
    try:
        with globus_place(folder, 4) as place:
            loader = LoaderConfig(entry_point="arrays", folder=Path("data"))
            founded = found_federation(
                folder / "federation",
                place.sites,
                run=run_config("first", round_seconds=300),
                loaders={site: loader for site in place.sites},
                store=place.store,
                server=place.server,
                group=place.group,
                globus=place.globus,
                transport=place.compute.model_copy(update={"resend_seconds": 12.0}),
                federation="through-globus",
            )
            for site in place.sites:
                data = data_of(site)
                assert data.test is not None
                write_arrays(place.home(site) / "data", data.train, data.test)
            place.settle(founded)
            yield Scene(place, founded)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_run_through_globus_and_s3(scene: Scene) -> None:
    place = scene.place
    result = scene.run(run_config("first", rounds=1, round_seconds=300))
    assert (result.outcome, result.versions, result.witnessed) == ("completed", 1, True), scene.logs
    assert set(result.final or {}) == set(place.sites), "the final model did not reach every site"
    scene.require_once("first", 1, 4)
    scene.require_good_log()
    sources = {one.decision.source for one in scene.events("first") if isinstance(one, UpdateAdmit)}
    assert sources and all(place.group in source for source in sources)
    # The sites' work was done by the endpoint's account, in processes of the site's own installation.
    for site, daemon in place.daemons.items():
        state = place.home(site) / "state"
        assert state.stat().st_uid == daemon.user
        assert (place.home(site) / "keys").stat().st_mode & 0o777 == 0o700


def test_no_secret_and_no_grant_lies_in_any_log(scene: Scene) -> None:
    place = scene.place
    looked = 0
    for path in place.folder.rglob("*"):
        inside = path.relative_to(place.folder).parts
        if not path.is_file() or inside[0] == "s3" or path.name in {"globus-secret", "server.secret", "storage.db"}:
            continue
        data, looked = path.read_bytes(), looked + 1
        for party, secret in place.secrets.items():
            assert secret.encode() not in data, f"the secret of {party} lies in {path}"
        # Whoever is sent a task sees its grants; they must not lie about afterwards.
        assert b"X-Amz-Signature" not in data, f"a grant lies in {path}"
    assert looked > 50


def test_what_the_server_s_account_could_send_is_refused_by_the_site(scene: Scene) -> None:
    """Whoever steals the server's account at Globus reaches a site's runtime, and no further: it signs no ticket."""
    place, site = scene.place, scene.place.sites[0]
    before = _states(scene)
    first = scene.events("first")[0]
    forged = [
        b"",
        b"{}",
        b"not JSON",
        json.dumps({"ticket": "x" * 1000}).encode(),
        json.dumps({"ticket": first.model_dump_json(), "checkpoint": "", "grants": {}}).encode(),
    ]
    service = ComputeService(_own_way(place, place.server, place.folder / "server.secret"))
    try:
        texts = [base64.b64encode(one).decode() for one in forged]
        _, tasks = service.submit(place.daemons[site].uuid, place.function, None, texts)
        found = _await(service, tasks)
        for task, sent in zip(tasks, forged, strict=True):
            outcome = found[task]
            assert outcome.answer is not None, (sent, outcome)
            answer = Answer.from_json(parse(outcome.answer, limit=1 << 20))
            assert answer.receipt is None and answer.fault is not None, sent
    finally:
        service.close()
    assert _states(scene) == before, "a forged delivery left something in the site's state"


def test_another_account_reaches_no_site(scene: Scene, tmp_path: Path) -> None:
    """A member's own account, stolen or greedy, brings its own function to another site's endpoint."""
    place = scene.place
    thief, victim = place.sites[0], place.sites[1]
    before = _states(scene)
    stolen = tmp_path / "stolen"
    stolen.touch(0o600)
    stolen.write_text(place.secrets[thief])
    service = ComputeService(_own_way(place, thief, stolen))
    try:
        with pytest.raises(GlobusRefusedError):
            service.submit(place.daemons[victim].uuid, service.register(), None, ["e30="])
    finally:
        service.close()
    assert _states(scene) == before


def test_everything_breaks_and_nothing_is_lost(scene: Scene) -> None:
    """An endpoint killed in mid-task, the broker bounced, a member removed: three rounds, three commits."""
    place, events = scene.place, list[str]()
    killed, removed = place.sites[1], place.sites[3]

    def observe(event: Progress) -> None:
        if not isinstance(event, RoundStarted):
            return
        if event.version == 0:
            events.append(f"killed {place.daemons[killed].kill_user_endpoint(signal.SIGKILL)}")
            place.daemons[killed].forgive()
        elif event.version == 1:
            place.standin.stop_broker()
            place.standin.start_broker()
            events.append("bounced")
        elif event.version == 2:
            place.standin.control.member(place.group, removed, status="removed")
            events.append("removed")

    try:
        result = scene.run(run_config("broken", rounds=3, round_seconds=400), observe)
    finally:
        place.standin.control.member(place.group, removed, status="active")
    assert events == ["killed 1", "bounced", "removed"]
    assert (result.outcome, result.versions) == ("completed", 3), (result.reason, scene.logs)
    scene.require_once("broken", 3, 3)
    scene.require_good_log()
    commits = [one for one in scene.events("broken") if isinstance(one, AggregateCommit)]
    assert [len(one.inputs) for one in commits[:2]] == [4, 4], "a fault of the way cost a site its round"
    assert removed not in {given.site for given in commits[2].inputs}
    denied = [one for one in scene.events("broken") if isinstance(one, AccessDenied)]
    excluded = [one for one in commits[2].excluded if one.site == removed]
    assert excluded and (denied or excluded[0].reason in {"removed", "not_authorized"})


def test_a_killed_server_goes_on_with_the_tasks_that_are_out(scene: Scene) -> None:
    """SIGKILL while the sites train; the same command goes on, and no site computed anything twice."""
    place = scene.place
    path = scene.founded.server_config.with_name("killed.yaml")
    document = yaml.safe_load(scene.founded.server_config.read_text())
    document["run"] = run_config("killed", rounds=2, round_seconds=300).model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "counterseal.runtime.cli", "server"]
    started = subprocess.Popen(
        [*command, "run", "--config", str(path), "--quiet", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        _wait(lambda: any(one.type == "round.open" for one in scene.events("killed")), started)
        _wait(lambda: len(_unfinished(place)) > 0, started)
    finally:
        started.kill()
        started.communicate()
    done = subprocess.run(
        [*command, "resume", "--config", str(path), "--quiet", "--json"],
        capture_output=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert json.loads(done.stdout)["versions"] == 2
    scene.require_once("killed", 2, 4)
    scene.require_good_log()


def _own_way(place: GlobusPlace, party: str, secret: Path) -> GlobusConfig:
    return place.globus[party].model_copy(update={"client_secret": PassphraseConfig(file=secret)})


def _unfinished(place: GlobusPlace) -> list[str]:
    tasks = place.standin.control.tasks()
    return [task for task, about in tasks.items() if about["status"] not in {"success", "failed"}]


def _wait(done: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.2)


def _await(service: ComputeService, tasks: list[str], seconds: float = 120.0) -> dict[str, Outcome]:
    end, found = time.monotonic() + seconds, dict[str, Outcome]()
    while len(found) < len(tasks):
        assert time.monotonic() < end, "no answer came"
        for task, outcome in service.results([one for one in tasks if one not in found]):
            if outcome is not None and outcome.state != "pending":
                found[task] = outcome
        time.sleep(0.5)
    return found


def _states(scene: Scene) -> dict[str, int]:
    """How many facts each site's journal holds."""
    import sqlite3

    counts = {}
    for site in scene.place.sites:
        path = scene.place.home(site) / "state" / "site.sqlite"
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as table:
            counts[site] = table.execute("SELECT count(*) FROM facts").fetchone()[0]
    return counts
