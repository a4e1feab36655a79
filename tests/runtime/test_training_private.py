"""The trainer under dp-sgd: agrees with its terms before data, learns, tells nothing, and no record can stop it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterseal.privacy.dpsgd.sampling import PoissonSampler
from counterseal.privacy.errors import CoupledRecordsError, PrivacyError, UnsupportedModelError
from counterseal.privacy.noise import Keystream
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
from counterseal.runtime.training.private_trainer import PrivateTorchTrainer
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Arrays, SiteData, Trainer, parameters_digest
from counterseal.trust.terms import PrivacyTerms

MLP = ModelConfig(name="mlp", parameters={"inputs": 64, "classes": 10, "hidden": [16], "dropout": 0.1})
CNN = ModelConfig(name="cnn", parameters={"image": [1, 8, 8], "classes": 10, "channels": [4], "hidden": 16})

PLUGINS = '''
import torch
from torch import nn


class Strange(nn.Module):
    """A trained and a frozen layer, an integer buffer, and a temper: values over 100 make it raise."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.first.requires_grad_(False)
        self.out = nn.Linear(8, 10)
        self.register_buffer("number", torch.tensor(7))

    def forward(self, x):
        if (x > 100).any():
            raise ValueError(f"secret {x.max()}")
        return self.out(torch.tanh(self.first(x)))


def build():
    return Strange()


def normalised():
    return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def mean_loss():
    return lambda scores, labels: nn.functional.cross_entropy(scores, labels)


def shared_loss():
    return lambda scores, labels: nn.functional.cross_entropy(scores, labels).expand(len(labels))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, x):
        return self.out(self.words(x))


def tokens():
    return Tokens()


def token_loss():
    def loss(scores, labels):
        found = nn.functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none", ignore_index=-100)
        return found.sum(dim=1) / (labels != -100).sum(dim=1).clamp(min=1)

    return loss


def token_loss_of_the_batch():
    def loss(scores, labels):
        found = nn.functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none", ignore_index=-100)
        return found.sum(dim=1) * len(labels) / (labels != -100).sum().clamp(min=1)

    return loss
