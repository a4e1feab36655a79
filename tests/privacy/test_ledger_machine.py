"""Whatever is asked in whatever order, with crashes and reopenings between: the ledger agrees with a model of twenty lines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from counterseal.privacy.accounting.filter import Filter
from counterseal.privacy.errors import BudgetError, LedgerError, PrivacyError, SecondReleaseError
from counterseal.privacy.ledger.balance import times
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.tests.privacy.ledger_world import (
    FEDERATION,
    PRICE,
    SITE,
    MemoryAnchor,
    Place,
    cap,
    digest,
    order,
    quick_folder,
    ticket,
)

RUNS = st.sampled_from(["run-1", "run-2", "run-3"])
DATA = st.sampled_from(["data", "more"])
POPULATIONS = st.sampled_from(["patients", "staff"])
TICKETS = st.integers(0, 5)
OUTCOMES = st.sampled_from(["released", "failed", "not_started"])


class Crash(BaseException):
    """The process ends here."""


class LedgerMachine(RuleBasedStateMachine):
    """A site with three runs, two datasets and two populations."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self.place = Place(self._stack.enter_context(quick_folder()))
        self.anchor = MemoryAnchor()
        self.ledger = self.place.founded(self.anchor)
        cap(self.ledger, 8.0, "staff")
        self.ledger.map_dataset("more", "staff")
        self.caps = {"patients": 8.0, "staff": 8.0}
        self.homes = {"data": ["patients"], "more": ["staff"]}
        self.runs: dict[str, dict[str, Any]] = {}
        self.tickets: dict[int, dict[str, Any]] = {}

    def teardown(self) -> None:
        self._stack.close()

    # The model: what a population pays for, by hand.

    def counted(self, name: str) -> int:
        run = self.runs[name]
        return self.drawn(name) if run["closed"] else int(run["releases"])

    def drawn(self, name: str) -> int:
        return sum(one["run"] == name and one["outcome"] != "not_started" for one in self.tickets.values())

    def pays(self, population: str) -> int:
        return sum(self.counted(name) for name, run in self.runs.items() if population in run["payers"])

    def tell(self, call: Callable[[Ledger], object]) -> type[PrivacyError] | None:
        try:
            call(self.ledger)
        except PrivacyError as error:
            return type(error)
        return None

    @rule(name=RUNS, data=DATA, releases=st.integers(1, 150))
    def reserve_run(self, name: str, data: str, releases: int) -> None:
        found = self.tell(lambda ledger: ledger.reserve_run(order(name, releases, dataset=data)))
        known = self.runs.get(name)
        home = self.homes[data][-1]
        if known is not None:
            same = (known["releases"], known["data"]) == (releases, data)
            assert found is (None if same else SecondReleaseError)
        elif Filter(self.caps[home], 1e-5).allows(times(PRICE, self.pays(home) + releases)):
            assert found is None
            self.runs[name] = {"releases": releases, "data": data, "closed": False, "payers": {home}}
        else:
            assert found is BudgetError

    @rule(number=TICKETS, name=RUNS)
    def reserve(self, number: int, name: str) -> None:
        found = self.tell(lambda ledger: ledger.reserve(ticket(number, name)))
        known, run = self.tickets.get(number), self.runs.get(name)
        if known is not None:
            again = known["run"] == name and known["outcome"] != "not_started"
            assert found is (None if again else SecondReleaseError)
        elif run is None:
            assert found is LedgerError
        elif run["closed"] or self.drawn(name) >= run["releases"]:
            assert found is BudgetError
        else:
            assert found is None
            self.tickets[number] = {"run": name, "outcome": None}

    @rule(number=TICKETS, outcome=OUTCOMES)
    def settle(self, number: int, outcome: Any) -> None:
        found = self.tell(lambda ledger: ledger.settle(digest(number), outcome))
        known = self.tickets.get(number)
        if known is None:
            assert found is LedgerError
        elif known["outcome"] in (None, outcome):
            assert found is None
            known["outcome"] = outcome
        else:
            assert found is SecondReleaseError

    @rule(name=RUNS)
    def close(self, name: str) -> None:
        found = self.tell(lambda ledger: ledger.close_run(FEDERATION, name, SITE))
        if name not in self.runs:
            assert found is LedgerError
        else:
            assert found is None
            self.runs[name]["closed"] = True

    @rule(population=POPULATIONS, epsilon=st.sampled_from([0.5, 4.0, 8.0, 12.0]))
    def cap(self, population: str, epsilon: float) -> None:
        cap(self.ledger, epsilon, population)
        self.caps[population] = epsilon

    @rule(data=DATA, population=POPULATIONS)
    def map(self, data: str, population: str) -> None:
        self.ledger.map_dataset(data, population)
        self.homes[data].append(population)
        for run in self.runs.values():
            if run["data"] == data:
                run["payers"].add(population)

    @rule()
    def reopen(self) -> None:
        self.ledger = self.place.open(self.anchor)

    @precondition(lambda self: self.runs)
    @rule(number=TICKETS, step=st.sampled_from(["ledger.entry.write", "ledger.entry.done", "ledger.anchor.write"]))
    def crash(self, number: int, step: str) -> None:
        """Die while a ticket is reserved; the next life asks again, and the model hears only of that."""
        name = min(self.runs)

        def probe(seen: str) -> None:
            if seen == step:
                raise Crash

        with contextlib.suppress(Crash, PrivacyError):
            self.place.open(self.anchor, probe).reserve(ticket(number, name))
        self.ledger = self.place.open(self.anchor)
        self.reserve(number, name)

    @invariant()
    def agrees(self) -> None:
        for balance in self.ledger.balances():
            least = Filter(self.caps[balance.name], 1e-5).epsilon_of(times(PRICE, self.pays(balance.name)))
            assert balance.cap == self.caps[balance.name]
            assert balance.reserved == pytest.approx(least, rel=2e-3) and balance.reserved >= least * (1 - 1e-9)
            assert balance.spent <= balance.reserved or balance.reserved == 0
        assert self.anchor.mark == self.ledger.mark


LedgerMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestLedger = LedgerMachine.TestCase
