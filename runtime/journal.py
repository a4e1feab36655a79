"""The journal: what a party has decided, kept through any crash.

One SQLite table of (key, JSON value) in write-ahead mode with ``synchronous=FULL``: a value is durable when the call returns.
The state machines above it are plain code made of steps: `once(key, make)` runs ``make`` unless an earlier life of the process
already did, and returns the recorded value either way. So intent stands before side effect, randomness and clock readings
are drawn once, and a restart walks the same path to where it stopped.

One process at a time: a lock on a file beside the table refuses a second one, at once or after ``patience`` seconds. A site's
process waits: when a server was killed, the site that it had started ends its work in hand first, while the server's next
life already starts another. Not handled here: what the steps mean.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..durable import Probe, make_folder, silent
from .errors import JournalError

__all__ = ["Journal"]

_log = logging.getLogger(__name__)

_LOOK = 0.1
"""Seconds between looks at a lock that another process holds."""


class Journal:
    """Durable memory of one party."""

    def __init__(self, path: Path, *, probe: Probe = silent, patience: float = 0.0) -> None:
        """Open the journal at ``path``; wait at most ``patience`` seconds for another process to let go of it.

        Raises:
            JournalError: another process is at work on it, or this one already.
        """
        make_folder(path.parent)
        self._probe = probe
        self._lock = _lock(path.with_suffix(".lock"), patience)
        self._table = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._table.execute("PRAGMA journal_mode=WAL")
        self._table.execute("PRAGMA synchronous=FULL")
        self._table.execute("PRAGMA secure_delete=ON")
        self._table.execute(
            "CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
        )

    def get(self, key: str) -> Any:
        """Return the value recorded under ``key``, or None."""
        row = self._table.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        """Record ``value``, in place of what was there."""
        self._write("INSERT INTO facts VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value", key, value)

    def put_many(self, values: dict[str, Any]) -> None:
        """Record several values at once: all or none."""
        self._probe("journal.write")
        self._table.execute("BEGIN IMMEDIATE")
        try:
            self._table.executemany(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
                [(key, json.dumps(value)) for key, value in values.items()],
            )
        except BaseException:
            self._table.execute("ROLLBACK")
            raise
        self._table.execute("COMMIT")
        self._probe("journal.done")

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what is recorded under ``key``; if nothing is, record what ``make`` returns."""
        found = self.get(key)
        if found is None:
            found = make()
            self._write("INSERT INTO facts VALUES (?, ?)", key, found)
        return found

    def remove(self, key: str) -> None:
        """Forget ``key``."""
        self._probe("journal.write")
        self._table.execute("DELETE FROM facts WHERE key = ?", (key,))
        self._probe("journal.done")

    def remove_many(self, keys: Iterable[str]) -> None:
        """Forget several keys at once: all or none."""
        self._probe("journal.write")
        self._table.execute("BEGIN IMMEDIATE")
        try:
            self._table.executemany("DELETE FROM facts WHERE key = ?", [(key,) for key in keys])
        except BaseException:
            self._table.execute("ROLLBACK")
            raise
        self._table.execute("COMMIT")
        self._probe("journal.done")

    def erase(self, key: str, value: Any) -> None:
        """Record ``value`` in place of a secret, and leave no copy of the secret in the table's files.

        SQLite overwrites what is freed (``secure_delete``); the write-ahead log, which may still hold it, is emptied. What a
        file system or a disk keeps of overwritten blocks is not in our hands.
        """
        self.put(key, value)
        self._table.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def items(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Yield (key, value) for the keys that begin with ``prefix``, in order."""
        rows = self._table.execute(
            "SELECT key, value FROM facts WHERE key >= ? AND key < ? ORDER BY key", (prefix, prefix + "\U0010ffff")
        ).fetchall()
        for key, value in rows:
            yield key, json.loads(value)

    def close(self) -> None:
        """Release the table and its lock."""
        self._table.close()
        os.close(self._lock)

    def _write(self, statement: str, key: str, value: Any) -> None:
        self._probe("journal.write")
        self._table.execute(statement, (key, json.dumps(value)))
        self._probe("journal.done")


def _lock(path: Path, patience: float) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait(descriptor, path, time.monotonic() + patience)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _wait(descriptor: int, path: Path, end: float) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).strip()
            if time.monotonic() >= end or holder == b"%d" % os.getpid():
                raise _busy(path) from None
            if not told:
                _log.warning("another process is at work on %s; waiting for it", path.parent)
                told = True
            time.sleep(_LOOK)
        else:
            return


def _busy(path: Path) -> JournalError:
    return JournalError(
        "another process is at work on this state folder",
        where=str(path.parent),
        remedy="Wait for it or stop it; two processes would decide twice.",
    )
