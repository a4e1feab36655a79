"""Events: the leaves of the log.

Each leaf is the DSSE envelope of one event, signed by the party that acted, stored as it came. An event holds digests and
decisions, never data and never free text; what would tell something about an update (its norm, its coefficient, a site's
metrics) is a commitment, SHA-256 of a fresh 32-byte salt and the value, whose opening goes to those it concerns.

Long canonical objects (the charter, its signatures, key statements, messages) lie beside the log under their digest; the
schema of a model travels with deliveries.

Not handled here: whose key may sign which event at which index (`audit.verify`), and where leaves are kept (`audit.tlog.log`).
"""

from __future__ import annotations

import hashlib
import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from ..trust.canonical import canonical, parse
from ..trust.documents import Document, Model, Signed, open_document, parse_document
from ..trust.dsse import read
from ..trust.errors import MalformedError
from ..trust.group import UNANSWERED
from ..trust.identifiers import Digest, Identifier, Identity, Text, Time
from ..trust.keys.sealing import SealSuite
from ..trust.keys.signing import VerifyingKey
from ..trust.tickets import TicketKind

__all__ = [
    "EVENTS",
    "AccessDenied",
    "AggregateCommit",
    "BlobUnopenable",
    "ClockSkew",
    "Decision",
    "EvidenceEquivocation",
    "Excluded",
    "Event",
    "FederationCreate",
    "Input",
    "KeyEnrol",
    "KeyRevoke",
    "KeyRotate",
    "MemberAdd",
    "MemberRemove",
    "ModelRelease",
    "Place",
    "ReceiptFile",
    "RoundAbort",
    "RoundOpen",
    "RunEnd",
    "RunStart",
    "Spending",
    "TicketExpire",
    "TicketIssue",
    "UpdateAdmit",
    "UpdateExclude",
    "UpdateLate",
    "UpdateReject",
    "UpdateUnused",
    "commitment",
    "open_event",
    "peek_event",
    "salt",
]

Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Version = Annotated[int, Field(ge=0, le=2**40)]
Weight = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
Salt = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Event(Document):
    """What every event says: which kind, in which federation, who acted, when."""

    KIND: ClassVar[str] = "event"

    type: str
    federation: Identifier
    actor: Identity
    time: Time


class Decision(Model):
    """One answer of the group authority, as it was given."""

    identity: Identity
    role: Literal["site", "server", "auditor"]
    allowed: bool
    reason: Code
    source: Text
    time: Time

    @property
    def outage(self) -> bool:
        """Whether the group did not answer: this says nothing about the identity."""
        return self.reason in UNANSWERED


class Place(Model):
    """A checkpoint: how many leaves, under which root."""

    size: Annotated[int, Field(ge=0, le=2**53 - 1)]
    root: Digest


class FederationCreate(Event):
    """The charter takes effect. ``signatures`` are digests of the members' envelopes beside the log."""

    type: Literal["federation.create"] = "federation.create"
    charter: Digest
    signatures: tuple[Digest, ...]
    authorizer: Text


class MemberAdd(Event):
    """A member and the digest of the key statement that the charter carries for it."""

    type: Literal["member.add"] = "member.add"
    identity: Identity
    roles: tuple[Literal["site", "server", "auditor"], ...]
    statement: Digest


class MemberRemove(Event):
    """A member is out; its keys stop counting at this leaf."""

    type: Literal["member.remove"] = "member.remove"
    identity: Identity
    reason: Code


class KeyEnrol(Event):
    """The server saw the token with which a member presented its keys. It makes no key valid: the charter does."""

    type: Literal["key.enrol"] = "key.enrol"
    identity: Identity
    statement: Digest
    """The key statement that was enrolled: the one that the charter carries for the member."""
    enrolment: Digest
    decision: Decision
    mfa: bool | None
    """Whether the login was with more than one factor; null where there was no login (a roster, a service account)."""
    session_age: Annotated[int, Field(ge=0, le=2**40)] | None
    """Seconds since the person had logged in, when the server asked; null where there was no login."""


class KeyRotate(Event):
    """A member's next key statement (an object beside the log), signed by its previous key."""

    type: Literal["key.rotate"] = "key.rotate"
    identity: Identity
    statement: Digest


class KeyRevoke(Event):
    """A key stops counting from this leaf on. ``messages`` are the revocations that say so, objects beside the log."""

    type: Literal["key.revoke"] = "key.revoke"
    identity: Identity
    key: Digest
    reason: Code
    messages: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=500)]


class RunEvent(Event):
    """An event of one run."""

    run: Identifier


