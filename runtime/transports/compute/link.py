"""The server's end of the child process: requests go down, events come up, a dead child is started again.

Nothing is promised about a request: its child may die before, while or after doing it. The event ``{"end": "lost"}`` says
that every request without an answer is in that state, and the transport knows for each kind what that means.

The child gets those of the server's environment variables that an HTTPS client needs, and the one that its own secret
is in; not the passphrase of the server's keys.

Fields grouped by owner: all belong to the calling thread, except `_events`, a queue that the reader thread writes to.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from ....durable import make_folder
from ....errors import CountersealError
from ... import errors
from ...config.globus import GlobusConfig
from ...errors import GlobusFault, TransportError
from ..frames import read_frame, write_frame
from .child import FRAME_LIMIT

__all__ = ["ChildLink", "Link", "child_environment"]

_log = logging.getLogger(__name__)

_OPENING = 60.0
"""Seconds that a child gets to import the SDKs and to find its secret."""
_GRACE = 5.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0

_PASSED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_",
    "TMPDIR",
    "TZ",
    "PYTHON",
    "VIRTUAL_ENV",
    "SSL_CERT_",
    "REQUESTS_CA_BUNDLE",
    "GLOBUS_",
)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


class Link(Protocol):
    """A way to whoever speaks to Globus."""

    def send(self, request: dict[str, Any]) -> bool:
        """Pass a request on; False if there is nobody to take it now."""

    def receive(self, timeout: float) -> list[dict[str, Any]]:
        """Return the events so far, waiting at most ``timeout`` seconds for the first."""

    def close(self) -> None:
        """Let go of it."""


class ChildLink:
    """A child process, restarted after growing pauses."""

    def __init__(
        self,
        config: GlobusConfig,
        function: str,
        folder: Path,
        *,
        command: tuple[str, ...] = (),
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; standard error goes to a file in ``folder``."""
        self._opening = {"globus": config.model_dump(mode="json"), "function": function}
        self._environment = child_environment(config, os.environ)
        self._command = command or (sys.executable, "-Pm", __package__ + ".child")  # P: no code from the folder here
        self._folder = folder
        self._timer = timer
        self._process: subprocess.Popen[bytes] | None = None
        self._events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self._life = 0
        self._pause = _FIRST_PAUSE
        self._next = 0.0
        self._opened = False

    @property
    def pid(self) -> int | None:
        """The child's process, while there is one."""
        return None if self._process is None else self._process.pid

    def open(self) -> None:
        """Start the child and wait until it has found its credentials.

        Raises:
            GlobusFault, CustodyError: it cannot, as it said itself.
        """
        self._start()
        end = self._timer() + _OPENING
        while self._timer() < end:
            for event in self.receive(max(end - self._timer(), 0.0)):
                if event.get("end") == "open":
                    self._opened = True
                    return
                if event.get("end") in {"closed", "lost"}:
                    self.close()
                    raise _fault(event)
        self.close()
        raise TransportError("the process that speaks to Globus does not start", where=str(self._folder))

    def send(self, request: dict[str, Any]) -> bool:
        """Pass a request on, starting a child if there is none and its pause is over."""
        if self._process is None and (self._timer() < self._next or not self._start()):
            return False
        return self._write(request)

    def receive(self, timeout: float) -> list[dict[str, Any]]:
        """Return the events so far; the end of a child is one."""
        found: list[dict[str, Any]] = []
        wait: float | None = max(timeout, 0.0)
        while True:
            try:
                life, event = self._events.get(timeout=wait) if wait else self._events.get_nowait()
            except queue.Empty:
                return found
            if life != self._life:
                continue  # a word of an earlier child
            wait = None
            if event.get("end") == "lost":
                self._end()
            elif event.get("end") == "closed" and self._opened:
                _log.error("the process that speaks to Globus cannot: %s", _fault(event))
            elif "id" in event:
                self._pause = _FIRST_PAUSE
            found.append(event)

    def close(self) -> None:
        """End the child; what it was doing is found again in the next life."""
        self._end()

    def _start(self) -> bool:
        make_folder(self._folder, 0o700)
        self._life += 1
        with (self._folder / "child.stderr.txt").open("ab") as complaints:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                close_fds=True,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the server, which closes the pipe
            )
        source = cast(BinaryIO, self._process.stdout)
        threading.Thread(target=self._read, args=(self._life, source), name="events of Globus", daemon=True).start()
        return self._write(self._opening)

    def _write(self, value: dict[str, Any]) -> bool:
        if self._process is None or self._process.stdin is None:
            return False
        try:
            write_frame(cast(BinaryIO, self._process.stdin), json.dumps(value).encode())
        except (OSError, ValueError):
            return False  # its reader reports the end
        return True

    def _read(self, life: int, source: BinaryIO) -> None:
        with contextlib.suppress(Exception), source:  # whatever is on the pipe: the child is given up, and that is told
            while (frame := read_frame(source, FRAME_LIMIT)) is not None:
                self._events.put((life, json.loads(frame)))
        self._events.put((life, {"end": "lost"}))

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._life += 1
        self._next = self._timer() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        with contextlib.suppress(OSError):
            cast(BinaryIO, process.stdin).close()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def child_environment(config: GlobusConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of ``environ`` the child gets."""
    secret = config.client_secret
    if secret is not None and secret.command is not None:
        return dict(environ)  # nobody knows what a command needs
    passed = {name: value for name, value in environ.items() if name.startswith(_PASSED) or name.lower() in _PROXIES}
    if secret is not None and secret.environment is not None and secret.environment in environ:
        passed[secret.environment] = environ[secret.environment]
    return passed


def _fault(event: dict[str, Any]) -> CountersealError:
    """Return the error that the child reported, as the class it had there where that is one of ours."""
    told = {name: str(event.get(key, "")) for name, key in (("where", "where"), ("remedy", "mend"))}
    what = str(event.get("what") or "the process that speaks to Globus ended at once; see child.stderr.txt")
    for name in ("LoginNeededError", "GlobusSetupError", "GlobusUnavailableError", "TestCloudError"):
        kind: type[GlobusFault] = getattr(errors, name)
        if kind.code == event.get("code"):
            return kind(what, **told)
    return GlobusFault(what, **told)
