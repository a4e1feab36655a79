"""What a fuzz target is: seeds, and a check that lets nothing but our own errors pass for a refusal.

A check reads bytes as a peer or a file would bring them. It returns when they were refused with a `CountersealError`, or were
taken and everything that was promised of a taken value holds. Anything else that escapes it is a finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from counterseal.errors import CountersealError
from counterseal.trust.canonical import canonical
from counterseal.trust.documents import Document, Model, parse_document

__all__ = ["Target", "count_taken", "require", "round_trips", "same_model", "taken"]

T = TypeVar("T")
D = TypeVar("D", bound=Document)

_counted: Counter[str] = Counter()


@dataclass(frozen=True, slots=True)
class Target:
    """One parser under test; ``covers`` are the modules whose reading of bytes it drives, relative to the package."""

    name: str
    covers: tuple[str, ...]
    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], object]
    as_json: bool = False
    least: int = 1
    """How many of the readings of its seeds must succeed."""


def require(holds: object, what: str) -> None:
    """Fail the target unless ``holds``: unlike an assert, also under -O."""
    if not holds:
        raise AssertionError(what)


def taken(read: Callable[[], T]) -> T | None:
    """Return what ``read`` returns, or None where it refuses as it should."""
    try:
        found = read()
    except CountersealError as error:
        require(error.code and error.what, "an error says what and has a code")
        return None
    _counted["taken"] += 1
    return found


def count_taken() -> int:
    """Return how often anything was taken since the last call: a target whose seeds are all refused tests nothing."""
    return _counted.pop("taken", 0)


def round_trips(model: type[D], payload: bytes) -> D | None:
    """Return the document in ``payload``, if it is one, after writing it out and reading it again gave the same."""
    found = taken(lambda: parse_document(model, payload))
    if found is not None:
        written = found.payload()
        again = parse_document(model, written)
        require(again == found, f"{model.__name__} differs after a round trip")
        require(again.payload() == written, f"{model.__name__} has two canonical forms")
    return found


def same_model(found: Model) -> None:
    """Fail unless ``found`` comes back equal from its canonical JSON."""
    value = found.model_dump(mode="json")
    require(
        type(found).model_validate_json(canonical(value)) == found, f"{type(found).__name__} differs after a round trip"
    )
