"""Cosignatures: a witness's word that a checkpoint extends every one it has seen of that log.

A ``cosignature/v1`` line signs ``cosignature/v1 LF time <seconds> LF`` and the checkpoint's body. The witness's name is
not among the signed bytes, so a witness needs a key of its own: `Witnesses` refuses two names for one key, and the log's
own key never counts, since a signature of type 01 is over other bytes and under another id.

`cosign` signs whatever it is given. It may be called only for a checkpoint that `audit.tlog.witness.advance` accepted, after
the new state is on disk.

Source: c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...trust.keys.signing import Signer, VerifyingKey
from ..errors import CheckpointError, NoteError, PolicyError
from .checkpoint import Checkpoint, open_checkpoint
from .note import Note, NoteKey, NoteSignature, NoteType, require_signature

__all__ = ["CosignedCheckpoint", "Witnesses", "cosign", "require_cosignature", "witness_key"]

_MAX_TIME = 2**53 - 1


def witness_key(name: str, key: VerifyingKey) -> NoteKey:
    """Return the key under which the witness ``name`` cosigns."""
    return NoteKey(name, NoteType.COSIGNATURE, key)


@dataclass(frozen=True, slots=True)
class Witnesses:
    """The witnesses that a verifier knows, none twice.

    Raises:
        PolicyError: two witnesses of one name or one key, or a key that does not cosign.
    """

    keys: tuple[NoteKey, ...]

    def __post_init__(self) -> None:
        if any(key.type is not NoteType.COSIGNATURE for key in self.keys):
            raise PolicyError("a witness's key is of type 04", where="witnesses")
        for what, seen in (("name", [k.name for k in self.keys]), ("key", [k.key.public.hex() for k in self.keys])):
            if len(set(seen)) != len(seen):
                raise PolicyError(f"two witnesses of one {what}: each would count twice", where="witnesses")

    @classmethod
    def of(cls, keys: Mapping[str, VerifyingKey]) -> Witnesses:
        """Return the witnesses of these names and keys."""
        return cls(tuple(witness_key(name, key) for name, key in sorted(keys.items())))

    def __iter__(self) -> Iterator[NoteKey]:
        return iter(self.keys)


def cosign(checkpoint: Checkpoint, signer: Signer, name: str, now: int) -> str:
    """Return the cosignature line (with its newline) of the witness ``name`` at ``now`` seconds since 1970.

    Raises:
        NoteError: the key is not Ed25519, or the name is no key name.
    """
    key = witness_key(name, signer.public)
    signature = signer.sign(_message(checkpoint, now))
    return NoteSignature(name, key.id, now.to_bytes(8, "big") + signature).line()


def require_cosignature(line: str, checkpoint: Checkpoint, key: NoteKey) -> int:
    """Return the time (seconds since 1970) at which ``key`` cosigned ``checkpoint`` with ``line``.

    Raises:
        NoteError: not a line of this key, or its signature does not hold.
    """
    signature = NoteSignature.from_line(line)
    if (signature.name, signature.id) != (key.name, key.id):
        raise NoteError("a cosignature of another key", where=key.name)
    return _check(signature, checkpoint, key)


def _check(signature: NoteSignature, checkpoint: Checkpoint, key: NoteKey) -> int:
    if len(signature.blob) != 72:
        raise NoteError("a cosignature has 8 bytes of time and 64 of signature", where=key.name)
    time = int.from_bytes(signature.blob[:8], "big")
    if time > _MAX_TIME:
        raise NoteError("a cosignature from beyond all calendars", where=key.name)
    require_signature(key, signature.blob[8:], _message(checkpoint, time))
    return time


def _message(checkpoint: Checkpoint, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{checkpoint.body()}".encode()


@dataclass(frozen=True, slots=True)
class CosignedCheckpoint:
    """A checkpoint whose log signature was verified, with every signature line it came with."""

    checkpoint: Checkpoint
    note: Note

    @classmethod
    def open(cls, note: bytes, origin: str, key: VerifyingKey) -> CosignedCheckpoint:
        """Return the checkpoint in ``note``; cosignatures are looked at by `witnessed_by`.

        Raises:
            CheckpointError: see `audit.tlog.checkpoint.open_checkpoint`.
        """
        return cls(open_checkpoint(note, origin, key), Note.parse(note))

    def witnessed_by(self, witnesses: Iterable[NoteKey]) -> dict[str, int]:
        """Return name -> time (seconds since 1970) of each of the ``witnesses`` whose cosignature holds.

        Raises:
            CheckpointError: a line claims to be of a known witness and does not hold.
            PolicyError: two witnesses of one name or key.
        """
        found: dict[str, int] = {}
        for key in Witnesses(tuple(witnesses)):
            for signature in self.note.by(key):
                try:
                    time = _check(signature, self.checkpoint, key)
                except NoteError as error:
                    raise CheckpointError(error.what, where=f"cosignature of {key.name}") from None
                found[key.name] = max(time, found.get(key.name, 0))
        return found
