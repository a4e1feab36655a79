"""Admission: a filed receipt and an uploaded blob become a candidate, or a reason code.

In this order, and nothing is read before what stands above it holds: the site is still a member; the manifest is the receipt's,
signed by the site, for this place; the store holds exactly the signed bytes; every part has its digest; every segment decrypts
under the run's key; the header is the schema's; then the statistics, and the rules that can refuse one update by itself. One
pass, one segment of plaintext at a time, nothing of it on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ....algorithms.statistics import Admission, UpdateStatistics
from ....errors import CountersealError
from ....parameters import Schema
from ....trust.blob.manifest import Manifest, read_manifest
from ....trust.blob.open import Opened, open_blob
from ....trust.documents import Signed
from ....trust.screening import Candidate, History, examine
from ...errors import StoreSetupError, StoreUnavailableError
from ...places import update_payload_key
from ...stores.grants import Grant
from ..correspondence.receipts import Filed
from ..correspondence.tickets import Issued
from ..office import Office, RunFile
from .aggregate import BLOCK, floats
from .fingerprint import Fingerprint

__all__ = ["Admitted", "admit", "measure", "open_update"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """An update that passed the pass; ``reasons`` is empty, or why it does not count."""

    site: str
    ticket: str
    manifest: str | None
    fingerprint: str
    statistics: UpdateStatistics | None
    reasons: tuple[str, ...]
    length: int

    def candidate(self) -> Candidate | None:
        """Return what the screens look at, if there is anything."""
        return None if self.statistics is None else Candidate(self.site, self.fingerprint, self.statistics)

    def to_json(self) -> dict[str, Any]:
        """Return the journal's form."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Admitted:
        """Return what `to_json` wrote."""
        stats = value["statistics"]
        if stats is not None:
            stats = UpdateStatistics(
                **{**stats, "layer_norms": tuple(stats["layer_norms"]), "sketch": tuple(stats["sketch"])}
            )
        return cls(**{**value, "statistics": stats, "reasons": tuple(value["reasons"])})


def admit(office: Office, file: RunFile, ticket: Issued, filed: Filed, history: History, norm_bound: float) -> Admitted:
    """Return what admission makes of one update: never raises for what the site sent.

    Raises:
        StoreUnavailableError: the store does not answer; nothing is decided.
        StoreSetupError: it refuses this server; nothing is decided, for that says nothing about the update.
    """
    try:
        manifest = _manifest(office, file, ticket, filed)
        _complete(office, ticket, filed)
        with ExitStack() as stack:
            opened = _open(office, file, ticket, manifest, stack)
            fingerprint = Fingerprint(file.fingerprint)
            statistics = measure(opened, file.updates, fingerprint)
    except CountersealError as error:
        if isinstance(error, StoreUnavailableError | StoreSetupError):
            raise
        return Admitted(ticket.order.site, ticket.digest, None, "", None, (error.code,), 0)
    found = fingerprint.hexdigest()
    reasons = examine(Candidate(ticket.order.site, found, statistics), history, norm_bound)
    if not statistics.finite:  # infinities are no JSON: what is journaled says "not finite" and nothing else
        statistics = UpdateStatistics(False, 0.0, (), None, statistics.elements, ())
    return Admitted(
        ticket.order.site,
        ticket.digest,
        filed.manifest,
        found,
        statistics,
        tuple(reasons),
        manifest.document.length,
    )


def _manifest(office: Office, file: RunFile, ticket: Issued, filed: Filed) -> Signed[Manifest]:
    order, raw = ticket.order, (filed.manifest or "").encode()
    return read_manifest(
        raw,
        place=office.place(
            order.run,
            order.version,
            "update",
            file.updates.digest,
            ticket=ticket.digest,
            sender=order.site,
            parent=order.parent,
        ),
        sender=office.parties.signing_key(raw, order.site, at=office.notary.log.size),
        now=office.clock(),
        recipients=[file.key.public.key_id, *(key.key_id for key in office.auditor_key())],
    )


def _complete(office: Office, ticket: Issued, filed: Filed) -> None:
    bare = office.journal.get(f"grant/{ticket.digest}")
    if bare is not None:
        office.store.complete(Grant.from_json(bare), filed.etags)


def _open(office: Office, file: RunFile, ticket: Issued, manifest: Signed[Manifest], stack: ExitStack) -> Opened:
    source = stack.enter_context(office.store.open(update_payload_key(ticket.order.run, ticket.digest)))
    return open_blob(manifest, source, file.key, file.updates)


def open_update(office: Office, file: RunFile, ticket: Issued, manifest: str, stack: ExitStack) -> Opened:
    """Open an admitted update again: its manifest is verified again, its parts are hashed again."""
    raw = manifest.encode()
    filed = read_manifest(
        raw,
        place=office.place(
            ticket.order.run,
            ticket.order.version,
            "update",
            file.updates.digest,
            ticket=ticket.digest,
            sender=ticket.order.site,
            parent=ticket.order.parent,
        ),
        sender=office.parties.signing_key(raw, ticket.order.site, at=office.notary.log.size),
        now=None,
    )
    return _open(office, file, ticket, filed, stack)


def measure(opened: Opened, schema: Schema, fingerprint: Fingerprint) -> UpdateStatistics:
    """Return the statistics of an update in one pass that also feeds ``fingerprint``.

    Raises:
        BlobError: the stored bytes are not what the manifest says; nothing of the pass counts.
    """
    admission = Admission([spec.size for spec in schema.tensors])
    stored, wide = np.empty(BLOCK * 4, np.uint8), np.empty(BLOCK, np.float32)
    with opened.stream() as stream:
        for span in schema.spans():
            done = 0
            while done < span.count:
                values = floats(stream, span.dtype, min(BLOCK, span.count - done), stored, wide)
                admission.feed(values)
                fingerprint.update(values.view(np.uint8).data)
                done += values.size
        stream.finish()
        return admission.result()
