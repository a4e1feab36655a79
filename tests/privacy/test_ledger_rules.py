"""What the ledger grants and refuses: populations, caps, runs, tickets, refunds, and data whose population changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from counterseal.privacy.accounting.filter import Filter
from counterseal.privacy.accounting.rdp import COLUMNS, ORDERS, Cost
from counterseal.privacy.errors import (
    AccountingError,
    AdjacencyError,
    BudgetError,
    LedgerError,
    PrivacyError,
    SecondReleaseError,
)
from counterseal.privacy.ledger.balance import Balance, history, times
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.tests.privacy.ledger_world import (
    CHARTER,
    PRICE,
    Place,
    cap,
    digest,
    drawn,
    order,
    quick_folder,
    ticket,
)


@pytest.fixture
def place() -> Iterator[Place]:
    with quick_folder() as folder:
        yield Place(folder)


@pytest.fixture
def ledger(place: Place) -> Ledger:
    return place.founded()


def balance(ledger: Ledger, name: str = "patients") -> Balance:
    return next(one for one in ledger.balances() if one.name == name)


def level(releases: int, epsilon: float = 8.0) -> float:
    return Filter(epsilon, 1e-5).epsilon_of(times(PRICE, releases))


def test_a_run_reserves_everything_at_once(ledger: Ledger) -> None:
    first = ledger.reserve_run(order(releases=10))
    assert balance(ledger).reserved == level(10) and balance(ledger).spent == 0
    assert ledger.reserve_run(order(releases=10)) == first
    assert ledger.remaining("patients") < 8 - level(10)
    for number in range(4):
        ledger.reserve(ticket(number))
    assert balance(ledger).spent == level(4) and balance(ledger).reserved == level(10)
    assert balance(ledger).releases == 4 and balance(ledger).open_runs == 1


def test_the_last_of_a_budget(ledger: Ledger) -> None:
    most = next(count for count in range(1, 1000) if not Filter(8.0, 1e-5).allows(times(PRICE, count))) - 1
    assert most > 20
    with pytest.raises(BudgetError) as caught:
        ledger.reserve_run(order(releases=most + 1))
    assert "cap is epsilon 8" in caught.value.what and f"asks for {level(most + 1):g}" in caught.value.what
    ledger.reserve_run(order(releases=most))
    with pytest.raises(BudgetError):
        ledger.reserve_run(order("run-2", releases=1))
    assert len(ledger.export()) == 4


def test_many_small_runs_pay_what_one_large_run_pays(ledger: Ledger) -> None:
    for number in range(12):
        ledger.reserve_run(order(f"run-{number}", releases=2))
    assert balance(ledger).reserved == pytest.approx(level(24)) and balance(ledger).reserved >= level(24)
    with pytest.raises(BudgetError):
        ledger.reserve_run(order("another", releases=1000))


def test_federations_sites_and_runs_of_the_same_name_are_apart(ledger: Ledger) -> None:
    ledger.reserve_run(order(releases=2))
    ledger.reserve_run(order(releases=2, federation="lung"))
    ledger.reserve_run(order(releases=2, site="site-b"))
    assert balance(ledger).reserved == level(6) and balance(ledger).runs == 3
    ledger.reserve(ticket(1))
    ledger.reserve(ticket(2, federation="lung", sequence=1))
    ledger.reserve(ticket(3, site="site-b", sequence=1))
    assert drawn(ledger) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"releases": 11},
        {"releases": 9},
        {"terms": {"mechanism": "dp-sgd", "noise_multiplier": 20.0, "steps": 5}},
        {"dataset": "more"},
        {"unit": "visit"},
        {"adjacency": "replace-one"},
    ],
)
def test_a_run_has_one_fixed_sequence(ledger: Ledger, changes: dict[str, object]) -> None:
    ledger.map_dataset("more", "patients")
    ledger.reserve_run(order())
    with pytest.raises(SecondReleaseError, match="other terms"):
        ledger.reserve_run(order(**changes))  # type: ignore[arg-type]


def test_what_does_not_change_the_sequence_may_change(ledger: Ledger) -> None:
    """An amended charter, another version of the accountant: what was reserved is what counts."""
    first = ledger.reserve_run(order())
    assert ledger.reserve_run(order(charter="d" * 64)) == first
    assert ledger.reserve_run(order(statement={"epsilon": 1.2})) == first
    assert ledger.reserve_run(order(cost=times(PRICE, 2))) == first
    assert balance(ledger).reserved == level(10)


def test_a_ticket_is_debited_once(ledger: Ledger) -> None:
    ledger.reserve_run(order(releases=2))
    first = ledger.reserve(ticket(1))
    assert first.body["release"] == 1
    assert ledger.reserve(ticket(1)) == first
    ledger.settle(digest(1), "released")
    assert ledger.reserve(ticket(1)) == first
    assert drawn(ledger) == 1 and balance(ledger).spent == level(1)
    assert ledger.reserve(ticket(2)).body["release"] == 2
    with pytest.raises(BudgetError, match="all 2 releases"):
        ledger.reserve(ticket(3))


@pytest.mark.parametrize("changes", [{"sequence": 2}, {"run": "run-2"}, {"federation": "lung"}, {"site": "site-b"}])
def test_a_ticket_in_another_place_is_another_release(ledger: Ledger, changes: dict[str, object]) -> None:
    for run in (order(), order("run-2"), order(federation="lung"), order(site="site-b")):
        ledger.reserve_run(run)
    ledger.reserve(ticket(1))
    with pytest.raises(SecondReleaseError, match="another place"):
        ledger.reserve(ticket(1, **changes))  # type: ignore[arg-type]


def test_another_ticket_in_a_taken_place(ledger: Ledger) -> None:
    ledger.reserve_run(order())
    ledger.reserve(ticket(1))
    with pytest.raises(SecondReleaseError, match="sequence number 1"):
        ledger.reserve(ticket(2, sequence=1))
    ledger.settle(digest(1), "not_started")
    with pytest.raises(SecondReleaseError, match="sequence number 1"):
        ledger.reserve(ticket(2, sequence=1))


@pytest.mark.parametrize("outcome", ["released", "failed"])
def test_what_was_begun_costs_in_full(ledger: Ledger, outcome: str) -> None:
    ledger.reserve_run(order(releases=3))
    ledger.reserve(ticket(1))
    settled = ledger.settle(digest(1), outcome)  # type: ignore[arg-type]
    assert ledger.settle(digest(1), outcome) == settled  # type: ignore[arg-type]
    for other in {"released", "failed", "not_started"} - {outcome}:
        with pytest.raises(SecondReleaseError, match="stays spent"):
            ledger.settle(digest(1), other)  # type: ignore[arg-type]
    ledger.close_run("heart", "run-1", "site-a")
    assert balance(ledger).reserved == level(1)


def test_a_ticket_that_nobody_settled_costs_in_full(ledger: Ledger) -> None:
    ledger.reserve_run(order(releases=3))
    ledger.reserve(ticket(1))
    ledger.close_run("heart", "run-1", "site-a")
    assert balance(ledger).reserved == balance(ledger).spent == level(1)
    ledger.settle(digest(1), "failed")
    assert balance(ledger).reserved == level(1)


def test_what_was_never_started_comes_back_to_the_run(ledger: Ledger) -> None:
    ledger.reserve_run(order(releases=1))
    ledger.reserve(ticket(1))
    settled = ledger.settle(digest(1), "not_started")
    assert ledger.settle(digest(1), "not_started") == settled
    assert balance(ledger).spent == 0 and balance(ledger).reserved == level(1)
    with pytest.raises(SecondReleaseError, match="given back"):
        ledger.reserve(ticket(1))
    assert ledger.reserve(ticket(2)).body["release"] == 1
    with pytest.raises(SecondReleaseError):
        ledger.settle(digest(1), "released")


def test_an_early_stop_gives_back_only_what_no_ticket_drew(ledger: Ledger) -> None:
    ledger.reserve_run(order(releases=10))
    for number, outcome in enumerate(("released", "failed", "not_started")):
        ledger.reserve(ticket(number))
        ledger.settle(digest(number), outcome)  # type: ignore[arg-type]
    ledger.reserve(ticket(3))
    closed = ledger.close_run("heart", "run-1", "site-a")
    assert ledger.close_run("heart", "run-1", "site-a") == closed
    assert balance(ledger).reserved == level(3) and balance(ledger).open_runs == 0
    with pytest.raises(BudgetError, match="closed"):
        ledger.reserve(ticket(4))
    assert ledger.reserve(ticket(3)).kind == "ticket.reserve"
    assert ledger.reserve_run(order(releases=10)).kind == "run.reserve"
    ledger.settle(digest(3), "not_started")
    assert balance(ledger).reserved == level(2)


def test_a_cap_changed_while_a_ticket_runs_changes_nothing_for_it(ledger: Ledger) -> None:
    ledger.reserve_run(order(releases=10))
    ledger.reserve(ticket(1))
    cap(ledger, 0.5)
    assert balance(ledger).remaining == 0
    ledger.settle(digest(1), "released")
    ledger.reserve(ticket(2))  # the run reserved it under the cap of its day
    with pytest.raises(BudgetError, match=r"cap is epsilon 0\.5"):
        ledger.reserve_run(order("run-2", releases=1))
    cap(ledger, 20.0)
    ledger.reserve_run(order("run-2", releases=1))


def test_a_raised_cap_counts_from_the_next_reservation_on(ledger: Ledger) -> None:
    with pytest.raises(BudgetError):
        ledger.reserve_run(order(releases=1000))
    cap(ledger, 100.0, note="decision 12 of the board")
    assert ledger.reserve_run(order(releases=1000)).body["releases"] == 1000
    assert ledger.export()[3].body["note"] == "decision 12 of the board"


def test_a_cap_named_again_writes_nothing(ledger: Ledger) -> None:
    before = ledger.head
    cap(ledger, 8.0)
    ledger.map_dataset("data", "patients")
    assert ledger.head == before


def test_renaming_a_dataset_refunds_nothing(ledger: Ledger) -> None:
    cap(ledger, 8.0, "staff")
    ledger.reserve_run(order(releases=10))
    ledger.reserve(ticket(1))
    ledger.map_dataset("data", "staff", note="the register was wrong")
    assert balance(ledger).reserved == balance(ledger, "staff").reserved == level(10)
    ledger.reserve_run(order("run-2", releases=5))
    assert balance(ledger).reserved == level(10)
    assert balance(ledger, "staff").reserved == level(15)
    ledger.reserve(ticket(2))  # the open run goes on, paid for by both
    assert balance(ledger).spent == balance(ledger, "staff").spent == level(2)
    ledger.map_dataset("data", "patients")
    assert balance(ledger).reserved == level(15)
    ledger.close_run("heart", "run-1", "site-a")
    assert balance(ledger).reserved == balance(ledger, "staff").reserved == level(7)


def test_a_renaming_over_the_cap_is_recorded_and_blocks(ledger: Ledger) -> None:
    cap(ledger, 0.5, "staff")
    ledger.reserve_run(order(releases=10))
    ledger.map_dataset("data", "staff")
    assert balance(ledger, "staff").reserved > 0.5 and ledger.remaining("staff") == 0
    with pytest.raises(BudgetError):
        ledger.reserve_run(order("run-2", releases=1))


def test_units_and_adjacencies_are_never_mixed(ledger: Ledger) -> None:
    for changes in ({"unit": "visit"}, {"adjacency": "replace-one"}, {"unit": "site"}):
        with pytest.raises(AdjacencyError, match="stated per"):
            ledger.reserve_run(order(**changes))  # type: ignore[arg-type]
        with pytest.raises(AdjacencyError, match="population"):
            cap(ledger, 9.0, **changes)
    with pytest.raises(AdjacencyError, match="no adjacency"):
        cap(ledger, 9.0, "others", adjacency="next-door")
    cap(ledger, 8.0, "visits", unit="visit")
    ledger.reserve_run(order(releases=1))
    with pytest.raises(AdjacencyError, match="what 'data' spent"):
        ledger.map_dataset("data", "visits")
    ledger.map_dataset("fresh", "patients")
    ledger.map_dataset("fresh", "visits")  # cost nothing yet


def test_what_protects_everything_protects_a_unit(ledger: Ledger) -> None:
    ledger.reserve_run(order(releases=3, unit="site", adjacency="any"))
    assert balance(ledger).reserved == level(3)
    cap(ledger, 8.0, "visits", unit="visit")
    ledger.map_dataset("data", "visits")
    assert balance(ledger, "visits").reserved == level(3)


def test_a_forecast_writes_nothing(ledger: Ledger) -> None:
    before = ledger.head
    assert ledger.forecast(order(releases=10)).reserved == level(10)
    assert ledger.forecast(order(releases=1000)).reserved > 8
    assert ledger.head == before
    ledger.reserve_run(order(releases=10))
    assert ledger.forecast(order(releases=10)).reserved == level(10)
    assert ledger.forecast(order("run-2", releases=2)).reserved == level(12)
    with pytest.raises(LedgerError, match="belongs to no population"):
        ledger.forecast(order(dataset="unknown"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ledger: ledger.reserve_run(order(dataset="unknown")), "belongs to no population"),
        (lambda ledger: ledger.reserve(ticket(1)), "nothing was reserved"),
        (lambda ledger: ledger.settle(digest(1), "released"), "never reserved"),
        (lambda ledger: ledger.close_run("heart", "run-1", "site-a"), "nothing was reserved"),
        (lambda ledger: ledger.map_dataset("data", "nobody"), "no population"),
        (lambda ledger: ledger.remaining("nobody"), "no population"),
        (lambda ledger: cap(ledger, 0.0, "p"), "a cap is"),
        (lambda ledger: cap(ledger, math.nan, "p"), "a cap is"),
        (lambda ledger: cap(ledger, 1.0, "p", delta=1.0), "a cap is"),
        (lambda ledger: cap(ledger, 1e7, "p"), "a cap of"),
        (lambda ledger: cap(ledger, 1.0, "no spaces"), "not a name"),
        (lambda ledger: cap(ledger, 1.0, "p", note="line\nbreak"), "note"),
        (lambda ledger: cap(ledger, 1.0, "p", note="x" * 501), "note"),
        (lambda ledger: ledger.map_dataset("../data", "patients"), "not a name"),
        (lambda ledger: ledger.settle(digest(1), "lost"), "an outcome is"),
        (lambda ledger: ticket(1, sequence=-1), "whole number"),
        (lambda ledger: ticket(1, ticket="x"), "digest"),
        (lambda ledger: order(releases=0), "whole number"),
        (lambda ledger: order(releases=True), "whole number"),
        (lambda ledger: order(charter="x"), "digest"),
        (lambda ledger: order(terms={"q": math.nan}), "canonical"),
        (lambda ledger: order(terms={"q": {1, 2}}), "canonical"),
        (lambda ledger: order("run 1"), "not a name"),
    ],
)
def test_what_makes_no_sense_is_refused(ledger: Ledger, call: Callable[[Ledger], object], message: str) -> None:
    before = ledger.head
    with pytest.raises(PrivacyError, match=message):
        call(ledger)
    assert ledger.head == before


def test_a_run_at_other_orders_cannot_be_added(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.reserve_run(order())
    monkeypatch.setattr("counterseal.privacy.ledger.balance.COLUMNS", (*COLUMNS[:-1], "other"))
    with pytest.raises(AccountingError, match="other orders"):
        ledger.reserve_run(order("run-2"))


def test_pure_budgets_and_costs_without_bound(ledger: Ledger) -> None:
    cap(ledger, 2.0, "strict", delta=0.0)
    ledger.map_dataset("counts", "strict")
    laplace = Cost((*(0.5,) * len(ORDERS), 0.5, 0.0))
    ledger.reserve_run(order("laplace", 3, cost=laplace, dataset="counts"))
    with pytest.raises(BudgetError):
        ledger.reserve_run(order("gauss", 1, cost=PRICE, dataset="counts"))
    assert balance(ledger, "strict").reserved >= 1.5
    with pytest.raises(BudgetError):
        ledger.reserve_run(order("laplace-2", 2, cost=laplace, dataset="counts"))
    ledger.reserve_run(order("laplace-3", 1, cost=Cost((*(0.5,) * len(ORDERS), 0.4999, 0.0)), dataset="counts"))


def test_totals_are_rounded_up_and_zero_stays_zero() -> None:
    third = Cost((*(1 / 3,) * len(ORDERS), 1e300, 0.0))
    assert times(third, 1) == third
    product = times(third, 7)
    assert all(one > 7 * (1 / 3) for one in product.renyi)
    assert product.pure == 1e300 and product.tv == 0.0


def test_history_tells_every_change(ledger: Ledger, place: Place) -> None:
    place.now += 10
    ledger.reserve_run(order(releases=10))
    ledger.reserve(ticket(1))
    place.now += 10
    cap(ledger, 9.0)
    place.now += 10
    ledger.close_run("heart", "run-1", "site-a")
    points = [(point.time - 1_800_000_000, point.reserved, point.cap) for point in history(ledger.export())["patients"]]
    assert points == [
        (0, 0.0, 8.0),
        (10, level(10), 8.0),
        (20, level(10, 9.0), 9.0),
        (30, level(1, 9.0), 9.0),
    ]
    assert CHARTER in ledger.export()[3].body["charter"]
