"""`counterseal site answer`: one JSON answer and exit status 0, whatever happens; why is told at the site and nowhere else."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterseal.runtime.api import run_federation
from counterseal.runtime.config import load_server, load_site
from counterseal.runtime.delivery import DELIVERY_LIMIT, Answer
from counterseal.runtime.errors import ConfigError, JournalError
from counterseal.runtime.journal import Journal
from counterseal.runtime.site.answering import answer_once
from counterseal.runtime.transports.seam import Arrival
from counterseal.trust.canonical import parse
from counterseal.trust.errors import CustodyError

from . import cli_world
from .cli_world import SITES, World, execute, require_clean
from .compute_world import make_delivery

TICKET, DELIVERY = make_delivery(SITES[0])


class Handler:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def handle(self, delivery: bytes) -> bytes:
        if self.error is not None:
            raise self.error
        return b'{"ticket":null}'


def fails(error: BaseException) -> Callable[[], Any]:
    def open_site() -> Any:
        raise error

    return open_site


def test_an_answer_is_passed_on() -> None:
    assert answer_once(lambda: contextlib.nullcontext(Handler()), DELIVERY) == b'{"ticket":null}'


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JournalError("PATIENT-42 is at work"), "busy"),
        (ConfigError("PATIENT-42 is no path"), "site_unavailable"),
        (CustodyError("PATIENT-42 is no passphrase"), "site_unavailable"),
        (ValueError("PATIENT-42"), "site_unavailable"),
        (SystemExit("PATIENT-42"), "site_unavailable"),
    ],
)
def test_a_site_that_cannot_be_opened_is_one_code(error: BaseException, code: str) -> None:
    told = answer_once(fails(error), DELIVERY)
    found = Answer.from_json(parse(told))
    assert found.fault is not None and (found.ticket, found.fault.code) == (TICKET, code)
    assert b"PATIENT" not in told


@pytest.mark.parametrize("delivery", [b"", b"{}", b"\xff", b"[" * 1000, bytes(DELIVERY_LIMIT + 1)])
def test_what_is_no_delivery_names_no_ticket(delivery: bytes) -> None:
    found = Answer.from_json(parse(answer_once(fails(JournalError("busy")), delivery)))
    assert found.fault is not None and (found.ticket, found.fault.code) == (None, "busy")


def test_what_fails_in_a_site_is_one_code() -> None:
    told = answer_once(lambda: contextlib.nullcontext(Handler(SystemExit("PATIENT-42"))), DELIVERY)
    assert b"site_unavailable" in told and b"PATIENT" not in told


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path, rounds=1)


def answer(world: World, site: str, delivery: bytes, *options: object) -> tuple[Answer, str]:
    done = execute(
        "site", "answer", "--config", world.site(SITES.index(site)), *options, stdin=None, input=delivery.decode()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return Answer.from_json(parse(done.stdout.strip().encode(), limit=DELIVERY_LIMIT)), done.stderr


def log_of(site: str, world: World) -> str:
    return (load_site(world.site(SITES.index(site))).state / "answers.log").read_text()


@pytest.mark.processes
def test_a_whole_run_by_one_process_for_each_delivery(world: World) -> None:
    class Launchers:
        """What endpoints and launchers do, without endpoints and launchers."""

        def __init__(self) -> None:
            self.arrived: list[Arrival] = []

        def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
            found, told = answer(world, site, delivery)
            assert found.fault is None and found.ticket == ticket and told == ""
            self.arrived.append(Arrival(site, ticket, json.dumps(found.model_dump(mode="json")).encode()))

        def poll(self, timeout: float) -> list[Arrival]:
            found, self.arrived = self.arrived, []
            return found

        def recover(self, tickets: dict[str, str]) -> set[str]:
            return set()

        def close(self) -> None:
            pass

    settings = load_server(world.server)
    result = run_federation(settings, transport=Launchers())
    assert (result.outcome, result.versions, result.witnessed) == ("completed", 1, True)
    assert set(result.final or {}) == set(SITES)
    for path in world.founded.site_configs.values():
        assert "a plug-in that prints" in (load_site(path).state / "answers.log").read_text()


@pytest.mark.processes
def test_whoever_starts_the_program_learns_nothing_of_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --run-as the account that a server's code runs as starts this program, and reads its standard error."""
    failing = 'print("PATIENT-41"); raise ValueError("PATIENT-42")'
    monkeypatch.setattr(cli_world, "LOADER", cli_world.LOADER.replace('print("a plug-in that prints")', failing))
    world = World.make(tmp_path, rounds=1)
    told: list[str] = []

    class Launchers:
        def __init__(self) -> None:
            self.arrived: list[Arrival] = []

        def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
            found, said = answer(world, site, delivery)
            told.append(said)
            self.arrived.append(Arrival(site, ticket, json.dumps(found.model_dump(mode="json")).encode()))

        def poll(self, timeout: float) -> list[Arrival]:
            found, self.arrived = self.arrived, []
            return found

        def recover(self, tickets: dict[str, str]) -> set[str]:
            return set()

        def close(self) -> None:
            pass

    run_federation(load_server(world.server), transport=Launchers())
    assert told and set(told) == {""}
    log = (load_site(world.site()).state / "answers.log").read_text()
    assert "PATIENT-41" in log and "ValueError" in log


