"""The steward: in which order it asks, what it debits, what it answers, and that nothing goes out that was not paid for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from counterseal.audit.events import ReceiptFile
from counterseal.privacy.errors import LedgerError, RollbackError, UnsupportedModelError
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.privacy.ledger.path_anchor import PathAnchor
from counterseal.runtime.config import EvaluationConfig, RunConfig
from counterseal.runtime.config.privacy import CountsConfig, RunPrivacy
from counterseal.runtime.errors import LedgerUnavailableError, RefusedError, TrainingFailedError
from counterseal.runtime.site.price import price_of
from counterseal.runtime.site.steward import Leave, Steward
from counterseal.trust.errors import TicketError
from counterseal.trust.policy.policy import SitePolicy, default_text
from counterseal.trust.policy.request import PolicyRequest
from counterseal.trust.terms import PrivacyTerms
from counterseal.trust.tickets import Ticket, Work

from ..attacks.private_world import GAUSSIAN, PRIVATE, private_worlds
from ..attacks.world import ME
from ..federation import Federation, run_config
from ..private import TERMS, ledger_of, open_ledger, privacy_of

SIZE = 21
NEVER = b'@id("never") forbid (principal, action == Counterseal::Action::"train", resource);\n'
COUNTED = RunConfig.model_validate(
    {
        **PRIVATE.model_dump(),
        "trainer": {**PRIVATE.trainer.model_dump(), "steps": TERMS.steps, "epochs": None},
        "privacy": RunPrivacy(terms=TERMS, counts=CountsConfig(noise_multiplier=8.0)),
    }
)
SAMPLED = COUNTED.model_copy(update={"privacy": RunPrivacy(terms=TERMS)})


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation.make(tmp_path_factory.mktemp("federation"), 1)


class Recorded:
    """A policy or a ledger that writes down what it is asked."""

    def __init__(self, inner: Any, asked: list[str]) -> None:
        self.inner = inner
        self.asked = asked
        self.requests: list[PolicyRequest] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **more: Any) -> Any:
            self.asked.append(name)
            if name == "decide":
                self.requests += arguments
            return found(*arguments, **more)

        return call


class Desk:
    """A steward with its ledger, and tickets for it."""

    def __init__(self, federation: Federation, folder: Path, **changes: Any) -> None:
        self.federation, self.folder, self.asked = federation, folder, list[str]()
        cap, text = changes.pop("cap", 50.0), changes.pop("policy", default_text())
        self.ledger = Recorded(ledger_of(folder, ME, epsilon=cap), self.asked)
        self.policy = Recorded(SitePolicy(text), self.asked)
        privacy = changes.pop("privacy", None) or privacy_of(folder, ME)
        values = {"policy": self.policy, "ledger": self.ledger, "privacy": privacy, **changes}
        self.steward = Steward(federation.charter, ME, **values)

    def admit(self, seq: int = 1, kind: Any = "train", run: RunConfig = PRIVATE, **ticket: Any) -> Leave:
        """Ask for leave."""
        terms = run.privacy.of(ME) if run.privacy is not None and kind == "train" else None
        return self.steward.admit(self.order(seq, kind, run, **{"privacy": terms, **ticket}), self.dimensions)

    def order(self, seq: int, kind: Any, run: RunConfig, **ticket: Any) -> Any:
        """Return a verified delivery."""
        values = {
            "federation": "test-federation",
            "charter": self.federation.charter.digest,
            "run": run.name,
            "site": ME,
            "seq": seq,
            "version": seq - 1,
            "parent": "a" * 64,
            "kind": kind,
            "work": Work(manifest="b" * 64),
            "not_after": 2_000_000_000,
        }
        signed = SimpleNamespace(document=Ticket(**{**values, **ticket}), digest=name_of(seq, run.name))
        return SimpleNamespace(ticket=signed, run=SimpleNamespace(config=run.model_dump(mode="json")))

    def dimensions(self, config: RunConfig, terms: PrivacyTerms) -> int:
        """Return the model's size."""
        self.asked.append("dimensions")
        return SIZE

    def kinds(self) -> list[str]:
        """Return what the ledger wrote since it was set up."""
        return [entry.kind for entry in self.ledger.inner.export()][3:]


