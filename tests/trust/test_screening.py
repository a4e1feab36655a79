"""Screening: attacks and their verdicts, laws for every order, and how often honest sites are flagged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.algorithms.statistics import Admission
from counterseal.trust.errors import MalformedError
from counterseal.trust.screening import Candidate, Flag, History, Past, Seen, Thresholds, Verdict, examine, screen

Vector = npt.NDArray[np.float32]

SIZES = (2000, 40, 1500, 10)
BOUND = 1e3


def candidate(site: str, values: Vector, previous: Vector | None = None, sizes: Sequence[int] = SIZES) -> Candidate:
    admission = Admission(sizes, against_previous=previous is not None)
    admission.feed(values, previous)
    return Candidate(site, hashlib.sha256(values.tobytes()).hexdigest(), admission.result())


def honest(seed: int, scale: float = 1.0) -> Vector:
    values: Vector = (np.random.default_rng(seed).standard_normal(sum(SIZES)) * 0.01 * scale).astype(np.float32)
    return values


def crowd(n: int, seed: int = 0) -> list[Candidate]:
    return [candidate(f"site-{i}", honest(100 * seed + i)) for i in range(n)]


def poisoned(value: float) -> Vector:
    values = honest(99)
    values[1234] = value
    return values


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        (poisoned(math.nan), ("not_finite",)),
        (poisoned(math.inf), ("not_finite",)),
        (poisoned(-math.inf), ("not_finite",)),
        (poisoned(1e30), ("norm_bound",)),
        (poisoned(3.4e38), ("norm_bound",)),
        (poisoned(999.0), ()),
    ],
    ids=["nan", "inf", "-inf", "1e30", "largest", "within"],
)
@pytest.mark.parametrize("others", [0, 1, 6])
def test_hard_rules_hold_for_any_number_of_others(values: Vector, reasons: tuple[str, ...], others: int) -> None:
    bad = candidate("zz", values)
    found = screen([*crowd(others), bad], History(), BOUND)
    assert found["zz"].reasons == reasons and found["zz"].admit == (not reasons)
    assert examine(bad, History(), BOUND) == reasons
    assert all(verdict.admit for site, verdict in found.items() if site != "zz")


def test_a_bad_update_does_not_colour_the_scores_of_the_others() -> None:
    alone = screen(crowd(6), History(), BOUND)
    for value in (math.nan, 1e30):
        found = screen([*crowd(6), candidate("zz", poisoned(value))], History(), BOUND)
        assert {site: found[site] for site in alone} == alone


def test_clipping_to_the_bound_is_within_it() -> None:
    values = honest(5).astype(np.float64)
    at_bound = candidate("a", (values / np.linalg.norm(values) * BOUND).astype(np.float32))
    assert examine(at_bound, History(), BOUND) == ()
    assert examine(
        candidate("a", (values / np.linalg.norm(values) * BOUND * 1.001).astype(np.float32)), History(), BOUND
    )


COPY = candidate("b", honest(1)).digest

DUPLICATES: dict[str, tuple[History, tuple[str, ...]]] = {
    "never seen": (History(3), ()),
    "another site's, this version": (History(3, seen={COPY: (Seen("a", 3),)}), ("duplicate_plaintext",)),
    "another site's, an earlier version": (History(3, seen={COPY: (Seen("a", 1),)}), ("duplicate_plaintext",)),
    "its own, an earlier version": (History(3, seen={COPY: (Seen("b", 2),)}), ("duplicate_plaintext",)),
    "its own, this version tried again": (History(3, seen={COPY: (Seen("b", 3),)}), ()),
    "its own and another's": (History(3, seen={COPY: (Seen("b", 3), Seen("a", 3))}), ("duplicate_plaintext",)),
}


@pytest.mark.parametrize("name", DUPLICATES)
def test_duplicates_of_what_was_seen(name: str) -> None:
    history, reasons = DUPLICATES[name]
    assert screen([candidate("b", honest(1)), *crowd(3, 7)], history, BOUND)["b"].reasons == reasons


def test_both_sides_of_a_copy_in_one_round_are_refused() -> None:
    found = screen([candidate("a", honest(1)), candidate("b", honest(1)), *crowd(3, 7)], History(), BOUND)
    assert [site for site, verdict in found.items() if not verdict.admit] == ["a", "b"]
    assert found["a"].reasons == found["b"].reasons == ("duplicate_plaintext",)


def test_updates_that_change_nothing_are_flagged_and_not_duplicates() -> None:
    nothing = np.zeros(sum(SIZES), dtype=np.float32)
    round_one = [candidate(site, nothing) for site in "abcd"]
    found = screen(round_one, History(), BOUND)
    assert all(verdict.admit and verdict.flags == ("zero_update",) for verdict in found.values())
    after = History().after(round_one, found, step_norm=0.0)
    assert all(verdict.admit for verdict in screen(round_one, after, BOUND).values())


@pytest.mark.parametrize("n", [2, 3, 8])
def test_colluders_with_a_little_noise_are_flagged_and_nobody_else(n: int) -> None:
    secret = honest(1000)
    colluders = [candidate(f"x-{i}", secret + np.float32(0.02) * honest(2000 + i)) for i in range(2)]
    found = screen([*crowd(n), *colluders], History(), BOUND)
    assert {site for site, verdict in found.items() if "near_duplicate" in verdict.flags} == {"x-0", "x-1"}
    assert all(verdict.admit for verdict in found.values())


def test_outliers_in_norm_and_in_one_layer_are_flagged() -> None:
    layer = honest(50)
    layer[2000:2040] *= 40
    found = screen([*crowd(7), candidate("big", honest(51, 30)), candidate("layer", layer)], History(), BOUND)
    assert "norm_round" in found["big"].flags and found["big"].scores["norm_round"] > 6
    assert "layer_round" in found["layer"].flags
    assert all(not verdict.flags for site, verdict in found.items() if site.startswith("site"))
    small = screen([*crowd(7), candidate("idle", honest(51, 1e-3))], History(), BOUND)["idle"]
    assert small.scores["norm_round"] < -6 and "norm_round" in small.flags


def test_a_z_score_would_not_have_seen_it() -> None:
    # The reason for medians: one huge norm among seven hides itself from mean and deviation.
    logs = np.array([math.log(one.statistics.norm) for one in [*crowd(6), candidate("big", honest(51, 1000))]])
    assert (abs(logs - logs.mean()) / logs.std()).max() < math.sqrt(6) + 1e-9 < Thresholds().norm


def test_turning_against_the_last_step_is_flagged_and_drifting_apart_is_not() -> None:
    step = honest(7, 3)
    norm = float(np.linalg.norm(step.astype(np.float64)))
    along = [candidate(f"site-{i}", (0.3 * step + honest(i)).astype(np.float32), step) for i in range(7)]
    against = candidate("against", (-1.0 * step + honest(60)).astype(np.float32), step)
    history = History(1, previous_norm=norm)
    found = screen([*along, against], history, BOUND)
    assert [site for site, verdict in found.items() if "cosine_round" in verdict.flags] == ["against"]
    opposite = [
        candidate(f"o-{i}", (sign * honest(70)).astype(np.float32) + honest(80 + i, 0.5))
        for i, sign in enumerate((1, -1, 1, -1))
    ]
    assert not any(verdict.flags for verdict in screen(opposite, History(), BOUND).values())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_sites_are_compared_with_their_own_past_only(n: int) -> None:
    history = History()
    for version in range(6):
        candidates = crowd(n, version + 1)
        verdicts = screen(candidates, history, BOUND)
        assert not any(flag.endswith("_round") for verdict in verdicts.values() for flag in verdict.scores)
        assert not any(verdict.flags for verdict in verdicts.values())
        assert any("norm_own" in verdict.scores for verdict in verdicts.values()) == (version >= 4)
        history = history.after(candidates, verdicts, step_norm=0.6)
    leap = candidate("site-0", honest(999, 20))
    assert "norm_own" in screen([leap], history, BOUND)["site-0"].flags


def test_flags_become_persistent_and_fade() -> None:
    history, seen = History(), []
    for version in range(8):
        scale = 30 if version < 4 else 1
        candidates = [*crowd(7, version + 1), candidate("odd", honest(5000 + version, scale))]
        verdicts = screen(candidates, history, BOUND)
        seen.append("norm_round" in verdicts["odd"].persistent)
        history = history.after(candidates, verdicts, step_norm=None)
    assert seen == [False, False, True, True, False, False, False, False]
    assert history.version == 8 and len(history.past["odd"]) == 8


def test_old_flags_do_not_make_a_new_one_persistent() -> None:
    odd = candidate("odd", honest(51, 30))
    calm = Past(math.log(0.6), (), None)
    loud = Past(math.log(18), (), None, ("norm_round",))
    for past, persistent in [((loud, loud, calm, calm), False), ((calm, loud, calm, loud), True), ((loud,), False)]:
        found = screen([*crowd(7), odd], History(5, past={"odd": past}), BOUND)["odd"]
        assert "norm_round" in found.flags and ("norm_round" in found.persistent) == persistent


def test_the_past_is_bounded_and_holds_admitted_updates_only() -> None:
    history = History()
    for version in range(20):
        bad = candidate("bad", poisoned(1e30) + honest(version))
        candidates = [*crowd(4, version + 1), bad]
        verdicts = screen(candidates, history, BOUND)
        history = history.after(candidates, verdicts, step_norm=1.0, committed=version % 2 == 0)
    assert "bad" not in history.past and len(history.past["site-0"]) == 16 and history.version == 10
    assert len(history.seen) == 20 * 5  # refused plaintexts are remembered, too


@given(st.permutations(range(7)), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_the_order_of_candidates_is_no_input(order: list[int], kind: int) -> None:
    odd = [honest(51, 30), poisoned(math.nan), honest(3), np.zeros(sum(SIZES), dtype=np.float32)][kind]
    candidates = [*crowd(6), candidate("odd", odd)]
    shuffled = [candidates[i] for i in order]
    one, two = screen(candidates, History(), BOUND), screen(shuffled, History(), BOUND)
    assert one == two and list(one) == list(two)
    assert History().after(candidates, one, step_norm=1.0) == History().after(shuffled, two, step_norm=1.0)


@pytest.mark.parametrize(
    ("candidates", "bound"),
    [
        ([candidate("a", honest(1)), candidate("a", honest(2))], BOUND),
        ([candidate("a", honest(1)), candidate("b", honest(2)[:10], sizes=(10,))], BOUND),
        ([candidate("a", honest(1))], 0.0),
        ([candidate("a", honest(1))], math.nan),
    ],
)
def test_nonsense_is_refused(candidates: list[Candidate], bound: float) -> None:
    with pytest.raises(MalformedError):
        screen(candidates, History(), bound)


# ---- honest sites on label-skewed data: softmax regression with one hidden layer, trained for real


class SkewedSites:
    """n sites with Dirichlet-skewed labels and sizes from 100 to 1000, who train a small network by SGD."""

    SIZES = (20 * 32, 32, 32 * 10, 10)

    def __init__(self, n: int, alpha: float, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        centres = self.random.standard_normal((10, 20)) * 1.5
        self.data = []
        for _ in range(n):
            size = int(100 * 10 ** self.random.random())
            labels = self.random.choice(10, size, p=self.random.dirichlet(np.full(10, alpha)))
            self.data.append((centres[labels] + self.random.standard_normal((size, 20)), labels))
        self.model = np.concatenate([self.random.standard_normal(size) * 0.1 for size in self.SIZES])

    def train(self, site: int) -> Vector:
        x, labels = self.data[site]
        w1, b1, w2, b2 = (part.copy() for part in np.split(self.model, np.cumsum(self.SIZES)[:-1]))
        for _ in range(2 * len(labels) // 32 + 1):
            batch = self.random.integers(0, len(labels), 32)
            hidden = np.maximum(x[batch] @ w1.reshape(20, 32) + b1, 0)
            scores = hidden @ w2.reshape(32, 10) + b2
            chance = np.exp(scores - scores.max(1, keepdims=True))
            slope = chance / chance.sum(1, keepdims=True)
            slope[np.arange(32), labels[batch]] -= 1
            slope /= 32
            back = slope @ w2.reshape(32, 10).T * (hidden > 0)
            for part, step in ((w2, hidden.T @ slope), (b2, slope.sum(0)), (w1, x[batch].T @ back), (b1, back.sum(0))):
                part -= 0.1 * step.ravel()
        delta: Vector = (np.concatenate([w1, b1, w2, b2]) - self.model).astype(np.float32)
        return delta


def flag_rates(n: int, alpha: float, seed: int, rounds: int = 20) -> tuple[float, float, dict[Flag, int]]:
    """Return the shares of honest updates with a flag and with a persistent one, and the flags."""
    world, history = SkewedSites(n, alpha, seed), History()
    step: Vector | None = None
    verdicts: list[Verdict] = []
    counts: dict[Flag, int] = {}
    for _ in range(rounds):
        deltas = [world.train(site) for site in range(n)]
        candidates = [candidate(f"s{i:02}", d, step, world.SIZES) for i, d in enumerate(deltas)]
        found = screen(candidates, history, BOUND)
        verdicts += found.values()
        step = np.array(np.mean(np.stack(deltas), axis=0), dtype=np.float32)
        history = history.after(candidates, found, step_norm=float(np.linalg.norm(step)))
        world.model = world.model + step
    for verdict in verdicts:
        assert verdict.admit
        for flag in verdict.flags:
            counts[flag] = counts.get(flag, 0) + 1
    flagged, persistent = sum(bool(v.flags) for v in verdicts), sum(bool(v.persistent) for v in verdicts)
    return flagged / len(verdicts), persistent / len(verdicts), counts


@pytest.mark.parametrize("seed", range(3))
def test_honest_sites_on_skewed_data_are_rarely_flagged_and_never_refused(seed: int) -> None:
    flagged, persistent, _ = flag_rates(10, 0.3, seed)
    assert flagged <= 0.06 and persistent <= 0.05
