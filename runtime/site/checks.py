"""What a site checks before it believes a delivery. Bytes in, a trusted `Verified` out; no file, no clock, no network.

The obligations, in the order of the code:

 1. the checkpoint is signed by the log key that the charter names, for the charter's origin, and is consistent with the last
    one that this site saw; otherwise the log forked or went back, and both notes are evidence;
 2. every leaf in the delivery is included in that checkpoint;
 3. every leaf is signed by the key of the actor that it names, valid at its index, in this federation, and that actor may say
    such a thing: decisions are the server's, receipts the sites';
 4. no leaf names this site with a key statement that this site did not make;
 5. the run was started under this charter and in its suite, and never differently from what this site saw before;
 6. the ticket is in the log (`ticket.issue`), and for work on a model so is its round, with this site among the participants and
    the same parent and manifest;
 7. the model is the one that the chain of commits made: `run.start` for version 0, `aggregate.commit` of the version before, one
    commit a version, each on the model of the one before;
 8. a quorum of sites cosigned a checkpoint that holds the leaf which made the version before (for `receive`: this version);
 9. every ticket that this site answered is settled by the log: its own receipt verbatim, the verdict on it, and, if it counted,
    the commit that names it, with a coefficient that opens the commitment and is the one that rule and charter give.

Checked elsewhere: the ticket's signature, address and time (`trust.tickets`), its sequence number (`site`), the blob
(`trust.blob`), group membership of the server (`site`), the run's configuration (`runtime.config`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...audit.checks.leaf_checks import actor_fault
from ...audit.errors import QuorumError
from ...audit.events import (
    AggregateCommit,
    Event,
    KeyEnrol,
    KeyRotate,
    MemberAdd,
    ModelRelease,
    RoundOpen,
    RunStart,
    TicketIssue,
    open_event,
    peek_event,
)
from ...audit.governance import GOVERNING
from ...audit.tlog.checkpoint import Checkpoint
from ...audit.tlog.merkle import leaf_hash, require_inclusion
from ...audit.tlog.witness import WitnessState, advance
from ...trust.documents import Signed
from ...trust.errors import (
    EquivocationError,
    MisaddressedTicketError,
    SignatureError,
    TicketError,
    UnloggedTicketError,
)
from ...trust.keys.sealing import OpeningKey
from ...trust.keys.validity import KeyHistory
from ...trust.tickets import Ticket
from ..delivery import Delivery
from ..parties import Parties
from .keys import Governing, named_objects
from .settlement import Settlement, Terms, settlements
from .state import OpenTicket

__all__ = ["Standing", "Verified", "verify_delivery"]

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a site knows before it reads a delivery."""

    identity: str
    parties: Parties
    statements: frozenset[str]
    """Digests of the key statements that this site made."""
    opening: OpeningKey
    """Opens what is sealed to this site."""
    witness: WitnessState
    run_leaf: str | None
    """The run.start leaf accepted before, for the ticket's run."""
    open_tickets: tuple[OpenTicket, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """A delivery that a site may act on."""

    ticket: Signed[Ticket]
    run: RunStart
    run_leaf: str
    opened: RoundOpen | None
    witness: WitnessState
    settlements: tuple[Settlement, ...]
    history: KeyHistory
    """The keys after the delivery's governing leaves."""
    governing: tuple[Governing, ...]


@dataclass(frozen=True, slots=True)
class _Leaves:
    """The delivery's leaves after obligations 2 and 3, by index in the log."""

    signed: Mapping[int, Signed[Event]]
    history: KeyHistory
    governing: tuple[Governing, ...]

    def one(self, kind: type[E], what: str, **fields: object) -> tuple[int, E]:
        """Return the only leaf of ``kind`` whose fields are these."""
        found = [
            (index, leaf.document)
            for index, leaf in self.signed.items()
            if isinstance(leaf.document, kind)
            and all(getattr(leaf.document, name) == value for name, value in fields.items())
        ]
        if not found:
            raise UnloggedTicketError(f"the delivery does not prove {what}", where="delivery leaves")
        if len(found) > 1:
            raise EquivocationError(f"the log holds {what} more than once", where="delivery leaves")
        return found[0]


def verify_delivery(delivery: Delivery, ticket: Signed[Ticket], standing: Standing) -> Verified:
    """Return what the site may believe of ``delivery``; the obligations are numbered in the module's docstring.

    Raises:
        AuditError: the checkpoint, a proof or the quorum fails.
        TicketError, SignatureError, MalformedError: a leaf is missing, forged, contradictory or for another place.
    """
    order = ticket.document
    parties = standing.parties
    if order.kind == "approve":  # an officer's matter, never a runtime's: it would else be work without a round
        raise TicketError("a site's runtime does no work of this kind", where=f"ticket {ticket.digest[:16]}")
    witness, checkpoint = _checkpoint(delivery, standing)  # 1
    leaves = _leaves(delivery, checkpoint, standing)  # 2, 3, 4
    run_index, run = _run(leaves, order, standing)  # 5
    opened = _ticket(leaves, ticket)  # 6
    made = _chain(leaves, run_index, run)
    _model(leaves, order, run, opened, made)  # 7
    _quorum(delivery, checkpoint, order, made, parties)  # 8
    terms = Terms(standing.identity, run, parties.charter.weights, standing.opening)
    settled = settlements(delivery.settled, leaves.signed, standing.open_tickets, terms)  # 9
    run_leaf = leaves.signed[run_index].raw.decode()
    return Verified(ticket, run, run_leaf, opened, witness, settled, leaves.history, leaves.governing)


def _checkpoint(delivery: Delivery, standing: Standing) -> tuple[WitnessState, Checkpoint]:
    proof = _hashes(delivery.consistency)
    note = delivery.checkpoint.encode()
    witness = advance(standing.witness, note, proof, standing.parties.log_key)
    return witness, Checkpoint(standing.witness.origin, witness.size, witness.root)


def _leaves(delivery: Delivery, checkpoint: Checkpoint, standing: Standing) -> _Leaves:
    parties = standing.parties
    signed: dict[int, Signed[Event]] = {}
    governing: list[Governing] = []
    keys = Parties(parties.signed, parties.history)
    for item in sorted(delivery.leaves, key=lambda proof: proof.index):
        raw = item.leaf.encode()
        require_inclusion(leaf_hash(raw), item.index, checkpoint.size, _hashes(item.proof), checkpoint.root)
        event = peek_event(raw)
        if event.federation != parties.charter.federation:
            raise MisaddressedTicketError("a leaf of another federation", where=f"leaf {item.index}")
        fault = actor_fault(event, parties.charter.server, parties.charter.cosigners)
        if fault:
            raise SignatureError(fault, where=f"leaf {item.index}")
        signed[item.index] = open_event(raw, keys.signing_key(raw, event.actor, at=item.index))
        _refuse_foreign_keys(event, item.index, standing)  # before the keys follow: the leaf itself is the evidence
        if isinstance(event, GOVERNING) and item.index > keys.history.last:
            one = Governing(item.index, item.leaf, named_objects(event, delivery.objects))
            keys.history = one.follow(keys)
            governing.append(one)
    return _Leaves(signed, keys.history, tuple(governing))


def _refuse_foreign_keys(event: Event, index: int, standing: Standing) -> None:
    if not isinstance(event, MemberAdd | KeyEnrol | KeyRotate) or event.identity != standing.identity:
        return
    if event.statement not in standing.statements:
        raise EquivocationError(
            "the log names this site with keys that it did not make",
            where=f"leaf {index}",
            remedy="Stop taking part and tell the other members' officers; the evidence is kept.",
        )


def _run(leaves: _Leaves, order: Ticket, standing: Standing) -> tuple[int, RunStart]:
    index, run = leaves.one(RunStart, f"the start of run {order.run}", run=order.run)
    parties = standing.parties
    if run.actor != parties.charter.server or run.charter != parties.digest:
        raise MisaddressedTicketError("the run was not started by this charter's server under this charter")
    if run.suite != parties.charter.suite:
        raise MisaddressedTicketError(f"the run seals with {run.suite} where the charter says {parties.charter.suite}")
    if standing.run_leaf is not None and standing.run_leaf.encode() != leaves.signed[index].raw:
        raise EquivocationError(f"run {order.run} was started twice, differently", where=f"leaf {index}")
    return index, run


def _ticket(leaves: _Leaves, ticket: Signed[Ticket]) -> RoundOpen | None:
    order = ticket.document
    issued, issue = leaves.one(TicketIssue, "that this ticket was issued", ticket=ticket.digest)
    expected = (order.run, order.version, order.site, order.seq, order.kind, order.not_after)
    if (issue.run, issue.version, issue.site, issue.seq, issue.kind, issue.not_after) != expected:
        raise UnloggedTicketError("the log describes this ticket differently", where=f"ticket {ticket.digest[:16]}")
    if order.kind != "train":
        return None
    opened = _round(leaves, order, issued)
    if opened.parent != order.parent or opened.manifest != order.work.manifest:
        raise UnloggedTicketError("the ticket's model is not the one of its round", where="round.open")
    if order.site not in opened.participants:
        raise UnloggedTicketError("the round does not name this site as a participant", where="round.open")
    return opened


def _round(leaves: _Leaves, order: Ticket, issued: int) -> RoundOpen:
    """Return the round that was open when the ticket was issued: an aborted attempt before it is history, not equivocation."""
    rounds = {
        index: event
        for index, event in ((index, leaf.document) for index, leaf in leaves.signed.items())
        if isinstance(event, RoundOpen) and (event.run, event.version) == (order.run, order.version) and index < issued
    }
    if not rounds:
        raise UnloggedTicketError("the delivery does not prove that the round is open", where="delivery leaves")
    attempts = [event.attempt for event in rounds.values()]
    if len(set(attempts)) != len(attempts):
        raise EquivocationError("the log opens one attempt at a round more than once", where="delivery leaves")
    return rounds[max(rounds)]


def _chain(leaves: _Leaves, run_index: int, run: RunStart) -> dict[int, int]:
    """Return where each version shown was made: by one commit each, on the model that the commit before made."""
    made, output = {0: run_index}, {0: run.model}
    for index, leaf in leaves.signed.items():
        event = leaf.document
        if not isinstance(event, AggregateCommit) or event.run != run.run:
            continue
        if event.version + 1 in made or event.parent != output.get(event.version, event.parent):
            raise EquivocationError(f"the log makes version {event.version + 1} in two ways", where=f"leaf {index}")
        made[event.version + 1], output[event.version + 1] = index, event.output
    return made


def _model(leaves: _Leaves, order: Ticket, run: RunStart, opened: RoundOpen | None, made: Mapping[int, int]) -> None:
    if order.kind == "witness":
        return
    if order.version not in made:
        raise UnloggedTicketError(f"the delivery does not prove how version {order.version} was made")
    maker = leaves.signed[made[order.version]].document
    output = maker.output if isinstance(maker, AggregateCommit) else run.model
    if output != order.parent:
        raise UnloggedTicketError("the ticket's model is not the one that the last commit made", where="ticket.parent")
    if order.kind == "receive":
        _, release = leaves.one(ModelRelease, "the release of the model", run=order.run)
        if release.model != order.parent or order.site not in release.recipients:
            raise UnloggedTicketError("the release is of another model, or not for this site", where="model.release")


def _quorum(
    delivery: Delivery, checkpoint: Checkpoint, order: Ticket, made: Mapping[int, int], parties: Parties
) -> None:
    if order.kind == "witness":  # witness tickets collect the quorum: they cannot require it
        return
    version = order.version if order.kind == "receive" else max(order.version - 1, 0)
    if version not in made:
        raise UnloggedTicketError(f"the delivery does not prove how version {version} was made")
    if delivery.witnessed is None:
        raise QuorumError("the delivery shows no cosigned checkpoint", remedy="The server collects cosignatures first.")
    parties.require_quorum(
        delivery.witnessed.note.encode(), _hashes(delivery.witnessed.consistency), checkpoint, holds=made[version]
    )


def _hashes(values: Sequence[str]) -> tuple[bytes, ...]:
    try:
        return tuple(bytes.fromhex(value) for value in values)
    except ValueError:
        raise TicketError("a proof is not hexadecimal", where="delivery") from None
