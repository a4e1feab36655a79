"""The whole matrix: ``python -m counterseal.tests.crash.matrix``. Forks every case from this one-threaded process.

    --setting NAME     only this setting (repeatable)
    --every N          every N-th point only
    --point POINT      only this point, such as "server|journal.write|12"
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
from pathlib import Path

from .cases import Ground
from .forks import require_clean, start
from .points import Point
from .story import SETTINGS, Setting


def main(arguments: list[str] | None = None) -> int:
    """Run the matrix that the command line asks for and return the exit status."""
    options = _options(arguments)
    require_clean()
    memory = Path("/dev/shm")  # noqa: S108 - a kill does not lose memory files either
    base = options.folder or (memory if os.access(memory, os.W_OK) else None)
    total = failed = 0
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="counterseal-crash-", dir=base))
    for setting in [SETTINGS[name] for name in options.setting or SETTINGS]:
        count, bad = _setting(folder / setting.name, setting, options)
        total, failed = total + count, failed + bad
    print(f"{total} points, {total - failed} passed, {failed} failed in {time.monotonic() - started:.0f} s")
    if failed:
        print(f"what failed lies in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--setting", action="append", choices=sorted(SETTINGS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--point", type=Point.parse)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    return parser.parse_args(arguments)


def _setting(folder: Path, setting: Setting, options: argparse.Namespace) -> tuple[int, int]:
    ground = Ground.prepare(folder, setting)
    points = [options.point] if options.point else list(_chosen(ground))[:: options.every]
    print(f"{setting.name}: {len(points)} of {len(ground.points)} points", flush=True)
    failed = 0
    for done, (point, wrong) in enumerate(_played(ground, points, options.workers), 1):
        if wrong:
            failed += 1
            print(f"FAILED {setting.name} {point}\n    " + "\n    ".join(wrong), flush=True)
        if sys.stdout.isatty():
            print(f"\r{setting.name}: {done}/{len(points)}, {failed} failed", end="", flush=True)
    print(f"{setting.name}: {len(points)} points, {len(points) - failed} passed, {failed} failed", flush=True)
    return len(points), failed


def _chosen(ground: Ground) -> Iterator[Point]:
    """Yield the points of a setting; a slow one only has those that its quick twin lacks."""
    known = {"store.part", "store.complete"} if ground.setting.inputs > 6 else {""}
    for point in ground.points:
        if any(point.step.startswith(prefix) for prefix in known):
            yield point


def _played(ground: Ground, points: list[Point], workers: int) -> Iterator[tuple[Point, list[str]]]:
    running: dict[int, tuple[Point, Path]] = {}
    todo = list(enumerate(points))[::-1]
    while todo or running:
        while todo and len(running) < workers:
            number, point = todo.pop()
            report = ground.folder / f"report-{number:05d}"
            running[start(lambda n=number, p=point: ground.case(n, p), report)] = (point, report)  # type: ignore[misc]
        child, status = os.wait()
        point, report = running.pop(child)
        if os.waitstatus_to_exitcode(status) != 0:
            error = report.with_suffix(".error")
            yield point, [error.read_text() if error.exists() else f"the case ended with {status}"]
        else:
            yield point, json.loads(report.read_text())
            report.unlink()


if __name__ == "__main__":
    sys.exit(main())
