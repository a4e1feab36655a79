"""A fan: one pass computes several outputs, and each is sealed while it is computed.

`seal` pulls the bytes that it seals. The pass itself is pulled by one `seal`; what it computes beside that is pushed into a
`Branch`, which hands it to a `seal` on a thread of its own, at most `_AHEAD` chunks ahead. So a commit with many outputs reads
its inputs once.

Guarantees: a branch sees the chunks in the order of the pushes and each one whole, whatever the producer does with its buffer
afterwards; if the pass is given up, no branch comes to an end, so none leaves a file; if a branch fails, the next push raises
what it raised, and the pass is given up.

Not handled here: what is sealed, and for whom.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["Branch", "Fan"]

T = TypeVar("T")

_AHEAD = 2
"""Chunks that a producer may be ahead of a branch."""

_LOOK = 0.05
"""Seconds between looks at a branch that takes nothing."""


class _GivenUpError(Exception):
    """The pass ended before its outputs were whole."""


class Branch(Generic[T]):
    """One output beside the main one."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[Iterator[bytes]], T]) -> None:
        self._queue: queue.Queue[bytes | _GivenUpError | None] = queue.Queue(_AHEAD)
        self._done: Future[T] = pool.submit(work, self._chunks())

    def push(self, chunk: memoryview) -> None:
        """Hand over a copy of ``chunk``.

        Raises:
            whatever the branch's work raised.
        """
        self._put(bytes(chunk))

    def end(self) -> None:
        """Say that nothing more is pushed."""
        self._put(None)

    def result(self) -> T:
        """Return what the work returned once it had taken all that was pushed."""
        return self._done.result()

    def give_up(self) -> None:
        """End the work without a result, unless it has ended."""
        while not self._done.done():
            try:
                self._queue.put(_GivenUpError(), timeout=_LOOK)
            except queue.Full:
                continue
            break

    def _put(self, item: bytes | None) -> None:
        while True:
            if self._done.done():
                self._done.result()
                raise RuntimeError("a branch ended before its input did")
            try:
                return self._queue.put(item, timeout=_LOOK)
            except queue.Full:
                continue

    def _chunks(self) -> Iterator[bytes]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, _GivenUpError):
                raise item
            yield item


class Fan:
    """The branches of one pass. A context manager: what is not finished when it ends is given up."""

    def __init__(self, branches: int) -> None:
        self._pool = ThreadPoolExecutor(max(branches, 1), thread_name_prefix="fan")
        self._branches: list[Branch[object]] = []

    def branch(self, work: Callable[[Iterator[bytes]], T]) -> Branch[T]:
        """Begin ``work`` on a thread of its own; it is given an iterator over what will be pushed."""
        made: Branch[T] = Branch(self._pool, work)
        self._branches.append(made)  # type: ignore[arg-type]
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for branch in self._branches:
            branch.give_up()
        self._pool.shutdown(wait=True)
