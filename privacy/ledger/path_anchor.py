"""An anchor that is a file: on another disk, a network share, a mounted stick; never beside the ledger.

The file is replaced whole and synced; a lock beside it makes compare-and-replace one step for processes that see the
same lock. NFS and SMB mostly honour it; where they do not, two ledgers could both move the file, and the loser is refused
at its next operation instead of at once.

Not handled: whoever restores that disk together with the ledger's, or deletes the file and the ledger.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...durable import Probe, replace_file, silent
from ..errors import AnchorError
from .anchor import LIMIT, Mark, moved

__all__ = ["PathAnchor"]

_DRAFT = re.compile(r"\d+\.[0-9a-f]{8}\.draft")
"""How `durable` ends the name of a draft."""


class PathAnchor:
    """The anchor in the file ``path``, whose folder must exist."""

    def __init__(self, path: Path, *, probe: Probe = silent) -> None:
        self.path = path.absolute()
        self._probe = probe

    @property
    def place(self) -> str:
        """The file."""
        return f"file {self.path}"

    def read(self) -> Mark | None:
        """See `Anchor.read`; a folder that is not there (a disk that is not mounted) is an error, not an empty place."""
        with self._answering():
            return self._read()

    def advance(self, mark: Mark, previous: Mark | None) -> None:
        """See `Anchor.advance`."""
        with self._answering(), self._locked():
            if self._read() != previous:
                raise moved(self.place)
            self._sweep()
            replace_file(self.path, mark.to_bytes(), step="ledger.anchor.file", probe=self._probe, mode=0o600)

    def _sweep(self) -> None:
        """Remove what a killed process half wrote of this mark: we hold its lock, so it is nobody's."""
        prefix = f".{self.path.name}."
        for path in self.path.parent.iterdir():
            if path.name.startswith(prefix) and _DRAFT.fullmatch(path.name.removeprefix(prefix)):
                path.unlink(missing_ok=True)

    def _read(self) -> Mark | None:
        try:
            with self.path.open("rb") as file:
                return Mark.parse(file.read(LIMIT + 1), self.place)
        except FileNotFoundError:
            if self.path.parent.is_dir():
                return None
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(f".{self.path.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for the milliseconds of one replacement
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AnchorError(
                f"the anchor cannot be used ({error.strerror or type(error).__name__})",
                where=self.place,
                remedy="Mount its disk; nothing is released before the anchor answers.",
            ) from None
