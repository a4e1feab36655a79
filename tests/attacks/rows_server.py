"""What a server can try that holds its own real keys: it signs whatever it likes and writes the log as it likes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from counterseal.audit.events import (
    AggregateCommit,
    Event,
    KeyRotate,
    MemberAdd,
    ModelRelease,
    ReceiptFile,
    RoundAbort,
    RoundOpen,
    RunStart,
    TicketExpire,
    TicketIssue,
    UpdateAdmit,
    UpdateReject,
    UpdateUnused,
    commitment,
    salt,
)
from counterseal.runtime.server.rounds.commit import float_bits
from counterseal.trust.canonical import canonical
from counterseal.trust.documents import Signed
from counterseal.trust.keys.sealing import OpeningKey
from counterseal.trust.tickets import Ticket, Work

from .forge import Forger, sealed_coefficient, ticket_of
from .play import at_site
from .table import Row
from .world import ME, OTHER, SERVER, World, answer_of, worlds

__all__ = ["SERVER_ROWS"]

RUN = "run-1"
FORGED = "f" * 64


def when(kind: type[Event], edit: Callable[[Any], Any], /, **fields: Any) -> Callable[[Event], Any]:
    """Return a rewriting of the log: events of ``kind`` with these fields become what ``edit`` returns."""

    def change(event: Event) -> Any:
        wanted = isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        return edit(event) if wanted else event

    return change


def rewritten(kind: type[Event], edit: Callable[[Any], Any], /, **fields: Any) -> Callable[[World], bytes]:
    """Return a delivery against a log in which the events of ``kind`` read otherwise."""
    return lambda world: Forger(world, when(kind, edit, **fields)).deliver()


def changed(**values: Any) -> Callable[[Any], Any]:
    """Return an edit of an event."""
    return lambda event: event.model_copy(update=values)


def about(world: World) -> dict[str, Any]:
    """Return the fields of an event of the server's."""
    return {"federation": "test-federation", "actor": SERVER, "time": world.clock(), "run": RUN}


def issue_of(world: World, ticket: Signed[Ticket]) -> TicketIssue:
    """Return the leaf for a ticket."""
    order = ticket.document
    return TicketIssue(
        **about(world),
        version=order.version,
        ticket=ticket.digest,
        site=order.site,
        seq=order.seq,
        kind=order.kind,
        not_after=order.not_after,
    )


def minted(**changes: Any) -> Callable[[World], bytes]:
    """Return the delivery of a logged ticket that differs in ``changes``."""

    def apply(world: World) -> bytes:
        ticket = ticket_of(world, **changes)
        return Forger(world, more=[issue_of(world, ticket)]).deliver(ticket, grants={})

    return apply


def granted(**changes: Any) -> Callable[[World], bytes]:
    """Return the same with the grants of the true delivery, as far as they are for the ticket's objects."""

    def apply(world: World) -> bytes:
        ticket = ticket_of(world, **changes)
        grants = {**world.json()["grants"], "update": None, "answer": None}
        return Forger(world, more=[issue_of(world, ticket)]).deliver(ticket, grants=grants)

    return apply


def unlogged(world: World) -> bytes:
    ticket = ticket_of(world, not_after=world.clock() + 10)
    return Forger(world).deliver(ticket, grants={})


def second_ticket() -> str:
    """Work for one ticket, then meet another one in its place."""
    with worlds() as world:
        assert world.hand(world.delivery) == "accepted"
        other = ticket_of(world, not_after=world.clock() + 10)
        facts, files = world.facts(), world.files()
        code = world.hand(canonical(world.json() | {"ticket": other.raw.decode(), "grants": {}}))
        now = world.facts()
        evidence = now.pop("halted")
        assert evidence["evidence"]["ticket"] == other.raw.decode()
        assert (now, world.files()) == (facts, files)
        ended = world.finish()
        assert (ended.outcome, ended.model, ended.halted) == ("completed", world.model, (ME,))
        assert world.verify() == []
        return code


def twin_of(world: World) -> Forger:
    """Return a log of the same length as the true one that says something else at its end."""
    return Forger(world, when(TicketIssue, changed(time=1), site=ME, version=2, kind="train"))


