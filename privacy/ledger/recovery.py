"""What an officer declares when the ledger and its anchor do not agree, or when the anchor itself is gone.

`accept_loss`: entries are lost for good. What they spent is not known, so the only sound number is *all*: every population
and dataset that this file knows is exhausted for ever, and datasets that only the lost entries knew are named by the officer. The
entry takes a counter above everything that was lost and takes the anchor over; a copy that was still in use elsewhere is
refused from then on.

`adopt_anchor`: the anchor is new (the first one, or in place of a lost token or disk). The file is taken as the newest on the
officer's word, which stands in the ledger with its note.

Not handled: whether what the officer says is true. Both leave an entry that nobody can take out again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...durable import Probe, silent
from ..errors import AnchorError, LedgerError, RollbackError
from .anchor import Anchor, Mark
from .book import Book
from .entry import Entry
from .ledger import Clock
from .orders import check_name, check_note
from .table import Table, Transaction

__all__ = ["accept_loss", "adopt_anchor"]


def accept_loss(
    path: Path,
    anchor: Anchor | None,
    *,
    note: str,
    datasets: Sequence[str] = (),
    clock: Clock = time.time,
    probe: Probe = silent,
    patience: float = 60.0,
) -> Entry:
    """Declare entries of the ledger at ``path`` lost, and go on with every budget in it exhausted.

    Where file and anchor agree nothing is lost, and only the named ``datasets`` and their populations are exhausted: for those
    that an older ledger, which is gone altogether, knew.

    Raises:
        LedgerError: nothing is lost, and no dataset is named.
        RollbackError: the anchor is another ledger's.
    """
    named = sorted({check_name(dataset, "dataset") for dataset in datasets})
    with Table(path, patience=patience, probe=probe).held() as transaction:
        book = Book.of(transaction.after(0))
        seen = _seen(book, anchor)
        agreed = anchor is not None and book.extends(seen)
        if agreed and not named:
            raise LedgerError(
                "nothing is lost: the ledger leads to what its anchor has seen",
                where=str(path),
                remedy="Open it; if data of a ledger that is gone are to be declared, name their datasets.",
            )
        body: dict[str, Any] = {
            "anchored": anchor is not None,
            "abandoned": None if seen is None else {"ledger": seen.ledger, "counter": seen.counter, "head": seen.head},
            "datasets": named if agreed else sorted({*named, *book.datasets}),
            "populations": [] if agreed else sorted(book.populations),
            "note": check_note(note),
        }
        counter, previous = book.next()
        above = counter if seen is None else max(counter, seen.counter + 1)
        entry = Entry.make(above, "loss", previous, int(clock()), body)
        return _write(transaction, book, entry, anchor, seen)


def adopt_anchor(
    path: Path,
    anchor: Anchor,
    *,
    note: str,
    clock: Clock = time.time,
    probe: Probe = silent,
    patience: float = 60.0,
) -> Entry:
    """Bind the ledger at ``path`` to ``anchor``, a place that was never used.

    Raises:
        LedgerError: the anchor is in use.
    """
    with Table(path, patience=patience, probe=probe).held() as transaction:
        book = Book.of(transaction.after(0))
        if anchor.read() is not None:
            raise LedgerError(
                "this anchor is in use", where=anchor.place, remedy="Bind a ledger to a place that was never used."
            )
        counter, previous = book.next()
        body = {"anchored": True, "abandoned": None, "note": check_note(note)}
        entry = Entry.make(counter, "anchor.adopt", previous, int(clock()), body)
        return _write(transaction, book, entry, anchor, None)


def _seen(book: Book, anchor: Anchor | None) -> Mark | None:
    if anchor is None:
        if book.anchored:
            raise AnchorError(
                "this ledger has an anchor, and none is named",
                where="ledger",
                remedy="Name it in the configuration; for a lost one, name a new one and use --new-anchor.",
            )
        return None
    if not book.anchored:
        raise AnchorError(
            "this ledger was made without an anchor", where=anchor.place, remedy="Use --new-anchor first."
        )
    seen = anchor.read()
    if seen is not None and seen.ledger != book.ledger:
        raise RollbackError("the anchor belongs to another ledger", where=anchor.place)
    return seen


def _write(transaction: Transaction, book: Book, entry: Entry, anchor: Anchor | None, seen: Mark | None) -> Entry:
    book.add(entry)  # before it is written: an entry that does not go with the book is not written
    transaction.append(entry)
    if anchor is not None:
        anchor.advance(book.mark, seen)
    return entry
