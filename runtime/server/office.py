"""The office: what every part of the server works with, for one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...algorithms.rule import AggregationRule
from ...audit.events import RunStart
from ...audit.tlog.checkpoint import Checkpoint
from ...durable import Probe
from ...parameters import Schema
from ...trust.blob.manifest import BlobKind, Place
from ...trust.keys.member import MemberKeys
from ...trust.keys.sealing import OpeningKey, SealingKey
from ..config import RunConfig
from ..journal import Journal
from ..parties import Parties
from ..planes import update_schema
from ..progress import Observer
from ..stores.seam import ObjectStore
from ..training.seam import Trainer
from ..transports.seam import Transport
from .correspondence.filing import Filing
from .gate import Gate
from .notary import Notary

__all__ = ["Office", "RunFile"]


@dataclass(frozen=True, slots=True)
class RunFile:
    """What a run is, once started: from the journal, the same in every life of the server."""

    start: RunStart
    index: int
    """Where run.start stands in the log."""
    config: RunConfig
    schema: Schema
    key: OpeningKey
    """The run's KEM key: updates are sealed to it."""
    fingerprint: bytes
    """The run's fingerprint key; see `fingerprint`."""
    rule: AggregationRule

    @property
    def updates(self) -> Schema:
        """The schema of the run's updates."""
        return update_schema(self.rule.planes, self.schema)


@dataclass(frozen=True)
class Office:
    """The server's tools."""

    identity: str
    parties: Parties
    keys: MemberKeys
    journal: Journal
    notary: Notary
    gate: Gate
    filing: Filing
    store: ObjectStore
    transport: Transport
    clock: Callable[[], int]
    observe: Observer
    spool: Path
    probe: Probe
    evaluator: Trainer | None = None
    pause: Callable[[float], None] = field(default=time.sleep)

    @property
    def federation(self) -> str:
        """The federation's name."""
        return self.parties.charter.federation

    def publish(self) -> Checkpoint:
        """Publish the checkpoint of everything logged so far."""
        return self.notary.publish()

    def about(self, run: str) -> dict[str, Any]:
        """Return the fields that every event of ``run`` by the server begins with."""
        return {"federation": self.federation, "actor": self.identity, "time": self.clock(), "run": run}

    def place(self, run: str, version: int, kind: BlobKind, schema: str, **fields: Any) -> Place:
        """Return the place of a blob of this federation."""
        values: dict[str, Any] = {"ticket": None, "sender": self.identity, "parent": None, **fields}
        return Place(
            suite=self.parties.charter.suite,
            federation=self.federation,
            charter=self.parties.digest,
            run=run,
            version=version,
            kind=kind,
            schema_digest=schema,
            **values,
        )

    def auditor_key(self) -> tuple[SealingKey, ...]:
        """Return the auditor's key, if the charter names an auditor."""
        auditor = self.parties.charter.auditor
        return () if auditor is None else (self.parties.seal_key(auditor, at=self.notary.log.size),)
