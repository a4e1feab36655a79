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

from counterseal.runtime.config import EvaluationConfig, ModelConfig, RunConfig
from counterseal.runtime.server.run import RunResult
from counterseal.runtime.site.site import Site
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Array, SiteData, Trainer, TrainingResult
from counterseal.runtime.transports.local import LocalTransport
from counterseal.tests.federation import SERVER, DirectTransport, Federation, data_of, run_config

from .nursery import Nursery
from .points import Watch, probe_of
from .verdict import Scene

SECONDS = 60
"""Of a round, and of a witness ticket: a restart that waits for a deadline is caught by the clock."""


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

    @property
    def inputs(self) -> int:
        """Columns of the weight; 16 MiB is the longest object that is put in one piece."""
        return 1_500_000 if self.large else 6

    def federation(self, folder: Path) -> Federation:
        """Found the federation: keys and charter are drawn once, each case gets a copy of the folder."""
        return Federation.make(folder, self.sites, commit_before_upload=self.commit_before_upload)

    def config(self) -> RunConfig:
        model = ModelConfig(name="logistic", parameters={"inputs": self.inputs, "classes": 3})
        evaluation = EvaluationConfig(sites=not self.large)
        return run_config(rounds=self.rounds, round_seconds=SECONDS, model=model, evaluation=evaluation)


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

    def train(self, parameters: Mapping[str, Array], *, seed: int, round_number: int) -> TrainingResult:
        time.sleep(self.seconds)
        return self.trainer.train(parameters, seed=seed, round_number=round_number)

    def evaluate(self, parameters: Mapping[str, Array], split: str = "test") -> dict[str, float]:
        return self.trainer.evaluate(parameters, split)


def open_site(federation: Federation, setting: Setting, name: str, watch: Watch) -> Site:
    """Open the site ``name``; a large model is trained on few examples."""

    def trainer(config: RunConfig) -> Trainer:
        data = large_data(name, setting.inputs) if setting.large else data_of(name)
        return Slow(build_trainer(config, site=name, data=data), setting.seconds)

    return federation.site(name, probe=probe_of(watch, name), trainers=trainer)


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
