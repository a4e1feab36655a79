"""The whole matrix: ``python -m counterseal.tests.crash.matrix``. Forks every case from this one-threaded process.

    --part NAME        only this part (repeatable): a setting, or a setting with its sites in processes of their own
    --sample N         only N points of each part, evenly spread
    --point POINT      only this point, such as "server@fed.example|journal.write|12" (repeatable)
    --step STEP        only the points of this step, such as "server@fed.example|journal.write" (repeatable)
    --list             print the points and stop
    --workers N        cases at a time
    --folder PATH      where the cases lie (a failed one stays); the fastest disk that there is, by default

Prints one line per failure and ``N points, N passed, N failed`` at the end; exits 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from counterseal.tests.federation import SERVER

from .cases import Ground, Life
from .forks import LIMIT, require_clean, start
from .points import FILES, Point
from .story import SETTINGS, Setting, live, live_apart

_NEEDS_SIZE = ("store.part.", "store.complete.")
"""Steps that only an object above 16 MiB takes."""


@dataclass(frozen=True)
class Part:
    """A setting, how it is played, and which of its points belong here."""

    name: str
    setting: Setting
    life: Life

    def points(self, ground: Ground) -> list[Point]:
        """Return the points of this part, in the order in which a life comes to them."""
        if self.setting.seconds:  # the server dies while sites work, and lives again before they have ended
            return [point for point in ground.points if (point.party, point.step) == (SERVER, "journal.write")]
        if self.life is live_apart:  # whose process is killed, must be known
            return [point for point in ground.points if point.party != FILES]
        if self.setting.large:  # the others are in the quick twin
            return [point for point in ground.points if point.step.startswith(_NEEDS_SIZE)]
        return list(ground.points)


PARTS = {
    part.name: part
    for part in (
        *(Part(name, setting, live_apart if setting.seconds else live) for name, setting in SETTINGS.items()),
        Part("plain-apart", SETTINGS["plain"], live_apart),
        Part("two-steps-apart", SETTINGS["two-steps"], live_apart),
        Part("private-apart", SETTINGS["private"], live_apart),
    )
}


def main(arguments: list[str] | None = None) -> int:
    """Run the matrix that the command line asks for and return the exit status."""
    options = _options(arguments)
    require_clean()
    memory = Path("/dev/shm")  # a kill does not lose what lies in memory files either
    base = options.folder or (memory if os.access(memory, os.W_OK) else None)
    folder = Path(tempfile.mkdtemp(prefix="counterseal-crash-", dir=base))
    started, total, failed = time.monotonic(), 0, 0
    for part in [PARTS[name] for name in options.part or PARTS]:
        count, bad = _play(folder / part.name, part, options)
        total, failed = total + count, failed + bad
    print(f"{total} points, {total - failed} passed, {failed} failed in {time.monotonic() - started:.0f} s")
    if failed:
        print(f"what failed lies in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--part", action="append", choices=sorted(PARTS))
    parser.add_argument("--sample", type=int)
    parser.add_argument("--point", action="append", type=Point.parse)
    parser.add_argument("--step", action="append")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    return parser.parse_args(arguments)


def _play(folder: Path, part: Part, options: argparse.Namespace) -> tuple[int, int]:
    ground = Ground.prepare(folder, part.setting)
    points = options.point or _spread(part.points(ground), options.sample)
    if options.step:
        points = [point for point in points if f"{point.party}|{point.step}" in options.step]
    if options.list:
        print("\n".join(map(str, points)))
        return 0, 0
    failed, started = 0, time.monotonic()
    for done, (point, wrong) in enumerate(_cases(ground, part, points, options.workers), 1):
        if wrong:
            failed += 1
            print(f"FAILED {part.name} {point}\n    " + "\n    ".join(wrong), flush=True)
        if sys.stdout.isatty():
            print(f"\r{part.name}: {done}/{len(points)}, {failed} failed ", end="", flush=True)
    seconds = time.monotonic() - started
    print(f"\r{part.name}: {len(points)} points, {failed} failed, {seconds:.0f} s", flush=True)
    return len(points), failed


def _spread(points: list[Point], sample: int | None) -> list[Point]:
    """Return ``sample`` of ``points``, the same every time, from the first to the last."""
    if sample is None or sample >= len(points):
        return points
    return [points[index * (len(points) - 1) // max(sample - 1, 1)] for index in range(sample)]


def _cases(ground: Ground, part: Part, points: list[Point], workers: int) -> Iterator[tuple[Point, list[str]]]:
    """Yield each point with what was wrong there, ``workers`` cases at a time."""
    running: dict[int, tuple[Point, Path]] = {}
    todo = list(enumerate(points))[::-1]
    while todo or running:
        while todo and len(running) < workers:
            number, point = todo.pop()
            report = ground.folder / f"report-{number:05d}"
            case = ground.caller(number, point, part.life)
            running[start(case, report, 4 * LIMIT)] = (point, report)
        child, status = os.wait()
        point, report = running.pop(child)
        error = report.with_suffix(".error")
        if os.waitstatus_to_exitcode(status) != 0:
            yield point, [error.read_text() if error.exists() else f"the case ended with {status}"]
        else:
            yield point, json.loads(report.read_text())
            report.unlink()


if __name__ == "__main__":
    sys.exit(main())
