"""What a site remembers of an algorithm that has a half at the site (ADMM): its pair of dual and primal, and its penalty.

The primal is kept only where penalties adapt: nothing else reads the one before.

    memory/<ticket>.pending   what this site released for a ticket, and the model it started from, until the log settles it
    memory/<ticket>.state     the pair after the commit that counted that ticket's update
    memory/<run>              (journal) which pair is current, its manifest, its penalty
    memory-pending/<run>/<t>  (journal) the pending ones

The pair becomes current only by a commit: a settlement that says ``used`` brings the committed coefficient, and the pair is
replayed from what was *released* (`algorithms.consensus.replay`), by the code that the server runs; so both ends hold the
same bits. On any other fate the pending release is dropped and the pair stays as it was, as it does at the server.

Guarantees: what was released is on the disk and journaled before the receipt can leave; the new pair is whole on the disk before
one write to the journal makes it current; the same settlement again changes nothing. Files are sealed to this site's own
key, with their digests in the journal: the plaintext exists in memory only. A pair that the journal names and that does not open
is lost: the site then takes no more training tickets of that run (`LostStateError`), and counts as absent, with the pair that the
server has. It never starts again from zero beside a server that remembers.

Not handled here: a rotation of this site's sealing key in the middle of a run, which loses the pair (rotate between runs); the
memory of runs that are over, which stays; what a solver does (`algorithms`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...algorithms.cohort import Tally
from ...algorithms.rule import CohortRule
from ...algorithms.solver import objective_scale
from ...audit.events import RunStart
from ...durable import Probe, make_folder, silent
from ...errors import CountersealError
from ...parameters import Schema, decode, encode
from ...trust.blob.manifest import Place, read_manifest
from ...trust.blob.open import open_blob
from ...trust.blob.seal import seal
from ...trust.documents import Signed
from ...trust.keys.member import MemberKeys
from ...trust.tickets import Ticket
from ..drafts import remove_drafts
from ..errors import LostStateError
from ..journal import Journal
from ..parties import Parties
from ..rule_state import float_bits, float_value
from ..stores.tree import FileSource
from ..training.seam import Array
from .local_round import LocalRound, Pair, next_pair, pending_schema, rule_of, state_schema, wide
from .settlement import Settlement

__all__ = ["SiteMemory"]

_log = logging.getLogger(__name__)


class SiteMemory:
    """The pairs of one site, by run."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        identity: str,
        parties: Parties,
        keys: MemberKeys,
        clock: Callable[[], int],
        probe: Probe = silent,
    ) -> None:
        """Open the memory in ``folder``, and remove what no journal entry names; the caller holds the journal's lock."""
        self._folder = make_folder(folder, 0o700)
        self._journal = journal
        self._identity = identity
        self._parties = parties
        self._keys = keys
        self._clock = clock
        self._probe = probe
        self._fresh: Pair | None = None
        remove_drafts(self._folder)
        self._sweep()

    # Training

    def require(self, run: RunStart) -> None:
        """Return if this site can train in ``run``.

        Raises:
            LostStateError: it took part before, and its pair is lost.
        """
        current = self._journal.get(f"memory/{run.run}")
        if current is not None and ("lost" in current or not self._state_path(current["ticket"]).exists()):
            raise self._lost(run.run)

    def begin(
        self, run: RunStart, ticket: Signed[Ticket], schema: Schema, parameters: Mapping[str, Array]
    ) -> LocalRound | None:
        """Return the round that ``ticket`` orders; None if the run's rule has no half at the site.

        Raises:
            LostStateError: see `require`.
        """
        rule = rule_of(run)
        if rule is None:
            return None
        floats = schema.floats()
        parent = {spec.name: wide(spec, parameters[spec.name]) for spec in floats.tensors}
        pair = self.pair(run, floats)
        dual = {name: np.zeros_like(one) for name, one in parent.items()} if pair is None else pair.dual
        rho = rule.penalty if pair is None else pair.rho
        scale = objective_scale(self._parties.charter.weights, self._identity)
        solver = rule.solver(parent, dual, rho=rho, scale=scale)
        return LocalRound(rule, ticket, floats, parameters, dual, rho, solver)

    def keep(self, made: LocalRound) -> None:
        """Keep what was released for a ticket until the log settles it: before the work is journaled as done."""
        order, digest = made.ticket.document, made.ticket.digest
        schema = pending_schema(made.rule, made.schema)
        manifest = self._seal(self._pending_path(digest), made.released(), schema, order.run, order.version, digest)
        self._journal.put(
            f"memory-pending/{order.run}/{digest}",
            {"manifest": manifest, "version": order.version, "layout": made.schema.to_json()},
        )

    def pair(self, run: RunStart, schema: Schema) -> Pair | None:
        """Return the current pair for a model with the floating tensors ``schema``; None if no update was counted yet.

        Raises:
            LostStateError: it does not open.
        """
        rule, current = rule_of(run), self._journal.get(f"memory/{run.run}")
        if rule is None or current is None:
            return None
        if self._fresh is not None and self._fresh.ticket == current.get("ticket"):
            return self._fresh
        try:
            self.require(run)
            found = self._open(self._state_path(current["ticket"]), current, state_schema(rule, schema), run.run)
        except CountersealError as error:
            if getattr(error, "retryable", False):
                raise
            _log.error("the memory of run %s does not open: %s", run.run, error)
            raise self._lost(run.run) from error
        return Pair.of(rule, schema, found, current["ticket"], float_value(current["rho"]))

    # Settling

    def settle(self, run: RunStart, settlement: Settlement) -> None:
        """Take note of what became of a ticket: replay the pair if its update was used, else drop what was pending."""
        key = f"memory-pending/{run.run}/{settlement.ticket}"
        pending, current = self._journal.get(key), self._journal.get(f"memory/{run.run}")
        done = current is not None and current.get("ticket") == settlement.ticket
        rule = rule_of(run)
        if rule is not None and settlement.fate == "used" and not done:
            self._use(run, rule, settlement, pending)
        if pending is not None:
            self._journal.remove(key)
        self._sweep()

    def _use(self, run: RunStart, rule: CohortRule, settlement: Settlement, pending: dict[str, Any] | None) -> None:
        try:
            if pending is None or settlement.coefficient is None:
                raise self._lost(run.run)
            entry, self._fresh = self._replayed(run, rule, settlement.ticket, settlement.coefficient, pending)
        except CountersealError as error:
            if getattr(error, "retryable", False):
                raise
            _log.error("the memory of run %s is lost: %s", run.run, error)
            entry = {"lost": error.code}
        self._journal.put(f"memory/{run.run}", entry)

    def _replayed(
        self, run: RunStart, rule: CohortRule, ticket: str, coefficient: float, pending: dict[str, Any]
    ) -> tuple[dict[str, Any], Pair]:
        schema = Schema.from_json(pending["layout"])
        before = self.pair(run, schema)
        rho = rule.penalty if before is None else before.rho
        sent = self._open(
            self._pending_path(ticket), {"ticket": ticket, **pending}, pending_schema(rule, schema), run.run
        )
        tally = Tally((0,))
        after = dict(next_pair(rule, schema, sent, coefficient, before, rho, tally))
        made = state_schema(rule, schema)
        path = self._state_path(ticket)
        manifest = self._seal(path, encode(made, after), made, run.run, pending["version"], ticket)
        (following,) = rule.adapt((rho,), tally)
        entry = {"ticket": ticket, "version": pending["version"], "manifest": manifest, "rho": float_bits(following)}
        return entry, Pair.of(rule, schema, after, ticket, following)

    def rest(self) -> None:
        """Let go of what is in memory; the next round opens it again."""
        self._fresh = None

    # Files

    def _pending_path(self, ticket: str) -> Path:
        return self._folder / f"{ticket}.pending"

    def _state_path(self, ticket: str) -> Path:
        return self._folder / f"{ticket}.state"

    def _sweep(self) -> None:
        """Remove files that the journal does not name: an earlier life's, or settled."""
        named = {f"{value['ticket']}.state" for _, value in self._journal.items("memory/") if "ticket" in value}
        named |= {f"{key.rsplit('/', 1)[1]}.pending" for key, _ in self._journal.items("memory-pending/")}
        for path in self._folder.iterdir():
            if path.name not in named:
                path.unlink()

    def _place(self, run: str, version: int, ticket: str, schema: Schema) -> Place:
        charter = self._parties.charter
        return Place(
            suite=charter.suite,
            federation=charter.federation,
            charter=self._parties.digest,
            run=run,
            version=version,
            ticket=ticket,
            kind="state",
            sender=self._identity,
            parent=None,
            schema_digest=schema.digest,
        )

    def _seal(self, path: Path, chunks: Iterator[Any], schema: Schema, run: str, version: int, ticket: str) -> str:
        path.unlink(missing_ok=True)  # an earlier life's, which did not come to journal it
        sealed = seal(
            chunks,
            schema=schema,
            place=self._place(run, version, ticket, schema),
            recipients=[self._keys.opening.public],
            signer=self._keys.signer,
            spool=path,
            expires=self._clock() + self._parties.charter.dispute_window_seconds,
            digest=False,
            probe=self._probe,
        )
        return sealed.manifest.raw.decode()

    def _open(self, path: Path, entry: Mapping[str, Any], schema: Schema, run: str) -> dict[str, Array]:
        raw = str(entry["manifest"]).encode()
        place = self._place(run, entry["version"], entry["ticket"], schema)
        manifest = read_manifest(raw, place=place, sender=self._keys.signer.public, now=None)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise self._lost(run) from error
        with FileSource(descriptor, path.name) as source:
            return decode(schema, open_blob(manifest, source, self._keys.opening, schema, workers=2).read())

    def _lost(self, run: str) -> LostStateError:
        return LostStateError(
            "this site took part before, and what it remembers of the algorithm is lost",
            where=f"run {run}",
            remedy="Restore the state folder. Without it this site cannot train in this run any more; the others go on, "
            "with what it released before.",
        )
