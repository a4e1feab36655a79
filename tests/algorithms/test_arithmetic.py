"""The specified arithmetic against an oracle that shares nothing with it: exact fractions, rounded by integers."""

from __future__ import annotations

import ctypes
import json
import math
import struct
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.algorithms import arithmetic
from counterseal.algorithms.arithmetic import narrow, new_scratch, require_finite, require_mode, weighted_sum, widen
from counterseal.algorithms.errors import ArithmeticModeError, NonFiniteError, PrecisionError, ShapeError

VECTORS = Path(__file__).parents[1] / "vectors" / "arithmetic"

Bits = npt.NDArray[np.uint32]


# ---- the oracle: binary formats as (precision, least exponent, greatest exponent), numbers as fractions or as zeros with sign

FORMATS = {"F32": (24, -149, 127), "F16": (11, -24, 15), "BF16": (8, -133, 127)}


def rounded(value: Fraction, fmt: str) -> Fraction | float:
    """Round to nearest, ties to even, in ``fmt``; infinity on overflow. Integer arithmetic only."""
    precision, least, greatest = FORMATS[fmt]
    if value == 0:
        return value
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - precision + 1, least)
    steps = round(magnitude / unit)  # Python rounds fractions half to even
    result = steps * unit
    if result >= Fraction(2) ** (greatest + 1):
        return math.copysign(math.inf, value)
    return result if value > 0 else -result


def oracle(parent: float, deltas: list[float], coeff: list[float]) -> float:
    """The specification, one element, with its rules for signs of zero; inputs finite binary32."""

    def add(a: float, b: float) -> float:
        if not (math.isfinite(a) and math.isfinite(b)):
            return a + b
        exact = Fraction(a) + Fraction(b)
        if exact == 0:
            return -0.0 if math.copysign(1, a) < 0 and math.copysign(1, b) < 0 else 0.0
        return float(rounded(exact, "F32"))  # no sum of two binary32 underflows to zero

    def multiply(a: float, b: float) -> float:
        result = rounded(Fraction(a) * Fraction(b), "F32")
        return math.copysign(float(result), math.copysign(1, a) * math.copysign(1, b))

    total = multiply(coeff[0], deltas[0])
    for a, u in zip(coeff[1:], deltas[1:], strict=True):
        total = add(total, multiply(a, u))
    return add(parent, total)


def bits(values: Any) -> list[int]:
    return [int(b) for b in np.asarray(values, dtype=np.float32).view(np.uint32)]


def computed(parent: Any, updates: Any, coeff: Any, scratch: int = 1 << 16) -> npt.NDArray[np.float32]:
    start: npt.NDArray[np.float32] = np.asarray(parent, dtype=np.float32)
    out: npt.NDArray[np.float32] = np.empty_like(start)
    rows = [np.asarray(row, dtype=np.float32) for row in updates]
    weighted_sum(out, start, rows, np.asarray(coeff, dtype=np.float32), new_scratch(scratch))
    return out


finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
interesting = st.one_of(
    finite32,
    st.sampled_from(
        [
            0.0,
            -0.0,
            2.0**-149,
            -(2.0**-149),
            2.0**-126,
            1.0,
            1 + 2.0**-23,
            float(np.float32(0.1)),
            float(np.float32(3.4e38)),
        ]
    ),
    st.floats(-1, 1, width=32),
)


@given(st.integers(1, 6), st.data())
@settings(max_examples=400, deadline=None)
def test_every_element_is_what_exact_rounding_says(n: int, data: st.DataObject) -> None:
    parent = data.draw(interesting)
    deltas = data.draw(st.lists(interesting, min_size=n, max_size=n))
    coeff = [float(np.float32(c)) for c in data.draw(st.lists(interesting, min_size=n, max_size=n))]
    expected = oracle(parent, deltas, coeff)
    got = computed([parent], [[u] for u in deltas], coeff)
    if math.isnan(expected):
        assert math.isnan(got[0])
    else:
        assert bits(got) == bits([expected])


