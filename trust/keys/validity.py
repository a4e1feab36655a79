"""Which key is valid for whom, for what, at which index of the log.

A `KeyHistory` is built by replaying one federation's leaves in order: the charter's statements at index 0, then
enrolments, rotations, recoveries, revocations and removals. Each step returns a new history; a step that is refused
leaves no trace. Time is the index of a leaf and never a clock, so every reader of the log gives the same answer for
ever, and an entry is judged by the index of the leaf that *admits* it.

A key is valid from the index of the leaf that names it up to, and not including, the index of the leaf that replaces,
revokes or removes it; that leaf itself is judged by the history before it. The rules:

1. *Continuity.* A rotation names the digest of the current statement, has the next serial, and is signed by the ``sign``
   key that is valid at its index: a revoked key cannot name its heir. After loss or theft only a recovery helps: signed
   by its own new key, approved by others (never by the member itself) over exactly its digest; all older keys end. A
   member that was removed comes back in the same way.
2. *No way back.* A key that was replaced, revoked or removed is never taken again; a use never takes over a key that
   had another use.
3. *One owner.* A public key belongs to one identity. Statements that name somebody else's key are refused.
4. *No revoking of the past.* A revocation takes effect at the index that it names or that of its own leaf, whichever is
   later: otherwise a member could take back what it signed. The earliest of several holds.

The caller has verified each statement (`trust.keys.statement`), who may revoke, and the approval's signatures and
quorum. Not handled: the statements' ``not_after``, which bounds when a statement may *enter* the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from ..documents import Signed
from ..errors import RevokedKeyError, SignatureError, UnknownKeyError, WeakKeyError
from .sealing import SealingKey
from .signing import VerifyingKey
from .statement import KeyStatement, KeyUse

__all__ = ["Approval", "KeyHistory", "Tenure"]

_EMPTY: Final[Mapping[str, Tenure]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Approval:
    """A quorum's word for a recovery, as verified by the caller: who approved which statement of whom."""

    identity: str
    statement: str
    approvers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tenure:
    """One key in one use: valid at indices ``start <= i < end``."""

    identity: str
    use: KeyUse
    key: VerifyingKey | SealingKey
    start: int
    end: int | None = None
    reason: str = ""

    def valid(self, at: int) -> bool:
        """Return whether the key is valid at index ``at``."""
        return self.start <= at and (self.end is None or at < self.end)


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """The keys of one federation over the indices of its log; a frozen value."""

    federation: str
    last: int = -1
    statements: tuple[tuple[int, Signed[KeyStatement]], ...] = ()
    tenures: Mapping[str, Tenure] = field(default_factory=lambda: _EMPTY)
    """Every key ever named, by key id."""

    @classmethod
    def from_charter(cls, federation: str, statements: Iterable[Signed[KeyStatement]]) -> KeyHistory:
        """Return the history that begins with the charter's statements, at index 0.

        Raises:
            SignatureError: another federation, or not a first statement.
            WeakKeyError: one public key for two members or two uses.
        """
        history = cls(federation)
        for statement in statements:
            history = history._enrol(statement, 0)
        return replace(history, last=0)

    def enrol(self, statement: Signed[KeyStatement], *, at: int) -> KeyHistory:
        """Return the history with a member's first statement, from the leaf ``at``.

        Raises:
            SignatureError: the leaf is not after the last one, another federation, not a first statement, or the
                identity has keys already.
            WeakKeyError: a public key that belongs to another member or use.
            RevokedKeyError: a key that was in force once and is not now.
        """
        self._after(at)
        return replace(self._enrol(statement, at), last=at)

    def rotate(self, statement: Signed[KeyStatement], *, at: int) -> KeyHistory:
        """Return the history with a later statement, signed by the ``sign`` key that is valid at ``at``.

        Raises:
            SignatureError: not the next statement of this member, or another signer.
            UnknownKeyError: the member has no keys here.
            RevokedKeyError: the signer was revoked, or a retired key comes back.
            WeakKeyError: a public key that belongs to another member or use.
        """
        self._after(at)
        self._follows(statement)
        identity = statement.document.identity
        self.key(identity, "sign", statement.key_id, at=at)
        return self._replace(statement, at, statement.document.key_ids, f"replaced at index {at}")

    def recover(self, statement: Signed[KeyStatement], approval: Approval, *, at: int) -> KeyHistory:
        """Return the history in which a quorum gave a member new keys; the old ones end here.

        Raises:
            SignatureError: not the next statement, not signed by its own key, or approved by nobody else, or for
                another statement.
            UnknownKeyError: the member has no keys here.
            RevokedKeyError: a retired key comes back.
            WeakKeyError: a public key that belongs to another member or use.
        """
        self._after(at)
        self._follows(statement)
        identity = statement.document.identity
        if statement.key_id != statement.document.sign.key_id:
            raise SignatureError("a recovery is signed by its own sign key", where=f"recovery of {identity}")
        if (approval.identity, approval.statement) != (identity, statement.digest):
            raise SignatureError("the approval is for another statement", where=f"recovery of {identity}")
        if identity in approval.approvers or not approval.approvers <= self._able(at):
            raise SignatureError(
                "approved by the member itself, or by somebody whose key is not in force",
                where=f"recovery of {identity}",
            )
        if not approval.approvers:
            raise SignatureError("approved by nobody", where=f"recovery of {identity}")
        return self._replace(statement, at, frozenset(), f"lost, and recovered at index {at}")

    def revoke(self, key_id: str, *, at: int, effective: int | None = None) -> KeyHistory:
        """Return the history in which ``key_id`` is invalid from the later of ``at`` and ``effective``.

        Raises:
            SignatureError: the leaf is not after the last one.
            UnknownKeyError: no such key was ever named.
        """
        self._after(at)
        held = self.tenures.get(key_id)
        if held is None:
            raise UnknownKeyError(f"no key {key_id[:16]} to revoke", where=f"federation {self.federation}")
        end = max(at, effective if effective is not None else at)
        if held.end is not None and held.end <= end:
            return replace(self, last=at)
        ended = replace(held, end=end, reason=f"revoked from index {end}")
        return replace(self, last=at, tenures=MappingProxyType({**self.tenures, key_id: ended}))

    def remove(self, identity: str, *, at: int) -> KeyHistory:
        """Return the history in which a member left: all its keys end at ``at``.

        Raises:
            SignatureError: the leaf is not after the last one.
            UnknownKeyError: no such member.
        """
        self._after(at)
        if self._latest(identity) is None:
            raise UnknownKeyError(f"no member {identity}", where=f"federation {self.federation}")
        tenures = self._ended(identity, frozenset(), at, f"its member left at index {at}")
        return replace(self, last=at, tenures=MappingProxyType(tenures))

    def key(self, identity: str, use: KeyUse, key_id: str, *, at: int) -> VerifyingKey | SealingKey:
        """Return the key ``key_id`` if ``identity`` may use it for ``use`` at index ``at``.

        Raises:
            UnknownKeyError: never named for this identity and use, or not yet at ``at``.
            RevokedKeyError: it was replaced, revoked or removed at or before ``at``.
        """
        held = self.tenures.get(key_id)
        if held is None or (held.identity, held.use) != (identity, use) or at < held.start:
            raise UnknownKeyError(f"{identity} has no {use} key {key_id[:16]} at index {at}", where=f"index {at}")
        if not held.valid(at):
            raise RevokedKeyError(f"the {use} key {key_id[:16]} of {identity} was {held.reason}", where=f"index {at}")
        return held.key

    def current(self, identity: str, use: KeyUse, at: int) -> VerifyingKey | SealingKey:
        """Return the key that ``identity`` has for ``use`` at index ``at``.

        Raises:
            UnknownKeyError: none was named by then.
            RevokedKeyError: the last one was revoked and not replaced.
        """
        named = [
            held for held in self.tenures.values() if (held.identity, held.use) == (identity, use) and held.start <= at
        ]
        for held in named:
            if held.valid(at):
                return held.key
        if not named:
            raise UnknownKeyError(f"{identity} has no {use} key at index {at}", where=f"index {at}")
        last = max(named, key=lambda held: held.start)
        raise RevokedKeyError(f"the {use} key of {identity} was {last.reason}", where=f"index {at}")

    def statement(self, identity: str, at: int) -> Signed[KeyStatement]:
        """Return the statement of ``identity`` in force at index ``at``.

        Raises:
            UnknownKeyError: none was logged by then.
        """
        for start, signed in reversed(self.statements):
            if signed.document.identity == identity and start <= at:
                return signed
        raise UnknownKeyError(f"{identity} has no key statement at index {at}", where=f"index {at}")

    def foreign(self, identity: str, own_key_ids: frozenset[str]) -> tuple[Signed[KeyStatement], ...]:
        """Return the statements that name ``identity`` with a key that it did not make: stop, and keep the evidence."""
        return tuple(
            signed
            for _, signed in self.statements
            if signed.document.identity == identity and not signed.document.key_ids <= own_key_ids
        )

    def _after(self, at: int) -> None:
        if at <= self.last:
            raise SignatureError(f"leaf {at} comes after leaf {self.last}", where="key history")

    def _latest(self, identity: str) -> Signed[KeyStatement] | None:
        found = (signed for _, signed in reversed(self.statements) if signed.document.identity == identity)
        return next(found, None)

    def _able(self, at: int) -> frozenset[str]:
        return frozenset(held.identity for held in self.tenures.values() if held.use == "sign" and held.valid(at))

    def _enrol(self, statement: Signed[KeyStatement], at: int) -> KeyHistory:
        document = statement.document
        where = f"enrolment of {document.identity}"
        if document.federation != self.federation:
            raise SignatureError(f"made for federation {document.federation!r}", where=where)
        if document.serial != 1 or statement.key_id != document.sign.key_id:
            raise SignatureError("not a first statement, signed by its own key", where=where)
        if self._latest(document.identity) is not None:
            raise SignatureError("this member has keys already", where=where, remedy="Rotate or recover them.")
        return self._replace(statement, at, frozenset(), "")

    def _follows(self, statement: Signed[KeyStatement]) -> None:
        document = statement.document
        latest = self._latest(document.identity)
        if latest is None:
            raise UnknownKeyError(f"{document.identity} has no keys here", where=f"federation {self.federation}")
        if document.federation != self.federation or document.log_origin != latest.document.log_origin:
            raise SignatureError("made for another federation or log", where=f"keys of {document.identity}")
        if (document.serial, document.previous) != (latest.document.serial + 1, latest.digest):
            raise SignatureError(
                f"serial {document.serial} does not follow the current statement, serial {latest.document.serial}",
                where=f"keys of {document.identity}",
            )

    def _replace(self, statement: Signed[KeyStatement], at: int, kept: frozenset[str], reason: str) -> KeyHistory:
        document = statement.document
        tenures = self._ended(document.identity, kept, at, reason)
        for entry in document.keys:
            key = entry.key
            held = tenures.get(key.key_id)
            if held is None:
                self._require_unowned(document.identity, key)
                tenures[key.key_id] = Tenure(document.identity, entry.use, key, at)
            elif (held.identity, held.use) != (document.identity, entry.use):
                raise WeakKeyError(
                    f"the {entry.use} key of {document.identity} is the {held.use} key of {held.identity}",
                    where=f"index {at}",
                )
            elif not held.valid(at):
                raise RevokedKeyError(f"a key that was {held.reason} comes back", where=f"index {at}")
        statements = (*self.statements, (at, statement))
        return replace(self, last=at, statements=statements, tenures=MappingProxyType(tenures))

    def _require_unowned(self, identity: str, key: VerifyingKey | SealingKey) -> None:
        # The name of a key covers its algorithm, so the bytes are compared too.
        for held in self.tenures.values():
            if held.key.public == key.public:
                raise WeakKeyError(f"a key of {identity} is already the {held.use} key of {held.identity}")

    def _ended(self, identity: str, kept: frozenset[str], at: int, reason: str) -> dict[str, Tenure]:
        return {
            name: replace(held, end=at, reason=reason)
            if held.identity == identity and name not in kept and held.valid(at)
            else held
            for name, held in self.tenures.items()
        }
