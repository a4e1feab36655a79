"""Sites as processes of this machine: one spawned process per site, JSON frames on its standard input and output.

Each process is the same program that a Globus Compute worker would start (`counterseal site run`), with its own
configuration, keys and folders. A process that dies is started again at the next dispatch; what it was working on is reported as
a failure, and the server sends the ticket again. Standard error goes to a file per site.

Fields grouped by owner: `_processes` and `_pending` belong to the calling thread; `_arrivals` is a queue that the reader
threads write to.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

from ...durable import make_folder
from ..errors import TransportError
from .frames import read_frame, write_frame
from .seam import Arrival

__all__ = ["LocalTransport", "SiteProcess", "spawn"]

_GRACE = 5.0
"""Seconds that a process gets to end by itself after its standard input closed."""


class SiteProcess(Protocol):
    """A running site: two pipes and a way to end it."""

    stdin: BinaryIO
    stdout: BinaryIO

    def end(self) -> None:
        """Close the pipes and wait; kill what does not end."""


class _Spawned:
    def __init__(self, command: Sequence[str], errors: IO[bytes], environment: Mapping[str, str] | None) -> None:
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            close_fds=True,
            env=None if environment is None else dict(environment),
        )
        errors.close()
        self.stdin = cast(BinaryIO, self._process.stdin)
        self.stdout = cast(BinaryIO, self._process.stdout)
        self.pid = self._process.pid

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.stdout.close()


def spawn(
    commands: Mapping[str, Sequence[str]], errors: Path, environment: Mapping[str, str] | None = None
) -> Callable[[str], SiteProcess]:
    """Return a starter of site processes: ``commands`` by site, standard error under the folder ``errors``.

    They get this process's environment, or ``environment`` where it holds what is none of theirs.
    """

    def start(site: str) -> SiteProcess:
        make_folder(errors)
        return _Spawned(commands[site], (errors / f"{site}.stderr.txt").open("ab"), environment)

    return start


class LocalTransport:
    """Deliveries to processes of this machine."""

    def __init__(self, start: Callable[[str], SiteProcess]) -> None:
        self._start = start
        self._processes: dict[str, SiteProcess] = {}
        self._pending: dict[str, set[str]] = {}
        self._arrivals: queue.Queue[Arrival | tuple[str, SiteProcess]] = queue.Queue()
        self._threads: list[threading.Thread] = []

    def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
        """Send ``delivery`` to the process of ``site``, starting it if need be."""
        process = self._processes.get(site) or self._open(site)
        self._pending.setdefault(site, set()).add(ticket)
        try:
            write_frame(process.stdin, ticket.encode() + b"\n" + delivery)
        except OSError:
            self._lose(site, process)

    def poll(self, timeout: float) -> list[Arrival]:
        """Return what has arrived, waiting at most ``timeout`` seconds for the first."""
        found: list[Arrival] = []
        wait: float | None = max(timeout, 0.0)
        while True:
            try:
                item = self._arrivals.get(timeout=wait) if wait else self._arrivals.get_nowait()
            except queue.Empty:
                return found
            wait = None
            if isinstance(item, Arrival):
                self._pending.get(item.site, set()).discard(item.ticket)
                found.append(item)
            else:
                self._lose(*item)

    def recover(self, tickets: dict[str, str]) -> set[str]:
        """Return the empty set: the processes of an earlier life died with it."""
        return set()

    def close(self) -> None:
        """End every process and its reader thread."""
        for process in self._processes.values():
            process.end()
        for thread in self._threads:
            thread.join(_GRACE)
        self._processes.clear()

    def _open(self, site: str) -> SiteProcess:
        process = self._start(site)
        self._processes[site] = process
        thread = threading.Thread(target=self._read, args=(site, process), name=f"answers of {site}", daemon=True)
        thread.start()
        self._threads.append(thread)
        return process

    def _read(self, site: str, process: SiteProcess) -> None:
        try:
            while (frame := read_frame(process.stdout)) is not None:
                ticket, _, answer = frame.partition(b"\n")
                self._arrivals.put(Arrival(site, ticket.decode("ascii", "replace"), answer))
        except (OSError, ValueError, TransportError):
            pass  # a broken pipe or garbage on it: the process is lost, which is reported next
        self._arrivals.put((site, process))

    def _lose(self, site: str, process: SiteProcess) -> None:
        if self._processes.get(site) is not process:
            return
        del self._processes[site]
        process.end()
        for ticket in sorted(self._pending.pop(site, ())):
            self._arrivals.put(Arrival(site, ticket, None, "site_process_ended"))
