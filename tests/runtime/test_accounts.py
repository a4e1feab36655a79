"""What sites say they spent, computed again: agrees with honest ones, with Opacus and with closed forms, and catches lies."""

from __future__ import annotations

import math
import os
from functools import cache
from typing import Any

import pytest

from counterseal.audit.events import Event, ReceiptFile, RunStart, Spending
from counterseal.runtime.accounts import Account, accounts, second_opinion
from counterseal.runtime.config.privacy import CountsConfig
from counterseal.runtime.site.price import price_of
from counterseal.trust.errors import MalformedError
from counterseal.trust.terms import PrivacyTerms

from ..attacks.private_play import require_end
from ..attacks.private_world import GAUSSIAN, private_worlds, sgd_run
from ..attacks.world import ME
from ..federation import run_config
from ..private import TERMS


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@cache
def story() -> tuple[Event, ...]:
    """Return the log of an honest private run of three rounds and three sites."""
    with private_worlds("new") as world:
        told = world.told()
        require_end(world, told, (0, 1, 2), drawn=3)
        return tuple(told.log)


def dp_sgd(noise: float, steps: int, rate: float, **more: Any) -> PrivacyTerms:
    changes = {"noise_multiplier": noise, "steps": steps, "sampling_rate": rate, "releases": 20, **more}
    return TERMS.model_copy(update=changes)


def retold(
    terms: PrivacyTerms, counts: CountsConfig | None = None, size: int = 1_000, stride: int = 1, **lies: Any
) -> list[tuple[int, Event]]:
    """Return the log as it would be under other ``terms``: each receipt states ``stride`` releases more, or what ``lies`` say."""
    price, made = price_of(terms, counts, size), 0
    events: list[Event] = []
    for event in story():
        if isinstance(event, RunStart):
            privacy: dict[str, Any] = {"terms": terms.model_dump(mode="json"), "sites": {}}
            privacy["counts"] = None if counts is None else counts.model_dump(mode="json")
            event = event.model_copy(update={"config": {**event.config, "privacy": privacy}})
        elif isinstance(event, ReceiptFile) and (event.actor, event.kind) == (ME, "train"):
            made += stride
            stated = price.statement(made)
            honest = {"releases": made, "epsilon": stated.epsilon, "delta": stated.delta}
            said = (
                Spending(policy="a" * 64, ledger="b" * 64, **{**honest, **lies}) if lies != {"nothing": True} else None
            )
            event = event.model_copy(update={"spending": said})
        elif isinstance(event, ReceiptFile) and event.kind == "train":
            continue
        events.append(event)
    return list(enumerate(events))


def one(found: tuple[Account, ...]) -> Account:
    (account,) = found
    return account


DP_SGD = {
    "small batches": dp_sgd(1.1, 50, 0.02),
    "large batches": dp_sgd(2.0, 3, 0.25),
    "many steps": dp_sgd(0.9, 100, 0.01),
    "little noise": dp_sgd(0.7, 20, 0.01),
}


def test_an_honest_run_agrees_at_every_site() -> None:
    found = accounts(enumerate(story()))
    assert [account.site for account in found] == sorted({account.site for account in found})
    assert len(found) == 3
    for account in found:
        assert account.agrees
        assert (account.run, account.releases, account.terms) == ("run-1", 3, GAUSSIAN)
        assert account.stated <= account.recomputed < account.whole
        assert isinstance(story()[account.leaf], ReceiptFile)


def test_an_honest_run_of_dp_sgd_agrees_and_so_does_opacus() -> None:
    with private_worlds("new") as world:
        told = world.told(sgd_run(TERMS, rounds=2))
        require_end(world, told, (0, 1), drawn=2)
    for account in accounts(enumerate(told.log)):
        other = second_opinion(account)
        assert account.agrees
        assert other is not None
        assert near_opacus(account.stated, other)


def near_opacus(stated: float, other: float) -> bool:
    """Say whether two upper bounds of one epsilon are near: Opacus' may be 0.02 too large, ours a five-hundredth."""
    return -0.02 <= stated - other <= 2e-3 * stated


@pytest.mark.parametrize("name", DP_SGD)
@pytest.mark.parametrize("stride", [1, 6])
def test_statements_agree_with_opacus(name: str, stride: int) -> None:
    account = one(accounts(retold(DP_SGD[name], stride=stride)))
    other = second_opinion(account)
    assert account.agrees
    assert account.releases == 3 * stride
    assert other is not None
    assert near_opacus(account.stated, other), (account.stated, other)


@pytest.mark.parametrize("size", [1, 10_000, 10_000_000])
def test_the_size_of_a_model_makes_no_difference_that_shows(size: int) -> None:
    assert one(accounts(retold(dp_sgd(1.1, 50, 0.02), size=size))).agrees


