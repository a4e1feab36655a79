"""Counting the members' words about somebody's keys: recovery after loss, revocation by others.

Both follow the rule of an amendment: sites of the charter in force, each counted once, the member concerned never, and
at least `threshold` of them over exactly the same thing. A member revokes its own keys alone: whoever holds the key can
only do harm to it by that, and a thief who does so has warned everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import dsse
from ..documents import Signed
from ..errors import CharterError
from ..identifiers import sha256
from ..keys.validity import Approval
from ..messages import Recovery, Revocation
from .amendment import threshold
from .model import Charter

__all__ = ["approve_recovery", "approve_revocation"]


def approve_recovery(charter: Charter, votes: Sequence[Signed[Recovery]]) -> Approval:
    """Return the approval that verified recovery messages make together, for `KeyHistory.recover`.

    Raises:
        CharterError: votes for different things, or too few sites other than the member itself.
    """
    about = {(vote.document.member, vote.document.statement) for vote in votes}
    if len(about) != 1:
        raise CharterError(f"{len(about)} different statements voted for, where there must be one", where="recovery")
    member, statement = about.pop()
    approvers = _count(charter, member, (vote.document.identity for vote in votes), "recovery")
    return Approval(member, sha256(dsse.read(statement.encode()).payload), approvers)


def approve_revocation(charter: Charter, votes: Sequence[Signed[Revocation]]) -> tuple[str, str]:
    """Return (member, key id) that verified revocation messages revoke: the member's own word, or a quorum's.

    Raises:
        CharterError: votes for different keys, or neither the member nor enough other sites.
    """
    about = {(vote.document.member, vote.document.key) for vote in votes}
    if len(about) != 1:
        raise CharterError(f"{len(about)} different keys named, where there must be one", where="revocation")
    member, key = about.pop()
    if all(vote.document.identity != member for vote in votes):
        _count(charter, member, (vote.document.identity for vote in votes), "revocation")
    return member, key


def _count(charter: Charter, member: str, voters: Iterable[str], where: str) -> frozenset[str]:
    counted = charter.cosigners & frozenset(
        voters
    )  # never the member: a recovery refuses it, a revocation is then its own
    if len(counted) < threshold(charter):
        raise CharterError(
            f"{len(counted)} sites agree about {member}, not {threshold(charter)}",
            where=where,
            remedy="Ask the other sites; the member itself and parties that are no sites do not count.",
        )
    return counted
