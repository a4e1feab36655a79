"""What the entries say, taken together: populations, datasets, runs, tickets.

A `Book` is folded from entries in order and never changed otherwise; it is a function of the file. Folding checks the chain
and that each entry refers to what is there, so a book that exists is a verified one.

**What a run costs.** While a run is open, all its reserved releases count. A closed run counts the releases that a ticket drew
and that were not given back: whatever a ticket's fate, it costs in full unless it was settled `not_started`.

**Who pays.** A run is charged to the population that its dataset had when it was reserved, and to every population that the
dataset is mapped to afterwards: the old one keeps its spending, the new one inherits it. (One of the two holds the people whose
data these are, and the officer has just said that the first answer was wrong.)

**A loss.** When entries are known to be lost, nobody knows what they spent, nor which cap they named: every population and
dataset of that time is exhausted for ever, and takes this along when it is mapped; open runs draw no more, not even for tickets
that are known, for which an update may be out already. New people need a new population.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..errors import LedgerDamagedError
from .anchor import Mark
from .entry import DAMAGED, FIRST, Entry
from .orders import Outcome, RunKey

__all__ = ["Book", "Dataset", "Population", "Run", "Ticket"]


@dataclass(slots=True)
class Ticket:
    """A release that was reserved."""

    sequence: int
    run: RunKey
    entry: Entry
    settled: Entry | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, or None while nobody has said."""
        return None if self.settled is None else self.settled.body["outcome"]

    @property
    def counts(self) -> bool:
        """Whether it costs."""
        return self.outcome != "not_started"


@dataclass(slots=True)
class Run:
    """A reserved sequence of releases."""

    key: RunKey
    population: str
    dataset: str
    columns: tuple[str, ...]
    """What the numbers of ``cost`` are."""
    cost: tuple[float, ...]
    """Of one release."""
    releases: int
    entry: Entry
    tickets: dict[str, Ticket] = field(default_factory=dict)
    closed: Entry | None = None
    lost: bool = False
    """Whether entries were lost that may have drawn from it."""

    @property
    def drawn(self) -> int:
        """Releases that tickets drew and did not give back."""
        return sum(ticket.counts for ticket in self.tickets.values())

    @property
    def counted(self) -> int:
        """Releases that somebody pays for."""
        return self.releases if self.closed is None else self.drawn


@dataclass(slots=True)
class Population:
    """The people whose budget this is."""

    name: str
    unit: str
    adjacency: str
    epsilon: float
    delta: float
    entry: Entry
    lost: bool = False
    runs: dict[RunKey, Run] = field(default_factory=dict)
    """Every run that it pays for."""


@dataclass(slots=True)
class Dataset:
    """Data of one population."""

    name: str
    population: str
    entry: Entry
    lost: bool = False
    runs: dict[RunKey, Run] = field(default_factory=dict)
    homes: set[str] = field(default_factory=set)
    """Every population that it ever belonged to."""


