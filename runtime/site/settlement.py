"""What became of the tickets that a site answered: shown by the server, checked by the site.

A site takes no new ticket of a run before the log has settled its earlier ones. So a server that drops, rewrites or
mis-weighs an update is caught by the site whose update it was, before that site gives anything more.

An answered ticket is settled by its own receipt as a leaf (the same payload under this site's signature: how the envelope
around it is spelled may change on the way, and convicts nobody), and then

- for work other than training: nothing more;
- for an update: `update.reject`, `update.late`, `update.unused`, `update.exclude`, or `update.admit` followed by the
  `aggregate.commit` (or `round.abort`) of its version. A commit must name the update with the manifest of the receipt, and the
  opened coefficient must match the commitment and, to 2^-16, the value that the rule gives from the charter's weights of the
  inputs named in the commit and this site's own norm.

or, without the receipt, by a `ticket.expire`: the server says that it never got the answer. The site then knows that its update
was not used, which it can hold against any later claim; a commit beside it that names the update is a contradiction.

Only signed leaves convict. What travels unsigned beside them (which leaves settle what, openings) can be garbled by anybody on
the way: where it fails, the ticket is unsettled, and the site takes nothing more until it is shown better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...algorithms.rule import UpdateMeta, make_rule
from ...algorithms.statistics import UpdateStatistics
from ...audit.events import (
    AggregateCommit,
    Event,
    ReceiptFile,
    RoundAbort,
    RunStart,
    TicketExpire,
    UpdateAdmit,
    UpdateExclude,
    UpdateLate,
    UpdateReject,
    UpdateUnused,
    commitment,
)
from ...trust.documents import Signed
from ...trust.dsse import read
from ...trust.errors import EquivocationError, MalformedError, RecipientError
from ...trust.identifiers import sha256
from ...trust.keys.sealing import OpeningKey
from ..delivery import Opening, Settled
from ..errors import UnsettledError
from ..sealed_json import open_sealed
from .state import OpenTicket

__all__ = ["Settlement", "Terms", "settlements"]

_AGREE = 2.0**-16


@dataclass(frozen=True, slots=True)
class Terms:
    """Whose settlement, in which run, under which weights; and the key that opens its coefficients."""

    site: str
    run: RunStart
    weights: Mapping[str, float]
    """The charter's."""
    opening: OpeningKey


@dataclass(frozen=True, slots=True)
class Settlement:
    """The fate of one answered ticket: ``used``, ``rejected``, ``expired``, ``late``, ``unused``, ``excluded``, ``noted``."""

    ticket: str
    fate: str
    reasons: tuple[str, ...] = ()
    coefficient: float | None = None


def settlements(
    shown: Sequence[Settled],
    leaves: Mapping[int, Signed[Event]],
    open_tickets: Sequence[OpenTicket],
    terms: Terms,
) -> tuple[Settlement, ...]:
    """Return the fate of every open ticket.

    Raises:
        UnsettledError: one of them is not accounted for.
        EquivocationError: the log contradicts the site's own receipt.
    """
    by_ticket = {item.ticket: item for item in shown}
    return tuple(
        _consistent(_settle(ticket, by_ticket.get(ticket.digest), leaves, terms), leaves) for ticket in open_tickets
    )


def _consistent(settlement: Settlement, leaves: Mapping[int, Signed[Event]]) -> Settlement:
    commits = (leaf.document for leaf in leaves.values() if isinstance(leaf.document, AggregateCommit))
    counted = any(item.ticket == settlement.ticket for commit in commits for item in commit.inputs)
    if counted and settlement.fate != "used":
        raise EquivocationError(
            f"a commit counts this site's update although it was {settlement.fate}", where="aggregate.commit"
        )
    return settlement


def _settle(ticket: OpenTicket, shown: Settled | None, leaves: Mapping[int, Signed[Event]], terms: Terms) -> Settlement:
    if shown is None:
        raise UnsettledError(
            "an answer of this site is not accounted for in the log",
            where=f"ticket {ticket.digest[:16]}",
            remedy="The server must log its receipt and verdict, or that the ticket expired.",
        )
    found = [leaves[index] for index in shown.leaves if index in leaves]
    events = [leaf.document for leaf in found]
    for event in events:
        if isinstance(event, TicketExpire) and event.ticket == ticket.digest:
            return Settlement(ticket.digest, "expired", (event.reason,))
    _require_own_receipt(ticket, found)
    if ticket.kind != "train" or ticket.outcome != "done":
        return Settlement(ticket.digest, "noted")
    return _verdict(ticket, _opened(shown, terms), events, terms)


def _opened(shown: Settled, terms: Terms) -> Opening | None:
    # The sealed text is unsigned: one that does not open convicts nobody, and is as good as none.
    if shown.coefficient is None:
        return None
    where = {"federation": terms.run.federation, "ticket": shown.ticket}
    try:
        return open_sealed(shown.coefficient, terms.opening, purpose="coefficient", **where)
    except (MalformedError, RecipientError):
        return None


