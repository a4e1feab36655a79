"""An anchor on a PKCS#11 token: a data object (``CKO_DATA``) that holds the mark.

A token has no compare-and-swap. So the mark moves by making the new object first, then looking: if any other object is there
than the one it came from (and older ones that a crash left), another ledger was faster; the new object is taken away again
and the ledger refused. Only then the old objects are destroyed. A crash in between leaves two; the higher counter is the mark.

Private (``CKA_PRIVATE``): only who has the PIN can change it. Whoever has the PIN and an old copy of the ledger's file can take
both back; keep them apart. PKCS#11 also knows monotonic counters (``CKO_HW_FEATURE``, ``CKH_MONOTONIC_COUNTER``), which nobody
could turn back. SoftHSM2 has none, nor have most tokens that are sold, so this is not built: it could not be tested.

The session is the one of `trust.keys.token`, as a login belongs to a process. Not handled: copies of a software token's folder,
which can be restored like any folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...privacy.errors import AnchorError, RollbackError
from ...privacy.ledger.anchor import Mark, moved
from ...trust.errors import CustodyError
from ...trust.keys.token import Token

__all__ = ["Pkcs11Anchor"]

_APPLICATION = "counterseal"


class Pkcs11Anchor:
    """The anchor in the data object ``label`` of ``token``."""

    def __init__(self, token: Token, label: str = "counterseal-ledger") -> None:
        self._token = token
        self._label = label

    @property
    def place(self) -> str:
        """The token, and the object on it."""
        return f"token {self._token.label!r}, data object {self._label!r}"

    def read(self) -> Mark | None:
        """See `Anchor.read`."""
        with self._session() as session:
            return self._newest(self._marks(session))

    def advance(self, mark: Mark, previous: Mark | None) -> None:
        """See `Anchor.advance`."""
        with self._session() as session:
            if self._newest(self._marks(session)) != previous:
                raise moved(self.place)
            made = self._make(session, mark)
            found = self._marks(session)
            if any(other not in (mark, previous) and not _older(other, previous) for other, _ in found):
                made.destroy()
                raise moved(self.place)
            for other, item in found:
                if other != mark:
                    item.destroy()

    def _marks(self, session: Any) -> list[tuple[Mark, Any]]:
        from pkcs11 import Attribute, ObjectClass

        wanted = {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: self._label}
        found = list(session.get_objects(wanted))
        return [(Mark.parse(bytes(item[Attribute.VALUE]), self.place), item) for item in found]

    def _make(self, session: Any, mark: Mark) -> Any:
        from pkcs11 import Attribute, ObjectClass

        return session.create_object(
            {
                Attribute.CLASS: ObjectClass.DATA,
                Attribute.LABEL: self._label,
                Attribute.APPLICATION: _APPLICATION,
                Attribute.VALUE: mark.to_bytes(),
                Attribute.TOKEN: True,
                Attribute.PRIVATE: True,
                Attribute.MODIFIABLE: False,
            }
        )

    def _newest(self, found: list[tuple[Mark, Any]]) -> Mark | None:
        if not found:
            return None
        highest = max(mark.counter for mark, _ in found)
        newest = {mark for mark, _ in found if mark.counter == highest}
        if len(newest) != 1 or len({mark.ledger for mark, _ in found}) != 1:
            raise RollbackError(
                "two heads at one counter",
                where=self.place,
                remedy="Two copies of a ledger were used at once. Stop one for ever, and destroy its object with the token's "
                "tool.",
            )
        return newest.pop()

    @contextmanager
    def _session(self) -> Iterator[Any]:
        try:
            with self._token.session() as session:
                yield session
        except CustodyError as error:
            raise AnchorError(error.what, where=self.place, remedy="Nothing is released before it answers.") from None


def _older(mark: Mark, previous: Mark | None) -> bool:
    return previous is not None and mark.counter < previous.counter
