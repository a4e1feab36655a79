"""The aggregate, as a stream: n sealed updates and the parent in, the canonical bytes of the next version out.

Each update is open one part at a time and in plaintext one segment at a time (P3); blocks of at most `BLOCK` elements are
widened, combined by the rule and narrowed. Integer buffers are copied from the parent. The stream verifies every input to its
end before it ends itself, so whoever consumes it (`seal`) publishes nothing unless all inputs were whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from ....algorithms.arithmetic import Float32, narrow, widen
from ....algorithms.rule import AggregationRule, Workspace
from ....parameters import Schema, Span
from ....trust.blob.open import Opened, PlaintextStream
from ....trust.errors import PayloadError

__all__ = ["BLOCK", "combined", "floats"]

BLOCK = 1 << 18
"""Elements combined at once: 1 MiB of float32 for each input."""


def combined(
    schema: Schema, parent: Opened, updates: Sequence[Opened], rule: AggregationRule, coefficients: Float32
) -> Iterator[memoryview]:
    """Yield the canonical bytes of the next version; each chunk is valid until the next.

    Raises:
        BlobError: an input was not what its manifest says; everything yielded is void.
        AlgorithmError: the result is not finite.
    """
    yield memoryview(schema.header())
    with ExitStack() as stack:
        streams = [stack.enter_context(one.stream()) for one in (parent, *updates)]
        room = Workspace.of(BLOCK)
        blocks = [_Block() for _ in streams]
        for span in schema.spans():
            if span.is_float:
                yield from _floats(span, streams, blocks, rule, coefficients, room)
            else:
                yield from _carried(span, streams[0])
        for stream in streams:
            stream.finish()


class _Block:
    """Stored and widened elements of one input."""

    def __init__(self) -> None:
        self.stored = np.empty(BLOCK * 4, np.uint8)
        self.wide = np.empty(BLOCK, np.float32)

    def read(self, stream: PlaintextStream, dtype: str, count: int) -> Float32:
        return floats(stream, dtype, count, self.stored, self.wide)


def floats(stream: PlaintextStream, dtype: str, count: int, stored: npt.NDArray[np.uint8], wide: Float32) -> Float32:
    """Return the next ``count`` elements of ``stream``, stored as ``dtype``, as float32[count]."""
    if dtype == "F32":
        _fill(stream, wide[:count].view(np.uint8).data)
        return wide[:count]
    half = stored[: count * 2]
    _fill(stream, half.data)
    widen(half.view(np.float16 if dtype == "F16" else np.uint16), dtype, wide[:count])
    return wide[:count]


def _fill(stream: PlaintextStream, view: memoryview) -> None:
    if stream.readinto(view) != len(view):
        raise PayloadError("the plaintext ended before its schema does", where="aggregate")


def _floats(
    span: Span,
    streams: Sequence[PlaintextStream],
    blocks: Sequence[_Block],
    rule: AggregationRule,
    coefficients: Float32,
    room: Workspace,
) -> Iterator[memoryview]:
    done = 0
    while done < span.count:
        count = min(BLOCK, span.count - done)
        rows = [block.read(stream, span.dtype, count) for stream, block in zip(streams, blocks, strict=True)]
        result, _ = rule.combine({"delta": rows[1:]}, coefficients, rows[0], {}, workspace=room)
        if span.dtype == "F32":
            yield result.view(np.uint8).data
        else:
            out = blocks[0].stored[: count * 2].view(np.float16 if span.dtype == "F16" else np.uint16)
            narrow(result, span.dtype, out)
            yield out.view(np.uint8).data
        done += count


def _carried(span: Span, parent: PlaintextStream) -> Iterator[memoryview]:
    buffer = np.empty(min(span.nbytes, 1 << 20), np.uint8)
    done = 0
    while done < span.nbytes:
        view = buffer[: min(len(buffer), span.nbytes - done)].data
        _fill(parent, view)
        yield view
        done += len(view)
