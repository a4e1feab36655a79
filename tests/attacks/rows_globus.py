"""Who is not an active member of the Globus group, what stands between us and Globus, and what a stolen token is worth."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import globus_sdk

from counterseal.audit.events import AccessDenied, UpdateExclude
from counterseal.errors import CountersealError
from counterseal.runtime.config import load_globus
from counterseal.runtime.globus.asking import asking, patience
from counterseal.runtime.globus.authorizer import open_authorizer
from counterseal.trust.group import Role

from .globus_world import Heart, Watching, hearts
from .table import Row, Who
from .world import ME, OTHER, SERVER

__all__ = ["GLOBUS"]


def at_ticket(id_: str, attack: str, expected: str, change: Callable[[Heart], None]) -> Row:
    """Return a row in which the group changes while site-a trains for the second version; the third has no ticket for it."""

    def play() -> str:
        with hearts("train-1") as heart:
            change(heart)
            denied = heart.require_without(ME, heart.world.finish(authorizer=heart.authorizer()))
            assert heart.group in denied.decision.source
            return denied.decision.reason

    return Row(id_, "server", "member", attack, expected, play, served=True)


def while_training() -> str:
    with hearts() as heart:
        authorizer = heart.authorizer()

        def remove(site: str, answer: bytes) -> bytes:
            if site == ME:
                heart.status(ME, "removed")
            return answer

        ended = heart.world.finish(authorizer=authorizer, answers=remove)
        assert (ended.outcome, ended.model) == ("completed", heart.world.alone)
        denied = [event for event in ended.log if isinstance(event, AccessDenied) and event.at == "admission"]
        assert [(one.decision.identity, one.decision.reason) for one in denied] == [(ME, "removed")]
        assert heart.world.verify() == []
        return ended.verdict(ME)


def before_commit() -> str:
    with hearts() as heart:
        watching = Watching(heart, ME, "site", 1, lambda: heart.status(ME, "removed"))
        ended = heart.world.finish(authorizer=watching)
        (out,) = [event for event in ended.log if isinstance(event, UpdateExclude)]
        assert (out.site, ended.outcome, ended.model) == (ME, "completed", heart.world.alone)
        assert heart.world.verify() == []
        return out.reason


def held(turn: Callable[[Heart], Any], reason: str, role: Role = "site", name: str = OTHER) -> Callable[[], str]:
    """Return a play in which the group stops answering before the commit: held, then aborted, nobody cast out.

    ``reason`` is what each decision says; the try itself is aborted for the want of an answer.
    """

    def play() -> str:
        with hearts() as heart:
            watching = Watching(heart, name, role, 1, lambda: turn(heart))
            code = heart.require_nothing_made(heart.world.finish(authorizer=watching))
            assert {one.reason for one in watching.unanswered} == ({reason} if code == "outage" else set())
            return code

    return play


def silence(**fault: Any) -> Callable[[Heart], None]:
    return lambda heart: heart.cloud.fault("groups", "/v2/groups", times=None, **fault)


def recovered(turn: Callable[[Heart], Any], back: Callable[[Heart], Any]) -> Callable[[], str]:
    """Return a play in which Globus is away for three questions; the round waits, and nothing is lost."""

    def play() -> str:
        with hearts() as heart:
            watching = Watching(heart, OTHER, "site", 1, lambda: turn(heart), until=3, back=lambda: back(heart))
            ended = heart.world.finish(authorizer=watching)
            assert (ended.outcome, ended.model) == ("completed", heart.world.model)
            assert len(watching.unanswered) >= 3
            assert not [event for event in ended.log if isinstance(event, AccessDenied)]
            assert heart.world.verify() == []
            return ended.verdict(ME)

    return play


def replaced(heart: Heart) -> None:
    """Delete the group; somebody makes another of the same name, of which everybody is a member."""
    members = {identity: ("manager", "active") for identity in heart.identities.values()}
    heart.cloud.fault("groups", f"/v2/groups/{heart.group}", times=None, status=404)
    heart.cloud.group("heart", members)


def answer_of_another(heart: Heart) -> None:
    identity = heart.identities[ME]
    row = {"group_id": heart.group, "identity_id": identity, "username": ME, "role": "admin", "status": "active"}
    body = {"id": "0" * 8 + "-0000-4000-8000-" + "0" * 12, "name": "heart", "memberships": [row], "policies": {}}
    heart.cloud.fault("groups", "/v2/groups", times=None, status=200, body=body)


def hidden(heart: Heart) -> None:
    """Answer as for a group that shows its members to others only."""
    body = {
        "id": heart.group,
        "name": "heart",
        "my_memberships": [],
        "policies": {"group_members_visibility": "managers"},
    }
    heart.cloud.fault("groups", "/v2/groups", times=None, status=200, body=body)


def locked_out(heart: Heart) -> None:
    """Take neither the server's token any longer, nor the secret that would buy another."""
    heart.cloud.fault("groups", "/v2/groups", times=None, status=401)
    heart.cloud.fault("auth", "/v2/oauth2/token", times=None, status=401, body={"error": "invalid_client"})


