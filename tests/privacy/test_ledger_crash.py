"""Killed at every point, and cut from its anchor at every move: never is a release without its debit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from counterseal.privacy.errors import AnchorError
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.tests.privacy.ledger_world import MemoryAnchor, Place, cap, digest, drawn, order, quick_folder, ticket


def test_a_kill_at_any_point_counts_over_and_never_under() -> None:
    with quick_folder() as folder:
        command = [sys.executable, "-m", "counterseal.tests.privacy.ledger_nursery", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failures"] == {}
    assert found["end"]["drawn"] == 3 and found["end"]["kinds"].count("ticket.reserve") == 4
    assert found["points"] > 100
    assert set(found["steps"]) >= {
        *("ledger.entry.write", "ledger.entry.commit", "ledger.entry.done"),
        *("ledger.anchor.write", "ledger.anchor.file.publish", "ledger.anchor.done", "ledger.create.done"),
        *("file open", "file os.link", "file os.rename", "file sqlite3.connect"),
    }


class Unplugged(AnchorError):
    """The anchor's disk is gone."""


@pytest.fixture
def world() -> Iterator[tuple[Place, MemoryAnchor, Ledger]]:
    with quick_folder() as folder:
        place, anchor = Place(folder), MemoryAnchor()
        ledger = place.founded(anchor)
        ledger.reserve_run(order(releases=2))
        yield place, anchor, ledger


def unplug(anchor: MemoryAnchor) -> None:
    def fault() -> None:
        raise Unplugged("no answer")

    anchor.fault = fault


def test_a_debit_whose_anchor_fails_is_not_answered_and_not_debited_twice(
    world: tuple[Place, MemoryAnchor, Ledger],
) -> None:
    place, anchor, ledger = world
    before = anchor.mark
    unplug(anchor)
    for _ in range(3):  # the repeats find the entry, and still get no answer before the anchor moves
        with pytest.raises(Unplugged):
            ledger.reserve(ticket(1))
        with pytest.raises(Unplugged):
            _ = ledger.head
    assert anchor.mark == before
    anchor.fault = lambda: None
    entry = ledger.reserve(ticket(1))
    assert drawn(ledger) == 1 and anchor.mark is not None and anchor.mark.counter == entry.counter
    assert place.open(anchor).head == ledger.head


def test_an_anchor_that_does_not_answer_stops_everything_before_it_is_written(
    world: tuple[Place, MemoryAnchor, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, anchor, ledger = world

    def silent() -> None:
        raise Unplugged("no answer")

    size = len(ledger.export())
    monkeypatch.setattr(anchor, "read", silent)
    with pytest.raises(Unplugged):
        ledger.reserve(ticket(1))
    with pytest.raises(Unplugged):
        cap(ledger, 9.0)
    monkeypatch.undo()
    assert len(ledger.export()) == size


def test_the_anchor_moves_before_the_answer(world: tuple[Place, MemoryAnchor, Ledger]) -> None:
    _, anchor, ledger = world
    moves = anchor.moves
    entry = ledger.reserve(ticket(1))
    assert anchor.moves == moves + 1 and anchor.mark is not None and anchor.mark.head == entry.digest
    ledger.reserve(ticket(1))
    assert anchor.moves == moves + 1, "a repeat moves nothing"
    ledger.settle(digest(1), "failed")
    assert anchor.mark.head == ledger.head
