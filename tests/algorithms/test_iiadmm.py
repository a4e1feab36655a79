"""IIADMM: its local step against the formula and against the closed form of the argmin; parameters, coefficients, seams."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.algorithms.errors import (
    AlgorithmError,
    NonFiniteError,
    OrderError,
    RuleError,
    ScheduleError,
    ShapeError,
    WeightError,
)
from counterseal.algorithms.fedavg import FedAvg
from counterseal.algorithms.rule import CohortRule, UpdateMeta, make_rule, require_schedule
from counterseal.algorithms.solver import objective_scale
from counterseal.algorithms.statistics import UpdateStatistics

RULES = ("iiadmm", "iceadmm")
FULL = {"rho": 2.0, "clip_norm": 3.0, "zeta": 0.5}
BALANCED = {**FULL, "balance_mu": 10, "balance_tau": 2}


def rule_of(name: str = "iiadmm", **parameters: float) -> CohortRule:
    rule = make_rule(name, {"rho": 2.0, "clip_norm": 3.0, **parameters})
    assert isinstance(rule, CohortRule)
    return rule


def vectors(seed: int, count: int, size: int = 50) -> list[Any]:
    return list(np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32))


@given(st.integers(0, 1 << 30), st.floats(0.01, 100), st.one_of(st.just(0.0), st.floats(0.01, 100)), st.floats(0.1, 5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_step_is_the_argmin_of_the_linearised_lagrangian(seed: int, rho: float, zeta: float, scale: float) -> None:
    w, z, dual, gradient = vectors(seed, 4)
    moved = z.copy()
    rule_of(rho=rho, zeta=zeta).solver({"x": w}, {"x": dual}, rho=float(np.float32(rho)), scale=scale).step(
        "x", moved, gradient
    )
    w64, z64, l64, g64 = (one.astype(np.float64) for one in (w, z, dual, gradient))
    wanted = (rho * w64 + zeta * z64 + l64 - scale * g64) / (rho + zeta)
    size = 1 + np.abs(w64) + (zeta * np.abs(z64 - w64) + np.abs(l64) + scale * np.abs(g64)) / (rho + zeta)
    assert (np.abs(moved - wanted) <= 1e-6 * size).all()
    # <c g - l, x> + rho/2 |w - x|^2 + zeta/2 |x - z|^2 is stationary there
    slope = scale * g64 - l64 + rho * (moved - w64) + zeta * (moved - z64)
    assert (np.abs(slope) <= 1e-6 * size * (rho + zeta)).all()


def test_with_zeta_0_only_the_last_gradient_counts() -> None:
    w, start, dual, one, two = vectors(1, 5)
    solver = rule_of().solver({"x": w}, {"x": dual}, rho=2.0, scale=1.0)
    values = start.copy()
    solver.step("x", values, one)
    solver.step("x", values, two)
    assert np.allclose(values, w + (dual - two) / 2, atol=1e-6) and solver.planes == {}


@pytest.mark.parametrize("name", RULES)
def test_a_solver_reads_its_tensors_and_says_what_it_stepped(name: str) -> None:
    w, dual, values, gradient = vectors(2, 4)
    copies = [one.copy() for one in (w, dual, gradient)]
    solver = rule_of(name).solver({"x": w, "frozen": w}, {"x": dual, "frozen": dual}, rho=2.0, scale=1.0)
    assert solver.stepped == frozenset()
    solver.step("x", values, gradient)
    assert solver.stepped == {"x"}
    assert all((one == two).all() for one, two in zip((w, dual, gradient), copies, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_solvers_and_steps_that_cannot_be(name: str) -> None:
    w, dual = np.zeros(3, np.float32), np.zeros(3, np.float32)
    rule = rule_of(name)
    for parent, other, rho, scale, error in (
        ({"x": w}, {"y": dual}, 2.0, 1.0, ShapeError),
        ({"x": w}, {"x": dual[:2]}, 2.0, 1.0, ShapeError),
        ({"x": w}, {"x": dual.astype(np.float64)}, 2.0, 1.0, ShapeError),
        ({"x": w}, {"x": dual}, 0.0, 1.0, RuleError),
        ({"x": w}, {"x": dual}, 2.0, math.nan, RuleError),
    ):
        with pytest.raises(error):
            rule.solver(parent, other, rho=rho, scale=scale)  # type: ignore[arg-type]
    solver = rule.solver({"x": w}, {"x": dual}, rho=2.0, scale=1.0)
    wrong: list[tuple[str, Any, Any]] = [
        ("y", w.copy(), w),
        ("x", w[:2].copy(), w),
        ("x", w.copy(), w.astype(np.float64)),
        ("x", np.zeros((1, 3), np.float32), w),
    ]
    for tensor, values, gradient in wrong:
        with pytest.raises(ShapeError):
            solver.step(tensor, values, gradient)


@pytest.mark.parametrize("name", RULES)
def test_coefficients_clip_and_do_not_weigh(name: str) -> None:
    meta = [UpdateMeta("a"), UpdateMeta("b"), UpdateMeta("c")]
    stats = [UpdateStatistics(True, norm) for norm in (1.0, 3.0, 12.0)]
    found = rule_of(name).coefficients(meta, stats, None, {"a": 1, "b": 5, "c": 2, "d": 9})
    assert found.dtype == np.float32 and found.tolist() == [1.0, 1.0, 0.25]


@pytest.mark.parametrize("name", RULES)
def test_updates_that_have_no_coefficient(name: str) -> None:
    good, one = UpdateStatistics(True, 1.0), {"a": 1.0, "b": 1.0}
    cases: list[tuple[list[UpdateMeta], list[UpdateStatistics], dict[str, float], type[AlgorithmError]]] = [
        ([], [], {}, ShapeError),
        ([UpdateMeta("a")], [], one, ShapeError),
        ([UpdateMeta("b"), UpdateMeta("a")], [good, good], one, OrderError),
        ([UpdateMeta("a", 1), UpdateMeta("a", 2)], [good, good], one, OrderError),
        ([UpdateMeta("a")], [good], {}, WeightError),
        ([UpdateMeta("a")], [UpdateStatistics(False, math.inf)], one, NonFiniteError),
        ([UpdateMeta("a", staleness=1)], [good], one, ScheduleError),
    ]
    for meta, stats, weights, error in cases:
        with pytest.raises(error):
            rule_of(name).coefficients(meta, stats, None, weights)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("parameters", [{"rho": 1, "clip_norm": 2}, FULL, BALANCED, {**BALANCED, "rho_min": 0.5}])
def test_parameters_rebuild_the_rule(name: str, parameters: dict[str, float]) -> None:
    rule = make_rule(name, parameters)
    assert isinstance(rule, CohortRule) and make_rule(name, rule.parameters()) == rule
    assert {**rule.parameters(), **parameters} == rule.parameters()
    assert rule.balanced == ("balance_mu" in parameters) and rule.penalty == parameters["rho"]


def test_the_penalty_is_a_binary32_and_does_not_shrink_unless_told() -> None:
    rule = rule_of(rho=0.1, balance_mu=2, balance_tau=2)
    assert rule.penalty == float(np.float32(0.1)) != 0.1
    assert rule.parameters()["rho_min"] == 0.1


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"rho": None},
        {"clip_norm": None},
        {"more": 1.0},
        {"balance_mu": None},
        {"balance_tau": None},
        {"balance_mu": None, "balance_tau": None, "rho_min": 0.5},
        *[{"rho": bad} for bad in (0, -1.0, math.nan, math.inf, 1e30, 1e-30, True, "1")],
        *[{"clip_norm": bad} for bad in (0, -1.0, math.nan, math.inf, False, "1")],
        *[{"zeta": bad} for bad in (-1.0, math.nan, math.inf, True, "0")],
        *[{"balance_mu": bad} for bad in (0.5, 0, math.nan, math.inf)],
        *[{"balance_tau": bad} for bad in (1.0, 1 + 2.0**-30, 0.5, math.nan)],
        {"rho_min": 3.0},
        {"rho_max": 1.0},
        {"rho_min": 4.0, "rho_max": 1.0},
        {"rho_min": 0.0},
    ],
)
def test_parameters_that_make_no_rule(name: str, wrong: dict[str, Any]) -> None:
    make_rule(name, BALANCED)
    parameters = {key: value for key, value in {**BALANCED, **wrong}.items() if value is not None}
    with pytest.raises(RuleError) as error:
        make_rule(name, parameters)
    assert error.value.code == "rule"


def test_only_a_synchronous_schedule_suits() -> None:
    for name in RULES:
        require_schedule(rule_of(name), "synchronous")
        for kind in ("asynchronous", "fedbuff", ""):
            with pytest.raises(ScheduleError, match="asynchronous ADMM"):
                require_schedule(rule_of(name), kind)
    require_schedule(FedAvg(), "asynchronous")


def test_objectives_are_weighed_by_the_charter() -> None:
    weights = {"b": 3.0, "a": 1.0, "é": 8.0}
    assert [objective_scale(weights, one) for one in weights] == [0.75, 0.25, 2.0]
    assert objective_scale({one: value * 1e-9 for one, value in weights.items()}, "a") == pytest.approx(0.25, rel=1e-15)
    for broken, site in (({}, "a"), ({"a": 1.0}, "b"), ({"a": 0.0}, "a"), ({"a": 1.0, "b": math.nan}, "a")):
        with pytest.raises(WeightError):
            objective_scale(broken, site)


def test_one_round_adds_a_bounded_step_to_a_member_s_term() -> None:
    """Whatever is sent: |z - w| <= clip_norm and |l' - l| <= rho clip_norm, up to rounding."""
    rule = rule_of(clip_norm=0.5)
    w, dual, _ = vectors(3, 3)
    attack = np.full(50, -1e30, np.float32)
    norm = float(np.linalg.norm(attack.astype(np.float64)))
    a = rule.coefficients([UpdateMeta("a")], [UpdateStatistics(True, norm)], None, {"a": 1.0})
    after = rule.replay({"delta": attack}, float(a[0]), w, {"dual": dual, "primal": w}, 2.0)
    assert np.linalg.norm((after["primal"] - w).astype(float)) <= 0.5 * (1 + 1e-5)
    assert np.linalg.norm((after["dual"] - dual).astype(float)) <= 2 * 0.5 * (1 + 1e-5)