def twice(heart: Heart) -> None:
    """Link site-a's identity with that of another site of the same person, and remove the first alone."""
    second = heart.cloud.person("site-z@fed.example")
    heart.cloud.member(heart.group, second)
    heart.sets[ME] = heart.sets[second] = frozenset({heart.identities[ME], second})
    heart.status(ME, "removed")


def namesake(heart: Heart) -> None:
    """Remove site-a; somebody with its username at another institution is a member."""
    heart.status(ME, "removed")
    heart.cloud.no_member(heart.group, heart.identities[ME])
    heart.cloud.member(heart.group, heart.cloud.person(ME))


def thief(id_: str, who: Who, attack: str, expected: str, steal: Callable[[Heart, str], str]) -> Row:
    """Return a row in which mallory does something at Globus with what was stolen; the run then ends as if nothing was."""

    def play() -> str:
        with hearts() as heart:
            mallory = heart.cloud.person("mallory@elsewhere.example")
            code = steal(heart, mallory)
            assert mallory not in heart.cloud.members(heart.group)
            ended = heart.world.finish(authorizer=heart.authorizer())
            assert (ended.outcome, ended.model, ended.halted) == ("completed", heart.world.model, ())
            assert heart.world.verify() == []
            return code

    return Row(id_, "everybody", who, attack, expected, play, served=True)


def join(heart: Heart, mallory: str, token: str) -> str:
    """Add mallory to the group with a stolen token; return the code that this meets."""
    client = globus_sdk.GroupsClient(
        base_url=f"{heart.cloud.url}/groups",
        authorizer=globus_sdk.AccessTokenAuthorizer(token),
        retry_config=patience(renew=False),
    )
    batch = globus_sdk.BatchMembershipActions().add_members([mallory])
    try:
        with asking("group"):
            found = client.batch_membership_action(heart.group, batch).data
    except CountersealError as error:
        return error.code
    finally:
        client.transport.close()
    return "globus_refused" if not found.get("add") else "accepted"


def stolen(scope: str, name: str = SERVER) -> Callable[[Heart, str], str]:
    return lambda heart, mallory: join(heart, mallory, heart.cloud.token(heart.identities[name], scope))


def enrolling(heart: Heart, mallory: str) -> str:
    """Steal the token of an enrolment, which only the server's own application can use."""
    heart.cloud.scope(heart.identities[SERVER], "enrol")
    scope = f"https://auth.globus.org/scopes/{heart.identities[SERVER]}/enrol"
    return join(heart, mallory, heart.cloud.token(heart.identities[ME], scope))


def elsewhere(name: str, value: str) -> Callable[[], str]:
    """Return a play in which a server starts with an environment that leads to a cloud of the attacker's."""

    def play() -> str:
        with hearts() as heart, patch.dict(os.environ, {name: value.format(heart.cloud.url)}):
            before = len(heart.cloud.requests)
            try:
                open_authorizer(heart.config, heart.group, heart.world.clock)
            except CountersealError as error:
                assert len(heart.cloud.requests) == before, "something was asked"
                return error.code
            return "accepted"

    return play


def far_away() -> str:
    with hearts() as heart:
        file = heart.world.folder.parent / "globus.yaml"
        file.write_text(
            f"globus:\n  client_id: {heart.config.client_id}\n  client_secret: {{environment: HOME}}\n"
            "  insecure_test_cloud: http://10.9.8.7:5000\n"
        )
        try:
            load_globus(file)
        except CountersealError as error:
            return error.code
        return "accepted"


def spot_check(id_: str, attack: str, expected: str, change: Callable[[Heart], None]) -> Row:
    """Return a row in which site-a asks Globus about its server, with a login of its own, before it trains."""

    def play() -> str:
        with hearts() as heart:
            change(heart)
            own = heart.login(ME)
            code = heart.world.hand(heart.world.delivery, authorizer=heart.authorizer(client=own.groups))
            own.close()
            assert heart.world.finish().outcome == "completed"
            assert heart.world.verify() == []
            return code

    return Row(id_, "site", "server", attack, expected, play, served=True)


def row(id_: str, who: Who, attack: str, expected: str, play: Callable[[], str]) -> Row:
    return Row(id_, "server", who, attack, expected, play, served=True)


