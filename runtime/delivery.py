"""What moves through the transport: a delivery to a site, an answer back. Small JSON, both unsigned.

Nothing in a delivery is believed for being in it. The ticket, the leaves and the checkpoints carry their own signatures and
proofs; grants are permissions that a site may use or not. A delivery may be lost, repeated, or sent late: the ticket's digest
makes the work the same work. An answer is worth what the receipt inside it is worth.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from ..trust.documents import Model
from ..trust.identifiers import Digest
from .stores.grants import Grant

__all__ = [
    "ANSWER_BYTES",
    "Answer",
    "Delivery",
    "Fault",
    "Grants",
    "LeafProof",
    "Opening",
    "SealedText",
    "Settled",
    "Witnessed",
]

ANSWER_BYTES = 1 << 15
"""Length of the answer object in the store: a grant binds exact lengths, so answers are padded to one."""

DELIVERY_LIMIT = 6_000_000
"""Bytes of the largest delivery or answer: below what Globus Compute carries."""

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=2**53 - 1)]
SealedText = Annotated[str, StringConstraints(max_length=1 << 17, pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class LeafProof(Model):
    """One leaf of the log, verbatim, with its inclusion proof in the delivery's checkpoint."""

    index: Size
    leaf: str
    proof: tuple[Hash, ...]


class Witnessed(Model):
    """An earlier checkpoint with the cosignatures collected on it, and its consistency with the delivery's checkpoint."""

    note: str
    consistency: tuple[Hash, ...]


class Opening(Model):
    """The value and salt behind a commitment in the log."""

    value: Any
    salt: Hash


class Settled(Model):
    """What became of an earlier ticket of this site: the leaves that decide it, and its own coefficient."""

    ticket: Digest
    leaves: tuple[Size, ...]
    """Indices, among the delivery's leaves, of receipt.file, verdict, and commit or abort; or of ticket.expire."""
    coefficient: SealedText | None = None
    """The opening of this site's coefficient, sealed to the site (`sealed_json`)."""


class Grants(Model):
    """Permissions on objects of the store, for this delivery only."""

    manifest: Grant | None = None
    payload: Grant | None = None
    update: Grant | None = None
    answer: Grant | None = None


class Delivery(Model):
    """A ticket and what a site needs to believe it."""

    ticket: str
    checkpoint: str
    consistency_from: Size
    consistency: tuple[Hash, ...]
    leaves: tuple[LeafProof, ...]
    witnessed: Witnessed | None = None
    settled: tuple[Settled, ...] = ()
    objects: tuple[str, ...] = ()
    """Long canonical objects that leaves name by digest: the schema of the model."""
    grants: Grants = Grants()


class Fault(Model):
    """Why there is no receipt: a reason code, and the size of the site's last checkpoint if the proof began elsewhere."""

    code: Code
    witness_size: Size | None = None


class Answer(Model):
    """What a site says back."""

    ticket: Digest | None
    receipt: str | None = None
    manifest: str | None = None
    metrics: SealedText | None = None
    """The opening of the receipt's metrics, sealed to the run's key (`sealed_json`)."""
    etags: tuple[Annotated[str, StringConstraints(max_length=200)], ...] = ()
    uploaded: bool = False
    fault: Fault | None = None
    outbox: tuple[str, ...] = ()
