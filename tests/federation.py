"""A federation for tests: real keys, charter, roster, folders; sites in this process behind an in-process transport.

Nothing is faked but distance: `DirectTransport` hands deliveries to `Site.handle` as bytes and returns its bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from counterseal.durable import Probe, silent
from counterseal.runtime.config import (
    AggregationConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainerConfig,
)
from counterseal.runtime.progress import Observer, ignore
from counterseal.runtime.server.server import Server
from counterseal.runtime.site.site import Site
from counterseal.runtime.site.steward import Steward
from counterseal.runtime.stores.directory import DirectoryGrantClient, DirectoryStore
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Arrays, SiteData, Trainer
from counterseal.runtime.transports.seam import Arrival
from counterseal.trust.charter.model import Aggregation, Charter, Group, Limits, Member, QuorumTerms
from counterseal.trust.charter.signing import SignedCharter, sign_charter, verify_charter
from counterseal.trust.group import RosterAuthorizer
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.statement import make_statement

SERVER = "server@fed.example"
ORIGIN = "fed.example/log"
START = 1_800_000_000


class Clock:
    """Seconds that a test can move; they also pass by themselves, so that waiting ends."""

    def __init__(self, start: int = START) -> None:
        self.offset = start - time.time()

    def __call__(self) -> int:
        return int(time.time() + self.offset)

    def advance(self, seconds: float) -> None:
        self.offset += seconds


def site_names(count: int) -> tuple[str, ...]:
    return tuple(f"site-{letter}@fed.example" for letter in "abcdefghijklmnop"[:count])


@dataclass
class DirectTransport:
    """Deliveries to sites of this process. ``meddle`` may change, drop (None) or repeat what passes."""

    sites: Mapping[str, Site]
    meddle: Callable[[str, bytes], bytes | None] | None = None
    answers: Callable[[str, bytes], bytes | None] | None = None
    clock: Clock | None = None
    """Moved on when there is nothing to wait for, so that deadlines can be long and tests short."""
    waiting: list[Arrival] = field(default_factory=list)
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)

    def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
        self.seen.append((site, ticket, delivery))
        passed = delivery if self.meddle is None else self.meddle(site, delivery)
        if passed is None or site not in self.sites:
            return
        answer: bytes | None = self.sites[site].handle(passed)
        if self.answers is not None and answer is not None:
            answer = self.answers(site, answer)
        if answer is not None:
            self.waiting.append(Arrival(site, ticket, answer))

    def poll(self, timeout: float) -> list[Arrival]:
        found, self.waiting = self.waiting, []
        if not found:
            time.sleep(min(timeout, 0.002))
            if self.clock is not None:
                self.clock.advance(timeout)  # nobody else will speak: do not make the test wait
        return found

    def recover(self, tickets: dict[str, str]) -> set[str]:
        return set()

    def close(self) -> None:
        self.waiting.clear()


def data_of(site: str, examples: int = 40, inputs: int = 6, classes: int = 3) -> SiteData:
    """Separable data, a little different at each site."""
    generator = np.random.default_rng(sum(site.encode()))
    centres = np.random.default_rng(7).normal(size=(classes, inputs)) * 2
    y = generator.integers(0, classes, examples)
    x = (centres[y] + generator.normal(size=(examples, inputs))).astype(np.float32)
    half = examples // 2
    return SiteData(Arrays(x[:half], y[:half].astype(np.int64)), Arrays(x[half:], y[half:].astype(np.int64)))


def run_config(name: str = "run-1", rounds: int = 2, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "name": name,
        "seed": 3,
        "rounds": rounds,
        "model": ModelConfig(name="logistic", parameters={"inputs": 6, "classes": 3}),
        "trainer": TrainerConfig(
            name="numpy-linear",
            optimizer=OptimizerConfig(name="sgd", parameters={"lr": 0.5}),
            epochs=1,
            batch_size=10,
        ),
        "aggregation": AggregationConfig(clip_norm=2.0),
        "minimum_sites": 1,
        "round_seconds": 30,
        "evaluation": EvaluationConfig(sites=True, server=False),
    }
    return RunConfig(**{**values, **changes})


@dataclass
class Federation:
    """Folders, keys and charter of a federation; opens servers and sites on them."""

    folder: Path
    sites: tuple[str, ...]
    keys: dict[str, MemberKeys]
    charter: SignedCharter
    clock: Clock

    @classmethod
    def make(
        cls,
        folder: Path,
        count: int = 3,
        *,
        clock: Clock | None = None,
        suite: Any = "MLKEM768_X25519",
        commit_before_upload: bool = False,
        auditor: bool = False,
        quorum: QuorumTerms | None = None,
        norm_bound: float = 100.0,
    ) -> Federation:
        clock = Clock() if clock is None else clock
        now, sites = clock(), site_names(count)
        names = (SERVER, *sites, *(("auditor@fed.example",) if auditor else ()))
        keys = {name: MemberKeys.generate(suite, operator=name == SERVER) for name in names}
        members = tuple(_member(name, keys[name], now, sites) for name in names)
        smallest = (count + 1) // 2 + 1
        terms = QuorumTerms(k=min(count, smallest), f=1, unwitnessed=2 * min(count, smallest) <= count + 1)
        charter = Charter(
            version=1,
            previous=None,
            federation="test-federation",
            title="A federation for tests",
            log_origin=ORIGIN,
            group=Group(id="test-group", authorizer="roster"),
            suite=suite,
            members=members,
            server=SERVER,
            auditor="auditor@fed.example" if auditor else None,
            quorum=quorum or terms,
            cosign_lag=1,
            commit_before_upload=commit_before_upload,
            max_staleness=0,
            limits=Limits(update_bytes=1 << 30, norm_bound=norm_bound, ticket_seconds=60, round_seconds=60),
            aggregation=Aggregation(rule="norm-clipped-fedavg", clip_norm=1.0),
            dispute_window_seconds=86_400,
        )
        raw = charter.payload()
        signatures = [sign_charter(raw, name, keys[name].signer, sha256(raw), now=now).raw for name in names]
        signed = verify_charter(raw, signatures, now=now)
        federation = cls(folder, sites, keys, signed, clock)
        folder.mkdir(parents=True, exist_ok=True)
        federation.roster({name: "active" for name in names})
        return federation

    @property
    def roster_path(self) -> Path:
        return self.folder / "roster.yaml"

    @property
    def log_folder(self) -> Path:
        return self.folder / "server" / "log"

    def roster(self, status: Mapping[str, str]) -> None:
        """Write the roster: everybody's roles as in the charter, with these statuses."""
        lines = ["group: test-group", "members:"]
        for member in self.charter.charter.members:
            if member.identity in status:
                lines += [
                    f"  - identity: {member.identity}",
                    f"    status: {status[member.identity]}",
                    f"    roles: [{', '.join(member.roles)}]",
                ]
        draft = self.roster_path.with_suffix(".draft")
        draft.write_text("\n".join(lines) + "\n")
        draft.chmod(0o600)
        draft.replace(self.roster_path)

    def remove(self, name: str) -> None:
        """Take ``name`` out of the group."""
        self.roster(
            {one.identity: "removed" if one.identity == name else "active" for one in self.charter.charter.members}
        )

    def store(self, probe: Probe = silent) -> DirectoryStore:
        return DirectoryStore(self.folder / "store", probe, clock=self.clock)

    def site(self, name: str, *, probe: Probe = silent, **changes: Any) -> Site:
        values: dict[str, Any] = {
            "identity": name,
            "charter": self.charter,
            "keys": self.keys[name],
            "state": self.folder / name,
            "store": DirectoryGrantClient(self.folder / "store", probe, clock=self.clock),
            "authorizer": RosterAuthorizer(self.roster_path, self.clock),
            "trainers": lambda config: trainer_of(config, name),
            "steward": Steward.unprotected(self.charter),
            "clock": self.clock,
            "probe": probe,
        }
        (self.folder / "store").mkdir(exist_ok=True)
        return Site(**{**values, **changes})

    def server(self, transport: Any, *, probe: Probe = silent, observe: Observer = ignore, **changes: Any) -> Server:
        (self.folder / "store").mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "charter": self.charter,
            "keys": self.keys[SERVER],
            "state": self.folder / "server",
            "log": self.log_folder,
            "store": self.store(probe),
            "authorizer": RosterAuthorizer(self.roster_path, self.clock),
            "transport": transport,
            "clock": self.clock,
            "observe": observe,
            "probe": probe,
        }
        return Server(**{**values, **changes})

    def first_parameters(self, config: RunConfig) -> dict[str, Any]:
        return build_trainer(config, site=SERVER).initial_parameters(config.seed)


def trainer_of(config: RunConfig, site: str) -> Trainer:
    return build_trainer(config, site=site, data=data_of(site))


def _member(name: str, keys: MemberKeys, now: int, sites: tuple[str, ...]) -> Member:
    roles: tuple[Any, ...] = ("server",) if name == SERVER else ("site",) if name in sites else ("auditor",)
    statement = make_statement(
        keys,
        federation="test-federation",
        identity=name,
        log_origin=ORIGIN,
        not_before=now - 10,
        not_after=now + 30 * 86_400,
    )
    return Member(
        identity=name,
        name=f"Institution {name}",
        roles=roles,
        weight=1.0 + len(name) % 3 if name in sites else None,
        statement=statement.raw.decode(),
    )


__all__ = ["Clock", "DirectTransport", "Federation", "SERVER", "data_of", "replace", "run_config", "site_names"]
