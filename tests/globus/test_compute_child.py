"""The child without Globus: what it answers to each request, its pace, and what it gets of the server's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from counterseal.errors import CountersealError
from counterseal.runtime.assembly import site_command
from counterseal.runtime.cli.doctor_worker import WorkerChecks
from counterseal.runtime.config import PassphraseConfig
from counterseal.runtime.config.globus import GlobusConfig
from counterseal.runtime.errors import (
    GlobusFault,
    GlobusRefusedError,
    GlobusUnavailableError,
    LoginNeededError,
)
from counterseal.runtime.transports.compute.child import answer
from counterseal.runtime.transports.compute.link import ChildLink, child_environment
from counterseal.runtime.transports.compute.results import Outcome
from counterseal.runtime.transports.compute.service import Pace

FUNCTION = "00000000-0000-4000-8000-00000000f00d"
CLIENT = "00000000-0000-4000-8000-000000000001"


class FakeService:
    """Answers, or raises what the test put there."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors

    def _do(self, what: str) -> None:
        if what in self.errors:
            raise self.errors[what]

    def submit(self, endpoint: str, function: str, group: str | None, deliveries: list[str]) -> tuple[str, list[str]]:
        self._do("submit")
        return group or "new", [f"task {n}" for n in range(len(deliveries))]

    def results(self, tasks: list[str]) -> Iterator[tuple[str, Outcome | None]]:
        self._do("results")
        found = {"a": Outcome("done", answer=b"\x00"), "b": Outcome("failed", failure="worker_lost"), "c": None}
        for task in tasks:
            yield task, found.get(task, Outcome("pending"))

    def tasks(self, group: str) -> list[str]:
        self._do("tasks")
        return ["a", "b"]

    def online(self, endpoint: str) -> bool:
        self._do("online")
        return True

    def is_ours(self, function: str) -> bool:
        self._do("function")
        return True


def ask(service: FakeService, do: str, **request: Any) -> list[dict[str, Any]]:
    return list(answer(service, FUNCTION, {"id": 1, "do": do, **request}))


SUBMISSION: dict[str, Any] = {"endpoint": "e", "group": "g", "deliveries": ["YQ==", "Yg=="]}


def test_each_request_has_its_answer() -> None:
    service = FakeService()
    assert ask(service, "submit", **SUBMISSION) == [{"end": "submitted", "group": "g", "tasks": ["task 0", "task 1"]}]
    assert ask(service, "results", tasks=["a", "b", "c", "d"]) == [
        {"task": "a", "state": "done", "answer": "AA==", "failure": None},
        {"task": "b", "state": "failed", "answer": None, "failure": "worker_lost"},
        {"end": "asked", "gone": ["c"]},
    ]
    assert ask(service, "tasks", group="g") == [{"end": "tasks", "tasks": ["a", "b"]}]
    assert ask(service, "online", endpoint="e") == [{"end": "online", "online": True}]
    assert ask(service, "function") == [{"end": "function", "ours": True}]


MISSING = GlobusRefusedError("no such thing", status=404)


@pytest.mark.parametrize(
    ("errors", "code", "maybe", "retry_after"),
    [
        ({"submit": GlobusRefusedError("no", status=403)}, "endpoint_refused", False, None),
        ({"submit": GlobusRefusedError("no", status=413)}, "delivery_too_large", False, None),
        ({"submit": GlobusRefusedError("no", status=422)}, "globus_refused", False, None),
        ({"submit": MISSING}, "endpoint_unknown", False, None),
        ({"submit": MISSING, "tasks": MISSING}, "group_unknown", False, None),
        ({"submit": MISSING, "function": MISSING}, "function_unknown", False, None),
        ({"submit": MISSING, "tasks": GlobusUnavailableError("down")}, "endpoint_unknown", False, None),
        ({"submit": GlobusUnavailableError("slow down", retry_after=7.0)}, "globus_unavailable", False, 7.0),
        ({"submit": GlobusUnavailableError("no answer")}, "globus_unavailable", True, None),
        ({"submit": LoginNeededError("secret changed")}, "login_needed", False, None),
        ({"submit": RuntimeError("PATIENT-42")}, "globus_unavailable", True, None),
    ],
)
def test_a_refusal_is_one_code(errors: dict[str, Exception], code: str, maybe: bool, retry_after: float | None) -> None:
    found = ask(FakeService(**errors), "submit", **SUBMISSION)
    assert found == [{"end": "refused", "code": code, "maybe": maybe, "retry_after": retry_after}]


def test_a_request_that_nobody_knows_kills_nothing() -> None:
    assert ask(FakeService(), "dance")[0]["end"] == "refused"


def test_the_pace_keeps_to_the_limit_in_any_window() -> None:
    now, passed = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    pace = Pace(20, 10.0, timer=lambda: now, sleep=sleep)
    for _ in range(95):
        pace.wait()
        passed.append(now)
    for start in passed:
        assert sum(start <= one < start + 10.0 for one in passed) <= 20
    assert passed[-1] == pytest.approx(40.0)


def test_what_can_wait_leaves_room_for_what_cannot() -> None:
    now, polls = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    pace = Pace(20, 10.0, timer=lambda: now, sleep=sleep)
    while now < 60:
        pace.wait(urgent=False)
        polls.append(now)
        now += 0.2
        before = now
        if len(polls) % 12 == 0:
            pace.wait()
            assert now - before == 0.0, "a submission stood behind questions"
    gaps = [later - earlier for earlier, later in pairwise(polls)]
    assert max(gaps) <= 1.21 and len(polls) > 60


