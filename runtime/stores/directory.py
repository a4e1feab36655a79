"""A store in a folder: for one machine, or one shared file system, whose users trust each other to write.

Guarantees, against crashes and honest mistakes: put once (link(2) refuses a taken name), whole or absent, synced before
success is told, keys that cannot leave the folder, links never followed (`tree` gives the argument).

A folder cannot keep grants. Whoever may write into it can write, change or delete anything there: the client below
refuses an expired or mismatched grant because its own side wants that, not because the folder would stop it. Nothing
breaks by that, for readers verify every object against a signed manifest on every read; what is lost is only the
store's own protection against deletion and flooding. Between institutions use S3.

A site finds the folder in *its own* configuration; from a grant it takes the key, the length and the name of the draft,
each checked, and never a path.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...durable import Probe, silent
from ..errors import GrantError, ObjectExistsError, ObjectMissingError, ObjectTooLargeError, WrongLengthError
from .grants import Grant, GrantPart, check_key, check_prefix, split
from .sources import check_source, copy_into, same_bytes, same_objects
from .tree import FileSource, Tree, faults

__all__ = ["DirectoryGrantClient", "DirectoryStore"]

_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP}


class _Folder:
    """What both ends do: write a draft, publish it, compare."""

    def __init__(self, root: Path, probe: Probe = silent, *, clock: Callable[[], float] = time.time) -> None:
        self._tree = Tree(root, probe)
        self._probe = probe
        self._clock = clock

    def close(self) -> None:
        """Close the store's folder."""
        self._tree.close()

    def _put(self, key: str, source: bytes | Path, *, unchanging: bool) -> None:
        if self._taken(key, source):
            return
        name = self._write(key, source, unchanging=unchanging)
        try:
            if not self._tree.publish(name, key, "store.put") and not self._taken(key, source):
                raise ObjectExistsError("the key was taken and removed at this moment", where=key, remedy="Try again.")
        finally:
            self._tree.discard(name)

    def _taken(self, key: str, source: bytes | Path) -> bool:
        """Tell whether ``key`` holds ``source``, durably; False if it holds nothing."""
        try:
            stored = self._tree.read(key)
        except ObjectMissingError:
            return False
        with stored, faults(key):
            if not same_bytes(source, stored):
                raise ObjectExistsError("the key holds other bytes", where=key)
        self._tree.sync(key)
        return True

    def _write(self, key: str, source: bytes | Path, *, unchanging: bool) -> str:
        """Return the name of a synced draft with the bytes of ``source``."""
        self._probe("store.put.write")
        with faults(key):
            shared = self._share(source) if unchanging and isinstance(source, Path) else None
            name, descriptor = (shared, self._tree.reopen(shared)) if shared else self._tree.draft()
            try:
                if not shared:
                    copy_into(source, descriptor, key)
                os.fsync(descriptor)
            except BaseException:
                self._tree.discard(name)
                raise
            finally:
                os.close(descriptor)
        return name

    def _share(self, source: Path) -> str | None:
        try:
            return self._tree.adopt(source)
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                return None
            raise


