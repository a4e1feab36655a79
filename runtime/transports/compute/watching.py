"""Watching: is an endpoint there at all? Asked about seldom, and only where something has been out for a while.

An endpoint that is away keeps its tasks in Compute's queue, so sending again would only lengthen the queue: repetitions
wait until it is back, and then give it the usual time.
"""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from typing import Any

from .desk import Desk, Request, SitePlace
from .sending import Sender

__all__ = ["Watch"]

_log = logging.getLogger(__name__)

_EVERY = 60.0
_QUIET = 30.0
"""Seconds that a task is out before anybody asks whether its endpoint is there."""


class Watch:
    """Keeps an eye on the endpoints."""

    def __init__(self, desk: Desk, sender: Sender) -> None:
        self._desk = desk
        self._sender = sender

    def step(self, now: float) -> None:
        """Ask about the endpoints that it is time to ask about."""
        for place in self._desk.places.values():
            if self._due(place, now) <= now and self._desk.ask(Request("online", place.site), endpoint=place.endpoint):
                place.asking = True

    def next(self, now: float) -> float:
        """Return when the next question is due."""
        return min((self._due(place, now) for place in self._desk.places.values()), default=math.inf)

    def _due(self, place: SitePlace, now: float) -> float:
        if place.asking:
            return math.inf
        if self._sender.wants_status(place, now):
            return now
        sent = [at for one in self._desk.of(place.site) if one.awaited for at in one.tasks.values()]
        if not sent:
            return math.inf
        quiet = min(_QUIET, self._desk.resend_seconds / 2)
        return max(now + min(sent) + quiet - self._desk.clock(), place.asked + _EVERY)

    def online(self, request: Request, event: dict[str, Any]) -> None:
        """Take the answer; None where Compute gave none, which holds nothing up."""
        place, now = self._desk.places[str(request.site)], self._desk.timer()
        place.asking, place.asked = False, now
        before, place.online = place.online, event.get("online")
        if place.online == before:
            return
        place.since = self._desk.clock()
        since = datetime.fromtimestamp(place.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if place.online is False:
            _log.warning("the endpoint of %s is offline since %s; its deliveries wait for it", place.site, since)
        elif before is False:
            _log.warning("the endpoint of %s is back since %s", place.site, since)
            for parcel in self._desk.of(place.site):
                if parcel.outstanding:
                    parcel.due = max(parcel.due, now + self._desk.resend_seconds)

    def lost(self, request: Request) -> None:
        """Take note that the child died over a question."""
        self._desk.places[str(request.site)].asking = False
