"""Where stored ciphertext comes from: anything that can fill a buffer from an offset.

Nothing that a source returns is believed: the opener hashes the buffer that it filled and decrypts from that same buffer,
so a store that answers differently the second time gains nothing. ``read_into`` is called from several threads when an
opener has several workers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ..errors import PayloadError

__all__ = ["BytesSource", "FileSource", "RangedSource"]


class RangedSource(Protocol):
    """Stored bytes that can be read by range."""

    @property
    def length(self) -> int:
        """Number of bytes stored."""

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill all of ``view`` with the bytes from ``offset``, or raise."""


@dataclass(frozen=True, slots=True)
class BytesSource:
    """A payload in memory."""

    data: bytes | bytearray | memoryview

    @property
    def length(self) -> int:
        """Number of bytes."""
        return len(self.data)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Copy bytes from ``offset`` into ``view``.

        Raises:
            PayloadError: there are not as many.
        """
        if offset + len(view) > len(self.data):
            raise PayloadError(f"no bytes {offset} to {offset + len(view)}", where="payload")
        view[:] = memoryview(self.data)[offset : offset + len(view)]


class FileSource:
    """A payload in a file: a spool, or an object of the directory store. A context manager."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.length = os.fstat(self._descriptor).st_size

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` from ``offset``.

        Raises:
            PayloadError: the file ends before.
        """
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if count == 0:
                raise PayloadError(f"the file ends at byte {offset}", where="payload")
            view, offset = view[count:], offset + count

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
