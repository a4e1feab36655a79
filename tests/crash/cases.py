"""One case of the matrix: kill a life at a point, live again to the end, compare with the life that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from counterseal.runtime.environment import environment_digest
from counterseal.tests.federation import SERVER, Federation

from .forks import in_child
from .look import found_in, underpaid
from .points import FILES, Killer, Point, Recorder, Watch, distinct, unwatched, watch_files
from .story import Setting, copy_of, large_data, live, live_apart
from .verdict import differences

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
        environment_digest()  # read once: the children inherit it
        folder.mkdir(parents=True, exist_ok=True)
        federation = setting.federation(folder / "template")
        case = copy_of(federation, folder / "undisturbed")
        if setting.large:
            for name in federation.sites:
                large_data(name, setting.inputs)

        def work() -> dict[str, Any]:
            recorder = Recorder()
            stop = watch_files(recorder, case.folder)
            live(case, setting, recorder)
            stop()
            points = [str(point) for point in distinct(recorder.points)]
            return {"points": points, **found_in(case, setting)}

        ended, found = in_child(work, folder / "undisturbed.json")
        if ended != "done" or found["problems"]:
            wrong = found["problems"] if ended == "done" else found
            raise RuntimeError(f"the undisturbed run: {ended}, {wrong}")
        points = tuple(Point.parse(text) for text in found["points"])
        return cls(folder, setting, federation, points, found["facts"])

    def caller(self, number: int, point: Point, life: Life) -> Callable[[], list[str]]:
        """Return `case` as a function of nothing."""
        return partial(self.case, number, point, life)

    def case(self, number: int, point: Point, life: Life = live) -> list[str]:
        """Return what is wrong after a kill at ``point``: empty if all is well."""
        name = f"case-{number:05d}"
        case = copy_of(self.federation, self.folder / name)
        marker = self.folder / f"{name}.marker"
        ended, error = in_child(lambda: self._struck(case, point, marker, life), self.folder / f"{name}.first")
        wanted = "done" if life is live_apart and point.party != SERVER else "killed"
        if not marker.exists() or ended != wanted:
            return [f"struck: {marker.exists()}; the life ended: {ended}, not {wanted}; {error}"]
        started = time.monotonic()
        if wanted == "done":  # the server lived on: nothing is left to do, and nobody helps
            life = _nobody
        ended, found = in_child(lambda: self._resumed(case, life), self.folder / f"{name}.second")
        if ended != "done":
            return [f"the life after it: {ended} after {time.monotonic() - started:.1f} s, {found}"]
        wrong = [*found["problems"], *differences(self.expected, found["facts"])]
        if not wrong:
            self._clear(name)
        return wrong

    def _struck(self, case: Federation, point: Point, marker: Path, life: Life) -> None:
        killer = Killer(point, marker)
        if point.party == FILES:
            watch_files(killer, case.folder)
        life(case, self.setting, killer)

    def _resumed(self, case: Federation, life: Life) -> dict[str, Any]:
        """Live to the end, look, and live once more: the second time nothing is left to do."""
        debts = underpaid(case, self.setting)
        life(case, self.setting, unwatched)
        found = found_in(case, self.setting)
        found["problems"] += [f"between the lives: {debt}" for debt in debts]
        before = _sizes(case.folder)
        live(case, self.setting, unwatched)
        after = _sizes(case.folder)
        found["problems"] += underpaid(case, self.setting)
        for path in sorted(set(before.items()) ^ set(after.items())):
            found["problems"].append(f"living once more changed {path[0]}")
        return found

    def _clear(self, name: str) -> None:
        for path in self.folder.glob(f"{name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _nobody(federation: Federation, setting: Setting, watch: Watch) -> None:
    """Live no more."""


def _sizes(folder: Path) -> dict[str, int]:
    """Return every file below ``folder`` with its size, but for databases and locks, which say who was here last."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and ".sqlite" not in path.name and path.suffix != ".lock":
            found[str(path.relative_to(folder))] = path.stat().st_size
    return found


def _nothing(fd: object) -> None:
    """Sync nothing."""
