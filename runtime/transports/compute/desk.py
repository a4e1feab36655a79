"""What the parts of the transport share: the sites' endpoints, what is out, what has arrived, two clocks and a link."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ..seam import Arrival
from .book import Book
from .link import Link
from .parcels import Parcel, Parcels, pause

__all__ = ["LONGEST_REST", "Desk", "Request", "SitePlace", "Standing"]

LONGEST_REST = 300.0
"""Seconds of rest that Compute is believed at most."""
_DEAF = 0.5


@dataclass(frozen=True, slots=True)
class Standing:
    """How a site's endpoint stands, for people."""

    online: bool | None
    """Whether Compute hears of it; None before the first question."""
    since: int | None
    """When that was first seen so, in seconds since 1970."""
    outstanding: int
    """Tasks that may still answer."""
    trouble: str | None
    """The code of the last failure since the last answer."""


@dataclass
class SitePlace:
    """One site's endpoint. Times are of the process, except `since`."""

    site: str
    endpoint: str
    group: str | None = None
    busy: bool = False
    """Whether a submission or a look into the group is under way."""
    lost: list[str] | None = None
    """The tickets of a submission whose end nobody saw: the group must be looked into first."""
    resume: float = 0.0
    """When the endpoint may be spoken to again."""
    troubles: int = 0
    trouble: str | None = None
    online: bool | None = None
    since: int | None = None
    asked: float = -math.inf
    asking: bool = False

    def rest(self, now: float, seconds: float | None, code: str) -> None:
        """Leave the endpoint alone for ``seconds``, or for longer each time."""
        self.troubles += 1
        self.trouble = code
        self.resume = now + (pause(self.troubles) if seconds is None else min(max(seconds, 1.0), LONGEST_REST))


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the link has not answered yet."""

    do: str
    site: str | None = None
    tickets: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    since: float = 0.0
    """When it was sent."""


@dataclass
class Desk:
    """The state of the transport."""

    poll_seconds: float
    resend_seconds: float
    places: dict[str, SitePlace]
    parcels: Parcels
    book: Book
    link: Link
    clock: Callable[[], int]
    timer: Callable[[], float]
    found: dict[str, str] = field(default_factory=dict)
    """Tasks that a submission had left behind: task to site."""
    arrivals: list[Arrival] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    requests: dict[int, Request] = field(default_factory=dict)
    last: int = 0
    deaf_until: float = 0.0
    """While this lies ahead nothing is sent: the link took nothing, a child is being started again."""

    def ask(self, request: Request, **rest: Any) -> bool:
        """Send ``request`` through the link; False if there is nobody to take it."""
        if self.deaf:
            return False
        self.last += 1
        self.requests[self.last] = replace(request, since=self.timer())
        if self.link.send({"id": self.last, "do": request.do, **rest}):
            return True
        del self.requests[self.last]
        self.deaf_until = self.timer() + _DEAF
        return False

    @property
    def deaf(self) -> bool:
        """Whether there is nobody to take a request now."""
        return self.timer() < self.deaf_until

    def arrive(self, parcel: Parcel, answer: bytes | None, failure: str | None, *, well: bool) -> None:
        """Hand an answer or a failure to the server."""
        parcel.answered(self.timer(), well=well)
        self.arrivals.append(Arrival(parcel.site, parcel.ticket, answer, failure))

    def of(self, site: str) -> list[Parcel]:
        """Return the parcels of ``site``."""
        return self.parcels.of(site)

    def known(self, tickets: Iterable[str]) -> list[Parcel]:
        """Return those of ``tickets`` that are parcels."""
        return [one for ticket in tickets if (one := self.parcels.get(ticket)) is not None]
