"""Who is in the group today: the `Authorizer` seam, and the roster file for federations without Globus.

A decision is asked for whenever it matters (ticket, admission, commit) and each one is a leaf of the log with its
reason, source and time. Membership is necessary and never sufficient: keys and charter are checked elsewhere.

Rules that every authorizer keeps:
 1. only the status ``active`` admits, for any identity of the asked set; everything else is a reason to refuse;
 2. "I could not find out" is not "no": such a decision has ``allowed`` false and ``outage`` true, so that the caller
    holds the round until its deadline instead of casting a member out. That is so whether the group is out of reach or
    we are not let in: a login that ended, a role that was taken from the asker, a list that is not shown and a group
    that is not there say something about the asker, and nothing about the member whose name the leaf would carry;
 3. no error escapes `check`: a caller that forgot to catch something cannot turn a failure into an admission.

The roster file is not an identity provider. Whoever can write it decides who is in; that is why its decisions say
``roster file`` and its digest, in the log and in every report, and why a file that everybody can write is refused.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self, TypeAlias

from pydantic import Field, model_validator

from .documents import Model, validate
from .errors import MalformedError
from .identifiers import Identity, Text, sha256
from .strict_yaml import parse_yaml, read_regular_file

__all__ = [
    "UNANSWERED",
    "Authorizer",
    "Decision",
    "Reason",
    "Role",
    "Roster",
    "RosterAuthorizer",
    "RosterMember",
    "Status",
    "load_roster",
    "weigh",
]

Role: TypeAlias = Literal["site", "server", "auditor"]

Status: TypeAlias = Literal["active", "pending", "invited", "declined", "left", "removed", "rejected"]

Reason: TypeAlias = Literal[
    "active",
    "wrong_role",
    "removed",
    "rejected",
    "left",
    "pending",
    "invited",
    "declined",
    "not_active",  # a status that we have no word for, such as a suspension
    "not_a_member",
    "outage",  # no answer, or none that can be understood
    "rate_limited",  # asked to come again later
    "login_needed",  # our own credential is not taken
    "forbidden",  # our own credential is taken, and may not see the group
    "not_visible",  # the group is shown without its members, which is not a group without members
    "no_such_group",  # gone, or hidden from us: the two look the same from outside
]

UNANSWERED: frozenset[Reason] = frozenset(
    {"outage", "rate_limited", "login_needed", "forbidden", "not_visible", "no_such_group"}
)
"""The reasons that say nothing about the member: the round is held, and nobody is cast out."""

_LIMIT = 1 << 20
_PRECEDENCE: tuple[Reason, ...] = (
    "wrong_role",
    "removed",
    "rejected",
    "not_active",
    "left",
    "declined",
    "pending",
    "invited",
    "not_a_member",
)


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer of the group: ``time`` in seconds since 1970, ``source`` as the log and the report name it."""

    allowed: bool
    reason: Reason
    source: str
    time: int

    def __post_init__(self) -> None:
        if self.allowed != (self.reason == "active"):
            raise ValueError(f"a decision cannot be allowed={self.allowed} for the reason {self.reason!r}")

    @property
    def outage(self) -> bool:
        """Whether the group did not answer the question: hold, do not expel."""
        return self.reason in UNANSWERED


class Authorizer(Protocol):
    """Whoever knows the members of the federation's group."""

    def check(self, identities: frozenset[str], role: Role) -> Decision:
        """Decide whether any of one party's ``identities`` is an active member in ``role``. Never raises."""
        ...


class RosterMember(Model):
    """One line of a roster."""

    identity: Identity
    status: Status
    roles: tuple[Role, ...] = Field(min_length=1, max_length=3)


class Roster(Model):
    """The members of a group, as its keeper wrote them down."""

    group: Text = Field(min_length=1)
    members: tuple[RosterMember, ...] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        seen: set[str] = set()
        for number, member in enumerate(self.members):
            # Two spellings of one name are two people to us and one to the keeper: neither may stand.
            if member.identity.casefold() in seen:
                raise ValueError(f"members.{number}.identity: {member.identity} is listed twice")
            seen.add(member.identity.casefold())
        return self

    def reason(self, identities: frozenset[str], role: Role) -> Reason:
        """Return ``active`` if any of ``identities`` is, in ``role``; else the most telling reason against it."""
        return weigh(
            ("active" if role in member.roles else "wrong_role") if member.status == "active" else member.status
            for member in self.members
            if member.identity in identities
        )


def weigh(reasons: Iterable[Reason]) -> Reason:
    """Return the one reason for all linked identities of a party: one active membership admits, whatever the others are.

    A person whose old employer removed them is a member through the new one: the group's manager lists whom they mean,
    and removes whom they no longer mean. Among refusals the most telling one stands.
    """
    found = {"not_a_member", *reasons}
    if "active" in found:
        return "active"
    return next(reason for reason in _PRECEDENCE if reason in found)


class RosterAuthorizer:
    """Decides from a roster file, read again at every check, so that a removal holds from the next decision on.

    ``group`` (when given) must be the roster's: a file for another group is an outage, not an answer.
    """

    def __init__(self, path: Path, clock: Callable[[], int], *, group: str | None = None) -> None:
        self._path = path
        self._clock = clock
        self._group = group
        self._parsed: tuple[str, Roster] | None = None

    def check(self, identities: frozenset[str], role: Role) -> Decision:
        """Decide from the file as it is now; a file that cannot be believed is an outage."""
        now = self._clock()
        try:
            digest, roster = self._read()
        except (MalformedError, OSError):
            return Decision(False, "outage", "roster file unreadable", now)
        source = f"roster file sha256:{digest[:16]}"
        if self._group is not None and roster.group != self._group:
            return Decision(False, "outage", source, now)
        reason = roster.reason(identities, role)
        return Decision(reason == "active", reason, source, now)

    def _read(self) -> tuple[str, Roster]:
        # Always by content: a time stamp can be kept while the bytes change.
        if self._path.stat().st_mode & stat.S_IWOTH:
            raise MalformedError("a roster that everybody can write", where=self._path.name, remedy="chmod o-w")
        data = read_regular_file(self._path, limit=_LIMIT, what="roster")
        digest = sha256(data)
        if self._parsed is None or self._parsed[0] != digest:
            self._parsed = digest, load_roster(data, file=self._path.name)
        return self._parsed


def load_roster(data: bytes, *, file: str) -> Roster:
    """Return the roster that a YAML file spells.

    Raises:
        MalformedError: not strict YAML, or not a roster; names the line or the field.
    """
    return validate(Roster, parse_yaml(data, file=file, limit=_LIMIT).value, what=file)
