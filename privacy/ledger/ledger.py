"""The ledger of an institution: what may still be released about its people, over all experiments and federations.

The order of every entry, under the ledger's lock: read what others wrote; ask the anchor, and stop if it knows more than the
file; decide; commit the entry; move the anchor; only then answer. So

- who was answered `reserve` holds a debit that is on the disk and on the anchor: a crash later cannot undo it;
- a crash between two of these writes leaves a debit without a release, never a release without a debit;
- after it the file is ahead of the anchor along its own chain, which the next operation proves and mends;
- a restored file, or a clone, meets an anchor that it does not lead to: `RollbackError`, and nothing is written.

An open `Ledger` holds no lock and no connection: several processes and threads may use one file, and each sees the others'
entries. Also, the file may not go back behind what this process has seen of it, anchor or not.

Without an anchor all this holds but the last: a restored file is not noticed, and every report must say NOT COVERED
(`Ledger.anchored`). Not handled: what a release costs (`accounting`), whether it may be made at all (`trust.policy`), and that a
site releases nothing but what it reserved (`runtime.site`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ...durable import Probe, silent
from ..errors import AnchorError, RollbackError
from . import rules
from .anchor import Anchor, Mark
from .balance import Balance, balance_of
from .book import Book, Run, Ticket
from .entry import FIRST, Entry, Kind
from .orders import Outcome, RunKey, RunOrder, TicketOrder
from .table import Table, Transaction

__all__ = ["Ledger", "read_entries"]

Clock = Callable[[], float]


class Ledger:
    """A ledger's file and its anchor. Use `create` or `open`."""

    def __init__(self, table: Table, anchor: Anchor | None, clock: Clock, probe: Probe) -> None:
        """Use `create` or `open`."""
        self._table = table
        self._anchor = anchor
        self._clock = clock
        self._probe = probe
        self._book = Book()
        self._thread = threading.Lock()

    @classmethod
    def create(
        cls,
        path: Path,
        anchor: Anchor | None = None,
        *,
        clock: Clock = time.time,
        probe: Probe = silent,
        patience: float = 60.0,
    ) -> Self:
        """Make an empty ledger at ``path``, bound to ``anchor`` for ever if there is one.

        Raises:
            FileExistsError: something is there already.
            RollbackError: the anchor knows another ledger, or one that was here.
        """
        ledger = cls(Table(path, patience=patience, probe=probe), anchor, clock, probe)
        body = {"ledger": os.urandom(32).hex(), "anchored": anchor is not None}
        with ledger._table.making(Entry.make(1, "genesis", FIRST, int(clock()), body)):
            if anchor is not None and anchor.read() is not None:
                raise RollbackError(
                    "this anchor belongs to a ledger already",
                    where=anchor.place,
                    remedy="Give a new ledger a new anchor. If that ledger's file was lost, restore its newest backup instead, "
                    "and then run `counterseal ledger recover`.",
                )
        with ledger._held():
            return ledger

    @classmethod
    def open(
        cls,
        path: Path,
        anchor: Anchor | None = None,
        *,
        clock: Clock = time.time,
        probe: Probe = silent,
        patience: float = 60.0,
    ) -> Self:
        """Open the ledger at ``path``, verify every entry, and mend what a crash left between file and anchor.

        Raises:
            LedgerError: there is none, or another process holds it for longer than ``patience`` seconds.
            LedgerDamagedError: the chain does not hold.
            RollbackError: the anchor knows more than the file, or something else.
            AnchorError: the anchor does not answer, or the ledger has one that is not given.
        """
        ledger = cls(Table(path, patience=patience, probe=probe), anchor, clock, probe)
        with ledger._held():
            return ledger

    @property
    def path(self) -> Path:
        """The file."""
        return self._table.path

    @property
    def anchored(self) -> bool:
        """Whether an old copy of this file would be noticed; if not, reports say NOT COVERED."""
        return self._anchor is not None

    @property
    def place(self) -> str:
        """Where the anchor is, in words."""
        return "none" if self._anchor is None else self._anchor.place

    @property
    def head(self) -> str:
        """Digest of the newest entry, whoever wrote it, as the anchor knows it."""
        return self.mark.head

    @property
    def mark(self) -> Mark:
        """Name, counter and head of the ledger, as the anchor knows them."""
        with self._held() as (book, _):
            return book.mark

    def set_population(
        self, name: str, *, unit: str, adjacency: str, epsilon: float, delta: float, note: str = ""
    ) -> Entry:
        """Make a population, or change its cap, which counts from the next reservation on.

        Raises:
            AdjacencyError: the population counts another unit, or under another adjacency.
        """
        return self._write(
            "population", lambda book: rules.set_population(book, name, unit, adjacency, epsilon, delta, note)
        )

    def map_dataset(self, dataset: str, population: str, *, note: str = "") -> Entry:
        """Say whose data a dataset is. Another answer later refunds nothing, and debits the new population too.

        Raises:
            AdjacencyError: what the dataset spent cannot be stated in the new population's unit.
        """
        return self._write("dataset", lambda book: rules.map_dataset(book, dataset, population, note))

    def reserve_run(self, order: RunOrder) -> Entry:
        """Reserve all releases of a run; again, with the same terms, it returns the same entry.

        Raises:
            BudgetError: the population cannot pay. The numbers in its text are the site's own: they are never sent.
            AdjacencyError: the run protects another unit than the population counts.
            SecondReleaseError: the run was reserved with other terms.
        """
        return self._write("run.reserve", lambda book: rules.reserve_run(book, order))

    def reserve(self, order: TicketOrder) -> Entry:
        """Draw one release of a run for a ticket; again, it returns the same entry and draws nothing.

        What comes back says that this release is paid for, not that it was not made: see `ticket`.

        Raises:
            BudgetError: the run has none left, or is closed.
            SecondReleaseError: the ticket or its sequence number was used otherwise, or its release was given back.
        """
        return self._write("ticket.reserve", lambda book: rules.reserve_ticket(book, order))

    def settle(self, ticket: str, outcome: Outcome) -> Entry:
        """Say how a ticket ended. ``not_started`` is for a cause outside the data, before any record was read.

        Raises:
            SecondReleaseError: it was settled otherwise.
        """
        return self._write("ticket.settle", lambda book: rules.settle(book, ticket, outcome))

    def close_run(self, federation: str, run: str, site: str) -> Entry:
        """End a run: the releases that no ticket drew are given back, and none is drawn any more."""
        return self._write("run.close", lambda book: rules.close_run(book, (federation, run, site)))

    def ticket(self, ticket: str) -> Ticket | None:
        """Return what is known of a ticket, or None if it was never reserved."""
        with self._held() as (book, _):
            return book.tickets.get(ticket)

    def run(self, federation: str, run: str, site: str) -> Run | None:
        """Return what was reserved for a run, or None; `Run.drawn` counts the releases drawn so far."""
        key: RunKey = (federation, run, site)
        with self._held() as (book, _):
            return book.runs.get(key)

    def forecast(self, order: RunOrder) -> Balance:
        """Return the balance of the population that would pay for ``order``, with it reserved. Nothing is written.

        Raises:
            LedgerError: its dataset belongs to no population.
        """
        with self._held() as (book, _):
            return rules.forecast(book, order)

    def balances(self) -> list[Balance]:
        """Return what each population has spent and has left, by name."""
        with self._held() as (book, _):
            return [balance_of(population) for _, population in sorted(book.populations.items())]

    def remaining(self, population: str) -> float:
        """Return the epsilon that ``population`` has left, rounded down.

        Raises:
            LedgerError: there is no such population.
        """
        with self._held() as (book, _):
            return balance_of(rules.population_of(book, population)).remaining

    def export(self) -> list[Entry]:
        """Return every entry, verified from the first to the last."""
        with self._held() as (book, transaction):
            entries = list(transaction.after(0))
            if Book.of(entries).mark != book.mark:
                raise RollbackError("the file is not the one that this process has seen", where=str(self.path))
            return entries

    def _write(self, kind: Kind, decide: Callable[[Book], rules.Found]) -> Entry:
        with self._held() as (book, transaction):
            found = decide(book)
            if isinstance(found, Entry):
                return found
            counter, previous = book.next()
            before = book.mark
            entry = Entry.make(counter, kind, previous, int(self._clock()), found)
            transaction.append(entry)
            book.add(entry)
            if self._anchor is not None:
                self._move(self._anchor, book.mark, before)
            return entry

    @contextmanager
    def _held(self) -> Iterator[tuple[Book, Transaction]]:
        """Hold the ledger, with the newest book, and with an anchor that agrees."""
        with self._thread, self._table.held() as transaction:
            self._catch_up(transaction)
            self._reconcile()
            yield self._book, transaction

    def _catch_up(self, transaction: Transaction) -> None:
        known = self._book.last
        if known is None:
            self._book = Book.of(transaction.after(0))
            return
        if transaction.digest(known.counter) != known.digest:
            raise RollbackError(
                "the file went back while this process was using it",
                where=str(self.path),
                remedy="Somebody restored or replaced it. Put the newer file back, or see `counterseal ledger recover --help`.",
            )
        book = self._book
        try:
            for entry in transaction.after(known.counter):
                book.add(entry)
        except BaseException:
            self._book = Book()  # half folded: begin again next time
            raise

    def _reconcile(self) -> None:
        book, anchor = self._book, self._anchor
        if anchor is None:
            if book.anchored:
                raise AnchorError(
                    "this ledger has an anchor, and none is named",
                    where=str(self.path),
                    remedy="Name it in the configuration (ledger.anchor).",
                )
            return
        seen = anchor.read()
        if seen == book.mark:
            return
        if not book.anchored:
            raise AnchorError(
                "this ledger was made without an anchor",
                where=str(self.path),
                remedy="Bind it to this one: `counterseal ledger recover --new-anchor`.",
            )
        if not book.extends(seen):
            raise rolled_back(book.mark, seen, str(self.path), anchor.place)
        self._move(anchor, book.mark, seen)

    def _move(self, anchor: Anchor, mark: Mark, before: Mark | None) -> None:
        self._probe("ledger.anchor.write")
        anchor.advance(mark, before)
        self._probe("ledger.anchor.done")


