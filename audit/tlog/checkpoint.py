"""Checkpoints: the log's signed word for how many leaves it has and under which root.

    counterseal.example/federation-7        origin: the log's name, also the name of its key
    109482                                  size, decimal, no leading zeros
    sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=      base64 of the root
    (blank line)
    — counterseal.example/federation-7 hI2DJw...      signed note, type 01

`open_checkpoint` takes bytes and the key that the caller pinned, and returns a checkpoint or raises: origin and key come
from the charter, never from the note. Extension lines, which C2SP discourages, are refused: a witness here never signs
text whose meaning it does not know.

Source: c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from ...trust.keys.signing import Signer, VerifyingKey
from ..errors import CheckpointError, NoteError
from .merkle import EMPTY_ROOT, HASH_SIZE
from .note import Note, NoteKey, NoteType, require_name, sign_note, strict_base64

__all__ = ["Checkpoint", "log_key", "open_checkpoint", "sign_checkpoint"]

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``size`` leaves under ``root`` (bytes[32]) in the log called ``origin``.

    Raises:
        CheckpointError: a size or root that no tree has.
        NoteError: an origin that cannot name a key.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        require_name(self.origin)
        if not 0 <= self.size <= 1 << 62 or len(self.root) != HASH_SIZE:
            raise CheckpointError("a size or a root that no tree has", where=self.origin)
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise CheckpointError("the empty tree has one root, and this is not it", where=self.origin)

    def body(self) -> str:
        """Return the text that is signed, with its last newline."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def from_body(cls, text: str) -> Checkpoint:
        """Return the checkpoint that ``text`` spells; says nothing about who signed it.

        Raises:
            CheckpointError: not three lines of the promised form.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise CheckpointError("not the three lines origin, size and root", where="checkpoint")
        if not _SIZE.fullmatch(lines[1]):
            raise CheckpointError("a size that is not plain decimal", where="checkpoint")
        try:
            return cls(lines[0], int(lines[1]), strict_base64(lines[2], "checkpoint root"))
        except NoteError as error:
            raise CheckpointError(error.what, where="checkpoint") from None


def log_key(origin: str, key: VerifyingKey) -> NoteKey:
    """Return the key under which the log ``origin`` signs its checkpoints."""
    return NoteKey(origin, NoteType.ED25519, key)


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """Return the signed note of ``checkpoint``; ``signer`` holds the log's Ed25519 key."""
    return sign_note(checkpoint.body(), checkpoint.origin, signer)


def open_checkpoint(note: bytes, origin: str, key: VerifyingKey) -> Checkpoint:
    """Return the checkpoint in ``note`` if it is of ``origin`` and signed with ``key``.

    Raises:
        CheckpointError: not a note, not a checkpoint, another origin, not signed by the key, or signed badly.
    """
    try:
        parsed = Note.parse(note)
        signed = parsed.signed_by([log_key(origin, key)])
    except NoteError as error:
        raise CheckpointError(error.what, where=f"checkpoint of {origin}") from None
    if not signed:
        raise CheckpointError("not signed with the log's key", where=f"checkpoint of {origin}")
    found = Checkpoint.from_body(parsed.text)
    if found.origin != origin:
        raise CheckpointError("signed with this log's key for another origin", where=f"checkpoint of {origin}")
    return found
