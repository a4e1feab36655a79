"""Message files and the folders that they pass through.

A message is one DSSE file, ``<kind>.counterseal.json`` or ``<name>.<kind>.counterseal.json``; an enrolment is sealed
(`trust.enrolment`). Files come by hand, from the ``outbox`` of a receipt or from a put-once inbox URL: whoever can
write the inbox is nobody's friend. Obligations before a message is handed out:
 1. a regular file, no link, no larger than `LIMIT`, read once;
 2. kind in the file name = kind of the envelope, one that travels by mailbox; a plain enrolment is refused;
 3. this federation, a known key of the identity that it names, a signature that holds, a time not in the future.

A message is handed out until it is finished, then never again: its payload's digest is remembered in ``done``. A crash
between acting on a message and finishing it hands it out twice, so acting must be idempotent by digest. What fails
goes to ``refused`` with its reason code beside it, and the others are not held up. Names given by a peer are never
used for a path of ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..durable import Probe, create_file, make_folder, replace_file, silent, sync_folder
from . import dsse
from .charter.signing import CharterSignature
from .documents import Signed, open_document, parse_document
from .enrolment import OpenedEnrolment, SealedEnrolment
from .errors import MailboxError, TrustError, UnknownKeyError
from .identifiers import sha256
from .keys.signing import VerifyingKey
from .keys.validity import KeyHistory
from .messages import Approval, Enrolment, Evidence, Message, Quarantine, Recovery, Revocation, Rotation
from .strict_yaml import read_regular_file

__all__ = [
    "KINDS",
    "LIMIT",
    "Mailbox",
    "Opener",
    "Received",
    "Resolver",
    "file_name",
    "keys_at",
    "read_message",
    "write_message",
]

LIMIT: Final = 512 << 10
"""Bytes of the largest message: evidence holds two whole leaves."""

SKEW: Final = 300
"""Seconds that a sender's clock may be ahead of ours."""

KINDS: Final[dict[str, type[Message]]] = {
    model.KIND: model
    for model in (CharterSignature, Enrolment, Rotation, Recovery, Revocation, Approval, Quarantine, Evidence)
}
"""What travels by mailbox."""

Resolver: TypeAlias = Callable[[str, str], VerifyingKey]
"""(identity, key id) -> that identity's `sign` key, or `UnknownKeyError` / `RevokedKeyError`."""

Opener: TypeAlias = Callable[[bytes], OpenedEnrolment]
"""Opens a sealed enrolment: `open_enrolment` with the server's key and place filled in."""

_NAME = re.compile(r"(?:[a-z0-9][a-z0-9_-]{0,63}\.)?([a-z][a-z-]{0,39})\.counterseal\.json")
_MOST = 1000


def keys_at(history: KeyHistory, at: int) -> Resolver:
    """Return the resolver of the ``sign`` keys that are in force at index ``at`` of the log."""

    def resolve(identity: str, key_id: str) -> VerifyingKey:
        key = history.key(identity, "sign", key_id, at=at)
        if not isinstance(key, VerifyingKey):
            raise UnknownKeyError(f"{identity} has no sign key {key_id[:16]}")
        return key

    return resolve


def file_name(kind: str, name: str = "") -> str:
    """Return the file name of a message.

    Raises:
        MailboxError: no such kind, or a name that is not lower-case letters, digits, hyphens and underscores.
    """
    text = f"{name}.{kind}.counterseal.json" if name else f"{kind}.counterseal.json"
    match = _NAME.fullmatch(text)
    if kind not in KINDS or match is None or match[1] != kind:
        raise MailboxError(f"not a message name: {text[:100]!r}", where="mailbox")
    return text


def write_message(
    folder: Path, message: Signed[Any] | SealedEnrolment, name: str = "", *, probe: Probe = silent
) -> Path:
    """Write a message file, durably; the same file again is no error.

    Raises:
        MailboxError: not a message, an enrolment that is not sealed, or another message has that name.
    """
    if isinstance(message, SealedEnrolment):
        kind, data = Enrolment.KIND, message.to_bytes()
    else:
        kind, data = message.document.KIND, message.raw
        if kind == Enrolment.KIND:
            raise MailboxError("an enrolment is sealed before it is written", where="mailbox")
    path = folder / file_name(kind, name)
    try:
        create_file(path, data, step="mailbox.write", probe=probe)
    except FileExistsError:
        if read_regular_file(path, limit=LIMIT, what="message", follow=False) != data:
            raise MailboxError(
                "another message has that name", where=path.name, remedy="Give this one a name of its own."
            ) from None
    return path


def read_message(path: Path, resolver: Resolver, *, federation: str, now: int) -> Signed[Any]:
    """Return the verified message in the file at ``path``.

    Raises:
        MalformedError: not a regular file, too large, not an envelope, or not a document of its kind.
        MailboxError: wrong name, kind, federation or time; a sealed or a plain enrolment.
        SignatureError, UnknownKeyError, RevokedKeyError: the author's key.
        OSError: it cannot be read.
    """
    kind, raw = _read_file(path)
    if kind == Enrolment.KIND:
        raise MailboxError(
            "an enrolment is opened with the server's key", where=path.name, remedy="Use open_enrolment."
        )
    return _verify(kind, raw, resolver, federation, now)