def read_entries(path: Path) -> list[Entry]:
    """Return every entry of the file at ``path``, verified as a chain. No anchor is asked: it may be an old copy.

    Raises:
        LedgerDamagedError: the chain does not hold.
    """
    with Table(path).held() as transaction:
        entries = list(transaction.after(0))
    Book.of(entries)
    return entries


def rolled_back(mark: Mark, seen: Mark | None, where: str, place: str) -> RollbackError:
    """Return the error of a ledger that its anchor does not lead to, with what to do."""
    if seen is None:
        what = f"the anchor is empty, but the ledger has come to entry {mark.counter}"
    elif seen.ledger != mark.ledger:
        what = "the anchor belongs to another ledger"
    elif seen.counter > mark.counter:
        what = f"the ledger ends at entry {mark.counter}, but its anchor has seen entry {seen.counter}: this is an old copy"
    else:
        what = f"the anchor has seen another entry {seen.counter} than this ledger has: two copies went on separately"
    return RollbackError(
        f"{what} (anchor: {place})",
        where=where,
        remedy="Nothing was released. Stop this site and call the officer who keeps the ledger. Look for the newest copy of the "
        "file and put it here; with it, everything goes on. Only if it is lost for good: `counterseal ledger recover "
        "--accept-loss` declares every population in it exhausted, for what the lost entries spent is not known.",
    )
