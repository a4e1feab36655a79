"""Where a process can be killed: every announced durable step of every party, and every change to a file between them.

A point is (party, step, occurrence). `Recorder` finds the points by letting one life run to its end; `Killer` ends the
process at one of them with SIGKILL. Two nets, so that a new step is covered by being written:

- *probes*: the functions through which the engine announces its durable steps (`counterseal.durable.Probe`);
- *effects*: what the interpreter itself reports (`sys.addaudithook`) before it opens a file for writing, or links, renames,
  removes, truncates or makes something below the federation's folder, announced or not.

Both are told *before* the effect happens, and a probe also after it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from counterseal.durable import Probe

FILES = "files"
"""The party name of effects: the interpreter does not know whose they are."""

_EFFECTS = {"os.link", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.rmdir", "sqlite3.connect"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, order=True)
class Point:
    """The ``occurrence``-th time (from 1) that ``party`` comes to ``step``."""

    party: str
    step: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.party}|{self.step}|{self.occurrence}"

    @classmethod
    def parse(cls, text: str) -> Point:
        party, step, occurrence = text.split("|")
        return cls(party, step, int(occurrence))


class Watch(Protocol):
    """What looks on while a federation works."""

    def __call__(self, party: str, step: str) -> None:
        """Be told that ``party`` has come to ``step``."""


class Recorder:
    """Writes down every point in order."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._count: Counter[tuple[str, str]] = Counter()

    def __call__(self, party: str, step: str) -> None:
        self._count[party, step] += 1
        self.points.append(Point(party, step, self._count[party, step]))


def distinct(points: list[Point]) -> list[Point]:
    """Return ``points`` without the effects that directly follow a probe: killed there, the disk is the same."""
    kept = [points[0]]
    for before, point in pairwise(points):
        if point.party != FILES or before.party == FILES:
            kept.append(point)
    return kept


class Killer:
    """Kills this process at one point, once: ``marker`` remembers it across processes."""

    def __init__(self, point: Point, marker: Path) -> None:
        self._point = point
        self._marker = marker
        self._seen = 0

    def __call__(self, party: str, step: str) -> None:
        if (party, step) != (self._point.party, self._point.step):
            return
        self._seen += 1
        if self._seen == self._point.occurrence and not self._marker.exists():
            self._point = Point("", "", 0)  # the marker's own file is an effect too
            self._marker.write_text(f"{step}\n")
            os.kill(os.getpid(), signal.SIGKILL)


def unwatched(party: str, step: str) -> None:
    """Watch nothing."""


def probe_of(watch: Watch, party: str) -> Probe:
    """Return the probe that tells ``watch`` about ``party``."""
    return lambda step: watch(party, step)


def watch_files(watch: Watch, folder: Path) -> Callable[[], None]:
    """Tell ``watch`` about every change below ``folder`` before it happens; call the result to stop."""
    prefix, on = str(folder), [True]

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if on[0] and event == "open":
            path, _, flags = values
            if isinstance(flags, int) and flags & _WRITING and _below(path, prefix):
                watch(FILES, "open")
        elif on[0] and event in _EFFECTS and _below(values[0], prefix):
            watch(FILES, event)

    sys.addaudithook(hook)

    def stop() -> None:
        on[0] = False

    return stop


def _below(path: Any, prefix: str) -> bool:
    """Whether ``path`` is ours; relative ones are: the store names its files relative to an open folder."""
    if isinstance(path, int):
        return True
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    return text.startswith(prefix) or not text.startswith("/")