def _require_own_receipt(ticket: OpenTicket, found: Sequence[Signed[Event]]) -> None:
    receipts = {leaf.digest for leaf in found if isinstance(leaf.document, ReceiptFile)}
    if sha256(read(ticket.receipt.encode()).payload) in receipts:
        return
    if any(isinstance(leaf.document, ReceiptFile) and leaf.document.ticket == ticket.digest for leaf in found):
        raise EquivocationError("the log holds another receipt than this site's", where=f"ticket {ticket.digest[:16]}")
    raise UnsettledError("the log does not hold this site's receipt", where=f"ticket {ticket.digest[:16]}")


def _verdict(ticket: OpenTicket, opening: Opening | None, events: Sequence[Event], terms: Terms) -> Settlement:
    admitted = False
    for event in events:
        if getattr(event, "ticket", None) == ticket.digest:
            if isinstance(event, UpdateReject):
                return Settlement(ticket.digest, "rejected", event.reasons)
            if isinstance(event, UpdateLate):
                return Settlement(ticket.digest, "late")
            if isinstance(event, UpdateUnused | UpdateExclude):
                return Settlement(ticket.digest, "unused", (event.reason,))
            if isinstance(event, UpdateAdmit):
                if event.manifest != ticket.manifest:
                    raise EquivocationError("another update was admitted in place of this site's", where="update.admit")
                admitted = True
    if not admitted:
        raise UnsettledError("the log holds no verdict on this site's update", where=f"ticket {ticket.digest[:16]}")
    for event in events:
        if isinstance(event, RoundAbort) and _is_round(event, ticket, terms):
            return Settlement(ticket.digest, "unused", (event.reason,))
        if isinstance(event, AggregateCommit) and _is_round(event, ticket, terms):
            return _used(ticket, opening, event, terms)
    raise UnsettledError("the round of this site's update has no end in the log", where=f"version {ticket.version}")


def _is_round(event: RoundAbort | AggregateCommit, ticket: OpenTicket, terms: Terms) -> bool:
    return (event.run, event.version, event.attempt) == (terms.run.run, ticket.version, ticket.attempt)


def _used(ticket: OpenTicket, opening: Opening | None, commit: AggregateCommit, terms: Terms) -> Settlement:
    mine = [item for item in commit.inputs if item.ticket == ticket.digest]
    if len(mine) != 1 or mine[0].site != terms.site or mine[0].manifest != ticket.manifest:
        raise EquivocationError("the commit does not name this site's admitted update", where="aggregate.commit")
    _require_terms(commit, terms)
    if opening is None or commitment(opening.value, opening.salt) != mine[0].coefficient:
        raise UnsettledError("the coefficient shown is not the one committed", where="aggregate.commit")
    value = coefficient_value(opening.value)
    expected = _expected(ticket, commit, terms.site)
    if not abs(value - expected) <= _AGREE * max(abs(expected), abs(value)):
        raise EquivocationError(
            "this site's update was weighed otherwise than rule and charter say", where="aggregate.commit"
        )
    return Settlement(ticket.digest, "used", coefficient=value)


def _require_terms(commit: AggregateCommit, terms: Terms) -> None:
    if commit.rule != terms.run.rule or commit.parameters != terms.run.parameters:
        raise EquivocationError("the commit used another rule than the run was started with", where="aggregate.commit")
    for item in commit.inputs:
        if item.weight != terms.weights.get(item.site):
            raise EquivocationError(f"{item.site} was not given its charter weight", where="aggregate.commit")


def coefficient_value(bits: object) -> float:
    """Return the float32 that eight hexadecimal digits (big-endian bits) spell.

    >>> coefficient_value("3e800000")
    0.25
    """
    if not isinstance(bits, str) or len(bits) != 8:
        raise EquivocationError("a coefficient is eight hexadecimal digits", where="aggregate.commit")
    try:
        return float(np.frombuffer(bytes.fromhex(bits), dtype=">f4")[0])
    except ValueError:
        raise EquivocationError("a coefficient is eight hexadecimal digits", where="aggregate.commit") from None


def _expected(ticket: OpenTicket, commit: AggregateCommit, site: str) -> float:
    # Norms of the others are not this site's to know: its own coefficient depends on weights and its own norm alone.
    rule = make_rule(commit.rule, commit.parameters)
    meta = [UpdateMeta(item.site) for item in commit.inputs]
    weights = {item.site: item.weight for item in commit.inputs}
    norms = [ticket.norm if item.site == site and ticket.norm is not None else 0.0 for item in commit.inputs]
    stats = [UpdateStatistics(True, norm, (), None, 0, ()) for norm in norms]
    place = [item.site for item in commit.inputs].index(site)
    return float(rule.coefficients(meta, stats, None, weights)[place])
