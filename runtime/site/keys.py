"""The keys as a site knows them: the charter's, changed by the governing leaves that it was shown, one after the other.

What a site was shown it keeps, and rebuilds its view from it at every start. A server that withholds a governing leaf leaves
the site with an older view. That is NOT COVERED by the site alone (an auditor who reads the whole log sees it), except that
a revocation of its own key is demanded (`outbox`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...audit.events import Event, KeyRevoke, KeyRotate, peek_event
from ...audit.governance import follow
from ...trust.dsse import read
from ...trust.errors import MalformedError, UnloggedTicketError
from ...trust.identifiers import sha256
from ...trust.keys.validity import KeyHistory
from ..journal import Journal
from ..parties import Parties

__all__ = ["Governing", "named_objects", "remember", "rebuild"]


@dataclass(frozen=True, slots=True)
class Governing:
    """A proven leaf that changes keys, with the messages that it names."""

    index: int
    leaf: str
    objects: tuple[str, ...]

    def follow(self, keys: Parties) -> KeyHistory:
        """Return the keys after this leaf.

        Raises:
            TrustError: the messages do not carry the change.
            UnloggedTicketError: one of them was not delivered.
        """
        objects = {sha256(read(text.encode()).payload): text.encode() for text in self.objects}
        event = peek_event(self.leaf.encode())
        try:
            return follow(keys.history, event, at=self.index, charter=keys.charter, objects=objects)
        except LookupError as error:
            raise UnloggedTicketError(
                f"the delivery lacks what a leaf names: {error}", where=f"leaf {self.index}"
            ) from None


def named_objects(event: Event, objects: Sequence[str]) -> tuple[str, ...]:
    """Return those of the delivery's ``objects`` that ``event`` names."""
    names = set(event.messages) if isinstance(event, KeyRevoke) else set()
    if isinstance(event, KeyRotate):
        names = {event.statement}
    found = []
    for text in objects:
        try:
            if sha256(read(text.encode()).payload) in names:
                found.append(text)
        except MalformedError:
            continue  # a schema, which is no envelope
    return tuple(found)


def remember(journal: Journal, governing: Sequence[Governing]) -> None:
    """Keep governing leaves for the next start."""
    for one in governing:
        value = {"index": one.index, "leaf": one.leaf, "objects": list(one.objects)}
        journal.put(f"governance/{one.index:016d}", value)


def rebuild(journal: Journal, parties: Parties) -> None:
    """Bring ``parties`` up to what this site was shown."""
    for _, value in journal.items("governance/"):
        one = Governing(value["index"], value["leaf"], tuple(value["objects"]))
        parties.history = one.follow(parties)
