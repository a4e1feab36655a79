"""Globus Groups: groups, their memberships, policies and subgroups, and who may see and change what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .state import GROUPS_SERVER, Group, State, Token, new_id
from .tokens import Tokens
from .web import Answer, Refusal, Request, Router

__all__ = ["Groups"]

_URN = f"urn:globus:auth:scope:{GROUPS_SERVER}:"
_ALL = f"{_URN}all"
_READ = (_ALL, f"{_URN}view_my_groups_and_memberships")
_CHIEFS = ("admin", "manager")
_SEES = ("active", "invited", "pending")
"""With these statuses one sees a private group."""
# What each action makes of a membership, by whom it may be taken, and from which statuses (None: from any, or none).
_ACTIONS: dict[str, tuple[str | None, bool, tuple[str | None, ...] | None]] = {
    "add": ("active", True, None),
    "invite": ("invited", True, (None, "invited", "removed", "left", "declined", "rejected")),
    "approve": ("active", True, ("pending",)),
    "reject": ("rejected", True, ("pending",)),
    "remove": ("removed", True, ("active", "invited", "pending")),
    "change_role": (None, True, ("active", "invited")),
    "accept": ("active", False, ("invited",)),
    "decline": ("declined", False, ("invited",)),
    "join": ("active", False, (None, "left")),
    "request_join": ("pending", False, (None, "left", "declined")),
    "leave": ("left", False, ("active",)),
}
_POLICIES = {
    "is_high_assurance": False,
    "authentication_assurance_timeout": 28_800,
    "group_visibility": "private",
    "group_members_visibility": "managers",
    "join_requests": False,
    "signup_fields": [],
}


class Groups:
    """The routes below /groups."""

    def __init__(self, state: State, tokens: Tokens) -> None:
        self._state = state
        self._tokens = tokens
        self.router = router = Router("groups", "/groups")
        router.add("GET", "/v2/groups/my_groups", self._mine)
        router.add("POST", "/v2/groups", self._create)
        router.add("GET", "/v2/groups/<group>", self._get)
        router.add("PUT", "/v2/groups/<group>", self._update)
        router.add("DELETE", "/v2/groups/<group>", self._delete)
        router.add("POST", "/v2/groups/<group>", self._act)
        router.add("GET", "/v2/groups/<group>/policies", self._policies)
        router.add("PUT", "/v2/groups/<group>/policies", self._set_policies)

    # What tests and routes do --------------------------------------------------------------------------------------

    def add(self, name: str, *, description: str = "", parent: str | None = None, **policies: Any) -> str:
        """Add an empty group and return its id."""
        group = new_id()
        unknown = set(policies) - set(_POLICIES)
        if unknown:
            raise ValueError(f"no such policies: {sorted(unknown)}")
        document = {
            "id": group,
            "name": name,
            "description": description,
            "parent_id": parent,
            "group_type": "regular",
            "enforce_session": False,
            "session_limit": 28_800,
            "session_timeouts": {},
            "policies": {**_POLICIES, **policies},
            "subscription_id": None,
            "subscription_info": None,
        }
        self._state.groups[group] = Group(document)
        return group

    def set_member(self, group: str, identity: str, role: str, status: str) -> dict[str, Any]:
        """Make ``identity`` a member with ``role`` and ``status``, whatever it was."""
        person = self._state.people[identity]
        membership = {
            "group_id": group,
            "identity_id": identity,
            "username": person.username,
            "role": role,
            "status": status,
        }
        self._state.groups[group].memberships[identity] = membership
        return membership

    # Reading -------------------------------------------------------------------------------------------------------

    def _mine(self, request: Request) -> Answer:
        """The groups of the caller's identities; without ``statuses`` the active ones."""
        token = self._tokens.need(request, GROUPS_SERVER, _READ)
        statuses = request.query.get("statuses", "active").split(",")
        groups = self._state.groups.values()
        found = [each for each in groups if any(one["status"] in statuses for one in self._own(each, token))]
        return Answer([self._document(each, token, ()) for each in found])

    def _own(self, group: Group, token: Token) -> list[dict[str, Any]]:
        identities = self._state.identity_set(token.grant.identity)
        return [each for identity, each in group.memberships.items() if identity in identities]

    def _document(self, group: Group, token: Token, include: Iterable[str]) -> dict[str, Any]:
        # Of its policies a group's document names two (so in the SDK's own fixtures); the rest has a route of its own.
        policies = {name: group.document["policies"][name] for name in ("group_visibility", "group_members_visibility")}
        document = {**group.document, "policies": policies, "my_memberships": self._own(group, token)}
        if "memberships" in include and self._sees_members(group, token):
            document["memberships"] = list(group.memberships.values())
        if "child_ids" in include:
            children = self._state.groups.items()
            document["child_ids"] = [
                name for name, each in children if each.document["parent_id"] == group.document["id"]
            ]
        if "allowed_actions" in include:
            chief = self._chief(group, token) is not None
            document["allowed_actions"] = [name for name, (_, chiefs, _) in _ACTIONS.items() if chief or not chiefs]
        return document

    def _sees_members(self, group: Group, token: Token) -> bool:
        own = [each["role"] for each in self._own(group, token) if each["status"] == "active"]
        open_to_members = group.document["policies"]["group_members_visibility"] == "members"
        return any(role in _CHIEFS or open_to_members for role in own)

    def _visible(self, group: str, token: Token) -> Group:
        found = self._state.groups.get(group)
        if found is None:
            raise Refusal(404, "NOT_FOUND", "no such group")
        private = found.document["policies"]["group_visibility"] == "private"
        if private and not any(each["status"] in _SEES for each in self._own(found, token)):
            raise Refusal(403, "FORBIDDEN", "You are not allowed to view this group")
        self._enforce_session(found, token)
        return found

    def _enforce_session(self, group: Group, token: Token) -> None:
        """A high-assurance group asks for a login of the member's identity that is recent enough."""
        policies = group.document["policies"]
        if not (policies["is_high_assurance"] or group.document["enforce_session"]):
            return
        logins = (token.grant.session or {}).get("authentications", {})
        times = [login["auth_time"] for identity, login in logins.items() if identity in group.memberships]
        oldest = self._state.now() - policies["authentication_assurance_timeout"]
        if not any(each >= oldest for each in times):
            identities = [each["identity_id"] for each in self._own(group, token)]
            needed = {"session_message": "log in again", "session_required_identities": identities, "prompt": "login"}
            raise Refusal(403, "AUTHENTICATION_POLICY", "a recent login is needed", authorization_parameters=needed)

    def _get(self, request: Request, group: str) -> Answer:
        token = self._tokens.need(request, GROUPS_SERVER, _READ)
        found = self._visible(group, token)
        return Answer(self._document(found, token, request.query.get("include", "").split(",")))

    def _policies(self, request: Request, group: str) -> Answer:
        token = self._tokens.need(request, GROUPS_SERVER, _READ)
        return Answer(self._visible(group, token).document["policies"])

    # Writing -------------------------------------------------------------------------------------------------------

    def _chief(self, group: Group, token: Token) -> str | None:
        """Return the caller's role if it may change memberships; an admin's before a manager's."""
        own = [each["role"] for each in self._own(group, token) if each["status"] == "active"]
        return next((role for role in _CHIEFS if role in own), None)

    def _administered(self, request: Request, group: str) -> Group:
        token = self._tokens.need(request, GROUPS_SERVER, (_ALL,))
        found = self._visible(group, token)
        if self._chief(found, token) != "admin":
            raise Refusal(403, "FORBIDDEN", "only an administrator may do that")
        return found

    def _create(self, request: Request) -> Answer:
        """The caller becomes the administrator; a subgroup is made by an administrator of the parent."""
        token, body = self._tokens.need(request, GROUPS_SERVER, (_ALL,)), request.json
        parent = body.get("parent_id")
        if parent is not None:
            self._administered(request, parent)
        group = self.add(body["name"], description=body.get("description", ""), parent=parent)
        self.set_member(group, token.grant.identity, "admin", "active")
        return Answer(self._document(self._state.groups[group], token, ()), 201)

    def _update(self, request: Request, group: str) -> Answer:
        found = self._administered(request, group)
        for name in ("name", "description", "enforce_session", "session_limit"):
            found.document[name] = request.json.get(name, found.document[name])
        return Answer(found.document)

    def _delete(self, request: Request, group: str) -> Answer:
        return Answer(self._administered(request, group).document | {"deleted": bool(self._state.groups.pop(group))})

    def _set_policies(self, request: Request, group: str) -> Answer:
        found, body = self._administered(request, group), request.json
        if set(body) - set(_POLICIES):
            raise Refusal(400, "BAD_REQUEST", f"no such policies: {sorted(set(body) - set(_POLICIES))}")
        found.document["policies"].update(body)
        return Answer(found.document["policies"])

    def _act(self, request: Request, group: str) -> Answer:
        """The batch of membership actions: what is not allowed is listed under ``errors``, the rest is done."""
        token = self._tokens.need(request, GROUPS_SERVER, (_ALL,))
        found = self._state.groups.get(group)
        if found is None:
            raise Refusal(404, "NOT_FOUND", "no such group")
        done: dict[str, Any] = {}
        errors: dict[str, list[dict[str, str]]] = {}
        for action, items in request.json.items():
            if action not in _ACTIONS:
                raise Refusal(400, "BAD_REQUEST", f"no such action: {action}")
            for item in items:
                self._try(action, item, found, token, done, errors)
        return Answer(done | ({"errors": errors} if errors else {}))

    def _try(self, action: str, item: dict[str, str], group: Group, token: Token, done: Any, errors: Any) -> None:
        problem = self._problem(action, item, group, token)
        if problem is not None:
            errors.setdefault(action, []).append({"identity_id": item["identity_id"], **problem})
            return
        old = group.memberships.get(item["identity_id"], {"role": "member", "status": ""})
        status = _ACTIONS[action][0] or old["status"]
        role = item.get("role", old["role"] if old["status"] in _SEES else "member")
        member = self.set_member(group.document["id"], item["identity_id"], role, status)
        done.setdefault(action, []).append(member)

    def _problem(self, action: str, item: dict[str, str], group: Group, token: Token) -> dict[str, str] | None:
        _, chiefs, statuses = _ACTIONS[action]
        identity, chief = item["identity_id"], self._chief(group, token)
        status = group.memberships.get(identity, {}).get("status")
        if identity not in self._state.people:
            return {"code": "IDENTITY_NOT_FOUND", "detail": "no such identity"}
        if chiefs and not self._may(chief, item, group):
            return {"code": "FORBIDDEN", "detail": "only an administrator or a manager may do that"}
        if not chiefs and identity not in self._state.identity_set(token.grant.identity):
            return {"code": "FORBIDDEN", "detail": "not one of your identities"}
        if action in ("join", "request_join") and not group.document["policies"]["join_requests"]:
            return {"code": "FORBIDDEN", "detail": "the group takes no requests"}
        if statuses is not None and status not in statuses:
            return {"code": "INVALID_STATUS", "detail": f"the membership is {status or 'not there'}"}
        return None

    def _may(self, chief: str | None, item: dict[str, str], group: Group) -> bool:
        """A manager may not make or touch an administrator."""
        touched = (item.get("role"), group.memberships.get(item["identity_id"], {}).get("role"))
        return chief == "admin" or (chief == "manager" and "admin" not in touched)
