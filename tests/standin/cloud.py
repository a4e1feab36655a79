"""`Cloud`: the stand-in for Globus' web services, in this process or as one of its own."""

from __future__ import annotations

from typing import Self

from .levers import Levers
from .state import State
from .web import WebServer

__all__ = ["Cloud"]


class Cloud(Levers):
    """Globus Auth (/auth), Groups (/groups) and Compute (/v2, /v3) on one port of this machine (0: a free one).

    Compute runs nothing without a broker, but registers and shows functions.

    >>> with Cloud() as cloud:  # doctest: +SKIP
    ...     client, secret = cloud.client("server")
    ...     config = GlobusConfig(client_id=client, ..., insecure_test_cloud=cloud.url)
    """

    def __init__(self, port: int = 0, broker_url: str | None = None) -> None:
        super().__init__(State(), broker_url)
        routers = [self._auth.router, self._groups.router, self._compute.router]
        self._web = WebServer(self._state, routers, self._faults, port)

    def __enter__(self) -> Self:
        self._compute.open()
        self._web.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self._web.close()
        self._compute.close()

    @property
    def url(self) -> str:
        """The root of the services."""
        return f"http://localhost:{self._web.port}"

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path and status of every request so far; status 0 for a reply that was lost on demand."""
        return list(self._web.requests)

    def close(self) -> None:
        """An outage of the web services: connections are refused until `open`; the broker is still there."""
        self._web.close()

    def open(self) -> None:
        """The end of an outage: the same port, and nothing forgotten."""
        self._web.open()
