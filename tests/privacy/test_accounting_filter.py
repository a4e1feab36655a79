"""Costs and the filter: upper bounds, additive, and safe against whoever chooses the next release after seeing the last."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import mpmath
import pytest
from dp_accounting import rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.privacy.accounting.events import Event, GaussianEvent, LaplaceEvent
from counterseal.privacy.accounting.filter import Filter
from counterseal.privacy.accounting.rdp import COLUMNS, ORDERS, UNBOUNDED, Cost, rdp_cost, renyi_divergence
from counterseal.privacy.accounting.statement import stated_epsilon
from counterseal.privacy.errors import AccountingError
from counterseal.tests.privacy.accounting_oracle import discrete_laplace_renyi, gaussian_epsilon, renyi_of, sampled_pair


def gaussian(noise: float, steps: int = 1, rate: float = 1.0, adjacency: str = "add-remove", tv: float = 0.0) -> Event:
    unit = "site" if adjacency == "any" else "record"
    return GaussianEvent(noise, steps, sampling_rate=rate, adjacency=adjacency, unit=unit, tv=tv)


def laplace(epsilon: float, steps: int = 1, adjacency: str = "add-remove", tv: float = 0.0) -> Event:
    return LaplaceEvent(1 / epsilon, steps, adjacency=adjacency, unit="record", tv=tv)


# ---- costs


@pytest.mark.parametrize(
    ("rate", "noise"), [(1e-6, 0.5), (1e-4, 1.0), (0.01, 0.3), (0.01, 1.0), (0.5, 20.0), (0.999, 2.0)]
)
def test_sampled_steps_cost_what_exact_arithmetic_says_and_no_less(rate: float, noise: float) -> None:
    with mpmath.workdps(60):
        q, z = mpmath.mpf(rate), mpmath.mpf(noise)
        for order, cost in zip(ORDERS, rdp_cost(gaussian(noise, rate=rate)).renyi, strict=True):
            terms = (
                mpmath.binomial(order, k) * (1 - q) ** (order - k) * q**k * mpmath.exp(k * (k - 1) / (2 * z * z))
                for k in range(order + 1)
            )
            exact = mpmath.log(mpmath.fsum(terms)) / (order - 1)
            assert exact <= cost <= exact * (1 + mpmath.mpf(2) ** -29)


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.2, 3.0), (1.0, 0.7)])
def test_costs_are_those_of_dp_accounting(rate: float, noise: float) -> None:
    import dp_accounting

    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    theirs = rdp.RdpAccountant(orders=list(ORDERS)).compose(event, 77)._rdp
    assert rdp_cost(gaussian(noise, 77, rate)).renyi == pytest.approx(tuple(theirs), rel=1e-8)


@pytest.mark.parametrize("adjacency", ["add-remove", "replace-one"])
@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.1, 0.8), (0.5, 2.0), (0.95, 3.0)])
def test_costs_are_at_least_the_integral(rate: float, noise: float, adjacency: str) -> None:
    pair = sampled_pair(rate, noise, adjacency, 200_001)
    for order in (2, 3, 5, 8):
        cost = renyi_divergence(gaussian(noise, rate=rate, adjacency=adjacency), order)
        exact = renyi_of(pair, order)
        assert exact * (1 - 1e-6) <= cost
        if adjacency == "add-remove":
            assert cost <= exact * (1 + 1e-6)


def test_exchanging_costs_four_times_without_sampling_and_nearly_so_with() -> None:
    one, other = (rdp_cost(gaussian(2.0, adjacency=adjacency)).renyi for adjacency in ("add-remove", "replace-one"))
    assert other == pytest.approx([4 * number for number in one])
    sampled = rdp_cost(gaussian(2.0, rate=1 - 1e-9, adjacency="replace-one")).renyi
    assert sampled == pytest.approx(other, rel=1e-6)


def test_what_holds_between_all_datasets_costs_its_own_sensitivity() -> None:
    assert rdp_cost(gaussian(2.0, adjacency="any")) == rdp_cost(gaussian(2.0))


@pytest.mark.parametrize("epsilon", [1e-7, 1e-3, 0.1, 1.0, 5.0, 50.0, 1000.0])
def test_laplace_costs_more_than_the_continuous_and_the_discrete_law(epsilon: float) -> None:
    cost = rdp_cost(laplace(epsilon))
    assert epsilon <= cost.pure <= epsilon * (1 + 1e-8)
    for a, renyi in zip(ORDERS, cost.renyi, strict=True):
        with mpmath.workdps(60):  # Mironov 2017, proposition 6
            e = mpmath.mpf(epsilon)
            first = mpmath.mpf(a) / (2 * a - 1) * mpmath.exp((a - 1) * e)
            second = mpmath.mpf(a - 1) / (2 * a - 1) * mpmath.exp(-a * e)
            assert mpmath.log(first + second) / (a - 1) <= renyi <= min(epsilon, a * epsilon**2 / 2) * (1 + 1e-8)
        if 0.01 < epsilon < 20:
            for shift in (1, 2, 30):
                assert discrete_laplace_renyi(shift / epsilon, shift, a) <= renyi * (1 + 1e-9)


def test_a_continuous_formula_would_be_too_small_for_discrete_noise() -> None:
    order, epsilon = 3, 1.0
    continuous = math.log(order / 5 * math.exp(2 * epsilon) + 2 / 5 * math.exp(-3 * epsilon)) / 2
    assert continuous < discrete_laplace_renyi(1 / epsilon, 1, order)


events = st.one_of(
    st.builds(gaussian, st.floats(0.3, 50), st.integers(1, 100), st.sampled_from([0.01, 0.3, 1.0])),
    st.builds(laplace, st.floats(0.01, 2), st.integers(1, 10), tv=st.sampled_from([0.0, 1e-20])),
)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(one=events, other=events)
def test_costs_add_and_grow(one: Event, other: Event) -> None:
    a, b = rdp_cost(one), rdp_cost(other)
    for x, y, total in zip(a.numbers, b.numbers, (a + b).numbers, strict=True):
        assert min(UNBOUNDED, x + y) <= total <= (x + y) * (1 + 1e-15)
    assert a + b == b + a and a + Cost() == a
    doubled = rdp_cost(one.times(2))
    assert doubled.numbers == pytest.approx((a + a).numbers, rel=1e-12)


def test_a_cost_is_a_row_of_numbers_that_json_can_write() -> None:
    cost = rdp_cost(gaussian(1.0, 10, 0.1)) + rdp_cost(laplace(0.1))
    assert len(COLUMNS) == len(cost.numbers) and cost.pure == UNBOUNDED
    assert Cost(tuple(json.loads(json.dumps(cost.numbers, allow_nan=False)))) == cost
    assert (cost + cost).pure == UNBOUNDED


@pytest.mark.parametrize(
    "numbers", [(), (0.0,) * (len(COLUMNS) - 1), (-1.0,) * len(COLUMNS), (math.nan,) * len(COLUMNS)]
)
def test_a_row_of_another_shape_is_no_cost(numbers: tuple[float, ...]) -> None:
    with pytest.raises(AccountingError):
        Cost(numbers)


# ---- the filter


caps = st.builds(Filter, st.floats(0.2, 20), st.sampled_from([1e-3, 1e-5, 1e-8]))


@settings(max_examples=150, derandomize=True, deadline=None)
@given(cap=caps, noises=st.lists(st.floats(0.5, 100), min_size=1, max_size=60))
def test_a_gaussian_sequence_never_exceeds_the_cap(cap: Filter, noises: list[float]) -> None:
    """For Gaussian steps the truth is a closed form of the sum of 1/noise^2, also if they were chosen on the way."""
    total, mu_squared = Cost(), 0.0
    for noise in noises:
        more = total + rdp_cost(gaussian(noise))
        if cap.allows(more):
            total, mu_squared = more, mu_squared + noise**-2
    truth = gaussian_epsilon(cap.delta, math.sqrt(mu_squared)) if mu_squared else 0.0
    assert truth <= cap.epsilon_of(total) and truth <= cap.epsilon


@settings(max_examples=25, derandomize=True, deadline=None)
@given(cap=caps, chosen=st.lists(events, min_size=1, max_size=4))
def test_the_filter_never_says_less_than_the_statement_of_the_same_sequence(cap: Filter, chosen: list[Event]) -> None:
    total = Cost()
    for event in chosen:
        total = total + rdp_cost(event)
    stated = stated_epsilon(
        [replace(event, tv=0.0) for event in chosen], delta=cap.delta, adjacency="add-remove", unit="record"
    )
    pure = all(isinstance(event, LaplaceEvent) for event in chosen)  # order infinity: equal, but for the last digit
    assert stated.epsilon <= cap.epsilon_of(total) * (1.001 if pure else 1.0)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(cap=caps, one=events, other=events)
def test_the_filter_is_monotone_and_of_one_mind(cap: Filter, one: Event, other: Event) -> None:
    a, both = rdp_cost(one), rdp_cost(one) + rdp_cost(other)
    assert cap.epsilon_of(a) <= cap.epsilon_of(both)
    assert cap.allows(a) or not cap.allows(both)
    assert cap.allows(both) or cap.epsilon_of(both) > cap.epsilon
    assert not cap.allows(both) or cap.epsilon_of(both) <= cap.epsilon * 1.001
    wider = Filter(cap.epsilon * 2, cap.delta)
    assert wider.allows(both) or not cap.allows(both) or both.tv > 0  # what tv may be shrinks with e^epsilon


@dataclass(frozen=True)
class Adversary:
    """Asks for randomised responses; how noisy the next one is depends on how well the last ones went."""

    eager: float
    meek: float
    goal: float
    """Rests once its evidence is at least this much: then nothing may spoil it."""


def worst_of(adversary: Adversary, cap: Filter, depth: int) -> float:
    """Return the exact hockey-stick divergence of the filtered interaction at the cap's epsilon, over all transcripts."""
    costs = {e: rdp_cost(laplace(e)) for e in (adversary.eager, adversary.meek)}

    def share(loss: float, log_p: float, total: Cost, left: int) -> float:
        done = loss >= adversary.goal or left == 0
        epsilon = adversary.eager if loss >= 0 else adversary.meek
        more = total + costs[epsilon]
        if done or not cap.allows(more):
            return math.exp(log_p) * max(0.0, -math.expm1(cap.epsilon - loss))
        yes = -math.log1p(math.exp(-epsilon))
        up_ = share(loss + epsilon, log_p + yes, more, left - 1)
        return up_ + share(loss - epsilon, log_p + yes - epsilon, more, left - 1)

    return share(0.0, 0.0, Cost(), depth)


