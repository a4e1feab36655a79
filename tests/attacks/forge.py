"""What a malicious server can make: it holds the server's real keys, and writes the log as it likes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from counterseal.audit.events import (
    AggregateCommit,
    Event,
    ModelRelease,
    RoundAbort,
    RoundOpen,
    RunStart,
    TicketIssue,
    peek_event,
)
from counterseal.audit.tlog.log import Log
from counterseal.runtime.delivery import Opening
from counterseal.runtime.sealed_json import seal_opening
from counterseal.runtime.site.work import run_key
from counterseal.trust.canonical import canonical
from counterseal.trust.documents import Signed, parse_document, sign
from counterseal.trust.dsse import read
from counterseal.trust.keys.signing import Signer
from counterseal.trust.tickets import Ticket

from .world import ME, SERVER, World

__all__ = ["Forger", "sealed_coefficient", "sealed_metrics", "start_of", "ticket_of"]

Change = Callable[[Event], "Event | Iterable[Event] | None"]


def ticket_of(world: World, **changes: Any) -> Signed[Ticket]:
    """Return the ticket of the delivery, changed and signed by the server again."""
    order = parse_document(Ticket, read(world.json()["ticket"].encode()).payload)
    return sign(order.model_copy(update=changes), world.federation.keys[SERVER].signer)


@dataclass
class Forger:
    """A log that begins as site-a knows it and goes on as the attacker wants.

    ``change`` returns what is logged in place of each later event: itself, others, or nothing. ``more`` is appended. ``seen`` is
    where the attacker begins to write (default: after what site-a saw).
    """

    world: World
    change: Change = lambda event: event
    more: Iterable[Event] = ()
    signer: Signer | None = None
    """Who signs what was changed or added; the server by default."""
    seen: int | None = None
    entries: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        world, keys = self.world, self.world.federation.keys[SERVER]
        assert keys.checkpoint is not None
        origin = world.federation.charter.charter.log_origin
        with Log.open(world.federation.log_folder, origin, keys.checkpoint) as real:
            leaves = [real.entry(index) for index in range(real.size)]
        base = world.json()["consistency_from"] if self.seen is None else self.seen
        self.entries = leaves[:base]
        for raw in leaves[base:]:
            self._add(raw, self.change(peek_event(raw)))
        for event in self.more:
            self._add(b"", event)
        self.folder = world.folder.parent / "forged"
        self.log = Log.open(self.folder, origin, keys.checkpoint)
        self.log.append(self.entries)
        self.note = self.log.checkpoint()

    def _add(self, raw: bytes, found: Event | Iterable[Event] | None) -> None:
        if found is None:
            return
        for event in [found] if isinstance(found, Event) else found:
            if raw and event == peek_event(raw):
                self.entries.append(raw)
            else:
                self.entries.append(sign(event, self.signer or self.world.federation.keys[SERVER].signer).raw)

    def deliver(
        self,
        ticket: Signed[Ticket] | None = None,
        *,
        show: Callable[[Event], bool] = lambda event: True,
        **changes: Any,
    ) -> bytes:
        """Return a delivery of ``ticket`` with what this log proves; ``show`` hides leaves, ``changes`` replace members."""
        value = self.world.json()
        signed = ticket or ticket_of(self.world)
        if ticket is None:
            signed = Signed(signed.document, signed.digest, signed.key_id, value["ticket"].encode())
        events = [peek_event(raw) for raw in self.entries]
        owed = {item["ticket"] for item in value["settled"]}
        picked = [index for index, event in enumerate(events) if show(event) and _wanted(event, signed, owed)]
        size, base = self.log.size, value["consistency_from"]
        value |= {
            "ticket": signed.raw.decode(),
            "checkpoint": self.note.decode(),
            "consistency": [step.hex() for step in self.log.consistency(base, size)],
            "leaves": [self._proof(index, size) for index in picked],
        }
        for item in value["settled"]:
            item["leaves"] = [index for index in picked if _settles(events[index], item["ticket"])]
        if value["witnessed"] is not None:
            seen = int(value["witnessed"]["note"].split("\n")[1])
            value["witnessed"]["consistency"] = [step.hex() for step in self.log.consistency(seen, size)]
        self.log.close()
        return canonical({**value, **changes})

    def _proof(self, index: int, size: int) -> dict[str, Any]:
        proof = [step.hex() for step in self.log.inclusion(index, size)]
        return {"index": index, "leaf": self.entries[index].decode(), "proof": proof}


def _wanted(event: Event, ticket: Signed[Ticket], owed: set[str]) -> bool:
    order = ticket.document
    if event.type in ("member.add", "key.enrol", "key.rotate"):
        return getattr(event, "identity", None) == order.site
    if isinstance(event, RunStart | ModelRelease):
        return event.run == order.run
    if isinstance(event, TicketIssue):
        return event.ticket == ticket.digest
    if isinstance(event, RoundOpen):
        return event.version == order.version and order.kind == "train"
    if isinstance(event, AggregateCommit | RoundAbort):
        return True
    return getattr(event, "ticket", None) in owed


def _settles(event: Event, ticket: str) -> bool:
    return isinstance(event, AggregateCommit | RoundAbort) or getattr(event, "ticket", None) == ticket


def document(raw: str) -> dict[str, Any]:
    """Return the payload of an envelope as JSON."""
    value: dict[str, Any] = json.loads(read(raw.encode()).payload)
    return value


def start_of(world: World) -> RunStart:
    """Return the start of the run, as any reader of the delivery finds it."""
    return next(
        event for leaf in world.json()["leaves"] if isinstance(event := peek_event(leaf["leaf"].encode()), RunStart)
    )


def sealed_coefficient(world: World, bits: str, fresh: str, ticket: str) -> str:
    """Return an opening sealed to site-a, as anybody can who knows its public key."""
    key = world.federation.charter.statements[ME].document.seal
    where = {"federation": "test-federation", "ticket": ticket}
    return seal_opening(Opening(value=bits, salt=fresh), key, purpose="coefficient", **where)


def sealed_metrics(world: World, value: dict[str, Any], ticket: str) -> str:
    """Return metrics sealed to the run's key, as anybody can who read the log."""
    where = {"federation": "test-federation", "ticket": ticket}
    return seal_opening(Opening(value=value, salt="0" * 64), run_key(start_of(world)), purpose="metrics", **where)
