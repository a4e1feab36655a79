"""`StandIn`: the whole stand-in cloud as processes, on ports nobody uses, so that several can be on one machine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import IO, Self

from .cloud import Cloud
from .control import Control
from .daemon import EndpointDaemon

__all__ = ["Control", "EndpointDaemon", "StandIn"]


class StandIn:
    """Broker and cloud as processes that end with ours.

    ``folder`` keeps their logs and what the broker keeps between `stop_broker` and `start_broker`.

    >>> with StandIn(folder) as standin:  # doctest: +SKIP
    ...     client, secret = standin.control.client("server")
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.control: Cloud
        self._broker_port = 0
        self._broker: subprocess.Popen[str] | None = None
        self._cloud: subprocess.Popen[str] | None = None
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ends:
            ends.callback(self._end)
            self.folder.mkdir(parents=True, exist_ok=True)
            broker = self.start_broker()
            self._cloud, control = self._run("control", "--broker", broker)
            self.control = Control(control)
            self.url = self.control.url
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
