"""How the log changes the keys: revocations and rotations as leaves, each carried by the members' own signed words.

The server writes these leaves, and its word alone gives nobody a key and takes none: a `key.revoke` names the revocation
messages of the member itself, or of a quorum of the other sites; a `key.rotate` names a key statement that the member's
previous key signed. Both are canonical objects beside the log and travel with deliveries, so sites and verifiers judge them
by themselves, at the leaf's index. A `member.remove` is the server's word: it can only take away, in everybody's sight.

Not handled here: members that join and keys recovered after loss; those are amendments of the charter, which need a
quorum's signatures on a new charter (`trust.charter.amendment`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..trust import dsse
from ..trust.charter.model import Charter
from ..trust.charter.votes import approve_revocation
from ..trust.documents import Signed, open_document, parse_document
from ..trust.errors import SignatureError
from ..trust.keys.signing import VerifyingKey
from ..trust.keys.statement import KeyStatement, verify_statement
from ..trust.keys.validity import KeyHistory
from ..trust.messages import Revocation
from .events import Event, KeyRevoke, KeyRotate, MemberRemove

__all__ = ["GOVERNING", "follow", "open_revocation", "open_rotation"]

GOVERNING = (KeyRevoke, KeyRotate, MemberRemove)
"""The events that change who may sign."""


def follow(history: KeyHistory, event: Event, *, at: int, charter: Charter, objects: Mapping[str, bytes]) -> KeyHistory:
    """Return the keys after the leaf ``at``; ``objects`` are the messages and statements by their document's digest.

    Raises:
        TrustError: the messages do not carry the change.
        LookupError: one of them is not at hand.
    """
    if isinstance(event, KeyRevoke):
        votes = [open_revocation(_object(objects, digest), history, at=at) for digest in event.messages]
        if approve_revocation(charter, votes) != (event.identity, event.key):
            raise SignatureError("the messages revoke another key than the leaf", where=f"leaf {at}")
        held = history.tenures.get(event.key)
        if held is not None and held.identity != event.identity:
            raise SignatureError("the key is another member's", where=f"leaf {at}")
        return history.revoke(event.key, at=at)
    if isinstance(event, KeyRotate):
        raw = _object(objects, event.statement)
        statement = open_rotation(raw, history, at=at, charter=charter, now=event.time)
        if statement.digest != event.statement or statement.document.identity != event.identity:
            raise SignatureError("the object is another key statement", where=f"leaf {at}")
        return history.rotate(statement, at=at)
    if isinstance(event, MemberRemove):
        return history.remove(event.identity, at=at)
    return history


def open_revocation(raw: bytes, history: KeyHistory, *, at: int) -> Signed[Revocation]:
    """Return the revocation message in ``raw`` if its author's key was valid at index ``at``.

    Raises:
        TrustError: not a revocation of this federation, or not signed by a key in force.
    """
    envelope = dsse.read(raw)
    claimed = parse_document(Revocation, envelope.payload)
    if claimed.federation != history.federation:
        raise SignatureError("a revocation of another federation", where="revocation")
    return open_document(Revocation, raw, _key(history, claimed.identity, envelope.key_id, at))


def open_rotation(raw: bytes, history: KeyHistory, *, at: int, charter: Charter, now: int) -> Signed[KeyStatement]:
    """Return the key statement in ``raw`` if the member's key in force at ``at`` signed it.

    Raises:
        TrustError: not the next statement of a member, or not signed with its previous key.
    """
    envelope = dsse.read(raw)
    claimed = parse_document(KeyStatement, envelope.payload)
    previous = _key(history, claimed.identity, envelope.key_id, at)
    return verify_statement(
        raw, federation=charter.federation, log_origin=charter.log_origin, now=now, previous_key=previous
    )


def _key(history: KeyHistory, identity: str, key_id: str, at: int) -> VerifyingKey:
    key = history.key(identity, "sign", key_id, at=at)
    if not isinstance(key, VerifyingKey):
        raise SignatureError("not a signing key", where=identity)
    return key


def _object(objects: Mapping[str, bytes], digest: str) -> bytes:
    raw = objects.get(digest)
    if raw is None:
        raise LookupError(f"the object {digest[:16]} is not at hand")
    return raw
