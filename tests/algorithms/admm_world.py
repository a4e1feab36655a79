"""A server and sites that run a `CohortRule` in one process, with everything that can go wrong between them.

Each end keeps its own copy of a member's pair and penalty, as bytes, and computes in blocks of its own size. Only what travels
is handed over: the model, the released planes, the committed coefficient.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from counterseal.algorithms.arithmetic import new_scratch
from counterseal.algorithms.rule import Cohort, CohortRule, Tally, UpdateMeta, Workspace
from counterseal.algorithms.statistics import Admission

Float32 = npt.NDArray[np.float32]
Planes = dict[Any, Float32]
Gradient = Callable[[Float32], npt.NDArray[Any]]


def blocks(elements: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, elements)) for start in range(0, elements, size)]


def room(size: int) -> Workspace:
    """A workspace whose scratch is smaller than its blocks."""
    return Workspace(np.empty(size, np.float32), new_scratch(max(1, size // 3)))


@dataclass
class Kept:
    """One end's copy of a member: nothing but bytes, as after a restart."""

    rho: bytes
    pair: dict[str, bytes] | None = None

    def dump(self) -> str:
        pair = None if self.pair is None else {name: data.hex() for name, data in self.pair.items()}
        return json.dumps([self.rho.hex(), pair])

    @classmethod
    def load(cls, text: str) -> Kept:
        rho, pair = json.loads(text)
        found = None if pair is None else {name: bytes.fromhex(data) for name, data in pair.items()}
        return cls(bytes.fromhex(rho), found)

    def penalty(self) -> float:
        return float(np.frombuffer(self.rho, "<f4")[0])

    def state(self, rule: CohortRule, parent: Float32) -> Mapping[str, Float32]:
        if self.pair is None:
            return rule.initial_state(parent)
        return {name: np.frombuffer(data, "<f4") for name, data in self.pair.items()}


def kept(rho: float, pair: Mapping[str, Float32] | None = None) -> Kept:
    data = None if pair is None else {name: half.astype("<f4").tobytes() for name, half in pair.items()}
    return Kept(np.array([rho], "<f4").tobytes(), data)


@dataclass
class Site:
    """A site: what it sent waits under its ticket until a commit names it."""

    rule: CohortRule
    gradient: Gradient
    scale: float = 1.0
    block: int = 1 << 8
    mine: Kept = field(init=False)
    pending: dict[int, tuple[Float32, Planes]] = field(default_factory=dict)
    unreleased: dict[int, Float32] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mine = kept(self.rule.penalty)

    def work(self, ticket: int, model: Float32, steps: int, noise: Float32 | None = None) -> Planes:
        """Train and release: what comes back is all that leaves the site."""
        state = self.mine.state(self.rule, model)
        solver = self.rule.solver({"x": model}, {"x": state["dual"]}, rho=self.mine.penalty(), scale=self.scale)
        values = model.copy()
        for _ in range(steps):
            solver.step("x", values, self.gradient(values).astype(np.float32))
        delta = values - model if noise is None else values - model + noise
        planes: Planes = {"delta": delta, **{name: found["x"].copy() for name, found in solver.planes.items()}}
        self.pending[ticket] = (model.copy(), planes)
        self.unreleased[ticket] = values
        return {name: values.copy() for name, values in planes.items()}

    def settle(self, ticket: int, coefficient: float) -> None:
        """Take over what the commit made of the update under ``ticket``; whatever else waits is void."""
        model, planes = self.replayed(ticket)
        state = self.mine.state(self.rule, model)
        tally = Tally((0,))
        after = {name: np.empty_like(model) for name in self.rule.state_planes}
        space = room(self.block)
        for part in blocks(model.size, self.block):
            sent = {name: values[part] for name, values in planes.items()}
            before = {name: values[part] for name, values in state.items()}
            found = self.rule.replay(
                sent, coefficient, model[part], before, self.mine.penalty(), tally=tally, workspace=space
            )
            for name, values in found.items():
                after[name][part] = values
        self.mine = kept(self.rule.adapt((self.mine.penalty(),), tally)[0], after)
        self.pending.clear()

    def replayed(self, ticket: int) -> tuple[Float32, Planes]:
        return self.pending[ticket]


@dataclass
class Server:
    """The server: every member's released pair and penalty, and the model."""

    rule: CohortRule
    weights: Mapping[str, float]
    model: Float32
    block: int = 1 << 8
    theirs: dict[str, Kept] = field(init=False)
    version: int = 0

    def __post_init__(self) -> None:
        self.theirs = {one: kept(self.rule.penalty) for one in self.members}

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(sorted(self.weights, key=str.encode))

    def commit(self, updates: Mapping[str, Planes]) -> dict[str, float]:
        """Make the next version from what is admitted; return the committed coefficients."""
        present = [one for one in self.members if one in updates]
        stats = []
        for one in present:
            admission = Admission([values.size for values in updates[one].values()])
            for values in updates[one].values():
                admission.feed(values)
            stats.append(admission.result())
        coeff = self.rule.coefficients([UpdateMeta(one) for one in present], stats, None, self.weights)
        self._combine(present, updates, coeff)
        self.version += 1
        return {one: float(value) for one, value in zip(present, coeff, strict=True)}

    def _combine(self, present: Sequence[str], updates: Mapping[str, Planes], coeff: Float32) -> None:
        rule, model = self.rule, self.model
        rho = {one: item.penalty() for one, item in self.theirs.items()}
        cohort = Cohort.of(self.members, present, rho)
        tally, space = Tally(cohort.rows), room(self.block)
        states = [self.theirs[one].state(rule, model) for one in self.members]
        after: dict[str, dict[str, Float32]] = {
            one: {name: np.empty_like(model) for name in rule.state_planes} for one in present
        }
        made = np.empty_like(model)
        for part in blocks(model.size, self.block):
            rows = {name: [updates[one][name][part] for one in present] for name in rule.planes}
            state = {name: [one[name][part] for one in states] for name in rule.state_planes}
            made[part], new = rule.combine(rows, coeff, model[part], state, cohort=cohort, tally=tally, workspace=space)
            for name in rule.state_planes:
                for one, row in zip(present, new[name], strict=True):
                    after[one][name][part] = row
        penalties = dict(zip(self.members, rule.adapt(cohort.rho, tally), strict=True))
        for one in present:
            self.theirs[one] = kept(penalties[one], after[one])
        self.model = made
