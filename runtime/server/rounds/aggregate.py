"""The aggregate, as a stream: n sealed updates and the parent in, the canonical bytes of the next version out.

Each update is open one part at a time and in plaintext one segment at a time (P3); blocks of at most `BLOCK` elements are
widened, combined by the rule and narrowed. Integer buffers are copied from the parent. The stream verifies every input to its
end before it ends itself, so whoever consumes it (`seal`) publishes nothing unless all inputs were whole.

A rule with a cohort (ADMM) also reads one row a plane for every member that took part before, and makes new rows for those whose
update is among the inputs: `Kept` brings the old ones and takes the new ones, block by block, in the same pass. An update with
several planes is one blob in which they stand one after the other; it is read by one stream a plane, each of
which verifies the whole blob.

A rule with noise (DP-FedAvg) reads one more row, of whole numbers, which its caller drew for this version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ....algorithms.arithmetic import Float32, narrow, widen
from ....algorithms.cohort import Cohort, Tally
from ....algorithms.rule import AggregationRule, CohortRule, Workspace
from ....parameters import Plane, Schema, Span
from ....trust.blob.open import Opened, PlaintextStream
from ....trust.errors import PayloadError
from ...planes import plane_bytes

__all__ = ["BLOCK", "Kept", "Sink", "combined", "floats"]

BLOCK = 1 << 18
"""Elements combined at once: 1 MiB of float32 for each input."""


class Sink(Protocol):
    """Where the new rows go."""

    def __call__(self, plane: str, update: int, block: memoryview) -> None:
        """Take the next bytes of the new row of ``plane`` of the member whose update is number ``update``."""


@dataclass(frozen=True)
class Kept:
    """What a rule with a cohort reads and writes beside the model, in one pass."""

    cohort: Cohort
    rows: Mapping[str, Sequence[Opened | None]]
    """By plane, one for each member; None for a member that never took part."""
    take: Sink
    tally: Tally


def combined(
    schema: Schema,
    parent: Opened,
    updates: Sequence[Opened],
    rule: AggregationRule,
    coefficients: Float32,
    kept: Kept | None = None,
    noise: Opened | None = None,
) -> Iterator[memoryview]:
    """Yield the canonical bytes of the next version; each chunk is valid until the next.

    Raises:
        BlobError: an input was not what its manifest says; everything yielded is void, and so is what ``kept`` took.
        AlgorithmError: the result is not finite.
    """
    yield memoryview(schema.header())
    with ExitStack() as stack:
        reading = _Reading(schema, parent, updates, rule, coefficients, kept, stack, noise)
        for span in schema.spans():
            if span.is_float:
                yield from reading.floats(span)
            else:
                yield from _carried(span, reading.parent.stream)
        reading.finish()


class _Input:
    """One stream, with room for a block of it, stored and widened."""

    def __init__(self, stream: PlaintextStream) -> None:
        self.stream = stream
        self.stored = np.empty(BLOCK * 4, np.uint8)
        self.wide = np.empty(BLOCK, np.float32)

    def read(self, dtype: str, count: int) -> Float32:
        return floats(self.stream, dtype, count, self.stored, self.wide)

    def skip(self, length: int) -> None:
        while length:
            view = self.stored[: min(len(self.stored), length)].data
            _fill(self.stream, view)
            length -= len(view)


_Inputs: TypeAlias = list[_Input]


class _Reading:
    """Everything that is read side by side in one pass."""

    def __init__(
        self,
        schema: Schema,
        parent: Opened,
        updates: Sequence[Opened],
        rule: AggregationRule,
        coefficients: Float32,
        kept: Kept | None,
        stack: ExitStack,
        noise: Opened | None = None,
    ) -> None:
        def opened(one: Opened) -> _Input:
            made = _Input(stack.enter_context(one.stream()))
            self._all.append(made)
            return made

        self._all: _Inputs = []
        self._rule = rule
        self._cohort_rule = rule if isinstance(rule, CohortRule) else None
        self._coefficients = coefficients
        self._kept = kept
        self._room = Workspace.of(BLOCK)
        self.parent = opened(parent)
        self._planes: dict[Plane, _Inputs] = {plane: [opened(one) for one in updates] for plane in rule.planes}
        for plane, inputs in self._planes.items():
            for one in inputs:
                one.skip(plane_bytes(rule.planes, plane, schema)[0])
        self._noise = None if noise is None else opened(noise)
        rows = {} if kept is None else kept.rows
        self._rows = {
            plane: [None if row is None else opened(row) for row in members] for plane, members in rows.items()
        }

    def floats(self, span: Span) -> Iterator[memoryview]:
        done = 0
        while done < span.count:
            count = min(BLOCK, span.count - done)
            result = self._combine(span.dtype, count)
            if span.dtype == "F32":
                yield result.view(np.uint8).data
            else:
                out = self.parent.stored[: count * 2].view(np.float16 if span.dtype == "F16" else np.uint16)
                narrow(result, span.dtype, out)
                yield out.view(np.uint8).data
            done += count

    def finish(self) -> None:
        for one in self._all:
            one.stream.finish()

    def _combine(self, dtype: str, count: int) -> Float32:
        parent = self.parent.read(dtype, count)
        planes = {plane: [one.read(dtype, count) for one in inputs] for plane, inputs in self._planes.items()}
        if self._kept is None or self._cohort_rule is None:
            drawn = {} if self._noise is None else {"noise": [self._noise.read("F32", count)]}
            return self._rule.combine(planes, self._coefficients, parent, drawn, workspace=self._room)[0]
        first = self._cohort_rule.initial_state(parent)
        state = {
            name: [first[name] if row is None else row.read("F32", count) for row in members]
            for name, members in self._rows.items()
        }
        result, changed = self._rule.combine(
            planes,
            self._coefficients,
            parent,
            state,
            cohort=self._kept.cohort,
            tally=self._kept.tally,
            workspace=self._room,
        )
        for name, rows in changed.items():
            for update, row in enumerate(rows):
                self._kept.take(name, update, row.view(np.uint8).data)
        return result


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


def _carried(span: Span, parent: PlaintextStream) -> Iterator[memoryview]:
    buffer = np.empty(min(span.nbytes, 1 << 20), np.uint8)
    done = 0
    while done < span.nbytes:
        view = buffer[: min(len(buffer), span.nbytes - done)].data
        _fill(parent, view)
        yield view
        done += len(view)
