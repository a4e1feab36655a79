"""Key statements: the public keys of one member, one for each use, with proof that their owner holds them.

What a verified statement guarantees:

1. *Its author.* A first statement is signed by the ``sign`` key that it names (its trust comes from the charter that
   includes its digest); a rotation by the *previous* ``sign`` key; a recovery by its own again, and it counts only with
   a quorum's approval (`trust.keys.validity`).
2. *Possession.* Every signing key has signed ``counterseal-possession-v1 LF`` + canonical JSON of federation, log
   origin, nonce, token hash, identity, use, algorithm and public bytes. So nobody enrols a key that another made, and
   a proof made for one federation, log, enrolment, member or use serves in no other. A KEM key cannot sign; the
   ``sign`` key's envelope vouches for it, and opening the sealed welcome proves it.
3. *Uses.* Exactly one key per use, each with the algorithm of the suite's profile, no public key under two uses.
   ``checkpoint`` exists in the statement of the log's operator alone.
4. *No weak key*: lengths, points and small orders are checked by `VerifyingKey` and `SealingKey` on entry.

Not handled here: whether the identity may take part (group, charter), which statement holds at which index of the log
(`trust.keys.validity`), and the clock: ``now`` is the caller's.
"""

from __future__ import annotations

import os
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, StringConstraints, model_validator

from .. import dsse
from ..canonical import canonical
from ..documents import Document, Model, Signed, open_document, parse_document, sign
from ..errors import SignatureError, WeakKeyError
from ..identifiers import Digest, Identifier, Identity, Time
from .entry import KeyAlgorithm, KeyEntry, KeyUse, decode, encode
from .member import SIGN_ALGORITHM, MemberKeys
from .sealing import SealingKey, SealSuite
from .signing import SignatureAlgorithm, Signer, VerifyingKey

__all__ = [
    "KeyAlgorithm",
    "KeyEntry",
    "KeyStatement",
    "KeyUse",
    "LogOrigin",
    "MAXIMUM_LIFE",
    "make_statement",
    "possession_message",
    "verify_recovery",
    "verify_statement",
]

LogOrigin = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/-]{0,126}[a-z0-9]$")]
"""The origin line of a log's checkpoints: a URL without scheme, as C2SP's tlog-checkpoint asks."""

MAXIMUM_LIFE: Final = 400 * 86_400
"""Seconds for which a statement may be valid."""

_LIMIT = 64 << 10
_REQUIRED: Final[frozenset[KeyUse]] = frozenset({"sign", "cosign", "seal", "release"})
_FIXED: Final[dict[KeyUse, SignatureAlgorithm]] = {"cosign": "ed25519", "checkpoint": "ed25519", "release": "p256"}


