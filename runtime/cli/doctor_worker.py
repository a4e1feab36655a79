"""A worker: the site's state folder, clock and device as they are where a scheduler puts the work.

One run of `site probe` through the administrator's command prefix (`srun -N1`, `ssh node`, ...), so that a queue is waited
for once. Locks are tried in both directions, since some file systems give them on one machine only; what the worker wrote is
looked at after it ended, since some clusters give each job folders of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ...errors import CountersealError
from ...trust.canonical import parse
from ..site.probe import ANSWER, LOCK, MINE, NONCE, TABLE, read_table, write_table
from .doctor_check import Doubt, Fault
from .doctor_state import nearest

if TYPE_CHECKING:
    from ..config import SiteConfig
    from ..endpoint.kit import Kit

__all__ = ["WorkerChecks", "read_report"]

WAIT = 3600.0
"""Seconds for a queue."""
_SKEW = 300
_LONGEST_LINE = 1 << 16
_SHARED = "Put `state` on a file system that login and compute nodes share, and that keeps what a job wrote."
_LOCKS = "Ask for a file system with locks across nodes (Lustre: mounted with `flock`; NFS: version 4)."


class WorkerChecks:
    """The checks, with what the worker said."""

    def __init__(
        self, settings: SiteConfig, config: Path | None, kit: Callable[[], Kit | None], through: tuple[str, ...]
    ) -> None:
        self._settings = settings
        self._config = config
        self._kit = kit
        self._through = through
        self._report: dict[str, Any] | None = None
        self._reported = 0.0
        self._found: dict[str, bool] = {}

    def each(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield every check with its name."""
        if not self._through:
            return
        yield "worker: runs", self.runs
        yield "worker: state folder", self.shared
        yield "worker: locks", self.locks
        yield "worker: persistence", self.persists
        yield "worker: clock", self.clock
        yield "worker: device", self.device

    def runs(self) -> str:
        """Start the probe through the prefix, and talk with it."""
        place = nearest(self._settings.state)
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as name:
            scratch = Path(name)
            nonce = secrets.token_hex(16)
            for file, text in ((NONCE, nonce), (LOCK, "")):
                (scratch / file).write_text(text)
            write_table(scratch / TABLE, nonce)
            self._talk(scratch, nonce)
            self._found["written"] = _holds(scratch / ANSWER, nonce)
            self._found["table"] = _rows(scratch / TABLE) == [nonce, nonce]
            self._found["released"] = not _locked(scratch / MINE)
        report = self._said()
        return f"`{shlex.join(self._command())}` ran on {report['host']} as uid {report['uid']}"

    def shared(self) -> str:
        """See that the worker found the folder."""
        if not self._said()["seen"]:
            raise Fault("the worker does not see it", where=str(self._settings.state), remedy=_SHARED)
        return f"the worker sees {self._settings.state}"

    def locks(self) -> str:
        """See that locks held here are honoured there, and the other way round."""
        if not self._said()["seen"]:
            raise Doubt("cannot be tried: the worker does not see the folder")
        if not self._said()["excluded"] or not self._found["excludes"]:
            way = "here is not honoured there" if not self._said()["excluded"] else "there is not honoured here"
            raise Fault(f"a lock held {way}", where=str(self._settings.state), remedy=_LOCKS)
        if not self._found["released"]:
            raise Fault("a lock outlives the worker that held it", where=str(self._settings.state), remedy=_LOCKS)
        return "exclude each other in both directions, and end with their holder"

    def persists(self) -> str:
        """See that what the worker wrote is here after it ended."""
        if not self._said()["seen"]:
            raise Doubt("cannot be tried: the worker does not see the folder")
        if not (self._found["written"] and self._found["table"]):
            what = "file" if not self._found["written"] else "entry in a database"
            raise Fault(f"a {what} that the worker wrote is not here", where=str(self._settings.state), remedy=_SHARED)
        return "a file and a database that the worker wrote are here after it ended"

    def clock(self) -> str:
        """Compare the worker's clock with this one."""
        ahead = self._said()["time"] - self._reported
        if abs(ahead) > _SKEW:
            raise Fault(f"the worker's clock is {ahead:+.0f} seconds off", remedy="Keep the nodes' clocks with NTP.")
        return f"the worker's clock is {ahead:+.0f} seconds from this one's"

    def device(self) -> str:
        """Say which device the worker would train on."""
        told = str(self._said()["device"])
        if told.startswith("no: "):
            raise Fault(
                told.removeprefix("no: "), remedy="Ask the scheduler for a device (`--gpus`), or correct `device`."
            )
        return f"there: {told}"

    def _said(self) -> dict[str, Any]:
        if self._report is None:
            raise Doubt("the worker gave no report")
        return self._report

    def _command(self) -> list[str]:
        kit = self._kit()
        if kit is not None and kit.run_as is None and _ours(Path(kit.launcher)):
            return [*self._through, kit.launcher, "probe"]
        # As the account of the site, where sudo would lead. Nothing that the folder names is run: others may have written it.
        config = os.path.abspath(self._config or "site.yaml")  # noqa: PTH100  the same path is used there
        return [*self._through, sys.executable, "-Pm", "counterseal.runtime.cli", "site", "probe", "--config", config]

    def _talk(self, scratch: Path, nonce: str) -> None:
        command = self._command()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            raise Fault(f"{command[0]} does not run ({error.strerror})", remedy="Correct --through.") from None
        told = _Told(process)
        held = os.open(scratch / LOCK, os.O_RDWR | os.O_CLOEXEC)
        timer = threading.Timer(WAIT, process.terminate)
        timer.start()
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _say(process, {"scratch": scratch.name, "nonce": nonce})
            self._report = None if process.stdout is None else read_report(process.stdout, nonce)
            self._reported = time.time()
            self._found["excludes"] = _locked(scratch / MINE)
        finally:
            os.close(held)
            _hang_up(process, 60 if self._report is not None else 5)
            timer.cancel()
        if self._report is None:
            raise Fault(
                f"no report from `{shlex.join(command)}` (exit code {process.returncode}): {told.last()}",
                remedy="It must run its arguments on a worker, and pass standard input and output through.",
            )


