"""Sending: what is due goes out, one request per endpoint; what may have gone out is looked for before it is sent again.

Before a submission its tickets are journaled (intent), after it its tasks. Between the two anything can die. The next
life, or this one with its next child, then looks into the endpoint's task group: tasks in it that nobody remembers were made
by that submission, and as a submission is one request, all of its tickets have one or none has.

What Compute refuses for good comes back at once as the ticket's failure; what it refuses for now rests the endpoint, 2
to 60 seconds or as long as Compute says, and costs the round nothing.
"""

from __future__ import annotations

import base64
import logging
import math
from typing import Any

from .desk import Desk, Request, SitePlace
from .parcels import Parcel

__all__ = ["Sender"]

_log = logging.getLogger(__name__)

_BATCH = 8_100_000
"""Characters of deliveries in one request: Compute takes 10 MB, of everything together. One delivery always goes."""
_FRESH = 60.0
"""Seconds for which it is believed that an endpoint is there."""

_FOR_GOOD = frozenset(
    {"delivery_too_large", "endpoint_refused", "endpoint_unknown", "function_unknown", "globus_refused"}
)


class Sender:
    """The half of the transport that sends."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def step(self, now: float) -> None:
        """Send what is due."""
        for place in self._desk.places.values():
            if place.busy or now < place.resume or self._desk.deaf:
                continue
            if place.lost is not None:
                self._look(place, now)
            elif batch := self._batch(place, now):
                self._submit(place, batch)

    def next(self, now: float) -> float:
        """Return when something is due by the look of things."""
        times = [math.inf]
        clock = self._desk.clock()
        for place in self._desk.places.values():
            if place.busy:
                continue
            if place.lost is not None:
                times.append(place.resume)
            times += [
                max(place.resume, one.due)
                for one in self._desk.of(place.site)
                if one.sendable(clock) and not self._held(place, one, now)
            ]
        return min(times)

    def wants_status(self, place: SitePlace, now: float) -> bool:
        """Whether a repetition waits for a word on whether the endpoint is there."""
        clock = self._desk.clock()
        return now - place.asked > _FRESH and any(
            one.sendable(clock) and one.outstanding and one.due <= now for one in self._desk.of(place.site)
        )

    def _held(self, place: SitePlace, parcel: Parcel, now: float) -> bool:
        """Whether a repetition must wait: what is out lies in Compute's queue as long as the endpoint is away."""
        return parcel.outstanding > 0 and (place.online is False or now - place.asked > _FRESH)

    def _batch(self, place: SitePlace, now: float) -> list[Parcel]:
        clock, size, batch = self._desk.clock(), 0, list[Parcel]()
        for one in sorted(self._desk.of(place.site), key=lambda one: one.seq):
            if not one.sendable(clock) or one.due > now or self._held(place, one, now):
                continue
            length = 4 * len(one.delivery or b"") // 3
            if batch and size + length > _BATCH:
                break
            batch.append(one)
            size += length
        return batch

    def _submit(self, place: SitePlace, batch: list[Parcel]) -> None:
        desk = self._desk
        desk.book.intend(place.site, batch)
        deliveries = [base64.b64encode(one.delivery or b"").decode("ascii") for one in batch]
        request = Request("submit", place.site, tuple(one.ticket for one in batch))
        if desk.ask(request, endpoint=place.endpoint, group=place.group, deliveries=deliveries):
            place.busy = True
            desk.counts["submissions"] += 1
            return
        desk.book.submitted(place.site, None, [])

    def _look(self, place: SitePlace, now: float) -> None:
        if place.group is None:
            self._settle(place, [], now)  # no group was ever heard of: nothing of it can be found
        else:
            place.busy = self._desk.ask(Request("tasks", place.site), group=place.group)

    # What came of it

    def submitted(self, request: Request, event: dict[str, Any]) -> None:
        """Take the tasks that a submission made."""
        desk, place, now = self._desk, self._place(request), self._desk.timer()
        place.busy = False
        parcels = desk.known(request.tickets)
        tasks = [str(task) for task in event["tasks"]]
        if len(tasks) != len(parcels):
            self._lose(place, request)
            return
        for parcel, task in zip(parcels, tasks, strict=True):
            desk.parcels.out(parcel, task, desk.clock())
            parcel.waits(now, desk.resend_seconds)
        place.group = str(event["group"])
        place.troubles, place.resume = 0, 0.0
        desk.book.submitted(place.site, place.group, parcels)

    def refused(self, request: Request, event: dict[str, Any]) -> None:
        """Take the refusal of a submission, or of a look into a group."""
        desk, place, now = self._desk, self._place(request), self._desk.timer()
        place.busy = False
        code, retry_after = str(event["code"]), event.get("retry_after")
        if request.do == "tasks":
            if code in {"unknown", "globus_refused", "endpoint_refused"}:
                self._settle(place, [], now)  # the group is gone, and what was in it
            else:
                place.rest(now, retry_after, code)
            return
        if event.get("maybe"):
            self._lose(place, request)
            place.rest(now, retry_after, code)
            return
        if code in _FOR_GOOD:
            self._give_back(place, request, code)
        elif code == "group_unknown":
            place.group = None
            desk.book.lose_group(place.site)
        else:
            _log.warning("cannot reach the endpoint of %s: %s", place.site, code)
            place.rest(now, retry_after, code)
        desk.book.submitted(place.site, None, desk.known(request.tickets))

    def _give_back(self, place: SitePlace, request: Request, code: str) -> None:
        place.trouble = code
        for parcel in self._desk.known(request.tickets):
            if len(request.tickets) > 1 and code == "delivery_too_large":
                parcel.due = self._desk.timer()  # together they were: next time one by one
                continue
            _log.warning("Globus Compute does not take the delivery for %s: %s", parcel.site, code)
            self._desk.arrive(parcel, None, code, well=False)

    def looked(self, request: Request, event: dict[str, Any]) -> None:
        """Take the tasks of a group: those that nobody remembers were made by the submission that got lost."""
        place = self._place(request)
        place.busy = False
        tasks = [str(task) for task in event["tasks"]]
        self._settle(place, self._desk.book.unknown(place.site, tasks), self._desk.timer())

    def lost(self, request: Request) -> None:
        """Take note that a child died over a submission or a look."""
        place = self._place(request)
        place.busy = False
        if request.do == "submit":
            self._lose(place, request)

    def _lose(self, place: SitePlace, request: Request) -> None:
        place.lost = [*(place.lost or ()), *request.tickets]
        for parcel in self._desk.known(request.tickets):
            parcel.maybe = True

    def _settle(self, place: SitePlace, tasks: list[str], now: float) -> None:
        desk = self._desk
        parcels = desk.known(place.lost or ())
        for parcel in parcels:
            parcel.maybe = bool(tasks)
            if tasks:
                parcel.waits(now, desk.resend_seconds)
            else:
                parcel.due = now
        desk.found |= dict.fromkeys(tasks, place.site)
        desk.book.reconciled(place.site, tasks, parcels)
        place.lost = None
        if tasks:
            _log.info("found %d tasks of %s that a submission had left behind", len(tasks), place.site)

    def _place(self, request: Request) -> SitePlace:
        return self._desk.places[str(request.site)]