@pytest.mark.parametrize("adversary", [Adversary(0.5, 0.5, 9.0), Adversary(0.6, 0.2, 1.3), Adversary(0.2, 0.6, 1.3)])
@pytest.mark.parametrize("cap", [Filter(1.0, 0.1), Filter(1.2, 0.02)])
def test_an_adversary_who_looks_before_asking_gets_no_more_than_delta(adversary: Adversary, cap: Filter) -> None:
    assert worst_of(adversary, cap, 14) <= cap.delta


def test_the_exact_adversary_would_notice_a_filter_that_is_too_generous() -> None:
    class Generous(Filter):
        def allows(self, total: Cost) -> bool:
            return Filter(self.epsilon * 3, self.delta).allows(total)

    assert worst_of(Adversary(0.5, 0.5, 9.0), Generous(1.0, 0.1), 14) > 0.1


def test_a_population_of_delta_0_permits_pure_noise_and_nothing_else() -> None:
    cap = Filter(1.0, 0.0)
    third = rdp_cost(laplace(0.33))
    assert cap.allows(third + third + third) and not cap.allows(third + third + third + third)
    assert cap.epsilon_of(third + third) == pytest.approx(0.66, rel=1e-3)
    assert not cap.allows(rdp_cost(gaussian(1000.0)))
    assert cap.epsilon_of(rdp_cost(gaussian(1000.0))) == math.inf
    assert not cap.allows(rdp_cost(laplace(0.1, tv=1e-30)))


