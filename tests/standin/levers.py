"""What a test does to the stand-in cloud: the same methods in this process (`Cloud`) and from another (`Control`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from .auth import Auth
from .compute import Compute
from .faults import Faults
from .groups import Groups
from .state import Code, Grant, Person, State, new_id
from .tasks import Endpoint
from .tokens import Tokens, plain_scopes

__all__ = ["Levers"]


class Levers:
    """The test's hold on the cloud. Arguments and results are JSON, so that they pass between processes."""

    def __init__(self, state: State, broker_url: str | None = None) -> None:
        self._state = state
        self._faults = Faults()
        self._tokens = Tokens(state)
        self._auth = Auth(state, self._tokens)
        self._groups = Groups(state, self._tokens)
        self._compute = Compute(state, self._tokens, broker_url)

    # Who there is --------------------------------------------------------------------------------------------------

    def client(self, name: str) -> tuple[str, str]:
        """Register an application with a secret (a service account): its id, which is also its identity, and the secret."""
        with self._state.lock:
            made = self._state.add_application(name, confidential=True)
        return made.client_id, str(made.secret)

    def native(self) -> str:
        """Register a native application, which has no secret, and return its id."""
        with self._state.lock:
            return self._state.add_application("native", confidential=False).client_id

    def person(self, username: str, linked: Iterable[str] = ()) -> str:
        """Add a person's identity, linked with the identities ``linked``, and return its UUID."""
        with self._state.lock:
            made = Person(new_id(), username, username.partition("@")[0].title())
            self._state.add_person(made, linked)
        return made.identity

    def link(self, *identities: str) -> None:
        """Link identities that exist already: a person's with a service account's, for instance."""
        with self._state.lock:
            for each in identities:
                self._state.add_person(self._state.people[each], identities)

    # Groups and scopes ---------------------------------------------------------------------------------------------

    def group(
        self,
        name: str,
        members: Mapping[str, Iterable[str]] | None = None,
        members_visible: bool = True,
        parent: str | None = None,
        **policies: Any,
    ) -> str:
        """Make a private group with ``members`` (identity: (role, status)) and return its UUID.

        ``members_visible`` lets every active member see the others; without it only managers and administrators do.
        """
        visible = {"group_members_visibility": "members" if members_visible else "managers"}
        with self._state.lock:
            group = self._groups.add(name, parent=parent, **{**visible, **policies})
            for identity, (role, status) in (members or {}).items():
                self._groups.set_member(group, identity, role, status)
        return group

    def member(self, group: str, identity: str, role: str = "member", status: str = "active") -> None:
        """Make ``identity`` a member with ``role`` and ``status``, whatever it was."""
        with self._state.lock:
            self._groups.set_member(group, identity, role, status)

    def no_member(self, group: str, identity: str) -> None:
        """Take the membership away without a trace."""
        with self._state.lock:
            del self._state.groups[group].memberships[identity]

    def members(self, group: str) -> dict[str, tuple[str, str]]:
        """Return each member's role and status."""
        with self._state.lock:
            members = self._state.groups[group].memberships
            return {identity: (each["role"], each["status"]) for identity, each in members.items()}

    def scope(self, client_id: str, suffix: str, dependent: Iterable[str] = ()) -> str:
        """Register a scope of ``client_id`` as a resource server and return its name."""
        needs = [{"scope": each, "optional": False, "requires_refresh_token": False} for each in dependent]
        with self._state.lock:
            made = self._auth.add_scope(client_id, suffix, {"dependent_scopes": needs})
        return str(made["scope_string"])

    def policy(self, **about: Any) -> str:
        """Add an authentication policy and return its UUID."""
        shape = {
            "project_id": new_id(),
            "display_name": "policy",
            "description": "",
            "high_assurance": False,
            "authentication_assurance_timeout": 28_800,
            "required_mfa": False,
            "domain_constraints_include": None,
            "domain_constraints_exclude": None,
        }
        made = {"id": new_id(), **shape, **about}
        with self._state.lock:
            self._state.policies[str(made["id"])] = made
        return str(made["id"])

    # Logins --------------------------------------------------------------------------------------------------------

    def visitor(self, identity: str | None, session: Mapping[str, Any] | None = None) -> None:
        """Say who sits at the browser that the authorize page is opened with; ``session`` as in `code`."""
        with self._state.lock:
            self._state.visitor = None if identity is None else (identity, session)

    def code(
        self,
        identity: str,
        scopes: str | Iterable[str],
        session: Mapping[str, Any] | None = None,
        client: str | None = None,
        challenge: str | None = None,
        offline: bool = True,
    ) -> str:
        """Return the code that ``identity`` gets for logging in, to be copied into the application ``client``.

        Without ``client`` it is the only native application there is. ``session`` replaces members of the login
        (``auth_time``, ``amr``, ``acr``, ``idp``) or, with a member ``authentications``, the whole of it. The code fits any
        PKCE verifier unless ``challenge`` is given; `visit` of an authorize address binds it as a browser does.
        """
        with self._state.lock:
            grant = self._grant(identity, scopes, session, client or self._only_native())
            return self._auth.add_code(grant, challenge=challenge, offline=offline)

    def token(
        self,
        identity: str,
        scopes: str | Iterable[str],
        session: Mapping[str, Any] | None = None,
        client: str | None = None,
    ) -> str:
        """Return an access token as `code` and its exchange would have given it, for the first scope's resource server."""
        with self._state.lock:
            native = [each.client_id for each in self._state.applications.values() if each.secret is None]
            application = client or (
                native[0] if native else self._state.add_application("n", confidential=False).client_id
            )
            return str(self._tokens.issue(self._grant(identity, scopes, session, application))[0]["access_token"])

    def _grant(
        self, identity: str, scopes: str | Iterable[str], session: Mapping[str, Any] | None, client: str
    ) -> Grant:
        text = scopes if isinstance(scopes, str) else " ".join(str(each) for each in scopes)
        return Grant(client, identity, plain_scopes(text), self._tokens.session(identity, session))

    def _only_native(self) -> str:
        (one,) = [each.client_id for each in self._state.applications.values() if each.secret is None]
        return one

    def revoke(self, identity: str, refreshes: bool = True) -> int:
        """Revoke the access tokens of ``identity``, and its refresh tokens; return how many of the first there were."""
        with self._state.lock:
            live = [
                each for each in self._state.tokens.values() if each.grant.identity == identity and not each.revoked
            ]
            for each in live:
                each.revoked = True
            kept = self._state.refreshes.items()
            if refreshes:
                self._state.refreshes = {text: each for text, each in kept if each.identity != identity}
        return len(live)

    def advance(self, seconds: float) -> None:
        """Move the cloud's clock: tokens, codes and logins grow old by ``seconds``."""
        with self._state.lock:
            self._state.advance(seconds)

    def token_seconds(self, seconds: int) -> None:
        """Let tokens issued from now on live for ``seconds``."""
        self._state.token_seconds = seconds

    # Compute -------------------------------------------------------------------------------------------------------

    def meddle(
        self,
        kind: str,
        endpoint: str | None = None,
        times: int | None = 1,
        seconds: float = 0.0,
        text: str = "",
        count: int = 1,
    ) -> None:
        """Do something to the next ``times`` tasks or results (None: all) of ``endpoint`` (None: any).

        - lose: accept the task, and never deliver it
        - redeliver: deliver the task twice, so that it runs twice
        - repeat: take its result twice, as if the endpoint had sent it twice
        - delay: take its result ``seconds`` later
        - hostile: put an object in the result's place that runs the command ``text`` where dill deserialises it
        - replace: put the serialised ``text`` in the result's place
        - forget: purge the result after it was fetched once
        - extra: list ``count`` unknown tasks more in a task group
        """
        with self._state.lock:
            self._compute.records.meddling.order(kind, endpoint, times, seconds, text, count)

    def clear_meddling(self) -> None:
        """Forget all that `meddle` ordered."""
        with self._state.lock:
            self._compute.records.meddling.clear()

    def enforce_allowed(self, enforce: bool) -> None:
        """Say whether the service itself refuses functions that an endpoint does not list; the daemon does so, too."""
        self._compute.records.enforce_allowed = enforce

    def enforce_owner(self, enforce: bool) -> None:
        """Say whether the service itself refuses strangers at an endpoint without an identity mapping; the daemon does, too."""
        self._compute.records.enforce_owner = enforce

    def online(self, endpoint: str) -> bool:
        """Return whether the endpoint, or user endpoint, has given a sign of life lately."""
        with self._state.lock:
            return self._compute.records.is_online(endpoint)

    def last_seen(self, endpoint: str) -> float | None:
        """Return when the endpoint, or user endpoint, gave its last sign of life other than that of its end."""
        with self._state.lock:
            last = self._compute.records.heartbeats.get(endpoint)
            return last.at if last is not None and last.period else None

    def endpoints(self) -> dict[str, dict[str, Any]]:
        """Return each endpoint's owner, name, allowed functions, and user endpoints with whether they live."""
        with self._state.lock:
            return {each.uuid: self._endpoint(each) for each in self._compute.records.endpoints.values()}

    def _endpoint(self, endpoint: Endpoint) -> dict[str, Any]:
        users = [each.uuid for each in self._compute.records.user_endpoints.values() if each.parent == endpoint.uuid]
        return {
            "owner": endpoint.owner,
            "name": endpoint.document.get("endpoint_name"),
            "online": self._compute.records.is_online(endpoint.uuid),
            "allowed_functions": endpoint.allowed,
            "public": bool(endpoint.document.get("public")),
            "multi_user": bool(endpoint.document.get("multi_user")),
            "metadata": endpoint.document.get("metadata"),
            "user_endpoints": {user: self._compute.records.is_online(user) for user in users},
        }

    def tasks(self, endpoint: str | None = None) -> dict[str, dict[str, Any]]:
        """Return each task's status, function, endpoint, group, and how often it was delivered, answered and fetched."""
        with self._state.lock:
            tasks = [each for each in self._compute.records.tasks.values() if endpoint in (None, each.endpoint)]
            return {each.uuid: {**asdict(each), "data": None} for each in tasks}

    # Faults --------------------------------------------------------------------------------------------------------

    def fault(
        self,
        service: str,
        path_prefix: str,
        status: int | None = None,
        times: int | None = 1,
        delay: float = 0.0,
        retry_after: int | None = None,
        body: Any = None,
        method: str | None = None,
        drop: bool = False,
    ) -> None:
        """Answer the next ``times`` requests (None: all) of ``service`` below ``path_prefix`` with ``status``.

        Services are "auth", "groups" and "compute"; the prefix is below the service's own and may hold wildcards
        ("/v3/endpoints/*/submit"). ``delay`` comes before the answer, and alone (no status) leaves the answer as it is.
        ``drop`` does what was asked and loses the reply.
        """
        self._faults.add(
            service,
            path_prefix,
            status=status,
            times=times,
            delay=delay,
            retry_after=retry_after,
            body=body,
            method=method,
            drop=drop,
        )

    def rate_limit(self, service: str, requests: int, seconds: float) -> None:
        """Answer 429 with Retry-After to who asks ``service`` more often than ``requests`` times in ``seconds``."""
        self._faults.limit(service, requests, seconds)

    def clear_faults(self) -> None:
        """Forget all faults and limits."""
        self._faults.clear()

    def state(self) -> dict[str, Any]:
        """Return what the cloud knows, without secrets and tokens."""
        with self._state.lock:
            return {
                "clients": {each.client_id: each.name for each in self._state.applications.values()},
                "people": {each.identity: each.username for each in self._state.people.values()},
                "groups": {name: self.members(name) for name in self._state.groups},
                "tokens": len(self._state.tokens),
                "endpoints": self.endpoints(),
                "functions": {name: each.owner for name, each in self._compute.records.functions.items()},
                "tasks": self.tasks(),
                "unknown_results": self._compute.records.unknown_results,
                "codes": [_code(each) for each in self._state.codes.values()],
            }


def _code(code: Code) -> dict[str, Any]:
    return {"client": code.grant.client_id, "identity": code.grant.identity, "scopes": list(code.grant.scopes)}
