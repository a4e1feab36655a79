"""A federation on a real S3 server, for tests that harm what lies between them; and how they judge that nothing was lost."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, Event, ReceiptFile, TicketIssue, peek_event
from counterseal.audit.verify import verify
from counterseal.durable import Probe, silent
from counterseal.runtime.config import EvaluationConfig, RunConfig
from counterseal.runtime.server.run import RunResult
from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3 import S3Store
from counterseal.runtime.stores.s3_client import S3GrantClient
from counterseal.runtime.stores.s3_place import S3Place
from counterseal.runtime.training.seam import TrainingResult

from ..federation import Clock, DirectTransport, Federation, run_config, trainer_of
from ..seaweed import QUICK

LARGE = 4_500_000
"""Numbers of a model that goes in two parts."""


class Counting:
    """A trainer that says how often it trained, and does something before it answers."""

    def __init__(
        self, inner: Any, count: Counter[tuple[str, int]], site: str, meanwhile: Callable[[str], object]
    ) -> None:
        self._inner, self._count, self._site, self._meanwhile = inner, count, site, meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def train(self, *arguments: Any, **options: Any) -> Any:
        self._count[self._site, options["round_number"]] += 1
        result = self._inner.train(*arguments, **options)
        self._meanwhile(self._site)
        return result


class Adding:
    """A trainer without data that adds a constant, another at each site: for models that are large and nothing else."""

    device = "cpu"

    def __init__(self, site: str = "") -> None:
        self._step = np.float32(1e-3 * (1 + sum(site.encode()) % 7))

    def initial_parameters(self, seed: int) -> dict[str, Any]:
        return {"layer": np.zeros(LARGE, np.float32)}

    def train(self, parameters: Any, *, seed: int, round_number: int, solver: Any = None) -> TrainingResult:
        return TrainingResult({"layer": parameters["layer"] + self._step}, {}, 1, "cpu", 0.0)

    def evaluate(self, parameters: Any, split: str = "test") -> dict[str, float]:
        return {}


@dataclass
class Scene:
    """One federation in one place of a bucket."""

    federation: Federation
    server: LocalS3
    place: S3Place
    config: RunConfig
    options: Mapping[str, Any] = field(default_factory=dict)
    large: bool = False
    trained: Counter[tuple[str, int]] = field(default_factory=Counter)
    meanwhile: Callable[[str], object] = len
    meddle: Callable[[str, bytes], bytes | None] | None = None
    answers: Callable[[str, bytes], bytes | None] | None = None
    sent: list[tuple[str, str, bytes]] = field(default_factory=list)
    keys: tuple[str, str] | None = None

    def store(self) -> S3Store:
        key, secret = self.keys or (self.server.access_key, self.server.secret_key)
        options = {"patience": QUICK, **self.options}
        return S3Store(self.place, access_key=key, secret_key=secret, **options)

    def play(self, probes: Mapping[str, Probe] | None = None) -> RunResult:
        """Run the federation to its end, or go on with it; every party is opened anew."""
        probes = probes or {}
        with contextlib.ExitStack() as stack:
            sites = {}
            for name in self.federation.sites:
                client = stack.enter_context(S3GrantClient(self.place, patience=QUICK))
                changes: dict[str, Any] = {"store": client, "trainers": self._trainers(name)}
                sites[name] = stack.enter_context(self.federation.site(name, probe=probes.get(name, silent), **changes))
            transport = DirectTransport(sites, self.meddle, self.answers, seen=self.sent)
            store = self.store()
            stack.callback(store.close)
            server = stack.enter_context(
                self.federation.server(transport, store=store, probe=probes.get("server", silent))
            )
            first = Adding().initial_parameters(0) if self.large else self.federation.first_parameters(self.config)
            return server.run(self.config, first)

    def _trainers(self, site: str) -> Callable[[RunConfig], Any]:
        def build(config: RunConfig) -> Any:
            inner = Adding(site) if self.large else trainer_of(config, site)
            return Counting(inner, self.trained, site, lambda name: self.meanwhile(name))

        return build

    def events(self) -> list[Event]:
        """Return every leaf of the log."""
        from counterseal.audit.tlog.log import Log
        from counterseal.tests.federation import ORIGIN, SERVER

        checkpoint = self.federation.keys[SERVER].checkpoint
        assert checkpoint is not None
        with Log.open(self.federation.log_folder, ORIGIN, checkpoint) as log:
            return [peek_event(log.entry(index)) for index in range(log.size)]

    def counted(self, version: int) -> set[str]:
        """Return the sites whose updates are in the version after ``version``."""
        commits = [one for one in self.events() if isinstance(one, AggregateCommit) and one.version == version]
        assert len(commits) == 1
        return {one.site for one in commits[0].inputs}

    def require_whole(self, *, rounds: int = 1, missing: tuple[tuple[str, int], ...] = ()) -> None:
        """Nothing lost, nothing twice: one training a site and round, one receipt a ticket, and a log that verifies."""
        expected = {(site, version): 1 for site in self.federation.sites for version in range(rounds)}
        for one in missing:
            expected.pop(one)
        assert {pair: self.trained[pair] for pair in expected} == expected
        log = self.events()
        receipts = Counter(one.ticket for one in log if isinstance(one, ReceiptFile))
        tickets = Counter(one.ticket for one in log if isinstance(one, TicketIssue))
        assert set(receipts.values()) <= {1} and set(tickets.values()) == {1} and set(receipts) <= set(tickets)
        source = FolderSource(self.federation.log_folder)
        findings = verify(source, Trust(self.federation.charter, objects=source.objects()))
        assert [row for row in findings.rows if row.status is Status.FAIL] == []


def scene_on(
    folder: Path, server: LocalS3, place: S3Place, *, sites: int = 2, large: bool = False, **changes: Any
) -> Scene:
    """Return a federation in ``place``, whose bucket is there."""
    values: dict[str, Any] = {"rounds": 1, "retries": 0, "round_seconds": 60, **changes.pop("config", {})}
    if large:
        values["evaluation"] = EvaluationConfig(sites=False)
    two_steps = changes.pop("two_steps", False)
    federation = Federation.make(
        folder / "fed", sites, clock=Clock(int(time.time())), norm_bound=1e9, commit_before_upload=two_steps
    )
    return Scene(federation, server, place, run_config(**values), large=large, **changes)
