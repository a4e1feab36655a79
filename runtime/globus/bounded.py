"""Bounded answers: so many bytes and so many seconds, for head and body together, whatever the other end does.

The libraries below bound each silence and nothing else. A service, or a proxy that ends TLS, that sends a byte every four
seconds would hold a round for ever and past its deadline, and one that never stops sending would fill the memory.
What is over a bound is no answer: to whoever asked it looks like a connection that broke.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

__all__ = ["Bounded"]

_PIECE = 1 << 16


class Bounded(HTTPAdapter):
    """Sends requests, and reads each answer whole within ``seconds`` and ``limit`` bytes (unpacked)."""

    def __init__(self, *, seconds: float, limit: int) -> None:
        self._seconds = seconds
        self._limit = limit
        super().__init__()

    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        """Make the pools, of connections that are cut when the head of an answer takes too long."""
        super().init_poolmanager(*args, **settings)
        self.poolmanager.pool_classes_by_scheme = _pools(self._seconds)

    def proxy_manager_for(self, *args: Any, **settings: Any) -> Any:
        """Make the pools behind a proxy likewise."""
        manager = super().proxy_manager_for(*args, **settings)
        manager.pool_classes_by_scheme = _pools(self._seconds)
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **settings: Any) -> requests.Response:
        """Send ``request`` and read its answer.

        Raises:
            requests.ConnectionError: broken, over its time, or over its size.
        """
        end = time.monotonic() + self._seconds
        response = super().send(request, *args, **{**settings, "stream": True})
        raw = response.raw
        try:
            response.raw = io.BytesIO(self._body(raw.read1, end, request))
        except (HTTPError, OSError) as error:
            raw.close()
            if isinstance(error, requests.RequestException):
                raise
            raise requests.ConnectionError(type(error).__name__, request=request) from None
        raw.release_conn()
        return response

    def _body(self, read: Callable[..., bytes], end: float, request: requests.PreparedRequest) -> bytes:
        data = bytearray()
        while piece := read(_PIECE, decode_content=True):
            data += piece
            if len(data) > self._limit or time.monotonic() > end:
                raise requests.ConnectionError("an answer too long, or too slow", request=request)
        return bytes(data)


def _pools(seconds: float) -> dict[str, Any]:
    class Plain(_Cut, HTTPConnection):
        most = seconds

    class Secure(_Cut, HTTPSConnection):
        most = seconds

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _Cut:
    """A connection that ends if the head of an answer is not there in time."""

    most: float
    sock: Any

    def getresponse(self) -> Any:
        over = threading.Event()
        timer = threading.Timer(self.most, _shut, [self.sock, over])
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()
        if over.is_set():  # half a head can look like a whole one
            answer.close()
            raise TimeoutError("the head of an answer took too long")
        return answer


def _shut(sock: socket.socket | None, over: threading.Event) -> None:
    over.set()
    if sock is not None:
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which would touch what the reader is using
