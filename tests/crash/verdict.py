"""What must be so after a crash and a restart, read from the folders and the charter alone.

`facts` is what a run must have in common with an undisturbed one, whatever was killed in between: models, inputs, who was
asked what and answered how. `problems` is what must hold by itself: the log verifies, every receipt that ever left a site is
in it once and provable from its last checkpoint, nothing counts twice, nothing half-written lies about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterseal.audit.checks.evidence import Evidence, Trust, gather
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, Event, ModelRelease, ReceiptFile, RunEnd, RunStart, peek_event
from counterseal.audit.tlog.merkle import leaf_hash, require_inclusion
from counterseal.audit.verify import verify
from counterseal.runtime.journal import Journal
from counterseal.trust.canonical import parse
from counterseal.trust.charter.signing import SignedCharter
from counterseal.trust.identifiers import sha256

NOT_COVERED = "16"
"""The verifier's own list of what a log cannot show."""


@dataclass(frozen=True)
class Scene:
    """Where to look: the log, the server's state, each site's state, and what was overheard of each site's answers."""

    charter: SignedCharter
    log: Path
    server: Path
    sites: Mapping[str, Path]
    notes: Mapping[str, Path]

    def evidence(self) -> Evidence:
        """Return the log as a stranger reads it."""
        source = FolderSource(self.log)
        return gather(source, Trust(self.charter, objects=source.objects()))


def facts(scene: Scene) -> dict[str, Any]:
    """Return what an undisturbed run of the same setting has in common with this one, as JSON."""
    events = [peek_event(leaf) for leaf in scene.evidence().leaves]
    return {
        "leaves": dict(sorted(Counter(map(_about, events)).items())),
        "start": [event.model for event in events if isinstance(event, RunStart)],
        "commits": [_commit(event) for event in events if isinstance(event, AggregateCommit)],
        "release": [_release(event) for event in events if isinstance(event, ModelRelease)],
        "end": [
            [event.outcome, event.version, event.model, event.witnessed]
            for event in events
            if isinstance(event, RunEnd)
        ],
        "kept": {name: _kept(state / "models") for name, state in scene.sites.items()},
    }


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


def _release(event: ModelRelease) -> list[Any]:
    return [event.version, event.model, sorted(event.witnesses), sorted(event.recipients)]


def _kept(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()) for path in sorted(folder.iterdir())}


def problems(scene: Scene) -> list[str]:
    """Return everything that must not be."""
    return [*_unverified(scene), *_unproven(scene), *_counted_twice(scene), *_left_behind(scene)]


def _unverified(scene: Scene) -> Iterator[str]:
    source = FolderSource(scene.log)
    findings = verify(source, Trust(scene.charter, objects=source.objects()))
    for row in findings.rows:
        if row.id != NOT_COVERED and row.status is not Status.PASS:
            yield f"the verifier says {row.status} to {row.id} ({row.checks}): {'; '.join(row.reasons)}"


def receipts_of(state: Path, notes: Path | None) -> dict[str, set[str]]:
    """Return every receipt of a site by ticket: what its journal keeps, and what was overheard in any of its lives."""
    found: dict[str, set[str]] = {}
    journal = Journal(state / "site.sqlite")
    try:
        for key, value in journal.items("receipt/"):
            found.setdefault(key.removeprefix("receipt/"), set()).add(value["receipt"])
    finally:
        journal.close()
    for line in notes.read_bytes().splitlines() if notes is not None and notes.exists() else []:
        answer = parse(line, limit=1 << 24, what="answer")
        if isinstance(answer, dict) and answer["receipt"] is not None:
            found.setdefault(str(answer["ticket"]), set()).add(str(answer["receipt"]))
    return found


def _unproven(scene: Scene) -> Iterator[str]:
    evidence = scene.evidence()
    last = evidence.latest
    if last is None:
        yield "there is no checkpoint"
        return
    for site, state in scene.sites.items():
        for ticket, issued in receipts_of(state, scene.notes.get(site)).items():
            if len(issued) != 1:
                yield f"{site} issued {len(issued)} receipts for ticket {ticket[:16]}"
            for raw in issued:
                places = [index for index, leaf in enumerate(evidence.leaves) if leaf == raw.encode()]
                if len(places) != 1:
                    yield f"the receipt of {site} for ticket {ticket[:16]} is {len(places)} times in the log"
                for index in places:
                    proof = evidence.tree.inclusion(index, last.size)
                    require_inclusion(leaf_hash(raw.encode()), index, last.size, proof, last.root)


def _counted_twice(scene: Scene) -> Iterator[str]:
    events = [peek_event(leaf) for leaf in scene.evidence().leaves]
    inputs = [one for event in events if isinstance(event, AggregateCommit) for one in event.inputs]
    for what, values in (("ticket", [one.ticket for one in inputs]), ("update", [one.manifest for one in inputs])):
        for value, count in Counter(values).items():
            if count > 1:
                yield f"{what} {value[:16]} counts {count} times"


def _left_behind(scene: Scene) -> Iterator[str]:
    for folder in (scene.log, scene.server, *scene.sites.values()):
        for path in sorted(folder.rglob("*")):
            if path.name.endswith(".draft") or (path.parent.name == "spool" and path.is_file()):
                yield f"left behind: {folder.name}/{path.relative_to(folder)}"


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return where two facts differ, in words."""
    wrong = []
    for name, value in expected.items():
        other = found[name]
        if isinstance(value, dict):
            keys = [key for key in sorted({*value, *other}) if value.get(key) != other.get(key)]
            wrong += [f"{name}: {key}: {value.get(key)} undisturbed, {other.get(key)} here" for key in keys]
        elif value != other:
            wrong.append(f"{name}: {value} undisturbed, {other} here")
    return wrong
