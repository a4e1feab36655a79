"""Services that never end: answers without an end, a byte at a time, heads that never come, and too many brackets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import globus_sdk
import pytest
import requests

from counterseal.runtime.config import GlobusConfig, PassphraseConfig
from counterseal.runtime.errors import GlobusUnavailableError
from counterseal.runtime.globus.asking import asking, patience, transport
from counterseal.runtime.globus.bounded import Bounded
from counterseal.runtime.globus.credentials import Credentials
from counterseal.runtime.globus.groups import read_group

Serve = Callable[[socket.socket], None]

GROUP = "5d0f7e0c-0000-4000-8000-000000000000"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def service(serve: Serve) -> Iterator[str]:
    """Answer every connection with ``serve``, which may go on for as long as anybody listens."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(peer: socket.socket) -> None:
        with suppress(OSError), peer:
            peer.recv(65_536)
            serve(peer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.close()


def endless(peer: socket.socket) -> None:
    peer.sendall(HEAD + b"\r\n")
    while True:
        peer.sendall(b" " * 65_536)


def packed(peer: socket.socket) -> None:
    import zlib

    bomb = zlib.compressobj(9, wbits=31)
    data = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(64)) + bomb.flush()
    peer.sendall(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data) + data)


def drip(start: bytes, piece: bytes) -> Serve:
    def serve(peer: socket.socket) -> None:
        peer.sendall(start)
        while True:
            time.sleep(0.05)
            peer.sendall(piece)

    return serve


@pytest.mark.parametrize(
    "serve",
    [endless, packed, drip(HEAD + b"\r\n", b" "), drip(HEAD, b"X"), drip(b"HTTP/1.1 200", b"1")],
    ids=["endless", "packed", "slow body", "slow head", "slow status"],
)
def test_an_answer_without_an_end_is_no_answer(serve: Serve) -> None:
    with service(serve) as url, requests.Session() as session:
        session.trust_env = False
        session.mount("http://", Bounded(seconds=1.0, limit=1 << 20))
        started = time.monotonic()
        with pytest.raises(GlobusUnavailableError), asking("a service"):
            session.get(url, timeout=0.5)
        assert time.monotonic() - started < 10


def test_what_is_within_its_bounds_comes_whole() -> None:
    body = b'{"a": "' + b"x" * 200_000 + b'"}'

    def serve(peer: socket.socket) -> None:
        peer.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with service(serve) as url, requests.Session() as session:
        session.trust_env = False
        session.mount("http://", Bounded(seconds=10.0, limit=len(body)))
        assert session.get(url, timeout=5).content == body


def test_every_client_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERSEAL_TEST_SECRET", "s")
    secret = PassphraseConfig(environment="COUNTERSEAL_TEST_SECRET")
    with Credentials.open(GlobusConfig(client_id=GROUP, client_secret=secret)) as credentials:
        for client in (credentials.groups(), credentials.auth(), credentials.application()):
            for scheme in ("https://", "http://"):
                assert isinstance(client.transport.session.get_adapter(f"{scheme}globus"), Bounded)


@pytest.mark.parametrize("status", [200, 403, 500])
def test_brackets_without_end_are_an_answer_not_understood(status: int) -> None:
    body = b"[" * 100_000

    def serve(peer: socket.socket) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall(head.encode() + body)

    with service(serve) as url:
        client = globus_sdk.GroupsClient(
            base_url=url, transport=transport(test_cloud=True), retry_config=patience(renew=False)
        )
        with pytest.raises(GlobusUnavailableError):
            read_group(client, GROUP)
        client.transport.close()
