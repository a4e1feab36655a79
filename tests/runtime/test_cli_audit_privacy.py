"""`counterseal audit privacy`: epsilons computed again from a copy of a log, with public keys alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from counterseal.runtime.site.steward import Leave
from counterseal.trust.charter.signing import SignedCharter

from ..attacks.private_world import PRIVATE, PrivateWorld, private_worlds, sgd_run
from ..attacks.rows_privacy import lying, states
from ..attacks.world import ME
from ..federation import Federation, run_config
from ..private import TERMS
from .cli_world import call, document

LATER = 1_800_500_000.0
ONE_ROUND = PRIVATE.model_copy(update={"rounds": 1})


@pytest.fixture(scope="module", autouse=True)
def no_power_cuts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@dataclass(frozen=True)
class Copy:
    """What an auditor has: a log and a charter."""

    log: Path
    charter: Path

    def ask(self, *options: str) -> Any:
        """Run the command, at a time when the log is in the past."""
        with patch("time.time", lambda: LATER):
            return call("audit", "privacy", self.log, "--charter", self.charter, *options)


def written(charter: SignedCharter, folder: Path) -> Path:
    """Write the charter as a member keeps it."""
    (folder / "signatures").mkdir(parents=True)
    (folder / "charter.json").write_bytes(charter.raw)
    for one in charter.signatures:
        name = f"{one.document.identity}.charter-signature.counterseal.json"
        (folder / "signatures" / name).write_bytes(one.raw)
    return folder


def copy_of(world: PrivateWorld, folder: Path) -> Copy:
    """Return a copy of the world's log and charter."""
    shutil.copytree(world.federation.log_folder, folder / "log")
    return Copy(folder / "log", written(world.federation.charter, folder / "charter"))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A log with two private runs."""
    with private_worlds("ended") as world:
        assert world.told(sgd_run(TERMS, name="run-2")).outcome == "completed"
        return copy_of(world, tmp_path_factory.mktemp("honest"))


def told_by(tell: Callable[[Leave], Leave], folder: Path) -> Copy:
    """Return the log of a run in which site-a tells a lie."""
    with private_worlds("new") as world:
        world.federation.settings[ME] = lying(world, tell)
        assert world.told(ONE_ROUND).outcome == "completed"
        return copy_of(world, folder)


def test_an_honest_log_agrees(honest: Copy) -> None:
    done = honest.ask("--json")
    assert done.exit_code == 0
    told = document(done)
    assert told["agree"]
    assert [(one["run"], one["releases"]) for one in told["sites"]] == [("run-1", 3)] * 3 + [("run-2", 1)] * 3
    for one in told["sites"]:
        assert one["agrees"]
        assert 0 < one["epsilon"] <= one["recomputed"] <= one["whole_run"]
        assert (one["second_opinion"] is None) == (one["run"] == "run-1")
        assert len(one["ledger"]) == len(one["policy"]) == 64
        assert one["terms"]["mechanism"] in {"dp-sgd", "output-gaussian"}


def test_the_table_says_what_is_not_covered(honest: Copy) -> None:
    done = honest.ask()
    assert done.exit_code == 0
    assert "Not covered: whether the noise was drawn as said" in done.output
    assert done.output.count("agrees") == 6
    assert "3 of 4" in done.output


def test_one_run_can_be_named(honest: Copy) -> None:
    sites = document(honest.ask("--json", "--run", "run-2"))["sites"]
    assert {one["run"] for one in sites} == {"run-2"}
    assert document(honest.ask("--json", "--run", "run-9")) == {"agree": True, "faults": [], "sites": [], "servers": []}


@pytest.mark.parametrize(
    "tell",
    [states(epsilon=0.1), states(delta=1e-9), states(epsilon=None)],
    ids=["a smaller epsilon", "a smaller delta", "no epsilon"],
)
def test_a_false_statement_ends_with_one(tell: Callable[[Leave], Leave], tmp_path: Path) -> None:
    copy = told_by(tell, tmp_path)
    done = copy.ask("--json")
    assert done.exit_code == 1
    told = document(done)
    assert not told["agree"]
    assert {one["site"]: one["agrees"] for one in told["sites"]}[ME] is False
    assert sum(one["agrees"] for one in told["sites"]) == 2
    shown = copy.ask()
    assert shown.exit_code == 1
    assert "DOES NOT AGREE" in shown.output


def test_another_charter_is_no_way_in(honest: Copy, tmp_path: Path) -> None:
    """A log that another server signed is nothing under this charter: nothing in it counts."""
    other = written(Federation.make(tmp_path / "other", 3).charter, tmp_path / "charter")
    done = Copy(honest.log, other).ask("--json")
    assert done.exit_code == 1
    assert document(done)["sites"] == []
    assert document(done)["faults"]


def test_a_log_without_private_runs_says_so(tmp_path: Path) -> None:
    with private_worlds("new") as world:
        for name in world.federation.sites:
            world.federation.settings[name] = {"unprotected": True}
        assert world.told(run_config(rounds=1, minimum_sites=2)).outcome == "completed"
        copy = copy_of(world, tmp_path)
    done = copy.ask()
    assert done.exit_code == 0
    assert "No run in this log has privacy terms." in done.output


@pytest.mark.parametrize("edit", ["cut", "turned", "gone", "empty"])
def test_a_copy_that_does_not_hold_is_not_believed(honest: Copy, tmp_path: Path, edit: str) -> None:
    """Whoever cuts off a site's receipts would make its epsilon small: silence is not agreement."""
    log = shutil.copytree(honest.log, tmp_path / "log")
    bundle = max((log / "tile" / "entries").glob("*.p/*"), key=lambda path: int(path.name))
    data = bundle.read_bytes()
    if edit == "cut":
        bundle.write_bytes(data[:-100])
    elif edit == "turned":
        bundle.write_bytes(data[:-500] + bytes([data[-500] ^ 1]) + data[-499:])
    elif edit == "gone":
        bundle.unlink()
    else:
        log = tmp_path / "empty"
        log.mkdir()
    done = Copy(log, honest.charter).ask("--json")
    assert done.exit_code == 1
    assert document(done)["faults"]
    shown = Copy(log, honest.charter).ask()
    assert shown.exit_code == 1
    assert "does not hold" in shown.output
