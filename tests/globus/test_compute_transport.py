"""The transport with everything real: child process, SDK, web requests, endpoint daemon, registered function, launcher.

Only Globus' web services are stood in for, and the site behind the launcher: a script that answers as it is told, so that faults
come when a test wants them. A whole site behind a real launcher is in test_federation.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from counterseal.runtime.cli.application import app
from counterseal.runtime.config import PassphraseConfig
from counterseal.runtime.config.globus import ComputeTransportConfig, GlobusConfig
from counterseal.runtime.delivery import Answer
from counterseal.runtime.errors import GlobusRefusedError, LoginNeededError
from counterseal.runtime.transports.compute.service import ComputeService
from counterseal.runtime.transports.compute.transport import ComputeTransport, open_compute_transport
from counterseal.runtime.transports.seam import Arrival
from counterseal.trust.canonical import parse

from ..runtime.compute_world import make_delivery
from ..standin.daemon import endpoint_python
from ..standin.endpoint_files import THREADS, write_endpoint
from ..standin.world import EndpointDaemon, StandIn

pytestmark = pytest.mark.processes

A = "site-a@fed.example"
NOWHERE = "00000000-0000-4000-8000-000000000000"

_SITE = """#!{python}
import base64, hashlib, json, os, sys, time
folder = {folder!r}
delivery = json.loads(sys.stdin.buffer.read())
ticket = hashlib.sha256(base64.b64decode(json.loads(delivery["ticket"])["payload"])).hexdigest()
with open(folder + "/ran", "a") as file:
    file.write(ticket + "\\n")
mode = ""
if os.path.exists(folder + "/mode"):
    mode = open(folder + "/mode").read()
    os.unlink(folder + "/mode")
if mode == "die":
    sys.exit("PATIENT-42 is the reason")
if mode == "work":
    time.sleep(3)
answer = {{"ticket": ticket}}
if mode == "busy":
    answer["fault"] = {{"code": "busy"}}
else:
    answer["receipt"] = "receipt of " + ticket
if mode == "long":
    answer["receipt"] = "x" * 5_900_000
print(json.dumps(answer))
"""


@dataclass
class Place:
    """One endpoint, whose launcher is a script, and the server's credentials."""

    standin: StandIn
    daemon: EndpointDaemon
    globus: GlobusConfig
    function: str
    unlisted: str
    folder: Path

    def settings(self, **changes: Any) -> ComputeTransportConfig:
        values = {"function": self.function, "endpoints": {A: self.daemon.uuid}, "poll_seconds": 0.2}
        return ComputeTransportConfig(kind="globus-compute", **{**values, "resend_seconds": 60.0, **changes})

    def mode(self, word: str) -> None:
        draft = self.folder / "mode.draft"
        draft.write_text(word)
        draft.chmod(0o666)
        draft.rename(self.folder / "mode")

    def ran(self, ticket: str) -> int:
        path = self.folder / "ran"
        return Counter(path.read_text().split())[ticket] if path.exists() else 0


@pytest.fixture(scope="module")
def place(standin: StandIn) -> Iterator[Place]:
    server = standin.control.client("server")
    top = standin.folder.with_name("compute")
    folder = top / "site"
    folder.mkdir(parents=True)
    secret = top / "secret"
    secret.touch(0o600)
    secret.write_text(server[1])
    globus = GlobusConfig(
        client_id=server[0], client_secret=PassphraseConfig(file=secret), insecure_test_cloud=standin.url
    )
    service = ComputeService(globus)
    function, unlisted = service.register(), service.register()
    service.close()
    launcher = folder / "deliver"
    launcher.write_text(_SITE.format(python=endpoint_python(), folder=str(folder)))
    launcher.chmod(0o755)
    serializers = ["globus_compute_sdk.serialize.JSONData", "globus_compute_sdk.serialize.PureSourceTextInspect"]
    write_endpoint(
        folder,
        "site",
        engine={**THREADS, "allowed_serializers": serializers},
        allowed=[function],
        environment={"COUNTERSEAL_SITE": str(launcher)},
    )
    with EndpointDaemon(standin, folder, "site", server) as daemon:
        folder.chmod(0o777)
        yield Place(standin, daemon, globus, function, unlisted, folder)


@pytest.fixture(autouse=True)
def _as_before(place: Place) -> Iterator[None]:
    yield
    place.standin.control.clear_meddling()
    place.standin.control.clear_faults()
    (place.folder / "mode").unlink(missing_ok=True)


