"""What may be written next: each function looks at the book and returns the body of a new entry, or the old entry that says it.

The rules, and the error of whoever breaks them:

- a population keeps its unit and adjacency; its cap may change at any time and counts at the next reservation   AdjacencyError
- a dataset is of one population; only data that cost nothing may go to one of another unit or adjacency         AdjacencyError
- a run is reserved whole, once per (federation, run, site), under the population's unit and adjacency          BudgetError
- a ticket draws one release, once; each sequence number of a site in a run belongs to one ticket              SecondReleaseError
- `not_started` gives a release back and is final; any other outcome, or none, costs in full                   SecondReleaseError
- closing gives back what no ticket drew; after it no ticket draws                                              BudgetError

Repeating a request that was granted changes nothing and returns the entry of that time.
"""

from __future__ import annotations

import math
from typing import Any

from ..accounting.events import ADJACENCIES
from ..accounting.filter import Filter
from ..accounting.rdp import COLUMNS
from ..errors import AdjacencyError, BudgetError, LedgerError, SecondReleaseError
from .balance import Balance, allows, balance_of, epsilon_of, reserved, times
from .book import Book, Population, Run
from .entry import Entry, canonical
from .orders import Outcome, RunKey, RunOrder, TicketOrder, check_name, check_note

__all__ = [
    "Found",
    "close_run",
    "forecast",
    "map_dataset",
    "payer",
    "population_of",
    "reserve_run",
    "reserve_ticket",
    "set_population",
    "settle",
]

Found = Entry | dict[str, Any]
"""The entry that says it already, or the body of the one to write."""


def set_population(book: Book, name: str, unit: str, adjacency: str, epsilon: float, delta: float, note: str) -> Found:
    """A population, or another cap of one."""
    for what, value in (("population", name), ("unit", unit), ("adjacency", adjacency)):
        check_name(value, what)
    if not (math.isfinite(epsilon) and epsilon > 0 and 0 <= delta < 1):
        raise LedgerError("a cap is an epsilon above 0 and a delta from 0 to below 1", where=name)
    if adjacency not in ADJACENCIES:
        raise AdjacencyError(f"no adjacency {adjacency!r}", where=name, remedy=f"One of {', '.join(ADJACENCIES)}.")
    Filter(epsilon, delta)
    body = {
        "name": name,
        "unit": unit,
        "adjacency": adjacency,
        "epsilon": float(epsilon),
        "delta": float(delta),
        "note": check_note(note),
    }
    known = book.populations.get(name)
    if known is None:
        return body
    if (known.unit, known.adjacency) != (unit, adjacency):
        raise AdjacencyError(
            f"population {name!r} counts {known.unit} under {known.adjacency}",
            where="ledger",
            remedy="What was spent cannot be restated: make another population for another unit or adjacency.",
        )
    same = (known.epsilon, known.delta) == (epsilon, delta) and known.entry.body["note"] == note
    return known.entry if same else body


def map_dataset(book: Book, dataset: str, population: str, note: str) -> Found:
    """A dataset's population; a later one inherits what was spent, and the earlier one keeps it."""
    check_name(dataset, "dataset")
    target = population_of(book, population)
    body = {"name": dataset, "population": population, "note": check_note(note)}
    known = book.datasets.get(dataset)
    if known is None:
        return body
    if known.population == population:
        return known.entry
    for run in known.runs.values():
        terms = run.entry.body
        _require_covered(terms["unit"], terms["adjacency"], target, f"what {dataset!r} spent")
    return body


def payer(book: Book, order: RunOrder) -> Population:
    """Return the population that pays for a run of ``order``'s dataset.

    Raises:
        LedgerError: the dataset belongs to none.
    """
    if order.dataset not in book.datasets:
        raise LedgerError(
            f"dataset {order.dataset!r} belongs to no population",
            where="ledger",
            remedy="The officer maps it: `counterseal ledger map`.",
        )
    return book.populations[book.datasets[order.dataset].population]


def forecast(book: Book, order: RunOrder) -> Balance:
    """Return the payer's balance as it would be with ``order`` reserved; as it is, where it is reserved already."""
    known = order.key in book.runs
    return balance_of(payer(book, order), None if known else times(order.cost, order.releases))


def reserve_run(book: Book, order: RunOrder) -> Found:
    """The whole sequence of a run."""
    population = payer(book, order)
    known = book.runs.get(order.key)
    if known is not None:
        if known.lost:
            raise _exhausted(population.name)
        return _require_same(known, order)
    _require_covered(order.unit, order.adjacency, population, f"run {order.run!r}")
    if not allows(population, times(order.cost, order.releases)):
        raise _over(population, order)
    return {
        "federation": order.federation,
        "run": order.run,
        "site": order.site,
        "charter": order.charter,
        "dataset": order.dataset,
        "population": population.name,
        "unit": order.unit,
        "adjacency": order.adjacency,
        "terms": dict(order.terms),
        "releases": order.releases,
        "columns": list(COLUMNS),
        "cost": [number.hex() for number in order.cost.numbers],
        "statement": dict(order.statement),
    }


