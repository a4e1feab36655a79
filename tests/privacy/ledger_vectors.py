"""Write tests/vectors/ledger: ``python -m counterseal.tests.privacy.ledger_vectors``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counterseal.privacy.ledger import rules
from counterseal.privacy.ledger.balance import balance_of
from counterseal.privacy.ledger.book import Book
from counterseal.privacy.ledger.entry import FIRST, Entry, Kind, canonical
from counterseal.tests.privacy.ledger_world import digest, order, ticket

FOLDER = Path(__file__).parents[1] / "vectors" / "ledger"
_TIME = 1_800_000_000


def good() -> list[Entry]:
    """A ledger with every kind of entry."""
    book, entries = Book(), list[Entry]()

    def add(kind: Kind, found: rules.Found, counter: int | None = None) -> None:
        assert isinstance(found, dict), "the entry is there already"
        number, previous = book.next()
        entry = Entry.make(counter or number, kind, previous, _TIME + number, found)
        book.add(entry)
        entries.append(entry)

    add("genesis", {"ledger": "5" * 64, "anchored": True})
    add("population", rules.set_population(book, "patients", "patient", "add-remove", 8.0, 1e-5, "board, 12 May"))
    add("population", rules.set_population(book, "staff", "patient", "add-remove", 2.5, 1e-5, ""))
    add("dataset", rules.map_dataset(book, "data", "patients", ""))
    add("run.reserve", rules.reserve_run(book, order(releases=10)))
    for number, outcome in enumerate(("released", "failed", "not_started")):
        add("ticket.reserve", rules.reserve_ticket(book, ticket(number)))
        add("ticket.settle", rules.settle(book, digest(number), outcome))  # type: ignore[arg-type]
    add("ticket.reserve", rules.reserve_ticket(book, ticket(3)))
    add("run.close", rules.close_run(book, ("heart", "run-1", "site-a")))
    add("dataset", rules.map_dataset(book, "data", "staff", "the register was wrong"))
    add("anchor.adopt", {"anchored": True, "abandoned": None, "note": "the token was lost"})
    mark = {"ledger": book.ledger, "counter": 20, "head": "9" * 64}
    loss = {"anchored": True, "abandoned": mark, "datasets": ["gone"], "populations": ["staff"], "note": "disk failed"}
    add("loss", loss, counter=21)
    add("population", rules.set_population(book, "patients", "patient", "add-remove", 9.0, 1e-5, ""))
    return entries


def bad(entries: list[Entry]) -> dict[str, list[str]]:
    """Ledgers that a reader refuses."""
    lines = [entry.raw.decode() for entry in entries]

    def changed(index: int, change: Callable[[dict[str, Any]], object]) -> list[str]:
        members = json.loads(lines[index])
        change(members)
        return [*lines[:index], canonical(members).decode(), *lines[index + 1 :]]

    def appended(kind: str, body: dict[str, Any], previous: str = entries[-1].digest, counter: int = 23) -> list[str]:
        members = {"body": body, "counter": counter, "format": "counterseal-ledger/v1", "kind": kind}
        return [*lines, canonical({**members, "previous": previous, "time": _TIME}).decode()]

    where = {"federation": "heart", "run": "run-1", "site": "site-a"}
    return {
        "empty": [],
        "an entry is missing": [*lines[:3], *lines[4:]],
        "two entries change places": [*lines[:2], lines[3], lines[2], *lines[4:]],
        "a cheaper run": changed(4, lambda members: members["body"].update(releases=1)),
        "another time": changed(2, lambda members: members.update(time=0)),
        "another spelling": [lines[0].replace(",", ", "), *lines[1:]],
        "a second beginning": [*lines, lines[0]],
        "another format": changed(0, lambda members: members.update(format="counterseal-ledger/v2")),
        "an unknown kind": appended("refund", {}),
        "an unknown member": changed(0, lambda members: members.update(more=1)),
        "the chain breaks at the end": appended("run.close", where, previous=FIRST),
        "a leap that is no loss": appended("dataset", {"name": "d", "population": "staff", "note": ""}, counter=25),
        "a run closed twice": appended("run.close", {**where, "drawn": 3}),
        "a ticket of a closed run": appended(
            "ticket.reserve", {**where, "ticket": digest(9), "sequence": 9, "release": 4}
        ),
        "a ticket settled twice": appended("ticket.settle", {"ticket": digest(0), "outcome": "not_started"}),
        "a population that changes its unit": appended(
            "population",
            {"name": "staff", "unit": "visit", "adjacency": "add-remove", "epsilon": 1, "delta": 0, "note": ""},
        ),
        "a dataset of nobody": appended("dataset", {"name": "d", "population": "nobody", "note": ""}),
    }


def facts(entries: list[Entry]) -> dict[str, Any]:
    """What a reader finds in the good one."""
    book = Book.of(entries)
    balances = {}
    for name, population in sorted(book.populations.items()):
        found = balance_of(population)
        balances[name] = {"cap": found.cap, "spent": found.spent, "reserved": found.reserved, "lost": found.lost}
    return {"head": book.mark.head, "counter": book.mark.counter, "populations": balances}


def files() -> dict[str, bytes]:
    """File name -> content."""
    entries = good()
    told = {**facts(entries), "bad": [{"name": name, "lines": lines} for name, lines in bad(entries).items()]}
    return {
        "good.jsonl": b"".join(entry.raw + b"\n" for entry in entries),
        "vectors.json": (json.dumps(told, indent=1, sort_keys=True) + "\n").encode(),
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in files().items():
        (FOLDER / name).write_bytes(data)
