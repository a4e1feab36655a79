"""What a server's start makes of its records of admissions: each leaf once, through any crash, and nothing of strangers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterseal.audit.events import AccessDenied, Decision, Event, KeyEnrol, peek_event
from counterseal.runtime.founding.admissions import Admission, Admissions
from counterseal.runtime.server.enrolments import log_admissions
from counterseal.runtime.server.server import Server
from counterseal.tests.federation import SERVER, DirectTransport, Federation
from counterseal.trust.documents import sign
from counterseal.trust.errors import SignatureError
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.statement import make_statement
from counterseal.trust.messages import Enrolment

STRANGER = "stranger@fed.example"


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation of two sites; one was admitted with the charter's keys, one with others, and a stranger was refused."""
    federation = Federation.make(tmp_path_factory.mktemp("heart") / "federation", 2)
    first, second = federation.sites
    book = _book(federation)
    for name, allowed, statement in (
        (first, True, federation.charter.statements[first].raw),
        (second, True, _statement(federation, second, MemberKeys.generate())),
        (STRANGER, False, _statement(federation, STRANGER, MemberKeys.generate())),
    ):
        book.add(_record(federation, name, allowed, statement), federation.keys[SERVER].signer)
    return federation


def _book(federation: Federation) -> Admissions:
    return Admissions(federation.folder / "admissions", federation.keys[SERVER].signer.public)


def _statement(federation: Federation, name: str, keys: MemberKeys) -> bytes:
    now = federation.clock()
    return make_statement(
        keys,
        federation="test-federation",
        identity=name,
        log_origin="fed.example/log",
        not_before=now - 10,
        not_after=now + 86_400,
    ).raw


def _record(federation: Federation, name: str, allowed: bool, statement: bytes) -> Admission:
    now = federation.clock()
    message = Enrolment(
        federation="test-federation", identity=name, time=now, server_key="0" * 64, statement=statement.decode()
    )
    reason = "active" if allowed else "not_a_member"
    decision = Decision(identity=name, role="site", allowed=allowed, reason=reason, source="roster", time=now)
    return Admission(
        federation="test-federation",
        server=SERVER,
        time=now,
        enrolment=sign(message, federation.keys[SERVER].signer).raw.decode(),
        decision=decision,
        rules=None,
        shown=None,
    )


class Killed(BaseException):
    """Stands for the end of the process."""


def _open(federation: Federation, **changes: Any) -> Server:
    return federation.server(DirectTransport({}), admissions=federation.folder / "admissions", **changes)


def _start(server: Server, federation: Federation) -> None:
    """What `Server.run` does before it runs anything."""
    server._create_federation()
    log_admissions(server._office, federation.charter, federation.folder / "admissions")


def _leaves(server: Server) -> list[Event]:
    return [peek_event(server.log.entry(index)) for index in range(server.log.size)]


def _copy(founded: Federation, folder: Path) -> Federation:
    shutil.copytree(founded.folder, folder / "federation")
    return Federation(folder / "federation", founded.sites, founded.keys, founded.charter, founded.clock)


def _require_told_once(events: list[Event], federation: Federation) -> None:
    (enrolled,) = [event for event in events if isinstance(event, KeyEnrol)]
    assert enrolled.identity == federation.sites[0]
    assert enrolled.statement == federation.charter.statements[federation.sites[0]].digest
    (denied,) = [event for event in events if isinstance(event, AccessDenied)]
    assert (denied.run, denied.at, denied.decision.identity) == (None, "enrolment", STRANGER)


def test_the_charters_keys_and_the_refusal_are_told_and_foreign_keys_wait(founded: Federation, tmp_path: Path) -> None:
    federation = _copy(founded, tmp_path)
    for _ in range(2):
        with _open(federation) as server:
            _start(server, federation)
            _require_told_once(_leaves(server), federation)


def _steps(founded: Federation, folder: Path) -> Iterator[int]:
    """Yield the number of every durable step of a first start."""
    federation, names = _copy(founded, folder), list[str]()
    with _open(federation, probe=names.append) as server:
        opened = len(names)
        _start(server, federation)
    yield from range(opened, len(names))


def test_a_crash_at_any_step_tells_everything_once(founded: Federation, tmp_path: Path) -> None:
    steps = list(_steps(founded, tmp_path / "dry"))
    assert len(steps) > 5
    for last in steps:
        federation, count = _copy(founded, tmp_path / str(last)), [0]

        def die(name: str, last: int = last, count: list[int] = count) -> None:
            count[0] += 1
            if count[0] == last + 1:
                raise Killed

        with pytest.raises(Killed), _open(federation, probe=die) as server:
            _start(server, federation)
        with _open(federation) as server:
            _start(server, federation)
            _require_told_once(_leaves(server), federation)


@pytest.mark.parametrize("field", ["federation", "server"])
def test_a_record_for_another_place_stops_the_start(field: str, founded: Federation, tmp_path: Path) -> None:
    federation = _copy(founded, tmp_path)
    name = federation.sites[1]
    record = _record(federation, name, True, _statement(federation, name, MemberKeys.generate()))
    changes: dict[str, Any] = {"server": "other"}
    if field == "federation":
        message = record.claimed.model_copy(update={"federation": "lung"})
        raw = sign(message, federation.keys[SERVER].signer).raw.decode()
        changes = {"federation": "lung", "enrolment": raw}
    record = record.model_copy(update=changes)
    _book(federation).add(record, federation.keys[SERVER].signer)
    with _open(federation) as server, pytest.raises(SignatureError, match="another federation or server"):
        _start(server, federation)