@pytest.fixture
def opened(place: Place, tmp_path: Path) -> Iterator[Callable[..., ComputeTransport]]:
    made: list[ComputeTransport] = []

    def open_one(**changes: Any) -> ComputeTransport:
        settings = place.settings(**changes)
        made.append(open_compute_transport(settings, place.globus, tmp_path / "state", clock=clock))
        return made[-1]

    yield open_one
    for one in made:
        one.close()


_numbers = iter(range(1, 1_000))


def clock() -> int:
    return int(time.time())


def fresh(**changes: Any) -> tuple[str, bytes]:
    return make_delivery(A, next(_numbers), **{"not_after": clock() + 600, **changes})


def wait(transport: ComputeTransport, seconds: float = 60.0) -> list[Arrival]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := transport.poll(1.0):
            return found
    return []


def bring(transport: ComputeTransport, ticket: str, delivery: bytes, seconds: float = 60.0) -> Arrival:
    transport.dispatch(A, ticket, delivery)
    found = wait(transport, seconds)
    assert [(one.site, one.ticket) for one in found] == [(A, ticket)], transport.status()
    return found[0]


def receipt(arrival: Arrival) -> str | None:
    assert arrival.answer is not None, arrival.failure
    return Answer.from_json(parse(arrival.answer, limit=1 << 23)).receipt