def fork_at_one_site() -> str:
    """Show one site two logs of one size."""
    with worlds() as world:
        forged = twin_of(world)
        note, size = forged.note.decode(), forged.log.size
        forged.log.close()
        assert world.hand(world.delivery) == "accepted"
        assert int(world.json()["checkpoint"].split("\n")[1]) == size
        facts = world.facts()
        ticket = ticket_of(world, seq=ticket_of(world).document.seq + 1, kind="witness", work=Work(manifest=None))
        value = world.json() | {"ticket": ticket.raw.decode(), "grants": {}}
        value |= {"checkpoint": note, "consistency_from": size, "consistency": []}
        code = world.hand(canonical(value))
        now = world.facts()
        evidence = now.pop("halted")["evidence"]
        assert now == facts
        assert evidence["checkpoint"] == note
        assert evidence["seen"].split("\n")[2] != note.split("\n")[2]
        ended = world.finish()
        assert (ended.model, ended.halted) == (world.model, (ME,))
        return code


def fork_between_sites() -> str:
    """Show two sites two logs; the cosignature of the one that saw the fork is worth nothing in the other log."""
    with worlds() as world:
        extra = issue_of(world, ticket_of(world, seq=99))
        forged = Forger(world, more=[extra, extra.model_copy(update={"time": 1})])
        with world.federation.site(ME) as site:
            answer = site.handle(forged.deliver())
        assert answer_of(answer) == "accepted"  # alone, it cannot know: a first view is a view
        codes: list[str] = []

        def answers(site: str, raw: bytes) -> bytes:
            if site == ME:
                codes.append(answer_of(raw))
            return raw

        ended = world.finish(answers=answers)  # the true log, on which the others are
        assert ended.outcome == "completed"
        assert (ended.model, ended.verdict(ME)) == (
            world.alone,
            "signature",
        )  # cosigned for the fork: worth nothing here
        assert world.verify() == []
        return codes[-1]


def foreign_statement(world: World, kind: type[MemberAdd] | type[KeyRotate]) -> bytes:
    base: dict[str, Any] = {"federation": "test-federation", "time": world.clock(), "identity": ME, "statement": FORGED}
    if kind is MemberAdd:
        return Forger(world, more=[MemberAdd(**base, actor=SERVER, roles=("site",))]).deliver()
    return Forger(world, more=[KeyRotate(**base, actor=SERVER)]).deliver()


def run_again(world: World) -> bytes:
    """Log a second start of the run, with another seal key, and show that one."""
    key = OpeningKey.generate(world.federation.charter.charter.suite).public
    import base64

    from counterseal.audit.events import peek_event

    start = next(
        event for leaf in world.json()["leaves"] if isinstance(event := peek_event(leaf["leaf"].encode()), RunStart)
    )
    second = start.model_copy(update={"seal_key": base64.b64encode(key.public).decode()})
    return Forger(world, more=[second]).deliver(show=lambda event: event != start)


def both_starts(world: World) -> bytes:
    from counterseal.audit.events import peek_event

    start = next(
        event for leaf in world.json()["leaves"] if isinstance(event := peek_event(leaf["leaf"].encode()), RunStart)
    )
    return Forger(world, more=[start.model_copy(update={"time": start.time + 1})]).deliver()


def first_start(**changes: Any) -> Callable[[World], bytes]:
    """Return the first delivery that a site gets, of a run that was started with ``changes``."""

    def apply(world: World) -> bytes:
        return Forger(world, when(RunStart, changed(**changes)), seen=0).deliver()

    return apply


def my_ticket(world: World, version: int = 1) -> str:
    """Return the digest of site-a's answered ticket for ``version``."""
    return next(
        str(value["digest"])
        for key, value in world.facts().items()
        if key.startswith("open/") and value["version"] == version
    )


def on_mine(kind: type[Event], edit: Callable[[World, Any], Any]) -> Callable[[World], bytes]:
    """Return a delivery whose log reads otherwise about site-a's update of the round before."""

    def apply(world: World) -> bytes:
        mine = my_ticket(world)
        return Forger(world, when(kind, lambda event: edit(world, event), ticket=mine)).deliver()

    return apply


