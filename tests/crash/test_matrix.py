"""The crash matrix in the suite: that its points cover every module, a spread of kills, and a planted fault that it finds.

Every case runs in forked children of a process that is started for it, without torch and without threads; the whole matrix is
``python -m counterseal.tests.crash.matrix``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .points import Point, distinct

EXPECTED = {
    "server@fed.example": {
        "journal.write", "journal.done", "blob.write", "blob.publish", "blob.done",
        "store.put.write", "store.put.publish", "store.put.sync", "store.put.done",
        "log.journal.create.publish", "log.origin.publish", "log.object.publish",
        "log.journal.write", "log.journal.sync", "log.journal.done",
        "log.entries.publish", "log.tile.publish", "log.checkpoint.publish", "log.latest.publish",
        "log.cosignatures.publish", "log.mirror.publish",
    },
    "site-b@fed.example": {
        "journal.write", "journal.done", "blob.write", "blob.publish", "blob.done",
        "store.put.write", "store.put.publish", "store.put.sync", "store.put.done",
        "site.model.write", "site.model.publish", "site.model.done",
    },
    "files": {"open", "os.remove", "os.mkdir", "sqlite3.connect"},
}  # fmt: skip

LEDGER = {
    "site-b@fed.example": {
        "ledger.entry.write", "ledger.entry.commit", "ledger.entry.done", "ledger.anchor.write", "ledger.anchor.file.write",
        "ledger.anchor.file.publish", "ledger.anchor.file.done", "ledger.anchor.done",
    },
}  # fmt: skip
"""Steps that must be among the points: one that vanishes took its kills along."""

LARGE = {
    "site-b@fed.example": {"store.part.publish", "store.part.done"},
    "server@fed.example": {
        "store.complete.write",
        "store.complete.publish",
        "store.complete.sync",
        "store.complete.done",
    },
}

FORGETFUL = """
from counterseal.runtime.site.steward import Steward

put = Journal.put
Journal.put = lambda self, key, value: None if key.startswith("work/") else put(self, key, value)
Steward.settle = lambda self, ticket, *, released: None
"""
"""What is added to `PLANT`: a site that does not note what it made, nor that its release is over."""

UNPAID = """
import sys
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.tests.crash.matrix import main

reserve = Ledger.reserve
Ledger.reserve = lambda self, order: reserve(self, order) if self.export()[-1].kind == "run.reserve" else None
sys.exit(main(sys.argv[1:]))
"""

PLANT = """
import sys
from counterseal.runtime.journal import Journal
from counterseal.tests.crash.matrix import main

real = {name: getattr(Journal, name) for name in ("put_many", "get", "put", "items", "close")}

def late(self, values):  # a receipt is recorded after it has left, with whatever happens next
    if any(key.startswith("receipt/") for key in values):
        self.held = values
    else:
        real["put_many"](self, values)

def flushed(name):
    def call(self, *arguments):
        if name != "items" or arguments[0].startswith("open/"):
            real["put_many"](self, vars(self).pop("held", {}))
        return real[name](self, *arguments)
    return call

Journal.put_many = late
Journal.get = lambda self, key: vars(self).get("held", {}).get(key) or real["get"](self, key)
for name in ("put", "items", "close"):
    setattr(Journal, name, flushed(name))
