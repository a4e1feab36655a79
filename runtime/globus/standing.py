"""How a group and a charter fit: who is a member in which place, who is missing, who is in one and not in the other.

Decisions are those of `GlobusAuthorizer`, asked on one answer of Globus, so that this report never says anything else than
a running server would.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...trust.charter.signing import SignedCharter
from ...trust.group import Role
from ..config import ServerConfig, SiteConfig
from ..founding.admissions import identity_sets
from ..founding.charter_folder import read_charter_folder
from .authorizer import GlobusAuthorizer
from .groups import Group, GroupFacts, facts, read_group, with_policies

if TYPE_CHECKING:
    from .credentials import Credentials

__all__ = ["Report", "Row", "charter_of", "standing"]

_ROLES: tuple[Role, ...] = ("site", "server", "auditor")
_NOT_IN = "not in the charter"


@dataclass(frozen=True, slots=True)
class Row:
    """One identity: its place in the group, what it may be, and its place in the charter."""

    identity: str
    username: str
    role: str
    status: str
    may: tuple[Role, ...]
    charter: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `counterseal group status` shows; ``findings`` are (True, False or None for a warning, sentence)."""

    cloud: str
    facts: GroupFacts
    rows: tuple[Row, ...]
    findings: tuple[tuple[bool | None, str], ...]

    @property
    def fits(self) -> bool:
        """Whether nothing is wrong; what is only worth knowing does not count."""
        return all(ok is not False for ok, _ in self.findings)

    def document(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "cloud": self.cloud,
            "group": asdict(self.facts),
            "members": [asdict(row) for row in self.rows],
            "findings": [{"ok": ok, "what": what} for ok, what in self.findings],
            "fits": self.fits,
        }


def charter_of(party: SiteConfig | ServerConfig) -> SignedCharter:
    """Return the charter of a party's configuration.

    Raises:
        CharterError: it does not hold.
    """
    return read_charter_folder(party.charter, now=int(time.time()))


def standing(credentials: Credentials, group_id: str, party: SiteConfig | ServerConfig | None) -> Report:
    """Compare a group with the charter of ``party``, if there is one.

    Raises:
        LoginNeededError, GlobusRefusedError, GlobusUnavailableError: the group cannot be seen.
        CharterError, CustodyError, SignatureError: the charter, or the server's admissions.
    """
    config, client = credentials.config, credentials.groups()
    group = with_policies(client, read_group(client, group_id))
    charter = None if party is None else charter_of(party)
    linked: Mapping[str, frozenset[str]] = {}
    if isinstance(party, ServerConfig) and charter is not None:
        linked = identity_sets(party.admissions_folder, charter.sign_key(charter.charter.server))
    authorizer = GlobusAuthorizer(
        credentials.groups,
        group_id,
        lambda: int(time.time()),
        auditors=config.auditors,
        identity_sets=lambda: linked,
    )
    return Report(
        cloud=config.insecure_test_cloud or "globus.org",
        facts=facts(group),
        rows=_rows(group, charter, linked, authorizer),
        findings=tuple(_findings(group, charter, linked, authorizer)),
    )


def _rows(
    group: Group, charter: SignedCharter | None, linked: Mapping[str, frozenset[str]], authorizer: GlobusAuthorizer
) -> tuple[Row, ...]:
    rows = []
    for identity, found in sorted((group.members or {}).items()):
        name, role, status = (
            " and ".join(sorted({getattr(one, field) for one in found})) for field in ("username", "role", "status")
        )
        may = tuple(each for each in _ROLES if authorizer.check(frozenset({identity}), each).allowed)
        rows.append(Row(identity, name, role, status, may, _place(identity, charter, linked)))
    return tuple(rows)


def _place(identity: str, charter: SignedCharter | None, linked: Mapping[str, frozenset[str]]) -> str:
    if charter is None:
        return "no charter given"
    member = charter.charter.member(identity)
    if member is not None:
        return ", ".join(member.roles)
    behind = [one for one, others in linked.items() if identity in others]
    return f"linked to {', '.join(behind)}" if behind else _NOT_IN


def _findings(
    group: Group, charter: SignedCharter | None, linked: Mapping[str, frozenset[str]], authorizer: GlobusAuthorizer
) -> list[tuple[bool | None, str]]:
    about = facts(group)
    found: list[tuple[bool | None, str]] = []
    if not about.members_visible:
        found.append((False, "this login does not see the members: no decision can be made with it"))
    if about.members_visibility != "members":
        found.append((None, "members do not see each other: sites cannot check their server"))
    if about.join_requests:
        found.append((None, "strangers may ask to join; asking makes nobody a member"))
    if about.high_assurance or about.enforce_session:
        found.append((None, "a recent login is asked for, which no service account can give"))
    if charter is None or group.members is None:
        return found
    for member in charter.charter.members:
        for role in member.roles:
            decision = authorizer.check(frozenset({member.identity}), role)
            # Nobody is asked about an auditor while a federation runs: it opens logs that exist.
            ok = None if decision.outage or (role == "auditor" and not decision.allowed) else decision.allowed
            found.append((ok, f"{member.identity} as {role}: {decision.reason}"))
    for identity, rows in sorted(group.members.items()):
        if all(one.status == "active" for one in rows) and _place(identity, charter, linked) == _NOT_IN:
            found.append(
                (None, f"{rows[0].username or identity} is active and not in the charter: it can do nothing here")
            )
    return found
