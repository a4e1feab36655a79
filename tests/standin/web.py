"""The stand-in's web server: routes, refusals, faults on demand, and the list of what was asked.

A handler runs under the state's lock and returns an `Answer`; what must not happen under the lock (waiting for the
broker) goes into `Answer.after`, which runs before the reply leaves.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .faults import Faults, Outcome
from .state import State

__all__ = ["Answer", "Refusal", "Request", "Router", "WebServer"]

_LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """A request, as a handler sees it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def form(self) -> dict[str, str]:
        """The body as a form."""
        return dict(parse_qsl(self.body.decode()))

    @property
    def json(self) -> Any:
        """The body as JSON; what is none is refused."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Refusal(400, "BAD_REQUEST", "the body is not JSON") from None

    def basic(self) -> tuple[str, str] | None:
        """Return user and password of an HTTP Basic header."""
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return None
        user, _, password = base64.b64decode(value).decode().partition(":")
        return user, password

    def bearer(self) -> str | None:
        """Return the token of a Bearer header."""
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        return value if kind.lower() == "bearer" else None


@dataclass(frozen=True)
class Answer:
    """A reply: a JSON document, or text."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    after: Callable[[], None] | None = None
    """Run without the lock, before the reply leaves."""

    def encoded(self) -> tuple[str, bytes]:
        """Return the content type and the bytes."""
        if isinstance(self.body, str):
            return "text/html; charset=utf-8", self.body.encode()
        return "application/json", json.dumps(self.body).encode()


class Refusal(Exception):
    """An error answer in the shape that Groups and Compute give; ``body`` replaces the shape altogether."""

    def __init__(self, status: int, code: str, message: str, *, body: Any = None, **more: Any) -> None:
        super().__init__(message)
        shape = {
            "code": code,
            "message": message,
            "detail": message,
            "reason": message,
            "status": "Failed",
            "http_status_code": status,
            "errors": [{"code": code, "detail": message, "title": code, "status": str(status)}],
        }
        self.answer = Answer({**shape, **more} if body is None else body, status)


Handler = Callable[..., Answer]


class Router:
    """The routes of one service below its prefix; ``<name>`` in a pattern is handed on as an argument."""

    def __init__(self, service: str, prefix: str) -> None:
        self.service = service
        self.prefix = prefix
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, pattern: str, handler: Handler) -> None:
        """Route ``method`` and ``pattern`` to ``handler``."""
        regex = re.sub(r"<(\w+)>", r"(?P<\1>[^/]+)", pattern)
        self._routes.append((method, re.compile(regex), handler))

    def answer(self, request: Request) -> Answer:
        """Return the handler's answer, refusals included; 404 for what has no route."""
        try:
            for method, regex, handler in self._routes:
                match = regex.fullmatch(request.path)
                if match and method == request.method:
                    return handler(request, **match.groupdict())
        except Refusal as refusal:
            return refusal.answer
        return Refusal(404, "NOT_FOUND", f"no such route: {request.method} {request.path}").answer


class WebServer:
    """An HTTP server on ``localhost``; it can be closed and opened again on the same port."""

    def __init__(self, state: State, routers: list[Router], faults: Faults, port: int = 0) -> None:
        self._state = state
        self._routers = sorted(routers, key=lambda router: -len(router.prefix))
        self._faults = faults
        self.port = port
        self.requests: list[tuple[str, str, int]] = []
        self._server: _Server | None = None

    def open(self) -> None:
        """Listen; with port 0 on a free port, which is kept from then on."""
        self._server = _Server(("127.0.0.1", self.port), self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="stand-in").start()

    def close(self) -> None:
        """Stop listening and end the connections that are open."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up()

    def handle(self, request: Request) -> Answer | None:
        """Return the answer, or None when a fault says that there be none."""
        router = next(each for each in self._routers if request.path.startswith(each.prefix))
        below = request.path[len(router.prefix) :]
        outcome = self._faults.meet(router.service, request.method, below, request.headers.get("authorization", ""))
        answer = self._fault(outcome) if outcome.status else self._route(router, request, below)
        dropped = outcome.drop
        self.requests.append((request.method, request.path, 0 if dropped else answer.status))
        return None if dropped else answer

    def _fault(self, outcome: Outcome) -> Answer:
        refusal = Refusal(outcome.status, outcome.code, "on demand", body=outcome.body)
        return Answer(refusal.answer.body, outcome.status, outcome.headers)

    def _route(self, router: Router, request: Request, below: str) -> Answer:
        inner = Request(request.method, below, request.query, request.headers, request.body)
        with self._state.lock:
            answer = router.answer(inner)
        if answer.after is not None:
            answer.after()
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], web: WebServer) -> None:
        super().__init__(address, _Handler)
        self.web = web
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End what connections are left: a kept-alive one would still be answered."""
        for each in list(self._open):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it ended by itself

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that ended early; everything else is a fault of ours."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > _LARGEST:
            self.send_error(413)
            return
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        request = Request(self.command, parts.path, query, headers, self.rfile.read(length))
        answer = self.server.web.handle(request)
        if answer is None:
            self.close_connection = True
            return
        self._reply(answer)

    def _reply(self, answer: Answer) -> None:
        kind, body = answer.encoded()
        self.send_response(answer.status)
        for name, value in {"Content-Type": kind, **answer.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: `WebServer.requests` knows."""
