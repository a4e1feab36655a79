"""The grid: whatever a row holds, its integers have a norm of at most K; sums are exact; one conversion."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from counterseal.privacy.errors import GridError
from counterseal.privacy.grid import FINEST, Grid, Norm
from counterseal.privacy.noise import Keystream

KEY = bytes(range(7, 39))
NORMS: list[Norm] = ["l2", "l1"]

Rows = npt.NDArray[Any]


def powers(rows: Rows, norm: Norm) -> list[int]:
    """Sums of squares or magnitudes, by Python's integers."""
    return [sum(x * x if norm == "l2" else abs(x) for x in row) for row in rows.tolist()]


def limit(grid: Grid) -> int:
    return grid.bound**2 if grid.norm == "l2" else grid.bound


# ---- the sensitivity


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, 1e-30, 3e38]),
    ),
    clip_norm=st.sampled_from([1.0, 1e-6, 0.3, 1e6, 1e-300, 1e300]),
    norm=st.sampled_from(NORMS),
    key=st.binary(min_size=32, max_size=32),
)
def test_no_row_is_longer_than_the_bound(rows: Rows, clip_norm: float, norm: Norm, key: bytes) -> None:
    grid = Grid(clip_norm, rows.shape[1], norm=norm)
    found = grid.quantise(rows, Keystream(key))
    assert found.dtype == np.int64 and found.shape == rows.shape
    assert max(powers(found, norm)) <= limit(grid)
    broken = ~np.isfinite(rows).all(axis=1)
    assert not found[broken].any()
    assert np.array_equal(grid.summed(rows, Keystream(key)), found.sum(axis=0))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fineness", [16, 17, 4096, FINEST])
def test_rows_at_and_beyond_the_bound_in_one_dimension(norm: Norm, fineness: int) -> None:
    grid = Grid(2.0, 1, fineness, norm)
    rows = np.array([[2.0], [-2.0], [math.nextafter(2.0, 3)], [1e308], [-1e308], [0.0], [5e-324]])
    found = grid.quantise(rows, Keystream(KEY))
    assert (np.abs(found) <= fineness).all() and found[5:].tolist() == [[0], [0]]
    assert np.abs(found[0, 0] - grid.target) <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_norms_that_overflow_become_zero_and_others_do_not(norm: Norm) -> None:
    rows = np.array([[1e308, 1e308], [3e38, 3e38], [1e-320, 0.0], [np.nan, 1.0], [np.inf, -np.inf], [1.0, -1.0]])
    with np.errstate(all="raise"):
        found = Grid(1.0, 2, norm=norm).quantise(rows, Keystream(KEY))
    assert [bool(row.any()) for row in found] == [False, True, False, False, False, True]


