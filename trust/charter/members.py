"""The first keys of a federation: the key statements inside a charter, verified.

Obligations, each with its error:
 1. every statement holds (author, proof of possession, time) for this federation and log: `trust.keys.statement`;
 2. it is the statement of the member under whose name it stands, and of the charter's one suite;
 3. the server's operator, and nobody else, holds a checkpoint key;
 4. no key belongs to two members, nor to the outside witness: one voice is counted once.

A statement from an earlier charter of the same federation is taken as it was verified then (``known``): time passes,
and a charter does not stop holding because a first statement has run out. A *changed* statement must be a rotation by
the member's current key; a recovery is told apart, because it needs the word of a quorum of the others
(`charter.amendment`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .. import dsse
from ..documents import Signed, parse_document
from ..errors import CharterError, SignatureError, TrustError
from ..keys.signing import VerifyingKey
from ..keys.statement import KeyStatement, verify_recovery, verify_statement
from .model import Charter, Member
from .vkey import WitnessKey

__all__ = ["MemberStatements", "Statements", "sign_keys", "verify_members"]

Statements = Mapping[str, Signed[KeyStatement]]
"""The verified key statement of each identity."""


@dataclass(frozen=True, slots=True)
class MemberStatements:
    """The statements of a charter's members; ``recovered`` are those whose previous key did not sign."""

    by_identity: Statements
    recovered: frozenset[str] = frozenset()


def verify_members(charter: Charter, *, now: int, known: Statements = MappingProxyType({})) -> MemberStatements:
    """Return the verified key statement of every member of ``charter``.

    Raises:
        CharterError: a statement that does not hold, or that contradicts the charter; ``where`` is the field.
    """
    found: dict[str, Signed[KeyStatement]] = {}
    recovered: set[str] = set()
    for number, member in enumerate(charter.members):
        where = f"members.{number}.statement"
        try:
            statement, by_recovery = _verify(charter, member, now, known.get(member.identity))
        except TrustError as error:
            raise CharterError(f"{member.identity}: {error.what}", where=where, remedy=error.remedy) from error
        _compare(charter, member, statement.document, where)
        found[member.identity] = statement
        if by_recovery:
            recovered.add(member.identity)
    _require_distinct(charter, found)
    return MemberStatements(MappingProxyType(found), frozenset(recovered))


def _verify(
    charter: Charter, member: Member, now: int, known: Signed[KeyStatement] | None
) -> tuple[Signed[KeyStatement], bool]:
    raw = member.statement.encode()
    if known is not None and known.raw == raw:
        return known, False
    federation, origin = charter.federation, charter.log_origin
    if known is None:
        return verify_statement(raw, federation=federation, log_origin=origin, now=now), False
    claimed = dsse.read(raw)
    _require_next(known, parse_document(KeyStatement, claimed.payload))
    if claimed.key_id == known.document.sign.key_id:
        previous = known.document.sign
        return verify_statement(raw, federation=federation, log_origin=origin, now=now, previous_key=previous), False
    return verify_recovery(raw, federation=federation, log_origin=origin, now=now), True


def _require_next(known: Signed[KeyStatement], claimed: KeyStatement) -> None:
    # Without this an old, stolen statement of the same member could come back.
    if claimed.serial != known.document.serial + 1 or claimed.previous != known.digest:
        raise SignatureError(
            f"serial {claimed.serial} does not follow the statement in force (serial {known.document.serial})"
        )


def _compare(charter: Charter, member: Member, statement: KeyStatement, where: str) -> None:
    if statement.identity != member.identity:
        raise CharterError(f"the statement is that of {statement.identity}, not of {member.identity}", where=where)
    if statement.suite != charter.suite:
        raise CharterError(
            f"{member.identity} has keys of {statement.suite}, the charter's suite is {charter.suite}", where=where
        )
    if statement.is_operator != (member.identity == charter.server):
        lacks = "has no" if member.identity == charter.server else "is not the server and has a"
        raise CharterError(f"{member.identity} {lacks} checkpoint key", where=where)


def _require_distinct(charter: Charter, statements: Statements) -> None:
    owner: dict[str, str] = {}
    witness = charter.quorum.external_witness
    if witness is not None:
        owner[WitnessKey.parse(witness).key.key_id] = "the external witness"
    for number, member in enumerate(charter.members):
        for key_id in statements[member.identity].document.key_ids:
            if key_id in owner:
                raise CharterError(
                    f"the key {key_id[:16]} of {member.identity} is also that of {owner[key_id]}",
                    where=f"members.{number}.statement",
                )
            owner[key_id] = member.identity


def sign_keys(statements: Statements) -> dict[str, VerifyingKey]:
    """Return the key with which each member speaks."""
    return {identity: signed.document.sign for identity, signed in statements.items()}
