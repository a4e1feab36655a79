"""The state folder: where it lies, and whether its disk keeps what the journal and the spool rely on."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ...durable import create_file, replace_file
from .doctor_check import Doubt, Fault

__all__ = ["StateChecks", "nearest"]

_MEMORY = frozenset({"tmpfs", "ramfs"})
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.sshfs", "9p", "gpfs", "beegfs", "ceph", "fuse.ceph"}
)


class StateChecks:
    """The checks of one folder; ``through`` says that a worker will be asked about it too."""

    def __init__(self, folder: Path, *, through: bool) -> None:
        self._folder = folder
        self._through = through

    def each(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield every check with its name."""
        yield "state: folder", self.state
        yield "state: lock, sync, put-once", self.durable

    def state(self) -> str:
        """Look at the state folder and what lies under it."""
        folder = self._folder
        place = nearest(folder)
        if folder.exists() and stat.S_IMODE(folder.stat().st_mode) & 0o077:
            raise Fault("others may enter it", where=str(folder), remedy=f"chmod 700 {folder}")
        kind = _filesystem(place)
        if kind in _MEMORY:
            raise Fault(f"on {kind}, which a restart empties", where=str(folder), remedy="Move it to a disk.")
        if kind in _NETWORK:
            self._shared(kind)
        free = shutil.disk_usage(place).free
        used = "is there" if folder.exists() else "will be created"
        return f"{folder} {used}, on {kind or 'a file system of unknown kind'}, {free / 1e9:.1f} GB free"

    def _shared(self, kind: str) -> None:
        """Say what a file system of several machines is worth: only a try from another machine tells."""
        if self._through:
            raise Doubt(f"{self._folder} is on {kind}: it is as good as the checks of the worker below")
        raise Fault(
            f"on {kind}, whose locks and syncs are not to be relied on",
            where=str(self._folder),
            remedy="Use a local disk; on a cluster, try this one from a worker with --through.",
        )

    def durable(self) -> str:
        """Try what the journal and the spool rely on, in a scratch folder."""
        place = nearest(self._folder)
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as name:
            scratch = Path(name)
            _try_lock(scratch / "lock")
            create_file(scratch / "once", b"1", step="doctor.once")
            try:
                create_file(scratch / "once", b"2", step="doctor.once")
            except FileExistsError:
                pass
            else:
                raise Fault("a name could be taken twice", where=str(place), remedy="Use a local disk.")
            replace_file(scratch / "once", b"3", step="doctor.replace")
            if (scratch / "once").read_bytes() != b"3":
                raise Fault("a file does not hold what was written", where=str(place), remedy="Use another disk.")
        return "a second lock is refused, a taken name stays, files sync"


def _try_lock(path: Path) -> None:
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise Fault("locks do not exclude each other", where=str(path.parent), remedy="Use a local disk.")
    finally:
        os.close(first)
        os.close(second)


def nearest(folder: Path) -> Path:
    """Return ``folder``, or the nearest folder above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _filesystem(folder: Path) -> str:
    """Return the kind of file system that ``folder`` is on, or nothing where the system does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    best, kind = -1, ""
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = Path(words[1].replace("\\040", " "))
        if (folder == point or point in folder.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), words[2]
    return kind