def name_of(seq: int, run: str = "run-1") -> str:
    return f"{seq:02x}" * 31 + run.encode()[-1:].hex()


@pytest.fixture
def desk(federation: Federation, tmp_path: Path) -> Desk:
    return Desk(federation, tmp_path)


def test_it_asks_in_order_and_debits_before_it_answers(desk: Desk) -> None:
    leave = desk.admit()
    told = [one for one in desk.asked if one in {"dimensions", "forecast", "decide", "reserve_run", "reserve"}]
    assert told == ["dimensions", "forecast", "decide", "reserve_run", "reserve"]
    assert desk.kinds() == ["run.reserve", "ticket.reserve"]
    assert (leave.terms, leave.metrics, leave.counts) == (GAUSSIAN, False, None)
    assert leave.head == desk.ledger.inner.head


@pytest.mark.parametrize(
    "terms", [None, GAUSSIAN.model_copy(update={"noise_multiplier": 3.9}), TERMS], ids=["none", "weaker", "others"]
)
def test_other_terms_than_those_of_the_run_are_refused_before_anybody_is_asked(desk: Desk, terms: Any) -> None:
    with pytest.raises(TicketError):
        desk.admit(privacy=terms)
    assert desk.asked == []
    assert desk.kinds() == []


def test_terms_on_a_ticket_that_releases_nothing_are_refused(desk: Desk) -> None:
    with pytest.raises(TicketError):
        desk.admit(kind="evaluate", privacy=GAUSSIAN)


def test_each_site_has_its_own_terms(desk: Desk) -> None:
    mine = GAUSSIAN.model_copy(update={"noise_multiplier": 5.0})
    run = PRIVATE.model_copy(update={"privacy": RunPrivacy(terms=GAUSSIAN, sites={ME: mine})})
    assert desk.admit(run=run).terms == mine
    with pytest.raises(TicketError):
        desk.admit(2, run=run, privacy=GAUSSIAN)


def test_the_policy_is_told_what_the_terms_come_to(federation: Federation, tmp_path: Path) -> None:
    desk = Desk(federation, tmp_path, cap=9.0)
    desk.admit()
    (asked,) = desk.policy.requests
    assert asked.epsilon_run == price_of(GAUSSIAN, None, SIZE).statement(4).epsilon
    assert asked.epsilon_after == desk.ledger.inner.balances()[0].reserved
    assert (asked.epsilon_cap, asked.anchored, asked.private, asked.terms) == (9.0, True, True, GAUSSIAN)
    assert (asked.action, asked.dataset, asked.population, asked.unit) == ("train", "data", "people", "record")


def test_the_ledger_is_told_what_one_release_costs(desk: Desk) -> None:
    price = price_of(GAUSSIAN, None, SIZE)
    leave = desk.admit()
    run = desk.ledger.inner.run("test-federation", "run-1", ME)
    assert (run.cost, run.releases, run.drawn) == (price.cost.numbers, 4, 1)
    stated = price.statement(1)
    assert leave.spending == {
        "policy": desk.policy.digest,
        "ledger": leave.head,
        "releases": 1,
        "epsilon": stated.epsilon,
        "delta": stated.delta,
    }
    again = desk.admit(2).spending
    assert again is not None
    assert (again["releases"], again["epsilon"]) == (2, price.statement(2).epsilon)


def test_the_same_ticket_is_debited_once(desk: Desk) -> None:
    first, second = desk.admit(), desk.admit()
    assert first == second
    assert desk.kinds() == ["run.reserve", "ticket.reserve"]


def test_more_tickets_than_releases_are_refused(desk: Desk) -> None:
    for seq in range(1, 5):
        desk.admit(seq)
    with pytest.raises(RefusedError, match="all 4 releases"):
        desk.admit(5)


@pytest.mark.parametrize("changes", [{"policy": default_text() + NEVER}, {"cap": 0.5}], ids=["policy", "budget"])
def test_a_refusal_reserves_nothing(federation: Federation, tmp_path: Path, changes: dict[str, Any]) -> None:
    desk = Desk(federation, tmp_path, **changes)
    with pytest.raises(RefusedError) as caught:
        desk.admit()
    assert caught.value.code == "policy_denied"
    assert desk.kinds() == []


