"""Changed inputs, the same ones for the same random generator: bits, cuts, splices, and edits of a JSON value.

`mutate` is what the ordinary tests draw from, and what atheris calls half of the time for formats that are JSON, since a
change of one byte rarely leaves JSON behind.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["mutate", "mutate_bytes", "mutate_json"]

_TOKENS: tuple[bytes, ...] = (
    *(bytes([value]) for value in (0, 9, 10, 13, 32, 34, 43, 61, 92, 127, 128, 255)),
    b"\n\n", b"\r\n", b"=", b"==", b"+", b"\xe2\x80\x94 ", b"\xe2\x80\xae", b"\xc2\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80",
    b"null", b"true", b"-1", b"0", b"-0", b"1.0", b"1e400", b"NaN", b"9007199254740993", b"100000000000000000000",
    b'"\\ud800"', b'"\\u0000"', b'"\\UFFFFFFFF"', b'"\\x41"', b"\\", b"{}", b"[]", b'""', b"[[[[[[[[[[[[[[[[", b"&a ",
    b"*a", b"!!int ", b"!!python/object:os.system ", b"<<: ", b"---\n", b"? ", b"%YAML 9.9\n---\n", b"all", b"none", b"..",
)  # fmt: skip

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 256, 65_535, 2**31, 2**32, 2**40, 2**44, 2**53 - 1, 2**53, 10**30, -(2**53), 0.5, -0.0,
    1e16, 1e21, 1e300, "", "a", "A", "..", "/", "a/../b", "\x00", "\u202eb", "é", "e\u0301", "\U0001f4a9", "=", "AA==", "AB==",
    "AA", "0" * 64, "f" * 64, "F" * 64, "g" * 64, "1" * 63, "x" * 600, [], {}, [[]], [{}], {"": 1}, {"a": None}, [None] * 3,
)  # fmt: skip


def mutate(data: bytes, others: Sequence[bytes], chance: random.Random, *, as_json: bool) -> bytes:
    """Return a changed ``data``; pieces may come from ``others``."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        change = mutate_json if as_json and chance.random() < 0.8 else mutate_bytes
        data = change(data, others, chance)
    return data


def mutate_bytes(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Flip, cut, repeat, insert or splice bytes."""
    at, end = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
    other = chance.choice(others) if others else b""
    begin, stop = sorted((chance.randint(0, len(other)), chance.randint(0, len(other))))
    near = min(len(data), at + chance.choice((1, 1, 2, 4, 8, 16)))
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: _flip(data, at),
        lambda: _flip(data, at),
        lambda: data[:at],
        lambda: data[:at] + data[near:],
        lambda: data[:at] + data[end:],
        lambda: data[:end] + data[at:],
        lambda: data[:at] + chance.choice(_TOKENS) + data[at:],
        lambda: data[:at] + chance.choice(_TOKENS) + data[near:],
        lambda: data[:at] + other[begin:stop] + data[end:],
        lambda: data[:at] + other[begin:],
        lambda: data + other,
    )
    return chance.choice(changes)()


def _flip(data: bytes, at: int) -> bytes:
    if not data:
        return b"\x01"
    at = min(at, len(data) - 1)
    return data[:at] + bytes([data[at] ^ (1 << (at * 7 + len(data)) % 8)]) + data[at + 1 :]


def mutate_json(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Change one place of the JSON value in ``data``; what is not JSON is changed as bytes."""
    try:
        value = json.loads(data)
        donor = json.loads(chance.choice(others)) if others and chance.random() < 0.5 else value
    except (ValueError, RecursionError):
        return mutate_bytes(data, others, chance)
    places = list(_places(value))
    changed = _change(value, chance.choice(places), list(_places(donor)), chance, others)
    return json.dumps(changed, ensure_ascii=chance.random() < 0.5, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


Place = tuple[tuple[str | int, ...], Any]


def _places(value: Any, way: tuple[str | int, ...] = ()) -> list[Place]:
    found: list[Place] = [(way, value)]
    children: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    for name, child in children:
        found += _places(child, (*way, name))
    return found


def _change(value: Any, place: Place, donors: list[Place], chance: random.Random, others: Sequence[bytes]) -> Any:
    way, old = place
    kind = chance.randrange(7)
    if kind == 0 and way:
        return _edit(value, way, None, remove=True)
    if kind == 1 and isinstance(old, dict):
        return _edit(value, way, {**old, chance.choice(("extra", "type", "kind", "", "__class__")): 1})
    if kind == 2 and isinstance(old, list) and old:
        again = [*old, chance.choice(old)] if chance.random() < 0.5 else list(reversed(old))
        return _edit(value, way, again)
    if kind == 3 and isinstance(old, str):
        text = mutate_bytes(old.encode("utf-8", "surrogatepass"), others, chance)
        return _edit(value, way, text.decode("utf-8", "replace"))
    if kind == 4 and isinstance(old, int | float) and not isinstance(old, bool):
        return _edit(value, way, chance.choice((old + 1, old - 1, -old, old * 2, old * 10**16)))
    if kind == 5:
        return _edit(value, way, chance.choice(donors)[1])
    return _edit(value, way, chance.choice(_VALUES))


def _edit(value: Any, way: tuple[str | int, ...], new: Any, *, remove: bool = False) -> Any:
    if not way:
        return new
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if len(way) == 1 and remove:
        del copy[way[0]]
    else:
        copy[way[0]] = _edit(value[way[0]], way[1:], new, remove=remove)
    return copy
