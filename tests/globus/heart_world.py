"""A federation that a person would found: a Globus group, a service account for every party, real configurations on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from counterseal.runtime.config import (
    AggregationConfig,
    GlobusConfig,
    LoaderConfig,
    ModelConfig,
    OptimizerConfig,
    PassphraseConfig,
    RunConfig,
    TrainerConfig,
)
from counterseal.runtime.founding.federation import Founded, found_federation
from counterseal.runtime.training.plugins import file_digest
from counterseal.tests.standin.cloud import Cloud

from ..runtime.cli_world import LOADER

__all__ = ["HeartFederation", "private"]


def private(path: Path, text: str) -> Path:
    """Write ``text`` into a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return path


@dataclass(frozen=True)
class HeartFederation:
    """Four sites and a server, whose identities are those of their service accounts."""

    cloud: Cloud
    group: str
    server: str
    sites: tuple[str, ...]
    configs: dict[str, GlobusConfig]
    founded: Founded

    @classmethod
    def make(
        cls, cloud: Cloud, folder: Path, rounds: int = 2, minimum: int = 2, round_seconds: int = 60
    ) -> HeartFederation:
        folder.mkdir(parents=True, exist_ok=True)
        configs: dict[str, GlobusConfig] = {}
        names = []
        for name in ("server", "site-a", "site-b", "site-c", "site-d"):
            client, secret = cloud.client(name)
            place = private(folder / "secrets" / name, secret)
            configs[client] = GlobusConfig(
                client_id=client, client_secret=PassphraseConfig(file=place), insecure_test_cloud=cloud.url
            )
            names.append(client)
        server, sites = names[0], tuple(sorted(names[1:]))
        group = cloud.group("heart", {name: ("manager" if name == server else "member", "active") for name in names})
        loader = folder / "loader.py"
        loader.write_text(LOADER)
        approved = file_digest(loader)
        run = RunConfig(
            name="run-1",
            seed=3,
            rounds=rounds,
            model=ModelConfig(name="logistic", parameters={"inputs": 6, "classes": 3}),
            trainer=TrainerConfig(
                name="numpy-linear",
                optimizer=OptimizerConfig(name="sgd", parameters={"lr": 0.5}),
                epochs=1,
                batch_size=10,
            ),
            aggregation=AggregationConfig(clip_norm=2.0),
            minimum_sites=minimum,
            round_seconds=round_seconds,
        )
        founded = found_federation(
            folder / "federation",
            sites,
            run=run,
            loaders={
                site: LoaderConfig(file=loader, sha256=approved, parameters={"seed": number})
                for number, site in enumerate(sites)
            },
            server=server,
            group=group,
            globus=configs,
        )
        return cls(cloud, group, server, sites, configs, founded)
