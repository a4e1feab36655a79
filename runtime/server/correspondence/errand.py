"""An errand: one ticket to each of several sites, outside of any round, asked until it is answered or its time is over.

Two things are errands: collecting cosignatures (`witness`) and handing out the final model (`receive`). An errand is journaled
by its name: its end of time once, its tickets once, its end once. So after a restart it goes on where it was:

- an answer that was filed is not asked for again; one that only the store has is taken from there; the rest is sent again;
- a ticket that nobody answered is expired in the log before the errand is over, so that no site meets an unexplained gap;
- an errand whose time ran out while nobody was there to listen is asked again, with fresh tickets and fresh time.

Once enough have answered, the rest have a moment more; then their tickets are expired, and an answer that comes later is not
filed: its site is told so by the `ticket.expire` leaf.

A delivery that gets lost with a site's process is repeated after a pause as long as there is time, and so is one that came
after its grants had expired; a site that says no is asked three times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from ....audit.events import Event, TicketExpire
from ....errors import CountersealError
from ....trust.tickets import TicketKind
from ...delivery import Answer, Grants
from ...transports.seam import Arrival
from ..office import Office, RunFile
from ..rounds.verdicts import ticket_issue
from .late import file_late
from .lookout import Lookout
from .receipts import Filed, file_receipt, read_answer, stored_answer
from .tickets import Counter, Issued, Leave

__all__ = ["Errand", "Errands"]

_log = logging.getLogger(__name__)

_TRIES = 3
_PAUSE = 0.25
"""Seconds before a lost delivery is repeated for the first time; then twice as long each time."""
_LONGEST_PAUSE = 8.0
_GRACE = 2
"""Seconds that the others still get once enough have answered: what they have signed by then becomes a leaf, not a gap."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What is asked of whom; ``name`` is unique in its run."""

    name: str
    kind: TicketKind
    version: int
    sites: tuple[str, ...]
    witnessed: int | None = None
    """Size of the cosigned checkpoint that the deliveries show."""


@dataclass
class _Desk:
    """What is open in one try at an errand."""

    waiting: dict[str, Issued]
    filed: dict[str, Filed] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    leave: dict[str, Leave] = field(default_factory=dict)
    again: dict[str, float] = field(default_factory=dict)
    """When to repeat which delivery, by the office's clock."""