class Book:
    """The state of a ledger after its last entry."""

    def __init__(self) -> None:
        self.entries: dict[int, str] = {}
        """Counter -> digest, of every entry."""
        self.last: Entry | None = None
        self.ledger = ""
        self.anchored = False
        """Whether this ledger has an anchor that must be asked."""
        self.populations: dict[str, Population] = {}
        self.datasets: dict[str, Dataset] = {}
        self.runs: dict[RunKey, Run] = {}
        self.tickets: dict[str, Ticket] = {}
        self.places: dict[tuple[RunKey, int], Ticket] = {}
        """Each sequence number of a site in a run, once."""
        self._lost: set[str] = set()

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """Return the book that ``entries`` make.

        Raises:
            LedgerDamagedError: they are no chain, or do not go together.
        """
        book = cls()
        for entry in entries:
            book.add(entry)
        if book.last is None:
            raise LedgerDamagedError("the ledger has no entry", where="ledger")
        return book

    @property
    def mark(self) -> Mark:
        """The ledger's name, counter and head."""
        assert self.last is not None, "a book has a first entry"  # noqa: S101 - `of` refuses an empty one
        return Mark(self.ledger, self.last.counter, self.last.digest)

    def next(self) -> tuple[int, str]:
        """Return counter and previous digest of the entry that comes next."""
        return (1, FIRST) if self.last is None else (self.last.counter + 1, self.last.digest)

    def add(self, entry: Entry) -> None:
        """Fold the next entry in.

        Raises:
            LedgerDamagedError: it does not follow, or refers to what is not there.
        """
        counter, previous = self.next()
        leaps = entry.kind == "loss" and entry.counter > counter
        if entry.previous != previous or not (entry.counter == counter or leaps):
            raise _damaged(entry, "does not follow the entry before it")
        if (entry.kind == "genesis") != (self.last is None):
            raise _damaged(entry, "a ledger has one first entry")
        try:
            getattr(self, f"_on_{entry.kind.replace('.', '_')}")(entry, entry.body)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _damaged(entry, "does not go with the entries before it") from None
        self.entries[entry.counter] = entry.digest
        self.last = entry

    def extends(self, mark: Mark | None) -> bool:
        """Say whether this book is ``mark``'s ledger, at that point or later: proven by the chain, or by a named take-over."""
        last = self.last
        if last is None:
            return False
        if mark is not None and self.entries.get(mark.counter) == mark.head and mark.ledger == self.ledger:
            return True
        if last.kind in {"loss", "anchor.adopt"}:
            return bool(last.body["anchored"]) and last.body["abandoned"] == _mark_json(mark)
        return last.kind == "genesis" and mark is None

    def _on_genesis(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self.ledger = body["ledger"]
        self.anchored = body["anchored"] is True

    def _on_anchor_adopt(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self.anchored = body["anchored"] is True

    def _on_population(self, entry: Entry, body: Mapping[str, Any]) -> None:
        epsilon, delta = float(body["epsilon"]), float(body["delta"])
        known = self.populations.get(body["name"])
        if known is None:
            name, unit, adjacency = body["name"], body["unit"], body["adjacency"]
            self.populations[name] = Population(name, unit, adjacency, epsilon, delta, entry)
            return
        if (known.unit, known.adjacency) != (body["unit"], body["adjacency"]):
            raise ValueError("a population keeps its unit")
        known.epsilon, known.delta, known.entry = epsilon, delta, entry

    def _on_dataset(self, entry: Entry, body: Mapping[str, Any]) -> None:
        name, population = body["name"], self.populations[body["population"]]
        known = self.datasets.get(name)
        if known is None:
            known = self.datasets[name] = Dataset(name, population.name, entry, lost=name in self._lost)
        known.population, known.entry = population.name, entry
        known.homes.add(population.name)
        population.runs.update(known.runs)
        population.lost = population.lost or known.lost

    def _on_run_reserve(self, entry: Entry, body: Mapping[str, Any]) -> None:
        key = (body["federation"], body["run"], body["site"])
        dataset, population = self.datasets[body["dataset"]], self.populations[body["population"]]
        if key in self.runs or dataset.population != population.name:
            raise ValueError("reserved twice, or for another population")
        cost = tuple(float.fromhex(one) for one in body["cost"])
        run = Run(key, population.name, dataset.name, tuple(body["columns"]), cost, int(body["releases"]), entry)
        self.runs[key] = dataset.runs[key] = population.runs[key] = run

    def _on_ticket_reserve(self, entry: Entry, body: Mapping[str, Any]) -> None:
        run = self.runs[body["federation"], body["run"], body["site"]]
        digest, sequence = body["ticket"], int(body["sequence"])
        taken = digest in self.tickets or (run.key, sequence) in self.places
        if taken or run.lost or run.closed is not None or run.drawn >= run.releases:
            raise ValueError("more releases than were reserved")
        ticket = Ticket(sequence, run.key, entry)
        self.tickets[digest] = self.places[run.key, sequence] = run.tickets[digest] = ticket

    def _on_ticket_settle(self, entry: Entry, body: Mapping[str, Any]) -> None:
        ticket = self.tickets[body["ticket"]]
        if ticket.settled is not None or body["outcome"] not in {"released", "failed", "not_started"}:
            raise ValueError("settled twice")
        ticket.settled = entry

    def _on_run_close(self, entry: Entry, body: Mapping[str, Any]) -> None:
        run = self.runs[body["federation"], body["run"], body["site"]]
        if run.closed is not None:
            raise ValueError("closed twice")
        run.closed = entry

    def _on_loss(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self._lost.update(body["datasets"])
        homes = set(body["populations"])
        for dataset in (self.datasets[name] for name in body["datasets"] if name in self.datasets):
            dataset.lost = True
            homes |= dataset.homes
        for population in (self.populations[name] for name in homes):
            population.lost = True
            for run in population.runs.values():
                run.lost = True


def _mark_json(mark: Mark | None) -> dict[str, Any] | None:
    return None if mark is None else {"ledger": mark.ledger, "counter": mark.counter, "head": mark.head}


def _damaged(entry: Entry, what: str) -> LedgerDamagedError:
    return LedgerDamagedError(
        f"entry {entry.counter} ({entry.kind}) {what}",
        where="ledger",
        remedy=DAMAGED,
    )
