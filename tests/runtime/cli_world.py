"""What the tests of the command line share: a runner, real processes, and a small federation on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from counterseal.runtime.cli.application import app
from counterseal.runtime.config import (
    AggregationConfig,
    LoaderConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainerConfig,
)
from counterseal.runtime.founding.federation import Founded, found_federation
from counterseal.runtime.training.plugins import file_digest

SITES = ("site-a@fed.example", "site-b@fed.example", "site-c@fed.example")

LOADER = """
import numpy as np
from counterseal.runtime.training.seam import Arrays, SiteData


def load(parameters):
    print("a plug-in that prints")
    generator = np.random.default_rng(parameters["seed"])
    centres = np.random.default_rng(7).normal(size=(3, 6)) * 2
    y = generator.integers(0, 3, 40)
    x = (centres[y] + generator.normal(size=(40, 6))).astype(np.float32)
    y = y.astype(np.int64)
    return SiteData(Arrays(x[:20], y[:20]), Arrays(x[20:], y[20:]))
"""


def call(*arguments: object, stdin: str | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(one) for one in arguments], input=stdin)


def document(result: Result) -> Any:
    """Return the one JSON document that a command printed."""
    return json.loads(result.stdout)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "counterseal.runtime.cli", *(str(one) for one in arguments)]


def execute(*arguments: object, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    values: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "stdin": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*arguments), env=environment, check=False, **{**values, **changes})


def require_clean(done: subprocess.CompletedProcess[str], code: int) -> None:
    """A process ended as it should, and no traceback was shown."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr


@dataclass(frozen=True)
class World:
    """A federation whose sites train with numpy on data of their own."""

    folder: Path
    founded: Founded

    @classmethod
    def make(cls, folder: Path, rounds: int = 2) -> World:
        folder.mkdir(parents=True, exist_ok=True)
        loader = folder / "loader.py"
        loader.write_text(LOADER)
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
            minimum_sites=3,
            round_seconds=60,
        )
        approved = file_digest(loader)
        loaders = {
            site: LoaderConfig(file=loader, sha256=approved, parameters={"seed": number})
            for number, site in enumerate(SITES)
        }
        return cls(folder, found_federation(folder / "federation", SITES, run=run, loaders=loaders))

    @property
    def server(self) -> Path:
        return self.founded.server_config

    @property
    def log(self) -> Path:
        return self.server.parent / "log"

    def site(self, number: int = 0) -> Path:
        return self.founded.site_configs[SITES[number]]

    def secrets(self) -> list[str]:
        """Every passphrase of the federation."""
        return [path.read_text().strip() for path in self.folder.rglob("passphrase")]
