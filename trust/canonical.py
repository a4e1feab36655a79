"""Canonical JSON (RFC 8785) out, strict JSON in.

What is signed is written once in canonical form; what is read is the stored bytes, never written again before a
check. Reading refuses duplicate names, NaN and infinities, lone surrogates, deep nesting and
anything over the caller's size limit, before a model sees it.

A JSON number is a double here, as RFC 8785 has it. An integer beyond 2^53 - 1 is read only in the one spelling that a double's
canonical form has (1e17 is written 100000000000000000), and is then that float: what is written can always be read back, and
no two readers round differently.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import rfc8785

from .errors import MalformedError

__all__ = ["LIMIT", "canonical", "parse"]

LIMIT = 1 << 20
"""Bytes of the largest JSON document read by default."""

_DEPTH = 64
_TOKEN = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.S
)  # an unclosed string ends with the data: never read twice
_SAFE = 2**53 - 1


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 form of a JSON value.

    >>> canonical({"b": 1, "a": [True, None, "é"]})
    b'{"a":[true,null,"\\xc3\\xa9"],"b":1}'
    """
    try:
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError:
        return rfc8785.dumps(_doubles(value))


def _doubles(value: Any) -> Any:
    # A model that holds any JSON value reads 1e17 back as an integer: it is the same number, and has the same form.
    if isinstance(value, dict):
        return {name: _doubles(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_doubles(one) for one in value]
    large = isinstance(value, int) and _SAFE < abs(value) < 10**21
    return float(value) if large and rfc8785.dumps(float(value)) == b"%d" % value else value


def parse(data: bytes, *, limit: int = LIMIT, what: str = "document") -> Any:
    """Return the JSON value that ``data`` spells.

    Raises:
        MalformedError: not UTF-8 JSON, too long, too deep, a duplicate name, a number that JSON peers would not share.
    """
    if len(data) > limit:
        raise MalformedError(f"{what} of {len(data)} bytes is over the limit of {limit}", where=what)
    _check_depth(data, what)
    try:
        value = _DECODER.decode(data.decode("utf-8"))
        if b"\\u" in data:  # only an escape can spell half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not strict JSON ({error})"[:300], where=what) from None


def _check_depth(data: bytes, what: str) -> None:
    # A cheap upper bound first: brackets inside strings count too. Then string by string, at the speed of `re`.
    if data.count(b"[") + data.count(b"{") <= _DEPTH:
        return
    depth = 0
    for token in _TOKEN.finditer(data):
        first = data[token.start()]
        if first == 0x22:
            continue
        depth += 1 if first in b"[{" else -1
        if depth > _DEPTH:
            raise MalformedError(f"nested deeper than {_DEPTH}", where=what)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate name in an object")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond the largest double")
    return value


def _integer(text: str) -> int | float:
    if len(text) > 22:
        raise ValueError("integer beyond 2^53 - 1")
    number = int(text)
    if abs(number) <= _SAFE:
        return number
    if rfc8785.dumps(float(number)) != text.encode():
        raise ValueError("integer beyond 2^53 - 1 that is not the canonical form of a double")
    return float(number)


# One decoder for all: building it costs as much as reading a small document.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float)
