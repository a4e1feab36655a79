"""Groups as Globus shows them, read with suspicion: every answer is checked before anything is concluded from it.

`read_group` is the one question behind every membership decision. It concludes nothing from silence:

 1. an answer for another group than the one asked for is no answer;
 2. a list of members that is missing is a list that we may not see; so is an empty one, since a group has an
    administrator at least, and one that the group shows to its managers only when we are none of them;
 3. one identity may have several rows (members of a subgroup are members of its parent, too): they are all kept, and
    whoever decides must not choose between one that says active and one that does not;
 4. a status or role that we do not know is kept as it is, and never counts as ``active``, ``manager`` or ``admin``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ..errors import GlobusRefusedError, GlobusUnavailableError
from .asking import asking

if TYPE_CHECKING:
    from globus_sdk import GroupsClient

__all__ = ["UUID", "Group", "GroupFacts", "Membership", "describe_group", "facts", "read_group", "with_policies"]

UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WORD = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, slots=True)
class Membership:
    """One row of a group: ``status`` and ``role`` as Globus says them."""

    identity: str
    username: str
    role: str
    status: str


@dataclass(frozen=True, slots=True)
class Group:
    """A group, as one answer showed it. ``members`` is None where we may not see them; an identity has one row or more."""

    id: str
    name: str
    members: Mapping[str, tuple[Membership, ...]] | None
    own: tuple[Membership, ...]
    policies: Mapping[str, Any]
    enforce_session: bool | None


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What a person should know about a group before a federation rests on it; None where Globus does not say."""

    id: str
    name: str
    own_role: str | None
    """The role of the login that asked, if it is an active member."""
    members_visible: bool
    """Whether the login that asked sees the members: without it no decision can be made."""
    active_members: int | None
    members_visibility: str | None
    group_visibility: str | None
    high_assurance: bool | None
    assurance_seconds: int | None
    """How old a login may be, in a high-assurance group."""
    enforce_session: bool | None
    join_requests: bool | None
    """Whether strangers may ask to join."""


def read_group(client: GroupsClient, group_id: str) -> Group:
    """Return what Globus shows of a group.

    Raises:
        LoginNeededError, GlobusRefusedError: this login is not taken, or may not see the group.
        GlobusUnavailableError: no answer, or none that can be believed.
    """
    where = f"group {group_id}"
    with asking(where):
        body = client.get_group(group_id, include=("memberships", "my_memberships", "policies")).data
    try:
        return _group(body, group_id)
    except ValueError as error:
        raise GlobusUnavailableError(f"an answer not understood: {error}", where=where) from None


def describe_group(client: GroupsClient, group_id: str) -> GroupFacts:
    """Return the facts that a start-up check and `counterseal group status` show.

    Raises:
        LoginNeededError, GlobusRefusedError, GlobusUnavailableError: as `read_group`.
    """
    return facts(with_policies(client, read_group(client, group_id)))


def with_policies(client: GroupsClient, group: Group) -> Group:
    """Return ``group`` with all its policies, of which a group's own document names two; as it is, if we may not see them."""
    try:
        with asking(f"group {group.id}, policies"):
            body = client.get_group_policies(group.id).data
    except GlobusRefusedError:
        return group
    return replace(group, policies={**group.policies, **body}) if isinstance(body, dict) else group


def facts(group: Group) -> GroupFacts:
    """Return the facts about ``group``."""
    active = [rows for rows in (group.members or {}).values() if all(one.status == "active" for one in rows)]
    roles = [one.role for one in group.own if one.status == "active"]
    high = _flag(group.policies, "is_high_assurance")
    seconds = group.policies.get("authentication_assurance_timeout")
    return GroupFacts(
        id=group.id,
        name=group.name,
        own_role=next((role for role in ("admin", "manager", "member") if role in roles), None),
        members_visible=group.members is not None,
        active_members=None if group.members is None else len(active),
        members_visibility=_word(group.policies, "group_members_visibility"),
        group_visibility=_word(group.policies, "group_visibility"),
        high_assurance=high,
        assurance_seconds=seconds if high and isinstance(seconds, int) and not isinstance(seconds, bool) else None,
        enforce_session=group.enforce_session,
        join_requests=_flag(group.policies, "join_requests"),
    )


def _group(body: Any, asked: str) -> Group:
    if not isinstance(body, dict):
        raise ValueError("not an object")
    if _uuid(body.get("id")) != asked:
        raise ValueError("another group than the one asked for")
    policies = body.get("policies")
    policies = policies if isinstance(policies, dict) else {}
    own = tuple(_membership(row) for row in _rows(body.get("my_memberships") or []))
    rows = body.get("memberships")
    members = None if not rows or _hidden(policies, own) else _members(_rows(rows))
    session = body.get("enforce_session")
    name = body.get("name")
    return Group(
        id=asked,
        name=name if isinstance(name, str) else "",
        members=members,
        own=own,
        policies=policies,
        enforce_session=session if isinstance(session, bool) else None,
    )


def _hidden(policies: Mapping[str, Any], own: tuple[Membership, ...]) -> bool:
    """Whether the group shows its members to managers only, and we are none: what is listed is then not the whole."""
    if policies.get("group_members_visibility") != "managers":
        return False
    return not any(one.status == "active" and one.role in {"manager", "admin"} for one in own)


def _rows(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("the memberships are not a list")
    return value


def _members(rows: list[Any]) -> dict[str, tuple[Membership, ...]]:
    found: dict[str, tuple[Membership, ...]] = {}
    for row in rows:
        one = _membership(row)
        found[one.identity] = (*found.get(one.identity, ()), one)
    return found


def _membership(row: Any) -> Membership:
    if not isinstance(row, dict):
        raise ValueError("a membership is not an object")
    role, status, username = row.get("role"), row.get("status"), row.get("username")
    for word in (role, status):
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            raise ValueError("a membership without role or status")
    return Membership(
        _uuid(row.get("identity_id")), username if isinstance(username, str) else "", str(role), str(status)
    )


def _uuid(value: Any) -> str:
    if not isinstance(value, str) or not UUID.fullmatch(value.lower()):
        raise ValueError("not a UUID")
    return value.lower()


def _flag(policies: Mapping[str, Any], name: str) -> bool | None:
    value = policies.get(name)
    return value if isinstance(value, bool) else None


def _word(policies: Mapping[str, Any], name: str) -> str | None:
    value = policies.get(name)
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None
