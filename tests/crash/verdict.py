"""What must be so after a crash and a restart, read from the folders alone.

`facts` is what a run must leave in common with an undisturbed one, whatever was killed in between: models, inputs, who was
asked what and answered how. `problems` is what must hold by itself: the log verifies, every receipt that ever left a site is
in it once, nothing half-written lies about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from counterseal.audit.checkpoint import open_checkpoint
from counterseal.audit.events import (
    AggregateCommit,
    Event,
    ModelRelease,
    ReceiptFile,
    RunEnd,
    RunStart,
    peek_event,
)
from counterseal.audit.evidence import Trust
from counterseal.audit.findings import Status
from counterseal.audit.log import Log
from counterseal.audit.merkle import leaf_hash, require_inclusion
from counterseal.audit.source import FolderSource
from counterseal.audit.verify import verify
from counterseal.runtime.journal import Journal
from counterseal.tests.federation import ORIGIN, SERVER, Federation
from counterseal.trust.canonical import parse
from counterseal.trust.identifiers import sha256

from .story import notes_of

NOT_COVERED = "15"
"""The verifier's own list of what a log cannot show."""


def facts(federation: Federation) -> dict[str, Any]:
    """Return what an undisturbed run of the same setting has in common with this one, as JSON."""
    events = list(_events(federation))
    leaves = Counter(_about(event) for event in events)
    return {
        "leaves": dict(sorted(leaves.items())),
        "start": [event.model for event in events if isinstance(event, RunStart)],
        "commits": [_commit(event) for event in events if isinstance(event, AggregateCommit)],
        "release": [
            [event.version, event.model, sorted(event.witnesses), sorted(event.recipients)]
            for event in events
            if isinstance(event, ModelRelease)
        ],
        "end": [[event.outcome, event.version, event.model, event.witnessed] for event in events if _is_end(event)],
        "kept": {name: _kept(federation.folder / name / "models") for name in federation.sites},
    }


def _is_end(event: Event) -> bool:
    return isinstance(event, RunEnd)


def _about(event: Event) -> str:
    """Describe a leaf by what does not depend on clocks and keys."""
    fields = ("type", "version", "site", "identity", "kind", "outcome", "reason", "reasons", "seq", "at")
    actor = event.actor if isinstance(event, ReceiptFile) else ""
    return " ".join([actor, *(f"{name}={getattr(event, name)}" for name in fields if hasattr(event, name))])


def _commit(event: AggregateCommit) -> dict[str, Any]:
    return {
        "version": event.version,
        "parent": event.parent,
        "output": event.output,
        "inputs": [[one.site, one.weight] for one in event.inputs],
        "excluded": [[one.site, one.reason] for one in event.excluded],
    }


def _kept(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()) for path in sorted(folder.iterdir())}


def _events(federation: Federation) -> Iterator[Event]:
    with _log(federation) as log:
        for index in range(log.size):
            yield peek_event(log.entry(index))


def _log(federation: Federation) -> Log:
    signer = federation.keys[SERVER].checkpoint
    assert signer is not None
    return Log.open(federation.log_folder, ORIGIN, signer)


def problems(federation: Federation) -> list[str]:
    """Return everything that must not be."""
    return [*_unverified(federation), *_receipts(federation), *_counted_twice(federation), *_left_behind(federation)]


def _unverified(federation: Federation) -> Iterator[str]:
    source = FolderSource(federation.log_folder)
    findings = verify(source, Trust(federation.charter, objects=source.objects()))
    for row in findings.rows:
        if row.id != NOT_COVERED and row.status is not Status.PASS:
            yield f"the verifier says {row.status} to {row.id} ({row.checks}): {'; '.join(row.reasons)}"


def receipts_of(federation: Federation, site: str) -> dict[str, set[str]]:
    """Return every receipt of ``site`` by ticket: what its journal keeps, and what was overheard in any of its lives."""
    found: dict[str, set[str]] = {}
    journal = Journal(federation.folder / site / "site.sqlite")
    try:
        for key, value in journal.items("receipt/"):
            found.setdefault(key.removeprefix("receipt/"), set()).add(value["receipt"])
    finally:
        journal.close()
    notes = notes_of(federation, site)
    for line in notes.read_bytes().splitlines() if notes.exists() else []:
        answer = parse(line, limit=1 << 24, what="answer")
        if isinstance(answer, dict) and answer["receipt"] is not None:
            found.setdefault(str(answer["ticket"]), set()).add(str(answer["receipt"]))
    return found


def _receipts(federation: Federation) -> Iterator[str]:
    """Every receipt is exactly one leaf, and provable from the last published checkpoint with public keys alone."""
    with _log(federation) as log:
        leaves = [log.entry(index) for index in range(log.size)]
        published = log.published
        assert published is not None
        if published.size != log.size:
            yield f"{log.size - published.size} leaves are under no checkpoint"
        signer = federation.keys[SERVER].checkpoint
        assert signer is not None
        last = open_checkpoint(log.checkpoint_at(published.size), ORIGIN, signer.public)
        for site in federation.sites:
            for ticket, issued in receipts_of(federation, site).items():
                if len(issued) != 1:
                    yield f"{site} issued {len(issued)} receipts for ticket {ticket[:16]}"
                for raw in issued:
                    places = [index for index, leaf in enumerate(leaves) if leaf == raw.encode()]
                    if len(places) != 1:
                        yield f"the receipt of {site} for {ticket[:16]} is {len(places)} times in the log"
                    for index in places:
                        proof = log.inclusion(index, last.size)
                        require_inclusion(leaf_hash(raw.encode()), index, last.size, proof, last.root)


def _counted_twice(federation: Federation) -> Iterator[str]:
    inputs = [one for event in _events(federation) if isinstance(event, AggregateCommit) for one in event.inputs]
    for what, values in (("ticket", [one.ticket for one in inputs]), ("update", [one.manifest for one in inputs])):
        for value, count in Counter(values).items():
            if count > 1:
                yield f"{what} {value[:16]} counts {count} times"


def _left_behind(federation: Federation) -> Iterator[str]:
    for party in ("server", *federation.sites):
        for path in sorted((federation.folder / party).rglob("*")):
            if path.name.endswith(".draft") or (path.parent.name == "spool" and path.is_file()):
                yield f"left behind: {path.relative_to(federation.folder)}"
