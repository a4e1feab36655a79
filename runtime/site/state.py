"""What a site remembers between deliveries, through any crash.

    witness                 the last checkpoint that this site saw (size, root, note): never goes back
    run/<run>               the run.start leaf and its index
    seq/<run>               the highest sequence number accepted
    model/<run>/<version>   digest of the model on which this site worked as that version
    ticket/<digest>         run, seq, version, kind, envelope of an accepted ticket
    place/<run>/<seq>       digest of the ticket accepted there
    work/<digest>           what the work left behind: manifest, norm, metrics, etags (the update's bytes lie in spool/)
    receipt/<digest>        the signed receipt
    open/<run>/<digest>     answered, and not yet settled by the log
    last-receipt            digest of the newest receipt
    halted                  why this site takes nothing more, until a person looks

A ticket that meets an empty state after enrolment is refused by the caller, since a site that forgot everything would accept a
replay of everything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...audit.tlog.witness import WitnessState
from ...durable import Probe, create_file, make_folder, silent
from ...trust.documents import Signed
from ...trust.tickets import Ticket
from ..drafts import remove_drafts
from ..errors import LostStateError
from ..journal import Journal

__all__ = ["PATIENCE", "OpenTicket", "SiteState"]

PATIENCE = 3600.0
"""Seconds to wait for an earlier process of this site that still ends its work; the server's deadlines go on meanwhile."""


@dataclass(frozen=True, slots=True)
class OpenTicket:
    """A ticket that this site answered and whose fate it has not been shown yet."""

    digest: str
    version: int
    kind: str
    outcome: str
    receipt: str
    manifest: str | None
    norm: float | None
    attempt: int | None
    """Which try at the version, for work in a round."""


class SiteState:
    """Typed access to a site's journal and spool folder."""

    def __init__(self, folder: Path, *, probe: Probe = silent, patience: float = PATIENCE) -> None:
        make_folder(folder, 0o700)
        self.spool = make_folder(folder / "spool", 0o700)
        self.models = make_folder(folder / "models", 0o700)
        self.journal = Journal(folder / "site.sqlite", probe=probe, patience=patience)
        for owned in (self.spool, self.models):
            remove_drafts(owned)  # an earlier life's; the journal's lock says that there is no other now

    def bind(self, marker: Path) -> None:
        """Tie this folder to ``marker``, a small file kept beside the keys: a site that lost its state would notice.

        A state that is put back to an older day carries the same mark; that is caught by the log, or NOT COVERED.

        Raises:
            LostStateError: the marker says that this site took part before, with another state than this one.
        """
        known = self.journal.get("state-id")
        marked = marker.read_text().strip() if marker.exists() else None
        if marked is not None and marked != known:
            raise LostStateError(
                "this site took part before, and its state folder does not know",
                where=str(marker),
                remedy="Restore the state folder. If it is lost for good, tell the other members, revoke this site's keys, "
                "enrol new ones, and remove this file.",
            )
        if marked is None:
            identifier = self.journal.once("state-id", lambda: os.urandom(16).hex())
            create_file(marker, f"{identifier}\n".encode(), step="site.marker", mode=0o600)

    def witness(self, origin: str) -> WitnessState:
        """Return the last checkpoint seen; an empty one pins the charter's origin."""
        found = self.journal.get("witness")
        if found is None:
            return WitnessState.pinned(origin)
        return WitnessState(origin, found["size"], bytes.fromhex(found["root"]), found["note"].encode())

    def see(self, witness: WitnessState) -> None:
        """Remember a checkpoint: before its cosignature leaves."""
        self.journal.put("witness", {"size": witness.size, "root": witness.root.hex(), "note": witness.note.decode()})

    def model(self, run: str, version: int) -> str | None:
        """Return the digest of the model that this site took as ``version``, if it worked on it."""
        found = self.journal.get(f"model/{run}/{version:012d}")
        return None if found is None else str(found)

    def accept(self, ticket: Signed[Ticket], run_leaf: dict[str, Any]) -> None:
        """Take a ticket: its place is now taken for ever, and so is its version's model."""
        order = ticket.document
        model = {} if order.kind == "witness" else {f"model/{order.run}/{order.version:012d}": order.parent}
        self.journal.put_many(
            {
                **model,
                f"run/{order.run}": run_leaf,
                f"seq/{order.run}": max(order.seq, self.journal.get(f"seq/{order.run}") or 0),
                f"place/{order.run}/{order.seq:012d}": ticket.digest,
                f"ticket/{ticket.digest}": {
                    "run": order.run,
                    "seq": order.seq,
                    "version": order.version,
                    "kind": order.kind,
                    "raw": ticket.raw.decode(),
                },
            }
        )

    def open_tickets(self, run: str) -> tuple[OpenTicket, ...]:
        """Return the answered tickets of ``run`` whose fate is unknown."""
        return tuple(OpenTicket(**value) for _, value in self.journal.items(f"open/{run}/"))

    def settle(self, run: str, digest: str, fate: str) -> None:
        """Close an answered ticket, and drop its spooled update."""
        value = self.journal.get(f"open/{run}/{digest}")
        if value is None:
            return
        # In this order: as long as the ticket is open, a restart settles it again. The bytes are nobody's need any more.
        (self.spool / f"{digest}.payload").unlink(missing_ok=True)
        self.journal.put_many({f"settled/{run}/{digest}": {"fate": fate, "version": value["version"]}})
        self.journal.remove(f"open/{run}/{digest}")

    @property
    def halted(self) -> str | None:
        """Why the site stopped for good, if it did."""
        found = self.journal.get("halted")
        return None if found is None else str(found["code"])

    def halt(self, code: str, evidence: dict[str, str]) -> None:
        """Stop taking anything, and keep the evidence."""
        self.journal.put("halted", {"code": code, "evidence": evidence})

    def close(self) -> None:
        """Release the journal."""
        self.journal.close()