@dataclass(frozen=True, slots=True)
class Received:
    """A verified message that waits to be acted upon; ``opened`` for enrolments only."""

    path: Path
    message: Signed[Any]
    opened: OpenedEnrolment | None = None

    @property
    def kind(self) -> str:
        """The message's kind."""
        kind: str = self.message.document.KIND
        return kind


class Mailbox:
    """The four folders of one party in one federation: inbox, outbox, done, refused. One process uses it at a time."""

    def __init__(self, folder: Path, federation: str, *, probe: Probe = silent) -> None:
        self._federation = federation
        self._probe = probe
        self.inbox, self.outbox, self.done, self.refused = (
            make_folder(folder / name, 0o700) for name in ("inbox", "outbox", "done", "refused")
        )

    def post(self, message: Signed[Any] | SealedEnrolment, name: str = "") -> Path:
        """Put a message into the outbox; it keeps its place until somebody carries it away."""
        return write_message(self.outbox, message, name, probe=self._probe)

    def receive(self, resolver: Resolver, *, now: int, opener: Opener | None = None) -> tuple[Received, ...]:
        """Return the messages that wait, each once, in the order of their file names; refuse the bad ones.

        Without ``opener`` (every party but the server) enrolments are refused.
        """
        found: dict[str, Received] = {}
        for path in self._waiting():
            try:
                received = self._read(path, resolver, now, opener)
            except TrustError as error:
                self._refuse(path, error.code)
            except FileNotFoundError:
                continue  # carried away while we looked
            except OSError:
                self._refuse(path, "unreadable")
            else:
                if self._done_path(received).exists():
                    self._drop(path)
                elif received.message.digest not in found:
                    found[received.message.digest] = received
        return tuple(found.values())

    def finish(self, received: Received) -> None:
        """Remember that a message was acted upon; what is kept of an enrolment holds no token."""
        replace_file(self._done_path(received), received.message.raw, step="mailbox.finish", probe=self._probe)
        self._drop(received.path)

    def is_done(self, digest: str) -> bool:
        """Whether a message with this payload digest was finished."""
        return any(True for _ in self.done.glob(f"{digest}.*"))

    def _waiting(self) -> Iterator[Path]:
        names = sorted(entry.name for entry in os.scandir(self.inbox) if not entry.name.startswith("."))
        return (self.inbox / name for name in names[:_MOST])

    def _read(self, path: Path, resolver: Resolver, now: int, opener: Opener | None) -> Received:
        kind, raw = _read_file(path)
        if kind != Enrolment.KIND:
            return Received(path, _verify(kind, raw, resolver, self._federation, now))
        if opener is None:
            raise MailboxError("an enrolment at a party that is not the server", where=path.name)
        opened = opener(raw)
        _check(opened.enrolment.document, self._federation, now)
        return Received(path, opened.enrolment, opened)

    def _done_path(self, received: Received) -> Path:
        return self.done / f"{received.message.digest}.{received.kind}.counterseal.json"

    def _refuse(self, path: Path, code: str) -> None:
        # Our name, not the sender's; the reason first, so that no refused file is without one.
        stem = sha256(os.fsencode(path.name))[:16] + "-" + os.urandom(4).hex()
        replace_file(self.refused / f"{stem}.reason", f"{code}\n".encode(), step="mailbox.reason", probe=self._probe)
        self._probe("mailbox.refuse.move")
        path.rename(self.refused / f"{stem}.refused")
        sync_folder(self.refused)
        sync_folder(self.inbox)
        self._probe("mailbox.refuse.done")

    def _drop(self, path: Path) -> None:
        self._probe("mailbox.drop.unlink")
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
        self._probe("mailbox.drop.done")


def _read_file(path: Path) -> tuple[str, bytes]:
    match = _NAME.fullmatch(path.name)
    if match is None or match[1] not in KINDS:
        raise MailboxError("not the name of a message file", where=ascii(path.name)[:100])
    return match[1], read_regular_file(path, limit=LIMIT, what="message", follow=False)


def _verify(kind: str, raw: bytes, resolver: Resolver, federation: str, now: int) -> Signed[Any]:
    envelope = dsse.read(raw, limit=LIMIT)
    if envelope.kind != kind:
        raise MailboxError(f"the file's name says {kind}, the envelope {envelope.kind}", where="mailbox")
    model = KINDS[kind]
    claimed = parse_document(model, envelope.payload)
    _check(claimed, federation, now)
    return open_document(model, raw, resolver(claimed.identity, envelope.key_id), limit=LIMIT)


def _check(message: Message, federation: str, now: int) -> None:
    if message.federation != federation:
        raise MailboxError(f"addressed to the federation {message.federation}", where="mailbox")
    if message.time > now + SKEW:
        raise MailboxError(f"its time {message.time} is in the future", where="mailbox")
