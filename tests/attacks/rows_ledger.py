"""What restored backups, lost anchors, failures and power cuts can do to a site's ledger (P4)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from counterseal.errors import CountersealError
from counterseal.privacy.errors import UnsupportedModelError
from counterseal.privacy.ledger.path_anchor import PathAnchor
from counterseal.runtime.site.steward import Steward
from counterseal.runtime.site.work import Workshop
from counterseal.runtime.training.seam import Arrays, SiteData

from ..federation import data_of
from .private_play import PowerCutError, comparable, hooked, require_end
from .private_world import PrivateWorld, heard, private_worlds
from .table import Row
from .world import ME, answer_of, kind_of

__all__ = ["LEDGER"]


def old_state() -> str:
    """Put site-a's folder back to before its release, and ask for the same ticket again."""
    with private_worlds() as world:
        before = world.kept("before")
        assert world.hand(world.delivery) == "accepted"
        after = world.kept("after")
        world.restore(before, ME)
        head = world.ledger().head
        code = world.hand(world.delivery)
        assert (world.ledger().head, world.drawn()) == (head, 3)
        world.restore(after, ME)
        require_end(world, world.told(), (0, 1, 2), drawn=3)
        return code


def old_ledger() -> str:
    """Put the ledger back to before a release; its anchor lies elsewhere; the site is started again."""
    with private_worlds() as world:
        before = world.kept("before")
        assert world.hand(world.delivery) == "accepted"
        after = world.kept("after")
        world.restore(before, "ledgers")
        code = ""
        try:
            world.hand(world.delivery)
        except CountersealError as error:
            code = error.code
        world.restore(after, "ledgers")
        require_end(world, world.told(), (0, 1, 2), drawn=3)
        return code


def old_ledger_under_a_living_site(*places: str) -> Callable[[], str]:
    """The same while the site's process lives: it remembers what it wrote, whatever became of the anchor."""

    def play() -> str:
        with private_worlds("train-1") as world:
            before, codes, after = world.kept("before"), list[str](), list[Path]()

            def meddle(site: str, delivery: bytes) -> bytes:
                if (site, kind_of(delivery)) == (ME, ("train", 2)) and not after:
                    after.append(world.kept("after"))
                    world.restore(before, *places)
                return delivery

            def answers(site: str, raw: bytes) -> bytes:
                if after and site == ME and not codes:
                    codes.append("heard")
                    world.restore(after[0], "ledgers", "anchors")
                return raw

            told = world.told(meddle=meddle, answers=answers)
            require_end(world, told, (0, 1), drawn=2)
            return told.codes[1]

    return play


def anchor_away() -> str:
    """Unmount the anchor's disk: nothing is decided; the same ticket is served later, and paid for once."""
    with private_worlds() as world:
        with world.federation.site(ME) as site:
            (world.folder / "anchors").rename(world.folder / "away")
            raw = site.handle(world.delivery)
            facts = world.facts()
            (world.folder / "away").rename(world.folder / "anchors")
        assert f"receipt/{world.ticket}" not in facts
        assert world.drawn() == 2
        require_end(world, world.told(), (0, 1, 2), drawn=3)
        return answer_of(raw)


def anchor_refuses() -> str:
    """Let the anchor fail after the entry is on the disk: paid for, not released; the same ticket is served later."""
    with private_worlds() as world:
        with world.federation.site(ME) as site, patch.object(PathAnchor, "advance", _unmounted):
            raw = site.handle(world.delivery)
        assert f"receipt/{world.ticket}" not in world.facts()
        assert world.ledger().ticket(world.ticket) is not None
        require_end(world, world.told(), (0, 1, 2), drawn=3)
        return answer_of(raw)


def _unmounted(anchor: PathAnchor, mark: Any, previous: Any) -> None:
    with anchor._answering():
        raise OSError(5, "Input/output error")


def damaged_ledger() -> str:
    """Change one byte of an entry in the ledger's file before the site is started again."""
    with private_worlds() as world:
        kept, path = world.kept(), world.folder / "ledgers" / ME / "ledger.sqlite"
        with closing(sqlite3.connect(path)) as table:
            table.execute("DROP TRIGGER entries_hold")
            table.execute("UPDATE entries SET entry = CAST(replace(entry, '50', '99') AS BLOB) WHERE counter = 2")
            table.commit()
        code = ""
        try:
            world.hand(world.delivery)
        except CountersealError as error:
            code = error.code
        world.restore(kept, "ledgers")
        require_end(world, world.told(), (0, 1, 2), drawn=3)
        return code