def test_pure_noise_alone_is_summed_in_a_population_with_delta_too() -> None:
    cap = Filter(1.0, 1e-6)
    assert cap.allows(rdp_cost(laplace(0.999))) and not cap.allows(rdp_cost(laplace(1.001)))


def test_the_samplers_errors_may_use_a_hundredth_of_delta() -> None:
    cap = Filter(2.0, 1e-5)
    most = 1e-7 / (1 + math.exp(2.0))
    sound = rdp_cost(gaussian(10.0, tv=most * (1 - 1e-6)))
    assert cap.allows(sound)
    assert not cap.allows(sound + sound) and cap.epsilon_of(sound + sound) == math.inf
    assert cap.allows(rdp_cost(gaussian(10.0, tv=1e7 * 1e6 * 2.0**-100)))


def test_each_order_has_its_share_of_delta() -> None:
    """One order's budget, by the formula, with delta less the sampler's hundredth split over eight."""
    cap = Filter(2.0, 1e-5)
    share = 0.99 * 1e-5 / 8
    for k, a in enumerate(ORDERS):
        budget = 2.0 - math.log((a - 1) / a) + (math.log(share) + math.log(a)) / (a - 1)
        if budget <= 0:
            continue
        for part, allowed in ((1 - 1e-9, True), (1 + 1e-9, False)):
            row = [UNBOUNDED] * (len(ORDERS) + 1) + [0.0]
            row[k] = budget * part
            assert cap.allows(Cost(tuple(row))) is allowed


def test_an_empty_filter_is_empty() -> None:
    assert Filter(1.0, 1e-5).epsilon_of(Cost()) == 0.0 and Filter(1.0, 1e-5).allows(Cost())


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 0.1), (math.inf, 0.1), (1.0, 1.0), (1.0, -1e-9)]
)
def test_a_cap_that_caps_nothing_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(AccountingError, match="cap"):
        Filter(epsilon, delta)


def test_the_filter_and_the_costs_load_neither_torch_nor_dp_accounting() -> None:
    import subprocess
    import sys

    code = (
        "import sys, counterseal.privacy.accounting.filter;"
        "assert not {'torch', 'dp_accounting', 'scipy', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
