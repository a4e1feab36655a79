"""The parties of a federation as one verifier sees them: the charter, and the keys valid at each leaf of the log.

Used by both ends. Keys come from the charter that all members signed and from governance leaves (rotation, revocation,
removal); never from the message that is being checked.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..audit.errors import QuorumError
from ..audit.tlog.checkpoint import Checkpoint
from ..audit.tlog.cosignature import CosignedCheckpoint, Witnesses
from ..audit.tlog.merkle import require_consistency
from ..trust import dsse
from ..trust.charter.model import Charter
from ..trust.charter.signing import SignedCharter
from ..trust.errors import KeyFault, UnknownKeyError
from ..trust.keys.sealing import SealingKey
from ..trust.keys.signing import VerifyingKey
from ..trust.keys.validity import KeyHistory

__all__ = ["Parties"]


class Parties:
    """Who may say what, at which index of the log."""

    def __init__(self, signed: SignedCharter, history: KeyHistory) -> None:
        """Begin with the charter's keys; ``history`` is replaced as governing leaves are followed."""
        self.signed = signed
        self.history = history

    @property
    def charter(self) -> Charter:
        """The charter in force."""
        return self.signed.charter

    @property
    def digest(self) -> str:
        """The charter's digest."""
        return self.signed.digest

    @property
    def log_key(self) -> VerifyingKey:
        """The key of the log's checkpoints: the server operator's, as the charter names it."""
        key = self.signed.statements[self.charter.server].document.checkpoint
        if key is None:
            raise UnknownKeyError("the charter names no checkpoint key", where=self.charter.server)
        return key

    def signing_key(self, envelope: bytes, actor: str, *, at: int) -> VerifyingKey:
        """Return the key under which ``actor``'s ``envelope`` must verify, if it was valid at leaf ``at``."""
        key = self.history.key(actor, "sign", dsse.read(envelope).key_id, at=at)
        if not isinstance(key, VerifyingKey):
            raise UnknownKeyError("not a signing key", where=actor)
        return key

    def current_signing_key(self, actor: str, *, at: int) -> VerifyingKey:
        """Return ``actor``'s signing key as of leaf ``at``."""
        key = self.history.current(actor, "sign", at=at)
        if not isinstance(key, VerifyingKey):
            raise UnknownKeyError("not a signing key", where=actor)
        return key

    def seal_key(self, identity: str, *, at: int) -> SealingKey:
        """Return the key to which ``identity``'s blobs are sealed as of leaf ``at``."""
        key = self.history.current(identity, "seal", at=at)
        if not isinstance(key, SealingKey):
            raise UnknownKeyError("not a sealing key", where=identity)
        return key

    def witnesses(self, *, at: int) -> Witnesses:
        """Return the cosigning keys of the sites, named by identity, as of leaf ``at``."""
        keys: dict[str, VerifyingKey] = {}
        for identity in self.charter.sites:
            try:
                key = self.history.current(identity, "cosign", at=at)
            except KeyFault:  # not yet, or not any more
                continue
            if isinstance(key, VerifyingKey):
                keys[identity] = key
        return Witnesses.of(keys)

    def cosigners(self, note: bytes, *, at: int) -> frozenset[str]:
        """Return the sites whose cosignature on the checkpoint in ``note`` holds."""
        cosigned = CosignedCheckpoint.open(note, self.charter.log_origin, self.log_key)
        return frozenset(cosigned.witnessed_by(self.witnesses(at=at)))

    def require_quorum(self, note: bytes, consistency: Sequence[bytes], now: Checkpoint, *, holds: int) -> None:
        """Return if a quorum cosigned the checkpoint in ``note``, it holds leaf ``holds``, and ``now`` extends it.

        Raises:
            QuorumError: too few cosignatures, or a checkpoint from before that leaf.
            CheckpointError, ProofError: the note or its consistency fails.
        """
        cosigned = CosignedCheckpoint.open(note, self.charter.log_origin, self.log_key)
        seen = cosigned.checkpoint
        if seen.size <= holds:
            raise QuorumError(
                f"the cosigned checkpoint has {seen.size} leaves and does not hold leaf {holds}", where="quorum"
            )
        require_consistency(seen.size, seen.root, now.size, now.root, consistency)
        by = frozenset(cosigned.witnessed_by(self.witnesses(at=seen.size)))
        quorum = self.charter.arithmetic
        if not quorum.met(by, self.charter.cosigners):
            raise QuorumError(
                f"{len(by)} sites cosigned, {quorum.k} are needed",
                where=f"checkpoint of {seen.size} leaves",
                remedy="The server collects the missing ones with witness tickets.",
            )