def in_commit(edit: Callable[[World, Any], Any]) -> Callable[[World], bytes]:
    """Return a delivery whose log has another last commit."""
    return lambda world: Forger(world, when(AggregateCommit, lambda event: edit(world, event), version=1)).deliver()


def inputs(edit: Callable[[Any], dict[str, Any]], site: str = ME) -> Callable[[World, Any], Any]:
    """Return an edit of one input of a commit."""

    def apply(world: World, commit: AggregateCommit) -> AggregateCommit:
        changed = tuple(one.model_copy(update=edit(one)) if one.site == site else one for one in commit.inputs)
        return commit.model_copy(update={"inputs": changed})

    return apply


def dropped(world: World, commit: AggregateCommit) -> AggregateCommit:
    return commit.model_copy(update={"inputs": tuple(one for one in commit.inputs if one.site != ME)})


def misweighed(world: World) -> bytes:
    """Commit to half of the coefficient and open that commitment honestly."""
    import numpy as np

    fresh, bits = salt(), float_bits(np.float32(0.125))
    raw = json.loads(in_commit(inputs(lambda one: {"coefficient": commitment(bits, fresh)}))(world))
    for item in raw["settled"]:
        if item["ticket"] == my_ticket(world):
            item["coefficient"] = sealed_coefficient(world, bits, fresh, item["ticket"])
    return canonical(raw)


def settled_by(*events: Callable[[World, str], Event], keep: tuple[str, ...] = ()) -> Callable[[World], bytes]:
    """Return a delivery whose log says ``events`` of site-a's update, and of the true leaves about it only ``keep``."""

    def apply(world: World) -> bytes:
        mine = my_ticket(world)

        def change(event: Event) -> Event | None:
            gone = getattr(event, "ticket", None) == mine and event.type not in keep
            return None if gone else event

        return Forger(world, change, more=[make(world, mine) for make in events]).deliver()

    return apply


def of_update(kind: Any, **values: Any) -> Callable[[World, str], Event]:
    return lambda world, mine: kind(**about(world), version=1, site=ME, ticket=mine, **values)


def abort(**values: Any) -> Callable[[World, str], Event]:
    """Return the abort of a round."""

    def make(world: World, mine: str) -> Event:
        fields = {**about(world), "version": 1, "attempt": 0, "reason": "membership", "excluded": ()}
        return RoundAbort(**{**fields, **values})

    return make


def uncommitted(*events: Callable[[World, str], Event]) -> Callable[[World], bytes]:
    """Return a delivery that shows site-a's admission and, in place of the commit that lacks it, ``events``."""

    def apply(world: World) -> bytes:
        mine = my_ticket(world)
        forged = Forger(
            world,
            when(AggregateCommit, lambda event: dropped(world, event), version=1),
            more=[make(world, mine) for make in events],
        )
        raw = json.loads(forged.deliver())
        ours = {leaf["index"] for leaf in raw["leaves"] if _type(leaf) != "aggregate.commit"}
        for item in raw["settled"]:
            item["leaves"] = [index for index in item["leaves"] if index in ours]
        return canonical(raw)

    return apply


def _type(leaf: dict[str, Any]) -> str:
    from counterseal.audit.events import peek_event

    return peek_event(leaf["leaf"].encode()).type


def other_receipt(world: World, event: ReceiptFile) -> ReceiptFile:
    return event.model_copy(update={"metrics": None})


def as_site(kind: type[Event]) -> Callable[[World], bytes]:
    """Return a delivery in which a colluding site says what only the server may say."""

    def apply(world: World) -> bytes:
        return Forger(
            world, when(kind, changed(actor=OTHER), version=2), signer=world.federation.keys[OTHER].signer
        ).deliver()

    return apply


def forked_commit(world: World) -> bytes:
    """Log a second commit of the version before, and build the ticket on that one."""
    from counterseal.audit.events import peek_event

    commit = next(
        event
        for leaf in world.json()["leaves"]
        if isinstance(event := peek_event(leaf["leaf"].encode()), AggregateCommit) and event.version == 1
    )
    return Forger(world, more=[commit.model_copy(update={"output": FORGED})]).deliver()


def broken_chain(world: World) -> bytes:
    return Forger(world, when(AggregateCommit, changed(parent=FORGED), version=1)).deliver()


