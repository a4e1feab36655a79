"""The messages that a person or a site starts: one frozen document a kind.

Each names its federation, its author and its time, and is signed with the author's ``sign`` key; none of them acts by
itself. A vote is counted, a revocation judged and an approval matched by whoever takes the message from the mailbox.

| kind                | says                                                                              |
|---------------------|-----------------------------------------------------------------------------------|
| `charter-signature` | I agree to the charter with this digest (`charter.signing`)                       |
| `enrolment`         | I am this identity and these are my first keys (travels sealed: `trust.enrolment`) |
| `rotation`          | from now on, these are my keys (signed with the previous one)                     |
| `recovery`          | I vouch that these are the new keys of a member that lost its own                 |
| `revocation`        | this key of mine, or of that member, must not be believed any more                |
| `approval`          | an officer approves, or rejects, the thing with this digest                       |
| `quarantine`        | this site's updates are kept out of this run, or let in again                     |
| `evidence`          | two documents that one honest party cannot both have signed                       |
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from . import dsse
from .documents import Document
from .errors import MalformedError
from .identifiers import Digest, Identifier, Identity, KeyId, Text, Time, Uuid, sha256

__all__ = ["Approval", "Enrolment", "Evidence", "Message", "Quarantine", "Recovery", "Revocation", "Rotation"]

_ENVELOPE = 65_535
"""Bytes of the largest envelope that a leaf of the log can hold."""


class Message(Document):
    """What every message says: where it belongs, who speaks, when (seconds since 1970)."""

    federation: Identifier
    identity: Identity
    time: Time


class Enrolment(Message):
    """A newcomer presents its keys. The token stays outside, bound by the hash in the statement."""

    KIND: ClassVar[str] = "enrolment"

    server_key: KeyId
    """The server's sealing key for which this was made: it opens nowhere else."""
    statement: str = Field(min_length=1, max_length=_ENVELOPE)
    endpoint: Uuid | None = None
    """The newcomer's Globus Compute endpoint, where it has one: where the server will send its deliveries."""


class Rotation(Message):
    """A member's next key statement."""

    KIND: ClassVar[str] = "rotation"

    statement: str = Field(min_length=1, max_length=_ENVELOPE)


class Recovery(Message):
    """One member's vote for the new keys of another, after it made sure by other means who is asking."""

    KIND: ClassVar[str] = "recovery"

    member: Identity
    statement: str = Field(min_length=1, max_length=_ENVELOPE)

    @model_validator(mode="after")
    def _another(self) -> Self:
        if self.member == self.identity:
            raise ValueError("member: nobody vouches for its own recovery")
        return self


class Revocation(Message):
    """A key that must not be believed from the next leaf on."""

    KIND: ClassVar[str] = "revocation"

    member: Identity
    key: KeyId
    reason: Literal["lost", "stolen", "superseded", "left"]


class Approval(Message):
    """An officer's decision on one thing, with the printed name and the meaning of the signature (21 CFR 11.50)."""

    KIND: ClassVar[str] = "approval"

    subject: Digest
    subject_kind: Identifier
    decision: Literal["approve", "reject"]
    officer: Text = Field(min_length=1)
    meaning: Text = Field(min_length=1)


class Quarantine(Message):
    """A person's decision about a site in a run; the reason is a code, never free text."""

    KIND: ClassVar[str] = "quarantine"

    site: Identity
    run: Identifier
    action: Literal["quarantine", "readmit"]
    reason: Identifier


class Evidence(Message):
    """Two texts, verbatim, that contradict each other: DSSE envelopes of one key, or signed notes of one origin.

    The form is checked here (same signer and kind, different content); whether both signatures hold is for the reader,
    who must have the accused's key.
    """

    KIND: ClassVar[str] = "evidence"

    accused: Identity
    form: Literal["dsse", "note"]
    first: str = Field(min_length=1, max_length=_ENVELOPE)
    second: str = Field(min_length=1, max_length=_ENVELOPE)

    @model_validator(mode="after")
    def _contradict(self) -> Self:
        try:
            one, two = (_claim(self.form, text) for text in (self.first, self.second))
        except MalformedError as error:
            raise ValueError(f"first, second: {error.what}") from None
        if one[0] != two[0]:
            raise ValueError("second: of another signer, kind or origin, so it contradicts nothing")
        if one[1] == two[1]:
            raise ValueError("second: says the same as the first")
        return self


def _claim(form: str, text: str) -> tuple[tuple[str, ...], str]:
    """Return (who speaks about what, digest of what is said)."""
    if form == "dsse":
        envelope = dsse.read(text.encode())
        return (envelope.kind, envelope.key_id), sha256(envelope.payload)
    body, separator, _ = text.rpartition("\n\n")
    if not separator:
        raise MalformedError("a signed note has an empty line before its signatures")
    return (body.split("\n", 1)[0],), sha256(body.encode())
