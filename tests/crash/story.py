"""One life of a federation in this process: from whatever the folder holds to the end of the run."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from counterseal.privacy.ledger.ledger import Ledger
from counterseal.privacy.ledger.path_anchor import PathAnchor
from counterseal.runtime.config import AggregationConfig, EvaluationConfig, ModelConfig, RunConfig
from counterseal.runtime.config.privacy import RunPrivacy
from counterseal.runtime.server.run import RunResult
from counterseal.runtime.site.price import price_of
from counterseal.runtime.site.site import Site
from counterseal.runtime.site.steward import Steward
from counterseal.runtime.stores.directory import DirectoryGrantClient
from counterseal.runtime.stores.grants import Grant
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Array, SiteData, Trainer, TrainingResult
from counterseal.runtime.transports.local import LocalTransport
from counterseal.tests.federation import SERVER, DirectTransport, Federation, data_of, run_config
from counterseal.tests.private import ledger_of, privacy_of
from counterseal.trust.identifiers import sha256
from counterseal.trust.policy.policy import SitePolicy
from counterseal.trust.terms import PrivacyTerms

from .nursery import Nursery
from .points import Watch, probe_of
from .verdict import Scene

SECONDS = 60
"""Of a round, and of a witness ticket: a restart that waits for a deadline is caught by the clock."""

TERMS = PrivacyTerms(
    mechanism="output-gaussian",
    unit="site",
    adjacency="any",
    clip_norm=0.5,
    noise_multiplier=2.0,
    delta=1e-5,
    releases=3,
)
"""One release more than a run of two rounds draws: the last is given back."""


@dataclass(frozen=True)
class Setting:
    """Which federation plays which run."""

    name: str
    sites: int = 3
    rounds: int = 2
    commit_before_upload: bool = False
    seconds: float = 0.0
    """How long a site trains at least."""
    large: bool = False
    """A model whose sealed blobs are put in several parts."""
    private: bool = False
    """Every site has a ledger with an anchor, and noises what it sends."""
    rule: str = "norm-clipped-fedavg"

    @property
    def inputs(self) -> int:
        """Columns of the weight; 16 MiB is the longest object that is put in one piece."""
        return 1_500_000 if self.large else 6

    def federation(self, folder: Path) -> Federation:
        """Found the federation: keys and charter are drawn once, each case gets a copy of the folder."""
        found = Federation.make(
            folder, self.sites, commit_before_upload=self.commit_before_upload, auditor=self.replayed
        )
        if self.private:
            for name in found.sites:
                ledger_of(folder, name)
            _policy()
            for releases in range(1, TERMS.releases + 1):  # computed here, the children inherit it
                price_of(TERMS, None, (self.inputs + 1) * 3).stated(releases)
        return found

    @property
    def stateful(self) -> bool:
        """Whether both ends keep duals."""
        return self.rule == "iiadmm"

    @property
    def central(self) -> bool:
        """Whether the server draws noise."""
        return self.rule == "dp-fedavg"

    @property
    def replayed(self) -> bool:
        """Whether there is an auditor, who recomputes every version."""
        return self.stateful or self.central

    @property
    def random(self) -> bool:
        """Whether another run makes other models."""
        return self.private or self.central

    def config(self) -> RunConfig:
        """Return the run's configuration."""
        model = ModelConfig(name="logistic", parameters={"inputs": self.inputs, "classes": 3})
        rule: dict[str, Any] = {"rule": self.rule, "clip_norm": 50.0 if self.stateful else 2.0}
        if self.stateful:
            rule |= {"rho": 1.0, "zeta": 8.0}
        if self.central:
            rule |= {"noise_multiplier": 0.25, "sites": self.sites, "delta": 1e-3}
        return run_config(
            rounds=self.rounds,
            round_seconds=SECONDS,
            model=model,
            evaluation=EvaluationConfig(sites=not (self.large or self.random)),
            aggregation=AggregationConfig(**rule),
            privacy=RunPrivacy(terms=TERMS) if self.private else None,
        )


SETTINGS = {
    one.name: one
    for one in (
        Setting("plain"),
        Setting("two-steps", commit_before_upload=True),
        Setting("four-sites", sites=4, rounds=1),
        Setting("four-sites-two-steps", sites=4, rounds=1, commit_before_upload=True),
        Setting("busy", rounds=1, seconds=1.0),
        Setting("multipart", rounds=1, large=True),
        Setting("multipart-two-steps", rounds=1, large=True, commit_before_upload=True),
        Setting("private", private=True),
        Setting("admm", rule="iiadmm"),
        Setting("private-admm", private=True, rule="iiadmm"),
        Setting("central", rule="dp-fedavg"),
    )
}


def copy_of(federation: Federation, folder: Path) -> Federation:
    """Return the same federation in a fresh copy of its folder."""
    shutil.copytree(federation.folder, folder)
    return replace(federation, folder=folder)


@dataclass(frozen=True)
class Overheard:
    """A site whose receipts are written down the moment they leave it, whatever becomes of them."""

    site: Site
    notes: Path

    def handle(self, delivery: bytes) -> bytes:
        answer = self.site.handle(delivery)
        with self.notes.open("ab", buffering=0) as file:
            file.write(answer + b"\n")
        return answer


