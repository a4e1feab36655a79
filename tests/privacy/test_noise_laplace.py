"""The discrete Laplace: its tables against mpmath's law, its samples against chi-square, tails and OpenDP."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import opendp.prelude as dp
import pytest
from scipy.stats import binom, ks_2samp

from counterseal.privacy.errors import NoiseError
from counterseal.privacy.noise import DiscreteLaplace, Keystream

from .noise_laws import Laplace, distance, laplace_terms, mp, mpf, p_value, sampled, support

KEY = bytes(range(1, 33))
FALSE_ALARM = 1e-6
BOUND = mpf(2) ** -100


@pytest.mark.parametrize("scale", [1.0, 4 / 3, 16.0, 100.1, 128.0])
def test_every_probability_of_one_table(scale: float) -> None:
    terms, law = laplace_terms(scale), Laplace(scale)
    values = support(terms)
    assert len(terms) == 1 and values.stop > 84 * scale
    greatest, half = distance(terms, law, values)
    assert greatest < BOUND * mpf(2) ** -20
    outside = 1 - mp.fsum(law(x) for x in values)
    assert 0 < half + outside / 2 <= DiscreteLaplace(scale).tv < BOUND


@pytest.mark.parametrize(("scale", "digits"), [(128.1, 2), (200.5, 2), (1e5, 2), (123_456.7, 2), (3e5, 3)])
def test_probabilities_of_digits_put_together(scale: float, digits: int) -> None:
    terms, law = laplace_terms(scale), Laplace(scale)
    assert len(terms) == digits
    base = terms[1][0]
    values = {round(scale * i / 4) for i in range(-140, 140)} | {base * i + j for i in (-3, 0, 2) for j in range(-2, 3)}
    step = 1 if digits == 2 else 12
    worst = max(abs(sampled(terms, x) / law(x) - 1) for x in sorted(values)[::step])
    assert worst < mpf(2) ** -60  # relative, out to probabilities of 2^-67
    assert all(abs(sampled(terms, x) - law(x)) < BOUND for x in sorted(values)[::step])
    assert DiscreteLaplace(scale).tv < 2.0**-100


@pytest.mark.parametrize("scale", [1.0, 128.0, 128.5, 1e3, 1e5, 1e9, 2.0**40])
def test_variances_add_up(scale: float) -> None:
    """With the law of each digit checked above, this is the base of each digit."""
    terms = laplace_terms(scale)
    whole = mpf(0)
    for factor, table in terms:
        own = sum(p * (table.first + i) ** 2 for i, p in enumerate(table.probabilities()))
        whole += factor**2 * mpf(own) / mpf(2) ** 128
    ratio = mp.exp(-1 / mpf(scale))
    assert abs(whole / (2 * ratio / (1 - ratio) ** 2) - 1) < BOUND
    assert DiscreteLaplace(scale).tv < 2.0**-100


@pytest.mark.parametrize("scale", [1.0, 16.3, 1e5, 2.0**40])
def test_chi_square(scale: float) -> None:
    found = DiscreteLaplace(scale).sample(2_000_000, Keystream(KEY))
    edges = np.unique(np.round(scale * np.log(np.arange(1, 500) / 500)).astype(np.int64))
    edges = np.unique(np.concatenate([edges, -edges - 1]))  # every cell ends with its edge
    ratio = math.exp(-1 / scale)
    below = np.where(edges < 0, ratio ** (-edges.astype(float)), (1 + ratio) - ratio ** (edges.astype(float) + 1)) / (
        1 + ratio
    )
    expected = np.diff(below, prepend=0.0, append=1.0) * len(found)
    assert p_value(np.bincount(np.searchsorted(edges, found), minlength=len(expected)), expected) > FALSE_ALARM


@pytest.mark.parametrize("scale", [1e3, 1e5, 2.0**40])
def test_residues_are_uniform(scale: float) -> None:
    found = DiscreteLaplace(scale).sample(1_000_000, Keystream(KEY))
    for modulus in (2, 7, 64):  # off by less than (modulus / scale)^2
        counts = np.bincount(found % modulus, minlength=modulus)
        assert p_value(counts, np.full(modulus, len(found) / modulus)) > FALSE_ALARM


@pytest.mark.parametrize("scale", [2.0, 100.0, 1e5])
def test_tails(scale: float) -> None:
    found = np.abs(DiscreteLaplace(scale).sample(4_000_000, Keystream(KEY)))
    ratio = math.exp(-1 / scale)
    for reach in (5.0, 10.0, 13.0):
        edge = math.ceil(reach * scale)
        probability = 2 * ratio**edge / (1 + ratio)
        low, high = (
            binom.ppf(FALSE_ALARM / 2, len(found), probability),
            binom.isf(FALSE_ALARM / 2, len(found), probability),
        )
        assert low <= int((found >= edge).sum()) <= high, reach


@pytest.mark.parametrize(("scale", "count"), [(2.5, 200_000), (1e5, 100_000)])
def test_opendp_draws_from_the_same_law(scale: float, count: int) -> None:
    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    theirs = np.array(dp.m.make_laplace(domain, dp.l1_distance(T="i64"), scale=scale)([0] * count))
    ours = DiscreteLaplace(scale).sample(20 * count, Keystream())
    assert ks_2samp(theirs, ours).pvalue > 1e-9
    cells = np.unique(np.quantile(ours, np.arange(1, 40) / 40, method="nearest"))
    share = np.bincount(np.searchsorted(cells, ours), minlength=len(cells) + 1) / len(ours)
    assert p_value(np.bincount(np.searchsorted(cells, theirs), minlength=len(share)), share * count) > 1e-9


def test_worth_is_the_next_float() -> None:
    assert DiscreteLaplace.worth(Fraction(10)).scale == 10.0 == DiscreteLaplace(10.0).effective
    assert Fraction(DiscreteLaplace.worth(Fraction(100, 3)).scale) > Fraction(100, 3)


@pytest.mark.parametrize("scale", [0.0, 0.999, -5.0, 2.0**40 * 1.001, math.inf, math.nan])
def test_scales_outside_the_tables_are_refused(scale: float) -> None:
    with pytest.raises(NoiseError, match="grid units"):
        DiscreteLaplace(scale)
