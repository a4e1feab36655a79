"""The noise of one version of a `NoisyRule` (DP-FedAvg): drawn once, sealed and written down before anything is computed with
it.

    {payloads,runs}/<run>/states/<version>/noise/{payload,manifest}

One row of whole numbers as binary32, sealed to the run's key and the auditor's. `NoiseState` names it by digest, with the try
and the updates that it was drawn for; the commit carries a salted commitment to that.

**No noise is used for two aggregates that both leave.** Two aggregates of different updates under one noise would differ by
the updates' difference, in the clear. The row is drawn for one version, one try at it, and the updates that this try counts
(fixed by the journaled word of the group before `commit` begins); the table names all three. It is journaled before the first
block of the model is computed, so every later life of the server computes the same model from the same row. A try that fails
publishes no model; the next has a row of its own. Asked for another set of updates, a row is refused, not used.

Nothing is in the store before the model that was made with it is journaled. A row that was sealed but not journaled has no
reader: its root died with the process.

Not handled here: the law of the noise (`privacy`), what is done with it (`algorithms.dp_fedavg`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np

from ....algorithms.rule import NoisyRule
from ....audit.events import commitment, salt
from ....parameters import Schema
from ....privacy.errors import NoiseError
from ....privacy.mechanism import Central, Plan
from ....privacy.noise import Keystream
from ....trust.blob.manifest import Place, read_manifest
from ....trust.blob.open import Opened, open_blob
from ....trust.blob.seal import seal
from ....trust.blob.source import FileSource
from ...central import plan_of
from ...delivery import Opening
from ...errors import RunError
from ...places import noise_manifest_key, noise_payload_key
from ...planes import row_schema
from ...rule_state import NoiseState, Row
from ..correspondence.tickets import Issued
from ..office import Office, RunFile
from .aggregate import BLOCK

__all__ = ["NOISE", "VersionNoise"]

NOISE: Final = "noise"
_EXACT: Final = 2.0**24
"""Up to here binary32 holds every whole number."""


class VersionNoise:
    """The noise for one try at the version after ``version``."""

    def __init__(
        self, office: Office, file: RunFile, rule: NoisyRule, version: int, attempt: int, tickets: Sequence[Issued]
    ) -> None:
        self._office = office
        self._file = file
        self._rule = rule
        self._run = file.start.run
        self._version = version + 1
        self._attempt = attempt
        self._tickets = tuple(ticket.digest for ticket in tickets)
        self._schema = row_schema(NOISE, file.schema)
        self._key = f"{self._run}/noise/{self._version}/{attempt}"

    def draw(self) -> None:
        """Draw, seal and journal the row, unless an earlier life of the server did.

        Raises:
            RunError: it was drawn for other updates.
        """
        found = NoiseState.from_json(self._office.journal.once(self._key, self._drawn)["value"])
        if found.tickets != self._tickets:
            raise RunError("noise that was drawn for other updates", where=f"version {self._version}")

    def open(self, stack: ExitStack) -> Opened:
        """Return the row as it was sealed; its source closes with ``stack``."""
        manifest = read_manifest(
            self._record["manifest"].encode(), place=self._place, sender=self._office.keys.signer.public, now=None
        )
        return open_blob(manifest, stack.enter_context(FileSource(self._spool)), self._file.key, self._schema)

    def upload(self) -> None:
        """Put the row into the store, once the model that was made with it is journaled; older ones are nobody's need."""
        office, spool = self._office, self._spool
        if spool.exists():  # else an earlier life put it
            office.store.put(noise_payload_key(self._run, self._version), spool)
            office.store.put(noise_manifest_key(self._run, self._version), self._record["manifest"].encode())
            spool.unlink()
        for key, _ in list(office.journal.items(f"{self._run}/noise/{self._version - 2}/")):
            office.journal.remove(key)

    @property
    def commitment(self) -> str:
        """The commitment to the table."""
        return commitment(self._record["value"], self._record["salt"])

    @property
    def opening(self) -> Opening:
        """What opens it."""
        return Opening(value=self._record["value"], salt=self._record["salt"])

    @property
    def _record(self) -> dict[str, Any]:
        found: dict[str, Any] = self._office.journal.get(self._key)
        return found

    @property
    def _place(self) -> Place:
        return self._office.place(self._run, self._version, "state", self._schema.digest)

    @property
    def _spool(self) -> Path:
        return self._office.spool / f"noise-{self._run}-{self._version:06d}-{self._attempt}.payload"

    def _drawn(self) -> dict[str, Any]:
        office = self._office
        for stale in office.spool.glob(f"noise-{self._run}-[0-9]*-[0-9]*.payload"):
            stale.unlink()  # of a try that failed, or sealed and not journaled
        dimensions = sum(spec.size for spec in self._schema.tensors)
        with Keystream() as stream:
            sealed = seal(
                _chunks(self._schema, plan_of(self._rule, dimensions), stream),
                schema=self._schema,
                place=self._place,
                recipients=[self._file.key.public, *office.auditor_key()],
                signer=office.keys.signer,
                spool=self._spool,
                expires=office.clock() + office.parties.charter.dispute_window_seconds,
                probe=office.probe,
            )
        table = NoiseState(
            version=self._version,
            attempt=self._attempt,
            tickets=self._tickets,
            noise=Row(manifest=sealed.manifest.digest, plaintext=sealed.plaintext_digest),
        )
        return {"value": table.to_json(), "salt": salt(), "manifest": sealed.manifest.raw.decode()}


def _chunks(schema: Schema, plan: Plan[Central], stream: Keystream) -> Iterator[memoryview]:
    yield memoryview(schema.header())
    for span in schema.spans():
        for start in range(0, span.count, BLOCK):
            drawn = plan.noise.sample(min(BLOCK, span.count - start), stream)
            values = drawn.astype(np.float32)
            if np.abs(drawn).max(initial=0) > _EXACT:  # the rule's fineness excludes it
                raise NoiseError("a sample that binary32 does not hold", where="noise")
            yield values.view(np.uint8).data
