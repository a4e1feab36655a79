"""One list of stages: what is refused, what comes out, and that it is the same code under both trust models."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, get_type_hints

import numpy as np
import pytest

from counterseal.privacy.errors import GridError, MechanismError, NoiseError
from counterseal.privacy.mechanism import Central, Clip, Local, Mechanism, Noise, Quantise
from counterseal.privacy.noise import DiscreteGaussian, DiscreteLaplace, Keystream

KEY = bytes(range(3, 35))
STAGES = (Clip("l2", 1.0), Quantise(), Noise("gaussian", 1.0))


@pytest.mark.parametrize(
    "stages",
    [
        (),
        STAGES[:2],
        STAGES[1:],
        (STAGES[0], STAGES[2]),
        (STAGES[0], STAGES[2], STAGES[1]),
        (STAGES[2], STAGES[0], STAGES[1]),
        (STAGES[1], STAGES[0], STAGES[2]),
        (*STAGES, STAGES[2]),
        (*STAGES, STAGES[0]),
        (STAGES[0], *STAGES),
        ("clip", "quantise", "noise"),
    ],
)
def test_another_list_is_no_mechanism(stages: Any) -> None:
    with pytest.raises(MechanismError, match="no mechanism"):
        Mechanism(stages, Local())


@pytest.mark.parametrize(
    ("clip", "noise"),
    [
        (Clip("l1", 1.0), Noise("gaussian", 1.0)),
        (Clip("l2", 1.0), Noise("laplace", 1.0)),
        (Clip("linf", 1.0), Noise("gaussian", 1.0)),  # type: ignore[arg-type]
        (Clip("l2", 1.0), Noise("none", 1.0)),  # type: ignore[arg-type]
        (Clip("l2", 0.0), Noise("gaussian", 1.0)),
        (Clip("l2", math.inf), Noise("gaussian", 1.0)),
        (Clip("l2", math.nan), Noise("gaussian", 1.0)),
        (Clip("l2", 1.0), Noise("gaussian", 0.0)),
        (Clip("l2", 1.0), Noise("gaussian", -1.0)),
        (Clip("l2", 1.0), Noise("gaussian", math.nan)),
        (Clip("l2", 1.0), Noise("gaussian", math.inf)),
        (Clip("l2", 1.0), Noise("gaussian", 1.0, 0)),  # type: ignore[arg-type]
        (Clip("l2", 1.0), Noise("gaussian", 1.0, 3)),  # type: ignore[arg-type]
    ],
)
def test_numbers_without_an_argument_are_refused(clip: Clip, noise: Noise) -> None:
    with pytest.raises(MechanismError):
        Mechanism((clip, Quantise(), noise), Local())


@pytest.mark.parametrize("trust", [None, "local", Local])
def test_a_mechanism_says_who_is_trusted(trust: Any) -> None:
    with pytest.raises(MechanismError, match="trust"):
        Mechanism(STAGES, trust)


def test_the_trust_model_goes_with_the_release() -> None:
    rows = np.ones((3, 5))
    here = Mechanism(STAGES, Local()).apply(rows, Keystream(KEY))
    there = Mechanism(STAGES, Central()).apply(rows, Keystream(KEY))
    assert {Local(), Central()} == {here.trust, there.trust} and isinstance(here.trust, Local)
    assert np.array_equal(here.values, there.values)  # the same list, the same code, the same bits
    from counterseal.privacy import central, output

    assert get_type_hints(output.mechanism)["return"] == Mechanism[Local]
    assert get_type_hints(central.mechanism)["return"] == Mechanism[Central]


@pytest.mark.parametrize("multiplier", [0.5, 0.7, 1.1, 31.7])
@pytest.mark.parametrize("sensitivity", [1, 2])
@pytest.mark.parametrize("dimensions", [1, 300, 10**6])
def test_the_noise_is_worth_the_multiplier_and_no_less(multiplier: float, sensitivity: Any, dimensions: int) -> None:
    stages = (Clip("l2", 0.1), Quantise(), Noise("gaussian", multiplier, sensitivity))
    plan = Mechanism(stages, Local()).plan(dimensions)
    assert isinstance(plan.noise, DiscreteGaussian) and plan.bound == sensitivity * plan.grid.bound
    assert Fraction(plan.noise.effective) >= Fraction(multiplier) * plan.bound
    assert plan.sigma_units <= multiplier * plan.bound * (1 + 1e-5)
    assert dimensions * Fraction(plan.noise.tv) <= Fraction(plan.tv) < 2.0**-80
    other = (Clip("l1", 0.1), Quantise(), Noise("laplace", multiplier, sensitivity))
    plan = Mechanism(other, Local()).plan(dimensions)
    assert isinstance(plan.noise, DiscreteLaplace) and plan.grid.norm == "l1"
    assert Fraction(plan.sigma_units) >= Fraction(multiplier) * plan.bound


def test_a_release_says_what_is_known_of_it() -> None:
    mechanism = Mechanism((Clip("l2", 2.0), Quantise(8192), Noise("gaussian", 0.5)), Local())
    release = mechanism.apply(np.zeros((0, 100_000 // 16)), Keystream(KEY), 4.0)
    plan = mechanism.plan(100_000 // 16)
    assert release.values.dtype == np.float32 and release.values.shape == (6250,)
    assert (release.tv, release.sigma_units, release.bound) == (plan.tv, plan.sigma_units, 8192)
    assert abs(release.values.std() / (0.5 * 2.0 / 4.0) - 1) < 0.05  # an empty batch is a release of noise


def test_values_are_the_rows_sum_and_the_noise_and_nothing_else() -> None:
    mechanism = Mechanism((Clip("l2", 1.0), Quantise(), Noise("gaussian", 1.0)), Local())
    rows = np.random.default_rng(0).normal(size=(50, 30))
    plan, stream = mechanism.plan(30), Keystream(KEY)
    total = plan.grid.quantise(rows, stream).sum(axis=0) + plan.noise.sample(30, stream)
    expected = (total * (plan.grid.unit / 7.0)).astype(np.float32)
    assert np.array_equal(mechanism.apply(rows, Keystream(KEY), 7.0).values, expected)


def test_micro_batches_make_the_same_release() -> None:
    mechanism = Mechanism(STAGES, Local())
    rows = np.random.default_rng(0).normal(size=(64, 30)).astype(np.float32)
    plan, stream = mechanism.plan(30), Keystream(KEY)
    total = plan.grid.total(*(plan.summed(rows[i : i + 16], stream) for i in range(0, 64, 16)))
    assert np.array_equal(plan.released(total, stream).values, mechanism.apply(rows, Keystream(KEY)).values)


@pytest.mark.parametrize("rows", [np.zeros(3), np.zeros((1, 2, 3))])
def test_rows_are_rows(rows: Any) -> None:
    with pytest.raises(MechanismError, match="rows"):
        Mechanism(STAGES, Local()).apply(rows, Keystream(KEY))


def test_what_the_grid_cannot_hold_is_refused_before_data() -> None:
    with pytest.raises(NoiseError):
        Mechanism((Clip("l2", 1.0), Quantise(), Noise("gaussian", 1e9)), Local()).plan(10)
    with pytest.raises(GridError):
        Mechanism((Clip("l2", 1.0), Quantise(64), Noise("gaussian", 1.0)), Local()).plan(10**6)
