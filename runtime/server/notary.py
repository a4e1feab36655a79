"""The server's pen: signs its events, appends leaves once, publishes checkpoints, proves leaves.

A leaf is written down in the journal before it is appended, under the name of the step that it belongs to, so that a restart
appends the same bytes or finds them in the log. The time in a leaf is therefore read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ...audit.events import Event
from ...audit.tlog.checkpoint import Checkpoint
from ...audit.tlog.log import Log
from ...durable import Probe, create_file, make_folder, silent
from ...trust.documents import sign
from ...trust.identifiers import sha256
from ...trust.keys.signing import Signer
from ..delivery import LeafProof
from ..journal import Journal

__all__ = ["Notary"]


class Notary:
    """The log, as the server uses it."""

    def __init__(self, log: Log, journal: Journal, signer: Signer, objects: Path, *, probe: Probe = silent) -> None:
        """Write into ``log``, and canonical objects that leaves name into the folder ``objects`` beside it."""
        self._log = log
        self._objects = make_folder(objects)
        self._probe = probe
        self._journal = journal
        self._signer = signer

    @property
    def log(self) -> Log:
        """The log itself, for reading."""
        return self._log

    def record(self, step: str, make: Callable[[], Event]) -> int:
        """Log one event of the server's under the name of its step, once; return its index."""
        return self.record_all({step: make})[step]

    def record_all(self, steps: Mapping[str, Callable[[], Event]]) -> dict[str, int]:
        """Log several events at once, in order; return their indices by step."""
        fresh = {
            f"leaf/{step}": sign(make(), self._signer).raw.decode()
            for step, make in steps.items()
            if self._journal.get(f"leaf/{step}") is None
        }
        if fresh:
            self._journal.put_many(dict(fresh))
        return self.append_all({step: self._journal.get(f"leaf/{step}").encode() for step in steps})

    def file(self, step: str, raw: bytes) -> int:
        """Log an event that another party signed, once; return its index."""
        found = self._journal.once(f"leaf/{step}", lambda: raw.decode())
        return self.append_all({step: found.encode()})[step]

    def keep(self, raw: bytes) -> str:
        """Put an object beside the log and return the SHA-256 of its bytes, which is its name."""
        digest = sha256(raw)
        path = self._objects / f"{digest}.json"
        if not path.exists():
            create_file(path, raw, step="log.object", probe=self._probe)
        return digest

    def kept(self) -> Iterator[Path]:
        """Yield the files of the objects beside the log."""
        yield from sorted(path for path in self._objects.glob("*.json") if not path.name.startswith("."))

    def append_all(self, leaves: Mapping[str, bytes]) -> dict[str, int]:
        """Append what is not in the log yet, durably, and return every index."""
        missing = [leaf for leaf in leaves.values() if self._log.index_of(leaf) is None]
        if missing:
            self._log.append(missing)
        return {step: self.index(leaf) for step, leaf in leaves.items()}

    def index(self, leaf: bytes) -> int:
        """Return where ``leaf`` stands."""
        index = self._log.index_of(leaf)
        if index is None:
            raise LookupError("a leaf that was recorded is not in the log")
        return index

    def step(self, step: str) -> int | None:
        """Return the index of the leaf of a step, if it was taken."""
        raw = self._journal.get(f"leaf/{step}")
        return None if raw is None else self._log.index_of(raw.encode())

    def publish(self) -> Checkpoint:
        """Sign and publish the checkpoint of everything appended so far."""
        self._log.checkpoint()
        published = self._log.published
        if published is None:
            raise LookupError("nothing was published")
        return published

    def prove(self, indices: Sequence[int], size: int) -> tuple[LeafProof, ...]:
        """Return the leaves at ``indices`` with their inclusion proofs in the tree of ``size`` leaves."""
        return tuple(
            LeafProof(
                index=index,
                leaf=self._log.entry(index).decode(),
                proof=tuple(step.hex() for step in self._log.inclusion(index, size)),
            )
            for index in sorted(set(indices))
        )

    def consistency(self, old: int, new: int) -> tuple[str, ...]:
        """Return the proof that the tree of ``new`` leaves extends that of ``old``."""
        return tuple(step.hex() for step in self._log.consistency(old, new))
