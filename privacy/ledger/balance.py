"""What a population has spent, and whether it can pay for more.

The total of a population is the sum, over the runs that it pays for, of the cost of one release times the releases that count
(`book`): a row of numbers (`accounting.rdp.COLUMNS`), each rounded up. The cap is a filter over that row (`accounting.filter`):
what it allows is (epsilon, delta)-private however the runs were chosen, one after the other.

An epsilon shown here says how full the filter is at the population's delta. It is not a sum of the runs' epsilons, and is larger
than what a tighter accountant states for one run alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..accounting.filter import Filter
from ..accounting.rdp import COLUMNS, UNBOUNDED, Cost
from ..errors import AccountingError
from .book import Book, Population, Run
from .entry import Entry

__all__ = ["Balance", "Point", "allows", "balance_of", "epsilon_of", "history", "reserved", "times", "total"]


@dataclass(frozen=True, slots=True)
class Balance:
    """One population's budget; every epsilon is at ``delta``, rounded up."""

    name: str
    unit: str
    adjacency: str
    cap: float
    delta: float
    spent: float
    """By releases that tickets drew."""
    reserved: float
    """By these and by all that open runs may still draw: what binds."""
    runs: int
    open_runs: int
    releases: int
    lost: bool
    """Whether entries were lost: then nothing remains, whatever the cap is."""

    @property
    def remaining(self) -> float:
        """The cap less what is reserved, at least 0."""
        if self.lost or not self.reserved:
            return 0.0 if self.lost else self.cap
        return max(0.0, math.nextafter(self.cap - self.reserved, -math.inf))


@dataclass(frozen=True, slots=True)
class Point:
    """A population's budget from ``time`` on; infinity after a loss."""

    time: int
    counter: int
    reserved: float
    cap: float


def times(cost: Cost, releases: int) -> Cost:
    """Return what ``releases`` releases of ``cost`` cost, rounded up."""
    return Cost(tuple(_product(number, releases) for number in cost.numbers))


def total(runs: Iterable[tuple[Run, int]]) -> Cost:
    """Return what runs cost, each with a number of releases.

    Raises:
        AccountingError: a run was reserved in other columns than this version's.
    """
    found = Cost()
    for run, releases in runs:
        if run.columns != COLUMNS:
            raise AccountingError(
                f"run {run.key[1]!r} was reserved at other orders than this version accounts with",
                where="ledger",
                remedy="Use the version that wrote the entry; a version that changes the orders says how to go on.",
            )
        found = found + times(Cost(run.cost), releases)
    return found


def reserved(population: Population) -> Cost:
    """Return what ``population`` pays for now."""
    return total((run, run.counted) for run in population.runs.values())


def allows(population: Population, more: Cost) -> bool:
    """Say whether ``population`` can pay for ``more``."""
    if population.lost:
        return False
    return Filter(population.epsilon, population.delta).allows(reserved(population) + more)


def epsilon_of(population: Population, spent: Cost) -> float:
    """Return how full the filter of ``population`` would be with ``spent``, rounded up."""
    return Filter(population.epsilon, population.delta).epsilon_of(spent)


def balance_of(population: Population, more: Cost | None = None) -> Balance:
    """Return what ``population`` has spent and has left, as it would be if it had also reserved ``more``."""
    runs = population.runs.values()
    return Balance(
        name=population.name,
        unit=population.unit,
        adjacency=population.adjacency,
        cap=population.epsilon,
        delta=population.delta,
        spent=epsilon_of(population, total((run, run.drawn) for run in runs)),
        reserved=epsilon_of(population, reserved(population) + (more or Cost())),
        runs=len(runs),
        open_runs=sum(run.closed is None for run in runs),
        releases=sum(run.drawn for run in runs),
        lost=population.lost,
    )


def history(entries: Iterable[Entry]) -> dict[str, list[Point]]:
    """Return how each population's budget went, a point at every change.

    Raises:
        LedgerDamagedError: the entries are no chain.
    """
    book, found = Book(), dict[str, list[Point]]()
    for entry in entries:
        book.add(entry)
        if entry.kind in {"ticket.reserve", "genesis", "anchor.adopt"}:
            continue  # these change no total
        for name, population in book.populations.items():
            spent = math.inf if population.lost else epsilon_of(population, reserved(population))
            points = found.setdefault(name, [])
            if not points or (points[-1].reserved, points[-1].cap) != (spent, population.epsilon):
                points.append(Point(entry.time, entry.counter, spent, population.epsilon))
    return found


def _product(number: float, releases: int) -> float:
    product = number * releases
    return product if product in (0, number) else min(UNBOUNDED, math.nextafter(product, math.inf))