SERVER_ROWS: tuple[Row, ...] = (
    at_site("P2-030", "server", "a ticket for another federation", "ticket_misaddressed", minted(federation="another")),
    at_site("P2-031", "server", "a ticket under another charter", "ticket_misaddressed", minted(charter=FORGED)),
    at_site("P2-032", "server", "a ticket for a run that was never started", "ticket_unlogged", minted(run="run-2")),
    at_site("P2-033", "server", "a ticket for work by a person (`approve`)", "ticket", granted(kind="approve", seq=9)),
    at_site("P2-034", "server", "a sequence number below the last one", "equivocation", minted(seq=1), halts=True),
    at_site(
        "P2-035",
        "server",
        "a ticket that names another model than its round",
        "ticket_unlogged",
        granted(parent=FORGED),
    ),
    at_site(
        "P2-036",
        "server",
        "a ticket that names another manifest than its round",
        "ticket_unlogged",
        granted(work=Work(manifest=FORGED)),
    ),
    at_site(
        "P2-037", "server", "a ticket to train on a version that nobody made", "ticket_unlogged", minted(version=7)
    ),
    at_site(
        "P2-038",
        "server",
        "another model as a version on which the site has worked",
        "equivocation",
        minted(version=1, parent=FORGED),
        halts=True,
    ),
    at_site(
        "P2-039",
        "server",
        "to evaluate a model that no commit made",
        "ticket_unlogged",
        granted(kind="evaluate", parent=FORGED),
    ),
    at_site(
        "P2-040",
        "server",
        "the release of another model",
        "ticket_unlogged",
        rewritten(ModelRelease, changed(model=FORGED)),
        at="receive-3",
    ),
    at_site(
        "P2-041",
        "server",
        "a release that does not name this site",
        "ticket_unlogged",
        rewritten(ModelRelease, changed(recipients=(OTHER,))),
        at="receive-3",
    ),
    at_site(
        "P2-042",
        "server",
        "a run sealed with another suite than the charter's (downgrade)",
        "ticket_misaddressed",
        first_start(suite="P384"),
        at="witness-0",
    ),
    at_site(
        "P2-043",
        "server",
        "a run under another charter",
        "ticket_misaddressed",
        first_start(charter=FORGED),
        at="witness-0",
    ),
    Row(
        "P7-030",
        "site",
        "server",
        "two tickets with one sequence number, one after the other",
        "equivocation",
        second_ticket,
    ),
    at_site("P7-031", "server", "a signed ticket that is not in the log", "ticket_unlogged", unlogged),
    at_site(
        "P7-032",
        "server",
        "a ticket that the log describes otherwise",
        "ticket_unlogged",
        rewritten(TicketIssue, changed(seq=99), site=ME, version=2),
    ),
    at_site(
        "P7-033",
        "server",
        "a round that does not name this site",
        "ticket_unlogged",
        rewritten(RoundOpen, changed(participants=(OTHER,)), version=2),
    ),
    at_site(
        "P7-034",
        "server",
        "a round on another model",
        "ticket_unlogged",
        rewritten(RoundOpen, changed(parent=FORGED), version=2),
    ),
    at_site(
        "P7-035",
        "server",
        "a commit that makes another model than the ticket's",
        "ticket_unlogged",
        rewritten(AggregateCommit, changed(output=FORGED), version=1),
    ),
    at_site("P7-036", "server", "two commits of one version", "equivocation", forked_commit, halts=True),
    at_site(
        "P7-037",
        "server",
        "a commit on another model than the one before made",
        "equivocation",
        broken_chain,
        halts=True,
    ),
    at_site(
        "P7-038",
        "server",
        "a second start of the run, with another key to seal to",
        "equivocation",
        run_again,
        halts=True,
    ),
    at_site("P7-039", "server", "two starts of the run shown together", "equivocation", both_starts, halts=True),
    at_site(
        "P7-040",
        "server",
        "the log rewritten before what the site saw",
        "checkpoint_inconsistent",
        lambda world: canonical(
            json.loads(Forger(world, when(RunStart, changed(time=1)), seen=0).deliver())
            | {"consistency": world.json()["consistency"]}
        ),
    ),
    Row("P7-041", "site", "server", "two logs of one size shown to one site", "log_fork", fork_at_one_site),
    Row(
        "P7-042",
        "site",
        "server",
        "two logs shown to two sites: the one that saw the fork never follows the true log",
        "checkpoint_inconsistent",
        fork_between_sites,
    ),
    at_site(
        "P7-043",
        "server",
        "the site's receipt dropped from the log",
        "unsettled",
        on_mine(ReceiptFile, lambda world, event: None),
    ),
    at_site(
        "P7-044",
        "server",
        "the site's receipt rewritten and signed by the server",
        "unknown_key",
        on_mine(ReceiptFile, other_receipt),
    ),
    at_site(
        "P7-045",
        "server",
        "the verdict on the site's update dropped",
        "unsettled",
        on_mine(UpdateAdmit, lambda world, event: None),
    ),
    at_site(
        "P7-046",
        "server",
        "another update admitted in place of the site's",
        "equivocation",
        on_mine(UpdateAdmit, lambda world, event: event.model_copy(update={"manifest": FORGED})),
        halts=True,
    ),
    at_site(
        "P7-047", "server", "the admitted update left out of the commit", "equivocation", in_commit(dropped), halts=True
    ),
    at_site(
        "P7-048",
        "server",
        "the update counted under another site's name",
        "equivocation",
        in_commit(inputs(lambda one: {"site": OTHER})),
        halts=True,
    ),
    at_site(
        "P7-049",
        "server",
        "another manifest counted for the site's ticket",
        "equivocation",
        in_commit(inputs(lambda one: {"manifest": FORGED})),
        halts=True,
    ),
    at_site(
        "P7-050",
        "server",
        "another weight than the charter's for this site",
        "equivocation",
        in_commit(inputs(lambda one: {"weight": one.weight * 2})),
        halts=True,
    ),
    at_site(
        "P7-051",
        "server",
        "another weight than the charter's for another site",
        "equivocation",
        in_commit(inputs(lambda one: {"weight": one.weight * 2}, OTHER)),
        halts=True,
    ),
    at_site(
        "P7-052",
        "server",
        "another rule than the run was started with",
        "equivocation",
        in_commit(lambda world, event: event.model_copy(update={"rule": "fedavg", "parameters": {}})),
        halts=True,
    ),
    at_site(
        "P7-053",
        "server",
        "other parameters of the rule",
        "equivocation",
        in_commit(lambda world, event: event.model_copy(update={"parameters": {"clip_norm": 1.0}})),
        halts=True,
    ),
    at_site("P7-054", "server", "a smaller coefficient, committed and opened", "equivocation", misweighed, halts=True),
    at_site(
        "P7-055",
        "server",
        "the update rejected, and counted all the same",
        "equivocation",
        settled_by(of_update(UpdateReject, receipt=None, reasons=("norm_bound",)), keep=("receipt.file",)),
        halts=True,
    ),
    at_site(
        "P7-056",
        "server",
        "the ticket expired, and its update counted all the same",
        "equivocation",
        settled_by(of_update(TicketExpire, reason="not_answered")),
        halts=True,
    ),
    at_site(
        "P7-057",
        "server",
        "the update unused, and counted all the same",
        "equivocation",
        settled_by(of_update(UpdateUnused, reason="round_aborted"), keep=("receipt.file", "update.admit")),
        halts=True,
    ),
    at_site(
        "P7-058",
        "server",
        "the abort of another try shown in place of the commit",
        "unsettled",
        uncommitted(abort(attempt=1)),
    ),
    at_site(
        "P7-059",
        "server",
        "the abort of another run shown in place of the commit",
        "unsettled",
        uncommitted(abort(run="run-0")),
    ),
    at_site(
        "P7-060",
        "server",
        "a member added under this site's name with keys that it did not make",
        "equivocation",
        lambda world: foreign_statement(world, MemberAdd),
        halts=True,
    ),
    at_site(
        "P7-061",
        "server",
        "this site's keys rotated to keys that it did not make",
        "equivocation",
        lambda world: foreign_statement(world, KeyRotate),
        halts=True,
    ),
    at_site("P7-062", "server", "the round opened by a colluding site", "signature", as_site(RoundOpen)),
    at_site("P7-063", "server", "the ticket issued by a colluding site", "signature", as_site(TicketIssue)),
)