@pytest.mark.parametrize("case", json.loads((VECTORS / "weighted_sum.json").read_text()), ids=lambda case: case["name"])
def test_vectors_of_the_specification(case: dict[str, Any]) -> None:
    def floats(text: list[str]) -> npt.NDArray[np.float32]:
        return np.array([int(one, 16) for one in text], dtype=np.uint32).view(np.float32)

    got = computed(floats(case["parent"]), [floats(row) for row in case["updates"]], floats(case["coeff"]))
    assert [f"{b:08x}" for b in bits(got)] == case["out"]
    for parent, row, out in zip(
        floats(case["parent"]), zip(*map(floats, case["updates"]), strict=True), got, strict=True
    ):
        wanted = oracle(float(parent), [float(u) for u in row], [float(c) for c in floats(case["coeff"])])
        assert bits([wanted]) == bits([out])
    for wrong in case.get("not", {}).values():
        assert wrong != case["out"]


def some(n: int, c: int, seed: int) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    updates = (random.standard_normal((n, c)) * 10.0 ** random.integers(-40, 3, (n, c))).astype(np.float32)
    return random.standard_normal(c).astype(np.float32), updates, random.random(n).astype(np.float32)


@given(st.integers(1, 9), st.integers(0, 300), st.integers(1, 301), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_blocks_and_scratch_change_no_bit(n: int, c: int, scratch: int, cut: int) -> None:
    parent, updates, coeff = some(n, c, n * 1000 + c)
    whole = computed(parent, updates, coeff)
    assert bits(computed(parent, updates, coeff, scratch)) == bits(whole)
    halves = [computed(parent[part], updates[:, part], coeff) for part in (slice(0, cut), slice(cut, None))]
    assert bits(np.concatenate(halves)) == bits(whole)
    out = np.empty_like(parent)
    weighted_sum(out, parent, updates, coeff, new_scratch())  # an array float32[n, c] instead of a sequence
    assert bits(out) == bits(whole)


def test_site_order_matters_so_it_must_be_specified() -> None:
    parent, updates, coeff = some(4, 1000, 7)
    assert bits(computed(parent, updates, coeff)) != bits(computed(parent, updates[::-1], coeff[::-1]))


def test_unaligned_read_only_views_as_a_decoder_yields_them() -> None:
    parent, updates, coeff = some(3, 257, 1)
    views = [np.frombuffer(b"\x00" + row.tobytes(), dtype=np.float32, offset=1) for row in updates]
    assert not views[0].flags.aligned and not views[0].flags.writeable
    assert bits(computed(parent, views, coeff)) == bits(computed(parent, updates, coeff))


def test_it_is_not_the_fused_product_and_sum() -> None:
    # fma(a, u, s) would keep the product's low half; here it is rounded first and cancels exactly.
    a = 1 + 2.0**-12
    square = a * a  # needs 25 bits
    assert float(np.float32(square)) != square
    assert computed([0.0], [[-1.0], [a]], [float(np.float32(square)), a])[0] == 0.0


@pytest.mark.parametrize("fmt", ["BF16", "F16"])
def test_all_patterns_of_16_bits_widen_exactly_and_come_back(fmt: str) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(patterns.size, dtype=np.float32)
    widen(patterns, fmt, wide)
    mantissa, bias = (7, 127) if fmt == "BF16" else (10, 15)
    exponents = (patterns.astype(np.int64) >> mantissa) & (2 * bias + 1)
    fractions = patterns.astype(np.int64) & ((1 << mantissa) - 1)
    signs = np.where(patterns >> 15, -1.0, 1.0)
    special = exponents == 2 * bias + 1
    values = np.where(
        exponents == 0,
        np.ldexp(fractions.astype(np.float64), 1 - bias - mantissa),
        np.ldexp((fractions + (1 << mantissa)).astype(np.float64), exponents - bias - mantissa),
    )
    finite = ~special
    assert np.array_equal(wide[finite].astype(np.float64), (signs * values)[finite])
    assert np.array_equal(np.signbit(wide[finite]), signs[finite] < 0)
    assert np.array_equal(np.isnan(wide), special & (fractions != 0))
    assert np.array_equal(np.isinf(wide), special & (fractions == 0))
    back = np.empty_like(patterns)
    narrow(wide[finite].copy(), fmt, back[: finite.sum()])
    assert np.array_equal(back[: finite.sum()], patterns[finite])
    for value in wide[special][:: 1 if fmt == "BF16" else 16]:
        with pytest.raises(NonFiniteError):
            narrow(np.array([1.0, value], dtype=np.float32), fmt, np.empty(2, dtype=np.uint16))


def narrowed(value: float, fmt: str) -> float:
    stored = np.empty(1, dtype=np.uint16)
    narrow(np.array([value], dtype=np.float32), fmt, stored)
    wide = np.empty(1, dtype=np.float32)
    widen(stored, fmt, wide)
    return float(wide[0])


@given(st.sampled_from(["BF16", "F16"]), st.integers(0, (1 << 32) - 1))
@settings(max_examples=600, deadline=None)
def test_narrowing_rounds_once_to_nearest_even(fmt: str, pattern: int) -> None:
    (value,) = struct.unpack("<f", struct.pack("<I", pattern))
    wanted = math.nan if math.isnan(value) or math.isinf(value) else float(rounded(Fraction(value), fmt))
    if math.isfinite(wanted):
        got = narrowed(value, fmt)
        assert got == wanted and math.copysign(1, got) == math.copysign(1, value)
    else:
        with pytest.raises(NonFiniteError):
            narrowed(value, fmt)


@pytest.mark.parametrize("fmt", ["BF16", "F16"])
def test_every_tie_and_its_neighbours_narrow_as_specified(fmt: str) -> None:
    patterns = np.arange(0, 0x7C00 if fmt == "F16" else 0x7F80, 7, dtype=np.uint16)
    low, high = (np.empty(patterns.size, dtype=np.float32) for _ in range(2))
    widen(patterns, fmt, low)
    widen(patterns + np.uint16(1), fmt, high)
    high[np.isinf(high)] = 65536.0 if fmt == "F16" else 0.0
    middle = ((low.astype(np.float64) + high.astype(np.float64)) / 2).astype(np.float32)
    for values in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))):
        values = values[np.abs(values) < (65520.0 if fmt == "F16" else np.inf)]
        stored = np.empty(values.size, dtype=np.uint16)
        narrow(values.copy(), fmt, stored)
        back = np.empty(values.size, dtype=np.float32)
        widen(stored, fmt, back)
        assert [float(rounded(Fraction(float(v)), fmt)) for v in values] == [float(b) for b in back]


