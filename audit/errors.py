"""The errors of `audit`: what happened.

AuditError
├── ProofError              an inclusion or consistency proof does not hold, or is not of its form
├── NoteError               bytes that are not a signed note, or a signature in it by a known key that does not hold
├── CheckpointError         a note that is not the checkpoint expected here: form, origin, signer
│   ├── RollbackError       a checkpoint smaller than one already seen
│   ├── InconsistencyError  a checkpoint that is not proven to extend the one already seen: both kept
│   └── ForkError           two signed checkpoints that no single log can have: both kept as evidence
├── PolicyError             a witness policy that cannot be read or cannot be satisfied by anybody
├── QuorumError             fewer witnesses cosigned than the policy asks for
├── LeafError               a leaf that the log cannot hold
├── LogCorruptError         the folder contradicts itself or its published checkpoints: nothing is signed over it
├── LogBusyError            another process writes this log
└── LogClosedError          the log was closed, or an earlier write failed half-way: open it again
"""

from __future__ import annotations

from ..errors import CountersealError


class AuditError(CountersealError):
    """A matter of what happened."""

    code = "audit"


class ProofError(AuditError):
    """An inclusion or consistency proof does not hold, or is not of its form."""

    code = "proof"


class NoteError(AuditError):
    """Bytes that are not a signed note, or a known key's signature that does not hold."""

    code = "note"


class CheckpointError(AuditError):
    """A note that is not the checkpoint expected here."""

    code = "checkpoint"


class _Conflict(CheckpointError):
    """Two notes of one log that do not go together; ``seen`` and ``offered`` are their bytes as they came."""

    def __init__(self, what: str, *, seen: bytes, offered: bytes, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.seen = seen
        self.offered = offered


class RollbackError(_Conflict):
    """A checkpoint smaller than one already seen."""

    code = "checkpoint_rollback"


class InconsistencyError(_Conflict):
    """A checkpoint that is not proven to extend the one already seen. Kept, though it convicts nobody by itself."""

    code = "checkpoint_inconsistent"


class ForkError(_Conflict):
    """Two signed checkpoints that no single log can have: evidence that convicts the log's key."""

    code = "log_fork"


class PolicyError(AuditError):
    """A witness policy that cannot be read, or that nobody could satisfy."""

    code = "policy"


class QuorumError(AuditError):
    """Fewer witnesses cosigned than the policy asks for."""

    code = "quorum"


class LeafError(AuditError):
    """A leaf that the log cannot hold."""

    code = "leaf"


class LogCorruptError(AuditError):
    """The folder contradicts itself or its published checkpoints."""

    code = "log_corrupt"


class LogBusyError(AuditError):
    """Another process writes this log."""

    code = "log_busy"


class LogClosedError(AuditError):
    """The log was closed, or an earlier write failed half-way."""

    code = "log_closed"
