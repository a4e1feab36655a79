"""ICEADMM: its local steps against APPFL's formulas, and that the plane ``dual`` carries what APPFL sends as the dual itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.algorithms.errors import ShapeError
from counterseal.algorithms.rule import Cohort, CohortRule, make_rule


def rule_of(**parameters: float) -> CohortRule:
    rule = make_rule("iceadmm", {"rho": 2.0, "clip_norm": 3.0, **parameters})
    assert isinstance(rule, CohortRule)
    return rule


def vectors(seed: int, count: int, size: int = 50) -> list[Any]:
    return list(np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32))


@given(st.integers(0, 1 << 30), st.integers(1, 8), st.floats(0.1, 10), st.one_of(st.just(0.0), st.floats(0.1, 10)))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_steps_are_those_of_primal_and_dual(seed: int, steps: int, rho: float, zeta: float) -> None:
    w, dual, *gradients = vectors(seed, 2 + steps)
    rho = float(np.float32(rho))
    rule = rule_of(rho=rho, zeta=zeta)
    solver = rule.solver({"x": w}, {"x": dual}, rho=rho, scale=0.5)
    values = w.copy()
    z, l64 = w.astype(np.float64), dual.astype(np.float64)
    for gradient in gradients:
        solver.step("x", values, gradient)
        z = z - (rho * (z - w) + 0.5 * gradient + l64) / (zeta + rho)
        l64 = l64 + rho * (z - w)
    # with random gradients the recursion grows in z and l together: compare at its own scale
    scale = 1 + np.abs(z).max() + np.abs(l64).max() / rho
    assert np.abs(values - z).max() <= 1e-5 * steps * scale
    gained = solver.planes["dual"]["x"]
    assert np.abs(dual + rho * gained - l64).max() <= 1e-5 * steps * scale * rho
    after = rule.replay({"delta": values - w, "dual": gained}, 1.0, w, {"dual": dual, "primal": w}, rho)
    assert np.abs(after["dual"] - l64).max() <= 1e-5 * steps * scale * rho
    assert np.abs(after["primal"] - z).max() <= 1e-5 * steps * scale


def test_clipping_scales_both_halves_towards_where_they_were() -> None:
    w, dual, delta, gained = vectors(1, 4)
    after = rule_of().replay({"delta": delta, "dual": gained}, 0.25, w, {"dual": dual, "primal": w}, 2.0)
    assert np.allclose(after["primal"], w + delta / 4, atol=1e-6)
    assert np.allclose(after["dual"], dual + 2 * gained / 4, atol=1e-6)


def test_the_server_adds_the_dual() -> None:
    w, delta, gained = (np.full(2, value, np.float32) for value in (1.0, 0.5, 0.25))
    zero = np.zeros(2, np.float32)
    state = {"dual": [zero, zero], "primal": [w, w]}
    cohort = Cohort(("a", "b"), (0,), (1.0, 3.0))
    planes: Any = {"delta": [delta], "dual": [gained]}
    out, after = rule_of().combine(planes, np.ones(1, np.float32), w, state, cohort=cohort)
    assert out.tolist() == [1 + (0.5 + 0.25) / 4] * 2
    assert after["dual"][0].tolist() == [0.25] * 2 and after["primal"][0].tolist() == [1.5] * 2


def test_one_local_step_is_iiadmm_s_with_the_other_sign() -> None:
    w, dual, gradient = vectors(4, 3)
    ours = rule_of().solver({"x": w}, {"x": dual}, rho=2.0, scale=1.0)
    other = make_rule("iiadmm", {"rho": 2.0, "clip_norm": 3.0})
    assert isinstance(other, CohortRule)
    theirs = other.solver({"x": w}, {"x": -dual}, rho=2.0, scale=1.0)
    one, two = w.copy(), w.copy()
    ours.step("x", one, gradient)
    theirs.step("x", two, gradient)
    assert np.allclose(one, two, atol=1e-6)
    assert np.allclose(ours.planes["dual"]["x"], one - w, atol=1e-6)


def test_both_planes_are_needed() -> None:
    rule = rule_of()
    assert rule.planes == ("delta", "dual")
    w = np.zeros(3, np.float32)
    for planes in ({"delta": w}, {"dual": w}, {"delta": w, "dual": w[:2]}):
        with pytest.raises(ShapeError):
            rule.replay(planes, 1.0, w, {"dual": w, "primal": w}, 2.0)  # type: ignore[arg-type]
