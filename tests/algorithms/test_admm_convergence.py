"""ADMM reaches the known optimum of convex problems over heterogeneous sites of unequal weight; the distances are printed.

    python -m pytest -s tests/algorithms/test_admm_convergence.py

Distance: |w - w*| / |w*|. Problems: ridge regression (optimum in closed form) and logistic regression (optimum by Newton's
method, in float64). Sites draw their own inputs *and* their own ground truth, so their local optima differ widely.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from counterseal.algorithms.fedavg import FedAvg
from counterseal.algorithms.rule import CohortRule, UpdateMeta, make_rule
from counterseal.algorithms.solver import objective_scale
from counterseal.algorithms.statistics import UpdateStatistics

from .admm_world import Server, Site, kept

Float64 = npt.NDArray[np.float64]

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 1.0, "e": 5.0, "f": 2.0}
DECAY = 0.1


@dataclass(frozen=True)
class Problem:
    """min over w of sum_p weight_p f_p(w); gradients by site, the optimum, and the greatest curvature of any c_p f_p."""

    gradients: dict[str, Callable[[Any], Float64]]
    optimum: Float64
    curvature: float

    def distance(self, model: Any) -> float:
        return float(np.linalg.norm(model - self.optimum) / np.linalg.norm(self.optimum))


def sites_data(seed: int) -> dict[str, tuple[Float64, Float64]]:
    random = np.random.default_rng(seed)
    found = {}
    for site in WEIGHTS:
        x = random.standard_normal((40, 10)) * random.uniform(0.5, 1.5, 10)
        found[site] = (x, x @ (2 * random.standard_normal(10)))
    return found


def ridge() -> Problem:
    data = sites_data(0)
    hessians = {one: x.T @ x / len(x) + DECAY * np.eye(10) for one, (x, _) in data.items()}
    linear = {one: x.T @ y / len(x) for one, (x, y) in data.items()}
    total = sum(WEIGHTS[one] * hessians[one] for one in WEIGHTS)
    optimum = np.linalg.solve(total, sum(WEIGHTS[one] * linear[one] for one in WEIGHTS))

    def gradient(site: str) -> Callable[[Any], Float64]:
        return lambda z: np.asarray(hessians[site] @ z - linear[site])

    return Problem({one: gradient(one) for one in WEIGHTS}, np.asarray(optimum, np.float64), _greatest(hessians))


def logistic() -> Problem:
    data = {one: (x, (y > 0).astype(float)) for one, (x, y) in sites_data(1).items()}

    def slope(site: str, z: Any) -> Float64:
        x, y = data[site]
        return np.asarray(x.T @ (1 / (1 + np.exp(-(x @ z))) - y) / len(x) + DECAY * z)

    def hessian(site: str, z: Float64) -> Float64:
        x, _ = data[site]
        p = 1 / (1 + np.exp(-(x @ z)))
        return np.asarray((x.T * (p * (1 - p))) @ x / len(x) + DECAY * np.eye(10))

    w = np.zeros(10)
    for _ in range(30):
        w = w - np.linalg.solve(
            sum(WEIGHTS[one] * hessian(one, w) for one in WEIGHTS), sum(WEIGHTS[one] * slope(one, w) for one in WEIGHTS)
        )
    assert np.linalg.norm(sum(WEIGHTS[one] * slope(one, w) for one in WEIGHTS)) < 1e-12

    def gradient(site: str) -> Callable[[Any], Float64]:
        return lambda z: slope(site, z)

    bounds = {one: x.T @ x / (4 * len(x)) + DECAY * np.eye(10) for one, (x, _) in data.items()}
    return Problem({one: gradient(one) for one in WEIGHTS}, w, _greatest(bounds))


def _greatest(hessians: dict[str, Any]) -> float:
    return max(objective_scale(WEIGHTS, one) * float(np.linalg.eigvalsh(found)[-1]) for one, found in hessians.items())


PROBLEMS = {"ridge": ridge(), "logistic": logistic()}


def play(
    name: str,
    problem: Problem,
    rounds: int,
    *,
    rho: float,
    zeta: float = 0.0,
    steps: int = 1,
    share: float = 1.0,
    balanced: bool = False,
    present: Callable[[int, str], bool] = lambda _round, _site: True,
) -> float:
    """Return the distance after ``rounds``; rho and zeta in units of the curvature."""
    parameters = {"rho": rho * problem.curvature, "zeta": zeta * problem.curvature, "clip_norm": 1e6}
    if balanced:  # begins eight times too high, and may come down to rho
        parameters |= {"balance_mu": 5.0, "balance_tau": 1.5, "rho_min": parameters["rho"]}
        parameters["rho"] *= 8
    rule = make_rule(name, parameters)
    assert isinstance(rule, CohortRule)
    random = np.random.default_rng(9)
    server = Server(rule, WEIGHTS, np.zeros(10, np.float32))
    sites = {one: Site(rule, problem.gradients[one], objective_scale(WEIGHTS, one)) for one in server.members}
    for number in range(rounds):
        drawn = [one for one in server.members if random.random() < share] or ["a"]
        chosen = [one for one in drawn if present(number, one)]
        updates = {one: sites[one].work(number, server.model, steps) for one in chosen}
        for one, value in server.commit(updates).items():
            sites[one].settle(number, value)
            assert sites[one].mine == server.theirs[one]
    return problem.distance(server.model)


def federated_averaging(problem: Problem, rounds: int, *, rate: float, steps: int) -> float:
    model = np.zeros(10, np.float32)
    metas = [UpdateMeta(one) for one in WEIGHTS]
    coeff = FedAvg().coefficients(metas, [UpdateStatistics(True, 1.0)] * len(metas), None, WEIGHTS)
    for _ in range(rounds):
        deltas = []
        for one in WEIGHTS:
            z = model.copy()
            for _ in range(steps):
                z -= (rate / problem.curvature * problem.gradients[one](z)).astype(np.float32)
            deltas.append(z - model)
        model = FedAvg().combine({"delta": deltas}, coeff, model, {})[0].copy()
    return problem.distance(model)


# zeta = 0 needs rho above the curvature (ICEADMM: above twice); zeta > 0 lets rho be small, which is faster
SETTINGS = {"iiadmm": ((1.2, 0.0), (0.25, 0.5)), "iceadmm": ((2.2, 0.0), (0.25, 0.5))}

CASES = [
    (rule, problem, rho, zeta, steps, share, balanced)
    for rule, settings in SETTINGS.items()
    for problem in PROBLEMS
    for rho, zeta in settings
    for steps in ((1, 5, 20) if problem == "ridge" else (5,))
    for share in (1.0, 0.5)
    for balanced in (False, True)
    if zeta or steps == 5 or not balanced
]


@pytest.mark.parametrize(("rule", "problem", "rho", "zeta", "steps", "share", "balanced"), CASES)
def test_the_optimum_is_reached(
    rule: str, problem: str, rho: float, zeta: float, steps: int, share: float, balanced: bool
) -> None:
    rounds = int((60 if zeta else 250) / share)
    found = play(rule, PROBLEMS[problem], rounds, rho=rho, zeta=zeta, steps=steps, share=share, balanced=balanced)
    print(f"{rule} {problem} rho {rho} zeta {zeta} J {steps} share {share} balanced {balanced}: {found:.1e}")
    assert found < 1e-5


def test_balancing_makes_good_a_penalty_that_is_far_too_large() -> None:
    settings: dict[str, Any] = {"rho": 8 * 0.25, "zeta": 0.5, "steps": 5}
    found = play("iiadmm", PROBLEMS["ridge"], 100, **settings)
    print(f"iiadmm ridge rho 2.0 zeta 0.5 J 5, not balanced: {found:.1e}")
    assert found > 1e-3


@pytest.mark.parametrize("problem", PROBLEMS)
def test_federated_averaging_does_not_reach_it(problem: str) -> None:
    for steps, least in ((5, 1e-2), (20, 3e-2)):
        found = federated_averaging(PROBLEMS[problem], 400, rate=0.5, steps=steps)
        print(f"fedavg {problem} J {steps}: {found:.1e}")
        assert found > least


@pytest.mark.parametrize("rule", ["iiadmm", "iceadmm"])
def test_who_joins_late_is_counted_fully_and_who_never_comes_not_at_all(rule: str) -> None:
    whole = PROBLEMS["ridge"]
    late = play(rule, whole, 150, rho=0.25, zeta=0.5, steps=5, present=lambda number, one: one != "e" or number >= 60)
    assert late < 1e-5
    never = play(rule, whole, 150, rho=0.25, zeta=0.5, steps=5, present=lambda _, one: one != "e")
    assert never > 1e-2  # the optimum of the others
    data = {one: found for one, found in sites_data(0).items() if one != "e"}
    total = sum(WEIGHTS[one] * (x.T @ x / len(x) + DECAY * np.eye(10)) for one, (x, _) in data.items())
    others = np.linalg.solve(total, sum(WEIGHTS[one] * (x.T @ y / len(x)) for one, (x, y) in data.items()))
    again = Problem(whole.gradients, np.asarray(others, np.float64), whole.curvature)
    assert play(rule, again, 150, rho=0.25, zeta=0.5, steps=5, present=lambda _, one: one != "e") < 1e-5


def test_without_zeta_a_small_penalty_does_not_converge() -> None:
    assert play("iiadmm", PROBLEMS["ridge"], 100, rho=0.3, steps=20) > 1
    assert play("iceadmm", PROBLEMS["ridge"], 100, rho=1.2, steps=20) > 1


@pytest.mark.parametrize("rule", ["iiadmm", "iceadmm"])
def test_the_optimum_is_a_fixed_point(rule: str) -> None:
    problem = PROBLEMS["ridge"]
    made = make_rule(rule, {"rho": 1.0, "clip_norm": 1e6, "zeta": 2.0 * problem.curvature})
    assert isinstance(made, CohortRule)
    start = problem.optimum.astype(np.float32)
    server = Server(made, WEIGHTS, start)
    sign = 1 if rule == "iiadmm" else -1
    for one in server.members:
        scale = objective_scale(WEIGHTS, one)
        dual = (sign * scale * problem.gradients[one](start)).astype(np.float32)
        site = Site(made, problem.gradients[one], scale)
        site.mine = server.theirs[one] = kept(made.penalty, {"dual": dual, "primal": start})
        moved = site.work(0, start, steps=7)["delta"]
        assert np.linalg.norm(moved) < 1e-5 * np.linalg.norm(start)
    nobody = {"a": {name: np.zeros(10, np.float32) for name in made.planes}}
    server.commit(nobody)
    assert problem.distance(server.model) < 1e-6


def test_the_example_prints_what_it_says(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "examples" / "admm_convergence"
    command = [sys.executable, str(folder / "convergence.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plot.png").stat().st_size > 10_000 and (tmp_path / "results.txt").read_text() == done.stdout
    shown, now = (_last_column(text) for text in ((folder / "results.txt").read_text(), done.stdout))
    assert len(shown) == 12 and shown.keys() == now.keys()
    for name, value in now.items():  # another BLAS rounds otherwise
        assert value == pytest.approx(shown[name], rel=0.1, abs=1e-6), name


def _last_column(text: str) -> dict[str, float]:
    rows = [line for line in text.splitlines() if line.startswith(("FedAvg", "IIADMM", "ICEADMM"))]
    return {line[:52].strip(): float(line.split()[-1]) for line in rows}
