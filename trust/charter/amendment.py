"""Changing a charter: roster, quorum, keys, limits.

An amendment is a whole new charter that names the digest of the one in force. It takes effect, at a leaf of the log,
when the parties to the *old* charter have agreed to it by the old charter's rule. Were the new members asked instead,
a server could invite three friends and let them vote.

Who signs (always with the key that the new charter names):
 1. *the old quorum*: sites of the old charter that stay sites and whose keys were not recovered in this very amendment.
    A removed party has no voice on its removal, and a recovered key none on its recovery: either may be in a thief's
    hands. At least `threshold` of them: the old k, or what an honest majority needs where the old charter leans on an
    outside witness or is unwitnessed. A witness watches for forks; it does not vote.
 2. *newcomers*, who agree to the charter as a whole: new members, members with a new role, recovered members.
 3. *every site*, if more can be seen than before: another server, another auditor, or updates validated by the server.
    A majority cannot give away what a minority protects.

What stays: federation, log origin. The suite never gets weaker. Versions have no gaps. A changed key statement must
follow the one in force (`charter.members`). In a federation too small to spare a voice (n - threshold = 0), removing a
site means founding a new federation: the arithmetic leaves nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ..documents import Signed
from ..errors import CharterError, KeyFault, UnknownKeyError
from ..identifiers import sha256
from ..keys.sealing import SealSuite
from ..keys.statement import KeyStatement
from ..keys.validity import KeyHistory
from .members import MemberStatements, Statements, sign_keys, verify_members
from .model import Charter
from .quorum import Quorum
from .signing import SignedCharter, open_signature, read_charter, require_signers

__all__ = ["Amendment", "apply_amendment", "statements_in_force", "threshold"]

_STRENGTH: Final[dict[SealSuite, int]] = {"P384": 0, "MLKEM768_X25519": 1, "MLKEM1024_P384": 2}


@dataclass(frozen=True, slots=True)
class Amendment:
    """A change that took effect: the charter now in force, and who decided it."""

    charter: SignedCharter
    approved_by: frozenset[str]
    joined: frozenset[str]
    removed: frozenset[str]
    recovered: frozenset[str]


def threshold(charter: Charter) -> int:
    """Return how many old sites must agree to a change: k where 2k > n + f, else the least that would do, else all."""
    quorum = charter.arithmetic
    if quorum.intersects_in_honest():
        return quorum.k
    return Quorum.smallest_k(quorum.n, quorum.f) or quorum.n


def apply_amendment(
    old: SignedCharter,
    raw: bytes,
    signatures: Sequence[bytes],
    *,
    effective_index: int,
    now: int,
    history: KeyHistory | None = None,
) -> Amendment:
    """Return the amendment of ``old`` that ``raw`` and its signatures make, in force from leaf ``effective_index``.

    ``history`` are the keys as the log names them; without it, those of ``old`` are taken to be in force.

    Raises:
        CharterError: it does not follow ``old``, weakens it, or lacks a signature it needs; names the field or the party.
    """
    new, digest = read_charter(raw), sha256(raw)
    _require_successor(old, new, effective_index)
    known = old.statements if history is None else statements_in_force(history, new, effective_index)
    members = verify_members(new, now=now, known=known)
    if history is not None:
        _require_valid(history, new, members, known, effective_index)
    keys = sign_keys(members.by_identity)
    found = tuple(open_signature(one, new, digest, keys, now=now) for one in signatures)
    require_signers(found, _must_sign(old.charter, new, members))
    signers = frozenset(signed.document.identity for signed in found)
    approved = signers & _electorate(old.charter, new, members)
    if len(approved) < threshold(old.charter):
        raise CharterError(
            f"agreed to by {len(approved)} of the old charter's sites, not {threshold(old.charter)}",
            where="charter signatures",
            remedy="Ask the sites of the old charter that remain; newcomers and recovered keys do not count.",
        )
    before, after = _identities(old.charter), _identities(new)
    charter = SignedCharter(new, digest, raw, found, members.by_identity, effective_index)
    return Amendment(charter, approved, after - before, before - after, members.recovered)


def statements_in_force(history: KeyHistory, charter: Charter, at: int) -> Statements:
    """Return the last statement that the log names for each member of ``charter`` that has one: what it must follow."""
    found: dict[str, Signed[KeyStatement]] = {}
    for member in charter.members:
        with suppress(UnknownKeyError):
            found[member.identity] = history.statement(member.identity, at)
    return found


def _require_valid(
    history: KeyHistory, charter: Charter, members: MemberStatements, known: Statements, at: int
) -> None:
    # A revoked key neither votes nor names its heir, and no charter carries it on; a recovery needs none of the old.
    for number, member in enumerate(charter.members):
        statement = known.get(member.identity)
        if statement is None or member.identity in members.recovered:
            continue
        unchanged = statement.digest == members.by_identity[member.identity].digest
        try:
            for entry in statement.document.keys:
                if unchanged or entry.use == "sign":
                    history.key(member.identity, entry.use, entry.key.key_id, at=at)
        except KeyFault as error:
            raise CharterError(
                error.what, where=f"members.{number}.statement", remedy="Recover or remove it."
            ) from error


def _require_successor(old: SignedCharter, new: Charter, effective_index: int) -> None:
    was = old.charter
    if new.federation != was.federation:
        raise CharterError(f"a charter of {new.federation}, not of {was.federation}", where="federation")
    if new.log_origin != was.log_origin:
        raise CharterError("an amendment keeps the log", where="log_origin")
    if new.version != was.version + 1:
        raise CharterError(f"version {new.version} does not follow version {was.version}", where="version")
    if new.previous != old.digest:
        raise CharterError("it amends another charter than the one in force", where="previous")
    if _STRENGTH[new.suite] < _STRENGTH[was.suite]:
        raise CharterError(f"{new.suite} is weaker than {was.suite}", where="suite")
    if effective_index <= old.effective_index:
        raise CharterError(
            f"leaf {effective_index} is not after leaf {old.effective_index}, from which the old charter holds",
            where="effective index",
        )


def _electorate(old: Charter, new: Charter, members: MemberStatements) -> frozenset[str]:
    return (old.cosigners & new.cosigners) - members.recovered


def _must_sign(old: Charter, new: Charter, members: MemberStatements) -> frozenset[str]:
    newcomers = set(members.recovered)
    for member in new.members:
        before = old.member(member.identity)
        if before is None or not set(member.roles) <= set(before.roles):
            newcomers.add(member.identity)
    return frozenset(newcomers) | (new.cosigners if _sees_more(old, new) else frozenset())


def _sees_more(old: Charter, new: Charter) -> bool:
    return (
        new.server != old.server
        or (new.auditor is not None and new.auditor != old.auditor)
        or (new.server_validates_updates and not old.server_validates_updates)
    )


def _identities(charter: Charter) -> frozenset[str]:
    return frozenset(member.identity for member in charter.members)
