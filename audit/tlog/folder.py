"""The log's folder: what lies where, written once or replaced whole, and locked for one writer.

Nothing here knows the tree; `audit.tlog.log` does. Every write is durable when it returns and announced to the probe.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ...durable import Probe, create_file, make_folder, replace_file
from ..errors import LogBusyError, LogCorruptError, ProofError
from .journal import Journal
from .tiles import Tile, decode_bundle

__all__ = ["LogFolder", "RESTORE"]

RESTORE = "Restore the folder from a copy or from the store's mirror; nothing is signed over a damaged log."


class LogFolder:
    """A log's folder, held by this process until `close`."""

    def __init__(self, path: Path, probe: Probe) -> None:
        """Create the folder if need be, and lock it.

        Raises:
            LogBusyError: another process has it.
        """
        self.path = make_folder(path)
        self._probe = probe
        self._lock = _lock(path)

    def close(self) -> None:
        """Release the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def identify(self, identity: bytes) -> None:
        """Write whose log this is, or return if it is this one's.

        Raises:
            LogCorruptError: another log's folder, or one that lost its name.
        """
        path, journal = self.path / "origin", self.path / "journal"
        if path.exists():
            if path.read_bytes() != identity:
                raise LogCorruptError(
                    "the folder holds the log of another origin or key",
                    where=str(path),
                    remedy="Name the folder, origin and key that belong together.",
                )
            return
        if (self.path / "checkpoints").exists() or (journal.exists() and journal.stat().st_size):
            raise LogCorruptError("a log without its origin file", where=str(path), remedy=RESTORE)
        if not journal.exists():
            Journal.create(journal, probe=self._probe)
        create_file(path, identity, step="log.origin", probe=self._probe)

    def numbered(self, name: str) -> dict[int, bytes]:
        """Return size -> bytes of the files in the sub-folder ``name``; drafts that a crash left are none."""
        folder = self.path / name
        paths = folder.iterdir() if folder.exists() else ()
        return {int(path.name): path.read_bytes() for path in paths if path.name.isascii() and path.name.isdecimal()}

    def read(self, name: str) -> bytes | None:
        """Return the bytes of the file ``name``, if there is one."""
        path = self.path / name
        return path.read_bytes() if path.exists() else None

    def bundle(self, tile: Tile) -> tuple[bytes, ...]:
        """Return the leaves under ``tile``.

        Raises:
            LogCorruptError: they are missing or damaged.
        """
        path = self.path / tile.entries_path()
        try:
            return decode_bundle(path.read_bytes(), tile.width)
        except (FileNotFoundError, ProofError):
            what = "a published entry bundle is missing or damaged"
            raise LogCorruptError(what, where=str(path), remedy=RESTORE) from None

    def place(self, name: str, data: bytes, step: str) -> None:
        """Put ``data`` at ``name`` once; the same bytes may lie there already.

        Raises:
            LogCorruptError: other bytes lie there.
        """
        target = self.path / name
        make_folder(target.parent)
        try:
            create_file(target, data, step=step, probe=self._probe)
        except FileExistsError:
            # A checkpoint that was interrupted has left it; what it says is a function of the acknowledged leaves.
            if target.read_bytes() != data:
                raise LogCorruptError("a put-once file holds other bytes", where=str(target), remedy=RESTORE) from None

    def replace(self, name: str, data: bytes, step: str) -> None:
        """Make ``name`` hold ``data``."""
        target = self.path / name
        make_folder(target.parent)
        replace_file(target, data, step=step, probe=self._probe)

    def derive(self, name: str, data: bytes, step: str) -> None:
        """Make ``name`` hold ``data``, if it does not yet."""
        if self.read(name) != data:
            self.replace(name, data, step)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LogBusyError(
            "another process writes this log", where=str(folder), remedy="Stop it first; a log has one writer."
        ) from None
    return descriptor
