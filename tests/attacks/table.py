"""The attack table: one row an attack. `docs/attacks.md` is printed from it.

Run `python -m counterseal.tests.attacks.table > docs/attacks.md` after adding a row; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["NOT_COVERED", "PROMISES", "Row", "markdown"]

Promise = Literal["P1", "P2", "P3", "P4", "P5", "P7", "P10"]
Where = Literal["site", "server", "verifier", "everybody"]
Who = Literal[
    "network", "storage", "server", "site", "member", "thief", "peer", "log holder"
]  # a member is one that the group does not name active

PROMISES: dict[Promise, str] = {
    "P1": "Nobody takes part whose identity is not an active member of the federation's group",
    "P2": "A blob, a ticket or a receipt counts only from its sender, for its recipients, in its place",
    "P3": "Storage and transport see ciphertext only; the server's disk never holds plaintext",
    "P4": "A site releases nothing that its own policy and its own ledger do not allow; the budget is debited first, and once",
    "P5": "A stated epsilon is a true upper bound, and everything that leaves a site is a release",
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
    served: bool = False
    """Whether it starts a server on this machine: the stand-in for Globus, or S3."""

    @property
    def promise(self) -> str:
        """The promise that the attack tries to break."""
        return self.id.partition("-")[0]


NOT_COVERED: tuple[tuple[str, str], ...] = (
    (
        "A server that refuses a site's update by saying so",
        "It may log that a ticket expired or that an update was rejected, and the site cannot force it to count. The leaf is "
        "there for everybody, and a commit that counts the update all the same is caught (P7-055 to P7-057).",
    ),
    (
        "A fork shown to a site that nobody else ever speaks to",
        "One site alone believes the first log that it sees (P7-042 begins with that). It is caught when the site meets the true "
        "log again, by a quorum that overlaps in an honest site, or by an outside witness.",
    ),
    (
        "Leaves that a site is not shown",
        "A site reads the leaves of its own deliveries. A leaf that names it with foreign keys is caught by the site only if it "
        "is in one of them (P7-060); `counterseal audit verify` over the whole log catches it always (P7-112, P7-113).",
    ),
    (
        "False arithmetic",
        "A site checks its own coefficient only. The charter's auditor replays every commit "
        "(`tests/runtime/test_replay.py`); without one, nobody does.",
    ),
    (
        "To whom a server gives the model",
        "The recipients of a sealed model are in its manifest and the release names them, but a server that opens the model "
        "can pass it on.",
    ),
    (
        "A store that destroys",
        "Whoever runs the store can delete, or spoil an update after its admission: the run then stops with an error and goes on "
        "when the object is back (P2-129). In a shared directory every site can do that; grants of S3 let a site put each of "
        "its own objects once.",
    ),
    (
        "A transport that drops or garbles",
        "It can keep any site out of any round; the log says so (`ticket.expire`).",
    ),
    (
        "Restored backups of state",
        "A site or server whose folder is put back to an older day forgets what it signed. A site then refuses the log as "
        "soon as its places clash; a server may start a run a second time, which halts its sites (P7-038).",
    ),
    (
        "Blocks that a disk keeps",
        "Erasing the run's key leaves no copy in any file (P3-010); what a file system or a flash disk keeps of overwritten "
        "blocks is not in our hands. Nor is memory of a running process.",
    ),
    (
        "Colluding sites within the honest spread",
        "Screening refuses what is malformed, over the bound, or a copy; poisoning that looks honest is not seen here.",
    ),
    (
        "A ledger and its anchor put back together",
        "While the site's process lives it is caught (P4-021). After a restart nobody outside remembers: the anchor must lie "
        "where whoever restores the ledger cannot write. A ledger without an anchor is NOT COVERED; a policy can refuse it "
        "(P4-012).",
    ),
    (
        "What an officer decides",
        "Which people a dataset is of, their cap, the policy: a copy of data mapped to a fresh population has a fresh budget.",
    ),
    (
        "A site that lies about its noise or its ledger",
        "Epsilon is computed again from the log; that the noise was drawn, and from true samples, is the site's word.",
    ),
    (
        "That a private training failed, and how long it took",
        "A failure costs a full release and says one code (P4-029 to P4-032), but that there was one is seen; under dp-sgd no "
        "record can bring one about (P5-015 to P5-018). Under output noise a record can. Time is seen by whoever waits.",
    ),
    (
        "A restored ledger told apart from a refusal",
        "A site whose ledger is damaged, old or maps no people says so with the ledger's code, where a policy or a budget says "
        "`policy_denied`: a person must look, and the server learns that.",
    ),
    (
        "Globus and S3 themselves",
        "Where a row speaks of Globus, the real client library asks a stand-in for the services (docs/globus.md); the other rows "
        "run on the roster file, and all on the directory store. The S3 grants have their own tests on a real server.",
    ),
)
"""What this table does not show: the matter, and why or who."""


def markdown(rows: Iterable[Row]) -> str:
    """Return docs/attacks.md."""
    rows = list(rows)
    lines = [
        "# The attack table",
        "",
        f"{len(rows)} attacks, each carried out by `tests/attacks` on a real federation that was stopped in the middle of a",
        "run, and each with the one code that it must meet. A row passes only if the code is exactly that one, nothing was",
        "half-written, and the run then ends as it should: with the same model, bit for bit, as the undisturbed run, or with the",
        "model of the run without the attacked site's part, or with the attacked site halted and the evidence kept. In private",
        "runs, whose noise differs each time, the ledger must have paid for just the releases that were made or begun. The log",
        "must still verify. Enrolments are judged at a server's desk, where there is no federation yet: nobody is admitted, and",
        "the true member is, afterwards. This page is printed from the tests (`python -m counterseal.tests.attacks.table`) and",
        "compared with them.",
        "",
        "*By*: **network** changes what the transport carries, **storage** what the store holds, **server** and **site** hold",
        "their real keys and lie, **member** is a party that the group does not name active, **thief** has stolen a disk, a",
        "grant or a key, **peer** sends anything at all, **log holder** edits a copy of the log. *Code* is the error's `code`:",
        "in a fault, a receipt, a leaf of the log, or for a verifier the obligation that fails (`counterseal audit verify`).",
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