def garbage_ledger() -> str:
    """Overwrite the ledger's file under a living site."""
    with private_worlds() as world:
        kept, path = world.kept(), world.folder / "ledgers" / ME / "ledger.sqlite"
        with world.federation.site(ME) as site:
            path.write_bytes(b"not a ledger" * 1000)
            raw = site.handle(world.delivery)
        world.restore(kept, "ledgers")
        require_end(world, world.told(), (0, 1, 2), drawn=3)
        return answer_of(raw)


SECRET = "Alexis Zorbas has cholera"


def failing(fail: Callable[[int], None], data: Callable[[], SiteData] = lambda: data_of(ME)) -> Callable[[], str]:
    """Let training fail after data was touched: the full release is paid, and one code says nothing of why."""

    def play() -> str:
        with private_worlds() as world, heard() as lines:
            world.federation.settings[ME] = hooked(fail, data())
            raw, receipt = world.answer(world.delivery)
            assert receipt is not None
            assert (receipt.outcome, receipt.manifest, receipt.metrics) == ("failed", None, None)
            assert (
                receipt.spending is not None and receipt.spending.epsilon
            )  # it costs like a release, and that is said
            known = world.ledger().ticket(world.ticket)
            assert known is not None
            assert known.outcome == "failed"
            told = world.told()
            require_end(world, told, (0, 1), drawn=3)
            everything = [raw, *(str(event).encode() for event in told.log), *(line.encode() for line in lines)]
            everything += [path.read_bytes() for path in world.folder.rglob("*") if path.is_file()]
            words = (b"Zorbas", b"cholera", b"not finite", b"MemoryError: ")
            assert not [word for word in words for text in everything if word in text]
            return answer_of(raw)

    return play


def _raises(error: BaseException) -> Callable[[int], None]:
    def fail(version: int) -> None:
        raise error

    return fail


def with_nan() -> SiteData:
    """Site-a's data, with one number that is none."""
    data = data_of(ME)
    x = data.train.x.copy()
    x[0, 0] = np.nan
    return SiteData(Arrays(x, data.train.y), data.test)


def told_apart() -> str:
    """Compare the receipts of a NaN, of an exception that quotes the data, and of an exhausted memory, word by word."""
    found = []
    for fail, data in ((_nothing, with_nan()), (_raises(ValueError(SECRET)), None), (_raises(MemoryError()), None)):
        with private_worlds() as world:
            world.federation.settings[ME] = hooked(fail, data)
            _, receipt = world.answer(world.delivery)
            found.append(comparable(receipt))
    assert found[0] == found[1] == found[2]
    return str(found[0]["reason"])


def _nothing(version: int) -> None:
    pass


class Mortal:
    """A site whose process ends at a power cut, and is started again."""

    def __init__(self, world: PrivateWorld, site: Any) -> None:
        self._world = world
        self._site = site

    def handle(self, delivery: bytes) -> bytes:
        """Answer; in the next life if need be."""
        try:
            raw: bytes = self._site.handle(delivery)
        except PowerCutError:
            self._site.close()
            with self._world.federation.site(ME) as reborn:
                raw = reborn.handle(delivery)
            self._site = self._world.federation.site(ME)
        return raw

    def close(self) -> None:
        """End this life."""
        self._site.close()


def cut(owner: Any, name: str, *, after: bool = False) -> Callable[[], str]:
    """Cut the power at site-a's first call of a method, before or after its work, while it is about its third ticket."""
    honest, struck, played = getattr(owner, name), list[bool](), list[PrivateWorld]()

    def method(it: Any, *arguments: Any, **more: Any) -> Any:
        first = it._identity == ME and not struck
        if first:
            struck.append(True)
            assert played[-1].drawn() == 3, "the debit comes before the work"
        if first and not after:
            raise PowerCutError
        found = honest(it, *arguments, **more)
        if first:
            raise PowerCutError
        return found

    def play() -> str:
        struck.clear()
        lives: list[Mortal] = []

        def mortal(site: Any) -> Mortal:
            lives.append(Mortal(world, site))
            return lives[0]

        with private_worlds() as world, patch.object(owner, name, method):
            played.append(world)
            told = world.told(rogues={ME: mortal})
            lives[0].close()
            assert struck == [True]
            require_end(world, told, (0, 1, 2), drawn=3)
            known = world.ledger().ticket(world.ticket)
            assert known is not None
            assert known.outcome == "released"
            return told.codes[1]

    return play