class Errands:
    """Runs the errands of one run."""

    def __init__(self, office: Office, file: RunFile, counter: Counter) -> None:
        self._office = office
        self._file = file
        self._counter = counter
        self._run = file.start.run

    def begun(self, name: str) -> bool:
        """Tell whether the errand ``name`` was begun, in this life or an earlier one."""
        return self._office.journal.get(self._key("deadline", name)) is not None

    def over(self, name: str) -> bool:
        """Tell whether the errand ``name`` came to its end."""
        return self._office.journal.get(self._key("over", name)) is not None

    def run(self, errand: Errand, enough: Callable[[], bool]) -> dict[str, Filed]:
        """Play ``errand`` until all have answered, ``enough`` says so, or its time is over; return what was filed."""
        filed: dict[str, Filed] = {}
        number, current = 0, errand
        while True:
            late = self._interrupted(current.name)
            filed |= self._play(current, enough)
            if not late or enough() or len(filed) == len(errand.sites):
                return filed
            number += 1
            current = replace(errand, name=f"{errand.name}/{number}")

    def _interrupted(self, name: str) -> bool:
        """Tell whether the time of an errand that was begun ran out before it was over."""
        journal, end = self._office.journal, self._office.journal.get(self._key("deadline", name))
        late = end is not None and not self.over(name) and self._office.clock() >= end
        return bool(journal.once(self._key("late", name), lambda: True)) if late else self._was_late(name)

    def _was_late(self, name: str) -> bool:
        return self._office.journal.get(self._key("late", name)) is not None

    def _play(self, errand: Errand, enough: Callable[[], bool]) -> dict[str, Filed]:
        office, seconds = self._office, self._seconds()
        deadline = office.journal.once(self._key("deadline", errand.name), lambda: office.clock() + seconds)
        tickets = self._tickets(errand, seconds)
        desk = _Desk({ticket.digest: ticket for ticket in tickets})
        for ticket in tickets:
            self._remember(ticket, desk)
        if not self.over(errand.name):
            self._ask(errand, desk, deadline, enough)
            self._expire_unanswered(tickets)
            office.journal.put(self._key("over", errand.name), True)
        return desk.filed

    def _seconds(self) -> int:
        return min(self._file.config.round_seconds, self._office.parties.charter.limits.ticket_seconds)

    def _tickets(self, errand: Errand, seconds: int) -> list[Issued]:
        """Return the tickets of the errand: those of an earlier life, whoever is a member now, or fresh ones."""
        office, key = self._office, self._key("sites", errand.name)
        sites = office.journal.once(key, lambda: sorted(errand.sites, key=str.encode))
        tickets = [self._counter.issue(errand.name, site, errand.kind, errand.version, seconds) for site in sites]
        office.notary.record_all({f"issue/{one.digest}": partial(ticket_issue, office, one) for one in tickets})
        return tickets

    def _remember(self, ticket: Issued, desk: _Desk) -> None:
        """Take what is known of a ticket without asking: from the log and the journal, or from the store."""
        office, digest = self._office, ticket.digest
        if office.notary.step(f"expire/{digest}") is not None:
            desk.waiting.pop(digest)
            return
        kept = office.journal.get(f"answer/{digest}")
        if kept is not None and office.notary.step(f"receipt/{digest}") is not None:
            self._file_answer(ticket, Answer.from_json(kept), desk)
            return
        stored = stored_answer(office, self._run, digest)
        if stored is not None:
            self._take(Arrival(ticket.order.site, digest, stored), desk)

    def _ask(self, errand: Errand, desk: _Desk, deadline: float, enough: Callable[[], bool]) -> None:
        office = self._office
        desk.again |= dict.fromkeys(desk.waiting, office.clock())
        end, satisfied, lookout = deadline, False, Lookout(office, self._run)
        while desk.waiting and office.clock() < end:
            if not satisfied and enough():
                satisfied, end = True, min(deadline, office.clock() + _GRACE)
            for digest in [digest for digest, at in desk.again.items() if at <= office.clock()]:
                del desk.again[digest]
                if digest in desk.waiting:
                    self._send(errand, desk.waiting[digest], desk)
            for arrival in office.transport.poll(_PAUSE if desk.again else 1.0):
                self._take(arrival, desk)
            for arrival in lookout.look({digest: one.order.site for digest, one in desk.waiting.items()}):
                self._take(arrival, desk, stored=True)

    def _send(self, errand: Errand, ticket: Issued, desk: _Desk) -> None:
        grants = self._counter.grants(ticket, upload=False)
        if grants is None:
            return
        if errand.kind == "witness":
            grants = Grants(answer=grants.answer)
        desk.leave[ticket.digest] = Leave.of(grants, self._office.clock())
        pinned = self._counter.pin(errand.name)
        delivery = self._counter.deliver(ticket, grants=grants, witnessed=errand.witnessed, pinned=pinned)
        self._office.transport.dispatch(ticket.order.site, ticket.digest, delivery)

    def _take(self, arrival: Arrival, desk: _Desk, *, stored: bool = False) -> None:
        ticket = desk.waiting.get(arrival.ticket)
        if ticket is None or ticket.order.site != arrival.site:
            file_late(self._office, self._file, self._counter, arrival)
            return
        digest = arrival.ticket
        if arrival.answer is None:
            desk.lost[digest] = desk.lost.get(digest, 0) + 1
            pause = min(_PAUSE * 2.0 ** desk.lost[digest], _LONGEST_PAUSE)
            desk.again[digest] = self._office.clock() + pause
            return
        try:
            answer = read_answer(arrival.answer)
            if answer.fault is None:
                self._office.journal.put(f"answer/{digest}", answer.model_dump(mode="json"))
                self._file_answer(ticket, answer, desk)
                return
        except CountersealError as error:
            _log.warning("an answer of %s does not count: %s", arrival.site, error)
            if not stored:
                desk.waiting.pop(digest)
            return
        if not stored:
            self._refused(ticket, answer, desk)

    def _file_answer(self, ticket: Issued, answer: Answer, desk: _Desk) -> None:
        desk.filed[ticket.order.site] = file_receipt(self._office, self._file, ticket, answer)
        desk.waiting.pop(ticket.digest)

    def _refused(self, ticket: Issued, answer: Answer, desk: _Desk) -> None:
        fault, digest = answer.fault, ticket.digest
        if fault is not None and fault.code == "consistency_needed" and fault.witness_size is not None:
            size = min(fault.witness_size, self._office.notary.log.size)
            self._office.journal.put(f"seen/{ticket.order.site}", size)
        leave = desk.leave.get(digest)
        if fault is not None and fault.code == "grant" and leave is not None and leave.over(self._office.clock()):
            desk.again[digest] = self._office.clock()
            return
        desk.refused[digest] = desk.refused.get(digest, 0) + 1
        if desk.refused[digest] > _TRIES:
            desk.waiting.pop(digest)
        else:
            desk.again[digest] = self._office.clock()

    def _expire_unanswered(self, tickets: list[Issued]) -> None:
        steps: dict[str, Callable[[], Event]] = {}
        for ticket in tickets:
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

    def _key(self, what: str, name: str) -> str:
        return f"{self._run}/errand/{name}/{what}"
