"""The pieces of the sealing pipeline: chunks in, slabs of segments, digests behind.

A slab is filled, encrypted and written by one thread while lanes hash it; it is filled again only after `Slab.wait`. That
bounds the memory and keeps every byte still while somebody reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ...errors import ParametersError

__all__ = ["Feed", "Lane", "PartDigests", "Slab"]


class Feed:
    """Chunks of any size, handed out in any other sizes, their first bytes held to ``header``."""

    def __init__(self, chunks: Iterable[bytes | bytearray | memoryview], header: bytes) -> None:
        self._chunks = (view for chunk in chunks if (view := memoryview(chunk).cast("B")))
        self._rest = memoryview(b"")
        self._header = memoryview(header)

    def fill(self, view: memoryview) -> None:
        """Fill ``view`` with the next bytes, or raise `ParametersError`."""
        done = 0
        while done < len(view):
            self._rest = self._rest or next(self._chunks, memoryview(b""))
            if not self._rest:
                raise ParametersError(f"the chunks end {len(view) - done} or more bytes too early", where="seal")
            count = min(len(self._rest), len(view) - done)
            view[done : done + count] = self._rest[:count]
            self._rest, done = self._rest[count:], done + count
        head = self._header[: len(view)]
        if view[: len(head)] != head:
            raise ParametersError("the chunks do not start with the schema's canonical header", where="seal")
        self._header = self._header[len(head) :]

    def finish(self) -> None:
        """Raise `ParametersError` if bytes are left."""
        if self._rest or next(self._chunks, None) is not None:
            raise ParametersError("the chunks are longer than the schema", where="seal")


class PartDigests:
    """SHA-256 of each part of a stream."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._hash = hashlib.sha256()
        self._done: list[str] = []

    def update(self, view: memoryview) -> None:
        """Take the next bytes."""
        while view:
            piece, view = view[: self._left], view[self._left :]
            self._hash.update(piece)
            self._left -= len(piece)
            if self._left == 0:
                self._close()

    def _close(self) -> None:
        self._done.append(self._hash.hexdigest())
        self._hash, self._left = hashlib.sha256(), self._size

    def digests(self) -> tuple[str, ...]:
        """Return the digests, the last part's too."""
        if self._left < self._size:
            self._close()
        return tuple(self._done)


class Lane:
    """One hashing thread, or the calling thread itself."""

    def __init__(self, *, threaded: bool) -> None:
        self._pool = ThreadPoolExecutor(1) if threaded else None

    def submit(self, update: Callable[[memoryview], None], view: memoryview) -> Future[None]:
        """Hash ``view`` after everything submitted before; it must not change until the future is done."""
        if self._pool is not None:
            return self._pool.submit(update, view)
        done: Future[None] = Future()
        update(view)
        done.set_result(None)
        return done

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


class Slab:
    """Plaintext and ciphertext of some segments, and the hashing that must end before they are used again."""

    def __init__(self, size: int) -> None:
        self.plain = np.empty(size, np.uint8).data
        self.cipher = np.empty(size, np.uint8).data
        self.busy: list[Future[None]] = []

    def wait(self) -> None:
        """Return when the buffers may be used again."""
        for future in self.busy:
            future.result()
        self.busy = []
