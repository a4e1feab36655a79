"""The trainer without torch: deterministic, learns, refuses what it does not do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from counterseal.runtime.config import (
    AggregationConfig,
    LossConfig,
    MetricConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
)
from counterseal.runtime.demo.datasets import load_dataset
from counterseal.runtime.errors import TrainingError, TrainingFailedError
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Array, Arrays, SiteData, Trainer, derive_seed


def run(model: ModelConfig | None = None, **trainer: Any) -> RunConfig:
    values: dict[str, Any] = {
        "name": "numpy-linear",
        "epochs": 3,
        "optimizer": OptimizerConfig(name="sgd", parameters={"lr": 0.3}),
    }
    return RunConfig(
        name="digits",
        seed=1,
        rounds=1,
        model=model or ModelConfig(name="logistic", parameters={"inputs": 64, "classes": 10}),
        trainer=TrainerConfig(**(values | trainer)),
        aggregation=AggregationConfig(clip_norm=1.0),
        minimum_sites=1,
    )


def digits() -> SiteData:
    found = load_dataset("digits")
    return SiteData(found.train, found.test)


def same(one: dict[str, Array], two: dict[str, Array]) -> bool:
    return list(one) == list(two) and all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys\n"
        "from counterseal.runtime.training import seam, registry, numpy_trainer, plugins, arrays, party, metrics\n"
        "from counterseal.runtime import config\n"
        "import counterseal.tests.runtime.test_training_numpy as t\n"
        "trainer = registry.build_trainer(t.run(), site='a', data=t.digits())\n"
        "trainer.train(trainer.initial_parameters(1), seed=1, round_number=0)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_learns_and_twice_the_same() -> None:
    results = []
    for _ in range(2):
        trainer = build_trainer(run(epochs=20), site="a", data=digits())
        result = trainer.train(trainer.initial_parameters(1), seed=1, round_number=0)
        results.append(result)
    assert same(results[0].parameters, results[1].parameters)
    assert results[0].device == "cpu"
    assert results[0].examples == 1442
    assert trainer.evaluate(results[0].parameters)["accuracy"] > 0.93


@pytest.mark.parametrize("change", ["seed", "round", "site"])
def test_seed_round_and_site_each_matter(change: str) -> None:
    one = build_trainer(run(), site="a", data=digits())
    two = build_trainer(run(), site="b" if change == "site" else "a", data=digits())
    start = one.initial_parameters(1)
    first = one.train(start, seed=1, round_number=0)
    second = two.train(start, seed=2 if change == "seed" else 1, round_number=1 if change == "round" else 0)
    assert not same(first.parameters, second.parameters)


def test_the_input_is_not_changed() -> None:
    trainer = build_trainer(run(), site="a", data=digits())
    start = trainer.initial_parameters(1)
    for array in start.values():
        array.flags.writeable = False
    copy = {name: array.copy() for name, array in start.items()}
    trainer.train(start, seed=1, round_number=0)
    assert same(start, copy)


def test_least_squares_finds_the_exact_answer() -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(400, 3)).astype(np.float32)
    truth = np.array([[2.0], [-1.0], [0.5]])
    y = (x @ truth + 0.25).astype(np.float32)
    model = ModelConfig(name="linear", parameters={"inputs": 3, "outputs": 1})
    config = run(
        model, epochs=50, loss=LossConfig(name="mse"), metrics=(MetricConfig(name="rmse"), MetricConfig(name="mae"))
    )
    trainer = build_trainer(config, site="a", data=SiteData(Arrays(x, y), Arrays(x, y)))
    result = trainer.train(trainer.initial_parameters(1), seed=1, round_number=0)
    assert np.allclose(result.parameters["linear.weight"], truth.T, atol=1e-3)
    assert trainer.evaluate(result.parameters)["rmse"] < 1e-3


def test_one_step_is_the_formula() -> None:
    """One batch of everything, by hand in float64: gradient, weight decay, clipping."""
    x = np.array([[1, 2], [3, -1], [0, 1]], np.float32)
    y = np.array([0, 2, 1])
    model = ModelConfig(name="logistic", parameters={"inputs": 2, "classes": 3})
    config = run(
        model,
        epochs=None,
        steps=1,
        batch_size=3,
        clip_gradient_norm=0.25,
        optimizer=OptimizerConfig(name="sgd", parameters={"lr": 0.5, "weight_decay": 0.1}),
    )
    trainer = build_trainer(config, site="a", data=SiteData(Arrays(x, y)))
    start = trainer.initial_parameters(5)
    w, b = (start[name].astype(np.float64) for name in ("linear.weight", "linear.bias"))
    scores = np.exp(x @ w.T + b)
    residual = (scores / scores.sum(1, keepdims=True) - np.eye(3)[y]) / 3
    gw, gb = residual.T @ x, residual.sum(0)
    scale = 0.25 / np.sqrt((gw**2).sum() + (gb**2).sum())
    assert scale < 1
    result = trainer.train(start, seed=1, round_number=0).parameters
    assert np.allclose(result["linear.weight"], w - 0.5 * (gw * scale + 0.1 * w), atol=1e-6)
    assert np.allclose(result["linear.bias"], b - 0.5 * (gb * scale + 0.1 * b), atol=1e-6)


REFUSED: list[tuple[RunConfig, str]] = [
    (run(ModelConfig(name="mlp", parameters={"inputs": 64, "classes": 10})), "does not train the model 'mlp'"),
    (run(ModelConfig(name="logistic", parameters={"inputs": 64})), "needs classes"),
    (run(ModelConfig(name="logistic", parameters={"inputs": 64, "classes": True})), "needs classes"),
    (run(ModelConfig(name="logistic", parameters={"inputs": 64, "classes": 10, "bias": 1})), "no parameter 'bias'"),
    (run(optimizer=OptimizerConfig(name="adam")), "Known: sgd"),
    (run(optimizer=OptimizerConfig(name="sgd", parameters={"lrr": 1})), "does not take this 'lrr'"),
    (run(optimizer=OptimizerConfig(name="sgd", parameters={"lr": "big"})), "does not take this 'lr'"),
    (run(loss=LossConfig(name="huber")), "with the loss 'cross-entropy'"),
    (run(scheduler=SchedulerConfig(name="step")), "has no schedulers"),
    (run(device="cuda:0"), "computes on the cpu"),
    (run(name="numpy-liner"), "Did you mean numpy-linear?"),
    (run(metrics=(MetricConfig(name="acuracy"),)), "Did you mean accuracy? Known here: accuracy, auc"),
    (run(metrics=(MetricConfig(name="accuracy", parameters={"k": 3}),)), "does not take these parameters"),
]


@pytest.mark.parametrize(("config", "words"), REFUSED)
def test_what_it_does_not_do_is_said_before_data(config: RunConfig, words: str) -> None:
    with pytest.raises(TrainingError) as caught:
        build_trainer(config, site="a")
    assert words in str(caught.value)
    assert caught.value.code == "training"


def trainer_of(x: Array, y: Array) -> Trainer:
    return build_trainer(run(), site="a", data=SiteData(Arrays(x, y)))


def test_bad_parameters_are_named() -> None:
    trainer = build_trainer(run(), site="a", data=digits())
    good = trainer.initial_parameters(1)
    weight = good["linear.weight"]
    bad: list[tuple[dict[str, Array], str]] = [
        ({"linear.weight": weight}, "missing ['linear.bias']"),
        (good | {"extra": weight}, "unknown ['extra']"),
        (good | {"linear.weight": weight.T}, "linear.weight is float32[64, 10], but the model has float32[10, 64]"),
        (good | {"linear.weight": weight.astype(np.float64)}, "is float64[10, 64]"),
    ]
    for parameters, words in bad:
        for act in (lambda p: trainer.train(p, seed=1, round_number=0), trainer.evaluate):
            with pytest.raises(TrainingError) as caught:
                act(parameters)
            assert words in str(caught.value)
            assert caught.value.code == "training"


def test_failures_after_data_say_nothing_about_them() -> None:
    x = np.ones((4, 64), np.float32)
    secret = np.array([1, 2, 3, 4711])
    huge = np.full((4, 64), 3e38, np.float32)
    for trainer in (
        trainer_of(x, secret),
        trainer_of(np.ones((4, 63), np.float32), np.zeros(4, np.int64)),
        trainer_of(huge, np.array([1, 2, 3, 4])),
    ):
        with pytest.raises(TrainingFailedError) as caught:
            trainer.train(trainer.initial_parameters(1), seed=1, round_number=0)
        assert caught.value.code == "site_failed"
        assert not any(word in str(caught.value) for word in ("4711", "63", "3e", "nan"))


def test_loaders_arrays_are_checked() -> None:
    x, y = np.ones((4, 2), np.float32), np.zeros(4, np.int64)
    bad = [
        (x.astype(np.float64), y),
        (x, y.astype(np.int32)),
        (x[:3], y),
        (x[:0], y[:0]),
        ([[1.0]], y),
    ]
    for one, two in bad:
        with pytest.raises(TrainingFailedError):
            Arrays(one, two)  # type: ignore[arg-type]


def test_a_value_that_is_not_finite_stops_a_training_without_privacy() -> None:
    x = np.full((4, 2), np.nan, np.float32)
    data = SiteData(Arrays(x, np.zeros(4, np.int64)))  # no error here: a private run must not fail for one record
    trainer = build_trainer(run(), site="server", data=data)
    with pytest.raises(TrainingFailedError, match="not finite"):
        trainer.train(trainer.initial_parameters(1), seed=1, round_number=0)


def test_without_data_it_makes_version_0_only() -> None:
    trainer = build_trainer(run(), site="server")
    start = trainer.initial_parameters(1)
    assert same(start, trainer.initial_parameters(1))
    assert not same(start, trainer.initial_parameters(2))
    with pytest.raises(TrainingError, match="no train data"):
        trainer.train(start, seed=1, round_number=0)
    with pytest.raises(TrainingError, match="no test data"):
        trainer.evaluate(start)
    with pytest.raises(TrainingError, match="Known: train, test"):
        trainer.evaluate(start, "validation")


def test_derived_seeds_differ_by_every_part() -> None:
    seeds = {
        derive_seed(1, "a", 2),
        derive_seed(1, "a", 3),
        derive_seed(1, "a2"),
        derive_seed(1, "a", "2"),
        derive_seed("1", "a", 2),
        derive_seed(12, "a"),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
