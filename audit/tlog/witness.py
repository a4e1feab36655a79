"""The site as a witness: what it remembers of a log, and when it may move on.

A `WitnessState` is pinned to an origin when a site joins (`WitnessState.pinned`); origin and key come from the charter,
never from a note. `advance` takes the next checkpoint and its consistency proof and returns the next state, or raises:

1. the note is a checkpoint of this origin, signed with the pinned key;
2. it is not smaller than the one remembered (`RollbackError`);
3. of equal size it has the same root: otherwise the log signed two trees (`ForkError`, both notes are the evidence);
4. a larger one is proven to begin with the remembered tree (`InconsistencyError`: a wrong proof convicts nobody by itself,
   since a third party could have garbled it, but both notes are kept).

The order that makes a witness worth its name: advance, **write the new state to disk and sync it, then** `cosign` and let
the line go. A site that cosigned first could crash, forget, and cosign a fork. Everything here is pure; the site's
runtime does the writing (`WitnessState.to_bytes`).

What this does not give: two sites that never compare checkpoints can be shown two trees. A fork is caught when quorums
overlap in an honest site, or by a witness outside the federation.

Source: c2sp.org/tlog-witness, of whose server this is the decision.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from ...trust.canonical import canonical, parse
from ...trust.errors import MalformedError
from ...trust.keys.signing import VerifyingKey
from ..errors import ForkError, InconsistencyError, ProofError, RollbackError
from .checkpoint import Checkpoint, open_checkpoint
from .checkpoint import log_key as log_note_key
from .cosignature import cosign
from .merkle import EMPTY_ROOT, require_consistency
from .note import Note

__all__ = ["WitnessState", "advance", "cosign"]


@dataclass(frozen=True, slots=True)
class WitnessState:
    """The last checkpoint that this witness accepted; ``note`` is its signed text, empty before the first."""

    origin: str
    size: int
    root: bytes
    note: bytes = b""

    @classmethod
    def pinned(cls, origin: str) -> WitnessState:
        """Return the state of a witness that has seen nothing of the log ``origin``."""
        return cls(origin, 0, EMPTY_ROOT)

    @property
    def checkpoint(self) -> Checkpoint:
        """The remembered checkpoint, for `cosign`."""
        return Checkpoint(self.origin, self.size, self.root)

    def to_bytes(self) -> bytes:
        """Return the state as canonical JSON."""
        return canonical({"note": self.note.decode(), "origin": self.origin})

    @classmethod
    def from_bytes(cls, raw: bytes, log_key: VerifyingKey) -> WitnessState:
        """Return the state that `to_bytes` wrote, its note verified again.

        Raises:
            MalformedError: not such a state.
            CheckpointError: the remembered note is not of this origin and key.
        """
        value = parse(raw, limit=2 << 20, what="witness state")
        if not isinstance(value, dict) or set(value) != {"note", "origin"}:
            raise MalformedError("a witness state has note and origin", where="witness state")
        note, origin = value["note"], value["origin"]
        if not isinstance(note, str) or not isinstance(origin, str):
            raise MalformedError("note and origin are texts", where="witness state")
        if not note:
            return cls.pinned(origin)
        found = open_checkpoint(note.encode(), origin, log_key)
        return cls(origin, found.size, found.root, note.encode())


def advance(
    state: WitnessState, checkpoint_note: bytes, consistency_proof: Sequence[bytes], log_key: VerifyingKey
) -> WitnessState:
    """Return the state after accepting the checkpoint in ``checkpoint_note``.

    Raises:
        ForkError: another root at the same size; carries both notes.
        RollbackError: smaller than the remembered one; carries both notes.
        InconsistencyError: the proof does not hold; carries both notes.
        CheckpointError: not a checkpoint of this origin, or not signed with ``log_key``.
    """
    offered = open_checkpoint(checkpoint_note, state.origin, log_key)
    where = f"log {state.origin}"
    if offered.size < state.size:
        raise RollbackError(
            f"{offered.size} leaves after {state.size} were seen",
            seen=state.note,
            offered=checkpoint_note,
            where=where,
            remedy="Ask the log for its latest checkpoint; if this is it, the log lost leaves: keep both notes.",
        )
    if offered.size == state.size and offered.root != state.root:
        raise ForkError(
            f"two signed roots for {state.size} leaves: {_short(state.root)} and {_short(offered.root)}",
            seen=state.note,
            offered=checkpoint_note,
            where=where,
            remedy="Stop, keep both notes and show them to the other members.",
        )
    try:
        require_consistency(state.size, state.root, offered.size, offered.root, consistency_proof)
    except ProofError as error:
        raise InconsistencyError(
            f"{offered.size} leaves are not proven to extend the {state.size} that were seen ({error.what})",
            seen=state.note,
            offered=checkpoint_note,
            where=where,
            remedy="Ask once more for the proof; if it fails again, keep both notes and show them to the other members.",
        ) from None
    # Only what was verified is kept: lines of unknown keys would let a peer grow the state.
    kept = Note.parse(checkpoint_note)
    own = kept.by(log_note_key(state.origin, log_key))[:1]
    return WitnessState(offered.origin, offered.size, offered.root, Note(kept.text, own).to_bytes())


def _short(root: bytes) -> str:
    return base64.b64encode(root[:6]).decode()
