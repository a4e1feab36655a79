"""Enrolment: a newcomer's keys and its one access token, sealed to the server.

What is sealed is canonical JSON ``{"enrolment": envelope, "token": text or null}``; the file is

    {"federation": ..., "format": "counterseal-sealed-enrolment-v1", "key": key id, "sealed": base64, "suite": ...}

1. The newcomer compares the fingerprint of the server's sealing key with the server's officer and types it: without
   that, whoever stands between could take the token.
2. HPKE's ``info`` is ``counterseal-enrolment-v1 LF federation LF key id``, so a sealed enrolment opens in one place.
   The signed part names the server's key as well: a server cannot seal what it received to another server.
3. The signed part holds no token. The key statement inside holds the token's hash, so a token cannot be paired with
   another's keys, and what is stored afterwards (the envelope) is no secret. The token is used once and forgotten.

Whether the token is good (audience, client, age) and whether the identity may join is for the authorizer.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from . import dsse
from .canonical import canonical, parse
from .charter.signing import read_fingerprint
from .documents import Model, Signed, open_document, parse_document
from .errors import MailboxError, MalformedError
from .identifiers import Identifier, KeyId, sha256
from .keys.sealing import OpeningKey, SealingKey, SealSuite
from .keys.statement import KeyStatement, verify_statement
from .messages import Enrolment

__all__ = ["OpenedEnrolment", "SealedEnrolment", "open_enrolment", "require_fingerprint", "seal_enrolment"]

_LIMIT = 1 << 18


class SealedEnrolment(Model):
    """The file that travels: nobody but the holder of ``key`` reads more than its size."""

    federation: Identifier
    format: Literal["counterseal-sealed-enrolment-v1"] = "counterseal-sealed-enrolment-v1"
    key: KeyId
    sealed: Annotated[str, Field(max_length=_LIMIT)]
    suite: SealSuite

    def to_bytes(self) -> bytes:
        """Return the bytes of the file."""
        return canonical(self.model_dump(mode="json"))


class _Inside(Model):
    enrolment: Annotated[str, Field(max_length=_LIMIT)]
    token: str | None = Field(min_length=1, max_length=16_384, repr=False)


@dataclass(frozen=True, slots=True)
class OpenedEnrolment:
    """A verified enrolment: ``token`` is to be used once and never stored, and its repr does not show it."""

    enrolment: Signed[Enrolment]
    statement: Signed[KeyStatement]
    token: str | None = field(repr=False)


def require_fingerprint(server_key: SealingKey, typed: str) -> None:
    """Refuse a server key whose fingerprint is not the one that was typed: ask before a token is made for it.

    Raises:
        CharterError: what was typed is no fingerprint.
        MailboxError: it is another key's.
    """
    if read_fingerprint(typed) != server_key.key_id:
        raise MailboxError(
            "the typed fingerprint is not that of this server key",
            where="enrolment",
            remedy="Send nothing. Compare again with the server's officer, by telephone.",
        )


def seal_enrolment(
    signed: Signed[Enrolment], server_key: SealingKey, *, token: str | None, typed_fingerprint: str
) -> SealedEnrolment:
    """Seal an enrolment and its token to the server's key, whose fingerprint the newcomer's officer typed.

    Raises:
        CharterError: what was typed is no fingerprint.
        MailboxError: another fingerprint, an enrolment for another key, or a token whose hash is not in the statement.
    """
    require_fingerprint(server_key, typed_fingerprint)
    _require_bound(signed.document, server_key, token)
    federation = signed.document.federation
    inside = canonical({"enrolment": signed.raw.decode("ascii"), "token": token})
    wrapped = server_key.wrap(inside, _info(federation, server_key.key_id))
    return SealedEnrolment(
        federation=federation,
        key=server_key.key_id,
        sealed=base64.b64encode(wrapped).decode(),
        suite=server_key.suite,
    )


def open_enrolment(
    raw: bytes, opening: OpeningKey, *, federation: str, log_origin: str, now: int, nonce: str | None = None
) -> OpenedEnrolment:
    """Open and verify a sealed enrolment.

    ``nonce`` is the one that the server handed out, where it did.

    Raises:
        MalformedError: not a sealed enrolment.
        MailboxError: for another federation or server key, or parts that do not belong together.
        RecipientError: it does not open.
        SignatureError: the enrolment's or the statement's signature, place, time or proofs do not hold.
    """
    parse(raw, limit=_LIMIT, what="sealed enrolment")
    sealed = SealedEnrolment.from_json(parse(raw, limit=_LIMIT), what="sealed enrolment")
    key = opening.public
    if sealed.federation != federation or (sealed.key, sealed.suite) != (key.key_id, key.suite):
        raise MailboxError("sealed for another federation or server key", where="enrolment")
    plain = opening.unwrap(_decode(sealed.sealed), _info(federation, key.key_id))
    inside = _Inside.from_json(parse(plain, limit=_LIMIT, what="enrolment"), what="enrolment")
    envelope = inside.enrolment.encode()
    claimed = parse_document(Enrolment, dsse.read(envelope).payload)
    statement = verify_statement(
        claimed.statement.encode(), federation=federation, log_origin=log_origin, now=now, nonce=nonce
    )
    signed = open_document(Enrolment, envelope, statement.document.sign)
    if claimed.federation != federation or claimed.identity != statement.document.identity:
        raise MailboxError("the enrolment and its key statement name different parties", where="enrolment")
    _require_bound(claimed, key, inside.token)
    return OpenedEnrolment(signed, statement, inside.token)


def _require_bound(enrolment: Enrolment, server_key: SealingKey, token: str | None) -> None:
    if enrolment.server_key != server_key.key_id:
        raise MailboxError("the enrolment was made for another server key", where="enrolment")
    statement = parse_document(KeyStatement, dsse.read(enrolment.statement.encode()).payload)
    if statement.token_hash != (None if token is None else sha256(token.encode())):
        raise MailboxError("the token is not the one whose hash the key statement holds", where="enrolment")


def _info(federation: str, key_id: str) -> bytes:
    return b"counterseal-enrolment-v1\n" + federation.encode() + b"\n" + key_id.encode()


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise MalformedError("not strict base64", where="sealed enrolment") from None
    if base64.b64encode(data).decode() != text:
        raise MalformedError("base64 with stray trailing bits", where="sealed enrolment")
    return data
