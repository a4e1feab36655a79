"""Who is not an active member of the group, and tries to take part all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from counterseal.audit.events import AccessDenied, AggregateCommit, ModelRelease, RoundAbort, UpdateExclude
from counterseal.runtime.transports.seam import Arrival
from counterseal.trust.group import RosterAuthorizer

from .play import at_server, at_site
from .table import Row
from .world import ME, OTHER, SERVER, Wire, World, worlds

__all__ = ["GROUP"]


def rewrite(world: World, old: str, new: str) -> None:
    """Change the roster."""
    text = world.federation.roster_path.read_text()
    assert old in text
    world.federation.roster_path.write_text(text.replace(old, new))


def status(world: World, value: str, name: str = ME) -> None:
    """Give ``name`` another status in the group."""
    rewrite(world, f"identity: {name}\n    status: active", f"identity: {name}\n    status: {value}")


def at_ticket(id_: str, attack: str, expected: str, change: Callable[[World], None]) -> Row:
    """Return a row in which the group changes while site-a trains for the second version; the third has no ticket for it."""

    def play() -> str:
        with worlds("train-1") as world:
            change(world)
            ended = world.finish()
            commits = [event for event in ended.log if isinstance(event, AggregateCommit) and event.version > 0]
            assert ended.outcome == "completed"
            assert len(commits) == 2
            assert all(ME not in [one.site for one in commit.inputs] for commit in commits)
            release = next(event for event in ended.log if isinstance(event, ModelRelease))
            assert ME not in release.recipients
            assert not (world.folder / ME / "models" / "run-1.safetensors").exists()
            assert world.verify() == []
            denied = [event for event in ended.log if isinstance(event, AccessDenied) and event.at == "ticket"]
            assert [event.decision.identity for event in denied] == [ME]
            return denied[0].decision.reason

    return Row(id_, "server", "member", attack, expected, play)


def while_training(world: World, site: str, answer: bytes) -> bytes:
    if site == ME and json.loads(answer)["ticket"] == world.ticket:
        status(world, "removed")
    return answer


class Turning:
    """A group whose answer about ``name`` turns after it was asked ``times`` times."""

    def __init__(self, world: World, name: str, role: str, times: int, turn: Callable[[], Any]) -> None:
        self.inner = RosterAuthorizer(world.federation.roster_path, world.clock)
        self.name, self.role, self.times, self.turn = name, role, times, turn
        self.clock = world.clock

    def check(self, identities: frozenset[str], role: Any) -> Any:
        found = self.inner.check(identities, role)
        if identities == {self.name} and role == self.role:
            self.times -= 1
            if self.times == 0:
                self.turn()
        if found.reason == "outage":
            self.clock.advance(10)
        return found


def excluded() -> str:
    """Remove a member between admission and commit."""
    with worlds() as world:
        turning = Turning(world, ME, "site", 1, lambda: status(world, "removed"))
        ended = world.finish(authorizer=turning)
        out = [event for event in ended.log if isinstance(event, UpdateExclude)]
        assert [event.site for event in out] == [ME]
        assert (ended.outcome, ended.model) == ("completed", world.alone)
        assert world.verify() == []
        return out[0].reason


def held(name: str, role: str, turn: Callable[[World], Any]) -> Callable[[], str]:
    """Return a play in which the group turns before the commit, so that the try is aborted and nothing made."""

    def play() -> str:
        with worlds() as world:
            ended = world.finish(authorizer=Turning(world, name, role, 1, lambda: turn(world)))
            aborts = [event for event in ended.log if isinstance(event, RoundAbort)]
            assert ended.outcome == "aborted"
            assert not [event for event in ended.log if isinstance(event, AggregateCommit) and event.version == 2]
            assert world.verify() == []
            return aborts[0].reason

    return play


def own_roster(world: World) -> dict[str, Any]:
    """Return a site's own authority, for which the server is no longer a member."""
    path = world.folder.parent / "own-roster.yaml"
    old = f"identity: {SERVER}\n    status: active"
    path.write_text(world.federation.roster_path.read_text().replace(old, old.replace("active", "removed")))
    path.chmod(0o600)
    return {"authorizer": RosterAuthorizer(path, world.clock)}