class _Told:
    """What the process says on standard error, read so that it never blocks; the last line is shown."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lines: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        if self._process.stderr is not None:
            with self._process.stderr as lines:
                for line in lines:
                    self._lines = [*self._lines[-4:], line]

    def last(self) -> str:
        self._thread.join(5)
        lines = [line.decode(errors="replace").strip() for line in self._lines]
        return next((line[:300] for line in reversed(lines) if line), "it said nothing")


def _ours(launcher: Path) -> bool:
    """Whether nobody but root and this account wrote ``launcher``: a doctor that is run by root must run nothing else."""
    trusted = {0, os.geteuid()}
    places = [one.lstat() for one in (launcher, launcher.parent, launcher.parent.parent) if one.exists()]
    return len(places) == 3 and all(
        one.st_uid in trusted and (not one.st_mode & 0o022 or bool(one.st_mode & stat.S_ISVTX)) for one in places
    )


def _say(process: subprocess.Popen[bytes], greeting: dict[str, str]) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(greeting).encode() + b"\n")
            process.stdin.flush()


def read_report(source: IO[bytes], nonce: str) -> dict[str, Any] | None:
    """Return the probe's line; schedulers may write others before it, and foreign code whatever it likes."""
    while line := source.readline(_LONGEST_LINE):
        try:
            value = parse(line, limit=_LONGEST_LINE, what="report")
        except CountersealError:
            continue
        if isinstance(value, dict) and value.get("counterseal-probe") == 1 and value.get("nonce") == nonce:
            return value
    return None


def _hang_up(process: subprocess.Popen[bytes], patience: float) -> None:
    """End the talk; a command that still waits in a queue is told to go, so that it can take its job with it."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
    for end, wait in ((process.terminate, patience), (process.kill, 10.0)):
        try:
            process.wait(wait)
            break
        except subprocess.TimeoutExpired:
            end()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holds(path: Path, nonce: str) -> bool:
    try:
        return path.read_text() == nonce
    except (OSError, ValueError):
        return False


def _rows(path: Path) -> list[str]:
    try:
        return read_table(path)
    except sqlite3.Error:
        return []
