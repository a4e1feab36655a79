"""One line of the ledger: canonical JSON that names the line before it by digest.

An entry is an object with exactly `format`, `counter`, `kind`, `previous`, `time`, `body`, written in RFC 8785; its digest
is the SHA-256 of these bytes. `previous` is the digest of the entry before, 64 zeros for the first, so the digest of the last
entry (the *head*) fixes every entry and their order. Counters rise by one, except that an entry of kind `loss` may leap: it
takes a counter above everything that was lost.

Guaranteed: what `Entry.parse` accepts has one spelling only. Not handled here: what the body means (`book`), who may write
(`ledger`), whether this is the newest head (`anchor`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import rfc8785

from ..errors import LedgerDamagedError, LedgerError

__all__ = ["DAMAGED", "FIRST", "FORMAT", "Entry", "Kind", "canonical", "is_digest"]

FORMAT: Final = "counterseal-ledger/v1"

FIRST: Final = "0" * 64
"""What the first entry names as the one before it."""

DAMAGED: Final = "Keep the file as it is for whoever looks into this; restore the newest backup beside it."
"""What to do about a ledger that is no chain."""

Kind = Literal[
    "genesis",
    "anchor.adopt",
    "population",
    "dataset",
    "run.reserve",
    "ticket.reserve",
    "ticket.settle",
    "run.close",
    "loss",
]

_KINDS: Final = frozenset(get_args(Kind))
_MEMBERS: Final = {"format", "counter", "kind", "previous", "time", "body"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LIMIT: Final = 1 << 20
_SAFE: Final = 2**53 - 1


def is_digest(value: object) -> bool:
    """Say whether ``value`` is a SHA-256 in lower-case hexadecimal."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 form of ``value``.

    Raises:
        LedgerError: it is not JSON, or holds a number that JSON readers would not share.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeEncodeError) as error:
        raise LedgerError(f"a value that has no canonical JSON ({type(error).__name__})", where="ledger") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; made by `make` or `parse`, which keep ``raw`` and the other members the same thing."""

    counter: int
    kind: Kind
    previous: str
    time: int
    body: Mapping[str, Any]
    raw: bytes
    """The bytes that are stored and hashed."""
    digest: str
    """SHA-256 of ``raw``: the ledger's head while this entry is the last."""

    @classmethod
    def make(cls, counter: int, kind: Kind, previous: str, time: int, body: Mapping[str, Any]) -> Entry:
        """Return the entry with these members.

        Raises:
            LedgerError: the body is not JSON, or too long.
        """
        members = {"counter": counter, "kind": kind, "previous": previous, "time": time, "body": dict(body)}
        raw = canonical({"format": FORMAT, **members})
        if len(raw) > _LIMIT:
            raise LedgerError(f"an entry of {len(raw)} bytes is over the limit of {_LIMIT}", where="ledger")
        return cls.parse(raw)

    @classmethod
    def parse(cls, raw: bytes) -> Entry:
        """Return the entry that ``raw`` spells.

        Raises:
            LedgerDamagedError: not an entry, or not in its one spelling.
        """
        try:
            members = json.loads(raw)
            good = len(raw) <= _LIMIT and rfc8785.dumps(members) == raw and _is_entry(members)
        except (ValueError, RecursionError, rfc8785.CanonicalizationError):
            good = False
        if not good:
            raise LedgerDamagedError("an entry is not canonical JSON of its form", where="ledger", remedy=DAMAGED)
        del members["format"]
        return cls(**members, raw=raw, digest=hashlib.sha256(raw).hexdigest())


def _is_entry(members: Any) -> bool:
    if not isinstance(members, dict) or members.keys() != _MEMBERS:
        return False
    numbers = (members["counter"], members["time"])
    return (
        members["format"] == FORMAT
        and isinstance(members["kind"], str)
        and members["kind"] in _KINDS
        and all(type(number) is int and 0 <= number <= _SAFE for number in numbers)
        and is_digest(members["previous"])
        and isinstance(members["body"], dict)
    )