def noise_after_a_crash() -> str:
    """Cut the power when the update is sealed but not journaled, so that it is made twice: no number of it is the same."""
    made: list[bytes] = []
    honest = Workshop._seal

    def keep(shop: Workshop, verified: Any, schema: Any, update: Any, head: str | None) -> Any:
        chunks = [bytes(one) for one in update]
        if shop._identity == ME:
            made.append(b"".join(chunks[1:]))
        return honest(shop, verified, schema, (memoryview(one) for one in chunks), head)

    with patch.object(Workshop, "_seal", keep):
        code = cut(Workshop, "_train", after=True)()
    first, second = (np.frombuffer(one, np.float32) for one in made)
    assert first.size == 21
    assert (first != second).all()
    return code


def redelivered() -> str:
    """Deliver a ticket again that was answered, three times, with and without a restart."""
    with private_worlds() as world:
        first, _ = world.answer(world.delivery)
        head, spool = world.ledger().head, world.folder / ME / "spool" / f"{world.ticket}.payload"
        sealed = spool.read_bytes()
        with world.federation.site(ME) as site:
            repeated = [site.handle(world.delivery) for _ in range(2)]
        repeated.append(world.answer(world.delivery)[0])
        assert {_receipt_and_manifest(raw) for raw in repeated} == {_receipt_and_manifest(first)}
        assert spool.read_bytes() == sealed
        assert world.ledger().head == head
        require_end(world, world.told(), (0, 1, 2), drawn=3)
        return answer_of(repeated[-1])


def _receipt_and_manifest(raw: bytes) -> tuple[str, str]:
    import json

    value = json.loads(raw)
    return value["receipt"], value["manifest"]


def row(id_: str, who: Any, attack: str, expected: str, play: Callable[[], str]) -> Row:
    return Row(id_, "site", who, attack, expected, play)


LEDGER: tuple[Row, ...] = (
    row(
        "P4-018",
        "server",
        "the same ticket, at a site whose state is older than its ledger",
        "policy_denied",
        old_state,
    ),
    row("P4-019", "thief", "the ledger copied back, the site started again", "ledger_rollback", old_ledger),
    row(
        "P4-020",
        "thief",
        "the ledger copied back under a living site",
        "ledger_rollback",
        old_ledger_under_a_living_site("ledgers"),
    ),
    row(
        "P4-021",
        "thief",
        "the ledger and its anchor copied back under a living site",
        "ledger_rollback",
        old_ledger_under_a_living_site("ledgers", "anchors"),
    ),
    row("P4-025", "thief", "the anchor's disk taken away, and brought back", "ledger_unavailable", anchor_away),
    row("P4-026", "thief", "the anchor's disk fails after the debit", "ledger_unavailable", anchor_refuses),
    row("P4-027", "thief", "an entry of the ledger rewritten before a start", "ledger_damaged", damaged_ledger),
    row("P4-028", "thief", "the ledger overwritten under a living site", "ledger_damaged", garbage_ledger),
    row(
        "P4-029",
        "site",
        "a record that is not a number makes training fail",
        "site_failed",
        failing(_nothing, with_nan),
    ),
    row(
        "P4-030",
        "site",
        "training fails with an error that quotes a record",
        "site_failed",
        failing(_raises(ValueError(SECRET))),
    ),
    row("P4-031", "site", "training fails for want of memory", "site_failed", failing(_raises(MemoryError(SECRET)))),
    row("P4-032", "server", "what failed read from the receipts of three failures", "site_failed", told_apart),
    row("P4-034", "thief", "the power cut between debit and training", "accepted", cut(Workshop, "_trained")),
    row("P4-035", "thief", "the power cut between journal and ledger", "accepted", cut(Steward, "settle")),
    row("P4-036", "thief", "the power cut after sealing: is the noise used again?", "accepted", noise_after_a_crash),
    row(
        "P4-038",
        "site",
        "a plug-in's trainer asks for its release back after it has seen the data",
        "site_failed",
        failing(_raises(UnsupportedModelError(SECRET))),
    ),
    row("P4-037", "server", "an answered ticket delivered again: other bytes, another debit?", "accepted", redelivered),
)
