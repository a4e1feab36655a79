"""The specified arithmetic: a weighted sum of updates whose every bit anybody can recompute.

The page docs/formats/arithmetic.md is the specification; this file is its numpy reference. For one element:

    p_i = fl(coeff_i * u_i)         i = 0 .. n-1, the sites in ascending order
    s_0 = p_0,  s_i = fl(s_{i-1} + p_i)
    out = fl(parent + s_{n-1})

where fl rounds to binary32, to nearest, ties to even, with gradual underflow. Then, for a model stored in 16 bits, one
rounding to its format.

Why the same bits come out everywhere:

- An element depends only on the same element of the inputs and on n. Blocks, chunks, threads and vector registers split
  elements, never a sum, so no split can change a bit. Nothing is summed *along* an array (numpy's pairwise sums and a
  BLAS would choose an order of their own).
- Each product is stored before it is added. numpy's ``multiply`` and ``add`` are two passes over memory, so no compiler
  can fuse them. (``torch.add(a, b, alpha=c)`` is one fused pass on machines with FMA; it is not this arithmetic.)
- The order is the sites' order, never the order of arrival: the caller sorts, `rule.require_site_order` checks.
- A library built with fast-math can switch the processor, per thread, to flushing subnormals to zero. `require_mode`
  looks before every call, at 0.2 microseconds.

Why the updates are summed before the parent is added: they are small beside it. The other order would round n times at
the parent's magnitude, an error of up to n/2 units in its last place; this one rounds there once. It starts with the first
product and not with zero, so that a sum of negative zeros stays negative zero, as IEEE 754 has it.

NaN and infinity follow IEEE 754 but never enter a model: admission refuses non-finite updates, the parent is finite by
induction, and `require_finite` and `narrow` refuse an aggregate that overflowed. Hence NaN payloads are not specified.

Not handled here: binary64 and integer tensors (a model in F64 is refused with a typed error; integer buffers are carried
from the parent by the caller), and where the coefficients come from (`rule`).

Source: IEEE 754-2019, 4.3.1 (rounding to nearest, ties to even), 5.4.1 (operations), 6.3 (the sign bit), 7.5 (underflow);
Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2 (order of summation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import ArithmeticModeError, NonFiniteError, PrecisionError, ShapeError

__all__ = [
    "Float32",
    "Rows",
    "SPAN",
    "narrow",
    "new_scratch",
    "require_finite",
    "require_mode",
    "weighted_sum",
    "widen",
]

Float32: TypeAlias = npt.NDArray[np.float32]

Rows: TypeAlias = Float32 | Sequence[Float32]
"""n vectors of one length: float32[n, c], or a sequence of n arrays float32[c]."""

SPAN: Final = 1 << 16
"""Elements worked on at once when the scratch is of `new_scratch`: three spans stay in a core's cache."""

_OVERFLOW: Final = {"F32": math.inf, "F16": 65520.0, "BF16": 2.0**128 - 2.0**119}
"""The least magnitude that rounds to infinity: half a unit above the greatest number of the format."""

_ODD: Final = 1.0 + 2.0**-52
_TIE: Final = 2.0**-53
_SMALLEST: Final = 2.0**-1022


def new_scratch(elements: int = SPAN) -> Float32:
    """Return a scratch float32[elements] for `weighted_sum`; each thread needs its own."""
    return np.empty(elements, dtype=np.float32)


def require_mode() -> None:
    """Return if this thread rounds to nearest even and keeps subnormal numbers.

    Raises:
        ArithmeticModeError: it does not, so no result of it could be recomputed elsewhere.
    """
    # One control register rules binary32 and binary64, scalar and vector, on x86-64 (MXCSR) and AArch64 (FPCR).
    # The constants are globals, so that nothing is folded when this file is compiled.
    nearest = 1.0 + _TIE == 1.0 and _ODD + _TIE == 1.0 + 2.0**-51 and -_ODD - _TIE == -1.0 - 2.0**-51
    if not (nearest and _SMALLEST * 0.5 > 0.0):
        raise ArithmeticModeError(
            "this thread flushes subnormal numbers to zero or does not round to nearest even",
            where="arithmetic",
            remedy="Unload the library that set it (built with -ffast-math?), or call torch.set_flush_denormal(False).",
        )


def weighted_sum(out: Float32, parent: Float32, updates: Rows, coeff: Float32, scratch: Float32) -> None:
    """Write parent + sum of coeff_i * update_i into ``out``, element by element, in the order of the rows.

    out, parent: float32[c]; updates: n >= 1 rows float32[c] in site order; coeff: float32[n]; scratch: float32[>= 1], of
    any length, overwritten. ``out`` and ``scratch`` overlap nothing. Nothing is allocated that grows with c.

    Raises:
        ShapeError: no row, lengths or dtypes differ, or buffers overlap.
        ArithmeticModeError: see `require_mode`.
    """
    _check(out, parent, updates, coeff, scratch)
    require_mode()
    with np.errstate(all="ignore"):  # overflow and NaN are judged by require_finite
        for start in range(0, out.size, scratch.size):
            span = slice(start, min(start + scratch.size, out.size))
            total, product = out[span], scratch[: span.stop - start]
            np.multiply(updates[0][span], coeff[0], out=total)
            for i in range(1, len(updates)):
                np.multiply(updates[i][span], coeff[i], out=product)
                np.add(total, product, out=total)
            np.add(parent[span], total, out=total)


