"""Sites behind Globus Compute endpoints: the transport that a federation of institutions uses.

A delivery becomes a task for the site's endpoint, and the task's result is the answer. Nothing is believed for having
come this way: work is named by its ticket and done once, answers are worth what their receipts are worth. So all that
this transport owes is not to lose a delivery, not to send for ever, and not to stand in the server's way. Who does what:

    `sending`     what goes out, and what may have gone out; `watching`: whether an endpoint is there
    `listening`   which tasks are over, and what becomes of their results
    `link`        the child process that speaks to Globus (`child`, `service`, `results`), and only it
    `book`        what is remembered through any crash; `parcels`: one ticket on its way

`dispatch` remembers and `poll` works: everything due goes out together, one request per endpoint. After a restart the tasks
that are out are asked about again, and a delivery that the server repeats for one of them waits with the others for the
silence to last `resend_seconds`.

One thread, the caller's; nothing happens between two calls of `poll`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ....durable import Probe, silent
from ...config.globus import ComputeTransportConfig, GlobusConfig
from ...delivery import DELIVERY_LIMIT
from ...errors import GlobusRefusedError
from ..seam import Arrival
from .book import Book
from .desk import Desk, SitePlace, Standing
from .link import ChildLink, Link
from .listening import Listener
from .parcels import Parcel, Parcels
from .sending import Sender
from .watching import Watch

__all__ = ["ComputeTransport", "Standing", "open_compute_transport"]

_log = logging.getLogger(__name__)

_SHORTEST_WAIT = 0.005
_SPEECHLESS = 900.0
"""Seconds without a word on a request, after which a child is given up: it bounds its own requests more narrowly."""
_CHECKING = 90.0
"""Seconds to wait for Compute's word on the function when a server starts."""