def lowered(heart: Heart) -> None:
    heart.status(SERVER, "active", role="member")


GLOBUS: tuple[Row, ...] = (
    at_ticket("P1-101", "Globus: removed from the group", "removed", lambda heart: heart.status(ME, "removed")),
    at_ticket("P1-102", "Globus: application pending", "pending", lambda heart: heart.status(ME, "pending")),
    at_ticket("P1-103", "Globus: invited, never accepted", "invited", lambda heart: heart.status(ME, "invited")),
    at_ticket("P1-104", "Globus: declined the invitation", "declined", lambda heart: heart.status(ME, "declined")),
    at_ticket("P1-105", "Globus: a namesake of another institution is the member", "not_a_member", namesake),
    at_ticket("P1-106", "Globus: one person with two sites, removed from one of them", "removed", twice),
    row("P1-107", "member", "Globus: removed while it trains; answers in time", "not_authorized", while_training),
    row("P1-108", "member", "Globus: removed between admission and commit", "removed", before_commit),
    row(
        "P1-109",
        "member",
        "Globus: the server's role lowered to member before the commit",
        "not_authorized",
        held(lowered, ""),
    ),
    row(
        "P1-110",
        "network",
        "Globus is away from admission on: held, then aborted",
        "outage",
        held(lambda heart: heart.cloud.close(), "outage"),
    ),
    row(
        "P1-111",
        "network",
        "Globus is away in the middle of a round, and comes back",
        "counted",
        recovered(lambda heart: heart.cloud.close(), lambda heart: heart.cloud.open()),
    ),
    row(
        "P1-112",
        "network",
        "Globus answers 503 in the middle of a round, and then again as it should",
        "counted",
        recovered(silence(status=503), lambda heart: heart.cloud.clear_faults()),
    ),
    row(
        "P1-113",
        "network",
        "Globus limits our rate (429) until the round is over",
        "outage",
        held(silence(status=429, retry_after=5), "rate_limited"),
    ),
    row(
        "P1-114",
        "member",
        "Globus: the server itself removed from the group, which is then closed to it (403)",
        "outage",
        held(lambda heart: heart.status(SERVER, "removed"), "forbidden"),
    ),
    row(
        "P1-115",
        "member",
        "Globus: the group hides its members from the server",
        "outage",
        held(hidden, "not_visible"),
    ),
    row(
        "P1-116",
        "member",
        "Globus: the group deleted, another of its name made",
        "outage",
        held(replaced, "no_such_group"),
    ),
    row(
        "P1-117",
        "network",
        "Globus: the answer about another group, in which the sender is an administrator",
        "outage",
        held(answer_of_another, "outage"),
    ),
    row(
        "P1-118",
        "thief",
        "Globus: the server's secret replaced, so that its own is no longer taken",
        "outage",
        held(locked_out, "login_needed"),
    ),
    thief(
        "P1-119",
        "thief",
        "a stolen token for looking at groups, used to add a stranger",
        "globus_refused",
        stolen("urn:globus:auth:scope:groups.api.globus.org:view_my_groups_and_memberships"),
    ),
    thief(
        "P1-120", "thief", "a stolen token of another audience (Auth), used at Groups", "login_needed", stolen("openid")
    ),
    thief("P1-121", "thief", "a stolen token of an enrolment, used at Groups", "login_needed", enrolling),
    thief(
        "P1-122",
        "thief",
        "a stolen token of a mere member for everything in Groups, used to add a stranger",
        "globus_refused",
        stolen("urn:globus:auth:scope:groups.api.globus.org:all", ME),
    ),
    row(
        "P1-123",
        "network",
        "an environment variable that names another address for Globus Groups",
        "test_cloud",
        elsewhere("GLOBUS_SDK_SERVICE_URL_GROUPS", "{}/groups"),
    ),
    row(
        "P1-124",
        "network",
        "an environment variable that names another cloud",
        "test_cloud",
        elsewhere("GLOBUS_SDK_ENVIRONMENT", "sandbox"),
    ),
    row(
        "P1-125",
        "network",
        "an environment variable that turns the check of certificates off",
        "test_cloud",
        elsewhere("GLOBUS_SDK_VERIFY_SSL", "0"),
    ),
    row("P1-126", "network", "a stand-in for Globus on another machine, over plain HTTP", "config", far_away),
    spot_check("P1-127", "Globus: a server that is a mere member to the site's own login", "not_authorized", lowered),
    spot_check(
        "P1-128", "Globus: a server that was removed", "not_authorized", lambda heart: heart.status(SERVER, "left")
    ),
    spot_check("P1-129", "Globus: a server about which the site's own login cannot ask", "outage", silence(status=500)),
)
