"""A round that was interrupted and resumed gives the bytes of one that was not."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from counterseal.runtime.config import (
    AggregationConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PluginConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
)
from counterseal.runtime.demo.datasets import load_dataset
from counterseal.runtime.errors import TrainingError, TrainingFailedError
from counterseal.runtime.training.plugins import file_digest
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Arrays, SiteData, Trainer, parameters_digest

FUSE = '''
"""A loss that fails at its n-th call when the fuse file says so: an interruption without a change of configuration."""
from pathlib import Path
from torch.nn import functional

def build(fuse):
    calls = 0
    def loss(outputs, targets):
        nonlocal calls
        calls += 1
        path = Path(fuse)
        with path.with_suffix(".calls").open("a") as file:
            file.write("x")
        if path.exists() and calls == int(path.read_text()):
            raise RuntimeError("power cut")
        return functional.cross_entropy(outputs, targets, reduction="none")
    return loss
'''

BATCHES = 4  # 100 examples by 32


@pytest.fixture(scope="module")
def data() -> SiteData:
    found = load_dataset("digits")
    return SiteData(Arrays(found.train.x[:100], found.train.y[:100]))


class Workshop:
    """Builds trainers that share a checkpoint folder and a fuse."""

    def __init__(self, folder: Path, data: SiteData, **trainer: Any) -> None:
        self.fuse, self.data = folder / "fuse", data
        path = folder / "fused.py"
        path.write_text(FUSE, encoding="utf-8")
        self.plugin = PluginConfig(kind="loss", name="fused", file=path, sha256=file_digest(path))
        self.checkpoints = folder / "checkpoints"
        values: dict[str, Any] = {"epochs": 4, "loss": LossConfig(name="fused", parameters={"fuse": str(self.fuse)})}
        self.run = RunConfig(
            name="digits",
            seed=1,
            rounds=1,
            model=ModelConfig(name="mlp", parameters={"inputs": 64, "classes": 10, "hidden": [16], "dropout": 0.3}),
            trainer=TrainerConfig(**(values | trainer)),
            aggregation=AggregationConfig(clip_norm=1.0),
            minimum_sites=1,
        )

    def trainer(self, *, checkpoints: bool = True, data: SiteData | None = None, site: str = "a") -> Trainer:
        return build_trainer(
            self.run,
            site=site,
            data=data or self.data,
            checkpoints=self.checkpoints if checkpoints else None,
            plugins=(self.plugin,),
        )

    def calls(self) -> int:
        path = self.fuse.with_suffix(".calls")
        count = len(path.read_text()) if path.exists() else 0
        path.unlink(missing_ok=True)
        return count

    def interrupt(self, batch: int) -> None:
        self.fuse.write_text(str(batch))
        trainer = self.trainer()
        with pytest.raises(TrainingFailedError):
            trainer.train(trainer.initial_parameters(1), seed=1, round_number=0)
        self.fuse.unlink()
        self.calls()

    def digest(self, **how: Any) -> str:
        trainer = self.trainer(**how)
        return parameters_digest(trainer.train(trainer.initial_parameters(1), seed=1, round_number=0).parameters)


KINDS: list[dict[str, Any]] = [
    {"optimizer": OptimizerConfig(name="sgd", parameters={"lr": 0.1, "momentum": 0.9})},
    {"optimizer": OptimizerConfig(name="adam", parameters={"lr": 0.01, "betas": [0.8, 0.9], "amsgrad": True})},
    {"optimizer": OptimizerConfig(name="nadam")},
    {"optimizer": OptimizerConfig(name="asgd")},
    {"optimizer": OptimizerConfig(name="rprop")},
    {"scheduler": SchedulerConfig(name="step", parameters={"step_size": 1, "gamma": 0.5})},
    {"scheduler": SchedulerConfig(name="multistep", parameters={"milestones": [1, 3], "gamma": 0.5})},
    {"scheduler": SchedulerConfig(name="cosine", parameters={"T_max": 4})},
    {"scheduler": SchedulerConfig(name="cosine-restarts", parameters={"T_0": 2})},
    {"scheduler": SchedulerConfig(name="linear", parameters={"total_iters": 3})},
    {"scheduler": SchedulerConfig(name="polynomial", parameters={"total_iters": 3, "power": 2.0})},
    {"scheduler": SchedulerConfig(name="constant", parameters={"total_iters": 3})},
    {"scheduler": SchedulerConfig(name="exponential", parameters={"gamma": 0.7}, step="round")},
    {"scheduler": SchedulerConfig(name="plateau", parameters={"patience": 0, "threshold": 0.5})},
    {"epochs": None, "steps": 14},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(next(iter(kind.values()))).split("'")[1:2])
def test_resumed_is_uninterrupted(tmp_path: Path, data: SiteData, kind: dict[str, Any]) -> None:
    workshop = Workshop(tmp_path, data, **kind)
    expected = workshop.digest(checkpoints=False)
    whole = workshop.calls()
    for batch in (BATCHES + 1, 3 * BATCHES):  # at the start of the second epoch; at the end of the third
        workshop.interrupt(batch)
        assert workshop.digest() == expected
        assert workshop.calls() == whole - (batch - 1) // BATCHES * BATCHES  # finished epochs are not trained again
        for path in workshop.checkpoints.iterdir():
            path.unlink()


def test_a_finished_round_is_not_trained_again(tmp_path: Path, data: SiteData) -> None:
    workshop = Workshop(tmp_path, data)
    expected = workshop.digest()
    workshop.calls()
    assert workshop.digest() == expected
    assert workshop.calls() == 0


def test_only_the_same_training_resumes(tmp_path: Path, data: SiteData) -> None:
    """Another start, seed, round, site or data set trains from its own start."""
    workshop = Workshop(tmp_path, data)
    trainer = workshop.trainer()
    start = trainer.initial_parameters(1)
    other_data = SiteData(Arrays(data.train.x[::-1].copy(), data.train.y))
    other_start = trainer.initial_parameters(2)
    acts: tuple[Callable[[], object], ...] = (
        lambda: trainer.train(other_start, seed=1, round_number=0),
        lambda: trainer.train(start, seed=2, round_number=0),
        lambda: trainer.train(start, seed=1, round_number=1),
        lambda: workshop.trainer(site="b").train(start, seed=1, round_number=0),
        lambda: workshop.trainer(data=other_data).train(start, seed=1, round_number=0),
    )
    for act in acts:
        trainer.train(start, seed=1, round_number=0)
        workshop.calls()
        act()
        assert workshop.calls() == 4 * BATCHES
        assert len(list(workshop.checkpoints.iterdir())) == 1  # the other training's is gone


def test_checkpoints_are_private_safetensors(tmp_path: Path, data: SiteData) -> None:
    workshop = Workshop(tmp_path, data)
    before = os.umask(0)
    try:
        workshop.digest()
    finally:
        os.umask(before)
    (path,) = workshop.checkpoints.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(workshop.checkpoints.stat().st_mode) == 0o700
    assert "model/hidden1.weight" in load_file(path)


def damage(path: Path, how: str) -> None:
    opened: Any = safe_open(path, framework="numpy")
    with opened as file:
        record = json.loads(file.metadata()["counterseal-checkpoint"])
    arrays = load_file(path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-4])
        return
    if how == "pickle":
        path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/never'\ntR.")
        return
    if how == "shape":
        arrays["model/output.bias"] = np.zeros(3, np.float32)
    if how == "missing":
        del arrays["model/output.bias"]
    if how == "another":
        record["key"] = "0" * 64
    if how == "stranger":
        arrays["loose"] = np.zeros(3, np.float32)
    save_file(arrays, path, metadata={} if how == "bare" else {"counterseal-checkpoint": json.dumps(record)})


@pytest.mark.parametrize("how", ["truncated", "pickle", "shape", "missing", "another", "stranger", "bare"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, data: SiteData, how: str) -> None:
    workshop = Workshop(tmp_path, data)
    workshop.interrupt(2 * BATCHES + 1)
    (path,) = workshop.checkpoints.iterdir()
    damage(path, how)
    with pytest.raises(TrainingError, match="the checkpoint is damaged") as caught:
        workshop.digest()
    assert "Remove the file" in str(caught.value)
    path.unlink()
    assert workshop.digest() == workshop.digest(checkpoints=False)
