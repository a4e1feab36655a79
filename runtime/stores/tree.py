"""Files below one folder, reached without following a link, created whole and synced.

    <root>/objects/<key>      one file per object; complete as soon as its name exists
    <root>/drafts/<32 hex>    what is being written; after a crash, rubbish that `sweep` removes. The draft of an open
                              multipart upload is empty until the whole object takes its place

Every step of a path is opened relative to the folder before it with ``O_NOFOLLOW``, so a link that somebody plants
in the tree leads to an error instead of outside. A draft gets its name in ``objects`` with link(2), which fails if
the name is taken: the file system decides a race of writers. The order is draft written, draft synced, linked, folder
synced; the caller hears of success only after the last.

Not handled: who may write here. Anybody with the folder's permissions can change or remove any file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ...durable import Probe, make_folder, silent
from ..errors import (
    GrantError,
    ObjectMissingError,
    StoreDamagedError,
    StoreError,
    StoreSetupError,
    StoreUnavailableError,
    WrongLengthError,
)
from .grants import check_key

__all__ = ["FileSource", "Tree", "faults"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a planted FIFO must not block the reader
_DRAFT = re.compile(r"[0-9a-f]{32}")


@contextlib.contextmanager
def faults(where: str) -> Iterator[None]:
    """Turn what the operating system says about the object ``where`` into errors of the store."""
    try:
        yield
    except FileNotFoundError:
        raise ObjectMissingError("no such object", where=where) from None
    except OSError as error:
        raise _typed(error, where) from None


def _typed(error: OSError, where: str) -> StoreError:
    text = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        return StoreDamagedError(
            f"a link or a file of another kind stands in the way ({text})",
            where=where,
            remedy="Find out who else writes into the store's folder.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreSetupError(f"the store's folder is not ours to use ({text})", where=where)
    return StoreUnavailableError(f"the file system failed ({text})", where=where)


class FileSource:
    """An open file as a `RangedSource`; owns its descriptor."""

    def __init__(self, descriptor: int, where: str) -> None:
        self._descriptor = descriptor
        self._where = where
        self.length = os.fstat(descriptor).st_size

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``offset`` on."""
        if offset < 0 or offset + target.nbytes > self.length:
            raise WrongLengthError(f"bytes {offset} to {offset + target.nbytes} of {self.length}", where=self._where)
        done = 0
        with faults(self._where):
            while done < target.nbytes:
                count = os.preadv(self._descriptor, [target[done:]], offset + done)
                if count == 0:
                    raise WrongLengthError("the object became shorter while it was read", where=self._where)
                done += count

    def status(self) -> os.stat_result:
        """Return what the file system says about the open file."""
        return os.fstat(self._descriptor)

    def detach(self) -> int:
        """Return the descriptor, which is the caller's to close from now on."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Tree:
    """The folder of a directory store."""

    def __init__(self, root: Path, probe: Probe = silent) -> None:
        self._probe = probe
        self._synced: set[tuple[str, ...]] = set()
        with faults(str(root)):
            make_folder(root, 0o700)
            make_folder(root / "objects", 0o700)
            make_folder(root / "drafts", 0o700)
            self._objects = os.open(root / "objects", _FOLDER)
            self._drafts = os.open(root / "drafts", _FOLDER)

    def close(self) -> None:
        """Close the folders."""
        for descriptor in (self._objects, self._drafts):
            if descriptor >= 0:
                os.close(descriptor)
        self._objects = self._drafts = -1

    def read(self, key: str) -> FileSource:
        """Open the object ``key``, or raise `ObjectMissingError`."""
        *folders, name = check_key(key).split("/")
        with faults(key), self._folder(tuple(folders), create=False) as parent:
            return _regular(os.open(name, _READ, dir_fd=parent), key)

    def draft(self) -> tuple[str, int]:
        """Create an empty draft and return its name and a descriptor open for reading and writing."""
        name = os.urandom(16).hex()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with faults("draft"):
            return name, os.open(name, flags, 0o600, dir_fd=self._drafts)

    def adopt(self, source: Path) -> str:
        """Give the file ``source`` a second name among the drafts instead of copying it.

        Raises:
            OSError: another file system, or one without links: copy instead.
        """
        name = os.urandom(16).hex()
        os.link(source, name, dst_dir_fd=self._drafts)
        return name

    def reopen(self, name: str) -> int:
        """Return a descriptor on the draft ``name`` for reading and writing; raises `ObjectMissingError` where none is."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with faults("upload"):
            descriptor = os.open(_draft_name(name), flags, dir_fd=self._drafts)
        return _regular(descriptor, "upload").detach()

    def replace(self, name: str, by: str) -> None:
        """Let the draft ``by`` take the place of the draft ``name``, durably."""
        with faults("upload"):
            os.rename(by, _draft_name(name), src_dir_fd=self._drafts, dst_dir_fd=self._drafts)
            os.fsync(self._drafts)

    def discard(self, name: str) -> None:
        """Remove a draft, present or not."""
        with contextlib.suppress(ObjectMissingError), faults("upload"):
            os.unlink(_draft_name(name), dir_fd=self._drafts)

    def publish(self, name: str, key: str, step: str) -> bool:
        """Make the synced draft ``name`` the object ``key``; False if the key is taken. Durable on return."""
        *folders, last = check_key(key).split("/")
        with faults(key), self._folder(tuple(folders), create=True) as parent:
            self._probe(f"{step}.publish")
            try:
                os.link(name, last, src_dir_fd=self._drafts, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                return False
            self._probe(f"{step}.sync")
            os.fsync(parent)
        self._probe(f"{step}.done")
        return True

    def sync(self, key: str) -> None:
        """Make the name of the object ``key`` durable: a writer before us may have died between link and sync."""
        folders = tuple(check_key(key).split("/")[:-1])
        with faults(key), self._folder(folders, create=True) as parent:
            os.fsync(parent)

    def remove(self, key: str) -> None:
        """Remove the object ``key``, present or not."""
        *folders, name = check_key(key).split("/")
        with contextlib.suppress(ObjectMissingError), faults(key), self._folder(tuple(folders), create=False) as parent:
            os.unlink(name, dir_fd=parent)
            os.fsync(parent)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``; files that are not objects of ours are passed over."""
        base = prefix.rpartition("/")[0]
        folders = tuple(base.split("/")) if base else ()
        found: list[str] = []
        with contextlib.suppress(ObjectMissingError), faults(prefix), self._folder(folders, create=False) as parent:
            _collect(parent, f"{base}/" if base else "", prefix, found)
        yield from sorted(found)

    def sweep(self, older_than: float) -> int:
        """Remove drafts last written before ``older_than`` (seconds since 1970), and return how many."""
        count = 0
        with faults("drafts"):
            for name in os.listdir(self._drafts):  # noqa: PTH208 - by descriptor
                if os.stat(name, dir_fd=self._drafts, follow_symlinks=False).st_mtime < older_than:
                    os.unlink(name, dir_fd=self._drafts)
                    count += 1
        return count

    @contextlib.contextmanager
    def _folder(self, names: tuple[str, ...], *, create: bool) -> Iterator[int]:
        current = os.dup(self._objects)
        try:
            for depth, name in enumerate(names, start=1):
                if create and names[:depth] not in self._synced:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=current)
                    os.fsync(current)  # also when another process made it: it may not have come this far
                    self._synced.add(names[:depth])
                below = os.open(name, _FOLDER, dir_fd=current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)


def _regular(descriptor: int, where: str) -> FileSource:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreDamagedError("not a regular file", where=where)
    return FileSource(descriptor, where)


def _draft_name(name: str) -> str:
    if not _DRAFT.fullmatch(name):
        raise GrantError("the grant names no upload of this store", where="upload")
    return name


def _collect(folder: int, above: str, prefix: str, found: list[str]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            key = above + entry.name
            if entry.is_dir(follow_symlinks=False):
                if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                    below = os.open(entry.name, _FOLDER, dir_fd=folder)
                    try:
                        _collect(below, f"{key}/", prefix, found)
                    finally:
                        os.close(below)
            elif entry.is_file(follow_symlinks=False) and key.startswith(prefix):
                found.append(key)
