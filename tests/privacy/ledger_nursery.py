"""Kill a site's use of its ledger at every point and see what is left: ``python -m counterseal.tests.privacy.ledger_nursery``.

A process of one thread forks every case (`tests.crash.forks`); a child is ended by SIGKILL at its point. Points are the announced
steps (`durable.Probe`) and what the interpreter reports before it opens a file for writing, links, renames or removes one. The
last line printed is JSON: how many points there were, and what was wrong at which.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counterseal.privacy.ledger.ledger import Ledger
from counterseal.privacy.ledger.path_anchor import PathAnchor
from counterseal.tests.crash.forks import in_child
from counterseal.tests.privacy.ledger_world import FEDERATION, SITE, Place, cap, digest, order, ticket

RELEASES = 4
_EFFECTS = {"os.link", "os.rename", "os.remove", "os.truncate", "sqlite3.connect"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

Watch = Callable[[str], None]


def live(place: Place, watch: Watch) -> None:
    """A site's whole run: it drew three releases of four, one of them failed, and one ticket never started."""
    anchor = PathAnchor(place.anchor.path, probe=watch)
    ledger = place.open(anchor, watch) if place.path.exists() else place.create(anchor, watch)
    cap(ledger, 8.0)
    ledger.map_dataset("data", "patients")
    ledger.reserve_run(order(releases=RELEASES))
    for number, outcome in enumerate(("released", "failed", "not_started", "released")):
        known = ledger.ticket(digest(number))
        if known is not None and known.outcome is not None:
            continue  # a site answers such a ticket with what it stored
        ledger.reserve(ticket(number))
        watch("work")
        if outcome == "released":
            release(place, number)
        watch("released")
        ledger.settle(digest(number), outcome)  # type: ignore[arg-type]
    ledger.close_run(FEDERATION, "run-1", SITE)


def release(place: Place, number: int) -> None:
    """What a site's world sees: from here on the noise of this ticket is drawn."""
    with (place.folder / "released").open("a") as file:
        file.write(f"{number}\n")
        file.flush()


def released(place: Place) -> set[int]:
    """The tickets whose update somebody has."""
    path = place.folder / "released"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


def watch_files(watch: Watch, folder: Path) -> None:
    """Tell ``watch`` of every effect on a file below ``folder``."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if (writes or event in _EFFECTS) and str(folder) in str(arguments[0]) and "released" not in str(arguments[0]):
            watch(f"file {event}")

    sys.addaudithook(hook)


def points(folder: Path) -> tuple[int, dict[str, Any]]:
    """Return how many points an undisturbed life has, and how it ends."""

    def work() -> dict[str, Any]:
        place, seen = Place(folder), list[str]()
        watch_files(seen.append, folder)
        live(place, seen.append)
        return {"points": len(seen), "steps": sorted(set(seen)), "end": facts(place.open(place.anchor))}

    ended, found = in_child(work, folder.with_suffix(".json"))
    assert ended == "done", found
    return found["points"], found


def case(folder: Path, point: int) -> tuple[list[str], Any]:
    """Kill at ``point``, look, live on, look again: what was wrong, and how it ended."""

    def struck() -> None:
        place, seen = Place(folder), list[str]()

        def kill(step: str) -> None:
            seen.append(step)
            if len(seen) == point:
                os.kill(os.getpid(), signal.SIGKILL)

        watch_files(kill, folder)
        live(place, kill)

    def after() -> dict[str, Any]:
        place = Place.__new__(Place)
        place.folder, place.now = folder, 1_800_000_000
        wrong = unpaid(place)
        live(place, lambda step: None)
        return {"wrong": wrong + unpaid(place), "end": facts(place.open(place.anchor))}

    ended, told = in_child(struck, folder.with_suffix(".first"))
    if ended != "killed":
        return [f"was not killed: {ended} {told}"], None
    ended, found = in_child(after, folder.with_suffix(".second"))
    return (found["wrong"], found["end"]) if ended == "done" else ([f"the life after it: {ended} {found}"], None)


def unpaid(place: Place) -> list[str]:
    """What was released and is not debited, on the disk and at the anchor."""
    if not place.path.exists():
        return [f"released without a ledger: {released(place)}"] if released(place) else []
    ledger = place.open(place.anchor)
    wrong = [f"ticket {number} is not debited" for number in released(place) if ledger.ticket(digest(number)) is None]
    if place.anchor.read() != ledger.mark:
        wrong.append("the anchor is behind")
    spent = ledger.run(FEDERATION, "run-1", SITE)
    if (0 if spent is None else spent.counted) < len(released(place)):
        wrong.append("less is counted than was released")
    return wrong


def facts(ledger: Ledger) -> dict[str, Any]:
    """How a life ended: what must not depend on crashes."""
    (balance,) = ledger.balances()
    kinds = [entry.kind for entry in ledger.export()]
    return {"spent": balance.spent, "reserved": balance.reserved, "drawn": balance.releases, "kinds": kinds}


def main(folder: Path) -> None:
    """Run every case."""
    os.fsync = lambda fd: None  # a kill leaves the page cache alone: the sync costs time and proves nothing here
    count, undisturbed = points(folder / "undisturbed")
    failures: dict[int, list[str]] = {}
    for point in range(1, count + 1):
        wrong, end = case(folder / f"point-{point}", point)
        if wrong or end != undisturbed["end"]:
            failures[point] = [*wrong, str(end)]
    print(json.dumps({"points": count, "steps": undisturbed["steps"], "end": undisturbed["end"], "failures": failures}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
