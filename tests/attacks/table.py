"""The attack table: one row an attack. `docs/attacks.md` is printed from it.

Run `python -m counterseal.tests.attacks.table > docs/attacks.md` after adding a row; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["NOT_COVERED", "PROMISES", "Row", "markdown"]

Promise = Literal["P1", "P2", "P3", "P7", "P10"]
Where = Literal["site", "server", "verifier", "everybody"]
Who = Literal[
    "network", "storage", "server", "site", "member", "thief", "peer", "log holder"
]  # a member is one that the group does not name active

PROMISES: dict[Promise, str] = {
    "P1": "Nobody takes part whose identity is not an active member of the federation's group",
    "P2": "A blob, a ticket or a receipt counts only from its sender, for its recipients, in its place",
    "P3": "Storage and transport see ciphertext only; the server's disk never holds plaintext",
    "P7": "Every decision is a signed leaf of an append-only log; what is dropped, rewritten or forked is caught",
    "P10": "Bad input meets a typed error; nothing is half-written",
}


@dataclass(frozen=True)
class Row:
    """One attack: ``play`` carries it out, asserts that nothing was harmed, and returns the code that it met."""

    id: str
    where: Where
    who: Who
    attack: str
    expected: str
    play: Callable[[], str]

    @property
    def promise(self) -> str:
        """The promise that the attack tries to break."""
        return self.id.partition("-")[0]


NOT_COVERED: tuple[tuple[str, str], ...] = ()


def markdown(rows: Iterable[Row]) -> str:
    """Return docs/attacks.md."""
    rows = list(rows)
    lines = [
        "# The attack table",
        "",
        f"{len(rows)} attacks, each carried out by `tests/attacks` on a real federation that was stopped in the middle of a",
        "run, and each with the one code that it must meet. A row passes only if the code is exactly that one, nothing was",
        "half-written, and the run then ends as it should: with the same model, bit for bit, as the undisturbed run, or with the",
        "model of the run without the attacked site's part, or with the attacked site halted and the evidence kept. The log must",
        "still verify. This page is printed from the tests (`python -m counterseal.tests.attacks.table`) and compared with them.",
        "",
        "*By*: **network** changes what the transport carries, **storage** what the store holds, **server** and **site** hold",
        "their real keys and lie, **member** is a party that the group does not name active, **thief** has stolen a disk, a grant",
        "or a key, **peer** sends anything at all, **log holder** edits a copy of the log. *Code* is the error's `code`: in a fault,",
        "a receipt, a leaf of the log, or for a verifier the obligation that fails (`counterseal audit verify`).",
    ]
    for promise, text in PROMISES.items():
        lines += ["", f"## {promise}. {text}", "", "| id | by | at | attack | code |", "|---|---|---|---|---|"]
        lines += [
            f"| {row.id} | {row.who} | {row.where} | {row.attack} | `{row.expected}` |"
            for row in rows
            if row.promise == promise
        ]
    lines += ["", "## Not covered", "", "What this table does not show, and who would have to look.", ""]
    lines += [f"- **{what}.** {why}" for what, why in NOT_COVERED]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from counterseal.tests.attacks.rows import ROWS

    sys.stdout.write(markdown(ROWS))