@pytest.mark.processes
def test_a_held_state_is_busy_after_the_patience(world: World) -> None:
    site = SITES[0]
    held = Journal(load_site(world.site(SITES.index(site))).state / "site.sqlite")
    try:
        found, told = answer(world, site, DELIVERY, "--patience", "0.2")
    finally:
        held.close()
    assert found.fault is not None and (found.ticket, found.fault.code) == (TICKET, "busy")
    assert told == "" and "another process" in log_of(site, world)


@pytest.mark.processes
def test_why_a_site_cannot_answer_stays_at_the_site(world: World) -> None:
    site = SITES[0]
    settings = load_site(world.site(SITES.index(site)))
    assert settings.passphrase.file is not None
    settings.passphrase.file.write_text("another passphrase")
    found, told = answer(world, site, DELIVERY)
    assert found.fault is not None and found.fault.code == "site_unavailable"
    log = settings.state / "answers.log"
    assert log.stat().st_mode & 0o777 == 0o600
    text = log.read_text()
    assert "cannot be opened" in text and "passphrase" in text and "another passphrase" not in text
    assert told == ""


@pytest.mark.processes
def test_a_long_log_begins_anew(world: World) -> None:
    folder = load_site(world.site()).state
    folder.mkdir(mode=0o700, exist_ok=True)
    log = folder / "answers.log"
    log.write_text("x" * (2 << 20))
    answer(world, SITES[0], b"rubbish")
    assert 0 < log.stat().st_size < 10_000 and log.stat().st_mode & 0o777 == 0o600
    assert log.with_name("answers.log.1").stat().st_size == 2 << 20


@pytest.mark.processes
def test_a_log_that_is_a_link_is_not_followed(world: World, tmp_path: Path) -> None:
    folder = load_site(world.site()).state
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "answers.log").symlink_to(tmp_path / "elsewhere")
    found, told = answer(world, SITES[0], b"rubbish")
    assert found.fault is not None and not (tmp_path / "elsewhere").exists()
    assert "answers.log cannot be written" in told and "refused" not in told


@pytest.mark.processes
def test_rubbish_is_refused_by_the_site_itself(world: World) -> None:
    for delivery in (b"rubbish", bytes(DELIVERY_LIMIT + 1), b""):
        found, _ = answer(world, SITES[0], delivery)
        assert found.fault is not None and (found.ticket, found.fault.code) == (None, "malformed")


@pytest.mark.processes
def test_only_the_command_line_itself_has_another_exit_code(world: World) -> None:
    require_clean(execute("site", "answer"), 2)
    done = execute("site", "answer", "--config", world.folder / "none.yaml", stdin=subprocess.DEVNULL)
    require_clean(done, 0)
    assert json.loads(done.stdout)["fault"]["code"] == "site_unavailable"
