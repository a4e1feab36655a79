"""A log's copy as a timeline: what its leaves say, in order. Nothing here is verified; `counterseal audit verify` does that.

Used by `audit show`, `audit proof` and `server status`, which read a folder that another process may be writing: only what
lies under the largest checkpoint is read, and that never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...audit.checks.source import FolderSource
from ...audit.errors import CheckpointError
from ...audit.events import Event, peek_event
from ...audit.tlog.checkpoint import Checkpoint
from ...audit.tlog.note import Note
from ...audit.tlog.tiles import decode_bundle, entry_bundles
from ...errors import CountersealError

__all__ = ["Copy", "Line", "concerns", "lines", "read_copy", "when"]

_COMMON = frozenset({"type", "federation", "actor", "time", "run"})
_QUIET = frozenset(
    {"decisions", "decision", "config", "parameters", "environment", "seal_key", "cosignature", "previous"}
)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a log up to its largest checkpoint: the note, what it claims, and the leaves."""

    note: bytes
    checkpoint: Checkpoint
    leaves: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One leaf; ``event`` is None where this version cannot read it."""

    index: int
    event: Event | None

    @property
    def values(self) -> dict[str, Any]:
        """The event as JSON values."""
        return {} if self.event is None else self.event.model_dump(mode="json")

    def about(self) -> str:
        """Return what the event says besides its kind, actor and time, on one line."""
        if self.event is None:
            return "a leaf that this version cannot read"
        shown = {name: value for name, value in self.values.items() if name not in _COMMON | _QUIET}
        return ", ".join(f"{name} {_short(value)}" for name, value in shown.items() if value not in (None, [], ""))


def read_copy(folder: Path) -> Copy:
    """Return the copy of a log in ``folder``, up to its largest checkpoint.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        ProofError: a bundle of entries is damaged.
    """
    source = FolderSource(folder)
    sizes = source.sizes()
    if not sizes:
        raise CheckpointError(
            "no log here", where=str(folder), remedy="Name the folder that holds `tile` and `checkpoints`."
        )
    note = source.checkpoint(sizes[-1]) or b""
    checkpoint = Checkpoint.from_body(Note.parse(note).text)
    leaves: list[bytes] = []
    for tile in entry_bundles(min(checkpoint.size, sizes[-1])):
        data = source.tile(tile.entries_path())
        if data is None:
            raise CheckpointError(f"{tile.entries_path()} is missing", where=str(folder))
        leaves += decode_bundle(data, tile.width)
    return Copy(note, checkpoint, tuple(leaves))


def lines(leaves: Sequence[bytes]) -> Iterator[Line]:
    """Yield every leaf as a line."""
    for index, leaf in enumerate(leaves):
        try:
            yield Line(index, peek_event(leaf))
        except CountersealError:
            yield Line(index, None)


def concerns(line: Line, *, run: str | None, site: str | None) -> bool:
    """Whether ``line`` is about ``run`` and ``site``, where those are given."""
    values = line.values
    if run is not None and values.get("run") != run:
        return False
    return site is None or _names(values, site)


def when(seconds: int) -> str:
    """Return a time in UTC, for people."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _names(value: Any, site: str) -> bool:
    if isinstance(value, Mapping):
        return any(_names(one, site) for name, one in value.items() if name not in {"decisions", "config"})
    if isinstance(value, list):
        return any(_names(one, site) for one in value)
    return bool(value == site)


def _short(value: Any) -> str:
    if isinstance(value, str):
        digest = len(value) == 64 and all(letter in "0123456789abcdef" for letter in value)
        return value[:12] if digest else value
    if isinstance(value, list):
        return "[" + ", ".join(_short(one) for one in value) + "]"
    if isinstance(value, dict):
        return _short(value.get("site") or value.get("size") or len(value)) + _reason(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reason(value: dict[str, Any]) -> str:
    return f" ({value['reason']})" if "reason" in value else ""
