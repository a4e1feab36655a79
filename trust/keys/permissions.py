"""Files and folders that nobody but their owner may read.

Opened first and judged afterwards, on the open descriptor, so that what was checked is what is read: a regular file (or
a folder), reached through no symbolic link in its last step, owned by the user of this process, without any bit for
group or others. Access lists beyond the mode bits, backups and the superuser are NOT handled.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import CustodyError

__all__ = ["PrivateFolder", "read_private_file"]

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: opening a pipe must not wait


def read_private_file(path: Path, *, limit: int) -> bytes:
    """Return the bytes of a file that only this user can read.

    Raises:
        CustodyError: missing, a link, not a file, others may read it, another owner, or over ``limit`` bytes.
    """
    return _read(path, path, None, limit)


class PrivateFolder:
    """An open folder that only this user can enter, every entry of which is as private."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` and check it and everything in it.

        Raises:
            CustodyError: missing, a link, others may enter or read, another owner; the remedy is the command to run.
        """
        self._path = path
        self._descriptor = _open(path, path, None, os.O_DIRECTORY)
        try:
            _require_private(os.fstat(self._descriptor), path, "700")
            for name in sorted(os.listdir(self._descriptor)):  # noqa: PTH208  (of the open folder)
                found = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                _require_regular(found, path / name)
                _require_private(found, path / name, "600")
        except BaseException:
            self.close()
            raise

    def read(self, name: str, *, limit: int) -> bytes:
        """Return the bytes of the file ``name``, checked again on its own descriptor."""
        return _read(Path(name), self._path / name, self._descriptor, limit)

    def close(self) -> None:
        """Close the folder."""
        os.close(self._descriptor)

    def __enter__(self) -> PrivateFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(name: Path, shown: Path, folder: int | None, limit: int) -> bytes:
    descriptor = _open(name, shown, folder, 0)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _require_regular(found, shown)
        _require_private(found, shown, "600")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CustodyError(f"over {limit} bytes, which no key file is", where=str(shown))
    return data


def _open(name: Path, shown: Path, folder: int | None, flags: int) -> int:
    try:
        return os.open(name, _FLAGS | flags, dir_fd=folder)
    except FileNotFoundError:
        raise CustodyError("not found", where=str(shown)) from None
    except OSError as error:
        if shown.is_symlink():
            raise CustodyError("a symbolic link", where=str(shown), remedy="Name the place itself.") from None
        raise CustodyError(f"cannot be opened ({error.strerror})", where=str(shown)) from None


def _require_regular(found: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise CustodyError("a symbolic link", where=str(path), remedy="Put the file itself there.")
    if not stat.S_ISREG(found.st_mode):
        raise CustodyError("not a regular file", where=str(path))


def _require_private(found: os.stat_result, path: Path, mode: str) -> None:
    if found.st_uid != os.geteuid():
        remedy = f"Run as that user, or: chown {os.geteuid()} {path}"
        raise CustodyError(f"owned by user {found.st_uid}, not by {os.geteuid()}", where=str(path), remedy=remedy)
    if stat.S_IMODE(found.st_mode) & 0o077:
        shown = f"mode {stat.S_IMODE(found.st_mode):04o} lets others in"
        raise CustodyError(shown, where=str(path), remedy=f"Run: chmod {mode} {path}")