class ComputeTransport:
    """Deliveries to Globus Compute endpoints."""

    def __init__(
        self,
        settings: ComputeTransportConfig,
        link: Link,
        book: Book,
        *,
        clock: Callable[[], int],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take up what earlier lives left in ``book``."""
        book.tidy()
        places = {
            site: SitePlace(site, endpoint, group=book.group(site), lost=book.intent(site))
            for site, endpoint in settings.endpoints.items()
        }
        self._desk = Desk(
            settings.poll_seconds,
            settings.resend_seconds,
            places,
            Parcels(book.parcels()),
            book,
            link,
            clock,
            timer,
            found=book.found(),
        )
        for place in places.values():
            for parcel in self._desk.known(place.lost or ()):
                parcel.maybe = True
        self._sender = Sender(self._desk)
        self._listener = Listener(self._desk)
        self._watch = Watch(self._desk, self._sender)
        self._tidied = clock()
        self._closed = False

    def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
        """Remember ``delivery``; it goes out with the next `poll`."""
        desk = self._desk
        if site not in desk.places or len(delivery) > DELIVERY_LIMIT:
            code = "endpoint_unknown" if site not in desk.places else "delivery_too_large"
            desk.arrivals.append(Arrival(site, ticket, None, code))
            return
        fresh, now = Parcel.of(site, ticket, delivery), desk.timer()
        known = desk.parcels.get(ticket)
        if known is None:
            fresh.due = now
            older = desk.parcels.add(fresh)
            if older:
                desk.book.save(older)
            return
        waits = known.awaited and known.outstanding > 0 and known.purpose == fresh.purpose
        if not waits:
            known.due = max(now, known.due if known.troubles else now)
        elif math.isinf(known.due):  # it was sent in an earlier life, and the silence began then
            silence = desk.clock() - max(known.tasks.values(), default=desk.clock())
            known.waits(now - max(silence, 0), desk.resend_seconds)
        known.purpose, known.delivery, known.awaited = fresh.purpose, delivery, True

    def poll(self, timeout: float) -> list[Arrival]:
        """Send what is due, ask what is over; return what has arrived, waiting at most ``timeout`` seconds for the first."""
        desk = self._desk
        end = desk.timer() + max(timeout, 0.0)
        while True:
            self._step()
            if desk.arrivals:
                break
            now = desk.timer()
            wait = min(end, *(part.next(now) for part in (self._sender, self._listener, self._watch))) - now
            wait = max(wait, desk.deaf_until - now, _SHORTEST_WAIT)
            for event in desk.link.receive(min(wait, max(end - now, 0.0))):
                self._take_or_give_up(event)
            if desk.timer() >= end:
                break
        found, desk.arrivals = desk.arrivals, []
        return found

    def recover(self, tickets: dict[str, str]) -> set[str]:
        """Return those of ``tickets`` (digest -> site) for which a task is out that may still answer."""
        return {one.ticket for one in self._desk.known(tickets) if one.outstanding and tickets[one.ticket] == one.site}

    def status(self) -> dict[str, Standing]:
        """Return how each site's endpoint stands."""
        return {
            site: Standing(
                place.online, place.since, sum(one.outstanding for one in self._desk.of(site)), place.trouble
            )
            for site, place in self._desk.places.items()
        }

    @property
    def counts(self) -> dict[str, int]:
        """How many submissions there were, and how many results that were dropped or hidden, by code."""
        return dict(self._desk.counts)

    def close(self) -> None:
        """Let go of the child and of the journal; what is out stays out."""
        if not self._closed:
            self._closed = True
            self._desk.link.close()
            self._desk.book.close()

    def _step(self) -> None:
        now, clock = self._desk.timer(), self._desk.clock()
        if any(now - one.since > _SPEECHLESS for one in self._desk.requests.values()):
            _log.error("the process that speaks to Globus does not speak")
            self._desk.link.close()
            self._lose_child()
        if clock - self._tidied > 60:
            self._tidied = clock
            if old := self._desk.parcels.forget(clock):
                self._desk.book.forget(old)
            self._listener.give_up_found()
        self._watch.step(now)
        self._sender.step(now)
        self._listener.step(now)

    def _take_or_give_up(self, event: dict[str, Any]) -> None:
        try:
            self._take(event)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # The child reads what the web sends: a child that talks nonsense is ended, and the server goes on.
            _log.error("the process that speaks to Globus says what makes no sense", exc_info=error)
            self._desk.link.close()
            self._lose_child()

    def _take(self, event: dict[str, Any]) -> None:
        desk = self._desk
        if event.get("end") == "lost":
            self._lose_child()
            return
        if "task" in event:
            self._listener.task(event)
            return
        request = desk.requests.pop(int(event.get("id", 0)), None)
        if request is None:
            return  # "open", or a word on a request of an earlier child
        refused = event["end"] == "refused"
        if refused and event["code"] == "login_needed":
            _log.error("Globus takes no request of this server: its secret or login is not (or no longer) good")
        match request.do:
            case "results":
                self._listener.refused(event) if refused else self._listener.asked(event)
            case "online":
                self._watch.online(request, event)
            case "submit" | "tasks" if refused:
                self._sender.refused(request, event)
            case "submit":
                self._sender.submitted(request, event)
                self._listener.hurry()
            case "tasks":
                self._sender.looked(request, event)
                self._listener.hurry()

    def _lose_child(self) -> None:
        _log.warning("the process that speaks to Globus ended; another is started")
        requests, self._desk.requests = self._desk.requests, {}
        for request in requests.values():
            match request.do:
                case "submit" | "tasks":
                    self._sender.lost(request)
                case "results":
                    self._listener.lost()
                case "online":
                    self._watch.lost(request)


def open_compute_transport(
    settings: ComputeTransportConfig,
    globus: GlobusConfig,
    folder: Path,
    *,
    clock: Callable[[], int],
    probe: Probe = silent,
) -> ComputeTransport:
    """Return the transport, with its child at work and its journal in ``folder``.

    Raises:
        GlobusFault: the credentials cannot be used, or there is no such function; an outage is waited out later.
        JournalError: another process is at work on ``folder``.
    """
    book = Book(folder, probe)
    link = ChildLink(globus, settings.function, folder)
    try:
        link.open()
        _check_function(link, settings.function)
    except BaseException:
        link.close()
        book.close()
        raise
    return ComputeTransport(settings, link, book, clock=clock)


def _check_function(link: Link, function: str) -> None:
    """Look at the function once: a server whose every delivery would fail should not start."""
    end = time.monotonic() + _CHECKING
    link.send({"id": 0, "do": "function"})
    while time.monotonic() < end:
        for event in link.receive(max(end - time.monotonic(), 0.0)):
            if event.get("id") != 0:
                continue
            if event["end"] == "function":
                if not event["ours"]:
                    _log.warning("function %s is not this version's code; see: counterseal server function", function)
                return
            if event["code"] in {"unknown", "endpoint_refused", "globus_refused"}:
                raise GlobusRefusedError(
                    "there is no such function, or not for this server",
                    where="transport.function",
                    remedy="Register it: counterseal server function --register",
                )
            if event["code"] == "login_needed":
                from ...errors import LoginNeededError

                raise LoginNeededError(
                    "Globus does not take this server's login",
                    where="globus",
                    remedy="Check client_id and client_secret, or run `counterseal login`.",
                )
            _log.warning("Globus Compute does not answer now (%s); the server starts all the same", event["code"])
            return
