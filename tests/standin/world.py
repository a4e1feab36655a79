"""`StandIn`: the whole stand-in cloud as processes, on the port that the Compute SDK's environment "local" is hard-wired to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

from .cloud import Cloud
from .control import Control
from .daemon import EndpointDaemon

__all__ = ["PORT", "Control", "EndpointDaemon", "StandIn"]

PORT = 5000
_LOCK = Path(tempfile.gettempdir()) / "counterseal-standin-5000.lock"
_PATIENCE = 1_200.0  # another worker's whole module may come first


class StandIn:
    """Broker and cloud as processes that end with ours; the lock lets one of them be on this machine.

    ``folder`` keeps their logs and what the broker keeps between `stop_broker` and `start_broker`.

    >>> with StandIn(folder) as standin:  # doctest: +SKIP
    ...     client, secret = standin.control.client("server")
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://localhost:{PORT}"
        self.control: Cloud
        self._broker_port = 0
        self._broker: subprocess.Popen[str] | None = None
        self._cloud: subprocess.Popen[str] | None = None
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ends:
            ends.enter_context(_machine_wide())
            ends.callback(self._end)
            self.folder.mkdir(parents=True, exist_ok=True)
            _require_free(PORT)
            broker = self.start_broker()
            self._cloud, control = self._run("control", "--port", str(PORT), "--broker", broker)
            self.control = Control(control)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ends.close()

    def _end(self) -> None:
        _stop(self._cloud)
        _stop(self._broker)

    def start_broker(self) -> str:
        """Start the broker, on the same port and with what it kept, and return its address."""
        kept = self.folder / "broker.json"
        self._broker, url = self._run("broker", "--port", str(self._broker_port), "--file", str(kept))
        self._broker_port = int(url.rpartition(":")[2].partition("/")[0])
        return url

    def stop_broker(self) -> None:
        """End the broker in order: connections break, durable queues are kept."""
        _stop(self._broker)

    def kill_broker(self) -> None:
        """End the broker at once: what it held is lost, beyond what an earlier `stop_broker` kept."""
        if self._broker is not None:
            self._broker.kill()
            _stop(self._broker)

    def stop_cloud(self) -> None:
        """An outage of the web services; what they knew is still known after `start_cloud`, and the broker goes on."""
        self.control.close()

    def start_cloud(self) -> None:
        """The end of the outage."""
        self.control.open()

    def _run(self, module: str, *options: str) -> tuple[subprocess.Popen[str], str]:
        """Run a module of ours as a child, and return it with the address that it prints when it is ready."""
        command = [sys.executable, "-m", f"counterseal.tests.standin.{module}", "--child", *options]
        with (self.folder / f"{module}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        output: IO[str] | None = process.stdout
        line = output.readline().strip() if output is not None else ""
        if not line:
            _stop(process)
            raise RuntimeError(f"{module} did not start: {(self.folder / f'{module}.log').read_text()[-2000:]}")
        return process, line


def _stop(process: subprocess.Popen[str] | None) -> None:
    if process is None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


@contextlib.contextmanager
def _machine_wide() -> Iterator[None]:
    """Hold the one lock of this machine for port 5000."""
    handle = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"another stand-in holds {_LOCK}") from None
                time.sleep(0.2)
        yield
    finally:
        os.close(handle)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise RuntimeError(f"port {port} is taken by something else, and the Compute SDK knows no other") from None
