"""Checks 6 and 7: is every leaf an event signed by a key that was valid there, by a party that may say such a thing?

`read_events` walks the leaves in order with the charter's keys and applies rotations, revocations and removals as it
meets them, so a leaf is judged by the keys before it (`trust.keys.validity`). Only what held is handed on: later checks
never see an event whose signature failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from ...trust import dsse
from ...trust.canonical import parse
from ...trust.errors import MalformedError, SignatureError, TrustError
from ...trust.identifiers import sha256
from ...trust.keys.signing import VerifyingKey
from ...trust.keys.validity import KeyHistory
from ..events import EVENTS, Event, FederationCreate, KeyEnrol, MemberAdd
from ..governance import GOVERNING, follow
from ..tlog.tiles import MAX_LEAF
from .evidence import Evidence, Logged, Trust
from .findings import Outcome, judge
from .signatures import Claim, hold

__all__ = ["Reading", "actor_fault", "check_actors", "check_leaves", "read_events", "unenrolled"]

_PAYLOAD_TYPE = dsse.payload_type(Event.KIND)
_FORGED = "the signature does not hold"


@dataclass(slots=True)
class Reading:
    """What came of reading the leaves: the events that held, the keys over the whole log, and what was wrong."""

    history: KeyHistory
    events: list[Logged[Event]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    open_questions: list[str] = field(default_factory=list)


def read_events(evidence: Evidence, *, workers: int | None = None) -> Reading:
    """Return the events of every leaf whose signature holds under a key valid at its index.

    Signatures are checked at the end, on ``workers`` cores; those that change the keys at once, since later leaves are
    judged by them.
    """
    trust = evidence.trust
    charter = trust.charter
    reading = Reading(KeyHistory.from_charter(charter.charter.federation, charter.statements.values()))
    claimed: list[tuple[Logged[Event], Claim]] = []
    for index, leaf in enumerate(evidence.leaves):
        try:
            logged, claim = _open(leaf, index, reading.history)
            if isinstance(logged.event, GOVERNING) and not claim.holds():
                raise SignatureError(_FORGED)
            claimed.append((logged, claim))
            reading.history = _follow(reading.history, logged, trust)
        except LookupError as error:
            reading.open_questions.append(f"leaf {index}: {error.args[0]}")
        except TrustError as error:
            reading.faults.append(f"leaf {index}: {error.what}")
    for (logged, _), holds in zip(claimed, hold([claim for _, claim in claimed], workers=workers), strict=True):
        if holds:
            reading.events.append(logged)
        else:
            reading.faults.append(f"leaf {logged.index}: {_FORGED}")
    return reading


def _open(leaf: bytes, index: int, history: KeyHistory) -> tuple[Logged[Event], Claim]:
    """Return the event that ``leaf`` spells, and what is still to be checked: its signature."""
    envelope = dsse.read(leaf, limit=MAX_LEAF)
    value = parse(envelope.payload, what="event")
    name = value.get("type") if isinstance(value, dict) else None
    if envelope.kind != Event.KIND or not isinstance(name, str) or name not in EVENTS:
        raise MalformedError("not an event that this version knows")
    try:
        event = EVENTS[name].model_validate_json(envelope.payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise MalformedError(f"a {name} whose fields do not fit ({first['type']})") from None
    if event.federation != history.federation:
        raise SignatureError("an event of another federation")
    key = history.key(event.actor, "sign", envelope.key_id, at=index)
    if not isinstance(key, VerifyingKey):
        raise SignatureError("not a signing key")
    claim = Claim(key, envelope.signature, dsse.pae(_PAYLOAD_TYPE, envelope.payload))
    return Logged(index, event, sha256(envelope.payload), envelope.key_id), claim


def _follow(history: KeyHistory, logged: Logged[Event], trust: Trust) -> KeyHistory:
    """Return the keys after the event; `LookupError` says what a judgement would need."""
    charter = trust.charter.charter
    return follow(history, logged.event, at=logged.index, charter=charter, objects=trust.objects)


def check_leaves(reading: Reading) -> Outcome:
    """6. Every leaf is an event of this federation, signed by its actor's key as valid at that index."""
    return judge(reading.faults, reading.open_questions)


def check_actors(evidence: Evidence, reading: Reading) -> Outcome:
    """7. Every actor may say what it said: the server its decisions, a site its own receipts, a member its own keys."""
    faults, open_questions = [], []
    charter = evidence.trust.charter
    first = reading.events[0] if reading.events else None
    if first is None or first.index != 0 or not isinstance(first.event, FederationCreate):
        faults.append("leaf 0 is not the founding of the federation")
    for one in reading.events:
        fault = actor_fault(one.event, charter.charter.server, charter.charter.cosigners)
        if fault:
            faults.append(f"leaf {one.index}: {fault}")
        if isinstance(one.event, FederationCreate) and (one.index or one.event.charter != charter.digest):
            faults.append(f"leaf {one.index}: a founding under another charter, or a second one")
        if isinstance(one.event, MemberAdd | KeyEnrol):
            known = charter.statements.get(one.event.identity)
            if known is None:
                open_questions.append(f"leaf {one.index}: {one.event.identity} is not in the charter at hand")
            elif known.digest != one.event.statement:
                faults.append(f"leaf {one.index}: {one.event.identity} with other keys than the charter's")
        if isinstance(one.event, KeyEnrol):
            decision = one.event.decision
            if decision.identity != one.event.identity or not decision.allowed:
                faults.append(f"leaf {one.index}: {one.event.identity} enrolled without the group's yes")
    return judge(faults, open_questions)


def unenrolled(evidence: Evidence, reading: Reading) -> list[str]:
    """Return the members whose keys nobody presented with a token, where the group is one of Globus.

    That is no fault: their keys rest on the charter's signatures. The server itself enrols nowhere.
    """
    charter = evidence.trust.charter
    if charter.charter.group.authorizer != "globus":
        return []
    seen = {(one.event.identity, one.event.statement) for one in reading.events if isinstance(one.event, KeyEnrol)}
    return [
        member.identity
        for member in charter.charter.members
        if member.identity != charter.charter.server
        and (member.identity, charter.statements[member.identity].digest) not in seen
    ]


def _server_only(event: Event, server: str, sites: frozenset[str]) -> bool:
    return event.actor == server


def _own_or_server(event: Event, server: str) -> bool:
    return event.actor in (getattr(event, "identity", None), getattr(event, "site", None), server)


_RULES: dict[str, Callable[[Event, str, frozenset[str]], bool]] = {
    "receipt.file": lambda event, server, sites: event.actor in sites,
    "key.rotate": lambda event, server, sites: _own_or_server(event, server),
    "key.revoke": lambda event, server, sites: _own_or_server(event, server),
    "blob.unopenable": lambda event, server, sites: _own_or_server(event, server),
    "evidence.equivocation": lambda event, server, sites: True,
}
"""Who may say what; every type that is not here belongs to the server."""


def actor_fault(event: Event, server: str, sites: frozenset[str]) -> str:
    """Return why the actor of ``event`` may not say such a thing, or nothing: sites ask the same of a delivery's leaves."""
    rule = _RULES.get(event.type, _server_only)
    return "" if rule(event, server, sites) else f"{event.actor} may not say {event.type}"