class DirectoryStore(_Folder):
    """The server's end of a folder."""

    def put(self, key: str, source: bytes | Path, *, sha256: str | None = None, unchanging: bool = False) -> None:
        """Store ``source`` under ``key``, once: the same bytes again succeed. See `ObjectStore.put`."""
        check_key(key)
        if sha256 is not None:
            with faults(key):
                length = source.stat().st_size if isinstance(source, Path) else len(source)
                part = GrantPart(number=1, length=length, sha256=sha256)
                bound = Grant(
                    store="directory", method="put", key=key, length=length, sha256=sha256, expires=0, parts=(part,)
                )
                check_source(bound, source)
        self._put(key, source, unchanging=unchanging)

    def get(self, key: str, *, limit: int) -> bytes:
        """Return the object if it has at most ``limit`` bytes."""
        with self.open(key) as stored:
            if stored.length > limit:
                raise ObjectTooLargeError(f"{stored.length} bytes are over the limit of {limit}", where=key)
            data = bytearray(stored.length)
            stored.read_into(0, memoryview(data))
            return bytes(data)

    def length(self, key: str) -> int | None:
        """Return the bytes of the object, or None where there is none."""
        try:
            with self.open(key) as stored:
                return stored.length
        except ObjectMissingError:
            return None

    def open(self, key: str) -> FileSource:
        """Return the object for reading by range."""
        return self._tree.read(key)

    def grant_get(self, key: str, *, expires: int) -> Grant:
        """Return leave to read ``key``."""
        return Grant(store="directory", method="get", key=check_key(key), expires=expires, parts=(GrantPart(number=1),))

    def grant_put(
        self,
        key: str,
        *,
        length: int,
        sha256: str | None = None,
        part_size: int = 0,
        part_sha256: Sequence[str] = (),
        expires: int,
        upload: str = "",
    ) -> Grant:
        """Return leave to put ``length`` bytes under ``key``; above 16 MiB it needs `complete`."""
        check_key(key)
        digests = tuple(part_sha256)
        parts = split(length, part_size, digests)
        if len(parts) == 1 and not digests and sha256 is not None:
            parts = split(length, part_size, (sha256,))
        if len(parts) == 1:
            upload = ""
        elif not self._is_open(upload):
            upload = self._prepare()
        return Grant(
            store="directory",
            method="put",
            key=key,
            length=length,
            sha256=sha256,
            expires=expires,
            upload=upload,
            parts=parts,
        )

    def complete(self, grant: Grant, etags: Sequence[str] = ()) -> None:
        """Publish the draft of a multipart grant; make sure that the object is there with its length."""
        if grant.upload:
            self._finish(grant)
        found = self.length(grant.key)
        if found is None:
            raise ObjectMissingError("nothing has been uploaded", where=grant.key)
        if found != grant.length:
            raise WrongLengthError(f"{found} bytes where {grant.length} were granted", where=grant.key)
        self._tree.sync(grant.key)

    def abort(self, grant: Grant) -> None:
        """Remove the draft of a multipart grant."""
        if grant.upload:
            self._tree.discard(grant.upload)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, in no promised order."""
        return self._tree.keys(check_prefix(prefix))

    def delete(self, key: str) -> None:
        """Remove the object, present or not."""
        self._tree.remove(key)

    def sweep(self, older_than: float) -> int:
        """Remove the drafts of crashed writers, last written before ``older_than``; return how many."""
        return self._tree.sweep(older_than)

    def _prepare(self) -> str:
        """Create the empty draft that stands for an open upload."""
        name, descriptor = self._tree.draft()
        os.close(descriptor)
        return name

    def _is_open(self, upload: str) -> bool:
        if not upload:
            return False
        try:
            os.close(self._tree.reopen(upload))
        except ObjectMissingError:
            return False
        return True

    def _finish(self, grant: Grant) -> None:
        try:
            descriptor = self._tree.reopen(grant.upload)
        except ObjectMissingError:
            return  # completed before a crash, or aborted: the object's own length decides
        self._probe("store.complete.write")
        with faults(grant.key):
            try:
                found = os.fstat(descriptor).st_size
                if found == 0:
                    raise ObjectMissingError("the parts have not been uploaded", where=grant.key)
                if found != grant.length:
                    raise WrongLengthError(f"a draft of {found} bytes for {grant.length}", where=grant.key)
                os.fsync(descriptor)
                if not self._tree.publish(grant.upload, grant.key, "store.complete"):
                    self._settle(grant, descriptor)
            finally:
                os.close(descriptor)
        self._tree.discard(grant.upload)

    def _settle(self, grant: Grant, descriptor: int) -> None:
        """Decide about a taken key: the same bytes, from before a crash or an earlier delivery, are success."""
        with self._tree.read(grant.key) as stored, FileSource(os.dup(descriptor), grant.key) as ours:
            if not same_objects(ours, stored):
                raise ObjectExistsError("the key was taken by another upload", where=grant.key)


class DirectoryGrantClient(_Folder):
    """A site's end of a folder, which its own configuration names."""

    def upload(
        self, grant: Grant, source: bytes | Path, *, compare: Grant | None = None, unchanging: bool = False
    ) -> tuple[str, ...]:
        """Write ``source`` under a put grant. See `GrantClient.upload`; ``compare`` is not needed here."""
        self._admit(grant, "put")
        with faults(grant.key):
            check_source(grant, source)
        if grant.upload:
            self._fill(grant, source, unchanging=unchanging)
        else:
            self._put(grant.key, source, unchanging=unchanging)
        return tuple(f"{part.number}-{part.length}" for part in grant.parts)

    def open(self, grant: Grant) -> FileSource:
        """Return the granted object for reading by range."""
        self._admit(grant, "get")
        return self._tree.read(grant.key)

    def _admit(self, grant: Grant, method: str) -> None:
        check_key(grant.key)
        if grant.store != "directory" or grant.method != method:
            raise GrantError(
                f"a grant to {grant.method} in {grant.store} does not {method} in a directory", where=grant.key
            )
        if self._clock() >= grant.expires:
            raise GrantError("the grant has expired", where=grant.key, remedy="The server sends a new delivery.")

    def _fill(self, grant: Grant, source: bytes | Path, *, unchanging: bool) -> None:
        """Write the object into a draft of our own, which then takes the place of the server's empty one."""
        try:
            os.close(self._tree.reopen(grant.upload))
        except ObjectMissingError:
            if self._taken(grant.key, source):
                return
            raise GrantError(
                "the upload is no longer open", where=grant.key, remedy="Wait for a new delivery."
            ) from None
        name = self._write(grant.key, source, unchanging=unchanging)
        try:
            self._probe("store.part.publish")
            self._tree.replace(grant.upload, name)
        finally:
            self._tree.discard(name)
        self._probe("store.part.done")