sys.exit(main(sys.argv[1:]))
"""


def matrix(folder: Path, *arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    program = ["-m", "counterseal.tests.crash.matrix"] if code is None else ["-c", code]
    command = [sys.executable, *program, "--folder", str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def listed(folder: Path, part: str) -> list[Point]:
    done = matrix(folder, "--part", part, "--list")
    assert done.returncode == 0, done.stderr
    return [Point.parse(line) for line in done.stdout.splitlines() if "|" in line]


def missing(points: list[Point], expected: dict[str, set[str]]) -> set[tuple[str, str]]:
    found = {(point.party, point.step) for point in points}
    return {(party, step) for party, steps in expected.items() for step in steps} - found


def test_the_points_cover_every_module(tmp_path: Path) -> None:
    points = listed(tmp_path, "plain")
    assert missing(points, EXPECTED) == set()
    assert len(points) > 1000
    assert len(set(points)) == len(points)


def test_a_large_model_adds_the_parts(tmp_path: Path) -> None:
    assert missing(listed(tmp_path, "multipart"), LARGE) == set()


def test_an_effect_that_nobody_announced_is_a_point_of_its_own() -> None:
    before, effect, again = (
        Point("server", "journal.done", 1),
        Point("files", "os.link", 1),
        Point("files", "os.remove", 1),
    )
    assert distinct([before, effect, again]) == [before, again]


def test_the_points_of_a_private_run_cover_the_ledger(tmp_path: Path) -> None:
    assert missing(listed(tmp_path, "private"), {**EXPECTED, **LEDGER}) == set()


SPREAD = {
    "plain": 16,
    "two-steps": 16,
    "four-sites": 6,
    "two-steps-apart": 4,
    "private": 8,
    "admm": 6,
    "private-admm": 2,
    "private-apart": 2,
    "central": 3,
}


@pytest.mark.parametrize("part", SPREAD)
def test_a_spread_of_kills(tmp_path: Path, part: str) -> None:
    done = matrix(tmp_path, "--part", part, "--sample", str(SPREAD[part]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SPREAD[part]} points, {SPREAD[part]} passed, 0 failed" in done.stdout


REGRESSIONS = {
    "a receipt was a leaf, its cosignature was lost": ("plain", "server@fed.example|log.cosignatures.write"),
    "cosignatures of two lives lay on two checkpoints; a half-written model stayed": (
        "plain",
        "site-b@fed.example|store.put.write",
        "site-b@fed.example|site.model.publish",
    ),
    "leave to upload was not given again": ("two-steps", "site-b@fed.example|store.put.sync"),
    "a witness outside the quorum was never settled": ("four-sites", "site-d@fed.example|store.put.write"),
    "half a mark stayed beside the anchor": ("private", "site-b@fed.example|ledger.anchor.file.publish|3"),
    "a site that died over the final model was not asked again": ("plain-apart", "site-b@fed.example|site.model.write"),
}
"""Steps (or one point) at which the first run of the matrix failed, by what was wrong in the engine."""


@pytest.mark.parametrize("what", REGRESSIONS)
def test_what_the_matrix_found_stays_mended(tmp_path: Path, what: str) -> None:
    part, *steps = REGRESSIONS[what]
    chosen = [one for step in steps for one in ("--point" if step.count("|") == 2 else "--step", step)]
    done = matrix(tmp_path, "--part", part, *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout.startswith("0 points")


def test_sites_that_still_work_for_a_dead_server_are_waited_for(tmp_path: Path) -> None:
    """The next server starts them anew; the new process waits for the old one, which holds the site's state."""
    done = matrix(tmp_path, "--part", "busy", "--sample", "4")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """A site that records its receipt after it has sent it forgets it in a crash: its next receipt denies the first."""
    done = matrix(tmp_path, "--part", "plain", "--point", "server@fed.example|log.cosignatures.done|1", code=PLANT)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 points, 0 passed, 1 failed" in done.stdout
    assert "the verifier says FAIL to 13" in done.stdout


def test_a_noise_drawn_twice_is_found(tmp_path: Path) -> None:
    """A site that forgets what it released draws its noise again: two updates of one ticket average to less noise."""
    code = PLANT.replace("sys.exit(", FORGETFUL + "sys.exit(")
    done = matrix(tmp_path, "--part", "private", "--point", "site-b@fed.example|store.put.done|2", code=code)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "site-b@fed.example released 2 different objects for ticket" in done.stdout


def test_a_release_without_a_debit_is_found(tmp_path: Path) -> None:
    """A site that debits its first release of a run, and no other."""
    done = matrix(tmp_path, "--part", "private", "--sample", "1", code=UNPAID)
    assert done.returncode == 1
    assert "left without a debit" in done.stderr
