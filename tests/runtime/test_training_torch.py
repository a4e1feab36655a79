"""The torch trainer: bit-equal, leaves no trace, learns, names what it does not know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from counterseal.runtime.config import (
    AggregationConfig,
    LossConfig,
    MetricConfig,
    ModelConfig,
    OptimizerConfig,
    PluginConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
)
from counterseal.runtime.demo.datasets import load_dataset
from counterseal.runtime.errors import TrainingError, TrainingFailedError
from counterseal.runtime.training.optimisers import OPTIMIZERS, SCHEDULERS
from counterseal.runtime.training.plugins import file_digest
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Array, Arrays, SiteData, parameters_digest

LOGISTIC = ModelConfig(name="logistic", parameters={"inputs": 64, "classes": 10})
MLP = ModelConfig(name="mlp", parameters={"inputs": 64, "classes": 10, "hidden": [32], "dropout": 0.2})
CNN = ModelConfig(name="cnn", parameters={"image": [1, 8, 8], "classes": 10, "channels": [8, 16], "hidden": 32})


def run(model: ModelConfig = LOGISTIC, **trainer: Any) -> RunConfig:
    values: dict[str, Any] = {"epochs": 2, "optimizer": OptimizerConfig(name="sgd", parameters={"lr": 0.3})}
    return RunConfig(
        name="digits",
        seed=1,
        rounds=1,
        model=model,
        trainer=TrainerConfig(**(values | trainer)),
        aggregation=AggregationConfig(clip_norm=1.0),
        minimum_sites=1,
    )


@pytest.fixture(scope="module")
def digits() -> SiteData:
    found = load_dataset("digits")
    return SiteData(found.train, found.test)


def small(digits: SiteData, n: int = 100) -> SiteData:
    return SiteData(Arrays(digits.train.x[:n], digits.train.y[:n]), digits.test)


@pytest.mark.parametrize("model", [LOGISTIC, MLP, CNN], ids=lambda model: model.name)
def test_twice_the_same_bits_without_a_trace(model: ModelConfig, digits: SiteData) -> None:
    """Whatever the process drew before, and whatever it draws afterwards."""
    digests = []
    for before in (0, 1234):
        torch.manual_seed(before)
        state = torch.random.get_rng_state().clone()
        threads = torch.get_num_threads()
        trainer = build_trainer(run(model), site="a", data=small(digits))
        start = trainer.initial_parameters(1)
        result = trainer.train(start, seed=1, round_number=0)
        trainer.evaluate(result.parameters)
        digests.append((parameters_digest(start), parameters_digest(result.parameters)))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.get_num_threads() == threads
        assert not torch.are_deterministic_algorithms_enabled()
    assert digests[0] == digests[1]


def test_another_process_gives_the_same_bits(digits: SiteData) -> None:
    code = (
        "import counterseal.tests.runtime.test_training_torch as t\n"
        "from counterseal.runtime.demo.datasets import load_dataset\n"
        "f = load_dataset('digits')\n"
        "print(t.trained(t.SiteData(f.train, f.test)))\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"},
    )
    assert other.stdout.strip() == trained(digits)


def trained(digits: SiteData) -> str:
    trainer = build_trainer(run(MLP), site="a", data=small(digits))
    return parameters_digest(trainer.train(trainer.initial_parameters(1), seed=1, round_number=0).parameters)


@pytest.mark.parametrize("change", ["seed", "round", "site"])
def test_seed_round_and_site_each_matter(change: str, digits: SiteData) -> None:
    one = build_trainer(run(MLP), site="a", data=small(digits))
    two = build_trainer(run(MLP), site="b" if change == "site" else "a", data=small(digits))
    start = one.initial_parameters(1)
    first = one.train(start, seed=1, round_number=0)
    second = two.train(start, seed=2 if change == "seed" else 1, round_number=1 if change == "round" else 0)
    assert parameters_digest(first.parameters) != parameters_digest(second.parameters)


LEARNERS: list[tuple[ModelConfig, dict[str, Any], float]] = [
    (LOGISTIC, {"epochs": 15}, 0.93),
    (MLP, {"epochs": 15, "optimizer": OptimizerConfig(name="adam", parameters={"lr": 0.01})}, 0.94),
    (CNN, {"epochs": 8, "optimizer": OptimizerConfig(name="adamw", parameters={"lr": 0.005})}, 0.94),
]


@pytest.mark.parametrize(("model", "trainer", "floor"), LEARNERS, ids=["logistic", "mlp", "cnn"])
def test_it_learns_the_digits(model: ModelConfig, trainer: dict[str, Any], floor: float, digits: SiteData) -> None:
    metrics = tuple(MetricConfig(name=name) for name in ("accuracy", "macro-f1", "auc"))
    built = build_trainer(run(model, metrics=metrics, **trainer), site="a", data=digits)
    start = built.initial_parameters(1)
    assert built.evaluate(start)["accuracy"] < 0.4
    result = built.train(start, seed=1, round_number=0)
    found = built.evaluate(result.parameters)
    assert found["accuracy"] > floor
    assert found["macro-f1"] > floor
    assert found["auc"] > 0.99
    assert set(found) == {"loss", "accuracy", "macro-f1", "auc"}
    assert built.evaluate(result.parameters, "train")["loss"] < 0.2


def test_it_agrees_with_the_numpy_trainer(digits: SiteData) -> None:
    """Two implementations, the same start, batches and options: the same model up to rounding."""
    options = OptimizerConfig(name="sgd", parameters={"lr": 0.2, "momentum": 0.9, "weight_decay": 0.01})
    results = []
    for name in ("torch", "numpy-linear"):
        trainer = build_trainer(run(name=name, optimizer=options, clip_gradient_norm=0.5), site="a", data=digits)
        start = {"linear.weight": np.zeros((10, 64), np.float32), "linear.bias": np.zeros(10, np.float32)}
        result = trainer.train(start, seed=1, round_number=0)
        results.append((result, trainer.evaluate(result.parameters)))
    (one, first), (two, second) = results
    for key in start:
        assert np.allclose(one.parameters[key], two.parameters[key], atol=2e-4)
        assert np.abs(one.parameters[key]).max() > 0.1
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)
    assert one.metrics["loss"] == pytest.approx(two.metrics["loss"], rel=1e-3)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_steps(name: str, digits: SiteData) -> None:
    trainer = build_trainer(run(optimizer=OptimizerConfig(name=name)), site="a", data=small(digits))
    start = trainer.initial_parameters(1)
    result = trainer.train(start, seed=1, round_number=0)
    assert parameters_digest(result.parameters) != parameters_digest(start)


def test_a_schedule_by_rounds_goes_on_where_the_last_round_stopped(digits: SiteData) -> None:
    """With a step by round, round 3 of a halving schedule is a round at an eighth of the rate."""
    halving = SchedulerConfig(name="exponential", parameters={"gamma": 0.5}, step="round")
    start = build_trainer(run(), site="a").initial_parameters(1)
    scheduled = build_trainer(run(scheduler=halving), site="a", data=small(digits))
    plain = build_trainer(
        run(optimizer=OptimizerConfig(name="sgd", parameters={"lr": 0.3 / 8})), site="a", data=small(digits)
    )
    one = scheduled.train(start, seed=1, round_number=3).parameters
    two = plain.train(start, seed=1, round_number=3).parameters
    assert parameters_digest(one) == parameters_digest(two)


def test_a_schedule_by_epochs_changes_the_second_epoch(digits: SiteData) -> None:
    stop = SchedulerConfig(name="multistep", parameters={"milestones": [1], "gamma": 0.0})
    start = build_trainer(run(), site="a").initial_parameters(1)
    two = build_trainer(run(scheduler=stop), site="a", data=small(digits)).train(start, seed=1, round_number=0)
    one = build_trainer(run(epochs=1), site="a", data=small(digits)).train(start, seed=1, round_number=0)
    assert parameters_digest(two.parameters) == parameters_digest(one.parameters)


def test_steps_cut_the_last_epoch_short(digits: SiteData) -> None:
    start = build_trainer(run(), site="a").initial_parameters(1)
    whole = build_trainer(run(epochs=2, batch_size=30), site="a", data=small(digits))  # 100 examples: 4 batches
    steps = build_trainer(run(epochs=None, steps=8, batch_size=30), site="a", data=small(digits))
    fewer = build_trainer(run(epochs=None, steps=7, batch_size=30), site="a", data=small(digits))
    digests = [
        parameters_digest(trainer.train(start, seed=1, round_number=0).parameters) for trainer in (whole, steps, fewer)
    ]
    assert digests[0] == digests[1] != digests[2]


REFUSED: list[tuple[RunConfig, str]] = [
    (run(ModelConfig(name="mpl")), "Did you mean mlp? Known here: cnn, linear, logistic, mlp"),
    (run(ModelConfig(name="mlp", parameters={"input": 3})), "model 'mlp' does not take these parameters"),
    (run(ModelConfig(name="mlp", parameters={"inputs": 64, "classes": 10, "activation": "x"})), "Known: relu"),
    (run(ModelConfig(name="mlp", parameters={"inputs": 64, "classes": 1e9})), "whole numbers from 1"),
    (run(ModelConfig(name="cnn", parameters={"image": [1, 4, 4], "classes": 2, "channels": [1, 1, 1]})), "too small"),
    (run(ModelConfig(name="cnn", parameters={"image": [8, 8], "classes": 2})), "image must be"),
    (run(ModelConfig(name="cnn", parameters={"image": [1, 8, 8], "classes": 2, "kernel": 4})), "must be odd"),
    (run(optimizer=OptimizerConfig(name="lbfgs")), "no optimizer is called 'lbfgs'"),
    (run(optimizer=OptimizerConfig(name="optimizer")), "no optimizer is called 'optimizer'"),
    (run(optimizer=OptimizerConfig(name="adam", parameters={"lrr": 1})), "no parameter 'lrr'. Known: lr, betas"),
    (run(optimizer=OptimizerConfig(name="adam", parameters={"lr": -1})), "Invalid learning rate"),
    (run(optimizer=OptimizerConfig(name="adam", parameters={"params": []})), "no parameter 'params'"),
    (run(scheduler=SchedulerConfig(name="lambda")), "no scheduler is called 'lambda'"),
    (run(scheduler=SchedulerConfig(name="step")), "step_size"),
    (run(scheduler=SchedulerConfig(name="plateau", step="round")), "cannot step by round"),
    (run(loss=LossConfig(name="cross_entropy")), "Did you mean cross-entropy?"),
    (run(loss=LossConfig(name="huber", parameters={"beta": 1})), "loss 'huber' does not take"),
    (run(metrics=(MetricConfig(name="roc"),)), "Known here: accuracy, auc, macro-f1, mae, rmse"),
    (run(device="cuda:99"), "no device 'cuda:99'"),
]


@pytest.mark.parametrize(("config", "words"), REFUSED)
def test_unknown_names_are_said_before_data(config: RunConfig, words: str) -> None:
    with pytest.raises(TrainingError) as caught:
        build_trainer(config, site="a")
    assert words in str(caught.value)
    assert caught.value.code == "training"


def test_the_party_s_device_wins(digits: SiteData) -> None:
    assert build_trainer(run(device="cuda:99"), site="a", device="cpu").device == "cpu"
    expected = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert build_trainer(run(), site="a").device.startswith(expected)


def test_bad_parameters_are_named(digits: SiteData) -> None:
    trainer = build_trainer(run(CNN), site="a", data=small(digits))
    good = trainer.initial_parameters(1)
    bad: list[tuple[dict[str, Array], str]] = [
        (good | {"output.bias": good["output.bias"][:3]}, "output.bias is float32[3], but the model has float32[10]"),
        (good | {"output.bias": good["output.bias"].astype(np.float16)}, "float16[10]"),
        ({name: array for name, array in good.items() if name != "output.bias"}, "missing ['output.bias']"),
    ]
    for parameters, words in bad:
        with pytest.raises(TrainingError) as caught:
            trainer.train(parameters, seed=1, round_number=0)
        assert words in str(caught.value)
        assert caught.value.code == "training"


def test_failures_after_data_say_nothing_about_them() -> None:
    x = np.ones((4, 64), np.float32)
    labels = np.array([1, 2, 3, 4711])
    cases = [
        (SiteData(Arrays(x, labels), Arrays(x, labels)), run()),
        (SiteData(Arrays(x[:, :63].copy(), labels), Arrays(x[:, :63].copy(), labels)), run()),
        (
            SiteData(Arrays(x, labels % 10), Arrays(x, labels)),
            run(optimizer=OptimizerConfig(name="sgd", parameters={"lr": 1e38})),
        ),
        (SiteData(Arrays(x, labels.astype(np.float32))), run()),
    ]
    for data, config in cases:
        trainer = build_trainer(config, site="a", data=data)
        with pytest.raises(TrainingFailedError) as caught:
            trainer.train(trainer.initial_parameters(1), seed=1, round_number=0)
        assert caught.value.code == "site_failed"
        assert not any(word in str(caught.value) for word in ("4711", "63", "e+38"))
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__
    with pytest.raises(TrainingFailedError) as caught:
        build_trainer(run(), site="a", data=cases[0][0]).evaluate(trainer.initial_parameters(1))
    assert "4711" not in str(caught.value)


NORMALISED = """
from torch import nn

