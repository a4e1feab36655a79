"""Tickets: signed orders from the server to one site.

A ticket is immutable and named by the SHA-256 of its canonical payload. It carries no recipients (those come from charter
and log), no address and no URL: what a site may do with it is decided at the site. `seq` counts the tickets of one site in
one run and only rises, so that a second ticket in one place is evidence, not confusion.

Not handled here: whether the ticket is in the log, whether this site already answered it, whether policy allows it. The
site runtime does that (`runtime.site.checks`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .documents import Document, Model, Signed, open_document
from .errors import ExpiredTicketError, MisaddressedTicketError
from .identifiers import Digest, Identifier, Identity, Time
from .keys.signing import VerifyingKey
from .terms import PrivacyTerms

__all__ = ["Ticket", "TicketKind", "Work", "open_ticket"]

TicketKind = Literal["train", "evaluate", "witness", "receive", "approve"]
Counter = Annotated[int, Field(ge=0, le=2**40)]


class Work(Model):
    """What a ticket asks for: the sealed global model to start from, and the part of the run it belongs to."""

    manifest: Digest | None
    """Digest of the manifest of the sealed global model; None for tickets that need no model."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Ticket(Document):
    """One order. ``parent`` is the digest of the global model that the work starts from."""

    KIND: ClassVar[str] = "ticket"

    federation: Identifier
    charter: Digest
    run: Identifier
    site: Identity
    seq: Annotated[int, Field(ge=1, le=2**40)]
    version: Counter
    parent: Digest
    kind: TicketKind
    work: Work
    privacy: PrivacyTerms | None = None
    """The terms of this site in this run, as ``run.start`` has them; only where something is released."""
    not_after: Time


def open_ticket(raw: bytes, key: VerifyingKey, *, federation: str, charter: str, site: str, now: int) -> Signed[Ticket]:
    """Return the ticket in ``raw`` if the server's ``key`` signed it for this federation, charter and site, in time.

    Raises:
        MalformedError, SignatureError: see `open_document`.
        MisaddressedTicketError: another federation, charter or site.
        ExpiredTicketError: ``now`` is after ``not_after``.
    """
    signed = open_document(Ticket, raw, key, limit=1 << 16)
    ticket = signed.document
    for field, expected in (("federation", federation), ("charter", charter), ("site", site)):
        if getattr(ticket, field) != expected:
            raise MisaddressedTicketError(f"the ticket names another {field}", where=f"ticket {signed.digest[:16]}")
    if now > ticket.not_after:
        raise ExpiredTicketError(
            f"the ticket expired {now - ticket.not_after} seconds ago",
            where=f"ticket {signed.digest[:16]}",
            remedy="The server issues a new one; if this repeats, compare the clocks.",
        )
    return signed
