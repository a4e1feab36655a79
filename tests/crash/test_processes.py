"""Ten kills of real processes: production's assembly, spawned sites, SIGKILL in the middle, the same command again.

Two cases at a time, since most of their time is Python starting; each is still a test of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from counterseal.runtime.config import LoaderConfig
from counterseal.runtime.founding.federation import Founded, found_federation
from counterseal.runtime.training.arrays import write_arrays
from counterseal.tests.federation import data_of, run_config

from .real import POINT
from .verdict import Scene, differences, facts, problems

SITES = ("north", "east", "south")

SAMPLE = (
    "server|log.origin.publish|1",
    "server|journal.write|20",
    "server|store.put.publish|3",
    "server|log.cosignatures.publish|2",
    "server|log.checkpoint.done|4",
    "server|blob.publish|2",
    "server|log.journal.sync|18",
    "north|blob.done|1",
    "east|journal.done|6",
    "south|store.put.sync|3",
)
"""A fixed spread over parties and steps."""


@dataclass(frozen=True)
class Place:
    """A founded federation and the command that runs it."""

    folder: Path
    founded: Founded

    @classmethod
    def make(cls, folder: Path) -> Place:
        """Found a federation whose sites have data of their own."""
        loaders = {}
        for name in SITES:
            data = data_of(name)
            write_arrays(folder / "data" / name, data.train, data.test)
            loaders[name] = LoaderConfig(entry_point="arrays", folder=folder / "data" / name)
        run = run_config(rounds=1, round_seconds=60)
        return cls(folder, found_federation(folder / "federation", SITES, run=run, loaders=loaders))

    def live(self, point: str = "") -> tuple[int, str]:
        """Run the server to its end, or to ``point``; return its exit status (negative: a signal) and what it complained."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", POINT: point}
        command = [sys.executable, "-m", "counterseal.tests.crash.real", "server"]
        command += [str(self.founded.server_config), str(self.marker)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stderr

    @property
    def marker(self) -> Path:
        return self.folder / "marker"

    @property
    def scene(self) -> Scene:
        server = self.founded.server_config.parent
        states = {name: path.parent / "state" for name, path in self.founded.site_configs.items()}
        return Scene(self.founded.charter, server / "log", server / "state", states, {})


@dataclass(frozen=True)
class Story:
    """What became of one place: how its lives ended, whether the point was reached, and what was found afterwards."""

    lives: tuple[tuple[int, str], ...]
    struck: bool
    problems: list[str]
    facts: dict[str, Any]


def tell(folder: Path, point: str) -> Story:
    """Live, being killed at ``point`` if there is one, and then live once more."""
    place = Place.make(folder)
    lives = (place.live(point), place.live()) if point else (place.live(),)
    return Story(lives, place.marker.exists(), problems(place.scene), facts(place.scene))


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Story]]]:
    """All cases, at work; under "" the one that nobody disturbs."""
    with ThreadPoolExecutor(2) as pool:
        folders = {point: tmp_path_factory.mktemp("case") for point in ("", *SAMPLE)}
        yield {point: pool.submit(tell, folder, point) for point, folder in folders.items()}


@pytest.mark.processes
def test_an_undisturbed_run(stories: dict[str, Future[Story]]) -> None:
    story = stories[""].result()
    assert story.lives == ((0, ""),)
    assert story.problems == []


@pytest.mark.processes
@pytest.mark.parametrize("point", SAMPLE)
def test_a_killed_process_costs_nothing(stories: dict[str, Future[Story]], point: str) -> None:
    story, undisturbed = stories[point].result(), stories[""].result()
    assert story.struck
    assert story.lives == ((-signal.SIGKILL if point.startswith("server") else 0, ""), (0, ""))
    assert story.problems == []
    assert differences(undisturbed.facts, story.facts) == []
