"""DP-FedAvg at the server: what it computes, and that its table says how bad it is for few sites."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from counterseal.privacy import central
from counterseal.privacy.central import aggregate, expected_noise, mechanism
from counterseal.privacy.errors import GridError, MechanismError
from counterseal.privacy.noise import Keystream

from .noise_laws import mp, mpf

KEY = bytes(range(9, 41))


def updates(count: int, dimensions: int, norm: float) -> list[Any]:
    rows = np.random.default_rng(count).normal(size=(count, dimensions))
    return list((rows * norm / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float32))


def test_the_mean_of_many_sites_comes_through() -> None:
    rows = updates(2000, 20, 0.5)
    found = aggregate(rows, 20, 2000, how=mechanism(1.0, 1.0), stream=Keystream(KEY))
    assert np.allclose(found.values, np.mean(rows, axis=0), atol=6 * expected_noise(2000, 1, 1.0, 1.0))


def test_no_site_counts_for_more_than_the_bound() -> None:
    plan = mechanism(1.0, 1.0).plan(50)
    for row in [*updates(5, 50, 1e6), np.full(50, np.nan, np.float32)]:
        alone = plan.summed(row[None], Keystream(KEY))
        assert sum(x * x for x in alone.tolist()) <= plan.bound**2


def test_the_divisor_is_the_public_number_of_sites() -> None:
    rows = updates(10, 40, 1.0)
    few = aggregate(rows, 40, 10, how=mechanism(1.0, 1.0), stream=Keystream(KEY)).values
    more = aggregate(rows, 40, 40, how=mechanism(1.0, 1.0), stream=Keystream(KEY)).values
    assert np.allclose(few, 4 * more, rtol=1e-6)


def test_sites_that_stayed_away_are_missing_and_nobody_counts_twice() -> None:
    nobody = aggregate([], 5000, 10, how=mechanism(1.0, 2.0), stream=Keystream(KEY)).values
    assert abs(nobody.std() / 0.2 - 1) < 0.05
    with pytest.raises(MechanismError, match="more updates"):
        aggregate(updates(4, 5, 1.0), 5, 3, how=mechanism(1.0, 1.0), stream=Keystream(KEY))
    with pytest.raises(GridError):
        aggregate([np.zeros(4, np.float32)], 5, 3, how=mechanism(1.0, 1.0), stream=Keystream(KEY))


def test_the_noise_has_the_norm_that_is_expected() -> None:
    zeros = [np.zeros(10_000, np.float32)] * 3
    found = aggregate(zeros, 10_000, 10, how=mechanism(0.5, 4.8), stream=Keystream(KEY)).values
    assert abs(np.linalg.norm(found) / expected_noise(10, 10_000, 4.8, 0.5) - 1) < 0.03


def delta(epsilon: float, multiplier: float, rounds: int) -> Any:
    """The exact delta of ``rounds`` Gaussian releases (they compose to one of multiplier / sqrt(rounds))."""
    mu = mp.sqrt(rounds) / mpf(multiplier)
    return mp.ncdf(mu / 2 - epsilon / mu) - mp.exp(epsilon) * mp.ncdf(-mu / 2 - epsilon / mu)


TABLE = re.findall(r"^ +(\d+) +(1e-\d) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+)$", str(central.__doc__), re.MULTILINE)


def test_the_table_has_rows() -> None:
    assert len(TABLE) == 6 and "fifty times the signal" in str(central.__doc__)


@pytest.mark.parametrize("row", TABLE)
def test_the_table_says_how_bad_it_is(row: tuple[str, ...]) -> None:
    sites, at, epsilon, multiplier, each, norm = (float(cell) for cell in row)
    assert delta(epsilon, multiplier * 1.001, 100) <= at * 1.001 and delta(epsilon, multiplier * 0.998, 100) > at
    assert math.isclose(each, expected_noise(int(sites), 1, multiplier, 1.0), abs_tol=0.6e-4)
    assert math.isclose(norm, expected_noise(int(sites), 10_000, multiplier, 1.0), abs_tol=0.06)
