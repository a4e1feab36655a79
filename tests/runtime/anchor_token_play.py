"""Scenes of an anchor on SoftHSM2, each in a process of its own: the library reads its settings once per process.

``anchor_token_play SCENE MODULE FOLDER`` prints ``fine`` if all went as it should.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from counterseal.privacy.errors import AnchorError, RollbackError
from counterseal.privacy.ledger.anchor import Mark
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.runtime.anchors.pkcs11 import Pkcs11Anchor
from counterseal.tests.privacy.ledger_world import Place, order, ticket
from counterseal.trust.keys.passphrase import Passphrase
from counterseal.trust.keys.token import Token

PIN = b"1234-pin"
MARKS = [Mark("a" * 64, number, f"{number:064x}") for number in range(6)]
OTHER = Mark("a" * 64, 2, "f" * 64)


@contextmanager
def refused(kind: type[Exception], words: str) -> Iterator[None]:
    """See that the body is refused."""
    try:
        yield
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")


def moves(token: Token, folder: Path) -> None:
    """The mark moves from where it was and nowhere else, and one object is left."""
    anchor = Pkcs11Anchor(token, "moves")
    assert anchor.read() is None
    anchor.advance(MARKS[1], None)
    anchor.advance(MARKS[2], MARKS[1])
    for previous in (None, MARKS[1], MARKS[3]):
        with refused(RollbackError, "has moved"):
            anchor.advance(MARKS[4], previous)
    assert anchor.read() == MARKS[2] == Pkcs11Anchor(token, "moves").read()
    assert Pkcs11Anchor(token, "other").read() is None
    with token.session() as session:
        assert len(anchor._marks(session)) == 1
    assert "token 'officer'" in anchor.place


def crashes(token: Token, folder: Path) -> None:
    """A crash after the new object and before the old one goes: the higher counter is the mark, and it goes on."""
    anchor = Pkcs11Anchor(token, "crashes")
    anchor.advance(MARKS[1], None)
    with token.session() as session:
        anchor._make(session, MARKS[2])
    assert anchor.read() == MARKS[2]
    anchor.advance(MARKS[3], MARKS[2])
    with token.session() as session:
        assert [mark for mark, _ in anchor._marks(session)] == [MARKS[3]]


def races(token: Token, folder: Path) -> None:
    """Another ledger makes its object between our look and ours: ours is taken away, and theirs stays."""
    for number, theirs in enumerate((OTHER, MARKS[3], MARKS[2])):
        anchor = Pkcs11Anchor(token, f"races-{number}")
        anchor.advance(MARKS[1], None)
        make = anchor._make

        def both(session: Any, mark: Mark, make: Callable[..., Any] = make, theirs: Mark = theirs) -> Any:
            make(session, theirs)
            return make(session, mark)

        anchor._make = both  # type: ignore[method-assign]
        if theirs == MARKS[2]:  # the very same mark is no other ledger
            anchor.advance(MARKS[2], MARKS[1])
        else:
            with refused(RollbackError, "has moved"):
                anchor.advance(MARKS[2], MARKS[1])
        assert anchor.read() == theirs


def heads(token: Token, folder: Path) -> None:
    """Two heads at one counter, or marks of two ledgers: refused."""
    for number, other in enumerate((OTHER, Mark("b" * 64, 1, "c" * 64))):
        anchor = Pkcs11Anchor(token, f"heads-{number}")
        with token.session() as session:
            anchor._make(session, MARKS[2])
            anchor._make(session, other)
        with refused(RollbackError, "two heads"):
            anchor.read()


def private(token: Token, folder: Path) -> None:
    """Nobody sees it without the PIN, and nobody changes it in its place."""
    import pkcs11

    anchor = Pkcs11Anchor(token, "private")
    anchor.advance(MARKS[1], None)
    with token.session() as session:
        ((_, item),) = anchor._marks(session)
        assert item[pkcs11.Attribute.PRIVATE] and item[pkcs11.Attribute.TOKEN]
        with refused(pkcs11.PKCS11Error, ""):
            item[pkcs11.Attribute.VALUE] = MARKS[0].to_bytes()


def foreign(token: Token, folder: Path) -> None:
    """Something else under its name, and a token that was pulled out."""
    import pkcs11

    anchor = Pkcs11Anchor(token, "foreign")
    with token.session() as session:
        template = {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.DATA,
            pkcs11.Attribute.LABEL: "foreign",
            pkcs11.Attribute.VALUE: b"hello",
            pkcs11.Attribute.TOKEN: True,
        }
        session.create_object(template)
    with refused(AnchorError, "not a mark"):
        anchor.read()
    gone = Pkcs11Anchor(token, "gone")

    def pulled(session: Any) -> Any:
        raise pkcs11.exceptions.DeviceRemoved

    gone._marks = pulled  # type: ignore[method-assign]
    with refused(AnchorError, "DeviceRemoved"):
        gone.read()


def ledger(token: Token, folder: Path) -> None:
    """A restored ledger and a clone are refused."""
    place, anchor = Place(folder / "ledger"), Pkcs11Anchor(token, "ledger")
    used = place.founded(anchor)
    used.reserve_run(order())
    older = place.copy("older.sqlite")
    used.reserve(ticket(1))
    Ledger.open(place.copy("clone.sqlite"), Pkcs11Anchor(token, "ledger")).reserve(ticket(2))
    with refused(RollbackError, "old copy"):
        used.reserve(ticket(2))
    place.restore(older)
    with refused(RollbackError, "old copy"):
        place.open(anchor)


def configured(token: Token, folder: Path) -> None:
    """From configuration to ledger; a wrong PIN says so and shows nothing."""
    from counterseal.runtime.anchors.opening import open_anchor
    from counterseal.runtime.config.ledger import LedgerConfig, Pkcs11AnchorConfig

    pin = folder / "pin"
    pin.touch(0o600)
    pin.write_bytes(PIN)
    named = Pkcs11AnchorConfig(kind="pkcs11", module=token.module, token=token.label, pin_file=pin, label="configured")
    anchor = open_anchor(LedgerConfig(path=folder / "l.sqlite", anchor=named))
    assert isinstance(anchor, Pkcs11Anchor) and anchor.read() is None
    anchor.advance(MARKS[1], None)
    assert Pkcs11Anchor(token, "configured").read() == MARKS[1]


SCENES: dict[str, Callable[[Token, Path], None]] = {
    scene.__name__: scene for scene in (moves, crashes, races, heads, private, foreign, ledger, configured)
}


if __name__ == "__main__":
    SCENES[sys.argv[1]](Token.open(Path(sys.argv[2]), "officer", Passphrase(PIN)), Path(sys.argv[3]))
    print("fine")
