"""ADMM's arithmetic once more, one element at a time, in exact fractions rounded by integers: shares no code with numpy's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .test_arithmetic import rounded


def add(a: float, b: float) -> float:
    exact = Fraction(a) + Fraction(b)
    if exact == 0:
        return -0.0 if math.copysign(1, a) < 0 and math.copysign(1, b) < 0 else 0.0
    return float(rounded(exact, "F32"))


def subtract(a: float, b: float) -> float:
    return add(a, -b)


def multiply(a: float, b: float) -> float:
    return math.copysign(float(rounded(Fraction(a) * Fraction(b), "F32")), math.copysign(1, a) * math.copysign(1, b))


def divide(a: float, b: float) -> float:
    return math.copysign(float(rounded(Fraction(a) / Fraction(b), "F32")), math.copysign(1, a) * math.copysign(1, b))


@dataclass(frozen=True)
class Element:
    """One element of one round: w, and for each member its pair, penalty and, if it took part, what it sent."""

    rule: str
    parent: float
    dual: Sequence[float]
    primal: Sequence[float]
    rho: Sequence[float]
    coeff: Mapping[int, float]
    delta: Mapping[int, float]
    gained: Mapping[int, float]
    """The plane ``dual`` of ICEADMM."""


def round_of(one: Element) -> tuple[float, dict[int, float], dict[int, float]]:
    """Return w', and the new dual and primal by member."""
    dual, primal = dict(enumerate(one.dual)), dict(enumerate(one.primal))
    for member, a in one.coeff.items():
        primal[member] = add(one.parent, multiply(a, one.delta[member]))
        error = subtract(one.parent, primal[member]) if one.rule == "iiadmm" else multiply(a, one.gained[member])
        dual[member] = add(dual[member], multiply(one.rho[member], error))
    total, penalties = 0.0, 0.0
    for member, rho in enumerate(one.rho):
        term = multiply(rho, subtract(primal[member], one.parent))
        term = subtract(term, dual[member]) if one.rule == "iiadmm" else add(term, dual[member])
        total = add(total, term) if member else term
        penalties = add(penalties, rho) if member else rho
    made = add(one.parent, divide(total, penalties))
    new = set(one.coeff)
    return made, {m: dual[m] for m in new}, {m: primal[m] for m in new}
