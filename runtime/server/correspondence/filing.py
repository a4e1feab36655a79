"""Filing: what members say between rounds becomes leaves, if their own signatures carry it.

Messages come in the outbox of a receipt or by hand, as files in ``<state>/mailbox/inbox``. A revocation by the member itself
takes effect with the receipt that brought it: both leaves are appended in one batch, the receipt first (it may be the last
word of the key that it revokes). Revocations by others are counted until they are enough. A rotation needs nothing but the
member's previous key. Evidence is kept beside the log and named by a leaf. Other kinds are kept for people.

A leaf is journaled before it is appended; `Filing.open` appends what a crash left behind and rebuilds the keys from the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ....audit.events import Event, EvidenceEquivocation, KeyRevoke, KeyRotate, peek_event
from ....audit.governance import GOVERNING, follow, open_revocation, open_rotation
from ....errors import CountersealError
from ....trust import dsse
from ....trust.charter.votes import approve_revocation
from ....trust.documents import Signed, sign
from ....trust.identifiers import sha256
from ....trust.keys.signing import Signer
from ....trust.mailbox import Mailbox, keys_at
from ....trust.messages import Evidence, Message, Revocation, Rotation
from ...journal import Journal
from ...parties import Parties
from ..notary import Notary

__all__ = ["Filing"]

_log = logging.getLogger(__name__)


class Filing:
    """The server's end of the mailbox."""

    def __init__(
        self,
        notary: Notary,
        journal: Journal,
        parties: Parties,
        signer: Signer,
        mailbox: Mailbox,
        clock: Callable[[], int],
    ) -> None:
        self._notary = notary
        self._journal = journal
        self._parties = parties
        self._signer = signer
        self._mailbox = mailbox
        self._clock = clock

    @classmethod
    def open(
        cls, notary: Notary, journal: Journal, parties: Parties, signer: Signer, state: Path, clock: Callable[[], int]
    ) -> Filing:
        """Open the mailbox in ``state``, finish what a crash interrupted, and bring the keys up to the log's end."""
        mailbox = Mailbox(state / "mailbox", parties.charter.federation)
        filing = cls(notary, journal, parties, signer, mailbox, clock)
        leaves = {key.removeprefix("leaf/"): raw.encode() for key, raw in journal.items("leaf/governance/")}
        for index in sorted(notary.append_all(leaves).values()):
            filing._follow(index)
        return filing

    def indices(self, since: int, until: int) -> list[int]:
        """Return where the log changes keys, from ``since`` on and before ``until``."""
        found = [self._notary.index(raw.encode()) for _, raw in self._journal.items("leaf/governance/")]
        return sorted(index for index in found if since <= index < until)

    def objects(self, indices: Sequence[int]) -> tuple[str, ...]:
        """Return the messages that the governing leaves at ``indices`` name."""
        found: dict[str, str] = {}
        for index in indices:
            event = peek_event(self._notary.log.entry(index))
            names = event.messages if isinstance(event, KeyRevoke) else ()
            names = (event.statement,) if isinstance(event, KeyRotate) else names
            for name in names:
                found[name] = self._object(name).decode()
        return tuple(found.values())

    def carry(self, step: str, receipt: bytes, outbox: Sequence[bytes]) -> None:
        """Log a receipt and, in the same batch, what its outbox makes true."""
        leaves = {step: self._journal.once(f"leaf/{step}", lambda: receipt.decode()).encode()}
        for raw in outbox:
            leaves |= self._prepare(raw)
        self._append(leaves)

    def take_inbox(self) -> None:
        """Log what was carried here by hand."""
        resolver = keys_at(self._parties.history, self._notary.log.size)
        for received in self._mailbox.receive(resolver, now=self._clock()):
            self._append(self._prepare(received.message.raw))
            self._mailbox.finish(received)

    def _append(self, leaves: dict[str, bytes]) -> None:
        indices = self._notary.append_all(leaves)
        for step, index in sorted(indices.items(), key=lambda item: item[1]):
            if step.startswith("governance/"):
                self._follow(index)

    def _follow(self, index: int) -> None:
        event = peek_event(self._notary.log.entry(index))
        if index <= self._parties.history.last or not isinstance(event, GOVERNING):
            return
        names = event.messages if isinstance(event, KeyRevoke) else ()
        names = (event.statement,) if isinstance(event, KeyRotate) else names
        objects = {name: self._object(name) for name in names}
        self._parties.history = follow(
            self._parties.history, event, at=index, charter=self._parties.charter, objects=objects
        )

    def _object(self, digest: str) -> bytes:
        raw: str = self._journal.get(f"message/{digest}")
        return raw.encode()

    def _prepare(self, raw: bytes) -> dict[str, bytes]:
        """Return the leaf that a message makes, by its step, journaled; nothing if it makes none, or not yet."""
        try:
            kind = dsse.read(raw).kind
            made = {
                Revocation.KIND: self._revocation,
                Rotation.KIND: self._rotation,
                Evidence.KIND: self._evidence,
            }.get(kind, self._other)(raw)
        except CountersealError as error:
            _log.warning("a message was not filed: %s", error)
            return {}
        if made is None:
            return {}
        step, make = made
        leaf: str = self._journal.once(f"leaf/{step}", lambda: sign(make(), self._signer).raw.decode())
        return {step: leaf.encode()}

    def _revocation(self, raw: bytes) -> tuple[str, Callable[[], Event]] | None:
        at = self._notary.log.size
        vote = open_revocation(raw, self._parties.history, at=at)
        member, key = vote.document.member, vote.document.key
        self._keep(vote)
        self._journal.put(f"vote/{member}/{key}/{vote.document.identity}", vote.digest)
        votes = [
            open_revocation(self._object(digest), self._parties.history, at=at)
            for _, digest in self._journal.items(f"vote/{member}/{key}/")
        ]
        own = [one for one in votes if one.document.identity == member]
        counted = own or votes
        try:
            approve_revocation(self._parties.charter, counted)
        except CountersealError as error:
            _log.info("not enough words against a key of %s yet: %s", member, error)
            return None
        messages = tuple(one.digest for one in counted)
        return f"governance/revoke/{key}", partial(self._key_revoke, vote.document, messages)

    def _key_revoke(self, vote: Revocation, messages: tuple[str, ...]) -> Event:
        return KeyRevoke(**self._about(), identity=vote.member, key=vote.key, reason=vote.reason, messages=messages)

    def _rotation(self, raw: bytes) -> tuple[str, Callable[[], Event]] | None:
        envelope = dsse.read(raw)
        at, history = self._notary.log.size, self._parties.history
        message = self._open(Rotation, raw, envelope.key_id, at)
        statement = open_rotation(
            message.statement.encode(), history, at=at, charter=self._parties.charter, now=self._clock()
        )
        history.rotate(statement, at=max(at, history.last + 1))  # refuse here what every reader would refuse
        self._keep(statement)
        identity, digest = statement.document.identity, statement.digest
        return (
            f"governance/rotate/{digest}",
            lambda: KeyRotate(**self._about(), identity=identity, statement=digest),
        )

    def _evidence(self, raw: bytes) -> tuple[str, Callable[[], Event]] | None:
        message = self._open(Evidence, raw, dsse.read(raw).key_id, self._notary.log.size)
        first, second = (self._notary.keep(text.encode()) for text in (message.first, message.second))
        return (
            f"evidence/{sha256(raw)}",
            lambda: EvidenceEquivocation(
                **self._about(), identity=message.accused, what=f"two_{message.form}", first=first, second=second
            ),
        )

    def _other(self, raw: bytes) -> None:
        self._notary.keep(raw)

    def _open(self, kind: type[Any], raw: bytes, key_id: str, at: int) -> Any:
        from ....trust.documents import open_document, parse_document

        claimed: Message = parse_document(kind, dsse.read(raw).payload)
        resolve = keys_at(self._parties.history, at)
        return open_document(kind, raw, resolve(claimed.identity, key_id)).document

    def _keep(self, signed: Signed[Any]) -> None:
        self._journal.put(f"message/{signed.digest}", signed.raw.decode())
        self._notary.keep(signed.raw)

    def _about(self) -> dict[str, Any]:
        return {
            "federation": self._parties.charter.federation,
            "actor": self._parties.charter.server,
            "time": self._clock(),
        }
