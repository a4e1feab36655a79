"""What a worker sees of a site: the other half of `site doctor --through`.

The doctor makes a scratch folder in the state folder, locks a file in it, and starts `site probe` wherever its command prefix
leads. They talk over the probe's standard streams, a line each:

    doctor -> probe   {"scratch": ".doctor-1a2b3c4d", "nonce": "..."}
    probe -> doctor   {"counterseal-probe": 1, "nonce": "...", "seen": true, "excluded": true, ...}
    doctor -> probe   end of input, when it has tried the probe's lock in its turn

What the probe can be made to do by whoever starts it (the launcher lets the account that the server reaches do so): to say its
host, clock and device, and to write two small files into a folder with a doctor's name in the state folder. It reads no data
and no key.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from ...durable import replace_file
from ...errors import CountersealError
from ...trust.canonical import parse

__all__ = [
    "ANSWER",
    "LOCK",
    "MINE",
    "TABLE",
    "Greeting",
    "Report",
    "probe",
    "read_greeting",
    "read_table",
    "write_table",
]

LOCK, MINE, ANSWER, NONCE, TABLE = "lock", "workers-lock", "worker", "nonce", "table.sqlite"
_SCRATCH = re.compile(r"\.doctor-[a-z0-9_]{8}")
_NONCE = re.compile(r"[0-9a-f]{32}")
_LIMIT = 4096

Greeting = dict[str, str]
Report = dict[str, Any]


def probe(state: Path, device: Callable[[], str], streams: tuple[IO[bytes], IO[bytes]]) -> bool:
    """Answer the doctor's greeting, hold a lock until it hangs up, and return whether there was a greeting to answer."""
    source, target = streams
    greeting = read_greeting(source.readline(_LIMIT))
    if greeting is None:
        return False
    scratch = state / greeting["scratch"]
    report: Report = {
        "counterseal-probe": 1,
        "nonce": greeting["nonce"],
        "host": socket.gethostname(),
        "uid": os.getuid(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "seen": _seen(scratch, greeting["nonce"]),
    }
    held = None
    if report["seen"]:
        report["excluded"] = _excluded(scratch / LOCK)
        held = _take(scratch / MINE)
        replace_file(scratch / ANSWER, greeting["nonce"].encode(), step="doctor.worker", mode=0o600)
        write_table(scratch / TABLE, greeting["nonce"])
    report["device"] = device()
    report["time"] = time.time()
    target.write(json.dumps(report).encode() + b"\n")
    target.flush()
    source.readline(_LIMIT)  # the doctor hangs up
    if held is not None:
        os.close(held)
    return True


def read_greeting(line: bytes) -> Greeting | None:
    """Return the doctor's greeting in ``line``, or None: whoever can start this program writes it."""
    try:
        value = parse(line, limit=_LIMIT, what="greeting")
        found = {"scratch": str(value["scratch"]), "nonce": str(value["nonce"])}
    except (CountersealError, KeyError, TypeError):
        return None
    good = _SCRATCH.fullmatch(found["scratch"]) and _NONCE.fullmatch(found["nonce"])
    return found if good else None


def _seen(scratch: Path, nonce: str) -> bool:
    """Whether the folder here is the doctor's: it holds the nonce, and is no link to elsewhere."""
    try:
        return not scratch.is_symlink() and (scratch / NONCE).read_text() == nonce
    except (OSError, ValueError):
        return False


def _excluded(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _take(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def write_table(path: Path, nonce: str) -> None:
    """Write ``nonce`` into a database as the journal does: with a write-ahead log."""
    with closing(sqlite3.connect(path, isolation_level=None)) as table:
        table.execute("PRAGMA journal_mode=WAL")
        table.execute("PRAGMA synchronous=FULL")
        table.execute("CREATE TABLE IF NOT EXISTS probe (nonce TEXT)")
        table.execute("INSERT INTO probe VALUES (?)", (nonce,))


def read_table(path: Path) -> list[str]:
    """Return what was written, oldest first."""
    with closing(sqlite3.connect(path, isolation_level=None)) as table:
        return [str(row[0]) for row in table.execute("SELECT nonce FROM probe ORDER BY rowid")]
