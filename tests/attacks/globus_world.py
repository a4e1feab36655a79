"""The federation of `world`, whose group is one of Globus: the real client library, a stand-in for the services.

The members keep their names of the charter; what ties them to identities of Globus is what enrolment would have written
down. Seconds of the authorizer's memory pass only when an attack says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from counterseal.audit.events import AccessDenied, AggregateCommit, ModelRelease, RoundAbort
from counterseal.runtime.config import GlobusConfig, PassphraseConfig
from counterseal.runtime.globus.authorizer import KEPT_SECONDS, GlobusAuthorizer
from counterseal.runtime.globus.credentials import Credentials
from counterseal.trust.group import Decision, Role

from ..standin.cloud import Cloud
from .world import SERVER, Ended, World, worlds

__all__ = ["Heart", "Watching", "hearts"]


@dataclass
class Heart:
    """A world, and its group at the stand-in. ``sets`` are the identities that enrolment linked to each member."""

    world: World
    cloud: Cloud
    configs: dict[str, GlobusConfig]
    credentials: Credentials
    group: str
    identities: dict[str, str]
    sets: dict[str, frozenset[str]]
    kept: float = 0.0
    asked: list[str] = field(default_factory=list)

    @property
    def config(self) -> GlobusConfig:
        """The server's."""
        return self.configs[SERVER]

    def authorizer(self, **changes: Any) -> GlobusAuthorizer:
        """Return what the server asks, or with its own login a site."""
        values: dict[str, Any] = {
            "identity_sets": lambda: self.sets,
            "forget": self.credentials.forget,
            "monotonic": lambda: self.kept,
        }
        group = changes.pop("group", self.group)
        client = changes.pop("client", self.credentials.groups)
        return GlobusAuthorizer(client, group, self.world.clock, **{**values, **changes})

    def login(self, name: str) -> Credentials:
        """Return the service account of ``name``."""
        return Credentials.open(self.configs[name])

    def status(self, name: str, status: str, role: str = "member") -> None:
        """Change a membership at Globus, and let what was known of it grow old."""
        self.cloud.member(self.group, self.identities[name], role, status)
        self.later()

    def later(self) -> None:
        """Let every answer that is kept grow old."""
        self.kept += KEPT_SECONDS

    def require_without(self, name: str, ended: Ended) -> AccessDenied:
        """The run went on without ``name``, which got no model; return why it got no ticket."""
        commits = [event for event in ended.log if isinstance(event, AggregateCommit) and event.version > 0]
        assert (ended.outcome, len(commits)) == ("completed", 2)
        assert all(name not in [one.site for one in commit.inputs] for commit in commits)
        release = next(event for event in ended.log if isinstance(event, ModelRelease))
        assert name not in release.recipients
        assert self.world.verify() == []
        (denied,) = [event for event in ended.log if isinstance(event, AccessDenied) and event.at == "ticket"]
        assert denied.decision.identity == name
        return denied

    def require_nothing_made(self, ended: Ended) -> str:
        """The try was aborted, nothing was committed and nobody was cast out; return why."""
        assert ended.outcome == "aborted"
        assert not [event for event in ended.log if isinstance(event, AggregateCommit) and event.version == 2]
        assert self.world.verify() == []
        return next(event for event in ended.log if isinstance(event, RoundAbort)).reason


@contextlib.contextmanager
def hearts(at: str = "train-2") -> Iterator[Heart]:
    """Yield a fresh copy of the stopped federation, with all its members active at the stand-in."""
    with worlds(at) as world, Cloud() as cloud:
        configs, identities = {}, {}
        for name in (SERVER, *world.federation.sites):
            identities[name], secret = cloud.client(name)
            place = world.folder.parent / f"{name}.client-secret"
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(secret)
            configs[name] = GlobusConfig(
                client_id=identities[name],
                client_secret=PassphraseConfig(file=place),
                insecure_test_cloud=cloud.url,
            )
        members = {one: ("manager" if name == SERVER else "member", "active") for name, one in identities.items()}
        with Credentials.open(configs[SERVER]) as credentials:
            group = cloud.group("heart", members)
            sets = {name: frozenset({identity}) for name, identity in identities.items()}
            yield Heart(world, cloud, configs, credentials, group, identities, sets)


class Watching:
    """The server's authorizer, with something that happens at the ``times``-th question about ``name``.

    While there is no answer, the world's time passes, and so does the authorizer's memory of it.
    """

    def __init__(
        self, heart: Heart, name: str, role: Role, times: int, turn: Any, until: int | None = None, back: Any = None
    ) -> None:
        self.heart, self.inner = heart, heart.authorizer()
        self.name, self.role, self.times, self.turn, self.until = name, role, times, turn, until
        self.back = back
        self.unanswered: list[Decision] = []

    def check(self, identities: frozenset[str], role: Role) -> Decision:
        found = self.inner.check(identities, role)
        if identities == {self.name} and role == self.role:
            self.times -= 1
            if self.times == 0:
                self.turn()
                self.heart.later()
        if found.outage:
            self.unanswered.append(found)
            self.heart.later()
            if self.until is not None and len(self.unanswered) == self.until:
                self.back()
            elif self.until is None:
                self.heart.world.clock.advance(10)
        return found