def test_a_budget_that_no_policy_looked_at_is_kept_by_the_ledger(federation: Federation, tmp_path: Path) -> None:
    desk = Desk(federation, tmp_path, cap=0.5)
    desk.policy.inner = SimpleNamespace(decide=lambda asked: SimpleNamespace(allowed=True), digest="c" * 64)
    with pytest.raises(RefusedError, match="cannot pay"):
        desk.admit()
    assert desk.kinds() == []


def test_a_site_without_a_ledger_takes_no_private_run(federation: Federation) -> None:
    desk = Desk.__new__(Desk)
    desk.federation, desk.asked = federation, []
    desk.steward = Steward(federation.charter, ME, unprotected=True)
    with pytest.raises(RefusedError, match="no ledger"):
        desk.admit()


def test_terms_for_another_unit_are_refused_unread(federation: Federation, tmp_path: Path) -> None:
    desk = Desk(federation, tmp_path, privacy=privacy_of(tmp_path, ME, unit="patient"))
    with pytest.raises(RefusedError, match="patients"):
        desk.admit(run=SAMPLED)
    assert desk.asked == []
    assert desk.admit().terms == GAUSSIAN  # what protects the whole site protects its patients


def test_a_run_of_the_same_names_that_costs_more_is_refused(federation: Federation, tmp_path: Path) -> None:
    """The ledger knows a run by federation, name and site: another federation can have the same."""
    desk = Desk(federation, tmp_path)
    desk.admit(run=SAMPLED)
    with pytest.raises(RefusedError, match="cost less"):
        desk.admit(2, run=COUNTED)
    assert desk.admit(2, run=SAMPLED).counts is None
    other = COUNTED.model_copy(update={"name": "run-2"})
    assert desk.admit(1, run=other).counts == 8.0


def test_closing_gives_back_what_was_not_drawn_and_ends_the_run(desk: Desk) -> None:
    desk.admit(1)
    desk.admit(2)
    desk.steward.settle(name_of(1), released=True)
    desk.steward.settle(name_of(2), released=False)
    assert desk.admit(3, "receive") == Leave(PRIVATE)
    (balance,) = desk.ledger.inner.balances()
    assert (balance.releases, balance.open_runs) == (2, 0)
    assert balance.reserved == balance.spent > 0
    with pytest.raises(RefusedError, match="closed"):
        desk.admit(4)
    desk.admit(3, "receive")
    assert desk.kinds().count("run.close") == 1


def test_a_site_that_released_nothing_has_nothing_to_close(desk: Desk) -> None:
    desk.admit(1, "receive")
    assert desk.kinds() == []


@pytest.mark.parametrize("kind", ["witness", "evaluate", "receive"])
def test_only_training_is_debited_and_no_exact_metrics_leave(desk: Desk, kind: str) -> None:
    leave = desk.admit(1, kind)
    assert (leave.metrics, leave.spending, leave.head, leave.terms) == (False, None, None, None)
    assert desk.kinds() == []
    assert ("decide" in desk.asked) == (kind != "witness")


@pytest.mark.parametrize("unprotected", [False, True])
def test_exact_updates_and_metrics_leave_only_an_unprotected_site(
    federation: Federation, tmp_path: Path, unprotected: bool
) -> None:
    desk, exact = Desk(federation, tmp_path, unprotected=unprotected), run_config()
    assert desk.admit(1, "evaluate", exact).metrics is unprotected
    if not unprotected:
        with pytest.raises(RefusedError):
            desk.admit(1, run=exact)
        return
    leave = desk.admit(1, run=exact)
    assert (leave.metrics, leave.head) == (True, None)
    nothing = {"ledger": None, "releases": 0, "epsilon": None, "delta": None}
    assert leave.spending == {"policy": desk.policy.digest, **nothing}
    quiet = exact.model_copy(update={"evaluation": EvaluationConfig(sites=False)})
    assert desk.admit(2, run=quiet).metrics is False


def test_settling_is_once_and_for_what_was_reserved(desk: Desk) -> None:
    desk.steward.settle(name_of(9), released=True)
    Steward.unprotected(desk.federation.charter).settle(name_of(9), released=True)
    assert desk.kinds() == []
    desk.admit()
    desk.steward.settle(name_of(1), released=False)
    desk.steward.settle(name_of(1), released=True)
    desk.steward.give_back(name_of(1))
    assert desk.ledger.inner.ticket(name_of(1)).outcome == "failed"
    assert desk.ledger.inner.run("test-federation", "run-1", ME).drawn == 1


