"""One case of the matrix: kill a life at a point, live again to the end, compare with the life that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterseal.tests.federation import Federation

from .forks import in_child
from .points import FILES, Killer, Point, Recorder, Watch, unwatched, watch_files
from .story import Setting, copy_of, live
from .verdict import facts, problems

Life = Callable[[Federation, Setting, Watch], Any]


@dataclass
class Ground:
    """A folder with the federation of one setting, its points, and the facts of its undisturbed run."""

    folder: Path
    setting: Setting
    federation: Federation
    points: tuple[Point, ...]
    expected: dict[str, Any]

    @classmethod
    def prepare(cls, folder: Path, setting: Setting) -> Ground:
        """Found the federation and play it once, undisturbed, in a child that records the points."""
        os.fsync = _nothing  # a kill leaves the page cache alone: the sync costs time and proves nothing here
        folder.mkdir(parents=True, exist_ok=True)
        federation = setting.federation(folder / "template")
        case = copy_of(federation, folder / "undisturbed")

        def work() -> dict[str, Any]:
            recorder = Recorder()
            stop = watch_files(recorder, case.folder)
            live(case, setting, recorder)
            stop()
            points = [str(point) for point in recorder.points]
            return {"points": points, "facts": facts(case), "problems": problems(case)}

        ended, found = in_child(work, folder / "undisturbed.json")
        if ended != "done" or found["problems"]:
            raise RuntimeError(f"the undisturbed run: {ended}, {found}")
        points = tuple(Point.parse(text) for text in found["points"])
        return cls(folder, setting, federation, points, found["facts"])

    def steps(self) -> set[tuple[str, str]]:
        """Return every (party, step) that there is."""
        return {(point.party, point.step) for point in self.points}

    def case(self, number: int, point: Point, life: Life = live) -> list[str]:
        """Return what is wrong after a kill at ``point``: empty if all is well."""
        name = f"case-{number:05d}"
        case = copy_of(self.federation, self.folder / name)
        marker = self.folder / f"{name}.marker"
        ended, error = in_child(lambda: self._killed(case, point, marker, life), self.folder / f"{name}.first")
        if not marker.exists():
            return [f"the point was not reached: {ended}, {error}"]
        if ended not in {"killed", "done"}:
            return [f"the life that was struck ended otherwise: {ended}, {error}"]
        started = time.monotonic()
        ended, found = in_child(lambda: self._resumed(case, life), self.folder / f"{name}.second")
        if ended != "done":
            return [f"the life after it: {ended} after {time.monotonic() - started:.1f} s, {found}"]
        wrong = [*found["problems"], *differences(self.expected, found["facts"])]
        if not wrong:
            self._clear(name)
        return wrong

    def _killed(self, case: Federation, point: Point, marker: Path, life: Life) -> None:
        killer = Killer(point, marker)
        if point.party == FILES:
            watch_files(killer, case.folder)
        life(case, self.setting, killer)

    def _resumed(self, case: Federation, life: Life) -> dict[str, Any]:
        life(case, self.setting, unwatched)
        found = {"facts": facts(case), "problems": problems(case)}
        before = _sizes(case.folder)
        life(case, self.setting, unwatched)
        after = _sizes(case.folder)
        for path in sorted(set(before.items()) ^ set(after.items())):
            found["problems"].append(f"living once more changed {path[0]}")
        return found

    def _clear(self, name: str) -> None:
        for path in self.folder.glob(f"{name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return where two facts differ, in words."""
    wrong = []
    for name, value in expected.items():
        other = found[name]
        if value == other:
            continue
        if isinstance(value, dict):
            keys = [key for key in sorted({*value, *other}) if value.get(key) != other.get(key)]
            wrong += [f"{name}: {key}: {value.get(key)} undisturbed, {other.get(key)} here" for key in keys]
        else:
            wrong.append(f"{name}: {value} undisturbed, {other} here")
    return wrong


def _sizes(folder: Path) -> dict[str, int]:
    """Return every file below ``folder`` with its size; databases are as large as they were, or a page more."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and ".sqlite" not in path.name:
            found[str(path.relative_to(folder))] = path.stat().st_size
    return found


def _nothing(descriptor: int) -> None:
    """Sync nothing."""
