"""Two federations at one institution: real processes, one ledger, one budget."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from counterseal.tests.privacy.ledger_world import Place, quick_folder

pytestmark = pytest.mark.processes


def race(folder: Path, runs: int, releases: int) -> list[list[int]]:
    """Start two processes at the same moment; return the counters of the entries that each won."""
    command = [sys.executable, "-m", "counterseal.tests.privacy.ledger_racer", str(folder)]
    racers = [
        subprocess.Popen(
            [*command, name, str(runs), str(releases)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("heart", "lung")
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    told = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    return [json.loads(text) for text in told]


def test_the_last_of_a_budget_goes_to_one_of_them() -> None:
    with quick_folder() as folder:
        place = Place(folder)
        place.founded(place.anchor)
        won = race(folder, 1, 150)  # 210 releases are all there is
        assert sorted(map(len, won)) == [0, 1]


def test_many_runs_together_stay_within_the_cap() -> None:
    with quick_folder() as folder:
        place = Place(folder)
        ledger = place.founded(place.anchor)
        won = race(folder, 40, 7)
        counters = sorted([*won[0], *won[1]])
        assert len(counters) == 30 and counters == list(range(4, 34))  # 30 x 7 = 210, and no counter was given twice
        (balance,) = ledger.balances()
        assert balance.runs == 30 and balance.reserved <= 8.0
        assert place.open(place.anchor).head == ledger.head
