"""Both copies of every pair and penalty are equal bit for bit, whatever happened: absence, rejection, aborts, restarts."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.algorithms.rule import CohortRule, make_rule

from .admm_world import Float32, Kept, Planes, Server, Site

MEMBERS = ("a", "ab", "b", "c")
FATES = ("counted", "clipped", "rejected", "late", "lost", "absent")


@dataclass(frozen=True)
class Attempt:
    """One attempt at a version: what became of each member's update, and who was started afresh after it."""

    fates: tuple[str, ...]
    aborted: bool
    restarted: tuple[bool, ...]
    server_block: int
    site_block: int


attempts = st.builds(
    Attempt,
    st.tuples(*[st.sampled_from(FATES)] * len(MEMBERS)),
    st.sampled_from((False, False, False, True)),
    st.tuples(*[st.booleans()] * (len(MEMBERS) + 1)),
    st.sampled_from((1, 5, 8, 1000)),
    st.sampled_from((1, 3, 11, 1000)),
)


def rule_of(name: str, zeta: float, balanced: bool) -> CohortRule:
    parameters: dict[str, float] = {"rho": 1.3, "zeta": zeta, "clip_norm": 3.0}
    if balanced:
        parameters |= {"balance_mu": 1.5, "balance_tau": 1.7, "rho_min": 0.2, "rho_max": 6.0}
    rule = make_rule(name, parameters)
    assert isinstance(rule, CohortRule)
    return rule


class World:
    """A federation that is told its fate attempt by attempt and compares its copies after each commit."""

    def __init__(self, rule: CohortRule, site: type[Site], seed: int, elements: int = 13) -> None:
        self.random = np.random.default_rng(seed)
        targets = self.random.standard_normal((len(MEMBERS), elements))
        self.sites = {
            one: site(rule, lambda z, target=target: z - target)  # type: ignore[misc]
            for one, target in zip(MEMBERS, targets, strict=True)
        }
        start = self.random.standard_normal(elements).astype(np.float32)
        self.server = Server(rule, dict.fromkeys(MEMBERS, 1.0), start)
        self.ticket = 0

    def play(self, attempt: Attempt) -> None:
        self.server.block = attempt.server_block
        counted: dict[str, Planes] = {}
        tickets: dict[str, int] = {}
        for one, fate in zip(MEMBERS, attempt.fates, strict=True):
            if fate == "absent":
                continue
            self.ticket += 1
            update = self._work(one, fate)
            if fate in {"counted", "clipped"}:
                counted[one], tickets[one] = update, self.ticket
        if counted and not attempt.aborted:
            before = deepcopy(self.server.theirs)
            for one, value in self.server.commit(counted).items():
                assert (value < 1) == (attempt.fates[MEMBERS.index(one)] == "clipped")
                self.sites[one].block = attempt.site_block
                self.sites[one].settle(tickets[one], value)
            self.compare(before, set(counted))
        self._restart(attempt.restarted)

    def _work(self, one: str, fate: str) -> Planes:
        noise = self.random.laplace(0, 0.05, self.server.model.size).astype(np.float32)
        if fate == "clipped":
            noise = noise + np.float32(40)
        elif fate == "rejected":
            noise = noise * np.float32(np.inf)
        found = self.sites[one].work(self.ticket, self.server.model, steps=1 + self.ticket % 3, noise=noise)
        if fate == "counted":  # stays below clip_norm, wherever the model has gone
            norm = float(np.sqrt(sum((values.astype(float) ** 2).sum() for values in found.values())))
            if norm > 2.9:
                shrink = np.float32(2.9 / norm)
                found = {name: values * shrink for name, values in found.items()}
                model, _ = self.sites[one].pending[self.ticket]
                self.sites[one].pending[self.ticket] = (model, deepcopy(found))
        return found

    def _restart(self, restarted: tuple[bool, ...]) -> None:
        for one, again in zip(MEMBERS, restarted[1:], strict=True):
            if again:
                site = self.sites[one]
                fresh = type(site)(site.rule, site.gradient, site.scale)
                fresh.mine = Kept.load(site.mine.dump())
                self.sites[one] = fresh
        if restarted[0]:
            old = self.server
            self.server = Server(old.rule, dict(reversed(list(old.weights.items()))), old.model.copy())
            self.server.theirs = {one: Kept.load(item.dump()) for one, item in old.theirs.items()}

    def compare(self, before: dict[str, Any], counted: set[str]) -> None:
        for one in MEMBERS:
            assert self.server.theirs[one] == self.sites[one].mine
            assert one in counted or self.server.theirs[one] == before[one]


@given(
    st.sampled_from(("iiadmm", "iceadmm")),
    st.sampled_from((0.0, 2.0)),
    st.booleans(),
    st.integers(0, 1 << 30),
    st.lists(attempts, min_size=1, max_size=12),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_both_copies_are_equal_after_every_commit(
    name: str, zeta: float, balanced: bool, seed: int, history: list[Attempt]
) -> None:
    world = World(rule_of(name, zeta, balanced), Site, seed)
    for attempt in history:
        world.play(attempt)


class ForgetfulSite(Site):
    """The known fault: the dual follows what the site computed, not what it released."""

    def replayed(self, ticket: int) -> tuple[Float32, Planes]:
        model, planes = self.pending[ticket]
        return model, {**planes, "delta": self.unreleased[ticket] - model}


class UnclippedSite(Site):
    """Takes its update for the one that was counted."""

    def settle(self, ticket: int, coefficient: float) -> None:
        super().settle(ticket, 1.0)


class EagerSite(Site):
    """Takes over its new pair when it sends, whether or not a commit will name it."""

    def work(self, ticket: int, model: Float32, steps: int, noise: Float32 | None = None) -> Planes:
        found = super().work(ticket, model, steps, noise)
        if all(np.isfinite(values).all() for values in found.values()):
            super().settle(ticket, 1.0)
        self.pending[ticket] = (model, found)
        return found

    def settle(self, ticket: int, coefficient: float) -> None:
        """It did already."""


PLAIN = Attempt(("counted",) * 4, False, (False,) * 5, 1000, 1000)
CLIPPED = Attempt(("clipped", *PLAIN.fates[1:]), False, PLAIN.restarted, 1000, 1000)
ABORTED = Attempt(PLAIN.fates, True, PLAIN.restarted, 1000, 1000)


@pytest.mark.parametrize("name", ["iiadmm", "iceadmm"])
@pytest.mark.parametrize(
    ("site", "history"),
    [
        (ForgetfulSite, [PLAIN]),
        (UnclippedSite, [PLAIN, CLIPPED]),
        (EagerSite, [PLAIN, ABORTED, PLAIN]),
    ],
)
def test_the_comparison_sees_planted_faults(name: str, site: type[Site], history: list[Attempt]) -> None:
    world = World(rule_of(name, 2.0, False), site, seed=7)
    with pytest.raises(AssertionError):
        for attempt in history:
            world.play(attempt)


@pytest.mark.parametrize("name", ["iiadmm", "iceadmm"])
def test_penalties_do_adapt_in_such_histories_and_stay_in_bounds(name: str) -> None:
    world = World(rule_of(name, 2.0, True), Site, seed=3)
    seen = set()
    for number in range(20):
        world.play(Attempt(("counted", "absent", *(("counted",) * 2 if number % 2 else ("clipped", "late"))), *_REST))
        seen |= {one.penalty() for one in world.server.theirs.values()}
    assert len(seen) >= 3 and min(seen) >= np.float32(0.2) and max(seen) <= 6.0


_REST: tuple[Any, ...] = (False, (True,) * 5, 5, 3)
