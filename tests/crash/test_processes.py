"""Ten kills of real processes: production's assembly, spawned sites, SIGKILL in the middle, the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from counterseal.runtime.config import LoaderConfig
from counterseal.runtime.founding import Founded, found_federation
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

    def live(self, point: str = "") -> int:
        """Run the server to its end, or to ``point``; return the exit status (negative: a signal)."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", POINT: point}
        command = [sys.executable, "-m", "counterseal.tests.crash.real", "server"]
        command += [str(self.founded.server_config), str(self.marker)]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode

    @property
    def marker(self) -> Path:
        return self.folder / "marker"

    @property
    def scene(self) -> Scene:
        server = self.founded.server_config.parent
        states = {name: path.parent / "state" for name, path in self.founded.site_configs.items()}
        return Scene(self.founded.charter, server / "log", server / "state", states, {})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run that nobody disturbed."""
    place = Place.make(tmp_path_factory.mktemp("undisturbed"))
    assert place.live() == 0
    assert problems(place.scene) == []
    return place


@pytest.mark.processes
@pytest.mark.parametrize("point", SAMPLE)
def test_a_killed_process_costs_nothing(tmp_path: Path, undisturbed: Place, point: str) -> None:
    place = Place.make(tmp_path)
    first = place.live(point)
    assert place.marker.exists()
    assert first == (-signal.SIGKILL if point.startswith("server") else 0)
    assert place.live() == 0
    assert problems(place.scene) == []
    assert differences(facts(undisturbed.scene), facts(place.scene)) == []
