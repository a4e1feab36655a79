"""What must hold of ledgers after a kill: what left a site is debited, once, and what is stated is what is counted.

The debits are read from the entries themselves, not through `Ledger.open`, which would mend what it finds. What left a site
is what was handed to the store (`story.Watched` writes it down just before) and what it answered (`story.Overheard`), in
any of its lives.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from counterseal.audit.events import ReceiptFile, peek_event
from counterseal.privacy.ledger.book import Book
from counterseal.privacy.ledger.entry import Entry
from counterseal.privacy.ledger.ledger import read_entries
from counterseal.runtime.site.price import price_of
from counterseal.tests.federation import Federation
from counterseal.trust.canonical import parse
from counterseal.trust.dsse import read
from counterseal.trust.identifiers import sha256

from .points import unwatched
from .story import TERMS, Setting, anchor_of, ledger_path, notes_of, scene_of, uploads_of

__all__ = ["facts", "problems", "underpaid"]


def entries_of(federation: Federation, site: str) -> list[Entry]:
    """Return the ledger's entries as they are on the disk: of a copy, since opening a database rolls a dead write back."""
    source = ledger_path(federation, site).parent
    with tempfile.TemporaryDirectory(dir=federation.folder.parent) as name:
        copy = Path(name) / "ledger"
        shutil.copytree(source, copy)
        return read_entries(copy / "ledger.sqlite")


def left(federation: Federation, site: str) -> dict[str, set[str]]:
    """Return what left ``site`` for each ticket of training, in all its lives: digests of objects and manifests."""
    found: dict[str, set[str]] = {}
    for line in _lines(uploads_of(federation, site)):
        key, digest = line.split()
        *_, ticket, name = key.split("/")
        if name == "payload":
            found.setdefault(ticket, set()).add(f"object {digest}")
    for line in _lines(notes_of(federation, site)):
        answer = parse(line.encode(), limit=1 << 24, what="answer")
        if isinstance(answer, dict) and answer["manifest"] is not None:
            digest = sha256(read(str(answer["manifest"]).encode()).payload)
            found.setdefault(str(answer["ticket"]), set()).add(f"manifest {digest}")
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def underpaid(federation: Federation) -> list[str]:
    """Return what left a site without a debit of its own: at any moment, dead or alive."""
    return [what for site in federation.sites for what in _underpaid(federation, site)]


def _underpaid(federation: Federation, site: str) -> Iterator[str]:
    entries, gone = entries_of(federation, site), left(federation, site)
    book, mark = Book.of(entries), anchor_of(federation, site, unwatched).read()
    for ticket in gone:
        debit = book.tickets.get(ticket)
        if debit is None:
            yield f"an update of {site} for ticket {ticket[:16]} left without a debit"
        elif mark is None or mark.counter < debit.entry.counter:
            yield f"an update of {site} for ticket {ticket[:16]} left before its debit was anchored"
        elif debit.outcome not in (None, "released"):
            yield f"an update of {site} for ticket {ticket[:16]} left, and the ledger says {debit.outcome}"
    drawn = sum(run.drawn for run in book.runs.values())
    if drawn < len(gone):
        yield f"{site} counts {drawn} releases, and {len(gone)} left"


def problems(federation: Federation, setting: Setting) -> list[str]:
    """Return everything that must not be when a private run is over."""
    return [
        *underpaid(federation),
        *(what for site in federation.sites for what in _once(federation, site)),
        *(what for site in federation.sites for what in _apart(federation, site)),
        *_stated(federation, setting),
        *_left_behind(federation),
    ]


def _once(federation: Federation, site: str) -> Iterator[str]:
    """One noise, one debit, one end for each ticket."""
    for ticket, digests in left(federation, site).items():
        kinds = Counter(one.split()[0] for one in digests)
        for kind, count in kinds.items():
            if count > 1:
                yield f"{site} released {count} different {kind}s for ticket {ticket[:16]}"
    entries = entries_of(federation, site)
    for kind in ("ticket.reserve", "ticket.settle"):
        for ticket, count in Counter(one.body["ticket"] for one in entries if one.kind == kind).items():
            if count > 1:
                yield f"{site} has {count} entries {kind} for ticket {ticket[:16]}"


def _apart(federation: Federation, site: str) -> Iterator[str]:
    mark, seen = Book.of(entries_of(federation, site)).mark, anchor_of(federation, site, unwatched).read()
    if seen != mark:
        yield f"the ledger of {site} is at {mark.counter}, its anchor at {seen and seen.counter}"


def _stated(federation: Federation, setting: Setting) -> Iterator[str]:
    """Every receipt counts one more release, and states what so many of them cost."""
    counted: Counter[str] = Counter()
    known = {site: {one.digest: one for one in entries_of(federation, site)} for site in federation.sites}
    price = price_of(TERMS, None, (setting.inputs + 1) * 3)
    for event in map(peek_event, scene_of(federation).evidence().leaves):
        if not isinstance(event, ReceiptFile) or (event.kind, event.outcome) != ("train", "done"):
            continue
        counted[event.actor] += 1
        told, stated = event.spending, price.stated(counted[event.actor])
        wanted = (counted[event.actor], stated["epsilon"], stated["delta"])
        if told is None or (told.releases, told.epsilon, told.delta) != wanted:
            yield f"{event.actor} states {told}, not {wanted}"
        debit = None if told is None or told.ledger is None else known[event.actor].get(told.ledger)
        if debit is None or (debit.kind, debit.body.get("ticket")) != ("ticket.reserve", event.ticket):
            yield f"the ledger head that {event.actor} names for ticket {event.ticket[:16]} is not that ticket's debit"


def _left_behind(federation: Federation) -> Iterator[str]:
    for folder in ("ledgers", "anchors"):
        for path in sorted((federation.folder / folder).rglob("*")):
            if path.name.endswith((".draft", "-journal")):
                yield f"left behind: {path.relative_to(federation.folder)}"


def facts(federation: Federation) -> dict[str, Any]:
    """Return what an undisturbed run has in common: what was drawn, how it ended, in how many entries of which kind."""
    found: dict[str, Any] = {}
    for site in federation.sites:
        entries = entries_of(federation, site)
        runs = [
            [run.releases, run.drawn, run.closed is not None, sorted(str(one.outcome) for one in run.tickets.values())]
            for run in Book.of(entries).runs.values()
        ]
        found[site] = {"kinds": dict(sorted(Counter(entry.kind for entry in entries).items())), "runs": runs}
    return {"ledgers": found}