class RunStart(RunEvent):
    """A run begins: its whole configuration, the model it starts from, and the key that its updates are sealed to."""

    type: Literal["run.start"] = "run.start"
    charter: Digest
    config: dict[str, Any]
    schema_digest: Digest
    rule: Identifier
    parameters: dict[str, Any]
    """The rule's parameters: every commit of the run names the same."""
    model: Digest
    suite: SealSuite
    seal_key: Annotated[str, StringConstraints(max_length=8192)]
    """The run's KEM public key, base64: signing this event is how the server certifies it."""
    environment: Digest


class RoundOpen(RunEvent):
    """Work on the model of ``version`` begins; who is asked, and what the group said of each member."""

    type: Literal["round.open"] = "round.open"
    version: Version
    attempt: Annotated[int, Field(ge=0, le=1000)]
    """Which try at this version: an aborted round may be opened again."""
    parent: Digest
    manifest: Digest
    participants: tuple[Identity, ...]
    decisions: tuple[Decision, ...]


class TicketIssue(RunEvent):
    """A ticket was signed for a site."""

    type: Literal["ticket.issue"] = "ticket.issue"
    version: Version
    ticket: Digest
    site: Identity
    seq: Annotated[int, Field(ge=1, le=2**40)]
    kind: TicketKind
    not_after: Time


class TicketExpire(RunEvent):
    """Nobody answered a ticket in time."""

    type: Literal["ticket.expire"] = "ticket.expire"
    version: Version
    ticket: Digest
    site: Identity
    reason: Code


class Spending(Model):
    """What a site says of a release: by which policy, at which head of its ledger, and what this run has cost so far.

    The numbers are about this federation's run alone: what the site spent elsewhere is nobody's business here.
    """

    policy: Digest
    """The site's policy, as it decided."""
    ledger: Digest | None
    """Head of the site's ledger after this release was reserved; None where nothing was debited."""
    releases: Annotated[int, Field(ge=0, le=2**40)] = 0
    """Releases of this run under its privacy terms, this one included."""
    epsilon: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None
    """Upper bound of what these releases say of one unit, rounded up, at ``delta``."""
    delta: Annotated[float, Field(ge=0, lt=1)] | None = None


class ReceiptFile(RunEvent):
    """A site's answer to a ticket, signed by the site: what it releases, what it saw of the log."""

    type: Literal["receipt.file"] = "receipt.file"
    version: Version
    ticket: Digest
    seq: Annotated[int, Field(ge=1, le=2**40)]
    kind: TicketKind
    outcome: Literal["done", "refused", "failed"]
    reason: Code | None = None
    manifest: Digest | None = None
    checkpoint: Place
    cosignature: Annotated[str, StringConstraints(max_length=400)] | None = None
    """The site's cosignature line over ``checkpoint`` (C2SP cosignature/v1)."""
    metrics: Digest | None = None
    """Commitment to the metrics that travel beside the receipt."""
    model: Digest | None = None
    """For `receive`: the digest of the model that the site opened and keeps."""
    spending: Spending | None = None
    """For work that the site's policy decided about."""
    environment: Digest
    previous: Digest | None = None
    """Digest of this site's receipt before this one: a site's answers are a chain of their own."""
    outbox: tuple[Digest, ...] = ()


class UpdateEvent(RunEvent):
    """A decision about one update."""

    version: Version
    site: Identity
    ticket: Digest


class UpdateAdmit(UpdateEvent):
    """The update counts. ``statistics`` commits to what the screens saw."""

    type: Literal["update.admit"] = "update.admit"
    receipt: Digest
    manifest: Digest
    statistics: Digest
    flags: tuple[Code, ...] = ()
    decision: Decision


class UpdateReject(UpdateEvent):
    """The update does not count; the codes reach its site."""

    type: Literal["update.reject"] = "update.reject"
    receipt: Digest | None
    reasons: Annotated[tuple[Code, ...], Field(min_length=1)]


class UpdateLate(UpdateEvent):
    """An update came after its round was committed."""

    type: Literal["update.late"] = "update.late"
    receipt: Digest


class UpdateUnused(UpdateEvent):
    """An admitted update whose round was aborted."""

    type: Literal["update.unused"] = "update.unused"
    reason: Code


class UpdateExclude(UpdateEvent):
    """An admitted update was taken out again before the commit: its site was no longer a member."""

    type: Literal["update.exclude"] = "update.exclude"
    reason: Code
    decision: Decision


class Input(Model):
    """One summand of an aggregate; the coefficient is opened to its own site and to the auditor."""

    site: Identity
    ticket: Digest
    manifest: Digest
    weight: Weight
    coefficient: Digest


class Excluded(Model):
    """A participant whose update is not in the aggregate."""

    site: Identity
    reason: Code


