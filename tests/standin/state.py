"""What the stand-in cloud remembers: applications, identities, tokens, groups, policies; and its clock.

Everything is plain data behind one lock, which the web server holds while it answers a request.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "AUTH_SERVER",
    "COMPUTE_CLIENT",
    "COMPUTE_SCOPE",
    "COMPUTE_SERVER",
    "GROUPS_SERVER",
    "PROVIDER",
    "Application",
    "Code",
    "Grant",
    "Group",
    "Person",
    "State",
    "Token",
    "new_id",
]

COMPUTE_CLIENT = "facd7ccc-c5f4-42aa-916b-a0e270e2c2a9"
COMPUTE_SCOPE = f"https://auth.globus.org/scopes/{COMPUTE_CLIENT}/all"
COMPUTE_SERVER = "funcx_service"
GROUPS_SERVER = "groups.api.globus.org"
AUTH_SERVER = "auth.globus.org"
PROVIDER = "3a8a4c1e-0000-4000-8000-00000000aaaa"
"""The identity provider that everybody here logs in with."""


def new_id() -> str:
    """Return a new UUID, as Globus prints them."""
    return str(uuid.uuid4())


@dataclass(frozen=True)
class Application:
    """An application registered with Globus: one with a secret is also an identity of its own."""

    client_id: str
    name: str
    secret: str | None = field(repr=False)


@dataclass(frozen=True)
class Person:
    """An identity: a person's account with one provider, or a service account."""

    identity: str
    username: str
    name: str

    def document(self) -> dict[str, Any]:
        """Return the identity as /v2/api/identities shows it."""
        return {
            "id": self.identity,
            "sub": self.identity,
            "username": self.username,
            "name": self.name,
            "email": self.username,
            "organization": None,
            "identity_provider": PROVIDER,
            "identity_provider_display_name": "stand-in",
            "status": "used",
        }


@dataclass(frozen=True)
class Grant:
    """What a token stands for: who, through which application, for what, after which login."""

    client_id: str
    identity: str
    scopes: tuple[str, ...]
    session: Mapping[str, Any] | None = None
    """None for a service account: it never logged in."""


@dataclass
class Token:
    """An access token for one resource server."""

    grant: Grant
    server: str
    scopes: tuple[str, ...]
    issued: float
    expires: float
    revoked: bool = False


@dataclass(frozen=True)
class Code:
    """An authorization code, on its way from the browser to the application."""

    grant: Grant
    expires: float
    offline: bool = True
    challenge: str | None = None
    redirect: str | None = None
    nonce: str | None = None


@dataclass
class Group:
    """A group: its document without memberships, and the memberships."""

    document: dict[str, Any]
    memberships: dict[str, dict[str, Any]] = field(default_factory=dict)


class State:
    """Everything that the stand-in remembers."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.token_seconds = 172_800
        self.applications: dict[str, Application] = {}
        self.people: dict[str, Person] = {}
        self.sets: dict[str, list[str]] = {}
        """Each identity's set of linked identities: one list, shared by all of its members."""
        self.tokens: dict[str, Token] = {}
        self.refreshes: dict[str, Grant] = {}
        self.codes: dict[str, Code] = {}
        self.scopes: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, Group] = {}
        self.policies: dict[str, dict[str, Any]] = {}
        self.visitor: tuple[str, Mapping[str, Any] | None] | None = None
        """Who sits at the browser: an identity, and what is particular about the login."""
        self._ahead = 0.0

    def now(self) -> float:
        """Return the cloud's time, which a test may have moved."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move the cloud's time."""
        self._ahead += seconds

    def add_application(self, name: str, *, confidential: bool) -> Application:
        """Register an application; one with a secret becomes an identity, too."""
        secret = secrets.token_urlsafe(32) if confidential else None
        found = Application(new_id(), name, secret)
        self.applications[found.client_id] = found
        if confidential:
            username = f"{found.client_id}@clients.auth.globus.org"
            self.add_person(Person(found.client_id, username, name))
        return found

    def add_person(self, person: Person, linked: Iterable[str] = ()) -> None:
        """Add an identity, and join its set with those of ``linked``."""
        self.people[person.identity] = person
        together = [person.identity]
        for other in linked:
            together += [each for each in self.sets[other] if each not in together]
        for each in together:
            self.sets[each] = together

    def identity_set(self, identity: str) -> list[str]:
        """Return the identities linked with ``identity``, itself first."""
        return [identity, *(each for each in self.sets[identity] if each != identity)]

    def is_live(self, token: Token) -> bool:
        """Return whether ``token`` is neither revoked nor past its time."""
        return not token.revoked and token.expires > self.now()