def gaussian_delta(epsilon: float, shift: float) -> float:
    """Return the exact delta of a Gaussian of ``shift`` standard deviations (Balle and Wang 2018, theorem 8)."""
    first, second = shift / 2 - epsilon / shift, -shift / 2 - epsilon / shift
    return _phi(first) - math.exp(epsilon) * _phi(second)


def _phi(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


@pytest.mark.parametrize("noise", [2.0, 4.0, 12.0])
def test_output_noise_agrees_with_the_closed_form(noise: float) -> None:
    account = one(accounts(retold(GAUSSIAN.model_copy(update={"noise_multiplier": noise}))))
    shift = math.sqrt(3) / noise
    assert account.agrees
    assert second_opinion(account) is None
    assert gaussian_delta(account.stated, shift) <= GAUSSIAN.delta < gaussian_delta(account.stated * 0.995, shift)


def test_laplace_noise_is_the_sum_of_its_releases() -> None:
    terms = GAUSSIAN.model_copy(update={"mechanism": "output-laplace", "delta": 0.0})
    account = one(accounts(retold(terms)))
    assert account.agrees
    assert account.stated == pytest.approx(3 / 4.0, rel=1e-3)


def test_counts_are_part_of_the_price() -> None:
    terms, counts = dp_sgd(1.1, 50, 0.02), CountsConfig(noise_multiplier=8.0)
    with_counts, without = one(accounts(retold(terms, counts))), one(accounts(retold(terms)))
    assert with_counts.agrees
    assert with_counts.counts == counts
    assert without.stated < with_counts.stated <= without.stated + 3 / 8.0 + 1e-2
    assert second_opinion(with_counts) is None


def test_replace_one_has_no_second_opinion_here() -> None:
    account = one(accounts(retold(dp_sgd(1.1, 50, 0.02, adjacency="replace-one"))))
    assert account.agrees
    assert second_opinion(account) is None
    assert account.stated > one(accounts(retold(dp_sgd(1.1, 50, 0.02)))).stated


TRUE = price_of(GAUSSIAN, None, 21).statement(3).epsilon
LIES: dict[str, dict[str, Any]] = {
    "a hundredth less": {"epsilon": 0.99 * TRUE},
    "much less": {"epsilon": 0.1},
    "nothing spent": {"epsilon": 0.0},
    "a smaller delta": {"delta": 1e-9},
    "each release the first one": {"releases": 1, "epsilon": price_of(GAUSSIAN, None, 21).statement(1).epsilon},
    "no epsilon": {"epsilon": None},
    "nothing at all": {"nothing": True},
}


@pytest.mark.parametrize("name", LIES)
def test_a_false_statement_is_caught(name: str) -> None:
    account = one(accounts(retold(GAUSSIAN, size=21, **LIES[name])))
    assert not account.agrees
    assert account.recomputed == pytest.approx(TRUE, rel=2e-3)


def test_a_site_that_claims_more_releases_is_held_to_them() -> None:
    """A failed training was paid for and gave no receipt of its own: the next one counts it."""
    assert one(accounts(retold(GAUSSIAN, size=21, stride=2))).releases == 6
    assert not one(accounts(retold(GAUSSIAN, size=21, releases=9))).agrees


def test_each_site_is_held_to_its_own_terms() -> None:
    mine = GAUSSIAN.model_copy(update={"noise_multiplier": 8.0})
    events = []
    for leaf, event in retold(GAUSSIAN, size=21):
        if isinstance(event, RunStart):
            privacy = {**event.config["privacy"], "sites": {ME: mine.model_dump(mode="json")}}
            event = event.model_copy(update={"config": {**event.config, "privacy": privacy}})
        events.append((leaf, event))
    account = one(accounts(events))
    assert account.terms == mine
    assert not account.agrees


def test_runs_without_terms_have_no_account() -> None:
    events = []
    for leaf, event in enumerate(story()):
        if isinstance(event, RunStart):
            event = event.model_copy(update={"config": run_config().model_dump(mode="json")})
        events.append((leaf, event))
    assert accounts(events) == ()
    assert accounts(enumerate(one for one in story() if not isinstance(one, RunStart))) == ()


def test_terms_of_another_version_are_no_zero() -> None:
    events = []
    for leaf, event in enumerate(story()):
        if isinstance(event, RunStart):
            terms = {**event.config["privacy"]["terms"], "mechanism": "magic"}
            event = event.model_copy(update={"config": {**event.config, "privacy": {"terms": terms, "sites": {}}}})
        events.append((leaf, event))
    with pytest.raises(MalformedError):
        accounts(events)
