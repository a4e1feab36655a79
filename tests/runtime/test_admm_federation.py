"""ADMM in a whole federation: both ends hold the same duals bit for bit, whatever happens to a site, a server or an update."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, Event, ReceiptFile, UpdateReject, peek_event
from counterseal.audit.verify import verify
from counterseal.parameters import Schema, decode
from counterseal.runtime.config import AggregationConfig
from counterseal.runtime.replaying.replay import replay
from counterseal.runtime.server import run as server_run
from counterseal.runtime.server.rounds.state import RuleStates
from counterseal.runtime.site.site import Site

from ..federation import DirectTransport, Federation, run_config, trainer_of

AUDITOR = "auditor@fed.example"
RULES = ("iiadmm", "iceadmm")


def admm(rule: str = "iiadmm", **changes: Any) -> AggregationConfig:
    values: dict[str, Any] = {"rule": rule, "clip_norm": 50.0, "rho": 1.0, "zeta": 8.0}
    return AggregationConfig(**{**values, **changes})


def config_of(rounds: int = 3, rule: str = "iiadmm", **changes: Any) -> Any:
    aggregation = changes.pop("aggregation", None) or admm(rule)
    return run_config(rounds=rounds, aggregation=aggregation, **changes)


@dataclass
class World:
    """A federation whose states at both ends a test can read after every round."""

    federation: Federation
    config: Any
    sites: dict[str, Site] = field(default_factory=dict)
    pairs: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    """The server's pairs beside every version made, by site and plane: flat float32, or None."""

    def pair_at_site(self, name: str) -> Any:
        """Return the site's current pair: what it would train its next round with."""
        memory, journal = self.sites[name]._memory, self.sites[name]._state.journal
        leaf = journal.get(f"run/{self.config.name}")
        start = peek_event(leaf["leaf"].encode())
        return memory.pair(start, self.schema.floats())

    @property
    def schema(self) -> Schema:
        return Schema.of(self.federation.first_parameters(self.config))

    def read(self, server: Any, version: int) -> None:
        """Read the server's state beside ``version``, through the run's key."""
        office, config = server._office, self.config
        file = server_run.start_run(office, config, self.federation.first_parameters(config), "")
        states = RuleStates(office, file, file.rule)
        found: dict[str, dict[str, Any]] = {}
        table = states.table(version)
        for plane in file.rule.state_planes:
            with ExitStack() as stack:
                rows = states.open(version, plane, stack)
                for site, row in zip(self.federation.sites, rows, strict=True):
                    values = None if row is None else np.frombuffer(row.read()[len(row.schema.header()) :], np.float32)
                    found.setdefault(site, {"rho": table.rho[site]})[plane] = values
        self.pairs.append(found)

    def play(self, meddle: Any = None, answers: Any = None, **changes: Any) -> tuple[Any, list[Event]]:
        transport = DirectTransport(self.sites, meddle=meddle, answers=answers, clock=self.federation.clock)
        with self.federation.server(transport, **changes) as server:
            result = server.run(self.config, self.federation.first_parameters(self.config))
            if result.versions:
                self.read(server, result.versions)
            return result, [peek_event(server.log.entry(index)) for index in range(server.log.size)]

    def require_equal(self) -> None:
        """Every site's pair is the server's, bit for bit."""
        for name in self.federation.sites:
            kept, pair = self.pairs[-1][name], self.pair_at_site(name)
            if pair is None:
                assert kept["dual"] is None
                continue
            names = [spec.name for spec in self.schema.floats().tensors]
            for plane in ("dual", "primal"):
                mine = np.concatenate([getattr(pair, plane)[one] for one in names])
                assert np.array_equal(mine.view(np.uint32), kept[plane].view(np.uint32)), (name, plane)
            assert pair.rho == kept["rho"]


@contextlib.contextmanager
def world(folder: Path, config: Any = None, count: int = 4, **changes: Any) -> Iterator[World]:
    federation = Federation.make(folder / "fed", count, **changes)
    found = World(federation, config or config_of())
    with ExitStack() as stack:
        for name in federation.sites:
            found.sites[name] = stack.enter_context(federation.site(name))
        yield found


def verified(federation: Federation) -> None:
    source = FolderSource(federation.log_folder)
    findings = verify(source, Trust(federation.charter, objects=source.objects()))
    assert [row.id for row in findings.rows if row.status is Status.FAIL] == []


def replayed(federation: Federation) -> list[Status]:
    source = FolderSource(federation.log_folder)
    found = replay(source, federation.charter, federation.store(), federation.keys[AUDITOR].opening)
    assert all(step.status is Status.PASS for step in found.steps), [step.reason for step in found.steps]
    return [step.status for step in found.steps]


@pytest.mark.parametrize("rule", RULES)
def test_both_ends_hold_the_same_pairs(tmp_path: Path, rule: str) -> None:
    with world(tmp_path, config_of(3, rule), auditor=True) as one:
        result, log = one.play()
        one.require_equal()
    assert (result.outcome, result.versions, result.witnessed) == ("completed", 3, True)
    states = [event.state for event in log if isinstance(event, AggregateCommit)]
    assert None not in states and len(set(states)) == 3
    verified(one.federation)
    assert len(replayed(one.federation)) == 3
