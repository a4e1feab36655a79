"""Collecting cosignatures: which checkpoint enough sites have signed, and witness tickets for those that have not.

Every receipt brings its site's cosignature on the checkpoint of its delivery, so in a healthy run the quorum comes by itself.
When it does not (a site was late, the run begins or ends), witness tickets ask: no data, no model, nothing to debit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ...audit.events import Event, TicketExpire
from ...errors import CountersealError
from ..delivery import Grants
from ..places import answer_key
from ..transports.seam import Arrival
from .office import Office, RunFile
from .receipts import file_receipt, read_answer
from .tickets import Counter, Issued
from .verdicts import ticket_issue

__all__ = ["Quorums"]

_log = logging.getLogger(__name__)

_TRIES = 3


class Quorums:
    """The cosigned checkpoints of one run."""

    def __init__(self, office: Office, file: RunFile, counter: Counter) -> None:
        self._office = office
        self._file = file
        self._counter = counter
        self._run = file.start.run

    def holding(self, index: int) -> int | None:
        """Return the size of the newest checkpoint that holds leaf ``index`` and that a quorum cosigned."""
        log = self._office.notary.log
        for size in reversed(log.published_sizes):
            if size <= index:
                return None
            if self._met(size):
                return size
        return None

    def cosigners(self, size: int) -> frozenset[str]:
        """Return the sites that cosigned the checkpoint of ``size`` leaves."""
        note = self._office.notary.log.cosigned_at(size)
        return self._office.parties.cosigners(note, at=size)

    def _met(self, size: int) -> bool:
        charter = self._office.parties.charter
        return charter.arithmetic.met(self.cosigners(size), charter.cosigners)

    def collect(self, step: str, index: int, version: int, *, everybody: bool = False) -> int | None:
        """Return a cosigned checkpoint that holds leaf ``index``, asking with witness tickets if there is none yet.

        ``everybody`` waits for all sites within the time and not only for a quorum. None if too few answered.
        """
        found = self.holding(index)
        if found is not None and not everybody:
            return found
        office = self._office
        seconds = min(self._file.config.round_seconds, office.parties.charter.limits.ticket_seconds)
        deadline = office.journal.once(f"{self._run}/witness/{step}", lambda: office.clock() + seconds)
        tickets = {
            site: self._counter.issue(f"witness/{step}", site, "witness", version, seconds)
            for site in sorted(office.parties.charter.sites, key=str.encode)
            if office.gate.ask(site, "site").allowed
        }
        office.notary.record_all(
            {f"issue/{one.digest}": partial(ticket_issue, office, one) for one in tickets.values()}
        )
        waiting = {ticket.digest: ticket for ticket in tickets.values()}
        for ticket in list(waiting.values()):
            self._start(ticket, waiting)
        tries: dict[str, int] = {}
        while waiting and office.clock() < deadline and (everybody or self.holding(index) is None):
            for arrival in office.transport.poll(1.0):
                self._take(arrival, waiting, tries)
        self._settle(tickets, waiting)
        return self.holding(index)

    def _start(self, ticket: Issued, waiting: dict[str, Issued]) -> None:
        stored = answer_key(self._run, ticket.digest)
        if self._office.notary.step(f"receipt/{ticket.digest}") is not None:
            waiting.pop(ticket.digest)
        elif self._office.store.length(stored) is not None:
            data = self._office.store.get(stored, limit=1 << 15)
            self._take(Arrival(ticket.order.site, ticket.digest, data), waiting, {})
        else:
            self._send(ticket)

    def _send(self, ticket: Issued) -> None:
        grants = self._counter.grants(ticket, self._file.schema, upload=False)
        delivery = self._counter.deliver(ticket, grants=Grants(answer=grants.answer), witnessed=None)
        self._office.transport.dispatch(ticket.order.site, ticket.digest, delivery)

    def _take(self, arrival: Arrival, waiting: dict[str, Issued], tries: dict[str, int]) -> None:
        ticket = waiting.get(arrival.ticket)
        if ticket is None:
            return
        try:
            if arrival.answer is not None:
                answer = read_answer(arrival.answer)
                if answer.fault is None:
                    file_receipt(self._office, self._run, ticket, answer)
                    waiting.pop(arrival.ticket)
                    return
                if answer.fault.code == "consistency_needed" and answer.fault.witness_size is not None:
                    size = min(answer.fault.witness_size, self._office.notary.log.size)
                    self._office.journal.put(f"seen/{arrival.site}", size)
        except CountersealError as error:
            _log.warning("a witness answer of %s does not count: %s", arrival.site, error)
            waiting.pop(arrival.ticket)
            return
        tries[arrival.ticket] = tries.get(arrival.ticket, 0) + 1
        if tries[arrival.ticket] > _TRIES:
            waiting.pop(arrival.ticket)
        else:
            self._send(ticket)

    def _settle(self, tickets: dict[str, Issued], waiting: dict[str, Issued]) -> None:
        """Expire the witness tickets that nobody answered: a site may not find an unexplained gap later."""
        steps: dict[str, Callable[[], Event]] = {}
        for ticket in tickets.values():
            if self._office.notary.step(f"receipt/{ticket.digest}") is None:
                steps[f"expire/{ticket.digest}"] = partial(self._expire, ticket)
        self._office.notary.record_all(steps)

    def _expire(self, ticket: Issued) -> Event:
        return TicketExpire(
            **self._office.about(self._run),
            version=ticket.order.version,
            ticket=ticket.digest,
            site=ticket.order.site,
            reason="not_answered",
        )
