"""A parcel is one ticket on its way: what was sent for it, what is still out, and what is remembered of it.

Work is named by its ticket, so a delivery may be sent twice; it may not be sent for ever. A parcel has at most `OUTSTANDING`
tasks out, sends nothing after its ticket's time, and waits longer each time: after silence (`waits`), after trouble
(`pause`). A newer ticket of the same site in the same run ends the sending of the older ones; their answers are still taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ....errors import CountersealError
from ....trust.canonical import parse
from ....trust.documents import parse_document
from ....trust.dsse import read
from ....trust.tickets import Ticket
from ...delivery import DELIVERY_LIMIT, Delivery
from ...errors import TransportError

__all__ = ["OUTSTANDING", "Parcel", "Parcels", "pause", "purpose_of"]

OUTSTANDING = 3
"""Tasks of one ticket that may be out at once."""
LISTENED = 3_600
"""Seconds after a ticket's end for which its answer is still asked for: late receipts are logged too."""

_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 60.0


def pause(troubles: int) -> float:
    """Return how long to wait after ``troubles`` failures in a row.

    >>> [pause(n) for n in (0, 1, 2, 3, 6, 7, 1000)]
    [0.0, 2.0, 4.0, 8.0, 60.0, 60.0, 60.0]
    """
    return 0.0 if troubles <= 0 else min(_FIRST_PAUSE * 2.0 ** min(troubles - 1, 10), _LONGEST_PAUSE)


@dataclass
class Parcel:
    """One ticket. ``due`` and what is added to it are times of the process; ``tasks`` and ``not_after`` are of the clock."""

    ticket: str
    site: str
    run: str
    seq: int
    not_after: int
    purpose: str = ""
    tasks: dict[str, int] = field(default_factory=dict)
    """The tasks that are out, and when each was sent."""
    maybe: bool = False
    """Whether a submission whose end nobody saw may have made one more."""
    awaited: bool = True
    """Whether no answer has come to what was sent last."""
    delivery: bytes | None = None
    due: float = math.inf
    """When it is sent (again); never before a life's first `dispatch` of it."""
    troubles: int = 0
    over: bool = False
    """Whether a newer ticket of its site in its run was sent."""

    @property
    def outstanding(self) -> int:
        """How many tasks may still answer."""
        return len(self.tasks) + self.maybe

    def sendable(self, clock: int) -> bool:
        """Whether it may be sent (again), when it is due."""
        return self.awaited and self.delivery is not None and clock <= self.not_after and self.outstanding < OUTSTANDING

    def waits(self, now: float, silence: float) -> None:
        """Wait for what is out: ``silence`` seconds, and twice as long for each further task that is silent already."""
        self.due = now + silence * 2.0 ** max(self.outstanding - 1, 0)

    def busy(self, now: float, silence: float) -> None:
        """Take note that the site is at work on what is still out: it is not asked much more often than it is silent."""
        self.troubles += 1
        self.due = now + silence * 2.0 ** min(self.troubles, 10)

    def trouble(self, now: float) -> None:
        """Take note of a failure on the way: it is sent again after a pause."""
        self.troubles += 1
        self.due = now + pause(self.troubles)

    def answered(self, now: float, *, well: bool) -> None:
        """Take note that an answer was handed over: nothing is sent before the server asks again."""
        self.awaited = False
        self.delivery = None
        self.troubles = 0 if well else self.troubles + 1
        self.due = now + pause(self.troubles)

    def to_json(self) -> dict[str, Any]:
        """Return what is journaled."""
        names = ("ticket", "site", "run", "seq", "not_after", "purpose", "tasks", "maybe", "awaited")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, site: str, ticket: str, delivery: bytes) -> Parcel:
        """Return the parcel of a delivery that this server made.

        Raises:
            TransportError: not a delivery of a ticket.
        """
        try:
            found = Delivery.from_json(parse(delivery, limit=DELIVERY_LIMIT, what="delivery"))
            order = parse_document(Ticket, read(found.ticket.encode()).payload)
        except CountersealError as error:
            raise TransportError(f"not a delivery ({error.code})", where=f"ticket {ticket[:16]}") from None
        return cls(ticket, site, order.run, order.seq, order.not_after, purpose_of(found), delivery=delivery)


def purpose_of(delivery: Delivery) -> str:
    """Return what a delivery gives leave to: one with more leave is another delivery, whatever is out already."""
    return ",".join(sorted(delivery.grants.model_dump(exclude_none=True)))


class Parcels:
    """All parcels, by ticket and by task."""

    def __init__(self, parcels: Iterator[Parcel]) -> None:
        self._all: dict[str, Parcel] = {}
        self._sites: dict[str, dict[str, Parcel]] = {}
        self._by_task: dict[str, Parcel] = {}
        for one in sorted(parcels, key=lambda one: one.seq):
            self.add(one)
            self._by_task |= dict.fromkeys(one.tasks, one)

    def __iter__(self) -> Iterator[Parcel]:
        return iter(list(self._all.values()))

    def get(self, ticket: str) -> Parcel | None:
        """Return the parcel of ``ticket``."""
        return self._all.get(ticket)

    def add(self, parcel: Parcel) -> list[Parcel]:
        """Take a new parcel; return the older ones that it puts an end to."""
        older = [one for one in self.of(parcel.site) if one.run == parcel.run and one.seq < parcel.seq and not one.over]
        for one in older:
            one.over = True
            one.awaited = False
            one.delivery = None
        self._all[parcel.ticket] = parcel
        self._sites.setdefault(parcel.site, {})[parcel.ticket] = parcel
        return older

    def of(self, site: str) -> list[Parcel]:
        """Return the parcels of ``site``."""
        return list(self._sites.get(site, {}).values())

    def of_task(self, task: str) -> Parcel | None:
        """Return the parcel whose task this is."""
        return self._by_task.get(task)

    def out(self, parcel: Parcel, task: str, clock: int) -> None:
        """Take note of a task that was made for ``parcel``."""
        parcel.tasks[task] = clock
        self._by_task[task] = parcel

    def ended(self, task: str) -> None:
        """Forget a task."""
        parcel = self._by_task.pop(task, None)
        if parcel is not None:
            parcel.tasks.pop(task, None)

    def forget(self, clock: int) -> list[Parcel]:
        """Drop the parcels whose time is long over, and older ones of which nothing is out; return them."""
        old = [one for one in self if clock > one.not_after + LISTENED or (one.over and not one.outstanding)]
        for one in old:
            del self._all[one.ticket]
            del self._sites[one.site][one.ticket]
            for task in list(one.tasks):
                self._by_task.pop(task, None)
        return old
