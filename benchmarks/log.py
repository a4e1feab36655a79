"""The log's budget: append at least 5,000 events/s durably in batches, verify 100,000 leaves in under 5 s.

    python benchmarks/log.py [LEAVES] [FOLDER]

Prints, beside each figure, what this machine can do at best: one fsync of a small write on the same disk, one SHA-256 of
a leaf, one Ed25519 check. FOLDER (a temporary one by default) decides which disk is measured.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counterseal.audit.checks.evidence import Trust, gather
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import FederationCreate, RunStart, TicketExpire, TicketIssue
from counterseal.audit.tlog.log import Log
from counterseal.audit.tlog.merkle import root_of
from counterseal.audit.verify import verify
from counterseal.tests.audit.story import NOW, ORIGIN, RULE, SERVER, SITES, digest, federation
from counterseal.trust.documents import sign

BATCH = 100
PUBLISH_EVERY = 10_000


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def fsync_seconds(folder: Path) -> float:
    with (folder / "fsync").open("wb", buffering=0) as file:
        times = []
        for _ in range(50):
            file.write(b"x" * 4096)
            times.append(timed(lambda: os.fsync(file.fileno()))[1])
    return sorted(times)[len(times) // 2]


def leaves(count: int) -> list[bytes]:
    """Signed events as a server with many unanswered tickets would write them."""
    charter, keys = federation()
    about = {"federation": "test-federation", "actor": SERVER, "time": NOW}
    start = RunStart(
        **about, run="run-1", charter=charter.digest, config={}, schema_digest=digest("s"), rule=RULE, parameters={},
        model=digest("m"), suite="MLKEM768_X25519", seal_key="AAAA", environment=digest("e"),
    )  # fmt: skip
    events: list[Any] = [FederationCreate(**about, charter=charter.digest, signatures=(), authorizer="roster"), start]
    about |= {"run": "run-1", "version": 0}
    number = 0
    while len(events) < count:
        number += 1
        ticket = {"ticket": digest(f"ticket {number}"), "site": SITES[number % 3]}
        events.append(TicketIssue(**about, **ticket, seq=number, kind="witness", not_after=NOW + 60))
        events.append(TicketExpire(**about, **ticket, reason="not_answered"))
    signer = keys[SERVER].signer
    return [sign(event, signer).raw for event in events[:count]]


def append(folder: Path, content: list[bytes]) -> tuple[float, float]:
    """Append in batches and publish now and then; return the seconds of both."""
    checkpoint = federation()[1][SERVER].checkpoint
    assert checkpoint is not None
    appending = publishing = 0.0
    with Log.open(folder, ORIGIN, checkpoint) as log:
        for at in range(0, len(content), BATCH):
            appending += timed(lambda at=at: log.append(content[at : at + BATCH]))[1]  # type: ignore[misc]
            if log.size % PUBLISH_EVERY == 0:
                publishing += timed(log.checkpoint)[1]
        publishing += timed(log.checkpoint)[1]
    return appending, publishing


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as name:
        folder = Path(name)
        content, making = timed(lambda: leaves(count))
        size = sum(map(len, content)) / count
        print(f"{count} leaves of {size:.0f} bytes, made in {making:.1f} s; {os.cpu_count()} cores")
        print(f"one fsync here: {fsync_seconds(folder) * 1e3:.2f} ms")
        appending, publishing = append(folder / "log", content)
        rate = count / (appending + publishing)
        print(f"append: {count / appending:,.0f} events/s in batches of {BATCH}; with checkpoints {rate:,.0f} events/s")
        charter, keys = federation()
        checkpoint = keys[SERVER].checkpoint
        assert checkpoint is not None
        print(
            f"open again, every leaf hashed: {timed(lambda: Log.open(folder / 'log', ORIGIN, checkpoint).close())[1]:.2f} s"
        )
        source, trust = FolderSource(folder / "log"), Trust(charter)
        print(f"read and hash the tree: {timed(lambda: gather(source, trust))[1]:.2f} s")
        print(f"  (hashing alone: {timed(lambda: root_of(content))[1]:.2f} s; SHA-256 of the bytes: "
              f"{timed(lambda: [hashlib.sha256(leaf).digest() for leaf in content])[1]:.2f} s)")  # fmt: skip
        claim = keys[SERVER].signer.sign(content[0])
        one = timed(lambda: [keys[SERVER].signer.public.verify(claim, content[0]) for _ in range(1000)])[1]
        print(f"  (one Ed25519 check: {one * 1e3:.0f} us)")
        for workers in sorted({1, 2, os.cpu_count() or 1}):
            findings, seconds = timed(lambda workers=workers: verify(source, trust, workers=workers))  # type: ignore[misc]
            failed = [row.id for row in findings.rows if row.status == "FAIL"]
            print(f"verify all obligations, {workers} process(es): {seconds:.2f} s; failed: {failed or 'none'}")


if __name__ == "__main__":
    main()
