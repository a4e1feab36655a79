"""What is put: bytes in memory or a file of ours, hashed, compared and copied without passing through Python."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreUnavailableError, WrongDigestError, WrongLengthError
from .grants import Grant
from .seam import RangedSource

__all__ = ["check_source", "copy_into", "holds_parts", "same_bytes", "same_objects", "source_length", "viewed"]

_CHUNK = 1 << 20
_COPY_ELSEWHERE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}


def source_length(source: bytes | Path) -> int:
    """Return the bytes of ``source``."""
    return source.stat().st_size if isinstance(source, Path) else len(source)


@contextlib.contextmanager
def viewed(source: bytes | Path) -> Iterator[memoryview]:
    """Show ``source`` as memory: a file is mapped, not read."""
    if not isinstance(source, Path):
        yield memoryview(source)
        return
    with source.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            try:
                yield view
            finally:
                view.release()


def check_source(grant: Grant, source: bytes | Path, *, parts: bool = True) -> None:
    """Check ``source`` against the length and the digests that ``grant`` binds.

    Args:
        grant: a put grant.
        source: what shall be put.
        parts: also hash what the store itself would check.

    Raises:
        WrongLengthError: not the granted length.
        WrongDigestError: not the granted bytes.
    """
    length = source_length(source)
    if length != grant.length:
        raise WrongLengthError(f"{length} bytes under a grant for {grant.length}", where=grant.key)
    bound = [part for part in grant.parts if part.sha256 is not None]
    whole = grant.sha256 is not None and len(bound) < len(grant.parts)
    if not whole and not (parts and bound):
        return
    with viewed(source) as view:
        if whole and hashlib.sha256(view).hexdigest() != grant.sha256:
            raise WrongDigestError("not the bytes that the grant binds", where=grant.key)
        for part in bound if parts else ():
            with view[part.offset : part.offset + part.length] as piece:
                if hashlib.sha256(piece).hexdigest() != part.sha256:
                    raise WrongDigestError(f"part {part.number} is not what the grant binds", where=grant.key)


def same_bytes(source: bytes | Path, stored: RangedSource) -> bool:
    """Tell whether ``stored`` holds exactly the bytes of ``source``."""
    if stored.length != source_length(source):
        return False
    buffer = memoryview(bytearray(min(_CHUNK, max(1, stored.length))))
    with viewed(source) as view:
        for start in range(0, stored.length, _CHUNK):
            size = min(_CHUNK, stored.length - start)
            stored.read_into(start, buffer[:size])
            if buffer[:size] != view[start : start + size]:
                return False
    return True


def same_objects(one: RangedSource, other: RangedSource) -> bool:
    """Tell whether two stored objects hold the same bytes."""
    if one.length != other.length:
        return False
    left, right = (memoryview(bytearray(min(_CHUNK, max(1, one.length)))) for _ in range(2))
    for start in range(0, one.length, _CHUNK):
        size = min(_CHUNK, one.length - start)
        one.read_into(start, left[:size])
        other.read_into(start, right[:size])
        if left[:size] != right[:size]:
            return False
    return True


def holds_parts(grant: Grant, stored: RangedSource) -> bool:
    """Tell whether every part of ``stored`` has the digest that ``grant`` binds; False where it binds none."""
    if stored.length != grant.length:
        return False
    buffer = memoryview(bytearray(max(1, max(part.length for part in grant.parts))))
    for part in grant.parts:
        stored.read_into(part.offset, buffer[: part.length])
        if hashlib.sha256(buffer[: part.length]).hexdigest() != part.sha256:
            return False
    return True


def copy_into(source: bytes | Path, descriptor: int, where: str) -> int:
    """Write ``source`` into the open file and return the bytes written; the kernel copies a file by itself."""
    if not isinstance(source, Path):
        return _write(memoryview(source), descriptor)
    with source.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        done = 0
        while done < length:
            count = _transfer(file.fileno(), descriptor, done, length - done)
            if count == 0:
                raise StoreUnavailableError("the source became shorter while it was copied", where=where)
            done += count
    return done


def _write(view: memoryview, descriptor: int) -> int:
    done = 0
    while done < view.nbytes:
        done += os.pwrite(descriptor, view[done : done + (64 << 20)], done)
    return done


def _transfer(source: int, target: int, offset: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as error:
        if error.errno not in _COPY_ELSEWHERE:
            raise
    os.lseek(target, offset, os.SEEK_SET)
    return os.sendfile(target, source, offset, count)