def test_a_delivery_crosses_and_its_answer_comes_back(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    transport = opened()
    for _ in range(3):
        ticket, delivery = fresh()
        assert receipt(bring(transport, ticket, delivery)) == f"receipt of {ticket}"
        assert place.ran(ticket) == 1
    seen = [path for _, path, _ in place.standin.control.requests]
    assert not any("amqp" in path for path in seen)
    groups = {task["group"] for task in place.standin.control.tasks(place.daemon.uuid).values()}
    assert len(groups) == 1


def test_as_much_as_a_delivery_may_hold_crosses(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    transport = opened()
    ticket, delivery = fresh()
    filled = parse(delivery, limit=len(delivery))
    filled["objects"] = ['"' * 2_900_000]
    delivery = json.dumps(filled, separators=(",", ":")).encode()
    assert 5_800_000 < len(delivery) < 6_000_000
    place.mode("long")
    assert receipt(bring(transport, ticket, delivery)) == "x" * 5_900_000


def test_a_hostile_result_is_not_run(place: Place, opened: Callable[..., ComputeTransport], tmp_path: Path) -> None:
    transport, mark = opened(), tmp_path / "mark"
    control = place.standin.control
    control.meddle("hostile", endpoint=place.daemon.uuid, text=f"touch {mark}")
    first = fresh()
    assert bring(transport, *first).failure == "result_malformed"
    control.meddle("replace", endpoint=place.daemon.uuid, text=f"st\nx:open({str(mark)!r}, 'w').close()\nx = 1\n")
    assert bring(transport, *fresh()).failure == "result_malformed"
    assert receipt(bring(transport, *first)) is not None
    assert not mark.exists()


def test_a_lost_task_is_sent_again(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    transport = opened(resend_seconds=10.0)
    place.standin.control.meddle("lose", endpoint=place.daemon.uuid)
    ticket, delivery = fresh()
    assert receipt(bring(transport, ticket, delivery)) == f"receipt of {ticket}"
    assert place.ran(ticket) == 1
    assert transport.counts["submissions"] == 2


def test_repeated_tasks_and_results_arrive_once(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    transport, control = opened(), place.standin.control
    control.meddle("redeliver", endpoint=place.daemon.uuid)
    control.meddle("repeat", endpoint=place.daemon.uuid)
    ticket, delivery = fresh()
    assert receipt(bring(transport, ticket, delivery)) is not None
    assert wait(transport, 3.0) == []
    assert place.ran(ticket) == 2


def test_what_dies_at_the_site_is_one_word(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    transport = opened()
    place.mode("die")
    ticket, delivery = fresh()
    found = bring(transport, ticket, delivery)
    assert (found.answer, found.failure) == (None, "site_died")
    assert receipt(bring(transport, ticket, delivery)) is not None
    launcher = place.folder / "deliver"
    launcher.rename(place.folder / "elsewhere")
    try:
        assert bring(transport, *fresh()).failure == "site_not_configured"
    finally:
        (place.folder / "elsewhere").rename(launcher)


def test_busy_is_swallowed(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    transport = opened()
    place.mode("busy")
    ticket, delivery = fresh()
    assert receipt(bring(transport, ticket, delivery)) == f"receipt of {ticket}"
    assert place.ran(ticket) == 2


@pytest.mark.parametrize(
    ("status", "retry_after"), [(429, 2), (503, None), (500, None)], ids=["limited", "unavailable", "broken"]
)
def test_what_passes_is_waited_out(
    place: Place, opened: Callable[..., ComputeTransport], status: int, retry_after: int | None
) -> None:
    transport = opened()
    place.standin.control.fault("compute", "/v3/endpoints/*/submit", status=status, retry_after=retry_after, times=2)
    place.standin.control.fault("compute", "/v2/batch_status", status=status, retry_after=retry_after, times=1)
    ticket, delivery = fresh()
    assert receipt(bring(transport, ticket, delivery)) is not None
    assert place.ran(ticket) == 1


def test_a_child_keeps_to_the_limit_on_its_rate(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    control = place.standin.control
    control.rate_limit("compute", 20, 10.0)
    before, began = len(control.requests), time.monotonic()
    transport = opened()
    count = 0
    while time.monotonic() - began < 16:
        place.mode("work")
        bring(transport, *fresh())
        count += 1
    seen = [(path, status) for _, path, status in control.requests[before:] if path.startswith(("/v2/", "/v3/"))]
    assert len(seen) > 20 and count > 2, "the limit was never near"
    assert not [path for path, status in seen if status == 429]


def test_a_submission_whose_reply_got_lost_is_found_and_not_repeated(
    place: Place, opened: Callable[..., ComputeTransport]
) -> None:
    transport = opened()
    bring(transport, *fresh())
    place.standin.control.fault("compute", "/v3/endpoints/*/submit", drop=True)
    ticket, delivery = fresh()
    assert receipt(bring(transport, ticket, delivery)) is not None
    assert (place.ran(ticket), transport.counts["submissions"]) == (1, 2)


def test_tasks_in_the_group_that_nobody_submitted_disturb_nobody(
    place: Place, opened: Callable[..., ComputeTransport]
) -> None:
    transport = opened(resend_seconds=4.0)
    bring(transport, *fresh())
    place.standin.control.meddle("extra", count=3)
    place.standin.control.fault("compute", "/v3/endpoints/*/submit", status=503)
    ticket, delivery = fresh()
    assert receipt(bring(transport, ticket, delivery)) is not None
    assert place.ran(ticket) == 1


def test_a_result_that_was_purged_is_fetched_by_asking_the_site_again(
    place: Place, opened: Callable[..., ComputeTransport], tmp_path: Path
) -> None:
    place.standin.control.meddle("forget", endpoint=place.daemon.uuid)
    first = opened()
    ticket, delivery = fresh()
    place.mode("work")
    first.dispatch(A, ticket, delivery)
    while not first.recover({ticket: A}):
        first.poll(0.2)
    ((task, _),) = next(one.tasks for one in first._desk.parcels).items()
    first.close()
    service = ComputeService(place.globus)
    end = time.monotonic() + 30
    while time.monotonic() < end and not [one for _, one in service.results([task]) if one and one.state == "done"]:
        time.sleep(0.2)  # somebody else fetches it, and Compute forgets it
    service.close()
    second = opened()
    assert receipt(bring(second, ticket, delivery)) is not None
    assert place.ran(ticket) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"endpoints": {A: NOWHERE}}, "endpoint_unknown"), ({"function": None}, "endpoint_refused")],
)
def test_what_compute_refuses_comes_back_at_once(
    place: Place, opened: Callable[..., ComputeTransport], changes: dict[str, Any], code: str
) -> None:
    settings = {name: place.unlisted if value is None else value for name, value in changes.items()}
    assert bring(opened(**settings), *fresh(), seconds=10.0).failure == code


def test_a_delivery_that_compute_finds_too_large_comes_back(
    place: Place, opened: Callable[..., ComputeTransport]
) -> None:
    place.standin.control.fault("compute", "/v3/endpoints/*/submit", status=413)
    assert bring(opened(), *fresh(), seconds=10.0).failure == "delivery_too_large"


def test_a_server_without_function_or_login_does_not_start(place: Place, tmp_path: Path) -> None:
    with pytest.raises(GlobusRefusedError, match="no such function"):
        open_compute_transport(place.settings(function=NOWHERE), place.globus, tmp_path / "a", clock=clock)
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("not the secret")
    stranger = place.globus.model_copy(update={"client_secret": PassphraseConfig(file=wrong)})
    with pytest.raises(LoginNeededError):
        open_compute_transport(place.settings(), stranger, tmp_path / "b", clock=clock)


def test_an_outage_at_the_start_is_waited_out(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    place.standin.control.fault("compute", "/v2/functions", status=503)
    assert receipt(bring(opened(), *fresh())) is not None


def test_a_killed_child_loses_nothing(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    transport = opened()
    link: Any = transport._desk.link
    place.mode("work")
    ticket, delivery = fresh()
    transport.dispatch(A, ticket, delivery)
    end = time.monotonic() + 20
    while not place.ran(ticket) and time.monotonic() < end:
        transport.poll(0.2)
    os.kill(link.pid, signal.SIGKILL)
    assert [one.ticket for one in wait(transport)] == [ticket]
    assert place.ran(ticket) == 1


_PARENT = """
import json, os, signal, sys, time
from pathlib import Path
from counterseal.runtime.config.globus import ComputeTransportConfig, GlobusConfig
from counterseal.runtime.transports.compute.transport import open_compute_transport
from counterseal.trust.canonical import parse

given = json.loads(sys.stdin.read())
writes = -1

def probe(step):
    global writes
    if writes >= 0 and step == "journal.write":
        writes += 1
        if writes == given["write"]:
            os.kill(os.getpid(), signal.SIGKILL)

settings = ComputeTransportConfig.model_validate_json(json.dumps(given["settings"]))
globus = GlobusConfig.model_validate_json(json.dumps(given["globus"]))
transport = open_compute_transport(settings, globus, Path(given["state"]), clock=lambda: int(time.time()), probe=probe)
for number, (site, ticket, delivery) in enumerate(given["deliveries"]):
    writes = 0 if number else -1
    transport.dispatch(site, ticket, delivery.encode())
    while not transport.poll(1.0):
        pass
print("alive")
"""


@pytest.mark.parametrize(
    "write", [2, 3, 4], ids=["before the intent", "between submit and journal", "after the result"]
)
def test_a_killed_server_finds_what_it_had_sent(
    place: Place, opened: Callable[..., ComputeTransport], tmp_path: Path, write: int
) -> None:
    (first, one), (second, two) = fresh(), fresh()
    given = {
        "settings": place.settings().model_dump(mode="json"),
        "globus": place.globus.model_dump(mode="json"),
        "state": str(tmp_path / "state"),
        "deliveries": [(A, first, one.decode()), (A, second, two.decode())],
        "write": write,
    }
    done = subprocess.run(
        [sys.executable, "-c", _PARENT],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr
    transport = opened()
    assert transport.recover({second: A}) == (set() if write == 2 else {second})
    assert receipt(bring(transport, second, two)) == f"receipt of {second}"
    assert place.ran(second) == 1
    assert wait(transport, 2.0) == []


def test_a_killed_user_endpoint_costs_a_pause(place: Place, opened: Callable[..., ComputeTransport]) -> None:
    """Its task is lost and never reported, and the next start is refused until the dead one's heartbeats are forgotten."""
    transport = opened(resend_seconds=4.0)
    bring(transport, *fresh())
    place.mode("work")
    ticket, delivery = fresh()
    transport.dispatch(A, ticket, delivery)
    end = time.monotonic() + 20
    while not place.ran(ticket) and time.monotonic() < end:
        transport.poll(0.2)
    time.sleep(0.7)  # by then its message is acknowledged
    assert place.daemon.kill_user_endpoint(signal.SIGKILL) == 1
    (found,) = wait(transport, 120)
    assert receipt(found) == f"receipt of {ticket}"
    assert place.ran(ticket) >= 2


def test_the_command_registers_and_checks(place: Place, tmp_path: Path) -> None:
    secret = place.globus.client_secret
    assert secret is not None
    block = {"client_id": place.globus.client_id, "client_secret": {"file": str(secret.file)}}
    path = tmp_path / "globus.yaml"
    path.write_text(yaml.safe_dump({"globus": {**block, "insecure_test_cloud": place.standin.url}}))
    run = CliRunner().invoke
    made = run(app, ["server", "function", "--config", str(path), "--register"])
    assert made.exit_code == 0, made.output
    service = ComputeService(place.globus)
    assert service.is_ours(made.stdout.strip())
    assert service.allowed(place.daemon.uuid) == frozenset({place.function})
    assert service.online(place.daemon.uuid)
    service.close()
    assert run(app, ["server", "function", "--config", str(path)]).exit_code == 2
    shown = run(app, ["server", "function", "--config", str(path), "--source"])
    assert shown.stdout.startswith("def deliver(")
