"""A proxy in front of a real S3 server that harms what passes, as told, and changes nothing else.

The signature covers the Host header, so the proxy's address *is* the endpoint for both ends of the store: it hands every
request on with the Host that it was signed for. `Rule` says which requests are harmed, how, and how often.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3_place import S3Place

from .fault_server import reply

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass(frozen=True)
class Passing:
    """A request on its way."""

    method: str
    path: str
    query: str
    range: str
    by_site: bool
    """Whether it goes by a grant or another signed address, and not by the server's library."""


@dataclass
class Passed:
    """What the real server answered."""

    status: int
    headers: dict[str, str]
    body: bytes


Harm: TypeAlias = "Callable[[BaseHTTPRequestHandler, Passing, Callable[[], Passed]], None]"


@dataclass
class Rule:
    """Harm the requests that ``which`` names, ``times`` times after the first ``after``."""

    which: Callable[[Passing], bool]
    harm: Harm
    times: int = 1
    after: int = 0
    met: int = 0

    def takes(self, passing: Passing) -> bool:
        if not self.which(passing):
            return False
        self.met += 1
        return self.after < self.met <= self.after + self.times

    @property
    def done(self) -> int:
        """How often it harmed something."""
        return max(0, min(self.met - self.after, self.times))


@dataclass
class FaultProxy:
    """The proxy's address, its rules and what passed."""

    server: LocalS3
    port: int = 0
    rules: list[Rule] = field(default_factory=list)
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def place(self, bucket: str, prefix: str = "") -> S3Place:
        return S3Place(bucket, prefix, endpoint_url=self.origin, insecure_loopback=True)

    def rule(self, which: Callable[[Passing], bool], harm: Harm, times: int = 1, after: int = 0) -> Rule:
        with self.lock:
            self.rules.append(Rule(which, harm, times, after))
            return self.rules[-1]

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        parts = urlsplit(request.path)
        passing = Passing(
            request.command,
            parts.path,
            parts.query,
            request.headers.get("Range", ""),
            "X-Amz-Signature" in parts.query,
        )
        with self.lock:
            rule = next((one for one in self.rules if one.takes(passing)), None)
        if rule is not None:
            rule.harm(request, passing, lambda: self._ask(request, body))
        else:
            give(request, self._ask(request, body))

    def _ask(self, request: BaseHTTPRequestHandler, body: bytes) -> Passed:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            if request.command == "HEAD":
                headers["Content-Length"] = answer.getheader("Content-Length", "0")
            with self.lock:
                self.seen.append((request.command, request.path.partition("?")[0], answer.status))
            return Passed(answer.status, headers, data)
        finally:
            connection.close()


def give(request: BaseHTTPRequestHandler, passed: Passed) -> None:
    """Hand an answer on as it came."""
    if request.command != "HEAD":
        reply(request, passed.status, passed.body, passed.headers)
        return
    request.send_response(passed.status)
    for name, value in passed.headers.items():
        request.send_header(name, value)
    request.end_headers()


# Harms


def refusing(status: int, code: str) -> Harm:
    """Answer for the server, which never hears of the request."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>".encode()

    def harm(request: BaseHTTPRequestHandler, passing: Passing, ask: Callable[[], Passed]) -> None:
        reply(request, status, b"" if request.command == "HEAD" else body)

    return harm


def losing(request: BaseHTTPRequestHandler, passing: Passing, ask: Callable[[], Passed]) -> None:
    """Let the server do it, and lose the answer: the next try meets its own object."""
    ask()
    request.close_connection = True


def cutting(request: BaseHTTPRequestHandler, passing: Passing, ask: Callable[[], Passed]) -> None:
    """Break off in the middle of the body."""
    passed = ask()
    half = passed.body[: len(passed.body) // 2]
    reply(request, passed.status, half, passed.headers, length=len(passed.body))
    request.close_connection = True


def slowing(seconds: float) -> Harm:
    """Hand the body on in two halves with a pause."""

    def harm(request: BaseHTTPRequestHandler, passing: Passing, ask: Callable[[], Passed]) -> None:
        passed = ask()
        request.send_response(passed.status)
        for name, value in passed.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(passed.body)))
        request.end_headers()
        half = len(passed.body) // 2
        request.wfile.write(passed.body[:half])
        request.wfile.flush()
        time.sleep(seconds)
        request.wfile.write(passed.body[half:])

    return harm


def falsifying(request: BaseHTTPRequestHandler, passing: Passing, ask: Callable[[], Passed]) -> None:
    """Change one bit of the body and nothing else."""
    passed = ask()
    body = bytearray(passed.body)
    if body:
        body[len(body) // 2] ^= 1
    give(request, Passed(passed.status, passed.headers, bytes(body)))


@contextlib.contextmanager
def fault_proxy(server: LocalS3) -> Iterator[FaultProxy]:
    """Run a proxy in front of ``server`` inside the block."""
    state = FaultProxy(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            with contextlib.suppress(OSError):
                state.handle(self)

        do_GET = do_HEAD = do_POST = do_DELETE = do_PUT

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is what some tests want."""

    proxy = Server(("127.0.0.1", 0), Handler)
    state.port = int(proxy.server_address[1])
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
