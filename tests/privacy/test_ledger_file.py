"""The ledger's file: a chain that shows every change, a table that only grows, one writer at a time."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from counterseal.privacy.errors import LedgerDamagedError, LedgerError, RollbackError
from counterseal.privacy.ledger.book import Book
from counterseal.privacy.ledger.entry import FIRST, FORMAT, Entry
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.tests.privacy.ledger_world import Place, digest, order, quick_folder, ticket


@pytest.fixture
def place() -> Iterator[Place]:
    with quick_folder() as folder:
        yield Place(folder)


@pytest.fixture
def ledger(place: Place) -> Ledger:
    ledger = place.founded()
    ledger.reserve_run(order())
    ledger.reserve(ticket(1))
    ledger.settle(digest(1), "released")
    return ledger


def test_the_chain_can_be_checked_with_a_hash_and_nothing_else(ledger: Ledger) -> None:
    previous = FIRST
    for number, entry in enumerate(ledger.export(), start=1):
        told = json.loads(entry.raw)
        assert (told["counter"], told["previous"], told["format"]) == (number, previous, FORMAT)
        previous = hashlib.sha256(entry.raw).hexdigest()
    assert previous == ledger.head
    assert number == 6


def test_nothing_but_names_terms_and_prices_is_in_it(ledger: Ledger) -> None:
    kinds = {entry.kind: set(entry.body) for entry in ledger.export()}
    assert kinds == {
        "genesis": {"ledger", "anchored"},
        "population": {"name", "unit", "adjacency", "epsilon", "delta", "note"},
        "dataset": {"name", "population", "note"},
        "run.reserve": {
            *("federation", "run", "site", "charter", "dataset", "population", "unit", "adjacency"),
            *("terms", "releases", "columns", "cost", "statement"),
        },
        "ticket.reserve": {"ticket", "federation", "run", "site", "sequence", "release"},
        "ticket.settle": {"ticket", "outcome"},
    }


def test_costs_come_back_to_the_last_bit(ledger: Ledger, place: Place) -> None:
    run = place.open().run("heart", "run-1", "site-a")
    assert run is not None and run.cost == order().cost.numbers


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET entry = x'00' WHERE counter = 2",
        "UPDATE entries SET counter = 99 WHERE counter = 6",
        "DELETE FROM entries WHERE counter = 6",
        "INSERT OR REPLACE INTO entries VALUES (6, 'x', x'00')",
        "INSERT INTO entries VALUES (3, 'x', x'00')",
    ],
)
def test_the_table_only_grows(ledger: Ledger, place: Place, statement: str) -> None:
    table = sqlite3.connect(place.path)
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        table.execute(statement)
    table.close()
    assert place.open().head == ledger.head


def tampered(path: Path, *statements: str) -> None:
    table = sqlite3.connect(path, isolation_level=None)
    for name in ("entries_stay", "entries_hold", "entries_follow"):
        table.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        table.execute(statement)
    table.close()


def reforged(path: Path, counter: int, change: Callable[[dict[str, object]], None]) -> None:
    """Rewrite one entry with a digest that fits it, but not its successors."""
    table = sqlite3.connect(path)
    members = json.loads(table.execute("SELECT entry FROM entries WHERE counter = ?", (counter,)).fetchone()[0])
    table.close()
    change(members["body"])
    entry = Entry.make(*(members[name] for name in ("counter", "kind", "previous", "time", "body")))
    tampered(
        path,
        f"UPDATE entries SET entry = x'{entry.raw.hex()}', digest = '{entry.digest}' WHERE counter = {counter}",
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET entry = CAST(replace(entry, 'patients', 'pandient') AS BLOB) WHERE counter = 2",
        "UPDATE entries SET entry = CAST(replace(entry, ',', ', ') AS BLOB) WHERE counter = 2",
        "UPDATE entries SET digest = 'x' WHERE counter = 4",
        "UPDATE entries SET entry = x'' WHERE counter = 6",
        "DELETE FROM entries WHERE counter = 3",
        "DELETE FROM entries WHERE counter = 1",
        "DELETE FROM entries",
        "UPDATE entries SET counter = 7 WHERE counter = 6",
    ],
)
def test_an_edited_row_is_seen(ledger: Ledger, place: Place, statement: str) -> None:
    tampered(place.path, statement)
    with pytest.raises(LedgerDamagedError):
        place.open()


def test_a_cheaper_run_with_a_fitting_digest_breaks_the_chain(ledger: Ledger, place: Place) -> None:
    reforged(place.path, 4, lambda body: body.update(releases=1))
    with pytest.raises(LedgerDamagedError, match=r"entry 5 \(ticket.reserve\) does not follow"):
        place.open()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("ticket.reserve", {"ticket": digest(2), "federation": "heart", "run": "no", "site": "site-a", "sequence": 2}),
        (
            "ticket.reserve",
            {"ticket": digest(1), "federation": "heart", "run": "run-1", "site": "site-a", "sequence": 9},
        ),
        (
            "ticket.reserve",
            {"ticket": digest(2), "federation": "heart", "run": "run-1", "site": "site-a", "sequence": 1},
        ),
        ("ticket.settle", {"ticket": digest(1), "outcome": "not_started"}),
        ("ticket.settle", {"ticket": digest(7), "outcome": "released"}),
        ("dataset", {"name": "data", "population": "nobody", "note": ""}),
        ("population", {"name": "patients", "unit": "visit", "adjacency": "add-remove", "epsilon": 9, "delta": 0.1}),
        ("run.close", {}),
        ("genesis", {"ledger": "0" * 64, "anchored": False}),
        ("loss", {"datasets": [], "populations": ["nobody"]}),
    ],
)
def test_entries_that_do_not_go_together_are_damage(ledger: Ledger, kind: str, body: dict[str, object]) -> None:
    entries = ledger.export()
    book = Book.of(entries)
    counter, previous = book.next()
    with pytest.raises(LedgerDamagedError):
        Book.of([*entries, Entry.make(counter, kind, previous, 0, body)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"body":{},"counter":1,"counter":1}',
        b'{"body":{},"counter":1.5,"format":"counterseal-ledger/v1","kind":"genesis","previous":"'
        + b"0" * 64
        + b'","time":0}',
        b'{"body":[],"counter":1,"format":"counterseal-ledger/v1","kind":"genesis","previous":"'
        + b"0" * 64
        + b'","time":0}',
        b'{"body":{},"counter":1,"format":"counterseal-ledger/v1","kind":"other","previous":"'
        + b"0" * 64
        + b'","time":0}',
        b'{"body":{},"counter":1,"format":"counterseal-ledger/v2","kind":"genesis","previous":"'
        + b"0" * 64
        + b'","time":0}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_entry_is_refused(raw: bytes) -> None:
    with pytest.raises(LedgerDamagedError):
        Entry.parse(raw)


def test_files_that_are_no_ledger(place: Place) -> None:
    with pytest.raises(LedgerError, match="no ledger here"):
        place.open()
    place.path.write_bytes(b"not a database at all, but long enough to look like one" * 99)
    with pytest.raises(LedgerDamagedError, match="not a ledger"):
        place.open()
    place.path.write_bytes(b"")
    with pytest.raises(LedgerError):
        place.open()
    with pytest.raises(FileExistsError):
        place.create()
    assert place.path.read_bytes() == b""


def test_the_file_is_private_and_keeps_its_journal_mode(ledger: Ledger, place: Place) -> None:
    assert place.path.stat().st_mode & 0o777 == 0o600
    table = sqlite3.connect(place.path)
    table.execute("PRAGMA journal_mode=WAL")
    table.close()
    place.open().reserve(ticket(2))
    table = sqlite3.connect(place.path)
    assert table.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    table.close()
    left = {path.name for path in place.path.parent.iterdir()}
    assert left == {"ledger.sqlite", ".ledger.sqlite.lock"}


def test_it_is_synced_as_said(ledger: Ledger, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    connect = sqlite3.connect

    def watched(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    ledger.reserve(ticket(2))
    assert seen[:2] == ["PRAGMA journal_mode=DELETE", "PRAGMA synchronous=EXTRA"]
    words = [statement.split()[0] for statement in seen]
    assert (words[-4], words[-3], words[-1]) == ("BEGIN", "INSERT", "COMMIT")  # between them, the trigger looks


def test_several_open_ledgers_see_each_other(ledger: Ledger, place: Place) -> None:
    other = place.open()
    ledger.reserve(ticket(2))
    assert other.reserve(ticket(2)).counter == 7
    assert other.reserve(ticket(3)).counter == 8
    assert ledger.head == other.head
    assert [entry.counter for entry in ledger.export()] == list(range(1, 9))


def test_threads_take_turns(ledger: Ledger) -> None:
    errors: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for number in range(start, start + 3):
                ledger.reserve(ticket(number))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in (10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(ledger.export()) == 15


def test_a_lock_that_is_held_too_long_says_so(ledger: Ledger, place: Place) -> None:
    script = (
        "import fcntl, sys; lock = open(sys.argv[1], 'r+'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    lock = place.path.with_name(".ledger.sqlite.lock")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(LedgerError, match="another process is at work"):
            Ledger.open(place.path, patience=0.05)
        assert holder.stdin is not None
        holder.stdin.close()
    assert place.open().head == ledger.head


def test_a_file_that_goes_back_under_an_open_ledger_is_refused(ledger: Ledger, place: Place) -> None:
    older = place.copy("older.sqlite")
    ledger.reserve(ticket(2))
    place.restore(older)
    with pytest.raises(RollbackError, match="went back"):
        ledger.reserve(ticket(2))
    assert len(place.open().export()) == 6


def test_a_full_disk_writes_nothing(ledger: Ledger, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def small(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[call-overload]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(LedgerError, match="full"):
        ledger.reserve_run(order("run-2", terms={"long": "x" * 20_000}))
    monkeypatch.undo()
    assert len(place.open().export()) == 6
    assert not place.path.with_name("ledger.sqlite-journal").exists()
