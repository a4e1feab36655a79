"""Checks 8 to 12: does each run's story hold together, from its start to its end?

`replay_runs` walks the events once, as the state machine that an honest server follows, and sorts every departure under
the check it breaks. A version is what the last commit made; a round is one try at the next one; an update belongs to the
ticket that asked for it, and the ticket to the round in which it was issued.

Not handled here: whether the arithmetic of a commit is right (`runtime` replays it from the sealed inputs), what the
commitments hide, and schedules in which rounds overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...trust.charter.model import Charter
from ..events import (
    AggregateCommit,
    Event,
    ModelRelease,
    ReceiptFile,
    RoundAbort,
    RoundOpen,
    RunEnd,
    RunEvent,
    RunStart,
    TicketExpire,
    TicketIssue,
    UpdateAdmit,
    UpdateEvent,
    UpdateExclude,
    UpdateReject,
)
from .evidence import Logged

__all__ = ["Runs", "Ticketed", "replay_runs"]

R = TypeVar("R", bound=RunEvent)

_AFTER_END = ("receipt.file", "ticket.issue", "ticket.expire", "update.late", "access.denied", "model.release")


@dataclass(slots=True)
class Ticketed:
    """One ticket and what came of it."""

    issue: Logged[TicketIssue]
    receipt: Logged[ReceiptFile] | None = None
    admit: Logged[UpdateAdmit] | None = None
    verdicts: int = 0
    excluded: bool = False


@dataclass(slots=True)
class _Run:
    start: Logged[RunStart]
    model: str
    version: int = 0
    open: Logged[RoundOpen] | None = None
    tickets: dict[str, Ticketed] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)
    states: set[str | None] = field(default_factory=set)
    ended: bool = False


@dataclass(slots=True)
class Runs:
    """What the replay found: departures by the number of the check they break."""

    charter: Charter
    runs: dict[str, _Run] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    updates: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    chain: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    admitted: list[tuple[int, str, str]] = field(default_factory=list)
    """(index of the admission or commit, site, key id of the site's receipt)."""
    open_runs: list[str] = field(default_factory=list)


def replay_runs(events: list[Logged[Event]], charter: Charter) -> Runs:
    """Return what came of walking the runs in ``events``."""
    runs = Runs(charter)
    for one in events:
        if isinstance(one.event, RunStart):
            _start(runs, one)
        elif isinstance(one.event, RunEvent):
            run = runs.runs.get(one.event.run)
            if run is None:
                runs.order.append(f"leaf {one.index}: {one.event.type} in a run that was never started")
                continue
            if run.ended and one.event.type not in _AFTER_END:
                runs.order.append(f"leaf {one.index}: {one.event.type} after the end of its run")
            handler = _HANDLERS.get(one.event.type)
            if handler is not None:
                handler(runs, run, one)
    runs.open_runs = [name for name, run in runs.runs.items() if not run.ended]
    return runs


def _start(runs: Runs, one: Logged[Any]) -> None:
    if one.event.run in runs.runs:
        runs.order.append(f"leaf {one.index}: a second start of run {one.event.run}")
        return
    runs.runs[one.event.run] = _Run(one, one.event.model)


def _round_open(runs: Runs, run: _Run, one: Logged[RoundOpen]) -> None:
    event, at = one.event, f"leaf {one.index}"
    if run.open is not None:
        runs.order.append(f"{at}: a round opened while that of leaf {run.open.index} was open")
    if event.version != run.version:
        runs.order.append(f"{at}: a round on version {event.version} when the last commit made {run.version}")
    if event.parent != run.model:
        runs.chain.append(f"{at}: a round on another model than the last commit made")
    allowed = {decision.identity for decision in event.decisions if decision.allowed}
    for site in event.participants:
        if site not in runs.charter.cosigners:
            runs.members.append(f"{at}: {site} is no site of the charter")
        elif site not in allowed:
            runs.members.append(f"{at}: {site} was asked without the group's word that it is a member")
    run.open = one


def _ticket(runs: Runs, run: _Run, one: Logged[TicketIssue]) -> None:
    event, at = one.event, f"leaf {one.index}"
    if event.ticket in run.tickets:
        runs.updates.append(f"{at}: ticket {event.ticket[:16]} issued twice")
        return
    if event.site not in runs.charter.cosigners:
        runs.members.append(f"{at}: a ticket for {event.site}, which is no site of the charter")
    if event.seq <= run.seqs.get(event.site, 0):
        runs.updates.append(f"{at}: the sequence number of {event.site} does not rise")
    run.seqs[event.site] = max(event.seq, run.seqs.get(event.site, 0))
    if event.kind == "train":
        if run.open is None or event.version != run.open.event.version:
            runs.order.append(f"{at}: a ticket to train outside its round")
        elif event.site not in run.open.event.participants:
            runs.order.append(f"{at}: {event.site} does not take part in the round")
    run.tickets[event.ticket] = Ticketed(one)


def _receipt(runs: Runs, run: _Run, one: Logged[ReceiptFile]) -> None:
    event, at = one.event, f"leaf {one.index}"
    found = run.tickets.get(event.ticket)
    if found is None:
        runs.updates.append(f"{at}: a receipt for a ticket that was not issued")
        return
    issued = found.issue.event
    claimed = (event.actor, event.seq, event.version, event.kind)
    if claimed != (issued.site, issued.seq, issued.version, issued.kind):
        runs.updates.append(f"{at}: a receipt that does not fit its ticket {event.ticket[:16]}")
    elif found.receipt is not None:
        runs.updates.append(f"{at}: a second receipt for ticket {event.ticket[:16]}")
    else:
        found.receipt = one


def _of_update(runs: Runs, run: _Run, one: Logged[UpdateEvent]) -> Ticketed | None:
    event, at = one.event, f"leaf {one.index}"
    found = run.tickets.get(event.ticket)
    if found is None:
        runs.updates.append(f"{at}: {event.type} for a ticket that was not issued")
        return None
    if (found.issue.event.site, found.issue.event.version) != (event.site, event.version):
        runs.updates.append(f"{at}: {event.type} under another site or version than its ticket's")
        return None
    return found


def _admit(runs: Runs, run: _Run, one: Logged[UpdateAdmit]) -> None:
    found = _of_update(runs, run, one)
    if found is None:
        return
    event, at = one.event, f"leaf {one.index}"
    _verdict(runs, run, found, one)
    receipt = found.receipt
    if receipt is None or receipt.digest != event.receipt:
        runs.updates.append(f"{at}: {event.site} admitted without its receipt")
        return
    if receipt.event.manifest != event.manifest or receipt.event.outcome != "done":
        runs.updates.append(f"{at}: {event.site} admitted with another manifest than its receipt names, or none")
    if event.decision.identity != event.site or not event.decision.allowed:
        runs.members.append(f"{at}: {event.site} admitted without the group's word that it is a member")
    runs.admitted.append((one.index, event.site, receipt.key_id))
    if found.admit is None:
        found.admit = one


def _reject(runs: Runs, run: _Run, one: Logged[UpdateReject]) -> None:
    found = _of_update(runs, run, one)
    if found is None:
        return
    _verdict(runs, run, found, one)
    if one.event.receipt is not None and (found.receipt is None or found.receipt.digest != one.event.receipt):
        runs.updates.append(f"leaf {one.index}: a rejection that names another receipt")


def _verdict(runs: Runs, run: _Run, found: Ticketed, one: Logged[Any]) -> None:
    found.verdicts += 1
    if found.verdicts > 1:
        runs.updates.append(f"leaf {one.index}: a second verdict on ticket {one.event.ticket[:16]}")
    if found.issue.event.kind != "train":
        runs.updates.append(f"leaf {one.index}: a verdict on a ticket that asked for no update")
    if run.open is None or found.issue.index < run.open.index:
        runs.order.append(f"leaf {one.index}: a verdict outside the round of its ticket")


def _exclude(runs: Runs, run: _Run, one: Logged[UpdateExclude]) -> None:
    found = _of_update(runs, run, one)
    if found is None:
        return
    if found.admit is None or run.open is None or found.issue.index < run.open.index:
        runs.order.append(f"leaf {one.index}: an exclusion of an update that was not admitted in this round")
    found.excluded = True


def _expire(runs: Runs, run: _Run, one: Logged[TicketExpire]) -> None:
    found = run.tickets.get(one.event.ticket)
    if found is None or found.issue.event.site != one.event.site:
        runs.updates.append(f"leaf {one.index}: a ticket expired that was not issued to {one.event.site}")


def _commit(runs: Runs, run: _Run, one: Logged[AggregateCommit]) -> None:
    event, at = one.event, f"leaf {one.index}"
    opened = run.open
    if opened is None or event.version != run.version:
        runs.order.append(f"{at}: a commit outside its round")
    if event.parent != run.model:
        runs.chain.append(f"{at}: a commit on another model than the last one made")
    if (event.rule, event.parameters) != (run.start.event.rule, run.start.event.parameters):
        runs.commits.append(f"{at}: another rule, or other parameters, than the run started with")
    _state(runs, run, one)
    _inputs(runs, run, one)
    _leftovers(runs, opened, one)
    run.model, run.version, run.open = event.output, run.version + 1, None


def _state(runs: Runs, run: _Run, one: Logged[AggregateCommit]) -> None:
    """A rule keeps state or it does not: all commits of a run name one, or none; and each is a commitment of its own."""
    event, at = one.event, f"leaf {one.index}"
    if run.states and (event.state is None) != (None in run.states):
        runs.commits.append(f"{at}: a state where the commits before name none, or none where they name one")
    elif event.state is not None and event.state in run.states:
        runs.commits.append(f"{at}: the state of an earlier commit")
    run.states.add(event.state)


def _inputs(runs: Runs, run: _Run, one: Logged[AggregateCommit]) -> None:
    event, at = one.event, f"leaf {one.index}"
    since = run.open.index if run.open is not None else one.index
    standing = {
        ticket: (found.admit.event.site, found.admit.event.manifest)
        for ticket, found in run.tickets.items()
        if found.admit is not None and not found.excluded and found.issue.index > since
    }
    named = {item.ticket: (item.site, item.manifest) for item in event.inputs}
    if len(named) != len(event.inputs) or len({item.site for item in event.inputs}) != len(event.inputs):
        runs.commits.append(f"{at}: an update counted twice")
    for ticket in sorted(standing.keys() - named.keys()):
        runs.commits.append(f"{at}: the admitted update of {standing[ticket][0]} is left out")
    for ticket in sorted(named.keys() - standing.keys()):
        runs.commits.append(f"{at}: an update of {named[ticket][0]} that was not admitted in this round is counted")
    for ticket in sorted(named.keys() & standing.keys()):
        if named[ticket] != standing[ticket]:
            runs.commits.append(f"{at}: another site or manifest than was admitted for ticket {ticket[:16]}")
    weights, allowed = runs.charter.weights, {d.identity for d in event.decisions if d.allowed}
    for item in event.inputs:
        if item.weight != weights.get(item.site):
            runs.commits.append(f"{at}: {item.site} counted with another weight than the charter's")
        if item.site not in allowed:
            runs.members.append(f"{at}: {item.site} counted without the group's word that it is a member")
        receipt = run.tickets[item.ticket].receipt if item.ticket in run.tickets else None
        if receipt is not None:
            runs.admitted.append((one.index, item.site, receipt.key_id))
    order = [site for site in runs.charter.sites if site in {item.site for item in event.inputs}]
    if order != [item.site for item in event.inputs]:
        runs.commits.append(f"{at}: the inputs are not in the order of the charter")


def _leftovers(runs: Runs, opened: Logged[RoundOpen] | None, one: Logged[AggregateCommit] | Logged[RoundAbort]) -> None:
    if opened is None:
        return
    used = {item.site for item in one.event.inputs} if isinstance(one.event, AggregateCommit) else set[str]()
    excluded = [item.site for item in one.event.excluded]
    for site in opened.event.participants:
        if (site in used) + excluded.count(site) != 1:
            runs.commits.append(f"leaf {one.index}: {site} must be among the inputs or, once, among those left out")
    # A site that was not even asked may be named too, with the reason why.
    for site in sorted(
        set(excluded) - runs.charter.cosigners | {site for site in excluded if excluded.count(site) > 1}
    ):
        runs.commits.append(f"leaf {one.index}: {site} is left out twice, or is no site of the charter")


def _abort(runs: Runs, run: _Run, one: Logged[RoundAbort]) -> None:
    if run.open is None or one.event.version != run.version:
        runs.order.append(f"leaf {one.index}: an abort outside its round")
    _leftovers(runs, run.open, one)
    run.open = None


def _release(runs: Runs, run: _Run, one: Logged[ModelRelease]) -> None:
    if (one.event.version, one.event.model) != (run.version, run.model):
        runs.chain.append(f"leaf {one.index}: a release of another model than the last commit made")


def _end(runs: Runs, run: _Run, one: Logged[RunEnd]) -> None:
    if run.open is not None:
        runs.order.append(f"leaf {one.index}: the run ended with the round of leaf {run.open.index} open")
    if (one.event.version, one.event.model) != (run.version, run.model):
        runs.chain.append(f"leaf {one.index}: the run ended with another model than the last commit made")
    run.ended = True


def _mention(runs: Runs, run: _Run, one: Logged[UpdateEvent]) -> None:
    _of_update(runs, run, one)


_HANDLERS: dict[str, Callable[[Runs, _Run, Logged[Any]], None]] = {
    "round.open": _round_open,
    "ticket.issue": _ticket,
    "ticket.expire": _expire,
    "receipt.file": _receipt,
    "update.admit": _admit,
    "update.reject": _reject,
    "update.exclude": _exclude,
    "update.late": _mention,
    "update.unused": _mention,
    "aggregate.commit": _commit,
    "round.abort": _abort,
    "model.release": _release,
    "run.end": _end,
}