@pytest.mark.parametrize("case", json.loads((VECTORS / "narrow.json").read_text()), ids=lambda case: case["in"])
@pytest.mark.parametrize("fmt", ["BF16", "F16"])
def test_narrowing_vectors_of_the_specification(case: dict[str, Any], fmt: str) -> None:
    values = np.array([int(case["in"], 16)], dtype=np.uint32).view(np.float32)
    stored = np.zeros(1, dtype=np.uint16)
    if case[fmt] == "refused":
        with pytest.raises(NonFiniteError):
            narrow(values, fmt, stored)
        assert stored[0] == 0
    else:
        narrow(values, fmt, stored)
        assert f"{stored[0]:04x}" == case[fmt]
        assert case[fmt] not in case.get("not", {}).get(fmt, {}).values()


def test_float32_passes_unchanged_both_ways() -> None:
    values = np.array([0x00000001, 0x80000000, 0x7F7FFFFF, 0x3F800001], dtype=np.uint32).view(np.float32)
    wide, stored = np.empty_like(values), np.empty_like(values)
    widen(values, "F32", wide)
    narrow(wide, "F32", stored)
    assert bits(stored) == bits(values)


def test_a_bf16_model_is_rounded_once_at_the_end() -> None:
    # Each delta alone is lost at bfloat16's precision beside 1; their sum is not.
    parent = np.array([0x3F80], dtype=np.uint16)
    wide, out = np.empty(1, dtype=np.float32), np.empty(1, dtype=np.float32)
    widen(parent, "BF16", wide)
    weighted_sum(out, wide, [np.full(1, 2.0**-9, dtype=np.float32)] * 4, np.ones(4, dtype=np.float32), new_scratch())
    stored = np.empty(1, dtype=np.uint16)
    narrow(out, "BF16", stored)
    assert stored[0] == 0x3F81


ONE = np.ones(1, dtype=np.float32)
BUFFER = np.zeros(8, dtype=np.float32)


