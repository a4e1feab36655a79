"""One of two processes that race for the last of a budget: ``ledger_racer FOLDER NAME RUNS RELEASES``.

It says ``ready``, waits for a line, then asks for as many runs as it may have, and prints which it got.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from counterseal.privacy.errors import BudgetError
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.privacy.ledger.path_anchor import PathAnchor
from counterseal.tests.privacy.ledger_world import order


def main(folder: Path, name: str, runs: int, releases: int) -> None:
    """Race."""
    anchor = PathAnchor(folder / "other-disk" / "ledger.anchor")
    ledger = Ledger.open(folder / "disk" / "ledger.sqlite", anchor)
    print("ready", flush=True)
    sys.stdin.readline()
    won = []
    for number in range(runs):
        try:
            won.append(ledger.reserve_run(order(f"{name}-{number}", releases, federation=name)).counter)
        except BudgetError:
            continue
    print(json.dumps(won))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
