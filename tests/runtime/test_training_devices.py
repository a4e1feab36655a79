"""Training on every device that this machine has: the same promises on a GPU as on the CPU.

The list of devices is found when the tests are collected, so nothing is skipped where there is no GPU. Written without one:
CUDA has not been run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from counterseal.runtime.config import AggregationConfig, ModelConfig, OptimizerConfig, RunConfig, TrainerConfig
from counterseal.runtime.demo.datasets import load_dataset
from counterseal.runtime.training.device import choose_device, describe_device
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Arrays, SiteData, Trainer, parameters_digest
from counterseal.trust.terms import PrivacyTerms

DEVICES = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
MLP = ModelConfig(name="mlp", parameters={"inputs": 64, "classes": 10, "hidden": [32], "dropout": 0.2})
CNN = ModelConfig(name="cnn", parameters={"image": [1, 8, 8], "classes": 10, "channels": [8, 16], "hidden": 32})
TERMS = PrivacyTerms(
    mechanism="dp-sgd",
    clip_norm=1.0,
    noise_multiplier=1.0,
    delta=1e-5,
    releases=3,
    steps=20,
    sampling_rate=0.1,
    normaliser=128.0,
)


def trainer_on(device: str, model: ModelConfig, *, privacy: PrivacyTerms | None = None, **options: Any) -> Trainer:
    values: dict[str, Any] = {"epochs": 3, "optimizer": OptimizerConfig(name="sgd", parameters={"lr": 0.3})}
    run = RunConfig(
        name="digits",
        seed=1,
        rounds=1,
        model=model,
        trainer=TrainerConfig(**(values | options)),
        aggregation=AggregationConfig(clip_norm=1.0),
        minimum_sites=1,
    )
    found = load_dataset("digits")
    data = SiteData(Arrays(found.train.x[:600], found.train.y[:600]), found.test)
    return build_trainer(run, site="a", data=data, device=device, privacy=privacy)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", [MLP, CNN], ids=lambda model: model.name)
def test_a_device_gives_the_same_bits_twice(device: str, model: ModelConfig) -> None:
    digests = set()
    for before in (0, 77):
        torch.manual_seed(before)
        trainer = trainer_on(device, model)
        start = trainer.initial_parameters(1)
        digests.add(parameters_digest(trainer.train(start, seed=1, round_number=0).parameters))
    assert len(digests) == 1
    assert trainer.device == describe_device(choose_device(device))


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_starts_from_the_same_model_and_learns(device: str) -> None:
    here, there = trainer_on(device, CNN, epochs=10), trainer_on("cpu", CNN, epochs=10)
    start = here.initial_parameters(1)
    assert parameters_digest(start) == parameters_digest(there.initial_parameters(1))
    found = here.train(start, seed=1, round_number=0)
    assert here.evaluate(found.parameters)["accuracy"] > 0.85
    exact = here.evaluate(start)["loss"]
    assert exact == pytest.approx(there.evaluate(start)["loss"], rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", [MLP, CNN], ids=lambda model: model.name)
def test_private_training_runs_its_self_check_and_learns(device: str, model: ModelConfig) -> None:
    options: dict[str, Any] = {
        "epochs": None,
        "steps": 20,
        "optimizer": OptimizerConfig(name="sgd", parameters={"lr": 2.0}),
    }
    terms = TERMS.model_copy(update={"noise_multiplier": 0.3, "normaliser": 60.0})
    trainer = trainer_on(device, model, privacy=terms, **options)
    start = trainer.initial_parameters(1)
    first = trainer.train(start, seed=1, round_number=0).parameters
    second = trainer.train(start, seed=1, round_number=0).parameters
    assert parameters_digest(first) != parameters_digest(second), "two trainings drew the same noise"
    assert trainer.evaluate(first)["loss"] < 0.95 * trainer.evaluate(start)["loss"]


@pytest.mark.parametrize("device", DEVICES)
def test_one_record_moves_a_private_step_by_the_clip_norm_at_most(device: str) -> None:
    """All noise aside (a multiplier near zero), a step's sum moves by at most the clip norm when a record goes away."""
    terms = TERMS.model_copy(
        update={"steps": 1, "sampling_rate": 1.0, "normaliser": 1.0, "noise_multiplier": 1e-4, "clip_norm": 0.5}
    )
    options: dict[str, Any] = {
        "epochs": None,
        "steps": 1,
        "optimizer": OptimizerConfig(name="sgd", parameters={"lr": 1.0}),
    }
    found = load_dataset("digits")
    plain = ModelConfig(name="logistic", parameters={"inputs": 64, "classes": 10})
    ends = []
    for count in (40, 39):
        run = RunConfig(
            name="digits",
            seed=1,
            rounds=1,
            model=plain,
            trainer=TrainerConfig(**options),
            aggregation=AggregationConfig(clip_norm=1.0),
            minimum_sites=1,
        )
        data = SiteData(Arrays(found.train.x[:count], found.train.y[:count]), found.test)
        trainer = build_trainer(run, site="a", data=data, device=device, privacy=terms)
        start = trainer.initial_parameters(1)
        after = trainer.train(start, seed=1, round_number=0).parameters
        ends.append(np.concatenate([(after[name] - start[name]).reshape(-1) for name in sorted(start)]).astype(float))
    moved = float(np.linalg.norm(ends[0] - ends[1]))
    noise = 1e-4 * 0.5 * np.sqrt(2 * ends[0].size)
    assert 0.2 < moved < 0.5 + 4 * noise + 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_a_record_that_no_class_knows_does_not_end_the_process(device: str) -> None:
    """On CUDA an index out of range would: the loss is masked before it is computed."""
    found = load_dataset("digits")
    labels = found.train.y[:100].copy()
    labels[3], labels[9] = 10_000, -5
    run = RunConfig(
        name="digits",
        seed=1,
        rounds=1,
        model=MLP,
        trainer=TrainerConfig(steps=20, optimizer=OptimizerConfig(name="sgd", parameters={"lr": 1.0})),
        aggregation=AggregationConfig(clip_norm=1.0),
        minimum_sites=1,
    )
    data = SiteData(Arrays(found.train.x[:100], labels), found.test)
    trainer = build_trainer(run, site="a", data=data, device=device, privacy=TERMS)
    after = trainer.train(trainer.initial_parameters(1), seed=1, round_number=0).parameters
    assert all(np.isfinite(array).all() for array in after.values() if array.dtype.kind == "f")