class KeyStatement(Document):
    """The keys of one member of one federation: serial 1 first, then one more at each rotation or recovery."""

    KIND: ClassVar[str] = "key-statement"

    federation: Identifier
    identity: Identity
    suite: SealSuite
    log_origin: LogOrigin
    nonce: Digest
    token_hash: Digest | None
    not_before: Time
    not_after: Time
    serial: Annotated[int, Field(ge=1, le=1_000_000)]
    previous: Digest | None
    keys: Annotated[tuple[KeyEntry, ...], Field(min_length=4, max_length=5)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.not_before < self.not_after <= self.not_before + MAXIMUM_LIFE:
            raise ValueError("a statement is valid for more than zero and at most 400 days")
        if (self.previous is None) != (self.serial == 1):
            raise ValueError("serial 1 has no previous statement, every later serial names one")
        _check_uses(self.keys, self.suite)
        return self

    def key(self, use: KeyUse) -> VerifyingKey | SealingKey | None:
        """Return the key for ``use``; None only for ``checkpoint``, which only the log's operator has."""
        return next((entry.key for entry in self.keys if entry.use == use), None)

    @property
    def sign(self) -> VerifyingKey:
        """The key that speaks for the member."""
        return self._verifying("sign")

    @property
    def cosign(self) -> VerifyingKey:
        """The key that counter-signs checkpoints."""
        return self._verifying("cosign")

    @property
    def release(self) -> VerifyingKey:
        """The P-256 key that signs released models."""
        return self._verifying("release")

    @property
    def checkpoint(self) -> VerifyingKey | None:
        """The log's key, at its operator."""
        return self._verifying("checkpoint") if self.is_operator else None

    @property
    def seal(self) -> SealingKey:
        """The key to which blobs are sealed."""
        key = self.key("seal")
        assert isinstance(key, SealingKey)  # noqa: S101  (KeyEntry refuses anything else)
        return key

    @property
    def is_operator(self) -> bool:
        """Whether the statement names a checkpoint key: the charter allows it to one member."""
        return any(entry.use == "checkpoint" for entry in self.keys)

    @property
    def key_ids(self) -> frozenset[str]:
        """The names of all its keys."""
        return frozenset(entry.key.key_id for entry in self.keys)

    def _verifying(self, use: KeyUse) -> VerifyingKey:
        key = self.key(use)
        assert isinstance(key, VerifyingKey)  # noqa: S101  (KeyEntry refuses anything else)
        return key


def make_statement(
    keys: MemberKeys,
    *,
    federation: str,
    identity: str,
    log_origin: str,
    not_before: int,
    not_after: int,
    nonce: str | None = None,
    token_hash: str | None = None,
    previous: Signed[KeyStatement] | None = None,
    previous_signer: Signer | None = None,
) -> Signed[KeyStatement]:
    """Write and sign the statement of ``keys``.

    Without ``previous`` it is a first statement; with ``previous`` and ``previous_signer`` a rotation; with
    ``previous`` alone a recovery, which the other members must approve. ``nonce`` (32 bytes in hexadecimal) comes from
    whoever enrols, and is drawn here if nobody asked for one.
    """
    nonce = os.urandom(32).hex() if nonce is None else nonce
    place = _Place(federation=federation, identity=identity, log_origin=log_origin, nonce=nonce, token_hash=token_hash)
    signers: list[tuple[KeyUse, Signer]] = [("sign", keys.signer), ("cosign", keys.cosigner)]
    if keys.checkpoint is not None:
        signers.append(("checkpoint", keys.checkpoint))
    signers.append(("release", keys.release))
    entries = [_prove(place, use, signer) for use, signer in signers]
    seal = keys.opening.public
    entries.append(KeyEntry(use="seal", algorithm=seal.suite, public=encode(seal.public), possession=None))
    document = KeyStatement(
        **place.model_dump(),
        suite=seal.suite,
        not_before=not_before,
        not_after=not_after,
        serial=1 if previous is None else previous.document.serial + 1,
        previous=None if previous is None else previous.digest,
        keys=tuple(entries),
    )
    return sign(document, previous_signer or keys.signer)


def verify_statement(
    raw: bytes,
    *,
    federation: str,
    log_origin: str,
    now: int,
    previous_key: VerifyingKey | None = None,
    nonce: str | None = None,
) -> Signed[KeyStatement]:
    """Return the statement in ``raw`` if its author, place, time and proofs hold.

    Without ``previous_key`` only a first statement (serial 1) is taken, signed by the ``sign`` key that it names; with
    it only a later one, signed by that key. ``nonce``, where given, is the one that the enroller handed out.

    Raises:
        MalformedError: not an envelope or not a key statement.
        SignatureError: another signer, another federation, log or nonce, outside its time, or a proof that fails.
        WeakKeyError: a weak key, or a key under a use that it must not have.
    """
    claimed = _read(raw)
    if previous_key is None and claimed.serial != 1:
        raise SignatureError(
            f"serial {claimed.serial} is not a first statement",
            where="key statement",
            remedy="Verify a rotation with the previous sign key, a recovery with verify_recovery.",
        )
    if previous_key is not None and claimed.serial == 1:
        raise SignatureError("a first statement where a rotation belongs", where="key statement")
    signed = open_document(KeyStatement, raw, previous_key or claimed.sign, limit=_LIMIT)
    _check_place(signed.document, federation, log_origin, now, nonce)
    return signed


def verify_recovery(
    raw: bytes, *, federation: str, log_origin: str, now: int, nonce: str | None = None
) -> Signed[KeyStatement]:
    """Return the statement of a member that lost its keys, signed by its own new ``sign`` key.

    It means nothing by itself: `KeyHistory.recover` takes it with a quorum's approval of its digest only.

    Raises:
        MalformedError: not an envelope or not a key statement.
        SignatureError: as for `verify_statement`, or a first statement.
        WeakKeyError: a weak key, or a key under a use that it must not have.
    """
    claimed = _read(raw)
    if claimed.serial == 1:
        raise SignatureError("a first statement where a recovery belongs", where="key statement")
    signed = open_document(KeyStatement, raw, claimed.sign, limit=_LIMIT)
    _check_place(signed.document, federation, log_origin, now, nonce)
    return signed


class _Place(Model):
    """What a proof of possession says besides the key."""

    federation: Identifier
    log_origin: LogOrigin
    nonce: Digest
    token_hash: Digest | None
    identity: Identity


def possession_message(statement: KeyStatement, entry: KeyEntry) -> bytes:
    """Return the bytes that the key in ``entry`` signs to prove that its owner holds it."""
    place = {name: getattr(statement, name) for name in _Place.model_fields}
    return _message(place, entry.use, entry.algorithm, entry.public)


def _message(place: dict[str, object], use: KeyUse, algorithm: str, public: str) -> bytes:
    claim = {**place, "use": use, "algorithm": algorithm, "public": public}
    return b"counterseal-possession-v1\n" + canonical(claim)


def _prove(place: _Place, use: KeyUse, signer: Signer) -> KeyEntry:
    algorithm, public = signer.public.algorithm, encode(signer.public.public)
    proof = signer.sign(_message(place.model_dump(), use, algorithm, public))
    return KeyEntry(use=use, algorithm=algorithm, public=public, possession=encode(proof))


def _read(raw: bytes) -> KeyStatement:
    return parse_document(KeyStatement, dsse.read(raw, limit=_LIMIT).payload, limit=_LIMIT)


def _check_uses(entries: tuple[KeyEntry, ...], suite: SealSuite) -> None:
    uses = [entry.use for entry in entries]
    if len(set(uses)) != len(uses) or set(uses) - {"checkpoint"} != _REQUIRED:
        raise ValueError("exactly one key for each of sign, cosign, seal, release (and checkpoint at the operator)")
    for entry in entries:
        wanted: KeyAlgorithm = suite if entry.use == "seal" else _FIXED.get(entry.use, SIGN_ALGORITHM[suite])
        if entry.algorithm != wanted:
            raise WeakKeyError(f"under {suite} a {entry.use} key is {wanted}, not {entry.algorithm}")
    if len({entry.key.public for entry in entries}) != len(entries):
        raise WeakKeyError("one public key under two uses", remedy="Make a key for each use.")


def _check_place(statement: KeyStatement, federation: str, log_origin: str, now: int, nonce: str | None) -> None:
    where = f"key statement of {statement.identity}"
    if statement.federation != federation:
        raise SignatureError(f"made for federation {statement.federation!r}, not {federation!r}", where=where)
    if statement.log_origin != log_origin:
        raise SignatureError(f"made for the log {statement.log_origin!r}, not {log_origin!r}", where=where)
    if nonce is not None and statement.nonce != nonce:
        raise SignatureError("made for another enrolment: the nonce differs", where=where)
    if not statement.not_before <= now <= statement.not_after:
        raise SignatureError(
            f"valid from {statement.not_before} to {statement.not_after}, not at {now}",
            where=where,
            remedy="Rotate to a fresh statement, or set the clock right.",
        )
    for entry in statement.keys:
        if isinstance(entry.key, VerifyingKey) and entry.possession is not None:
            _check_possession(statement, entry, entry.key, where)


def _check_possession(statement: KeyStatement, entry: KeyEntry, key: VerifyingKey, where: str) -> None:
    try:
        key.verify(decode(entry.possession or ""), possession_message(statement, entry))
    except SignatureError:
        raise SignatureError(f"the {entry.use} key's proof of possession does not hold", where=where) from None
