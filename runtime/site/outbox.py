"""What a site's people have to say, carried to the log in the next receipt.

    <state>/mailbox/outbox/*.counterseal.json     written by `counterseal keys revoke`, `keys rotate`, ...

A receipt names the messages by digest and the answer carries them. They are sent again if the ticket that carried them
expires, and a revocation of the site's own key that went out with a settled receipt must be in the log: else the site
refuses to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...durable import make_folder
from ...errors import CountersealError
from ...trust import dsse
from ...trust.canonical import parse
from ...trust.documents import parse_document
from ...trust.identifiers import sha256
from ...trust.keys.validity import KeyHistory
from ...trust.messages import Revocation, Rotation
from ..errors import UnsettledError
from ..journal import Journal
from .settlement import Settlement

__all__ = ["Outbox", "Posted"]

_log = logging.getLogger(__name__)

_MOST = 8
"""Messages in one answer."""
_LIMIT = 1 << 18


@dataclass(frozen=True, slots=True)
class Posted:
    """A message on its way."""

    digest: str
    raw: str


class Outbox:
    """The site's end of the mailbox."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._folder = make_folder(folder / "mailbox" / "outbox", 0o700)
        self._journal = journal

    def collect(self, ticket: str) -> tuple[Posted, ...]:
        """Take up to eight messages for the receipt of ``ticket``: new ones, and those whose ticket expired."""
        posted = list(self.carried(ticket))  # an earlier life's: the receipt that names them was not signed yet
        again = [(key, value) for key, value in self._journal.items("sent/") if value["state"] == "again"]
        posted += [Posted(key.removeprefix("sent/"), value["raw"]) for key, value in again][: _MOST - len(posted)]
        for path in sorted(self._folder.glob("*.counterseal.json")):
            if len(posted) < _MOST and (one := self._read(path)) is not None:
                posted.append(one)
        self._journal.put_many(
            {f"sent/{one.digest}": {"raw": one.raw, "ticket": ticket, "state": "sent"} for one in posted}
        )
        for path in sorted(self._folder.glob("*.counterseal.json")):
            one = self._read(path, known=True)
            if one is not None and self._journal.get(f"sent/{one.digest}") is not None:
                path.unlink()
        return tuple(posted)

    def carried(self, ticket: str) -> tuple[Posted, ...]:
        """Return the messages that went out with the receipt of ``ticket``."""
        return tuple(
            Posted(key.removeprefix("sent/"), value["raw"])
            for key, value in self._journal.items("sent/")
            if value["ticket"] == ticket
        )

    def own_statements(self) -> frozenset[str]:
        """Return the digests of the key statements that this site sent as rotations: keys that it made."""
        found = set()
        for _, value in self._journal.items("sent/"):
            message = _message(value["raw"].encode())
            if isinstance(message, Rotation):
                found.add(sha256(dsse.read(message.statement.encode()).payload))
        return frozenset(found)

    def confirm(self, settlements: Sequence[Settlement], history: KeyHistory, identity: str) -> None:
        """Take note of what the log did with the messages of settled tickets.

        Raises:
            UnsettledError: a revocation of this site's own key was filed with a receipt, and is not in the log.
        """
        for settlement in settlements:
            for one in self.carried(settlement.ticket):
                message = _message(one.raw.encode())
                expired = settlement.fate == "expired"
                if not expired and isinstance(message, Revocation) and message.member == identity:
                    _require_revoked(message, history)
                state = "again" if expired else "confirmed"
                self._journal.put(f"sent/{one.digest}", {"raw": one.raw, "ticket": settlement.ticket, "state": state})

    def _read(self, path: Path, *, known: bool = False) -> Posted | None:
        try:
            if path.is_symlink() or path.stat().st_size > _LIMIT:
                raise ValueError("not a plain file of a message's size")
            raw = path.read_bytes()
            digest = sha256(dsse.read(raw, limit=_LIMIT).payload)
        except (CountersealError, OSError, ValueError) as error:
            _log.warning("left in the outbox: %s (%s)", path.name, error)
            return None
        if not known and self._journal.get(f"sent/{digest}") is not None:
            return None
        return Posted(digest, raw.decode())


def _message(raw: bytes) -> Revocation | Rotation | None:
    envelope = dsse.read(raw, limit=_LIMIT)
    kinds: dict[str, type[Revocation] | type[Rotation]] = {Revocation.KIND: Revocation, Rotation.KIND: Rotation}
    if envelope.kind not in kinds:
        return None
    parse(envelope.payload, what=envelope.kind)
    return parse_document(kinds[envelope.kind], envelope.payload)


def _require_revoked(message: Revocation, history: KeyHistory) -> None:
    held = history.tenures.get(message.key)
    if held is None or held.end is None:
        raise UnsettledError(
            "the log holds this site's receipt without the revocation that was filed with it",
            where=f"key {message.key[:16]}",
            remedy="The server must log the revocation; tell the other members if it does not.",
        )