def notes_of(federation: Federation, site: str) -> Path:
    """Return where the answers of ``site`` are written down: beside the federation's folder, no part of it."""
    return federation.folder.with_name(f"{federation.folder.name}.{site}.answers")


def uploads_of(federation: Federation, site: str) -> Path:
    """Return where it is written down what ``site`` sends to the store."""
    return federation.folder.with_name(f"{federation.folder.name}.{site}.uploads")


class Watched(DirectoryGrantClient):
    """A site's end of the store that writes down the digest of whatever is about to be put, and where."""

    def __init__(self, federation: Federation, site: str, watch: Watch) -> None:
        super().__init__(federation.folder / "store", probe_of(watch, site), clock=federation.clock)
        self._notes = uploads_of(federation, site)

    def upload(
        self, grant: Grant, source: bytes | Path, *, compare: Grant | None = None, unchanging: bool = False
    ) -> tuple[str, ...]:
        data = source if isinstance(source, bytes) else source.read_bytes()
        with self._notes.open("a", buffering=1) as file:
            file.write(f"{grant.key} {sha256(data)}\n")
        return super().upload(grant, source, compare=compare, unchanging=unchanging)


def anchor_of(federation: Federation, site: str, watch: Watch) -> PathAnchor:
    """Return the anchor of the site's ledger, as `private.ledger_of` placed it."""
    return PathAnchor(federation.folder / "anchors" / f"{site}.mark", probe=probe_of(watch, site))


def ledger_path(federation: Federation, site: str) -> Path:
    """Return the file of the site's ledger, as `private.ledger_of` placed it."""
    return federation.folder / "ledgers" / site / "ledger.sqlite"


def steward_of(federation: Federation, site: str, watch: Watch) -> Steward:
    """Return the steward of a site with a ledger."""
    ledger = Ledger.open(ledger_path(federation, site), anchor_of(federation, site, watch), probe=probe_of(watch, site))
    privacy = privacy_of(federation.folder, site)
    return Steward(federation.charter, site, policy=_policy(), privacy=privacy, ledger=ledger)


@cache
def _policy() -> SitePolicy:
    return SitePolicy.default()


def scene_of(federation: Federation) -> Scene:
    """Return where to look at what ``federation`` left."""
    folder, sites = federation.folder, federation.sites
    return Scene(
        charter=federation.charter,
        log=federation.log_folder,
        server=folder / "server",
        sites={name: folder / name for name in sites},
        notes={name: notes_of(federation, name) for name in sites},
    )


@cache
def large_data(site: str, inputs: int) -> SiteData:
    """Return a few wide examples; drawn once, before the forks."""
    return data_of(site, examples=4, inputs=inputs)


@dataclass(frozen=True)
class Slow:
    """A trainer that takes its time."""

    trainer: Trainer
    seconds: float

    @property
    def device(self) -> str:
        return self.trainer.device

    def initial_parameters(self, seed: int) -> dict[str, Array]:
        return self.trainer.initial_parameters(seed)

    @property
    def dimensions(self) -> int:
        return self.trainer.dimensions

    def train(self, parameters: Mapping[str, Array], *, seed: int, round_number: int, **solver: Any) -> TrainingResult:
        time.sleep(self.seconds)
        return self.trainer.train(parameters, seed=seed, round_number=round_number, **solver)

    def count_right(self, parameters: Mapping[str, Array]) -> tuple[int, int]:
        return self.trainer.count_right(parameters)

    def evaluate(self, parameters: Mapping[str, Array], split: str = "test") -> dict[str, float]:
        return self.trainer.evaluate(parameters, split)


def open_site(federation: Federation, setting: Setting, name: str, watch: Watch) -> Site:
    """Open the site ``name``; a large model is trained on few examples."""

    def trainer(config: RunConfig) -> Trainer:
        data = large_data(name, setting.inputs) if setting.large else data_of(name)
        return Slow(build_trainer(config, site=name, data=data), setting.seconds)

    changes: dict[str, Any] = {}
    if setting.private:
        changes = {"steward": steward_of(federation, name, watch), "store": Watched(federation, name, watch)}
    return federation.site(name, probe=probe_of(watch, name), trainers=trainer, **changes)


def live(federation: Federation, setting: Setting, watch: Watch) -> RunResult:
    """Play the run to its end with everybody in this process."""
    with contextlib.ExitStack() as stack:
        sites: dict[str, Any] = {}
        for name in federation.sites:
            site = stack.enter_context(open_site(federation, setting, name, watch))
            sites[name] = Overheard(site, notes_of(federation, name))
        server = stack.enter_context(federation.server(DirectTransport(sites), probe=probe_of(watch, SERVER)))
        config = setting.config()
        return server.run(config, federation.first_parameters(config))


def live_apart(federation: Federation, setting: Setting, watch: Watch) -> RunResult:
    """Play the run with every site in a process of its own: whoever is killed, the others live on, for a while or for good."""

    @contextlib.contextmanager
    def opened(name: str) -> Iterator[Any]:
        with open_site(federation, setting, name, watch) as site:
            yield Overheard(site, notes_of(federation, name))

    nursery = Nursery(opened)
    try:
        with federation.server(LocalTransport(nursery.start), probe=probe_of(watch, SERVER)) as server:
            config = setting.config()
            return server.run(config, federation.first_parameters(config))
    finally:
        nursery.close()
