"""The YAML that people write, read strictly: one spelling for one meaning, and a line number for every mistake.

The reader takes JSON's values in YAML's clothes. It works on the parser's events, so nothing is ever constructed that
the text asks for. It refuses what makes two readers disagree or a small file large: anchors, aliases, merge keys, tags,
duplicate keys, several documents, keys that are not strings, deep nesting, files over a limit. Plain scalars follow
YAML 1.2's core schema: ``true``, ``false``, ``null``, decimal numbers; ``no`` and ``on`` are strings, ``12:30`` is not
a number, and nothing is a date.

It does not know what a field means: models do, and `Yaml.line` tells where the field stands.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from .errors import MalformedError

__all__ = ["LIMIT", "Place", "Yaml", "parse_yaml", "read_regular_file"]

LIMIT = 1 << 18
"""Bytes of the largest YAML file read by default."""

Place: TypeAlias = tuple[str | int, ...]
"""The way to a value from the top: names and list positions."""

_DEPTH = 16
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # an escape can spell one; it is no character, and no UTF-8 holds it
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True)
class Yaml:
    """A value made of JSON's types, and the line of every part of it."""

    value: Any
    file: str
    lines: dict[Place, int]

    def line(self, place: Place) -> int:
        """Return the line (from 1) of ``place``, or of the nearest part around it that the file has."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place, 1)

    def where(self, place: Place) -> str:
        """Return ``file:line`` of ``place``."""
        return f"{self.file}:{self.line(place)}"


def read_regular_file(path: Path, *, limit: int, what: str, follow: bool = True) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes; a pipe or device never blocks the caller.

    Raises:
        MalformedError: not a regular file, too long, or a symbolic link where ``follow`` is false.
        OSError: it cannot be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    if not follow and path.is_symlink():
        raise MalformedError(f"a symbolic link where a {what} belongs", where=ascii(path.name))
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise MalformedError(f"not a regular file, so not a {what}", where=ascii(path.name))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise MalformedError(f"a {what} of more than {limit} bytes", where=ascii(path.name))
    return data


def parse_yaml(data: bytes, *, file: str, limit: int = LIMIT) -> Yaml:
    """Return the value that ``data`` spells; ``file`` is the name that errors show.

    Raises:
        MalformedError: not UTF-8 YAML, or one of the refused constructions; ``where`` is ``file:line``.
    """
    if len(data) > limit:
        raise MalformedError(f"{len(data)} bytes are over the limit of {limit}", where=file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MalformedError("not UTF-8", where=f"{file}:{line}") from None
    try:
        return _Reader(text, file).read()
    except yaml.MarkedYAMLError as error:
        line = getattr(error.problem_mark, "line", 0) + 1
        raise MalformedError(f"not YAML ({error.problem})"[:200], where=f"{file}:{line}") from None
    except yaml.YAMLError:
        raise MalformedError("not YAML: a character that YAML does not allow", where=file) from None
    except (ValueError, OverflowError):  # the library's own: an escape beyond Unicode, a version number of many digits
        raise MalformedError("not YAML: an escape or a number that does not exist", where=file) from None


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._file = file
        self._lines: dict[Place, int] = {}

    def read(self) -> Yaml:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise MalformedError("the file is empty", where=f"{self._file}:1")
        value = self._value(self._next(), ())
        next(self._events)  # the end of the document
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._error(after, "a second document in one file")
        return Yaml(value, self._file, self._lines)

    def _next(self) -> Any:
        event = next(self._events)
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, "an alias (*name)", "Write the value out.")
        if getattr(event, "anchor", None) is not None:
            raise self._error(event, "an anchor (&name)", "Write the value out where it is needed.")
        if isinstance(event, yaml.ScalarEvent) and not event.value.isascii() and _SURROGATE.search(event.value):
            raise self._error(event, "half of a surrogate pair", "Write the character itself.")
        if getattr(event, "tag", None) is not None:
            raise self._error(event, "a tag (!name)", "Write plain values; put quotes around text.")
        return event

    def _value(self, event: Any, place: Place) -> Any:
        self._lines[place] = _line(event)
        if len(place) > _DEPTH:
            raise self._error(event, f"nested deeper than {_DEPTH}")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(place)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(place)
        return event.value if event.style is not None else self._plain(event)

    def _mapping(self, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or not event.value:
                raise self._error(event, "a key that is not a name")
            if event.value == "<<":
                raise self._error(event, "a merge key (<<)", "Write the values out.")
            if event.value in found:
                raise self._error(event, f"the key {event.value!r} a second time"[:100])
            found[event.value] = self._value(self._next(), (*place, event.value))
            self._lines[(*place, event.value)] = _line(event)  # where the name stands
        return found

    def _sequence(self, place: Place) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            found.append(self._value(event, (*place, len(found))))
        return found

    def _plain(self, event: Any) -> str | int | float | bool | None:
        text: str = event.value
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > 17 or abs(int(text)) > 2**53 - 1:
                raise self._error(event, "an integer beyond 2^53 - 1", "Put quotes around text made of digits.")
            return int(text)
        if _NUMBER.fullmatch(text):
            if text.lstrip("+-")[:1] == "0" and text.lstrip("+-").isdigit():
                raise self._error(event, "a number with leading zeros", "Put quotes around text made of digits.")
            if not math.isfinite(float(text)):
                raise self._error(event, "a number too large", "Put quotes around text made of digits.")
            return float(text)
        return text

    def _error(self, event: Any, what: str, remedy: str = "") -> MalformedError:
        return MalformedError(f"{what} is not allowed", where=f"{self._file}:{_line(event)}", remedy=remedy)


def _line(event: Any) -> int:
    number: int = event.start_mark.line + 1
    return number
