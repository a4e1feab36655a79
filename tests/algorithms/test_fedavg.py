"""Federated averaging: coefficients against exact fractions, bounded influence, and every bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.algorithms.errors import NonFiniteError, OrderError, RuleError, ShapeError, WeightError
from counterseal.algorithms.fedavg import FedAvg, NormClippedFedAvg
from counterseal.algorithms.rule import (
    AggregationRule,
    CohortRule,
    NoisyRule,
    UpdateMeta,
    Workspace,
    make_rule,
    require_site_order,
    rules,
)
from counterseal.algorithms.statistics import Admission, UpdateStatistics

VECTORS = Path(__file__).parents[1] / "vectors" / "arithmetic" / "coefficients.json"

weight = st.floats(1e-6, 1e6)
norms = st.floats(0, 1e30)


def metas(n: int) -> list[UpdateMeta]:
    return [UpdateMeta(f"site-{i:03}") for i in range(n)]


def stats(values: list[float]) -> list[UpdateStatistics]:
    return [UpdateStatistics(True, value) for value in values]


@given(st.lists(st.tuples(weight, norms), min_size=1, max_size=12), st.floats(1e-3, 1e3))
@settings(max_examples=200, deadline=None)
def test_coefficients_are_share_times_clip_rounded_once(pairs: list[tuple[float, float]], clip: float) -> None:
    meta = metas(len(pairs))
    weights = {one.site: pair[0] for one, pair in zip(meta, pairs, strict=True)}
    found = NormClippedFedAvg(clip).coefficients(meta, stats([norm for _, norm in pairs]), None, weights)
    assert found.dtype == np.float32 and found.shape == (len(pairs),)
    total = sum(Fraction(w) for w, _ in pairs)
    for value, (w, norm) in zip(found, pairs, strict=True):
        exact = Fraction(w) / total
        if norm > clip:
            exact *= Fraction(clip) / Fraction(norm)
        # one rounding to binary32 (half a unit, or half of the least subnormal), and four in binary64
        assert abs(Fraction(float(value)) - exact) <= exact * Fraction(1, 2**23) + Fraction(1, 2**149)
        # what P6 rests on: no site moves the model by more than its share of the clipping norm
        assert Fraction(float(value)) * Fraction(norm) <= Fraction(w) / total * Fraction(clip) * (
            1 + Fraction(1, 2**16)
        ) or (norm <= clip or float(value) < 2**-126)


def test_plain_averaging_ignores_norms_and_scale_of_weights() -> None:
    meta = metas(2)
    for scale in (1, 1e-9, 1e9):
        weights = {"site-000": 1 * scale, "site-001": 3 * scale, "absent": 100 * scale}
        assert FedAvg().coefficients(meta, stats([1e20, 1]), None, weights).tolist() == [0.25, 0.75]


@given(st.lists(weight, min_size=2, max_size=8), st.randoms())
@settings(max_examples=50, deadline=None)
def test_arrival_order_is_no_input(values: list[float], random: Any) -> None:
    meta = metas(len(values))
    weights = {one.site: value for one, value in zip(meta, values, strict=True)}
    arrived = list(meta)
    random.shuffle(arrived)
    rule = NormClippedFedAvg(2.0)
    wanted = rule.coefficients(meta, stats(values), None, weights)
    by_site = dict(zip(meta, stats(values), strict=True))
    ordered = sorted(arrived, key=lambda one: one.place)
    again = rule.coefficients(ordered, [by_site[one] for one in ordered], None, dict(reversed(weights.items())))
    assert wanted.tobytes() == again.tobytes()
    if arrived != meta:
        with pytest.raises(OrderError):
            rule.coefficients(arrived, [by_site[one] for one in arrived], None, weights)


def test_recomputed_coefficients_agree_to_2_to_the_minus_16_whoever_measures() -> None:
    random = np.random.default_rng(0)
    rows = [(random.standard_normal(30_000) * scale).astype(np.float32) for scale in (0.1, 3, 100)]
    meta, weights = metas(3), {"site-000": 2.0, "site-001": 5.0, "site-002": 7.0}
    ours = []
    for row in rows:
        admission = Admission([row.size])
        admission.feed(row)
        ours.append(admission.result())
    theirs = stats([math.sqrt(math.fsum(float(v) ** 2 for v in row)) for row in rows])
    rule = NormClippedFedAvg(50.0)
    one, two = (rule.coefficients(meta, found, None, weights).astype(float) for found in (ours, theirs))
    assert (np.abs(one - two) <= 2.0**-16 * np.maximum(one, two)).all() and one[2] < 0.5


def test_a_huge_update_moves_the_model_by_its_bounded_share_only() -> None:
    rule = make_rule("norm-clipped-fedavg", {"clip_norm": 1.0})
    honest, attack = np.full(100, 0.05, dtype=np.float32), np.full(100, -1e30, dtype=np.float32)
    norm = float(np.linalg.norm(attack.astype(np.float64)))
    coeff = rule.coefficients(
        metas(4), stats([0.5, 0.5, 0.5, norm]), None, dict.fromkeys(("site-000", "site-001", "site-002", "site-003"), 1)
    )
    parent = np.zeros(100, dtype=np.float32)
    with_attack, _ = rule.combine({"delta": [honest] * 3 + [attack]}, coeff, parent, {})
    without, _ = rule.combine({"delta": [honest] * 3}, coeff[:3], parent, {})
    assert np.linalg.norm(with_attack - without) <= 0.25 * (1 + 2**-16)
    plain = FedAvg().coefficients(metas(2), stats([0.5, norm]), None, {"site-000": 1, "site-001": 1})
    assert np.linalg.norm(plain[1] * attack.astype(np.float64)) > 1e29  # so clipping is what saves it


def test_running_variances_stay_variances() -> None:
    random = np.random.default_rng(1)
    parent = (random.random(5000) * 10.0 ** random.integers(-6, 6, 5000)).astype(np.float32)
    sites = [(random.random(5000) * 10.0 ** random.integers(-6, 6, 5000)).astype(np.float32) for _ in range(5)]
    deltas = [site - parent for site in sites]
    found = stats([float(np.linalg.norm(d.astype(np.float64))) for d in deltas])
    rule = NormClippedFedAvg(1e5)
    coeff = rule.coefficients(metas(5), found, None, {one.site: 1 for one in metas(5)})
    assert coeff.sum() < 0.9
    after, _ = rule.combine({"delta": deltas}, coeff, parent, {})
    assert (after >= -1e-6 * np.maximum(parent, np.max(sites, axis=0))).all()


def test_combining_hands_on_the_state_and_uses_the_workspace() -> None:
    state = {"moment": np.ones(3, dtype=np.float32)}
    parent, delta = np.arange(3, dtype=np.float32), np.ones((2, 3), dtype=np.float32)
    coeff = np.array([0.5, 0.25], dtype=np.float32)
    room = Workspace.of(10)
    out, after = FedAvg().combine({"delta": delta}, coeff, parent, state, workspace=room)
    assert out.tolist() == [0.75, 1.75, 2.75] and after is state and np.shares_memory(out, room.out)
    fresh, _ = FedAvg().combine({"delta": delta}, coeff, parent, state)
    assert fresh.tolist() == out.tolist() and not np.shares_memory(fresh, room.out)


@pytest.mark.parametrize(
    ("meta", "found", "weights", "error"),
    [
        ([], [], {}, ShapeError),
        (metas(2), stats([1]), {"site-000": 1, "site-001": 1}, ShapeError),
        (metas(2), stats([1, 1]), {"site-000": 1}, WeightError),
        (metas(1), stats([1]), {"site-000": 0}, WeightError),
        (metas(1), stats([1]), {"site-000": -1}, WeightError),
        (metas(1), stats([1]), {"site-000": math.nan}, WeightError),
        (metas(1), stats([1]), {"site-000": math.inf}, WeightError),
        (metas(2), stats([1, 1]), {"site-000": 1.7e308, "site-001": 1.7e308}, WeightError),
        (metas(1), [UpdateStatistics(False, math.inf)], {"site-000": 1}, NonFiniteError),
        (metas(1), [UpdateStatistics(True, math.nan)], {"site-000": 1}, NonFiniteError),
        (metas(2)[::-1], stats([1, 1]), {"site-000": 1, "site-001": 1}, OrderError),
        (metas(1) * 2, stats([1, 1]), {"site-000": 1}, OrderError),
        ([UpdateMeta("a", 1), UpdateMeta("a", 2)], stats([1, 1]), {"a": 1}, OrderError),
    ],
)
def test_bad_inputs_have_no_coefficients(
    meta: list[UpdateMeta], found: list[UpdateStatistics], weights: Mapping[str, float], error: type[Exception]
) -> None:
    for rule in (FedAvg(), NormClippedFedAvg(1.0)):
        with pytest.raises(error):
            rule.coefficients(meta, found, None, weights)


def test_an_overflowing_aggregate_is_refused() -> None:
    huge = np.full(2, 3e38, dtype=np.float32)
    with pytest.raises(NonFiniteError):
        FedAvg().combine({"delta": [huge]}, np.ones(1, dtype=np.float32), huge, {})
    with pytest.raises(ShapeError, match="delta"):
        FedAvg().combine({"primal": [huge]}, np.ones(1, dtype=np.float32), huge, {})


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("krum", {}),
        ("", {}),
        ("fedavg", {"clip_norm": 1.0}),
        ("norm-clipped-fedavg", {}),
        ("norm-clipped-fedavg", {"clip_norm": 1.0, "more": 1}),
        *[("norm-clipped-fedavg", {"clip_norm": bad}) for bad in (0, -1.0, math.nan, math.inf, True, "1")],
    ],
)
def test_rules_that_cannot_be_built(name: str, parameters: Mapping[str, Any]) -> None:
    with pytest.raises(RuleError) as error:
        make_rule(name, parameters)
    assert error.value.code == "rule"


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text()), ids=lambda case: case["name"])
def test_vectors_of_the_specification(case: dict[str, Any]) -> None:
    rule = make_rule(case["rule"], case["parameters"])
    meta = metas(len(case["weights"]))
    weights = {one.site: weight for one, weight in zip(meta, case["weights"], strict=True)}
    found = rule.coefficients(meta, stats(case["norms"]), None, weights)
    assert found.astype(">f4").tobytes().hex(" ", 4).split() == case["coeff"]
    assert case["coeff"] not in case.get("not", {}).values()


REQUIRED: dict[str, dict[str, float]] = {
    "norm-clipped-fedavg": {"clip_norm": 2},
    "iiadmm": {"rho": 1, "clip_norm": 2},
    "iceadmm": {"rho": 1, "clip_norm": 2},
    "dp-fedavg": {"clip_norm": 2, "noise_multiplier": 1, "sites": 3},
}


@pytest.mark.parametrize("name", sorted(rules()))
def test_every_rule_keeps_the_laws_of_the_seam(name: str) -> None:
    rule: AggregationRule = make_rule(name, REQUIRED.get(name, {}))
    assert rule.name == name and make_rule(rule.name, rule.parameters()) == rule
    assert rule.planes[0] == "delta" and not rule.needs_gram
    assert isinstance(rule, CohortRule) == rule.needs_cohort
    assert (rule.needs_cohort or isinstance(rule, NoisyRule)) == (rule.state_planes != ())


def test_other_rules_come_through_the_registry() -> None:
    registry = {**rules(), "mean": lambda parameters: FedAvg.from_parameters(parameters)}
    assert make_rule("mean", {}, registry) == FedAvg()
    with pytest.raises(TypeError):
        rules()["mean"] = FedAvg.from_parameters  # type: ignore[index]


def test_site_order_is_by_bytes_then_seq() -> None:
    require_site_order([UpdateMeta("B"), UpdateMeta("a", 1), UpdateMeta("a", 2), UpdateMeta("a-b")])
    with pytest.raises(OrderError):
        require_site_order([UpdateMeta("a", 2), UpdateMeta("a", 1)])
