"""Where a verifier reads a log from: a folder of the server's, or a downloaded copy of the store's mirror.

Nothing here is believed. A path is built from numbers that the verifier computed; what lies there is bytes or None, and
a file larger than any honest one is treated as absent, so that a hostile copy costs no memory.

    folder of `audit.tlog.log`    checkpoints/<size>, cosignatures/<size>, tile/...
    mirror                   checkpoint/<size>, cosignatures/<size>/*, tile/...
    either                   objects/*: canonical objects that leaves name by digest
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...trust import dsse
from ...trust.errors import MalformedError
from ...trust.identifiers import sha256
from ..tlog.note import MAX_NOTE
from ..tlog.tiles import MAX_LEAF, WIDTH

__all__ = ["FolderSource", "LogSource"]

_MAX_TILE = WIDTH * (MAX_LEAF + 2)
_MAX_CHECKPOINTS = 1 << 20
_MAX_COSIGNED = 1_000
_MAX_OBJECT = 16 << 20


class LogSource(Protocol):
    """Whatever can hand out the bytes of a log's copy."""

    def sizes(self) -> tuple[int, ...]:
        """Return the sizes for which the copy holds a checkpoint, rising."""

    def checkpoint(self, size: int) -> bytes | None:
        """Return the note for ``size`` with the cosignatures that lie beside it."""

    def tile(self, path: str) -> bytes | None:
        """Return the tile or bundle at ``path``, as `audit.tlog.tiles` names it."""


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A copy in a folder, of either layout."""

    folder: Path

    def sizes(self) -> tuple[int, ...]:
        """Return the sizes for which the folder holds a checkpoint, rising."""
        folder = self._checkpoints()
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        plain = {int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 19}
        return tuple(sorted(plain)[:_MAX_CHECKPOINTS])

    def checkpoint(self, size: int) -> bytes | None:
        """Return the note for ``size`` with the cosignatures that lie beside it."""
        note = _read(self._checkpoints() / str(size), MAX_NOTE)
        return None if note is None else note + self._cosignatures(size)

    def tile(self, path: str) -> bytes | None:
        """Return the tile or bundle at ``path``."""
        return _read(self.folder / path, _MAX_TILE)

    def objects(self) -> dict[str, bytes]:
        """Return the objects beside the log by the SHA-256 of their bytes and, for envelopes, of their payload."""
        found: dict[str, bytes] = {}
        folder = self.folder / "objects"
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            raw = _read(path, _MAX_OBJECT)
            if raw is not None:
                found[sha256(raw)] = raw
                with suppress(MalformedError):
                    found[sha256(dsse.read(raw, limit=_MAX_OBJECT).payload)] = raw
        return found

    def _cosignatures(self, size: int) -> bytes:
        """Return the lines of one file, or of every file of a mirror's folder: each line once."""
        place = self.folder / "cosignatures" / str(size)
        if not place.is_dir():
            return _read(place, MAX_NOTE) or b""
        found: dict[bytes, None] = {}
        for path in sorted(place.iterdir())[:_MAX_COSIGNED]:
            found |= dict.fromkeys((_read(path, MAX_NOTE) or b"").splitlines(keepends=True))
        return b"".join(found)[:MAX_NOTE]

    def _checkpoints(self) -> Path:
        own = self.folder / "checkpoints"
        return own if own.is_dir() else self.folder / "checkpoint"


def _read(path: Path, limit: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None
