"""What the tests of the ledger share: a price, orders, an anchor in memory, a clock that only they move."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterseal.durable import Probe, silent
from counterseal.privacy.accounting.events import GaussianEvent
from counterseal.privacy.accounting.rdp import Cost, rdp_cost
from counterseal.privacy.ledger.anchor import Anchor, Mark, moved
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.privacy.ledger.orders import RunOrder, TicketOrder
from counterseal.privacy.ledger.path_anchor import PathAnchor

FEDERATION, SITE = "heart", "site-a"
CHARTER = "c" * 64
PRICE = rdp_cost(GaussianEvent(20.0, 4, adjacency="add-remove", unit="patient"))
"""Of one release; 210 of them fit into a cap of epsilon 8 at delta 1e-5."""


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: every entry is synced, and on a disk that is what these tests would wait for."""
    memory = "/dev/shm"
    base = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="counterseal-ledger-", dir=base) as folder:
        yield Path(folder)


def digest(number: int) -> str:
    """The digest of ticket ``number``."""
    return f"{number:064x}"


def order(
    run: str = "run-1", releases: int = 10, *, cost: Cost = PRICE, dataset: str = "data", **changes: Any
) -> RunOrder:
    """A run's whole sequence."""
    values: dict[str, Any] = {
        "federation": FEDERATION,
        "run": run,
        "site": SITE,
        "charter": CHARTER,
        "dataset": dataset,
        "terms": {"mechanism": "dp-sgd", "noise_multiplier": 20.0, "steps": 4},
        "unit": "patient",
        "adjacency": "add-remove",
        "cost": cost,
        "releases": releases,
        "statement": {"epsilon": 1.25, "delta": 1e-5},
    }
    return RunOrder(**{**values, **changes})


def ticket(number: int, run: str = "run-1", *, sequence: int | None = None, **changes: Any) -> TicketOrder:
    """One release."""
    values: dict[str, Any] = {"ticket": digest(number), "federation": FEDERATION, "run": run, "site": SITE}
    return TicketOrder(**{**values, "sequence": number if sequence is None else sequence, **changes})


class MemoryAnchor:
    """An anchor that can be broken."""

    place = "this process"

    def __init__(self) -> None:
        self.mark: Mark | None = None
        self.moves = 0
        self.fault: Callable[[], None] = lambda: None

    def read(self) -> Mark | None:
        return self.mark

    def advance(self, mark: Mark, previous: Mark | None) -> None:
        self.fault()
        if self.mark != previous:
            raise moved(self.place)
        self.mark, self.moves = mark, self.moves + 1


@dataclass
class Place:
    """A ledger's disk, and another one with its anchor."""

    folder: Path
    now: int = 1_800_000_000

    def __post_init__(self) -> None:
        (self.folder / "disk").mkdir(parents=True)
        (self.folder / "other-disk").mkdir()

    @property
    def path(self) -> Path:
        return self.folder / "disk" / "ledger.sqlite"

    @property
    def anchor(self) -> PathAnchor:
        return PathAnchor(self.folder / "other-disk" / "ledger.anchor")

    def clock(self) -> int:
        return self.now

    def create(self, anchor: Anchor | None = None, probe: Probe = silent) -> Ledger:
        """An empty ledger."""
        return Ledger.create(self.path, anchor, clock=self.clock, probe=probe)

    def open(self, anchor: Anchor | None = None, probe: Probe = silent) -> Ledger:
        return Ledger.open(self.path, anchor, clock=self.clock, probe=probe, patience=5)

    def founded(self, anchor: Anchor | None = None, *, epsilon: float = 8.0) -> Ledger:
        """A ledger with one population and one dataset."""
        ledger = self.create(anchor)
        cap(ledger, epsilon)
        ledger.map_dataset("data", "patients")
        return ledger

    def copy(self, name: str) -> Path:
        """Keep the ledger's file as it is now."""
        return Path(shutil.copy2(self.path, self.folder / name))

    def restore(self, copy: Path) -> None:
        """Put a copy in the place of the ledger."""
        shutil.copy2(copy, self.path)


def cap(ledger: Ledger, epsilon: float, name: str = "patients", **changes: Any) -> None:
    """Name a population, or its new cap."""
    values: dict[str, Any] = {"unit": "patient", "adjacency": "add-remove", "delta": 1e-5}
    ledger.set_population(name, epsilon=epsilon, **{**values, **changes})


def drawn(ledger: Ledger, run: str = "run-1") -> int:
    """Releases that a run drew."""
    found = ledger.run(FEDERATION, run, SITE)
    return 0 if found is None else found.drawn
