"""The manifest: the signed statement that gives ciphertext its meaning.

`Place` is what reader and writer agree on beforehand: federation, charter, run, version, ticket, kind, sender, parent, schema,
suite. `Context` is the place plus what the writer adds: its key, the recipients, the length, its ledger head. The
SHA-256 of its canonical JSON is Tink's associated data and HPKE's ``info``, so neither a payload nor a wrap opens in any
other place, whoever signs it. `Manifest` adds the wraps, the commitment, the digests of the ciphertext parts and the
expiry; it carries no digest of the plaintext, which would let anybody who can guess an update confirm the guess.

`read_manifest` takes bytes and returns a trusted manifest. Its obligations, in this order:

 1. one DSSE envelope of kind ``manifest``, signed by the expected sender's key;
 2. a well-formed document: recipients sorted and unique, one wrap each in that order, and the part size, part count and
    payload length that follow from the plaintext length (the model refuses anything else);
 3. the context names the signing key, and every field of the expected place is equal: the first difference is named;
 4. the recipients are those expected, where the reader knows them (they come from charter and log, never from a peer);
 5. the expiry has not passed.

What it does NOT do: revocation and policy (the caller judges them at the index of a leaf); commitment, part digests and
decryption (`open`); a rewrap's original (`rewrap`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from ..canonical import canonical
from ..documents import Document, Model, Signed, open_document
from ..errors import BlobError, PlaceError
from ..identifiers import Digest, Identifier, Identity, KeyId, Time, sha256
from ..keys.sealing import SealSuite
from ..keys.signing import VerifyingKey
from .payload import SEGMENT, ciphertext_length

__all__ = ["BlobKind", "Context", "Manifest", "Place", "Rewrap", "Wrap", "part_size", "read_manifest"]

BlobKind = Literal["global", "update", "state", "release"]

_PART: Final = 16 << 20
_PARTS: Final = 256
_RECIPIENTS: Final = 256


def part_size(length: int) -> int:
    """Return the bytes of each part but the last of a payload of ``length`` bytes: a multiple of the segment."""
    return max(_PART, -(-length // (_PARTS * SEGMENT)) * SEGMENT)


class Place(Model):
    """Where a blob belongs: what its reader knows before reading."""

    suite: SealSuite
    federation: Identifier
    charter: Digest
    run: Identifier
    version: Annotated[int, Field(ge=0, le=2**53 - 1)]
    ticket: Digest | None
    kind: BlobKind
    sender: Identity
    parent: Digest | None
    schema_digest: Digest


class Context(Place):
    """Every field that the ciphertext itself is bound to."""

    format: Literal["counterseal-blob/v1"]
    sender_key: KeyId
    recipients: Annotated[tuple[KeyId, ...], Field(min_length=1, max_length=_RECIPIENTS)]
    plaintext_length: Annotated[int, Field(ge=0, le=2**44)]
    ledger_head: Digest | None

    @model_validator(mode="after")
    def _sorted(self) -> Context:
        if any(one >= two for one, two in zip(self.recipients, self.recipients[1:], strict=False)):
            raise ValueError("recipients are not sorted and unique")
        return self

    @property
    def binding(self) -> bytes:
        """SHA-256 of the canonical context, 32 bytes: associated data of the payload and ``info`` of the wraps."""
        return bytes.fromhex(sha256(canonical(self.model_dump(mode="json"))))


def _base64(text: str) -> str:
    try:
        if base64.b64encode(base64.b64decode(text.encode("ascii"), validate=True)).decode() == text:
            return text
    except (binascii.Error, UnicodeEncodeError):
        pass
    raise ValueError("not strict base64")


class Wrap(Model):
    """The root, sealed to one recipient."""

    key_id: KeyId
    wrapped: Annotated[str, Field(max_length=4096), AfterValidator(_base64)]

    @property
    def data(self) -> bytes:
        """The HPKE message."""
        return base64.b64decode(self.wrapped)


class Rewrap(Model):
    """The manifest over the same ciphertext that this one hands on, and the digest of its context."""

    manifest: Digest
    context: Digest


class Manifest(Document):
    """What a sender signs over a sealed blob."""

    KIND: ClassVar[str] = "manifest"

    context: Context
    wraps: tuple[Wrap, ...]
    commitment: Digest
    part_size: int
    parts: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=_PARTS)]
    expires: Time
    rewraps: Rewrap | None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if tuple(wrap.key_id for wrap in self.wraps) != self.context.recipients:
            raise ValueError("the wraps are not those of the recipients, one each and in order")
        if self.part_size != part_size(self.length):
            raise ValueError(f"part_size is {self.part_size} where the length asks for {part_size(self.length)}")
        if len(self.parts) != -(-self.length // self.part_size):
            raise ValueError(f"{len(self.parts)} parts cannot hold {self.length} bytes")
        return self

    @property
    def length(self) -> int:
        """Bytes of the payload."""
        return ciphertext_length(self.context.plaintext_length)

    def part(self, index: int) -> tuple[int, int]:
        """Return the first byte and the end of part ``index`` in the payload."""
        return index * self.part_size, min(self.length, (index + 1) * self.part_size)


def read_manifest(
    raw: bytes,
    *,
    place: Place,
    sender: VerifyingKey,
    now: int | None,
    recipients: Collection[str] | None = None,
) -> Signed[Manifest]:
    """Return the manifest in ``raw`` if ``sender`` signed it for ``place``.

    ``now`` is the reader's one reading of the clock in seconds since 1970, or None for a reader of history, who judges
    time by the log. ``recipients`` are the key ids expected, or None where the reader does not know them.

    Raises:
        MalformedError: not a manifest, or one that contradicts itself.
        SignatureError: another key, or the signature does not hold.
        PlaceError: signed for another place, or for others; the field is named.
        BlobError: expired.
    """
    signed = open_document(Manifest, raw, sender)
    context = signed.document.context
    if context.sender_key != sender.key_id:
        raise _elsewhere("sender_key", context.sender_key, sender.key_id)
    for field in Place.model_fields:
        if getattr(context, field) != getattr(place, field):
            raise _elsewhere(field, getattr(context, field), getattr(place, field))
    if recipients is not None and tuple(sorted(recipients)) != context.recipients:
        raise _elsewhere("recipients", list(context.recipients), sorted(recipients))
    if now is not None and now >= signed.document.expires:
        raise BlobError(
            f"expired at {signed.document.expires}", where="manifest", remedy="Ask its sender for a new one."
        )
    return signed


def _elsewhere(field: str, found: object, expected: object) -> PlaceError:
    return PlaceError(f"{field} is {str(found)[:100]} where {str(expected)[:100]} is expected", where="manifest")
