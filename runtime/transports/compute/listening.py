"""Listening: asking Compute which tasks are over, seldom when nothing is to be expected, and what becomes of each.

Between two questions lies `poll_seconds` after any news, and then a tenth of the time without news, up to half a minute:
an answer is at most that much later than it could be. Tasks whose ticket is no longer waited for are asked about
twice a minute.

What a task brought is for the server, unless it is about the machinery in between (`INFRASTRUCTURE`) or the site says that
another process of its own is at work (``busy``): then the delivery is sent again later, and the server hears nothing.
"""

from __future__ import annotations

import base64
import logging
import math
from typing import Any

from ....errors import CountersealError
from ....trust.canonical import parse
from ...delivery import DELIVERY_LIMIT, Answer
from .desk import LONGEST_REST, Desk, Request
from .parcels import Parcel
from .results import INFRASTRUCTURE

__all__ = ["Listener"]

_log = logging.getLogger(__name__)

_TASKS = 50
"""Tasks in one question."""
_SHARE = 0.1
_LONGEST = 30.0
_GONE = 60
"""Seconds that Compute gets to know a task that it made itself."""


class Listener:
    """The half of the transport that listens."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._news = desk.timer()
        self._next = 0.0
        self._next_idle = 0.0
        self._open = 0
        self._troubles = 0

    def hurry(self) -> None:
        """Take note that something was sent: ask at the usual pace again."""
        self._news = self._desk.timer()
        self._next = min(self._next, self._news + self._desk.poll_seconds)

    def step(self, now: float) -> None:
        """Ask, if it is time."""
        if self._open or now < self.next(now):
            return
        eager, idle = self._tasks()
        asked = eager
        if now >= self._next_idle:
            asked, self._next_idle = [*eager, *idle], now + _LONGEST
        for start in range(0, len(asked), _TASKS):
            tasks = asked[start : start + _TASKS]
            if not self._desk.ask(Request("results", tasks=tuple(tasks)), tasks=tasks):
                return
            self._open += 1

    def next(self, now: float) -> float:
        """Return when the next question is due."""
        if self._open:
            return math.inf
        eager, idle = self._tasks()
        return min(self._next if eager else math.inf, max(self._next, self._next_idle) if idle else math.inf)

    def _tasks(self) -> tuple[list[str], list[str]]:
        desk = self._desk
        eager: list[str] = []
        idle: list[str] = []
        hoped = {one.site for one in desk.parcels if one.maybe and one.awaited}
        for task, site in desk.found.items():
            (eager if site in hoped else idle).append(task)
        for one in desk.parcels:
            (eager if one.awaited else idle).extend(one.tasks)
        return eager, idle

    def give_up_found(self) -> None:
        """Forget the tasks that a submission left behind and that no ticket can be waiting for any longer."""
        hoped = {one.site for one in self._desk.parcels if one.maybe}
        for task, site in list(self._desk.found.items()):
            if site not in hoped:
                del self._desk.found[task]
                self._desk.book.ended(site, task, None)

    # What came of it

    def asked(self, event: dict[str, Any]) -> None:
        """Take the end of an answer."""
        now, desk = self._desk.timer(), self._desk
        self._open -= 1
        self._troubles = 0
        for task in event.get("gone", ()):
            parcel = desk.parcels.of_task(task)
            if parcel is None or desk.clock() - parcel.tasks.get(task, 0) > _GONE:
                self._end(str(task), None, "task_gone")
        self._next = now + min(max(desk.poll_seconds, _SHARE * (now - self._news)), _LONGEST)

    def refused(self, event: dict[str, Any]) -> None:
        """Take a refusal: ask again later."""
        self._open -= 1
        self._troubles += 1
        pause = min(self._desk.poll_seconds * 2.0 ** min(self._troubles, 10), _LONGEST)
        asked = min(float(event.get("retry_after") or 0.0), LONGEST_REST)
        self._next = self._desk.timer() + max(pause, asked)
        _log.info("Globus Compute does not say which tasks are over: %s", event.get("code"))

    def lost(self) -> None:
        """Take note that the child died over a question."""
        self._open -= 1

    def task(self, event: dict[str, Any]) -> None:
        """Take what a task brought."""
        text = event.get("answer")
        answer = None if text is None else base64.b64decode(text)
        self.hurry()
        self._end(str(event["task"]), answer, event.get("failure"))

    def _end(self, task: str, answer: bytes | None, failure: str | None) -> None:
        desk = self._desk
        parcel = desk.parcels.of_task(task)
        if parcel is not None:
            desk.parcels.ended(task)
            self._settle(parcel, answer, failure)
            desk.book.ended(parcel.site, task, parcel)
        elif (site := desk.found.pop(task, None)) is not None:
            parcel = self._settle_found(site, answer, failure)
            desk.book.ended(site, task, parcel)
        else:
            desk.counts["unknown"] += 1

    def _settle_found(self, site: str, answer: bytes | None, failure: str | None) -> Parcel | None:
        """Find whose answer it is: the site's own word, and only for tickets of that site."""
        named = None if answer is None else _ticket(answer)
        parcel = None if named is None else self._desk.parcels.get(named)
        if parcel is not None and parcel.site == site:
            parcel.maybe = False
            self._settle(parcel, answer, failure)
            return parcel
        self._desk.counts["unknown"] += 1
        for one in self._desk.of(site):
            if one.maybe and site not in self._desk.found.values():
                one.maybe = False
                one.trouble(self._desk.timer())
        return None

    def _settle(self, parcel: Parcel, answer: bytes | None, failure: str | None) -> None:
        desk, now = self._desk, self._desk.timer()
        place = desk.places.get(parcel.site)
        fault = None if answer is None else _fault(answer)
        hidden = failure in INFRASTRUCTURE or fault == "busy"
        if place is not None:
            place.trouble = failure or fault
        if not hidden:
            desk.arrive(parcel, answer, failure, well=failure is None and fault in {None, "consistency_needed"})
            return
        desk.counts[f"hidden {failure or fault}"] += 1
        level = logging.INFO if parcel.troubles else logging.WARNING  # a person is told once
        _log.log(level, "a task of %s brought no answer (%s); it is sent again", parcel.site, failure or fault)
        if fault == "busy" and parcel.outstanding:
            parcel.busy(now, desk.resend_seconds)
        else:
            parcel.trouble(now)


def _answer(data: bytes) -> Answer | None:
    try:
        return Answer.from_json(parse(data.rstrip(), limit=DELIVERY_LIMIT, what="answer"))
    except CountersealError:
        return None  # the server says what it thinks of it


def _fault(data: bytes) -> str | None:
    found = _answer(data)
    return None if found is None or found.fault is None else found.fault.code


def _ticket(data: bytes) -> str | None:
    found = _answer(data)
    return None if found is None else found.ticket
