"""A readable timeline of a log: one row a leaf, safe to print.

A row says what a leaf *claims*; whether it holds is `audit.verify`'s to say, and a leaf that cannot even be read gets a row
that says so. No text of a leaf reaches a terminal, a spreadsheet or a page as it is: control, bidirectional, unassigned and
separator characters are spelled out (``\\u202e``), a leading ``= + - @`` is quoted, and every cell is cut at 200 characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..trust.errors import TrustError
from .events import Event, peek_event

__all__ = ["Row", "plain", "timeline"]

_CUT = 200
_LAST_YEAR = 253_402_300_799
_SHORT = 12


@dataclass(frozen=True, slots=True)
class Row:
    """One leaf: its index, when and by whom it claims to be, its type, the run and version it is about, and what it says."""

    index: int
    time: str
    actor: str
    type: str
    run: str
    version: str
    says: str


def timeline(leaves: Iterable[bytes], *, start: int = 0) -> Iterator[Row]:
    """Yield a row for each of ``leaves``, the first of which stands at index ``start``."""
    for index, leaf in enumerate(leaves, start):
        try:
            yield _row(index, peek_event(leaf))
        except TrustError as error:
            yield Row(index, "", "", "unreadable", "", "", plain(f"{error.code}: {error.what}"))


def _row(index: int, event: Event) -> Row:
    version = getattr(event, "version", None)
    return Row(
        index,
        _time(event.time),
        plain(event.actor),
        plain(event.type),
        plain(getattr(event, "run", None) or ""),
        "" if version is None else str(version),
        plain(_SAYS.get(event.type, _nothing)(event)),
    )


def _time(seconds: int) -> str:
    if seconds > _LAST_YEAR:
        return f"{seconds} s"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def plain(text: str) -> str:
    """Return ``text`` as one line of at most 200 harmless characters.

    >>> plain("a\\x1b[31m\\u202eb")
    'a\\\\u001b[31m\\\\u202eb'
    """
    spelled = "".join(_spell(character) for character in text[: _CUT + 1])
    if spelled[:1] in ("=", "+", "-", "@"):
        spelled = "'" + spelled
    return spelled if len(spelled) <= _CUT else spelled[: _CUT - 1] + "…"


def _spell(character: str) -> str:
    if character == " " or unicodedata.category(character)[0] not in "CZ":
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _nothing(event: Any) -> str:
    return ""


def _sites(items: Iterable[Any]) -> str:
    return ", ".join(f"{item.site} ({item.reason})" for item in items)


def _receipt(event: Any) -> str:
    reason = f" ({event.reason})" if event.reason else ""
    return f"{event.outcome}{reason} on {event.kind} ticket {event.ticket[:_SHORT]}, saw {event.checkpoint.size} leaves"


def _commit(event: Any) -> str:
    left_out = f"; left out: {_sites(event.excluded)}" if event.excluded else ""
    return f"{event.rule} of {', '.join(item.site for item in event.inputs)} gives {event.output[:_SHORT]}{left_out}"


def _enrolment(event: Any) -> str:
    login = "no login" if event.session_age is None else f"logged in {event.session_age} s before"
    factors = {True: ", MFA", False: ", no MFA", None: ""}[event.mfa]
    return (
        f"{event.identity} presented statement {event.statement[:_SHORT]} ({event.decision.reason}; {login}{factors})"
    )


_SAYS: dict[str, Callable[[Any], str]] = {
    "federation.create": lambda e: f"charter {e.charter[:_SHORT]}, members asked at {e.authorizer}",
    "member.add": lambda e: f"{e.identity} as {', '.join(e.roles)}",
    "member.remove": lambda e: f"{e.identity} ({e.reason})",
    "key.enrol": _enrolment,
    "key.rotate": lambda e: f"{e.identity}, statement {e.statement[:_SHORT]}",
    "key.revoke": lambda e: f"key {e.key[:_SHORT]} of {e.identity} ({e.reason})",
    "run.start": lambda e: f"rule {e.rule}, from model {e.model[:_SHORT]}",
    "round.open": lambda e: f"asks {', '.join(e.participants)}",
    "ticket.issue": lambda e: f"{e.kind} ticket {e.ticket[:_SHORT]} for {e.site}, number {e.seq}",
    "ticket.expire": lambda e: f"ticket {e.ticket[:_SHORT]} of {e.site} ({e.reason})",
    "receipt.file": _receipt,
    "update.admit": lambda e: f"{e.site}{' flagged ' + ', '.join(e.flags) if e.flags else ''}",
    "update.reject": lambda e: f"{e.site} ({', '.join(e.reasons)})",
    "update.late": lambda e: e.site,
    "update.unused": lambda e: f"{e.site} ({e.reason})",
    "update.exclude": lambda e: f"{e.site} ({e.reason})",
    "aggregate.commit": _commit,
    "round.abort": lambda e: f"{e.reason}; left out: {_sites(e.excluded)}",
    "blob.unopenable": lambda e: f"{e.site} could not open {e.manifest[:_SHORT]}",
    "access.denied": lambda e: f"{e.decision.identity} at {e.at} ({e.decision.reason})",
    "clock.skew": lambda e: f"{e.identity} by {e.seconds} s",
    "evidence.equivocation": lambda e: f"against {e.identity} ({e.what})",
    "model.release": lambda e: f"model {e.model[:_SHORT]} to {', '.join(e.recipients)}",
    "run.end": lambda e: f"{e.outcome}, {'witnessed' if e.witnessed else 'UNWITNESSED'}",
}
