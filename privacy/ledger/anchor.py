"""The anchor: what a place outside the ledger's disk remembers of it, so that an old copy is known to be old.

Guaranteed by whoever implements `Anchor`: `advance` moves the one mark of its place from `previous` to `mark` atomically and
durably, or raises; so of two ledgers that share a place (a clone, a restored backup) only one gets on.

What follows for the ledger, which commits first and anchors second, and only then answers:

- mark == head: nothing happened in between;
- the ledger is ahead and the mark is on its chain: a crash between commit and anchor. The debit stands; the mark is moved on;
- the mark is ahead, or at a counter where the ledger has another entry, or of another ledger: an old copy, or a fork. Refused.

Not handled: whoever can write the anchor's place and the ledger can take both back. Choose a place that the ledger's
administrator cannot change: Object Lock, a token in another room. A ledger without an anchor is NOT COVERED.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..errors import AnchorError, RollbackError
from .entry import canonical, is_digest

__all__ = ["LIMIT", "Anchor", "Mark", "moved"]

_FORMAT = "counterseal-anchor/v1"

LIMIT = 1_000
"""More bytes than any mark has."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A ledger, how far it had come, and its head there."""

    ledger: str
    counter: int
    head: str

    def to_bytes(self) -> bytes:
        """Return the canonical JSON that anchors store."""
        return canonical({"format": _FORMAT, "ledger": self.ledger, "counter": self.counter, "head": self.head})

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Mark:
        """Return the mark that ``raw`` spells.

        Raises:
            AnchorError: it is not one.
        """
        try:
            told = json.loads(raw[:LIMIT])
            mark = cls(told["ledger"], told["counter"], told["head"])
            good = is_digest(mark.ledger) and type(mark.counter) is int and is_digest(mark.head)
            good = good and mark.to_bytes() == raw
        except (ValueError, KeyError, TypeError, RecursionError):
            good = False
        if not good:
            raise AnchorError(
                "the anchor holds something that is not a mark", where=where, remedy="Find out who wrote there."
            )
        return mark


@runtime_checkable
class Anchor(Protocol):
    """A place outside the ledger's disk that holds one mark of one ledger."""

    @property
    def place(self) -> str:
        """Where this is, in words for people; no secret."""

    def read(self) -> Mark | None:
        """Return the newest mark, or None where there never was one.

        Raises:
            AnchorError: the place does not answer, or holds something else.
            RollbackError: two marks at one counter.
        """

    def advance(self, mark: Mark, previous: Mark | None) -> None:
        """Move the mark from ``previous`` to ``mark``, durably.

        Raises:
            AnchorError: the place does not answer, or refuses.
            RollbackError: the newest mark is not ``previous``.
        """


def moved(where: str) -> RollbackError:
    """Return the error of an anchor that is not where its ledger last saw it."""
    return RollbackError(
        "the anchor has moved: another copy of this ledger went on",
        where=where,
        remedy="Release nothing. Find the other copy (`counterseal ledger show` at both) and stop one of the two for ever.",
    )
