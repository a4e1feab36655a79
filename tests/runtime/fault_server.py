"""An HTTP server on loopback that misbehaves as told, one act per request, and remembers what it was sent."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias


@dataclass
class Received:
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Act: TypeAlias = Callable[[BaseHTTPRequestHandler, Received], None]


@dataclass
class FaultServer:
    """What the server holds, does next, and saw."""

    port: int = 0
    data: bytes = b""
    acts: list[Act] = field(default_factory=list)
    seen: list[Received] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.command, request.path, headers, body)
        with self.lock:
            self.seen.append(received)
            act = self.acts.pop(0) if self.acts else self.serve
        act(request, received)

    def serve(self, request: BaseHTTPRequestHandler, received: Received) -> None:
        """Answer as a store would."""
        if received.method == "PUT":
            reply(request, 200, b"", {"ETag": '"stored"'})
            return
        start, end = self.range(received)
        piece = self.data[start : end + 1]
        reply(request, 206, piece, {"Content-Range": f"bytes {start}-{start + len(piece) - 1}/{len(self.data)}"})

    @staticmethod
    def range(received: Received) -> tuple[int, int]:
        start, _, end = received.headers["range"].removeprefix("bytes=").partition("-")
        return int(start), int(end)


def reply(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    length: int | None = None,
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)
    if length is not None and length != len(body):
        request.close_connection = True


def status(code: int, error: str = "", **headers: str) -> Act:
    """Answer with a status and S3's error document."""
    body = f"<?xml version='1.0'?><Error><Code>{error}</Code><Message>m</Message></Error>".encode() if error else b""
    return lambda request, received: reply(request, code, body, headers)


def hang_up(request: BaseHTTPRequestHandler, received: Received) -> None:
    """Close the connection without an answer."""
    request.close_connection = True


def garbage(request: BaseHTTPRequestHandler, received: Received) -> None:
    """Answer with what is not HTTP."""
    request.wfile.write(b"\x00\x01 not http \r\n\r\n")
    request.close_connection = True


def half(server: FaultServer) -> Act:
    """Promise the whole range, send half of it, and hang up."""

    def act(request: BaseHTTPRequestHandler, received: Received) -> None:
        start, end = server.range(received)
        piece = server.data[start : end + 1]
        span = f"bytes {start}-{end}/{len(server.data)}"
        reply(request, 206, piece[: len(piece) // 2], {"Content-Range": span}, length=len(piece))

    return act


def drip(server: FaultServer, pause: float) -> Act:
    """Send the range one byte at a time."""

    def act(request: BaseHTTPRequestHandler, received: Received) -> None:
        start, end = server.range(received)
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {start}-{end}/{len(server.data)}")
        request.send_header("Content-Length", str(end - start + 1))
        request.end_headers()
        with contextlib.suppress(OSError):
            for byte in server.data[start : end + 1]:
                request.wfile.write(bytes([byte]))
                time.sleep(pause)
        request.close_connection = True

    return act


def sleepy(seconds: float) -> Act:
    """Say nothing for a while, then hang up."""

    def act(request: BaseHTTPRequestHandler, received: Received) -> None:
        time.sleep(seconds)
        request.close_connection = True

    return act


@contextlib.contextmanager
def fault_server(context: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    """Run a server inside the block."""
    state = FaultServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            with contextlib.suppress(OSError):
                state.handle(self)

        do_GET = do_HEAD = do_POST = do_PUT

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is what some tests want."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.port = int(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
