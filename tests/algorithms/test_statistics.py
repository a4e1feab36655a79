"""The admission pass against exact fractions, and against everything that must not change its result."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.algorithms.errors import CoverageError, ShapeError
from counterseal.algorithms.statistics import GRID, SKETCH, Admission, UpdateStatistics

Vector = npt.NDArray[np.float32]


def admit(sizes: list[int], pieces: list[Vector], previous: list[Vector] | None = None) -> UpdateStatistics:
    admission = Admission(sizes, against_previous=previous is not None)
    for index, piece in enumerate(pieces):
        admission.feed(piece, None if previous is None else previous[index])
    return admission.result()


def layers(sizes: list[int], values: Vector) -> list[Vector]:
    ends = list(itertools.accumulate(sizes))
    return [values[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def exact_square(values: Vector) -> Fraction:
    return sum((Fraction(float(v)) ** 2 for v in values), Fraction(0))


@given(
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(0, 2**32),
    st.sampled_from([1e-44, 1e-20, 1.0, 1e20, 1e38]),
)
@settings(max_examples=80, deadline=None)
def test_norms_are_exact_to_2_to_the_minus_18(sizes: list[int], seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    values = (random.standard_normal(sum(sizes)) * scale).clip(-3.4e38, 3.4e38).astype(np.float32)
    found = admit(sizes, [values])
    assert found.finite and found.elements == sum(sizes) and len(found.layer_norms) == len(sizes)
    for norm, part in [(found.norm, values), *zip(found.layer_norms, layers(sizes, values), strict=True)]:
        square = exact_square(part)
        # (norm)^2 within 2^-18 of the exact square is twice as strict as the norm within 2^-18.
        assert abs(Fraction(norm) ** 2 - square) <= square * Fraction(1, 2**18)


def test_a_long_hard_vector_stays_within_the_bound() -> None:
    # Binary32 partial sums lose here: one large element, then many whose squares are each half a unit beside it.
    values = np.full(200_000, 2.0**-12, dtype=np.float32)
    values[::GRID] = 1.0
    found = admit([values.size], [values])
    square = exact_square(values)
    assert abs(Fraction(found.norm) ** 2 - square) <= square * Fraction(1, 2**22)
    naive = np.float32(0)
    for part in np.split(values[: GRID * 24], 24):
        naive += np.add.accumulate(part * part)[-1]
    lost = abs(float(naive) / float(exact_square(values[: GRID * 24])) - 1)
    assert lost > 2**-17  # so the test could fail


@given(st.integers(0, 2**32), st.lists(st.integers(1, 20_000), max_size=5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_cuts_change_no_bit(seed: int, cuts: list[int], with_previous: bool) -> None:
    sizes = [5, 0, 9000, 1, 1, GRID, 3000]
    values = np.random.default_rng(seed).standard_normal(sum(sizes)).astype(np.float32)
    step = values[::-1].copy()
    places = sorted(cut % values.size for cut in cuts)
    pieces, steps = np.split(values, places), np.split(step, places)
    whole = admit(sizes, [values], [step] if with_previous else None)
    assert admit(sizes, pieces, steps if with_previous else None) == whole
    assert (whole.dot_previous is not None) == with_previous


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "signalling"])
@pytest.mark.parametrize("place", [0, 6, 7, 20_000])
def test_one_bad_element_anywhere_is_found(bad: Any, place: int) -> None:
    sizes = [7, 19_994]
    values = np.full(sum(sizes), 3.4e38, dtype=np.float32)  # huge, and still finite
    step = np.ones_like(values)
    assert admit(sizes, [values], [step]).finite
    if bad == "signalling":
        values.view(np.uint32)[place] = 0x7F800001
    else:
        values[place] = bad
    found = admit(sizes, [values], [step])
    assert not found.finite and found.norm == math.inf and found.dot_previous is None and not any(found.sketch)
    assert [norm == math.inf for norm in found.layer_norms] == [place < 7, place >= 7]


def test_the_least_and_the_greatest_numbers_are_measured() -> None:
    assert admit([1], [np.full(1, 2.0**-149, dtype=np.float32)]).norm == 2.0**-149
    greatest = float(np.finfo(np.float32).max)
    assert admit([4], [np.full(4, greatest, dtype=np.float32)]).norm == 2 * greatest


@given(st.one_of(st.integers(1, 300), st.integers(GRID - 2, GRID + 99)), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_the_dot_product_is_good_beside_the_norms(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = (random.standard_normal(size).astype(np.float32) for _ in range(2))
    found = admit([size], [x], [y]).dot_previous
    assert found is not None
    exact = sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y, strict=True)), Fraction(0))
    assert abs(Fraction(found) - exact) <= Fraction(float(np.linalg.norm(x) * np.linalg.norm(y))) / 2**22


def cosine(x: Vector, y: Vector) -> float:
    a, b = (np.array(admit([v.size], [v]).sketch) for v in (x, y))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_sketches_tell_copies_from_strangers() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        x, y, noise = (random.standard_normal(50_000).astype(np.float32) for _ in range(3))
        assert len(admit([x.size], [x]).sketch) == SKETCH
        assert cosine(x, x + np.float32(0.05) * noise) > 0.99
        assert abs(cosine(x, y)) < 0.5
        assert cosine(x, -x) < -0.999


def test_the_sketch_keeps_inner_products_on_average() -> None:
    random = np.random.default_rng(4)
    errors = []
    for _ in range(200):
        x = random.standard_normal(3 * GRID).astype(np.float32)
        y = (0.5 * x + random.standard_normal(x.size)).astype(np.float32)
        estimate = np.dot(admit([x.size], [x]).sketch, admit([y.size], [y]).sketch)
        errors.append((estimate - float(x @ y)) / float(np.linalg.norm(x) * np.linalg.norm(y)))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(len(errors)) and np.std(errors) < 0.15


def test_the_rest_of_an_earlier_cell_is_not_in_the_sketch() -> None:
    values = np.zeros(GRID + 1, dtype=np.float32)
    values[GRID - 1] = 5.0
    found = np.array(admit([values.size], [values]).sketch)
    assert np.count_nonzero(found) == 1 and np.abs(found).max() == 5.0


def test_a_wrong_length_is_refused() -> None:
    short = Admission([3])
    short.feed(np.zeros(2, dtype=np.float32))
    with pytest.raises(CoverageError):
        short.result()
    with pytest.raises(CoverageError):
        short.feed(np.zeros(2, dtype=np.float32))
    short.feed(np.zeros(1, dtype=np.float32))
    assert short.result() == UpdateStatistics(True, 0.0, (0.0,), None, 3, (0.0,) * SKETCH)
    assert admit([], []).norm == 0.0


@pytest.mark.parametrize(
    ("against", "values", "previous"),
    [
        (False, np.zeros(2), None),
        (False, np.zeros((1, 2), dtype=np.float32), None),
        (False, np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.float32)),
        (True, np.zeros(2, dtype=np.float32), None),
        (True, np.zeros(2, dtype=np.float32), np.zeros(1, dtype=np.float32)),
        (True, np.zeros(2, dtype=np.float32), np.zeros(2)),
    ],
)
def test_wrong_arrays_are_refused(against: bool, values: Any, previous: Any) -> None:
    with pytest.raises(ShapeError):
        Admission([2], against_previous=against).feed(values, previous)


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ShapeError):
        Admission([-1])
