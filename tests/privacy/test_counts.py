"""Noisy counts: noised by name, clamped, debited; nothing exact gets out, not even in an error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from counterseal.privacy.accounting.filter import Filter
from counterseal.privacy.accounting.rdp import Cost, rdp_cost
from counterseal.privacy.accounting.statement import stated_epsilon
from counterseal.privacy.counts import counts_event, noisy_counts
from counterseal.privacy.errors import AdjacencyError, MechanismError, NoiseError
from counterseal.privacy.noise.keystream import Keystream
from counterseal.privacy.noise.laplace import DiscreteLaplace

KEY = bytes(range(32))


def noisy(counts: dict[str, int], multiplier: float = 5.0, contribution: int = 2, key: bytes = KEY) -> dict[str, int]:
    with Keystream(key) as stream:
        return dict(noisy_counts(counts, contribution=contribution, noise_multiplier=multiplier, stream=stream))


def test_the_noise_is_the_discrete_laplace_of_multiplier_times_contribution() -> None:
    found = noisy({"right": 900, "examples": 1_000})
    with Keystream(KEY) as stream:
        examples, right = DiscreteLaplace(math.nextafter(10.0, math.inf)).sample(2, stream).tolist()
    assert found == {"examples": 1_000 + examples, "right": 900 + right}
    assert found != {"examples": 1_000, "right": 900}


def test_the_order_in_which_counts_come_says_nothing() -> None:
    assert list(noisy({"b": 10**6, "a": 7})) == ["a", "b"]
    assert noisy({"b": 10**6, "a": 7}) == noisy({"a": 7, "b": 10**6})


def test_no_count_is_below_zero() -> None:
    found = noisy({f"class-{k:03}": 0 for k in range(400)})
    assert min(found.values()) == 0 and max(found.values()) > 0
    assert all(isinstance(count, int) for count in found.values())


def test_each_release_has_noise_of_its_own() -> None:
    names = {f"{k}": 10**6 for k in range(50)}
    with Keystream() as one, Keystream() as other:
        first = noisy_counts(names, contribution=1, noise_multiplier=50.0, stream=one)
        second = noisy_counts(names, contribution=1, noise_multiplier=50.0, stream=other)
    assert first != second


def test_the_spread_is_as_wide_as_was_debited() -> None:
    scale = 20.0
    counts = noisy({f"{k:05}": 10**6 for k in range(20_000)}, multiplier=scale, contribution=1)
    errors = np.abs(np.array(list(counts.values())) - 10**6)
    # The mean of |X| is about the scale, 20 / sqrt(20,000) = 0.14 off; the key is fixed.
    assert errors.mean() == pytest.approx(scale, abs=0.7)


@pytest.mark.parametrize("count", [-1, 2**53 + 1, 0.5, True, None])
def test_a_bad_count_is_refused_and_not_told(count: Any) -> None:
    with pytest.raises(MechanismError) as refused:
        noisy({"right": count})
    assert str(count) not in str(refused.value).replace("from 0 to 2^53", "")


def test_what_makes_no_release_is_refused() -> None:
    with pytest.raises(MechanismError, match="no counts"):
        noisy({})
    with pytest.raises(MechanismError, match="contribution"):
        noisy({"a": 1}, contribution=0)
    with pytest.raises(NoiseError):
        noisy({"a": 1}, multiplier=0.1, contribution=1)


@pytest.mark.parametrize(("adjacency", "epsilon"), [("add-remove", 0.1), ("replace-one", 0.2)])
def test_the_debit_is_one_over_the_multiplier_for_each_release(adjacency: str, epsilon: float) -> None:
    event = counts_event(2, contribution=2, noise_multiplier=10.0, releases=3, adjacency=adjacency, unit="record")
    stated = stated_epsilon([event], delta=0.0, adjacency=adjacency, unit="record")
    assert stated.epsilon == pytest.approx(3 * epsilon, rel=1e-3) and stated.epsilon >= 3 * epsilon
    assert 0 < stated.delta < 1e-25  # the sampler's error, never left out
    assert Filter(1.0, 1e-6).allows(rdp_cost(event)) and rdp_cost(event) != Cost()


def test_counts_have_no_bound_between_all_datasets() -> None:
    with pytest.raises(AdjacencyError, match="without bound"):
        counts_event(2, contribution=2, noise_multiplier=10.0, releases=1, adjacency="any", unit="site")
    with pytest.raises(AdjacencyError):
        counts_event(2, contribution=2, noise_multiplier=10.0, releases=1, adjacency="", unit="record")
