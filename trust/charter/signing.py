"""Signing a charter, and what it takes for a charter to hold.

A charter holds once **every** member has signed its digest with the ``sign`` key of the statement inside it. These
signatures are the root of all trust in a federation, and no server certifies them. What keeps a server from showing
each member another charter is one act of people: the officers read the digest to each other over a channel that is not
the server's, and `sign_charter` asks for the digest that the officer was told. It is typed, never shown and confirmed.

Obligations of `verify_charter`, in order:
 1. the bytes are a charter (strict JSON, every field, every rule between fields);
 2. every key statement in it holds (`charter.members`);
 3. every signature names this federation and this digest, by a member, with that member's key, not in the future;
 4. no member signed twice, and none is missing.

The digest is that of the bytes as stored. A changed charter is a new version, in force by `charter.amendment` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from .. import dsse
from ..documents import Signed, open_document, parse_document, sign
from ..errors import CharterError, MalformedError, SignatureError
from ..identifiers import Digest, sha256
from ..keys.signing import Signer, VerifyingKey
from ..messages import Message
from .members import Statements, sign_keys, verify_members
from .model import Charter

__all__ = [
    "CharterSignature",
    "SignedCharter",
    "fingerprint",
    "open_signature",
    "read_charter",
    "read_fingerprint",
    "require_signers",
    "sign_charter",
    "verify_charter",
]

SKEW = 300
"""Seconds that a member's clock may be ahead of ours."""

_LIMIT = 16 << 20
_NONE: Statements = MappingProxyType({})
_HEX = frozenset("0123456789abcdef")


class CharterSignature(Message):
    """One member's word for one charter."""

    KIND: ClassVar[str] = "charter-signature"

    charter: Digest


@dataclass(frozen=True, slots=True)
class SignedCharter:
    """A charter in force, with the bytes and the signatures that prove it.

    ``effective_index`` is the leaf of the log from which it holds: 0 for the first charter.
    """

    charter: Charter
    digest: str
    raw: bytes
    signatures: tuple[Signed[CharterSignature], ...]
    statements: Statements
    effective_index: int = 0

    @property
    def signers(self) -> frozenset[str]:
        """The identities that signed."""
        return frozenset(signed.document.identity for signed in self.signatures)

    def sign_key(self, identity: str) -> VerifyingKey:
        """Return the first key with which ``identity`` speaks under this charter.

        Raises:
            CharterError: not a member.
        """
        if identity not in self.statements:
            raise CharterError(f"{identity} is not a member of {self.charter.federation}")
        return self.statements[identity].document.sign


def fingerprint(digest: str) -> str:
    """Return a digest as 16 groups of four, for reading aloud.

    >>> fingerprint("ab12cd34" * 8)[:19]
    'ab12 cd34 ab12 cd34'
    """
    return " ".join(digest[start : start + 4] for start in range(0, len(digest), 4))


def read_fingerprint(text: str) -> str:
    """Return the digest that a person typed: 64 hexadecimal digits in any case, with spaces, hyphens or line breaks.

    Raises:
        CharterError: anything shorter, longer or else; a prefix is never enough.
    """
    digits = "".join(text.split()).replace("-", "").lower()
    if len(digits) != 64 or not set(digits) <= _HEX:
        raise CharterError(
            f"{len(digits)} characters typed where a digest has 64 hexadecimal digits (16 groups of four)",
            remedy="Type the whole digest that the other officers read to you.",
        )
    return digits


def read_charter(raw: bytes) -> Charter:
    """Return the charter that ``raw`` spells: says nothing about who agreed to it.

    Raises:
        CharterError: not a charter; names the field.
    """
    try:
        return parse_document(Charter, raw, limit=_LIMIT)
    except MalformedError as error:
        raise CharterError(error.what, where=error.where) from error


def sign_charter(
    raw: bytes, identity: str, signer: Signer, typed_digest: str, *, now: int, known: Statements = _NONE
) -> Signed[CharterSignature]:
    """Sign the charter in ``raw`` for ``identity``, whose officer typed the digest that the other officers read out.

    ``known`` are the statements in force, for an amendment. Nobody signs a charter whose statements do not hold.

    Raises:
        CharterError: another digest was typed, not a member, a statement that fails, or not the key of the member's.
    """
    charter, digest = read_charter(raw), sha256(raw)
    if read_fingerprint(typed_digest) != digest:
        raise CharterError(
            "the typed digest is not that of this file",
            where="charter digest",
            remedy="Do not sign. Find out with the other officers, by telephone, whose file differs.",
        )
    if charter.member(identity) is None:
        raise CharterError(f"{identity} is not a member of this charter", where="members")
    if signer.public != verify_members(charter, now=now, known=known).by_identity[identity].document.sign:
        raise CharterError(f"not the sign key in the statement of {identity}", where="members")
    return sign(CharterSignature(federation=charter.federation, charter=digest, identity=identity, time=now), signer)


def verify_charter(raw: bytes, signatures: Sequence[bytes], *, now: int) -> SignedCharter:
    """Return the first charter of a federation, signed by all its members.

    Raises:
        CharterError: not a charter, an amendment, or a signature is missing, double, foreign or by a wrong key.
    """
    charter, digest = read_charter(raw), sha256(raw)
    if charter.version != 1:
        raise CharterError(f"version {charter.version} is an amendment", where="version", remedy="Use apply_amendment.")
    statements = verify_members(charter, now=now).by_identity
    keys = sign_keys(statements)
    found = tuple(open_signature(one, charter, digest, keys, now=now) for one in signatures)
    require_signers(found, keys)
    return SignedCharter(charter, digest, raw, found, statements)


def open_signature(
    raw: bytes, charter: Charter, digest: str, keys: Mapping[str, VerifyingKey], *, now: int
) -> Signed[CharterSignature]:
    """Return the signature in ``raw`` if one of ``keys`` (by identity) made it for the charter of ``digest``.

    Raises:
        CharterError: a stranger, a wrong key, another federation or charter, or a time in the future.
    """
    try:
        claimed = parse_document(CharterSignature, dsse.read(raw).payload)
        if claimed.identity not in keys:
            raise CharterError(f"{claimed.identity} has no voice on this charter", where="charter signature")
        where = f"charter signature of {claimed.identity}"
        signed = open_document(CharterSignature, raw, keys[claimed.identity])
    except MalformedError as error:
        raise CharterError(error.what, where="charter signature") from error
    except SignatureError as error:
        raise CharterError(f"wrong key: {error.what}", where=where) from error
    if claimed.federation != charter.federation or claimed.charter != digest:
        raise CharterError("it is for another charter", where=where)
    if claimed.time > now + SKEW:
        raise CharterError(f"its time {claimed.time} is in the future", where=where)
    return signed


def require_signers(signatures: Sequence[Signed[CharterSignature]], wanted: Collection[str]) -> None:
    """Return if each of ``wanted`` signed, and nobody twice.

    Raises:
        CharterError: names who is double, else who is missing.
    """
    signers = [signed.document.identity for signed in signatures]
    double = sorted({name for name in signers if signers.count(name) > 1})
    if double:
        raise CharterError(f"signed twice by {', '.join(double)}", where="charter signatures")
    missing = sorted(set(wanted) - set(signers))
    if missing:
        raise CharterError(
            f"not signed by {', '.join(missing)}",
            where="charter signatures",
            remedy="Ask them for their charter-signature file.",
        )