class AggregateCommit(RunEvent):
    """Version ``version`` + 1 exists: these inputs in this order, this rule, this output."""

    type: Literal["aggregate.commit"] = "aggregate.commit"
    version: Version
    attempt: Annotated[int, Field(ge=0, le=1000)]
    """Which try at the version this ends: updates of an aborted one are not its inputs."""
    parent: Digest
    inputs: Annotated[tuple[Input, ...], Field(min_length=1)]
    excluded: tuple[Excluded, ...]
    rule: Identifier
    parameters: dict[str, Any]
    state: Digest | None = None
    output: Digest
    manifest: Digest
    decisions: tuple[Decision, ...]


class RoundAbort(RunEvent):
    """The round ended without a new version."""

    type: Literal["round.abort"] = "round.abort"
    version: Version
    attempt: Annotated[int, Field(ge=0, le=1000)]
    reason: Code
    excluded: tuple[Excluded, ...]


class BlobUnopenable(RunEvent):
    """A site could not open a blob that the log says is for it."""

    type: Literal["blob.unopenable"] = "blob.unopenable"
    version: Version
    site: Identity
    ticket: Digest
    manifest: Digest


class AccessDenied(Event):
    """The group did not name somebody an active member when it was asked."""

    type: Literal["access.denied"] = "access.denied"
    run: Identifier | None
    at: Literal["ticket", "admission", "commit", "enrolment"]
    decision: Decision


class ClockSkew(Event):
    """A party's clock differs from the server's by more than the charter's tickets allow."""

    type: Literal["clock.skew"] = "clock.skew"
    identity: Identity
    seconds: Annotated[int, Field(ge=-(2**40), le=2**40)]


class EvidenceEquivocation(Event):
    """Two contradicting statements in one place; both envelopes lie beside the log."""

    type: Literal["evidence.equivocation"] = "evidence.equivocation"
    identity: Identity
    what: Code
    first: Digest
    second: Digest


class ModelRelease(RunEvent):
    """The final model, released with the witnesses that cosigned the checkpoint holding its commit."""

    type: Literal["model.release"] = "model.release"
    version: Version
    model: Digest
    manifest: Digest
    checkpoint: Place
    witnesses: tuple[Identity, ...]
    recipients: tuple[Identity, ...]


class RunEnd(RunEvent):
    """The run is over; ``witnessed`` says whether a quorum of sites cosigned its last commit."""

    type: Literal["run.end"] = "run.end"
    version: Version
    model: Digest
    outcome: Literal["completed", "aborted"]
    witnessed: bool


EVENTS: dict[str, type[Event]] = {
    model.model_fields["type"].default: model
    for model in (
        FederationCreate,
        MemberAdd,
        MemberRemove,
        KeyEnrol,
        KeyRotate,
        KeyRevoke,
        RunStart,
        RoundOpen,
        TicketIssue,
        TicketExpire,
        ReceiptFile,
        UpdateAdmit,
        UpdateReject,
        UpdateLate,
        UpdateUnused,
        UpdateExclude,
        AggregateCommit,
        RoundAbort,
        BlobUnopenable,
        AccessDenied,
        ClockSkew,
        EvidenceEquivocation,
        ModelRelease,
        RunEnd,
    )
}

_LEAF = 65_535


def peek_event(raw: bytes) -> Event:
    """Return the event in a leaf WITHOUT checking its signature: only for bytes that are already proven to be logged.

    Raises:
        MalformedError: not an envelope, not an event, or a type that this version does not know.
    """
    envelope = read(raw, limit=_LEAF)
    if envelope.kind != Event.KIND:
        raise MalformedError(f"a leaf of kind {envelope.kind!r} is not an event", where="leaf")
    return parse_document(_model(envelope.payload), envelope.payload)


def open_event(raw: bytes, key: VerifyingKey) -> Signed[Event]:
    """Return the event in a leaf if ``key`` signed it.

    Raises:
        MalformedError: see `peek_event`.
        SignatureError: another key, or the signature does not hold.
    """
    envelope = read(raw, limit=_LEAF)
    payload = envelope.verify(key, kind=Event.KIND)
    return open_document(_model(payload), raw, key, limit=_LEAF)


def _model(payload: bytes) -> type[Event]:
    value = parse(payload, what="event")
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in EVENTS:
        raise MalformedError("an event of a type that this version does not know", where="event")
    return EVENTS[name]


def salt() -> str:
    """Return a fresh 32-byte salt in hexadecimal."""
    return os.urandom(32).hex()


def commitment(value: Any, salt: str) -> str:
    """Return the commitment to a JSON value: SHA-256 of ``counterseal-commitment-v1 LF``, 32 salt bytes, canonical JSON.

    Hiding because the salt has 256 random bits and is used once; binding because SHA-256 is collision resistant.
    """
    return hashlib.sha256(b"counterseal-commitment-v1\n" + bytes.fromhex(salt) + canonical(value)).hexdigest()
