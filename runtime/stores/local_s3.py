"""A private S3 server on this machine: SeaweedFS, for the demo, the tests and the benchmarks.

Production has an S3 already. This one runs unprivileged as the current user, listens on loopback only, on ports nobody
uses, with keys made for one run, and leaves no process behind: not after an exception, and not when its parent is
killed, for a small watchdog holds the other end of a pipe and ends the server when the pipe closes.

Not handled: keeping data. The folder is the caller's; two servers must not share one.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, Self

from ...durable import make_folder
from ..errors import StoreSetupError, StoreUnavailableError
from .s3_place import S3Place

__all__ = ["LocalS3", "find_weed"]

_REMEDY = "Install it: pip install --require-hashes --no-deps -r requirements/seaweedfs.txt"
_SERVICES = ("master", "volume", "filer", "s3")
_START = 60.0
_STOP = 5.0  # left alone the server takes 16 s to end; its data is not kept, so we do not wait that long
_SOCKETS = Path("/tmp")  # noqa: S108 - where the server puts its gRPC sockets, whatever TMPDIR says
# Waits for the end of its input, which is the end of whoever started it, then ends the server if it is still that.
_WATCHDOG = (
    'cat >/dev/null; grep -q weed "/proc/$1/cmdline" 2>/dev/null || exit 0; '
    'kill -TERM "$1"; sleep 5; grep -q weed "/proc/$1/cmdline" 2>/dev/null && kill -KILL "$1"; exit 0'
)


def find_weed() -> Path:
    """Return the server's program from this Python's environment, else from PATH.

    Raises:
        StoreSetupError: it is not installed.
    """
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if os.access(folder / "weed", os.X_OK):
            return folder / "weed"
    found = shutil.which("weed")
    if found is None:
        raise StoreSetupError("the program weed (SeaweedFS) is not installed", where="local S3", remedy=_REMEDY)
    return Path(found)


class LocalS3:
    """A SeaweedFS S3 server in ``folder``, alive inside the ``with`` block.

    >>> with LocalS3(folder) as server:  # doctest: +SKIP
    ...     store = S3Store(server.place("models"), access_key=server.access_key, secret_key=server.secret_key)
    ...     store.create_bucket()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.access_key = f"LOCAL{secrets.token_hex(8).upper()}"
        self.secret_key = secrets.token_urlsafe(32)
        self.port = 0
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs: benchmarks count its CPU apart."""
        return self._process.pid if self._process is not None else None

    @property
    def endpoint_url(self) -> str:
        """The service's address."""
        return f"http://127.0.0.1:{self.port}"

    def place(self, bucket: str, prefix: str = "") -> S3Place:
        """Return the place of ``bucket`` on this server."""
        return S3Place(bucket, prefix, endpoint_url=self.endpoint_url, insecure_loopback=True)

    def __enter__(self) -> Self:
        program = find_weed()
        make_folder(self.folder, 0o700)
        try:
            for last in (False, False, True):  # a port may be taken between our look and the server's start
                if self._start(program, patience=_START if last else _START / 2):
                    return self
                self._stop()
            raise StoreUnavailableError(
                "the local S3 server did not start", where="local S3", remedy=f"Read {self.folder / 'weed.log'}."
            )
        except BaseException:
            self._stop()
            raise

    def __exit__(self, *exc: object) -> None:
        self._stop()

    def _start(self, program: Path, *, patience: float) -> bool:
        ports = self._ports = _free_ports()
        self.port = ports["s3"]
        command = [str(program), f"-logdir={make_folder(self.folder / 'logs', 0o700)}", "server", *self._options(ports)]
        environment = {
            "PATH": os.defpath,
            "HOME": str(self.folder),
            "TMPDIR": str(make_folder(self.folder / "tmp", 0o700)),
            "WEED_S3_SSE_KEY": secrets.token_hex(16),
            **{name: os.environ[name] for name in ("GOMAXPROCS", "GOGC", "GOMEMLIMIT") if name in os.environ},
        }
        with (self.folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment,
                start_new_session=True,  # a Ctrl-C in the terminal is for us; we stop the server in order
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self._wait(time.monotonic() + patience)

    def _options(self, ports: dict[str, int]) -> list[str]:
        data = make_folder(self.folder / "data", 0o700)
        options = [
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={self._identities()}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=0",
            "-volume.preStopSeconds=1",
            "-s3.localSocket=tmp/s3.sock",  # relative: a socket's path has at most 107 bytes
            "-filer.localSocket=tmp/filer.sock",
        ]
        for service in _SERVICES:
            options += [f"-{service}.port={ports[service]}", f"-{service}.port.grpc={ports[service] + 10_000}"]
        return options

    def _identities(self) -> Path:
        """Write the server's one identity to a file that only we can read."""
        identity = {
            "name": "local",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        local = {"type": "local", "enableOnDemandCreate": True}
        config: dict[str, Any] = {
            "identities": [identity],
            "kms": {"default_provider": "local", "providers": {"local": local}},
        }
        path = self.folder / "s3.json"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(config, file)
        return path

    def _wait(self, deadline: float) -> bool:
        """Wait until the server refuses a stranger, which it does only once it can check signatures."""
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                return False
            if _answer(self.port) == http.client.FORBIDDEN:
                return True
            time.sleep(0.05)
        return False

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.kill()
            watchdog.wait()
            if watchdog.stdin is not None:
                watchdog.stdin.close()
        for service, port in self._ports.items():
            (_SOCKETS / f"seaweedfs-{service}-grpc-{port + 10_000}.sock").unlink(missing_ok=True)


def _answer(port: int) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _free_ports() -> dict[str, int]:
    """Return a port for each service such that it and the one 10,000 above (for gRPC) are free now."""
    ports: dict[str, int] = {}
    while len(ports) < len(_SERVICES):
        port = 20_000 + secrets.randbelow(
            12_000
        )  # with 10,000 more still below the system's own range on Linux is rare
        if port not in ports.values() and _is_free(port) and _is_free(port + 10_000):
            ports[_SERVICES[len(ports)]] = port
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