'''


def terms(**changed: Any) -> PrivacyTerms:
    values = {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "releases": 3, "steps": 20}
    rest = {"mechanism": "dp-sgd", "sampling_rate": 0.05, "normaliser": 64.0}
    return PrivacyTerms.model_validate(values | rest | changed)


def run(model: ModelConfig = MLP, **trainer: Any) -> RunConfig:
    values: dict[str, Any] = {"steps": 20, "optimizer": OptimizerConfig(name="sgd", parameters={"lr": 1.0})}
    return RunConfig(
        name="digits",
        seed=1,
        rounds=3,
        model=model,
        trainer=TrainerConfig(**(values | trainer)),
        aggregation=AggregationConfig(clip_norm=1.0),
        minimum_sites=1,
    )


@pytest.fixture(scope="module")
def digits() -> SiteData:
    found = load_dataset("digits")
    assert found.test is not None
    train, test = (Arrays(one.x.reshape(len(one), 64), one.y) for one in (found.train, found.test))
    return SiteData(train, test)


@pytest.fixture
def plugin(tmp_path: Path) -> Any:
    path = tmp_path / "strange.py"
    path.write_text(PLUGINS)
    digest = file_digest(path)

    def make(kind: str, name: str, attribute: str) -> PluginConfig:
        return PluginConfig.model_validate(
            {"kind": kind, "name": name, "file": path, "sha256": digest, "attribute": attribute}
        )

    return make


@pytest.fixture
def fixed_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The n-th step of every trainer has the n-th key: noise that can be repeated, for tests only."""
    counts: dict[int, int] = {}

    def keystream(self: PrivateTorchTrainer) -> Keystream:
        counts[id(self)] = counts.get(id(self), 0) + 1
        return Keystream(counts[id(self)].to_bytes(32, "big"))

    monkeypatch.setattr(PrivateTorchTrainer, "_keystream", keystream)
    yield


def copied(data: SiteData, count: int) -> SiteData:
    return SiteData(Arrays(data.train.x[:count].copy(), data.train.y[:count].copy()), data.test)


def train(trainer: Trainer, **more: Any) -> Any:
    return trainer.train(trainer.initial_parameters(1), seed=1, round_number=0, **more)


@pytest.mark.parametrize("model", [MLP, CNN], ids=lambda model: model.name)
def test_it_learns_under_noise(model: ModelConfig, digits: SiteData, fixed_keys: None) -> None:
    trainer = build_trainer(run(model, steps=60), site="a", data=digits, privacy=terms(steps=60, sampling_rate=0.1))
    before = trainer.evaluate(trainer.initial_parameters(1))
    after = trainer.evaluate(train(trainer).parameters)
    assert after["loss"] < before["loss"] - 0.5
    assert after["accuracy"] > before["accuracy"] + 0.2


def test_the_result_says_nothing_but_the_parameters(digits: SiteData) -> None:
    trainer = build_trainer(run(), site="a", data=copied(digits, 77), privacy=terms())
    result = train(trainer)
    assert (result.metrics, result.examples, result.seconds, result.device) == ({}, 0, 60.0, "cpu")
    start = trainer.initial_parameters(1)
    assert {name: (one.shape, one.dtype) for name, one in result.parameters.items()} == {
        name: (one.shape, one.dtype) for name, one in start.items()
    }


def test_the_seed_has_no_part_in_the_noise(digits: SiteData) -> None:
    trainer = build_trainer(run(), site="a", data=digits, privacy=terms())
    digests = {parameters_digest(train(trainer).parameters) for _ in range(2)}
    assert len(digests) == 2


def test_torch_and_numpy_generators_are_left_alone(digits: SiteData) -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    train(build_trainer(run(), site="a", data=digits, privacy=terms()))
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_the_number_of_records_does_not_enter(
    digits: SiteData, fixed_keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sites, 100 and 1000 records, the same of them chosen: the same bytes."""
    monkeypatch.setattr(PoissonSampler, "draw", lambda self, stream: np.arange(3, 90, 7))
    digests = set()
    for count in (100, 1000):
        trainer = build_trainer(run(), site="a", data=copied(digits, count), privacy=terms())
        digests.add(parameters_digest(train(trainer).parameters))
    assert len(digests) == 1


def test_every_step_is_taken_and_paid_for_when_batches_are_empty(
    digits: SiteData, fixed_keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[object] = []
    original = PoissonSampler.draw

    def draw(self: PoissonSampler, stream: Keystream) -> Any:
        streams.append(stream)
        return original(self, stream)

    monkeypatch.setattr(PoissonSampler, "draw", draw)
    trainer = build_trainer(run(), site="a", data=copied(digits, 10), privacy=terms(sampling_rate=1e-6))
    result = train(trainer)
    assert len(streams) == 20
    assert parameters_digest(result.parameters) != parameters_digest(trainer.initial_parameters(1))


SPOILS: dict[str, Any] = {
    "nan": lambda x, y: x.__setitem__(3, np.nan),
    "infinity": lambda x, y: x.__setitem__((3, 5), np.inf),
    "huge": lambda x, y: x.__setitem__(3, 3e38),
    "a label beyond the classes": lambda x, y: y.__setitem__(3, 10),
    "a negative label": lambda x, y: y.__setitem__(3, -1),
    "the greatest label": lambda x, y: y.__setitem__(3, 2**63 - 1),
}


@pytest.mark.parametrize("name", SPOILS)
def test_no_record_can_stop_it(name: str, digits: SiteData, fixed_keys: None) -> None:
    """Whatever it holds, the training ends as ever, with finite parameters."""
    data = copied(digits, 60)
    SPOILS[name](data.train.x, data.train.y)
    trainer = build_trainer(run(batch_size=16), site="a", data=data, privacy=terms(sampling_rate=0.5))
    result = train(trainer)
    assert all(np.isfinite(one).all() for one in result.parameters.values())


def test_a_record_that_makes_the_model_raise_counts_as_a_spoiled_one(
    digits: SiteData, fixed_keys: None, plugin: Any
) -> None:
    """The same bytes as if its values were not numbers; frozen layers and integers pass through."""
    digests, results = set(), []
    for value in (1000.0, np.nan):
        data = copied(digits, 40)
        data.train.x[3] = value
        config = run(ModelConfig(name="strange"), batch_size=8)
        trainer = build_trainer(
            config,
            site="a",
            data=data,
            privacy=terms(sampling_rate=0.5),
            plugins=(plugin("model", "strange", "build"),),
        )
        results.append(train(trainer).parameters)
        digests.add(parameters_digest(results[-1]))
    start = trainer.initial_parameters(1)
    assert len(digests) == 1
    assert results[0]["number"] == 7 and results[0]["number"].dtype == np.int64
    assert np.array_equal(results[0]["first.weight"], start["first.weight"])
    assert not np.array_equal(results[0]["out.weight"], start["out.weight"])


def test_after_data_one_code_and_no_value(digits: SiteData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for errors that have a code of their own elsewhere."""
    trainer = build_trainer(run(), site="a", data=digits, privacy=terms())
    for error in (ValueError("secret 42"), UnsupportedModelError("secret 42"), TrainingError("secret 42")):

        def fail(self: object, stream: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(PoissonSampler, "draw", fail)
        with pytest.raises(TrainingFailedError) as raised:
            train(trainer)
        assert raised.value.code == "site_failed"
        assert "secret" not in str(raised.value) and raised.value.__cause__ is None


def test_parameters_that_explode_are_a_failure(digits: SiteData) -> None:
    config = run(optimizer=OptimizerConfig(name="sgd", parameters={"lr": 1e38}))
    with pytest.raises(TrainingFailedError, match="not finite"):
        train(build_trainer(config, site="a", data=copied(digits, 30), privacy=terms(normaliser=1e-3)))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "epochs": ({"steps": None, "epochs": 2}, {}, "the terms pay for 20 steps"),
    "other steps": ({"steps": 21}, {}, "is to do 21 steps"),
    "schedule over epochs": ({"scheduler": SchedulerConfig(name="cosine", parameters={"T_max": 9})}, {}, "schedule"),
    "clipping of batches": ({"clip_gradient_norm": 1.0}, {}, "clip_gradient_norm"),
    "another trainer": ({"name": "numpy-linear"}, {}, "not known to keep dp-sgd"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_terms_do_not_pay_for_is_refused_before_data(name: str) -> None:
    trainer, changed, text = REFUSED[name]
    with pytest.raises(TrainingError, match=text) as raised:
        build_trainer(run(**trainer), site="a", privacy=terms(**changed))
    assert not isinstance(raised.value, TrainingFailedError)


def test_a_schedule_over_rounds_is_taken(digits: SiteData, fixed_keys: None) -> None:
    schedule = SchedulerConfig(name="exponential", parameters={"gamma": 0.1}, step="round")
    moves = []
    for round_number in (0, 2):
        trainer = build_trainer(run(scheduler=schedule), site="a", data=digits, privacy=terms())
        start = trainer.initial_parameters(1)
        result = trainer.train(start, seed=1, round_number=round_number)
        moves.append(float(np.abs(result.parameters["output.bias"] - start["output.bias"]).sum()))
    assert moves[1] < 0.1 * moves[0]


def test_layers_are_refused_when_the_trainer_is_built(plugin: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="GroupNorm"):
        build_trainer(
            run(ModelConfig(name="norm")), site="a", privacy=terms(), plugins=(plugin("model", "norm", "normalised"),)
        )


@pytest.mark.parametrize("attribute", ["mean_loss", "shared_loss"])
def test_losses_of_a_batch_are_refused_before_data(attribute: str, digits: SiteData, plugin: Any) -> None:
    trainer = build_trainer(
        run(loss=LossConfig(name="mine")),
        site="a",
        data=digits,
        privacy=terms(),
        plugins=(plugin("loss", "mine", attribute),),
    )
    with pytest.raises(CoupledRecordsError):
        train(trainer)


@pytest.mark.parametrize(("attribute", "right"), [("token_loss", True), ("token_loss_of_the_batch", False)])
def test_losses_over_the_tokens_of_a_batch_are_refused(attribute: str, right: bool, plugin: Any) -> None:
    """They differ only if records have different numbers of tokens: the synthetic ones do."""
    x = np.random.default_rng(0).integers(0, 11, (30, 6))
    plugins = (plugin("model", "words", "tokens"), plugin("loss", "mine", attribute))
    trainer = build_trainer(
        run(ModelConfig(name="words"), loss=LossConfig(name="mine"), metrics=()),
        site="a",
        data=SiteData(Arrays(x, x.copy())),
        privacy=terms(),
        plugins=plugins,
    )
    if right:
        train(trainer)
    else:
        with pytest.raises(CoupledRecordsError):
            train(trainer)


def test_records_of_another_shape_are_refused_by_their_shape_alone(digits: SiteData) -> None:
    data = SiteData(Arrays(digits.train.x[:9, :60], digits.train.y[:9]))
    trainer = build_trainer(run(), site="a", data=data, privacy=terms())
    with pytest.raises(PrivacyError, match="shape"):
        train(trainer)


class Half:
    """A solver that moves against a tenth of the gradient, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[int, ...], str]] = []

    def step(self, name: str, values: Any, gradient: Any) -> None:
        self.calls.append((name, values.shape, str(values.dtype)))
        assert gradient.shape == values.shape and gradient.dtype == np.float32
        values -= np.float32(0.1) * gradient


@pytest.mark.parametrize("privacy", [None, terms(steps=4)], ids=["exact", "private"])
@pytest.mark.parametrize("model", [MLP, CNN], ids=lambda model: model.name)
def test_a_solver_takes_the_optimiser_s_place(
    privacy: PrivacyTerms | None, model: ModelConfig, digits: SiteData, fixed_keys: None, tmp_path: Path
) -> None:
    """Its plain step is that of sgd, in either trainer; with it, no checkpoint is written."""
    results = []
    solver = Half()
    config = run(model, steps=4, optimizer=OptimizerConfig(name="sgd", parameters={"lr": 0.1}))
    for used in (None, solver):
        folder = tmp_path / "checkpoints" if used is not None else None
        trainer = build_trainer(config, site="a", data=digits, privacy=privacy, checkpoints=folder)
        results.append(train(trainer, solver=used).parameters)
    names = [name for name, _ in results[0].items()]
    assert len(solver.calls) == 4 * len(names) and {name for name, _, _ in solver.calls} == set(names)
    for name in names:
        np.testing.assert_allclose(results[0][name], results[1][name], atol=1e-6)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_solver_in_the_numpy_trainer(digits: SiteData) -> None:
    config = run(
        ModelConfig(name="logistic", parameters={"inputs": 64, "classes": 10}),
        name="numpy-linear",
        optimizer=OptimizerConfig(name="sgd", parameters={"lr": 0.1}),
    )
    trainer = build_trainer(config, site="a", data=digits)
    start = trainer.initial_parameters(1)
    plain, solved = (trainer.train(start, seed=1, round_number=0, solver=one) for one in (None, Half()))
    for name, value in plain.parameters.items():
        np.testing.assert_allclose(value, solved.parameters[name], atol=1e-6)
    assert parameters_digest(start) == parameters_digest(trainer.initial_parameters(1))
