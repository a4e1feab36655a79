"""Output perturbation: the sensitivity holds whatever training did, and costs nothing where its bound was right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from counterseal.privacy.errors import MechanismError, PrivacyError
from counterseal.privacy.noise import Keystream
from counterseal.privacy.output import admm_bound, mechanism, plan_of, release

KEY = bytes(range(5, 37))
KINDS: list[Any] = ["gaussian", "laplace"]


def delta(z: Any, centre: Any, kind: Any, clip_norm: float, multiplier: float) -> Any:
    return release(z, centre, kind=kind, clip_norm=clip_norm, noise_multiplier=multiplier, stream=Keystream(KEY))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wild", [1e-3, 1.0, 1e9, 5e37])
def test_any_two_datasets_are_twice_the_bound_apart_at_most(kind: Any, wild: float) -> None:
    """The integers before noise, for results as far apart as floats go."""
    plan = mechanism(kind, 0.25, 1.0).plan(200)
    generator = np.random.default_rng(1)
    power = 1 if kind == "laplace" else 2
    for _ in range(20):
        z = generator.normal(size=200)
        pair = [plan.summed((sign * z * wild)[None].astype(np.float32), Keystream(KEY)) for sign in (1, -1)]
        apart = sum(abs(a - b) ** power for a, b in zip(pair[0].tolist(), pair[1].tolist(), strict=True))
        assert apart <= plan.bound**power and plan.bound == 2 * plan.grid.bound


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_the_scale_of_twice_the_bound(kind: Any) -> None:
    zero = np.zeros(40_000, dtype=np.float32)
    found = delta(zero, zero, kind, 0.5, 3.0).astype(float)
    spread = found.std() if kind == "gaussian" else np.abs(found).mean()
    assert abs(spread / (3.0 * 2 * 0.5) - 1) < 0.03
    assert found.dtype == float and abs(found.mean()) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_what_leaves_is_a_multiple_of_the_grid_unit(kind: Any) -> None:
    """The low bits of the result are not among them."""
    z = np.random.default_rng(2).normal(size=300).astype(np.float32)
    plan = mechanism(kind, 1.0, 0.5).plan(300)
    found = delta(z, np.zeros_like(z), kind, 1.0, 0.5).astype(np.float64) / plan.grid.unit
    assert np.abs(found - np.round(found)).max() < 1e-2


def test_the_centre_is_taken_away() -> None:
    centre = np.random.default_rng(3).normal(size=500).astype(np.float32)
    step = np.full(500, 0.001, dtype=np.float32)
    assert np.allclose(
        delta(centre + step, centre, "gaussian", 1.0, 0.01),
        delta(step, np.zeros_like(step), "gaussian", 1.0, 0.01),
        atol=1e-3,
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_result_that_is_not_finite_is_released_as_noise_around_zero(bad: float) -> None:
    z, zero = np.ones(4000, dtype=np.float32), np.zeros(4000, dtype=np.float32)
    z[7] = bad
    with np.errstate(all="raise"):
        found = delta(z, zero, "gaussian", 1.0, 1.0)
    assert np.isfinite(found).all() and np.array_equal(found, delta(zero, zero, "gaussian", 1.0, 1.0))


def test_a_linearised_admm_step_is_not_clipped() -> None:
    """z = w + (lambda - g) / rho with |g| <= C is within B = C / rho of c = w + lambda / rho."""
    rho, clip, generator = 10.0, 1.5, np.random.default_rng(4)
    w, dual, g = generator.normal(size=(3, 1000))
    g *= 0.99 * clip / np.linalg.norm(g)
    z, centre = w + (dual - g) / rho, w + dual / rho
    bound = admm_bound(clip, rho)
    plan = mechanism("gaussian", bound, 1.0).plan(1000)
    back = plan.summed((z - centre)[None], Keystream(KEY)) * plan.grid.unit
    assert np.allclose(back, -g / rho, atol=plan.grid.unit)


@pytest.mark.parametrize("numbers", [(0.0, 1.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan), (-1.0, 1.0)])
def test_a_bound_needs_a_penalty(numbers: tuple[float, float]) -> None:
    with pytest.raises(MechanismError):
        admm_bound(*numbers)


def test_terms_name_their_mechanism() -> None:
    assert plan_of("output-gaussian", 1.0, 1.0, 10).grid.norm == "l2"
    assert plan_of("output-laplace", 1.0, 1.0, 10).grid.norm == "l1"
    for name in ("dp-sgd", "gaussian", ""):
        with pytest.raises(MechanismError, match="output perturbation"):
            plan_of(name, 1.0, 1.0, 10)


@pytest.mark.parametrize(
    ("z", "centre"),
    [
        (np.zeros(3, np.float32), np.zeros(4, np.float32)),
        (np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32)),
        (np.zeros(0, np.float32), np.zeros(0, np.float32)),
    ],
)
def test_other_shapes_are_refused(z: Any, centre: Any) -> None:
    with pytest.raises(MechanismError, match="shape"):
        delta(z, centre, "gaussian", 1.0, 1.0)


@pytest.mark.parametrize(
    ("kind", "clip_norm", "multiplier"), [("cauchy", 1.0, 1.0), ("gaussian", 0.0, 1.0), ("laplace", 1.0, 0.0)]
)
def test_other_numbers_are_refused(kind: Any, clip_norm: float, multiplier: float) -> None:
    z = np.zeros(3, np.float32)
    with pytest.raises(PrivacyError):
        delta(z, z, kind, clip_norm, multiplier)