@pytest.mark.parametrize(
    ("out", "parent", "updates", "coeff", "scratch"),
    [
        (ONE.copy(), ONE, [], np.empty(0, dtype=np.float32), BUFFER),
        (ONE.copy(), ONE, [ONE], np.ones(2, dtype=np.float32), BUFFER),
        (ONE.copy(), ONE, [BUFFER], ONE, BUFFER.copy()),
        (ONE.copy(), BUFFER, [ONE], ONE, BUFFER.copy()),
        (ONE.copy(), ONE, [np.ones(1)], ONE, BUFFER),
        (np.ones(1), ONE, [ONE], ONE, BUFFER),
        (ONE.copy(), ONE, [ONE], np.ones(1), BUFFER),
        (ONE.copy(), ONE, [ONE], ONE, np.empty(0, dtype=np.float32)),
        (BUFFER, BUFFER, [BUFFER], ONE, np.zeros(8, dtype=np.float32)),
        (BUFFER[:4], np.zeros(4, dtype=np.float32), [BUFFER[2:6]], ONE, np.zeros(8, dtype=np.float32)),
        (np.zeros(4, dtype=np.float32), np.zeros(4, dtype=np.float32), [BUFFER[:4]], ONE, BUFFER),
        (
            np.ones((1, 1), dtype=np.float32),
            np.ones((1, 1), dtype=np.float32),
            [np.ones((1, 1), dtype=np.float32)],
            ONE,
            BUFFER,
        ),
    ],
    ids=[
        "none",
        "coeff",
        "row",
        "parent",
        "f64row",
        "f64out",
        "f64coeff",
        "noscratch",
        "alias",
        "overlap",
        "scratched",
        "2d",
    ],
)
def test_shapes_dtypes_and_overlaps_are_refused(out: Any, parent: Any, updates: Any, coeff: Any, scratch: Any) -> None:
    with pytest.raises(ShapeError):
        weighted_sum(out, parent, updates, coeff, scratch)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (np.zeros(2), "F64"),
        (np.zeros(2, dtype=np.int64), "I64"),
        (np.zeros(2, dtype=np.float32), "BF16"),
        (np.zeros(2), "F32"),
    ],
)
def test_other_precisions_are_refused(stored: Any, dtype: str) -> None:
    values = np.zeros(2, dtype=np.float32)
    with pytest.raises(PrecisionError) as error:
        widen(stored, dtype, values)
    assert error.value.code == "precision" and error.value.remedy
    with pytest.raises(PrecisionError):
        narrow(values, dtype, stored)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_aggregates_are_refused_wherever_they_stand(bad: float) -> None:
    for place in (0, 500, 999):
        values = np.ones(1000, dtype=np.float32)
        values[place] = bad
        with pytest.raises(NonFiniteError):
            require_finite(values)
    require_finite(np.full(3, 3.4e38, dtype=np.float32))
    require_finite(np.empty(0, dtype=np.float32))


def test_overflow_follows_ieee_without_a_warning() -> None:
    assert computed([3e38], [[3e38]], [1.0])[0] == math.inf
    assert math.isnan(computed([0.0], [[3e38], [3e38]], [10.0, -10.0])[0])


def _in_thread_with_rounding(direction: int) -> list[BaseException | None]:
    """Run `require_mode` in a thread of its own whose rounding direction is changed by the C library."""
    libm = ctypes.CDLL("libm.so.6")
    found: list[BaseException | None] = []

    def work() -> None:
        libm.fesetround(direction)
        try:
            require_mode()
            found.append(None)
        except ArithmeticModeError as error:
            found.append(error)
        finally:
            libm.fesetround(0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found


@pytest.mark.parametrize("direction", [0x400, 0x800, 0xC00], ids=["down", "up", "zero"])
def test_a_thread_that_rounds_otherwise_is_refused(direction: int) -> None:
    assert isinstance(_in_thread_with_rounding(direction)[0], ArithmeticModeError)


def test_a_thread_that_flushes_subnormals_is_refused() -> None:
    found: list[bool] = []

    def work() -> None:
        torch.set_flush_denormal(True)
        try:
            with pytest.raises(ArithmeticModeError) as error:
                computed([1.0], [[1.0]], [1.0])
            found.append("set_flush_denormal" in str(error.value))
        finally:
            torch.set_flush_denormal(False)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]
    require_mode()


def test_a_new_thread_and_this_one_compute_as_specified() -> None:
    assert _in_thread_with_rounding(0) == [None]
    assert new_scratch().size == arithmetic.SPAN