def build(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))
"""

SCALAR_LOSS = """
import torch

def build(power=2):
    return lambda outputs, targets: outputs.abs().pow(power).mean()
"""


def plugin(folder: Path, kind: Any, name: str, text: str) -> PluginConfig:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return PluginConfig(kind=kind, name=name, file=path, sha256=file_digest(path))


def test_integer_buffers_travel(tmp_path: Path, digits: SiteData) -> None:
    plugins = (plugin(tmp_path, "model", "normalised", NORMALISED),)
    config = run(ModelConfig(name="normalised", parameters={"classes": 10}))
    trainer = build_trainer(config, site="a", data=small(digits), plugins=plugins)
    start = trainer.initial_parameters(1)
    assert start["2.num_batches_tracked"].dtype == np.int64
    assert start["2.num_batches_tracked"].shape == ()
    result = trainer.train(start, seed=1, round_number=0).parameters
    assert {name: (a.dtype, a.shape) for name, a in result.items()} == {n: (a.dtype, a.shape) for n, a in start.items()}
    assert result["2.num_batches_tracked"] == 8  # 2 epochs of 4 batches
    assert trainer.train(result, seed=1, round_number=1).parameters["2.num_batches_tracked"] == 16
    assert list(result) == list(
        nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.BatchNorm1d(1), nn.ReLU(), nn.Linear(1, 1)).state_dict()
    )


def test_a_loss_must_be_one_value_per_record(tmp_path: Path, digits: SiteData) -> None:
    """A mean over the batch would make every record's loss depend on the others'."""
    plugins = (plugin(tmp_path, "loss", "scalar", SCALAR_LOSS),)
    config = run(loss=LossConfig(name="scalar", parameters={"power": 3}))
    trainer = build_trainer(config, site="a", data=small(digits), plugins=plugins)
    with pytest.raises(TrainingFailedError, match="one value per record"):
        trainer.train(trainer.initial_parameters(1), seed=1, round_number=0)


def test_a_plugin_cannot_take_a_built_in_s_name(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="name of a built-in"):
        build_trainer(run(), site="a", plugins=(plugin(tmp_path, "model", "logistic", NORMALISED),))


def test_parameters_may_be_read_only_and_unaligned(digits: SiteData) -> None:
    """The site hands over views into the decrypted safetensors bytes."""
    trainer = build_trainer(run(), site="a", data=small(digits))
    start = trainer.initial_parameters(1)
    views = {}
    for name, array in start.items():
        raw = b"\0" + array.tobytes()
        views[name] = np.frombuffer(raw, np.uint8)[1:].view(np.float32).reshape(array.shape)
        assert not views[name].flags.writeable and not views[name].flags.aligned
    one = trainer.train(views, seed=1, round_number=0).parameters
    assert parameters_digest(one) == parameters_digest(trainer.train(start, seed=1, round_number=0).parameters)
    assert trainer.evaluate(views) == trainer.evaluate(start)


def test_every_loss_is_one_value_per_record() -> None:
    from counterseal.runtime.training import losses

    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 3, generator=generator)
    labels = torch.tensor([0, 2, 1, 1, 0])
    cross = losses.cross_entropy(weight=[1.0, 2.0, 3.0])(scores, labels)
    plain = -torch.log_softmax(scores, 1)[torch.arange(5), labels]
    assert torch.allclose(cross, plain * torch.tensor([1.0, 2.0, 3.0])[labels])
    values = torch.randn(5, generator=generator)
    column = scores[:, :1]
    for build in (losses.mean_squared_error, losses.mean_absolute_error, losses.huber):
        whole = build()(column, values)  # [B, 1] against [B]: no broadcast to [B, B]
        assert whole.shape == (5,)
        assert torch.equal(whole[1:2], build()(column[1:2], values[1:2]))
    binary = losses.binary_cross_entropy(positive_weight=2.0)(column, labels > 0)
    chance = torch.sigmoid(column[:, 0])
    assert torch.allclose(binary, torch.where(labels > 0, -2 * chance.log(), -(1 - chance).log()), atol=1e-5)


def test_the_schedulers_are_torch_s() -> None:
    assert all(issubclass(found, torch.optim.lr_scheduler.LRScheduler) for found in SCHEDULERS.values())
