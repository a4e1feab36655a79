"""What must hold between the fields of a charter, and what a charter that holds still leaves open.

Pure functions over a charter whose single fields are already of the right form. `faults` yields in the order in which
a person would read the file; the first one is raised. `caveats` never blocks anything: it feeds the report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import TrustError
from .quorum import Quorum
from .vkey import WitnessKey

if TYPE_CHECKING:
    from .model import Charter, Member

__all__ = ["Fault", "caveats", "faults"]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Fault:
    """A contradiction, and the field to change."""

    place: tuple[str | int, ...]
    what: str


def faults(charter: Charter) -> Iterator[Fault]:
    """Yield every contradiction between the fields."""
    yield from _history(charter)
    yield from _group(charter)
    yield from _members(charter)
    yield from _offices(charter)
    yield from _quorum(charter)
    if len(set(charter.approved_code)) != len(charter.approved_code):
        yield Fault(("approved_code",), "a digest is listed twice")


def _history(charter: Charter) -> Iterator[Fault]:
    if charter.version == 1 and charter.previous is not None:
        yield Fault(("previous",), "the first charter has no previous one; write null")
    if charter.version > 1 and charter.previous is None:
        yield Fault(("previous",), f"version {charter.version} must name the digest of version {charter.version - 1}")


def _group(charter: Charter) -> Iterator[Fault]:
    if charter.group.authorizer != "globus":
        return
    if not _UUID.fullmatch(charter.group.id):
        yield Fault(("group", "id"), "a Globus group is named by its UUID in lower case")
    for number, member in enumerate(charter.members):
        if not _UUID.fullmatch(member.identity):
            # A username can pass to somebody else; an identity's UUID never does.
            what = f"{member.identity} is not a Globus identity: a member of a Globus group is named by its UUID in lower case"
            yield Fault(("members", number, "identity"), what)


def _members(charter: Charter) -> Iterator[Fault]:
    identities: set[str] = set()
    statements: set[str] = set()
    for number, member in enumerate(charter.members):
        here = ("members", number)
        if member.identity.casefold() in identities:
            yield Fault((*here, "identity"), f"{member.identity} is listed twice")
        if member.statement in statements:
            yield Fault((*here, "statement"), f"the key statement of {member.identity} is another member's")
        identities.add(member.identity.casefold())
        statements.add(member.statement)
        yield from _roles(here, member)


def _roles(here: tuple[str | int, ...], member: Member) -> Iterator[Fault]:
    if len(set(member.roles)) != len(member.roles):
        yield Fault((*here, "roles"), "a role is listed twice")
    if "site" in member.roles and member.weight is None:
        yield Fault((*here, "weight"), f"the site {member.identity} needs a positive weight")
    if "site" not in member.roles and member.weight is not None:
        yield Fault((*here, "weight"), f"{member.identity} is no site, so nothing of it is weighed")


def _offices(charter: Charter) -> Iterator[Fault]:
    servers = [member.identity for member in charter.members if "server" in member.roles]
    if len(servers) != 1:
        yield Fault(("members",), f"{len(servers)} members have the role server; a federation has exactly one")
    elif charter.server != servers[0]:
        yield Fault(("server",), f"the member with the role server is {servers[0]}, not {charter.server}")
    if not charter.sites:
        yield Fault(("members",), "no member has the role site")
    if charter.auditor is None:
        return
    auditor = charter.member(charter.auditor)
    if auditor is None or "auditor" not in auditor.roles:
        yield Fault(("auditor",), f"{charter.auditor} is not a member with the role auditor")
    elif charter.auditor == charter.server:
        yield Fault(("auditor",), "the server's operator cannot audit itself")


def _quorum(charter: Charter) -> Iterator[Fault]:
    terms, n = charter.quorum, len(charter.sites)
    if terms.external_witness is not None:
        try:
            WitnessKey.parse(terms.external_witness)
        except TrustError as error:
            yield Fault(("quorum", "external_witness"), error.what)
    if terms.k > n:
        yield Fault(("quorum", "k"), f"k = {terms.k} of n = {n} sites can never be reached")
        return
    if terms.f > n:
        yield Fault(("quorum", "f"), f"f = {terms.f} of n = {n} sites")
        return
    safe = Quorum(terms.k, n, terms.f).intersects_in_honest()
    if terms.unwitnessed and (safe or terms.external_witness is not None):
        yield Fault(("quorum", "unwitnessed"), "the federation is witnessed; write false")
    if not (safe or terms.unwitnessed or terms.external_witness is not None):
        least = Quorum.smallest_k(n, terms.f)
        advice = f"raise k to {least}, or" if least is not None else "no k is enough:"
        yield Fault(
            ("quorum", "k"),
            f"2k > n + f does not hold (k = {terms.k}, n = {n}, f = {terms.f}), so a fork could gather two quorums; "
            f"{advice} name an external_witness or say unwitnessed: true",
        )


def caveats(charter: Charter) -> Iterator[tuple[str, str, str]]:
    """Yield (code, field, sentence) for every promise that this charter gives up."""
    if charter.quorum.unwitnessed:
        yield "unwitnessed", "quorum.unwitnessed", "UNWITNESSED: a fork of the log could gather two quorums unnoticed."
    if charter.server_validates_updates:
        yield (
            "server_validates",
            "server_validates_updates",
            "The server may hold and evaluate every site's update in plaintext.",
        )
    if charter.auditor is None:
        yield "no_auditor", "auditor", "NOT COVERED: nobody but the server can recompute weights and arithmetic."
    elif charter.auditor in charter.sites:
        yield "auditor_is_site", "auditor", "The auditor, who may open every update, is one of the sites."
    if not charter.commit_before_upload:
        yield (
            "upload_first",
            "commit_before_upload",
            "The server could choose who is late after it has seen the updates.",
        )
    if charter.group.authorizer == "roster":
        yield "roster", "group.authorizer", "Membership comes from a roster file, not from an identity provider."
    else:
        yield (
            "globus",
            "group.authorizer",
            "Globus, and whoever administers the group there, decide who is an active member; no key or weight comes from them.",
        )
    if charter.suite == "P384":
        yield "not_post_quantum", "suite", "Captured updates would open to a large quantum computer."