@pytest.mark.parametrize("norm", NORMS)
def test_rows_that_fail_the_check_are_truncated(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    dimensions = 400
    grid = Grid(1.0, dimensions, norm=norm)
    rows = np.random.default_rng(1).normal(size=(50, dimensions))
    monkeypatch.setattr(Grid, "target", property(lambda self: self.bound * 0.99999))  # room for truncation only
    found = grid.quantise(rows, Keystream(KEY))
    units = grid._clipped(rows)
    truncated = (found == np.trunc(units)).all(axis=1)
    assert truncated.sum() > 20 and max(powers(found, norm)) <= limit(grid)
    monkeypatch.setattr(Grid, "target", property(lambda self: self.bound * 2.0))  # broken arithmetic
    assert not grid.quantise(rows, Keystream(KEY)).any()


@pytest.mark.parametrize(
    ("norm", "dimensions"), [("l2", 1), ("l2", 7), ("l2", 3000), ("l1", 1), ("l1", 7), ("l1", 3000)]
)
@pytest.mark.parametrize("shape", ["flat", "one", "normal"])
def test_rows_on_the_rim_are_hardly_ever_truncated(
    norm: Norm, dimensions: int, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[bool] = []
    within = Grid._within

    def watched(self: Grid, whole: Rows) -> Rows:
        found = within(self, whole)
        passed.extend(found.tolist())
        return found

    monkeypatch.setattr(Grid, "_within", watched)
    for fineness in (None, max(16, math.isqrt(256 * dimensions - 1) + 1)):
        grid = Grid(1.0, dimensions, fineness, norm)
        row = {
            "flat": np.ones(dimensions),
            "one": np.eye(1, dimensions)[0],
            "normal": np.random.default_rng(2).normal(size=dimensions),
        }[shape]
        rows = np.tile(1e3 * row, (1000, 1))
        found = grid.quantise(rows, Keystream(KEY))
        assert (found.max(axis=0) - found.min(axis=0) <= 1).all()
        assert len(passed) == len(rows) and all(passed)
        passed.clear()
        power = np.array(powers(found, norm), dtype=float)
        assert power.max() <= limit(grid)
        if dimensions > 1 and shape != "one":  # how far the mean stays below the limit, in standard deviations
            assert power.mean() + 5 * power.std() <= limit(grid)


@pytest.mark.parametrize("fineness", [4096, FINEST])
def test_the_check_in_float64_is_that_of_integers(fineness: int) -> None:
    """Rows within a few units of the limit, on both sides, and rows far beyond float64's integers."""
    grid, generator = Grid(1.0, 300, fineness), np.random.default_rng(3)
    rows, limited = [], fineness**2
    for change in (-2, -1, 0, 1, 2):
        for _ in range(100):
            row = [int(x) for x in generator.integers(-fineness // 40, fineness // 40, size=288)]
            left = limited + change - sum(x * x for x in row)
            for _ in range(12):  # squares, greedily: nothing is left
                row.append(math.isqrt(max(left, 0)))
                left -= row[-1] ** 2
            rows.append(row)
    rows += [[2**40] * 300, [2**30, *[0] * 299], [2**27] * 300, [fineness, *[0] * 299], [fineness, 1, *[0] * 298]]
    assert {sum(x * x for x in row) - limited for row in rows[:500]} == {-2, -1, 0, 1, 2}
    exact = [sum(x * x for x in row) <= limited for row in rows]
    assert grid._within(np.array(rows, dtype=np.float64)).tolist() == exact
    assert sum(exact) == 301


# ---- rounding


@pytest.mark.parametrize("norm", NORMS)
def test_rounding_is_unbiased_and_to_neighbours(norm: Norm) -> None:
    grid = Grid(1.0, 40, norm=norm)
    row = np.random.default_rng(4).normal(size=40) * (0.05 if norm == "l2" else 0.01)
    units = row / grid.unit
    found = grid.quantise(np.tile(row, (200_000, 1)), Keystream(KEY))
    assert (np.abs(found - units) < 1).all()
    error = (found.mean(axis=0) - units) / np.sqrt(0.25 / len(found))
    assert np.abs(error).max() < 5.5  # a false alarm once in 10^6 keys, and this key is fixed
    fractions = units - np.floor(units)
    assert np.allclose(found.var(axis=0), fractions * (1 - fractions), atol=0.005)


def test_rows_are_rounded_independently() -> None:
    grid = Grid(1.0, 1000)
    found = grid.quantise(np.full((300, 1000), 0.01), Keystream(KEY)).astype(float)
    between = np.corrcoef(found)[np.triu_indices(300, 1)]
    assert np.abs(between).max() < 6 / 1000**0.5


def test_blocks_do_not_show() -> None:
    """Rows longer than a block, and many rows in a block: as many words, and the same rows whatever stands around them."""
    for dimensions, count in ((100_000, 3), (10, 20_000)):
        grid = Grid(1.0, dimensions)
        rows = np.random.default_rng(5).normal(size=(count, dimensions)).astype(np.float32)
        stream = Keystream(KEY)
        whole = grid.quantise(rows, stream)
        other = Keystream(KEY)
        assert np.array_equal(whole[:1], grid.quantise(rows[:1], other))
        assert np.array_equal(whole[1:], grid.quantise(rows[1:], other))
        assert stream.bytes(4) == other.bytes(4)


def test_short_rows_keep_their_length_and_long_rows_their_direction() -> None:
    grid = Grid(3.0, 1000)
    rows = np.random.default_rng(6).normal(size=(2, 1000)) * np.array([[0.01], [10.0]])
    back = grid.quantise(rows, Keystream(KEY)) * grid.unit
    assert np.allclose(back[0], rows[0], atol=grid.unit)
    length = float(np.linalg.norm(rows[1]))
    assert np.allclose(back[1], rows[1] * 3.0 / length * grid.target / grid.bound, atol=grid.unit)
    assert 0.998 < grid.target / grid.bound < 1


# ---- sums and conversion


def test_totals_are_exact_in_any_order() -> None:
    grid = Grid(1.0, 50)
    rows = grid.quantise(np.random.default_rng(7).normal(size=(1000, 50)), Keystream(KEY))
    noise = np.full(50, 2**60)
    total = grid.total(rows, noise, rows[::-1])
    assert total.tolist() == [2 * sum(column) + 2**60 for column in rows.T.tolist()]
    assert np.array_equal(total, grid.total(noise, rows[:500], rows, rows[500:]))
    assert grid.total(np.empty((0, 50), dtype=np.int64)).tolist() == [0] * 50 == grid.total().tolist()


@pytest.mark.parametrize("norm", NORMS)
def test_sums_of_the_longest_rows_are_exact(norm: Norm) -> None:
    grid = Grid(1.0, 3, FINEST, norm)
    rows = np.random.default_rng(8).normal(size=(70_000, 3)) + np.array([30.0, 0.0, -7.0])  # more than three blocks
    exact = [sum(column) for column in grid.quantise(rows, Keystream(KEY)).T.tolist()]
    assert grid.summed(rows, Keystream(KEY)).tolist() == exact and max(exact) > 2**41


@pytest.mark.parametrize(
    "parts",
    [
        [np.full(2, 2**62), np.full(2, 2**62)],
        [np.full((2, 2), -(2**62))],
        [np.full(2, -(2**63))],
        [np.full((3, 2), 2**61), np.array([0, -(2**62)])],
    ],
)
def test_sums_that_might_not_fit_are_refused(parts: list[npt.NDArray[np.int64]]) -> None:
    with pytest.raises(GridError, match="64 bits"):
        Grid(1.0, 2).total(*parts)


@pytest.mark.parametrize("part", [np.zeros(3, np.int64), np.zeros(2, np.int32), np.zeros((1, 1, 2), np.int64)])
def test_totals_of_other_shapes_are_refused(part: Rows) -> None:
    with pytest.raises(GridError, match="2 dimensions"):
        Grid(1.0, 2).total(part)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(value=st.integers(-(2**53), 2**53), divisor=st.floats(1e-3, 1e9), clip_norm=st.floats(1e-3, 1e3))
def test_conversion_is_one_product(value: int, divisor: float, clip_norm: float) -> None:
    grid = Grid(clip_norm, 1)
    (found,) = grid.to_float(np.array([value]), divisor).tolist()
    exact = value * Fraction(clip_norm) / grid.bound / Fraction(divisor)
    assert abs(Fraction(found) - exact) <= abs(exact) * Fraction(1, 2**23)


def test_conversion_is_a_function_of_the_noisy_integers_alone() -> None:
    grid = Grid(0.7, 3)
    found = grid.to_float(np.array([5, 5, -5]), 3.0)
    assert found.dtype == np.float32 and found[0] == found[1] == -found[2]


@pytest.mark.parametrize("divisor", [0.0, -1.0, math.inf, math.nan])
def test_a_divisor_is_a_positive_number(divisor: float) -> None:
    with pytest.raises(GridError, match="divisor"):
        Grid(1.0, 1).to_float(np.array([1]), divisor)


# ---- what makes a grid


@pytest.mark.parametrize("dimensions", [1, 2, 65_536, 65_537, 10**6, 10**7])
def test_the_usual_fineness(dimensions: int) -> None:
    for norm, each in (("l2", 16), ("l1", 256)):
        grid = Grid(1.0, dimensions, norm=norm)  # type: ignore[arg-type]
        least = math.isqrt(each**2 * dimensions)
        assert grid.bound == max(4096, least + (least**2 < each**2 * dimensions))
        assert grid.bound**2 < 2**52 and 0.98 < grid.target / grid.bound < 1
        assert math.isclose(grid.unit * grid.bound, 1.0)


@pytest.mark.parametrize(
    "numbers",
    [
        (0.0, 1, None),
        (-1.0, 1, None),
        (math.inf, 1, None),
        (math.nan, 1, None),
        (1.0, 0, None),
        (1.0, 1, 15),
        (1.0, 2, 22),
        (1.0, 10**6, 15_999),
        (1.0, 1, FINEST + 1),
        (1.0, 10**14, None),
        (1.0, 1, -(10**6)),
    ],
)
def test_what_makes_no_grid_is_refused(numbers: tuple[float, int, int | None]) -> None:
    with pytest.raises(GridError):
        Grid(*numbers)


def test_other_shapes_types_and_norms_are_refused() -> None:
    grid, stream = Grid(1.0, 4), Keystream(KEY)
    wrong: list[Rows] = [np.zeros((2, 3)), np.zeros(4), np.zeros((2, 4), np.int64), np.zeros((2, 4), np.float16)]
    for rows in wrong:
        with pytest.raises(GridError, match="belongs"):
            grid.quantise(rows, stream)
        with pytest.raises(GridError, match="belongs"):
            grid.summed(rows, stream)
    with pytest.raises(GridError, match="norm"):
        Grid(1.0, 4, None, "linf")  # type: ignore[arg-type]
    assert grid.quantise(np.zeros((0, 4)), stream).shape == (0, 4)