def widen(stored: npt.NDArray[Any], dtype: str, out: Float32) -> None:
    """Write the values of ``stored``, in the safetensors ``dtype``, into ``out``: float32[c], exactly.

    F32: float32[c]. F16: float16[c] or its bit patterns uint16[c]. BF16: bit patterns uint16[c].

    Raises:
        PrecisionError: ``dtype`` is none of these, or ``stored`` does not hold it.
        ShapeError: the lengths differ.
    """
    _require_stored(stored, dtype, out)
    if dtype == "BF16":
        bits = out.view(np.uint32)
        np.copyto(bits, stored)
        np.left_shift(bits, 16, out=bits)
    else:
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            np.copyto(out, stored.view(np.float16) if dtype == "F16" else stored)


def narrow(values: Float32, dtype: str, out: npt.NDArray[Any]) -> None:
    """Write ``values``, float32[c], into ``out`` in the safetensors ``dtype``, rounded once, to nearest, ties to even.

    ``values`` is used as scratch for BF16 and holds nothing afterwards. Nothing is written if it raises.

    Raises:
        NonFiniteError: an element is NaN or infinite, or would be after rounding.
        PrecisionError: ``dtype`` is none of F32, F16, BF16, or ``out`` does not hold it.
        ShapeError: the lengths differ.
    """
    _require_stored(out, dtype, values)
    require_finite(values, dtype)
    if dtype == "BF16":
        stored, bits = out.view(np.uint16), values.view(np.uint32)
        np.right_shift(bits, 16, out=stored, casting="unsafe")
        np.bitwise_and(stored, 1, out=stored)  # ties go to the even neighbour
        np.add(bits, 0x7FFF, out=bits)
        np.add(bits, stored, out=bits)
        np.right_shift(bits, 16, out=stored, casting="unsafe")
    else:
        with np.errstate(under="ignore"):
            np.copyto(out.view(np.float16) if dtype == "F16" else out, values, casting="same_kind")


def require_finite(values: Float32, dtype: str = "F32") -> None:
    """Return if every element of ``values``, float32[c], is finite, and stays so when rounded to ``dtype``.

    Raises:
        NonFiniteError: some element is not, or does not.
    """
    limit = _OVERFLOW[dtype]
    with np.errstate(all="ignore"):
        # A NaN fails both comparisons, and max and min hand a NaN on; neither allocates.
        sound = values.size == 0 or bool(values.max() < limit and values.min() > -limit)
    if not sound:
        raise NonFiniteError(
            f"an element is NaN or infinite in {dtype}",
            where="aggregate",
            remedy="Bound the updates' norms (clip_norm), or abort the round.",
        )


def _require_stored(stored: npt.NDArray[Any], dtype: str, values: Float32) -> None:
    holders = {"F32": (np.float32,), "F16": (np.float16, np.uint16), "BF16": (np.uint16,)}.get(dtype)
    if holders is None or stored.dtype not in holders:
        raise PrecisionError(
            f"no arithmetic is specified for {dtype[:20]!r} in an array of {stored.dtype}",
            where="arithmetic",
            remedy="Aggregate F32, F16 or BF16 tensors; convert others, or keep them out of the update.",
        )
    if stored.shape != values.shape or values.ndim != 1 or values.dtype != np.float32:
        raise ShapeError(
            f"{stored.dtype}{list(stored.shape)} beside {values.dtype}{list(values.shape)}", where="arithmetic"
        )


def _check(out: Float32, parent: Float32, updates: Rows, coeff: Float32, scratch: Float32) -> None:
    if len(updates) == 0 or coeff.shape != (len(updates),) or scratch.ndim != 1 or scratch.size == 0:
        raise ShapeError(
            f"{len(updates)} updates, {list(coeff.shape)} coefficients and a scratch of {scratch.size}",
            where="arithmetic",
        )
    for array in (out, parent, coeff, scratch, *updates):
        if array.dtype != np.float32 or (array is not coeff and array is not scratch and array.shape != out.shape):
            raise ShapeError(
                f"{array.dtype}{list(array.shape)} where float32{list(out.shape)} belongs", where="arithmetic"
            )
    if out.ndim != 1 or np.may_share_memory(out, scratch):
        raise ShapeError("out is not one-dimensional, or shares memory with the scratch", where="arithmetic")
    for array in (parent, coeff, *updates):
        if np.may_share_memory(array, out) or np.may_share_memory(array, scratch):
            raise ShapeError("an input shares memory with out or with the scratch", where="arithmetic")
