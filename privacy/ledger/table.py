"""The ledger's file: a SQLite table of entries that only grows, one writer at a time.

Rollback journal and ``synchronous=EXTRA``: after a commit the entry and the removal of the journal are on the disk, so a power
cut gives the table before the entry or after it, and nothing else. Triggers refuse to change, remove or overtake a row; they are
no defence against whoever owns the file, only against mistakes: the chain and the anchor are.

Each operation opens the file, works under a lock beside it, and closes it: nothing is carried over a fork, and any number of
processes may use one ledger in turn. Not handled: file systems whose locks do not hold between machines; keep the ledger on a
local disk (`counterseal site doctor` tests locks).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...durable import Probe, silent, sync_folder
from ..errors import LedgerDamagedError, LedgerError
from .entry import DAMAGED, Entry

__all__ = ["Table", "Transaction"]

_LOOK = 0.02
"""Seconds between looks at a lock that somebody else holds."""

_SCHEMA = """
CREATE TABLE entries (counter INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, entry BLOB NOT NULL) STRICT;
CREATE TRIGGER entries_stay BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER entries_hold BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER entries_follow BEFORE INSERT ON entries
WHEN NEW.counter <= (SELECT ifnull(max(counter), 0) FROM entries)
BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
"""


class Transaction:
    """The table in the hands of whoever holds the lock."""

    def __init__(self, connection: sqlite3.Connection, probe: Probe) -> None:
        self._connection = connection
        self._probe = probe

    def after(self, counter: int) -> Iterator[Entry]:
        """Yield the entries beyond ``counter``, in order.

        Raises:
            LedgerDamagedError: a row does not hold what it says.
        """
        rows = self._connection.execute(
            "SELECT counter, digest, entry FROM entries WHERE counter > ? ORDER BY counter", (counter,)
        )
        for number, digest, raw in rows:
            entry = Entry.parse(raw if isinstance(raw, bytes) else b"")  # another table than ours may hold anything
            if (entry.counter, entry.digest) != (number, digest):
                raise LedgerDamagedError(
                    f"row {number} does not hold the entry that it names", where="ledger", remedy=DAMAGED
                )
            yield entry

    def digest(self, counter: int) -> str | None:
        """Return the digest of the entry at ``counter``, or None where there is none."""
        row = self._connection.execute("SELECT digest FROM entries WHERE counter = ?", (counter,)).fetchone()
        return None if row is None else str(row[0])

    def append(self, entry: Entry) -> None:
        """Add ``entry``: it is on the disk when this returns."""
        self._probe("ledger.entry.write")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (entry.counter, entry.digest, entry.raw))
            self._probe("ledger.entry.commit")
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._probe("ledger.entry.done")


class Table:
    """The file at ``path``."""

    def __init__(self, path: Path, *, patience: float = 60.0, probe: Probe = silent) -> None:
        """Wait at most ``patience`` seconds for another process at work on the ledger."""
        self.path = path.resolve()
        self._patience = patience
        self._probe = probe

    @contextmanager
    def held(self) -> Iterator[Transaction]:
        """Hold the ledger: no other process reads or writes it meanwhile.

        Raises:
            LedgerError: there is none, or somebody else holds it for too long.
            LedgerDamagedError: the file is not a ledger.
        """
        if not self.path.is_file():
            raise LedgerError(
                "there is no ledger here",
                where=str(self.path),
                remedy="A new institution makes one with `counterseal ledger create`; a lost one comes back from its "
                "newest backup.",
            )
        with self._locked():
            connection = self._connect(self.path)
            try:
                yield Transaction(connection, self._probe)
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise self._refused(error) from None
            finally:
                connection.close()

    @contextmanager
    def making(self, first: Entry) -> Iterator[None]:
        """Hold the place of a ledger that is not there yet, and put it there with its first entry when the body is done.

        Raises:
            FileExistsError: a file is there already.
        """
        with self._locked():
            if self.path.exists():
                raise FileExistsError(17, "File exists", str(self.path))
            yield
            draft = self.path.with_name(f".{self.path.name}.{os.urandom(8).hex()}.draft")
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            try:
                connection = self._connect(draft)
                connection.executescript(_SCHEMA)
                Transaction(connection, self._probe).append(first)
                connection.close()
                os.link(draft, self.path)  # whole or absent; fails if the name is taken
            finally:
                draft.unlink(missing_ok=True)
            sync_folder(self.path.parent)
            self._probe("ledger.create.done")

    def _connect(self, path: Path) -> sqlite3.Connection:
        # isolation_level None: transactions begin where this module says so. The file is there: sqlite must not make one.
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=self._patience)
        try:
            mode = connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
            connection.execute("PRAGMA synchronous=EXTRA")
            if mode != "delete":
                raise LedgerError(f"the file keeps the journal mode {mode!r}", where=str(path))
        except (sqlite3.Error, UnicodeDecodeError) as error:  # a damaged schema is quoted, in whatever bytes it has
            connection.close()
            raise self._refused(error) from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _refused(self, error: sqlite3.Error | UnicodeDecodeError) -> LedgerError:
        if isinstance(error, sqlite3.OperationalError):
            return LedgerError(f"the file cannot be used ({error})", where=str(self.path))
        return LedgerDamagedError(
            f"the file is not a ledger, or was damaged ({error})",
            where=str(self.path),
            remedy=DAMAGED,
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(f".{self.path.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait(descriptor, time.monotonic() + self._patience)
            yield
        finally:
            os.close(descriptor)

    def _wait(self, descriptor: int, end: float) -> None:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise LedgerError(
                        "another process is at work on the ledger",
                        where=str(self.path),
                        remedy="Wait for it; an entry takes milliseconds, or as long as its anchor.",
                    ) from None
                time.sleep(_LOOK)
            else:
                return
