"""The discrete Gaussian: its tables against mpmath's law, its samples against chi-square, tails and OpenDP."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import opendp.prelude as dp
import pytest
from scipy.stats import binom, ks_2samp, norm

from counterseal.privacy.errors import NoiseError
from counterseal.privacy.noise import DiscreteGaussian, Keystream

from .noise_laws import UNIT, Gaussian, distance, floats, gaussian_terms, mp, mpf, p_value, sampled, support

KEY = bytes(range(32))
FALSE_ALARM = 1e-6
BOUND = mpf(2) ** -100


# ---- exact probabilities


@pytest.mark.parametrize("sigma", [16.0, 16.1, 100 / 3, 1000.0, 1024.0])
def test_every_probability_of_one_table(sigma: float) -> None:
    terms, law = gaussian_terms(sigma), Gaussian(sigma)
    values = support(terms)
    assert values.stop > 13 * sigma and values.start < -13 * sigma and len(terms) == 1
    greatest, half = distance(terms, law, values)
    assert greatest < BOUND * mpf(2) ** -20
    outside = 1 - mp.fsum(law(x) for x in values)
    assert 0 < half + outside / 2 <= DiscreteGaussian(sigma).tv < BOUND


def test_every_probability_of_one_convolution() -> None:
    sigma = 1030.3
    terms, law = gaussian_terms(sigma), Gaussian(sigma)
    assert len(terms) == 2
    greatest, half = distance(terms, law, support(terms))
    assert greatest < BOUND * mpf(2) ** -20
    assert half + mpf(2) ** -120 <= DiscreteGaussian(sigma).tv < BOUND


@pytest.mark.parametrize(("sigma", "count"), [(1e5, 300), (99_999.9, 300), (123_456.7, 300), (2.0**24 + 0.5, 8)])
def test_probabilities_of_wide_noise(sigma: float, count: int) -> None:
    terms, law = gaussian_terms(sigma), Gaussian(sigma)
    k = terms[1][0]
    values = {round(sigma * 12 * i / count) for i in range(-count, count)} | set(
        range(-k // 2, k // 2 + 2, 1 + k // 100)
    )
    worst = max(
        abs(sampled(terms, x) / law(x) - 1) for x in sorted(values)[:: 1 if count > 8 else 8] if abs(x) < 5 * sigma
    )
    assert worst < mpf(2) ** -90  # relative, out to probabilities of 2^-40
    assert all(abs(sampled(terms, x) - law(x)) < BOUND for x in sorted(values)[:: 1 if count > 8 else 16])


@pytest.mark.parametrize("sigma", [16.0, 1000.0, 1024.1, 5e4, 1e5, 1e6, 1e9, 2.0**40, 2.0**40 / 3])
def test_variances_add_up_and_every_split_is_smooth(sigma: float) -> None:
    terms = gaussian_terms(sigma)
    variances = [
        sum(p * (table.first + i) ** 2 for i, p in enumerate(table.probabilities())) / mpf(UNIT) for _, table in terms
    ]
    whole = mp.fsum(factor**2 * v for (factor, _), v in zip(terms, variances, strict=True))
    assert abs(whole / mpf(sigma) ** 2 - 1) < BOUND
    for i in range(len(terms) - 1):  # sigma^2 = a^2 + k^2 b^2 and t = a b / sigma, in units of this level's factor
        a, k = mp.sqrt(variances[i]), terms[i + 1][0] // terms[i][0]
        rest = mp.fsum(f**2 * v for (f, _), v in zip(terms[i + 1 :], variances[i + 1 :], strict=True))
        b = mp.sqrt(rest) / terms[i + 1][0]
        assert a * b / mp.sqrt(a**2 + (k * b) ** 2) >= 3
    assert DiscreteGaussian(sigma).tv < 2.0**-100


# ---- samples


def drawn(sigma: float, count: int, key: int = 0) -> npt.NDArray[np.int64]:
    return DiscreteGaussian(sigma).sample(count, Keystream(KEY[:-1] + bytes([key])))


@pytest.mark.parametrize("sigma", [16.0, 40.7, 1000.0])
def test_chi_square_of_every_value(sigma: float) -> None:
    found = drawn(sigma, 4_000_000)
    terms = gaussian_terms(sigma)
    values = support(terms)
    counts = np.bincount(found - values.start, minlength=len(values))
    assert p_value(counts, floats(terms) * len(found)) > FALSE_ALARM


@pytest.mark.parametrize("sigma", [1030.0, 1e5, 2.0**31, 2.0**40])
def test_chi_square_of_ranges(sigma: float) -> None:
    found = drawn(sigma, 2_000_000)
    inner = np.round(norm.ppf(np.arange(1, 1000) / 1000) * sigma).astype(np.int64)
    cumulative = norm.cdf((inner + 0.5) / sigma)  # of N_Z up to and including each edge: off by less than 1 / sigma^2
    expected = np.diff(cumulative, prepend=0.0, append=1.0) * len(found)
    assert p_value(np.bincount(np.searchsorted(inner, found), minlength=1000), expected) > FALSE_ALARM


@pytest.mark.parametrize("sigma", [1030.0, 1e5, 2.0**40])
def test_residues_of_a_convolution_are_uniform(sigma: float) -> None:
    found = drawn(sigma, 1_000_000)
    for modulus in {2, 3, 64, *(factor for factor, _ in gaussian_terms(sigma)[1:2])}:
        counts = np.bincount(found % modulus, minlength=modulus)
        assert p_value(counts, np.full(modulus, len(found) / modulus)) > FALSE_ALARM


@pytest.mark.parametrize("sigma", [16.0, 1000.0, 1e5])
def test_tails(sigma: float) -> None:
    found, law = np.abs(drawn(sigma, 8_000_000)), Gaussian(sigma)
    for reach in (3.0, 4.0, 4.5, 5.0):
        edge = math.ceil(reach * sigma)
        outside = float(2 * mp.fsum(law(x) for x in range(edge, edge + round(4 * sigma)))) if sigma <= 1000 else None
        probability = outside if outside is not None else float(2 * norm.sf((edge - 0.5) / sigma))
        seen = int((found >= edge).sum())
        low, high = (
            binom.ppf(FALSE_ALARM / 2, len(found), probability),
            binom.isf(FALSE_ALARM / 2, len(found), probability),
        )
        assert low <= seen <= high, reach


@pytest.mark.parametrize("sigma", [16.0, 1e5])
def test_the_rarest_words_give_the_rarest_values(sigma: float) -> None:
    for value, sign in ((0, -1), (2**64 - 1, 1)):
        stream: Any = Constant(value)
        found = DiscreteGaussian(sigma).sample(4, stream)
        assert (sign * found >= 13 * sigma).all()  # torch's float32 normal ends at 5.77


class Constant:
    def __init__(self, word: int) -> None:
        self.word = np.uint64(word)

    def fill(self, out: npt.NDArray[np.uint64]) -> None:
        out.fill(self.word)

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        return np.full(count, self.word)


@pytest.mark.parametrize("sigma", [16.0, 1e5])
def test_neighbours_in_a_vector_are_independent(sigma: float) -> None:
    found = drawn(sigma, 2_000_000)
    cells = np.searchsorted(norm.ppf(np.arange(1, 16) / 16) * sigma, found)
    share = np.bincount(cells, minlength=16) / len(cells)
    for distance_apart in (1, 2, 1 << 15):
        pairs = np.bincount(cells[:-distance_apart] * 16 + cells[distance_apart:], minlength=256)
        expected = np.outer(share, share).ravel() * pairs.sum()
        assert p_value(pairs, expected) > FALSE_ALARM


@pytest.mark.parametrize(("sigma", "count"), [(16.5, 200_000), (1000.0, 100_000), (1e5, 100_000)])
def test_opendp_draws_from_the_same_law(sigma: float, count: int) -> None:
    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    theirs = np.array(dp.m.make_gaussian(domain, dp.l2_distance(T=float), scale=sigma)([0] * count))
    ours = DiscreteGaussian(sigma).sample(20 * count, Keystream())  # fresh keys on both sides, hence the lower rate
    assert ks_2samp(theirs, ours).pvalue > 1e-9
    cells = np.unique(np.quantile(ours, np.arange(1, 40) / 40, method="nearest"))
    share = np.bincount(np.searchsorted(cells, ours), minlength=len(cells) + 1) / len(ours)
    assert p_value(np.bincount(np.searchsorted(cells, theirs), minlength=len(share)), share * count) > 1e-9


# ---- what it is worth


@pytest.mark.parametrize("sigma", [16.0, 16.5, 1e3, 123456.789, 2.0**40])
def test_effective_is_rounded_down(sigma: float) -> None:
    effective = DiscreteGaussian(sigma).effective
    assert Fraction(effective) ** 2 <= Fraction(sigma) ** 2 - 9 < Fraction(math.nextafter(effective, math.inf)) ** 2


@pytest.mark.parametrize("wanted", [1.0, 15.7, 16.0, 5060 * 0.8, 1e5, 2.0**39])
def test_worth_is_enough_and_no_more(wanted: float) -> None:
    noise = DiscreteGaussian.worth(wanted)
    assert noise.effective >= wanted
    assert noise.sigma == 16.0 or noise.effective <= wanted * (1 + 1e-15)


@pytest.mark.parametrize("sigma", [0.0, -16.0, 15.999, 2.0**40 * 1.001, math.inf, math.nan])
def test_scales_outside_the_argument_are_refused(sigma: float) -> None:
    with pytest.raises(NoiseError, match="grid units"):
        DiscreteGaussian(sigma)


@pytest.mark.parametrize("wanted", [2.0**41, math.inf, math.nan])
def test_no_noise_is_worth_too_much(wanted: float) -> None:
    with pytest.raises(NoiseError):
        DiscreteGaussian.worth(wanted)