def test_what_was_given_back_costs_nothing(desk: Desk) -> None:
    desk.admit(1)
    desk.steward.give_back(name_of(1))
    assert desk.ledger.inner.run("test-federation", "run-1", ME).drawn == 0
    spending = desk.admit(2).spending
    assert spending is not None
    assert spending["releases"] == 1


def answered(outcome: str, desk: Desk) -> None:
    desk.admit()
    desk.ledger.inner.settle(name_of(1), outcome)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [("released", RefusedError), ("failed", TrainingFailedError), ("not_started", UnsupportedModelError)],
)
def test_a_ticket_whose_answer_was_lost_is_not_worked_on_again(
    desk: Desk, outcome: str, error: type[Exception]
) -> None:
    answered(outcome, desk)
    before = desk.kinds()
    with pytest.raises(error):
        desk.admit()
    assert desk.kinds() == before


def test_a_life_that_ended_before_settling_pays_once(desk: Desk) -> None:
    """Journaled, not settled: the next life settles; not journaled: it trains again under the same entry."""
    first = desk.admit()
    desk.ledger.inner = open_ledger(desk.folder, ME)
    assert desk.admit() == first
    desk.steward.settle(name_of(1), released=True)
    assert desk.kinds() == ["run.reserve", "ticket.reserve", "ticket.settle"]


class Away:
    """An anchor whose disk goes away."""

    def __init__(self, inner: PathAnchor) -> None:
        self.inner = inner
        self.away: set[str] = set()
        self.place = inner.place

    def read(self) -> Any:
        return self._call("read")

    def advance(self, *arguments: Any) -> None:
        self._call("advance", *arguments)

    def _call(self, name: str, *arguments: Any) -> Any:
        if name in self.away:
            with self.inner._answering():
                raise OSError(5, "Input/output error")
        return getattr(self.inner, name)(*arguments)


@pytest.fixture
def away(desk: Desk) -> Iterator[Away]:
    anchor = Away(PathAnchor(desk.folder / "anchors" / f"{ME}.mark"))
    desk.ledger.inner = Ledger.open(desk.folder / "ledgers" / ME / "ledger.sqlite", anchor)
    yield anchor


@pytest.mark.parametrize("step", ["read", "advance"])
def test_an_anchor_that_does_not_answer_decides_nothing(desk: Desk, away: Away, step: str) -> None:
    away.away = {step}
    with pytest.raises(LedgerUnavailableError) as caught:
        desk.admit()
    assert (caught.value.retryable, caught.value.code) == (True, "ledger_unavailable")
    away.away = set()
    desk.admit()
    assert desk.kinds() == ["run.reserve", "ticket.reserve"]


def test_a_ledger_that_went_back_is_for_a_person_and_no_refusal(desk: Desk) -> None:
    path = desk.folder / "ledgers" / ME / "ledger.sqlite"
    old = path.read_bytes()
    desk.admit()
    path.write_bytes(old)
    with pytest.raises(RollbackError):
        desk.admit(2)


def test_a_dataset_of_no_people_is_for_a_person_too(federation: Federation, tmp_path: Path) -> None:
    desk = Desk(federation, tmp_path, privacy=privacy_of(tmp_path, ME, dataset="copy"))
    with pytest.raises(LedgerError) as caught:
        desk.admit()
    assert caught.value.code == "ledger"


def test_what_the_server_learns_of_a_refusal_is_one_code() -> None:
    with private_worlds("train-0") as world:
        world.ledger().set_population("people", unit="record", adjacency="add-remove", epsilon=0.5, delta=1e-4)
        raw, receipt = world.answer(world.delivery)
        assert isinstance(receipt, ReceiptFile)
        assert (receipt.outcome, receipt.reason) == ("refused", "policy_denied")
        assert (receipt.spending, receipt.metrics, receipt.manifest, receipt.model) == (None, None, None, None)
        assert not [word for word in (b"epsilon", b"0.5", b"people", b"cannot pay") if word in raw]
