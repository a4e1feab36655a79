"""Changing groups: make one that a federation can rest on, invite, add, remove.

What is written is read back, or taken from the service's own answer: a membership action that was not done is an error that
says which, even where the rest of the batch was. Nothing is tried twice (`asking.patience`): a group that was made by a
request whose answer was lost is found at app.globus.org, and finished with its UUID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..errors import GlobusRefusedError, GlobusUnavailableError
from .asking import asking
from .groups import UUID

if TYPE_CHECKING:
    from globus_sdk import BatchMembershipActions, GroupsClient

    from .credentials import Credentials

__all__ = ["Action", "GroupRole", "act", "create_group", "find_identity", "set_policies"]

Action: TypeAlias = Literal["invite", "add", "remove"]
GroupRole: TypeAlias = Literal["member", "manager", "admin"]


def create_group(client: GroupsClient, name: str, description: str, *, parent: str | None = None) -> str:
    """Make a group, of which this login becomes the administrator, and return its UUID.

    Raises:
        LoginNeededError, GlobusRefusedError, GlobusUnavailableError: see `asking`.
    """
    wanted: dict[str, Any] = {"name": name, "description": description}
    if parent is not None:
        wanted["parent_id"] = parent
    with asking("Globus Groups, a new group"):
        made = client.create_group(wanted)["id"]
        if not isinstance(made, str) or not UUID.fullmatch(made):
            raise ValueError("not a UUID")
        return made


def set_policies(client: GroupsClient, group: str, *, assurance_seconds: int | None = None) -> None:
    """Let members see each other, strangers see nothing, and nobody ask to join.

    Members must see each other, for a site asks about its server with its own login. ``assurance_seconds`` makes it a
    high-assurance group, in which a login may be no older; service accounts do not log in, and see nothing of such a group.

    Raises:
        LoginNeededError, GlobusRefusedError, GlobusUnavailableError: see `asking`.
    """
    import globus_sdk

    policies = globus_sdk.GroupPolicies(
        is_high_assurance=assurance_seconds is not None,
        group_visibility="private",
        group_members_visibility="members",
        join_requests=False,
        signup_fields=[],
        authentication_assurance_timeout=globus_sdk.MISSING if assurance_seconds is None else assurance_seconds,
    )
    with asking(f"group {group}"):
        client.set_group_policies(group, policies)


def act(client: GroupsClient, group: str, action: Action, identity: str, role: GroupRole = "member") -> str:
    """Invite, add or remove one identity, and return the status that it has now.

    Raises:
        GlobusRefusedError: not done, with the service's own words.
        LoginNeededError, GlobusUnavailableError: see `asking`.
    """
    where = f"group {group}"
    with asking(where):
        body = client.batch_membership_action(group, _batch(action, identity, role)).data
    if not isinstance(body, dict):
        raise GlobusUnavailableError("an answer not understood", where=where)
    for row in body.get(action) or ():
        if isinstance(row, dict) and str(row.get("identity_id")).lower() == identity:
            return str(row.get("status"))
    raise GlobusRefusedError(f"{identity} was not changed{_why(body, action)}", where=where, status=400)


def _batch(action: Action, identity: str, role: GroupRole) -> BatchMembershipActions:
    import globus_sdk

    batch = globus_sdk.BatchMembershipActions()
    if action == "invite":
        return batch.invite_members([identity], role=role)
    if action == "add":
        return batch.add_members([identity], role=role)
    return batch.remove_members([identity])


def _why(body: dict[str, Any], action: str) -> str:
    errors = body.get("errors")
    rows = errors.get(action) if isinstance(errors, dict) else None
    told = [str(row.get("detail") or row.get("code")) for row in rows or () if isinstance(row, dict)]
    return f": {'; '.join(told)[:200]}" if told else ""


def find_identity(credentials: Credentials, username: str) -> str:
    """Return the identity that Globus knows under ``username``.

    Raises:
        GlobusRefusedError: nobody, or more than one.
        LoginNeededError, GlobusUnavailableError: see `asking`.
    """
    where = f"username {username}"
    with asking(where):
        found = credentials.auth().get_identities(usernames=username, provision=False)["identities"]
        named = [str(one["id"]).lower() for one in found if str(one["username"]).lower() == username.lower()]
    if not named:
        remedy = "The person logs in at app.globus.org once, or tell their identity with --identity."
        raise GlobusRefusedError("Globus knows nobody of this name", where=where, remedy=remedy, status=404)
    if len(named) > 1:
        raise GlobusRefusedError(
            f"several identities have this name: {', '.join(named)}", where=where, remedy="Name one with --identity."
        )
    return named[0]