def reserve_ticket(book: Book, order: TicketOrder) -> Found:
    """One release of a run."""
    run = book.runs.get(order.key)
    if run is not None and run.lost:
        raise _exhausted(run.population)
    known = book.tickets.get(order.ticket)
    if known is not None:
        if (known.run, known.sequence) != (order.key, order.sequence):
            raise _second("this ticket was reserved for another place", order)
        if not known.counts:
            raise _second("this ticket was settled as not started, and its release given back", order)
        return known.entry
    run = _run(book, order.key)
    if (order.key, order.sequence) in book.places:
        raise _second(f"another ticket was reserved with sequence number {order.sequence}", order)
    if run.closed is not None:
        raise BudgetError(f"run {order.run!r} is closed: nothing is reserved for it any more", where="ledger")
    if run.drawn >= run.releases:
        raise BudgetError(f"all {run.releases} releases that run {order.run!r} reserved are drawn", where="ledger")
    return {
        "ticket": order.ticket,
        "federation": order.federation,
        "run": order.run,
        "site": order.site,
        "sequence": order.sequence,
        "release": run.drawn + 1,
    }


def settle(book: Book, ticket: str, outcome: Outcome) -> Found:
    """How a ticket ended."""
    if outcome not in ("released", "failed", "not_started"):
        raise LedgerError("an outcome is released, failed or not_started", where="ledger")
    known = book.tickets.get(ticket)
    if known is None:
        raise LedgerError("this ticket was never reserved", where="ledger")
    if known.settled is None:
        return {"ticket": ticket, "outcome": outcome}
    if known.outcome != outcome:
        raise SecondReleaseError(
            f"this ticket was settled as {known.outcome}", where="ledger", remedy="What was spent stays spent."
        )
    return known.settled


def close_run(book: Book, key: RunKey) -> Found:
    """The end of a run: what no ticket drew is given back."""
    run = _run(book, key)
    if run.closed is not None:
        return run.closed
    federation, name, site = key
    return {"federation": federation, "run": name, "site": site, "drawn": run.drawn}


def _require_covered(unit: str, adjacency: str, population: Population, what: str) -> None:
    # A bound for any two datasets whatever holds for those that differ in one unit.
    if adjacency != "any" and (unit, adjacency) != (population.unit, population.adjacency):
        raise AdjacencyError(
            f"{what} is stated per {unit} under {adjacency}; population {population.name!r} counts {population.unit} under "
            f"{population.adjacency}",
            where="ledger",
            remedy="The two cannot be added. Ask for terms in the population's unit and adjacency.",
        )


def _require_same(known: Run, order: RunOrder) -> Entry:
    told = known.entry.body
    asked: dict[str, Any] = {
        "terms": dict(order.terms),
        "unit": order.unit,
        "adjacency": order.adjacency,
        "dataset": order.dataset,
    }
    asked["releases"] = order.releases
    if canonical({name: told[name] for name in asked}) != canonical(asked):
        raise SecondReleaseError(
            f"run {order.run!r} was reserved with other terms",
            where="ledger",
            remedy="A run has one fixed sequence of releases; another one is another run.",
        )
    return known.entry


def population_of(book: Book, name: str) -> Population:
    """Return the population ``name``.

    Raises:
        LedgerError: there is none.
    """
    if name not in book.populations:
        raise LedgerError(
            f"no population {name!r}", where="ledger", remedy="The officer makes it: `counterseal ledger cap`."
        )
    return book.populations[name]


def _run(book: Book, key: RunKey) -> Run:
    if key not in book.runs:
        raise LedgerError(f"nothing was reserved for run {key[1]!r}", where="ledger")
    return book.runs[key]


def _second(what: str, order: TicketOrder) -> SecondReleaseError:
    return SecondReleaseError(what, where=f"run {order.run!r}, ticket {order.ticket[:16]}...")


def _exhausted(population: str) -> BudgetError:
    return BudgetError(
        f"population {population!r} is exhausted: entries of this ledger were lost, and may have spent all",
        where="ledger",
    )


def _over(population: Population, order: RunOrder) -> BudgetError:
    if population.lost:
        return _exhausted(population.name)
    spent, asked = reserved(population), times(order.cost, order.releases)
    before, alone, together = (epsilon_of(population, cost) for cost in (spent, asked, spent + asked))
    return BudgetError(
        f"population {population.name!r} cannot pay: its cap is epsilon {population.epsilon:g} at delta {population.delta:g}, "
        f"{before:g} is spent or reserved, run {order.run!r} asks for {alone:g}, together {together:g}",
        where="ledger",
        remedy="Close runs that ended (`counterseal ledger close`), ask for fewer releases or more noise, or raise the cap.",
    )
