"""Verifying a log: numbered obligations, each with its own verdict.

    findings = verify(FolderSource(folder), Trust(charter))

What the caller brings (`Trust`) is the root: a charter whose digest was compared with the members' officers. Nothing that
lies in the copy of the log is trusted, and no network is used. The obligations:

     1  checkpoints are of the charter's origin and key, each under its own size
     2  the leaves hash to the largest checkpoint's root
     3  every earlier checkpoint is a prefix of it (append-only)
     4  tiles equal the hashes of the leaves
     5  a quorum of witnesses cosigned checkpoints that hold every commit; else UNWITNESSED
     6  every leaf is an event signed by its actor's key as valid at that index
     7  every actor may say what it said
     8  each run: start, rounds (open, tickets, receipts, verdicts, commit or abort), end, in that order
     9  every verdict belongs to an issued ticket, and every admitted update to that site's receipt for it
    10  every commit counts exactly the admitted updates, with charter weights, and names everybody left out
    11  models chain from the run's start through every commit to its end and release
    12  nobody counts who was removed, whose key was revoked, or for whom the group did not answer yes
    13  every receipt saw a prefix of this log, and each site's receipts are one chain
    14  no evidence of equivocation was filed
    15  every release under privacy terms is stated by its site, counted, and within what the run announced
    16  arithmetic, privacy ledgers, noise, commitments: NOT COVERED here

PASS in all of them still says nothing about a fork shown to parties whose receipts are not in this log, unless 5 holds
with a quorum that overlaps in an honest site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from .checks.evidence import Evidence, Trust, gather
from .checks.findings import Finding, Findings, Outcome, Status, judge
from .checks.leaf_checks import Reading, check_actors, check_leaves, read_events, unenrolled
from .checks.privacy_checks import check_privacy
from .checks.receipt_checks import check_contradictions, check_membership, check_receipts
from .checks.run_checks import Runs, replay_runs
from .checks.source import LogSource
from .checks.tree_checks import check_checkpoints, check_entries, check_prefixes, check_quorum, check_tiles

__all__ = ["OBLIGATIONS", "verify"]

Check: TypeAlias = Callable[[Evidence, Reading, Runs], Outcome]

_NOT_HERE = (
    "whether a commit's arithmetic is right: replay it from the sealed inputs (`counterseal audit replay`)",
    "whether a site's privacy ledger held, and whether it drew the noise: only its word and its ledger's heads leave it",
    "what a commitment hides, before it is opened",
    "whether a clock was right: order in the log is what counts",
)

_NAMED = 10


def _not_here(evidence: Evidence, reading: Reading) -> Outcome:
    names = unenrolled(evidence, reading)
    if not names:
        return Outcome(Status.NOT_COVERED, _NOT_HERE)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    without = (
        f"never admitted with a token, so that the charter alone speaks for their keys: {', '.join(names[:_NAMED])}"
    )
    return Outcome(Status.NOT_COVERED, (*_NOT_HERE, without + more))


def _unfinished(runs: Runs) -> list[str]:
    return [f"run {name} has not ended" for name in runs.open_runs]


OBLIGATIONS: tuple[tuple[str, str, Check], ...] = (
    ("1", "checkpoints are the charter's log's", lambda e, reading, runs: check_checkpoints(e)),
    ("2", "leaves hash to the signed root", lambda e, reading, runs: check_entries(e)),
    ("3", "the log only grew", lambda e, reading, runs: check_prefixes(e)),
    ("4", "tiles equal the leaves", lambda e, reading, runs: check_tiles(e)),
    (
        "5",
        "a quorum of witnesses saw every commit",
        lambda e, reading, runs: check_quorum(e, reading.history, reading.events),
    ),
    ("6", "leaves are signed by keys valid at their index", lambda e, reading, runs: check_leaves(reading)),
    ("7", "actors are entitled to what they said", lambda e, reading, runs: check_actors(e, reading)),
    ("8", "runs and rounds are well-formed", lambda e, reading, runs: judge(runs.order, _unfinished(runs))),
    ("9", "updates have their tickets and receipts", lambda e, reading, runs: judge(runs.updates)),
    ("10", "commits count exactly the admitted updates", lambda e, reading, runs: judge(runs.commits)),
    ("11", "models chain from start to end", lambda e, reading, runs: judge(runs.chain)),
    (
        "12",
        "nobody removed or revoked counts",
        lambda e, reading, runs: check_membership(reading.history, runs.admitted, runs.members),
    ),
    ("13", "receipts saw this log", lambda e, reading, runs: check_receipts(e, reading.events, reading.history)),
    ("14", "nobody was caught contradicting itself", lambda e, reading, runs: check_contradictions(reading.events)),
    ("15", "private releases are stated and counted", lambda e, reading, runs: check_privacy(reading.events)),
    ("16", "arithmetic, ledgers, noise, commitments, clocks", lambda e, reading, runs: _not_here(e, reading)),
)

_OF_THE_STORY = frozenset({"8", "9", "10", "11", "12", "13", "14", "15"})


def verify(source: LogSource, trust: Trust, *, workers: int | None = None) -> Findings:
    """Return what became of each obligation for the copy of a log in ``source``.

    Long logs have their signatures checked by ``workers`` processes, by default one a core.

    Raises:
        CharterError: the charter names no checkpoint key.
    """
    evidence = gather(source, trust)
    reading = read_events(evidence, workers=workers)
    runs = replay_runs(reading.events, trust.charter.charter)
    rows = tuple(
        Finding(id_, checks, outcome.status, outcome.reasons)
        for id_, checks, check in OBLIGATIONS
        for outcome in [_qualified(id_, check(evidence, reading, runs), evidence)]
    )
    latest = evidence.latest
    whole = latest is not None and rows[1].status is Status.PASS
    return Findings(
        trust.origin, latest.size if latest and whole else 0, latest.root.hex() if latest and whole else "", rows
    )


def _qualified(id_: str, outcome: Outcome, evidence: Evidence) -> Outcome:
    # A story told by leaves that could not all be read may be right as far as it goes; nobody may call it PASS.
    if id_ not in _OF_THE_STORY or outcome.status is not Status.PASS:
        return outcome
    if evidence.latest is None or evidence.unread:
        return Outcome(Status.UNDECIDED, ("the leaves could not all be read",))
    return outcome
