"""DP-FedAvg: what one site changes is at most K, exactly; every bit can be recomputed; and every bad input is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from counterseal.algorithms import dp_fedavg
from counterseal.algorithms.dp_fedavg import MARGIN, NOISE, DPFedAvg
from counterseal.algorithms.errors import NonFiniteError, OrderError, RuleError, ShapeError, WeightError
from counterseal.algorithms.fedavg import NormClippedFedAvg
from counterseal.algorithms.rule import AggregationRule, CohortRule, NoisyRule, UpdateMeta, Workspace, make_rule
from counterseal.algorithms.statistics import Admission, UpdateStatistics

RULE = DPFedAvg(1.0, 5.0, 4)


def measured(row: Any) -> UpdateStatistics:
    admission = Admission([row.size])
    admission.feed(row)
    return admission.result()


def metas(count: int) -> list[UpdateMeta]:
    return [UpdateMeta(f"site-{i}") for i in range(count)]


def coefficients(rule: DPFedAvg, rows: list[Any]) -> Any:
    meta = metas(len(rows))
    return rule.coefficients(meta, [measured(row) for row in rows], None, {one.site: 2.5 for one in meta})


def squared(values: Any) -> int:
    return sum(int(one) ** 2 for one in values.tolist())


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st.lists(st.lists(floats, min_size=6, max_size=6), min_size=1, max_size=4)


@given(vectors, st.integers(0, 3), st.floats(1e-6, 1e6), st.sampled_from([0.01, 0.9, 5.0, 100.0]), st.integers(4, 300))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_one_site_changes_the_sum_by_at_most_k(
    values: list[list[float]], who: int, clip: float, noise: float, sites: int
) -> None:
    assume(who < len(values))
    rule, rows = DPFedAvg(clip, noise, sites), [np.array(one, np.float32) for one in values]
    none = np.zeros(6, np.float32)
    coeff = coefficients(rule, rows)
    whole = rule.total(rows, coeff, none)
    assert np.array_equal(whole, np.trunc(whole))
    others = [row for place, row in enumerate(rows) if place != who]
    rest = rule.total(others, np.delete(coeff, who), none)
    assert squared(whole - rest) <= rule.fineness**2
    # The tolerance that an auditor leaves a coefficient does not break the bound.
    assert squared(rule.total([rows[who]], coeff[who : who + 1] * np.float32(1 + 2.0**-16), none)) <= rule.fineness**2


@pytest.mark.parametrize("size", [1, 1000, 200_000])
@pytest.mark.parametrize("scale", [1.0 - 2.0**-24, 1.0, 1.0 + 2.0**-23, 1e3, 1e30])
def test_the_bound_is_kept_where_it_is_tight(size: int, scale: float) -> None:
    """Updates just at the bound and far above it: most of K is used, and never more."""
    rule = DPFedAvg(0.37, 0.01, 7)
    drawn = np.random.default_rng(size).normal(size=size)
    row = (drawn / np.linalg.norm(drawn) * 0.37 * scale).astype(np.float32)
    found = rule.total([row], coefficients(rule, [row]), np.zeros(size, np.float32))
    used = math.sqrt(squared(found)) / rule.fineness
    assert 1 - 2 * MARGIN - math.sqrt(size) / rule.fineness < used <= 1


def test_without_the_margin_the_bound_would_not_hold() -> None:
    """Rounding alone takes some update above K, so the margin is needed: a test that could not fail proves nothing."""
    rule, none, over = DPFedAvg(0.37, 0.01, 7), np.zeros(1, np.float32), 0
    for step in range(200):
        row = np.array([0.37 * (1 + step)], np.float32)
        bare = np.array([0.37 / float(abs(row[0])) / 7], np.float32)
        if squared(rule.total([row], coefficients(rule, [row]), none)) > rule.fineness**2:
            pytest.fail("over the bound")
        scaled = float(row[0]) * float(bare[0]) * 7 * rule.fineness / 0.37
        over += scaled > rule.fineness
    assert over > 20


def test_every_bit_against_whole_numbers_and_fractions() -> None:
    draw = np.random.default_rng(3)
    rule = DPFedAvg(0.7, 3.0, 5)
    rows = [draw.normal(size=50).astype(np.float32) * 10**exponent for exponent in (-3, -1, 0)]
    parent = draw.normal(size=50).astype(np.float32)
    noise = draw.integers(-(10**6), 10**6, 50).astype(np.float32)
    coeff = coefficients(rule, rows)
    out, state = rule.combine({"delta": rows}, coeff, parent, {NOISE: [noise]})
    assert state == {}
    units = Fraction(rule.fineness) / Fraction(0.7)
    for place in range(50):
        total = int(noise[place])
        for row, one in zip(rows, coeff, strict=True):
            exact = Fraction(float(row[place])) * Fraction(float(one)) * 5 * units
            assert abs(exact - round(exact)) > 1e-6  # far from where binary64 could decide otherwise
            total += math.trunc(exact)
        step = np.float32(total * (0.7 / (rule.fineness * 5)))
        assert out[place] == parent[place] + step


def test_no_cut_changes_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(4)
    rows = [draw.normal(size=999).astype(np.float32) for _ in range(4)]
    parent, noise = rows.pop(), draw.integers(-999, 999, 999).astype(np.float32)
    coeff = coefficients(RULE, rows)
    whole, _ = RULE.combine({"delta": rows}, coeff, parent, {NOISE: [noise]})
    room = Workspace.of(999)
    pieces = [
        RULE.combine({"delta": [row[a:b] for row in rows]}, coeff, parent[a:b], {NOISE: [noise[a:b]]}, workspace=room)[
            0
        ].copy()
        for a, b in [(0, 1), (1, 400), (400, 400), (400, 999)]
    ]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()
    monkeypatch.setattr(dp_fedavg, "_SPAN", 7)
    again, _ = RULE.combine({"delta": rows}, coeff, parent, {NOISE: [noise]})
    assert again.tobytes() == whole.tobytes()


def test_it_is_the_mean_of_clipped_updates() -> None:
    draw = np.random.default_rng(5)
    rows = [draw.normal(size=300).astype(np.float32) * scale for scale in (0.001, 1.0, 4.0)]
    rule, plain = DPFedAvg(1.0, 0.5, 3), NormClippedFedAvg(1.0)
    weights = {one.site: 1.0 for one in metas(3)}
    stats = [measured(row) for row in rows]
    parent, none = np.zeros(300, np.float32), np.zeros(300, np.float32)
    mine, _ = rule.combine({"delta": rows}, rule.coefficients(metas(3), stats, None, weights), parent, {NOISE: [none]})
    other, _ = plain.combine({"delta": rows}, plain.coefficients(metas(3), stats, None, weights), parent, {})
    assert np.allclose(mine, other, atol=2e-4)


def test_who_is_absent_is_missing_and_the_divisor_stays() -> None:
    row = np.ones(3, np.float32) / 2
    (one,) = coefficients(DPFedAvg(10.0, 1.0, 8), [row])
    assert one == np.float32((1 - MARGIN) / 8)


@pytest.mark.parametrize("noise", [2.0**-10, 0.5, 1.0, 5.43, 42.25, 100.0, 4096.0])
def test_the_noise_fits_binary32_and_the_grid_is_no_coarser_than_that_asks(noise: float) -> None:
    rule = DPFedAvg(1.0, noise, 10)
    k = rule.fineness
    assert k & (k - 1) == 0 and 23 * noise * k < 2**24 and noise * k >= 16
    assert k == 1 << 22 or 2 * k * noise > 2**19


def test_a_norm_beyond_all_numbers_counts_for_nothing() -> None:
    rows = [np.full(2000, 3e38, np.float32), np.ones(2000, np.float32)]
    rule = DPFedAvg(1e-6, 1.0, 500)
    huge, other = coefficients(rule, rows)
    assert huge == 0 and other > 0


def test_what_it_says_of_itself() -> None:
    rule: AggregationRule = RULE
    assert isinstance(rule, NoisyRule)
    assert not isinstance(rule, CohortRule)
    assert not isinstance(NormClippedFedAvg(1.0), NoisyRule)
    assert (RULE.name, RULE.planes, RULE.state_planes, RULE.needs_cohort) == (
        "dp-fedavg",
        ("delta",),
        ("noise",),
        False,
    )
    assert make_rule("dp-fedavg", RULE.parameters()) == RULE


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": 0},
        {"sites": 2.0},
        {"sites": True},
        {"sites": 10_001},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"clip_norm": -1.0},
        {"clip_norm": math.inf},
        {"clip_norm": "1"},
        {"more": 1},
    ],
    ids=str,
)
def test_bad_parameters(changes: dict[str, Any]) -> None:
    with pytest.raises(RuleError):
        make_rule("dp-fedavg", {"clip_norm": 1.0, "noise_multiplier": 1.0, "sites": 3, **changes})


def test_bad_weights_and_sites() -> None:
    meta, stats = metas(3), [UpdateStatistics(True, 1.0)] * 3
    with pytest.raises(WeightError, match="weights differ"):
        RULE.coefficients(meta, stats, None, {"site-0": 1.0, "site-1": 1.0, "site-2": 1.5})
    with pytest.raises(WeightError, match="weights differ"):  # also where the odd one is absent
        RULE.coefficients(meta[:1], stats[:1], None, {"site-0": 1.0, "site-1": 2.0})
    with pytest.raises(WeightError, match="more than 2"):
        DPFedAvg(1.0, 5.0, 2).coefficients(meta, stats, None, {one.site: 1.0 for one in meta})
    with pytest.raises(OrderError):
        RULE.coefficients(meta[::-1], stats, None, {one.site: 1.0 for one in meta})
    with pytest.raises(OrderError, match="twice"):
        RULE.coefficients([UpdateMeta("a", 0), UpdateMeta("a", 1)], stats[:2], None, {"a": 1.0})
    with pytest.raises(NonFiniteError):
        RULE.coefficients(meta, [UpdateStatistics(False, math.inf)] * 3, None, {one.site: 1.0 for one in meta})


def test_bad_planes() -> None:
    row, coeff = np.ones(4, np.float32), np.array([0.2], np.float32)
    good: dict[str, Any] = {"planes": {"delta": [row]}, "coeff": coeff, "parent": row, "state": {NOISE: [row]}}
    RULE.combine(**good)
    for changes, error in (
        ({"planes": {}}, ShapeError),
        ({"state": {}}, ShapeError),  # never an aggregate without noise
        ({"state": {NOISE: [row, row]}}, ShapeError),
        ({"state": {NOISE: [row[:3]]}}, ShapeError),
        ({"state": {NOISE: [row.astype(np.float64)]}}, ShapeError),
        ({"planes": {"delta": []}, "coeff": coeff[:0]}, ShapeError),
        ({"coeff": np.array([0.2, 0.2], np.float32)}, ShapeError),
        ({"coeff": np.array([0.26], np.float32)}, NonFiniteError),
        ({"coeff": np.array([-0.1], np.float32)}, NonFiniteError),
        ({"coeff": np.array([np.nan], np.float32)}, NonFiniteError),
        ({"planes": {"delta": [row * 6]}}, NonFiniteError),  # clipped by no coefficient
        ({"planes": {"delta": [row * np.float32(np.nan)]}}, NonFiniteError),
        ({"parent": row * np.float32(np.inf)}, NonFiniteError),
    ):
        with pytest.raises(error):
            RULE.combine(**{**good, **changes})
