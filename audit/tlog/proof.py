"""`.tlog-proof` files: one leaf's place in the log, checkable offline with the log's key and a witness policy.

    c2sp.org/tlog-proof@v1
    extra <base64>                 optional and NOT authenticated: never believed
    index 73894
    <base64 hash>                  one a line, sibling of the leaf first
    (blank line)
    <checkpoint, verbatim, with its cosignatures>

Source: c2sp.org/tlog-proof.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from ...trust.keys.signing import VerifyingKey
from ..errors import NoteError, ProofError
from .checkpoint import Checkpoint
from .cosignature import CosignedCheckpoint
from .merkle import HASH_SIZE, leaf_hash, require_inclusion
from .note import MAX_NOTE, strict_base64
from .policy import Policy

__all__ = ["LogProof"]

_HEADER = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class LogProof:
    """A proof that was read and **not** verified: nothing in it may be believed before `verify`."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def to_bytes(self) -> bytes:
        """Return the proof's file."""
        lines = [_HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(one).decode() for one in self.hashes]
        return ("\n".join(lines) + "\n\n").encode() + self.checkpoint

    @classmethod
    def parse(cls, raw: bytes) -> LogProof:
        """Return the proof in ``raw``.

        Raises:
            ProofError: not such a file.
        """
        head, blank, checkpoint = raw.partition(b"\n\n")
        if not blank or len(raw) > 2 * MAX_NOTE:
            raise ProofError("no blank line before the checkpoint, or too long", where="tlog-proof")
        try:
            lines = head.decode("ascii").split("\n")
            if lines.pop(0) != _HEADER:
                raise ProofError("not a c2sp.org/tlog-proof@v1", where="tlog-proof")
            extra = None
            if lines and lines[0].startswith("extra "):
                extra = strict_base64(lines.pop(0)[6:], "tlog-proof")
            match = _INDEX.fullmatch(lines.pop(0)) if lines else None
            if match is None:
                raise ProofError("no index line", where="tlog-proof")
            hashes = tuple(strict_base64(line, "tlog-proof") for line in lines)
        except (UnicodeDecodeError, NoteError):
            raise ProofError("not ASCII lines of strict base64", where="tlog-proof") from None
        if len(hashes) > 63 or any(len(one) != HASH_SIZE for one in hashes):
            raise ProofError("not at most 63 hashes of 32 bytes", where="tlog-proof")
        return cls(int(match[1]), hashes, checkpoint, extra)

    def verify(self, leaf: bytes, origin: str, key: VerifyingKey, policy: Policy | None = None) -> Checkpoint:
        """Return the checkpoint under which ``leaf`` is proven to stand at ``index``.

        Raises:
            CheckpointError: the checkpoint is not of this origin and key, or a known witness's line does not hold.
            QuorumError: the witnesses of ``policy`` that cosigned are not enough for it.
            ProofError: the leaf is not proven to be there.
        """
        found = CosignedCheckpoint.open(self.checkpoint, origin, key)
        if policy is not None:
            policy.require(found)
        place = found.checkpoint
        require_inclusion(leaf_hash(leaf), self.index, place.size, self.hashes, place.root)
        return place