def test_the_pace_is_one_for_all_threads() -> None:
    pace, begun = Pace(5, 0.4), time.monotonic()
    threads = [threading.Thread(target=pace.wait) for _ in range(15)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert time.monotonic() - begun >= 0.8


def config(**secret: Any) -> GlobusConfig:
    return GlobusConfig(
        client_id=CLIENT, client_secret=PassphraseConfig(**secret), insecure_test_cloud="http://127.0.0.1:19"
    )


def test_the_child_gets_no_passphrase_of_the_servers() -> None:
    environ = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy",
        "COUNTERSEAL_KEYS": "passphrase of the keys",
        "AWS_SECRET_ACCESS_KEY": "of the store",
        "THE_GLOBUS_SECRET": "its own",
        "GLOBUS_SDK_ENVIRONMENT": "seen, and refused",
    }
    found = child_environment(config(environment="THE_GLOBUS_SECRET"), environ)
    assert set(found) == {"PATH", "HTTPS_PROXY", "THE_GLOBUS_SECRET", "GLOBUS_SDK_ENVIRONMENT"}
    assert "THE_GLOBUS_SECRET" not in child_environment(config(file=Path("/secret")), environ)
    assert child_environment(config(command=("cat", "/secret")), environ) == environ


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text("not a real one")
    return path


@pytest.mark.processes
def test_no_program_of_ours_takes_code_from_the_folder_where_it_is_started(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's `-m` looks there first: in /tmp, or in a folder that others send files to, that is their code."""
    here = tmp_path / "here"
    here.mkdir()
    for name in ("globus_sdk", "typer", "pydantic"):
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()")
    monkeypatch.chdir(here)
    link = ChildLink(config(file=secret), FUNCTION, tmp_path / "state")
    with suppress(CountersealError):
        link.open()
    link.close()
    subprocess.run(site_command(tmp_path / "none.yaml"), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    checks = WorkerChecks(cast(Any, None), tmp_path / "none.yaml", lambda: None, ("env",))
    subprocess.run(checks._command(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert not (tmp_path / "canary").exists()


@pytest.mark.processes
def test_a_child_that_cannot_open_its_credentials_says_why(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret.unlink()
    link = ChildLink(config(file=secret), FUNCTION, tmp_path / "state")
    with pytest.raises(GlobusFault, match="secret"):
        link.open()
    assert link.pid is None
    monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "sandbox")
    secret.touch(0o600)
    secret.write_text("x")
    with pytest.raises(GlobusFault, match="leads away from Globus") as raised:
        ChildLink(config(file=secret), FUNCTION, tmp_path / "state").open()
    assert raised.value.code == "test_cloud"


@pytest.mark.processes
def test_a_child_that_dies_comes_back_and_holds_nobody_up(tmp_path: Path, secret: Path) -> None:
    link = ChildLink(config(file=secret), FUNCTION, tmp_path / "state")
    link.open()
    first = link.pid
    assert first is not None
    command = Path(f"/proc/{first}/cmdline").read_bytes()
    assert b"not a real one" not in command and b"secret" not in command
    os.kill(first, 9)
    events: list[dict[str, Any]] = []
    end = time.monotonic() + 10
    while not events and time.monotonic() < end:
        events = link.receive(1.0)
    assert events == [{"end": "lost"}]
    assert not link.send({"id": 1, "do": "function"})  # its pause
    answers: list[dict[str, Any]] = []
    end = time.monotonic() + 60
    while time.monotonic() < end and not any(one.get("id") == 1 for one in answers):
        if link.pid is None:
            link.send({"id": 1, "do": "function"})
        answers += link.receive(0.2)
    assert link.pid not in (None, first)
    refused = next(one for one in answers if one.get("id") == 1)
    assert (refused["end"], refused["code"], refused["maybe"]) == ("refused", "globus_unavailable", True)
    link.close()
    assert link.pid is None


@pytest.mark.processes
@pytest.mark.parametrize("rubbish", ["x" * 100, "99999999\n", "3\n{{{", "05\nabcde"])
def test_rubbish_on_the_pipe_is_a_lost_child(tmp_path: Path, secret: Path, rubbish: str) -> None:
    command = (sys.executable, "-c", f"import sys; sys.stdout.write({rubbish!r}); sys.stdout.flush(); sys.stdin.read()")
    link = ChildLink(config(file=secret), FUNCTION, tmp_path / "state", command=command)
    with pytest.raises(GlobusFault):
        link.open()


def test_no_key_of_the_federation_is_named_to_the_child(tmp_path: Path, secret: Path) -> None:
    link = ChildLink(config(file=secret), FUNCTION, tmp_path / "state")
    opening = json.dumps(link._opening)
    assert "not a real one" not in opening
    assert set(link._opening) == {"globus", "function"}


@pytest.mark.processes
def test_the_server_loads_none_of_it() -> None:
    program = (
        "import sys\n"
        "import counterseal.runtime.transports.compute.transport\n"
        "import counterseal.runtime.assembly\n"
        "import counterseal.runtime.cli.server, counterseal.runtime.cli.site\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'globus_sdk', 'globus_compute_sdk', 'dill'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