def no_roster(world: World) -> dict[str, Any]:
    return {"authorizer": RosterAuthorizer(world.folder.parent / "nothing.yaml", world.clock)}


class Mallory(Wire):
    """A transport on which a stranger, active in the group and unknown to the charter, answers site-a's ticket first."""

    name = "mallory@fed.example"

    def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
        if site == ME:
            self.waiting.append(Arrival(self.name, ticket, b"\x80\x04garbage"))
        super().dispatch(site, ticket, delivery)


class Neighbour(Mallory):
    """The same by another member."""

    name = OTHER


def interloper(wire: type[Wire], listed: bool) -> Callable[[], str]:
    def play() -> str:
        with worlds() as world:
            if listed:
                with world.federation.roster_path.open("a") as roster:
                    roster.write("  - identity: mallory@fed.example\n    status: active\n    roles: [site]\n")
            ended = world.finish(wire=wire)
            assert (ended.outcome, ended.model, ended.halted) == ("completed", world.model, ())
            assert not any("mallory" in event.payload().decode() for event in ended.log)
            return ended.verdict(ME)

    return play


GROUP: tuple[Row, ...] = (
    at_ticket("P1-001", "removed from the group", "removed", lambda world: status(world, "removed")),
    at_ticket("P1-002", "application pending", "pending", lambda world: status(world, "pending")),
    at_ticket("P1-003", "invited, never accepted", "invited", lambda world: status(world, "invited")),
    at_ticket("P1-004", "left the group", "left", lambda world: status(world, "left")),
    at_ticket("P1-005", "rejected by the group's manager", "rejected", lambda world: status(world, "rejected")),
    at_ticket(
        "P1-006",
        "no longer in the roster at all",
        "not_a_member",
        lambda world: rewrite(world, f"  - identity: {ME}\n    status: active\n    roles: [site]\n", ""),
    ),
    at_ticket(
        "P1-007",
        "a member in another role only",
        "wrong_role",
        lambda world: rewrite(
            world, f"{ME}\n    status: active\n    roles: [site]", f"{ME}\n    status: active\n    roles: [auditor]"
        ),
    ),
    at_ticket(
        "P1-008",
        "a member under another spelling of the name",
        "not_a_member",
        lambda world: rewrite(world, f"identity: {ME}", f"identity: {ME.upper()}"),
    ),
    at_server(
        "P1-009",
        "member",
        "removed while it trains; uploads and answers in time",
        "not_authorized",
        answers=while_training,
    ),
    Row("P1-010", "server", "member", "removed between admission and commit", "removed", excluded),
    Row(
        "P1-011",
        "server",
        "network",
        "the group cannot be asked from admission on: held, then aborted",
        "outage",
        held(OTHER, "site", lambda world: world.federation.roster_path.unlink()),
    ),
    Row(
        "P1-012",
        "server",
        "member",
        "the server's own operator removed before the commit",
        "not_authorized",
        held(OTHER, "site", lambda world: status(world, "removed", SERVER)),
    ),
    Row(
        "P1-013",
        "server",
        "member",
        "a roster that lists a removed member twice, once as active",
        "outage",
        held(
            OTHER,
            "site",
            lambda world: rewrite(
                world, "members:\n", f"members:\n  - identity: {ME.upper()}\n    status: active\n    roles: [site]\n"
            ),
        ),
    ),
    Row(
        "P1-014",
        "server",
        "thief",
        "a roster that everybody can write",
        "outage",
        held(OTHER, "site", lambda world: world.federation.roster_path.chmod(0o666)),
    ),
    at_site(
        "P1-015",
        "server",
        "a server that the site's own authority does not name a member",
        "not_authorized",
        lambda world: world.delivery,
        settings=own_roster,
        model="alone",
    ),
    at_site(
        "P1-016",
        "server",
        "a server about which the site's own authority cannot be asked",
        "outage",
        lambda world: world.delivery,
        settings=no_roster,
    ),
    Row(
        "P1-017",
        "server",
        "member",
        "active in the group, not in the charter: answers another's ticket",
        "counted",
        interloper(Mallory, True),
    ),
    Row("P1-018", "server", "site", "another member answers the ticket first", "counted", interloper(Neighbour, False)),
)
