"""The partition loses nothing, repeats nothing, and is skewed as its concentrations say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.runtime.demo.partition import partition
from counterseal.runtime.errors import ConfigError


def labels_of(seed: int, classes: int, n: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, classes, n)


@given(
    seed=st.integers(0, 2**32),
    classes=st.integers(1, 12),
    n=st.integers(60, 400),
    sites=st.integers(1, 12),
    alpha_class=st.floats(1e-3, 1e4),
    alpha_size=st.floats(0.5, 1e4),
)
@settings(max_examples=150, deadline=None)
def test_disjoint_complete_sorted(
    seed: int, classes: int, n: int, sites: int, alpha_class: float, alpha_size: float
) -> None:
    labels = labels_of(seed, classes, n)
    parts = partition(labels, sites, seed, alpha_class=alpha_class, alpha_size=alpha_size, minimum=0)
    assert len(parts) == sites
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts)


@given(seed=st.integers(0, 2**32), minimum=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_every_site_has_the_minimum(seed: int, minimum: int) -> None:
    parts = partition(labels_of(1, 10, 400), 4, seed, minimum=minimum)
    assert min(len(part) for part in parts) >= minimum


def test_it_is_a_pure_function() -> None:
    labels = labels_of(1, 10, 500)
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    one, two, three = (partition(labels, 4, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))
    assert np.random.random() == expected  # the global generator was not touched


def spread(alpha_class: float, alpha_size: float) -> tuple[float, float]:
    """Return how unlike the sites' classes and sizes are, as mean standard deviations over thirty draws."""
    labels = labels_of(2, 10, 3000)
    mixes, sizes = [], []
    for seed in range(30):
        parts = partition(labels, 5, seed, alpha_class=alpha_class, alpha_size=alpha_size, minimum=1, tries=1000)
        shares = np.stack([np.bincount(labels[part], minlength=10) / len(part) for part in parts])
        mixes.append(shares.std(axis=0).mean())
        sizes.append(np.std([len(part) / 3000 for part in parts]))
    return float(np.mean(mixes)), float(np.mean(sizes))


def test_each_concentration_does_its_own_work() -> None:
    """alpha_class rules the classes and alpha_size the sizes: swapping the two would be noticed."""
    unlike, equal = spread(1.0, 1e6), spread(1e6, 1e6)
    uneven = spread(1e6, 2.0)
    assert unlike[0] > 10 * equal[0]
    assert uneven[1] > 10 * equal[1]
    assert uneven[0] < unlike[0] / 5


def test_the_size_law_is_dirichlet() -> None:
    """With alike classes a site's share is W_i: mean 1/N, variance p (1 - p) / (alpha + 1), alpha the total."""
    labels = labels_of(3, 2, 4000)
    shares = np.array(
        [len(partition(labels, 4, seed, alpha_class=1e7, alpha_size=8.0, minimum=0)[0]) / 4000 for seed in range(1500)]
    )
    variance = 0.25 * 0.75 / 9
    assert shares.mean() == pytest.approx(0.25, abs=4 * (variance / 1500) ** 0.5)
    assert shares.var() == pytest.approx(variance, rel=0.2)


def test_tiny_concentrations_do_not_break_it() -> None:
    parts = partition(labels_of(4, 3, 200), 6, 1, alpha_class=1e-300, alpha_size=1e-300, minimum=0)
    assert sum(len(part) for part in parts) == 200


BAD: list[tuple[dict[str, float], str]] = [
    ({"sites": 0}, "at least 1"),
    ({"sites": 60}, "cannot give 60 sites 8"),
    ({"alpha_class": 0.0}, "above 0"),
    ({"alpha_size": float("nan")}, "above 0"),
    ({"alpha_size": 0.01, "tries": 3}, "no draw of 3"),
    ({"minimum": -1}, "at least 0"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_what_cannot_be_cut_is_said(change: dict[str, float], words: str) -> None:
    arguments = {"sites": 5, "seed": 1} | change
    with pytest.raises(ConfigError, match=words):
        partition(labels_of(1, 10, 200), **arguments)  # type: ignore[arg-type]


def test_no_labels() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        partition(np.zeros(0, np.int64), 1, 1)
