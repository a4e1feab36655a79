"""One life of a federation in this process: from whatever the folder holds to the end of the run."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counterseal.runtime.config import ModelConfig, RunConfig
from counterseal.runtime.server.run import RunResult
from counterseal.runtime.site.site import Site
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Trainer
from counterseal.tests.federation import SERVER, DirectTransport, Federation, data_of, run_config

from .points import Watch, probe_of

SECONDS = 60
"""Of a round, and of a witness ticket: a restart that waits for a deadline is caught by the clock."""


@dataclass(frozen=True)
class Setting:
    """Which federation plays which run."""

    name: str
    sites: int = 3
    rounds: int = 2
    commit_before_upload: bool = False
    inputs: int = 6

    def federation(self, folder: Path) -> Federation:
        """Found the federation: keys and charter are drawn once, each case gets a copy of the folder."""
        return Federation.make(folder, self.sites, commit_before_upload=self.commit_before_upload)

    def config(self) -> RunConfig:
        model = ModelConfig(name="logistic", parameters={"inputs": self.inputs, "classes": 3})
        return run_config(rounds=self.rounds, round_seconds=SECONDS, model=model)


SETTINGS = {
    one.name: one
    for one in (
        Setting("plain"),
        Setting("two-steps", commit_before_upload=True),
        Setting("four-sites", sites=4, rounds=1),
        Setting("four-sites-two-steps", sites=4, rounds=1, commit_before_upload=True),
        Setting("multipart", rounds=1, inputs=1_500_000),
        Setting("multipart-two-steps", rounds=1, inputs=1_500_000, commit_before_upload=True),
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


def open_site(federation: Federation, setting: Setting, name: str, watch: Watch) -> Site:
    """Open the site ``name``; a large model is trained on few examples."""
    if setting.inputs == 6:
        return federation.site(name, probe=probe_of(watch, name))
    data = data_of(name, examples=4, inputs=setting.inputs)

    def trainer(config: RunConfig) -> Trainer:
        return build_trainer(config, site=name, data=data)

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
