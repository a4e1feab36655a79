"""What a demonstration was asked for, and the run that follows from it.

Two demonstrations with the same settings are the same experiment: the same partition, version 0, order of examples and, on the
CPU of one machine, the same final model. Keys, salts and ciphertexts differ every time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from ...trust.canonical import canonical
from ...trust.keys.sealing import DEFAULT_SUITE, SealSuite
from ...trust.terms import MechanismName, PrivacyTerms
from ..config import (
    AggregationConfig,
    EvaluationConfig,
    MetricConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainerConfig,
)
from ..config.parts import Config
from ..config.privacy import RunPrivacy
from ..training.registry import build_trainer
from .datasets import Dataset

__all__ = ["AlgorithmName", "DatasetName", "DemoSettings", "ModelName", "PrivacyName", "StoreName"]

DatasetName = Literal["digits", "breast-cancer", "fashion-mnist"]
ModelName = Literal["logistic", "mlp", "cnn"]
StoreName = Literal["directory", "s3"]
AlgorithmName = Literal["fedavg", "iiadmm", "iceadmm"]
PrivacyName = MechanismName | Literal["central"]

_ROUNDS: Final[Mapping[str, int]] = MappingProxyType({"digits": 25, "breast-cancer": 8, "fashion-mnist": 6})
_RATE: Final[Mapping[str, float]] = MappingProxyType({"logistic": 0.1, "mlp": 0.05, "cnn": 0.03})
_CLIP = 10.0
"""L2 norm; loose: honest updates of these models stay below it."""
_NOISY_CLIP = 1000.0
"""The same where output perturbation makes the updates as large as their noise."""
_PENALTY: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"logistic": (0.1, 2.0), "mlp": (0.1, 4.0), "cnn": (0.1, 3.0)}
)
"""ADMM's rho and zeta: their inverse sum is the length of a local step."""

# Under dp-sgd, literal numbers: they were compared on the public datasets themselves, with other seeds than the default one.
# On data that are not public such a comparison is a query, and costs budget.
_STEPS = 4
_PRIVATE_ROUNDS = 20
_PRIVATE_RATE: Final[Mapping[str, float]] = MappingProxyType({"logistic": 1.0, "mlp": 1.0, "cnn": 2.0})
_SAMPLING: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"digits": (0.5, 100.0), "breast-cancer": (0.5, 60.0), "fashion-mnist": (0.01, 120.0)}
)
"""Sampling rate and normaliser by dataset. Where records are few, half of them in each step: the sum of their gradients
grows with the rate, and the noise that the rate costs grows more slowly."""
_DELTA = 1e-5
_RECORD_CLIP = 1.0
_OUTPUT_CLIP = 0.5
_CENTRAL_CLIP = 0.5
_CENTRAL_ROUNDS = 10


class DemoSettings(Config):
    """The options of `counterseal demo`."""

    dataset: DatasetName
    data_path: str | None = None
    model: ModelName
    sites: Annotated[int, Field(ge=1, le=26)] = 4
    rounds: Annotated[int, Field(ge=1, le=1000)]
    store: StoreName = "directory"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 7
    suite: SealSuite = DEFAULT_SUITE
    algorithm: AlgorithmName = "fedavg"
    privacy: PrivacyName | None = None
    epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None

    @classmethod
    def of(cls, *, dataset: DatasetName = "digits", **options: Any) -> DemoSettings:
        """Return the settings with what suits ``dataset`` where an option is None or missing.

        Raises:
            ValidationError: options that no demonstration has, or that contradict each other.
        """
        given = {name: value for name, value in options.items() if value is not None}
        usual: dict[str, Any] = {
            "rounds": _ROUNDS.get(dataset),
            "model": "mlp" if dataset == "breast-cancer" else "cnn",
        }
        if given.get("privacy") or given.get("epsilon"):
            # Small models: noise is added to every parameter.
            rounds = _CENTRAL_ROUNDS if given.get("privacy") == "central" else _PRIVATE_ROUNDS
            usual = {"rounds": rounds, "model": "logistic", "privacy": "dp-sgd", "epsilon": 8.0}
        return cls(dataset=dataset, **(usual | given))

    @model_validator(mode="after")
    def _fits(self) -> DemoSettings:
        if self.model == "cnn" and self.dataset == "breast-cancer":
            raise ValueError("breast-cancer has measurements, no images: use --model logistic or mlp")
        if (self.privacy is None) != (self.epsilon is None):
            raise ValueError("an epsilon belongs to a mechanism: give --privacy, or --epsilon, or both")
        if self.algorithm == "iceadmm" and self.privacy in ("output-gaussian", "output-laplace"):
            raise ValueError("iceadmm sends its dual too, a second release: use iiadmm, or --privacy dp-sgd")
        if self.privacy == "central" and self.algorithm != "fedavg":
            raise ValueError("with --privacy central the server adds noise to a mean of updates: that is fedavg")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The sites' identities."""
        return tuple(f"site-{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"[: self.sites])

    def payload(self) -> bytes:
        """Return the canonical JSON that is kept beside the demonstration."""
        return canonical(self.model_dump(mode="json"))

    def unprotected(self) -> DemoSettings:
        """Return the same experiment by federated averaging and without privacy: what a private one is compared with."""
        return self.model_copy(update={"privacy": None, "epsilon": None, "algorithm": "fedavg"})

    def run(self, dataset: Dataset) -> RunConfig:
        """Return the training of this demonstration."""
        private = self.privacy is not None
        noisy = private and self.privacy not in ("dp-sgd", "central")
        algorithm = "" if self.algorithm == "fedavg" else self.algorithm
        parts: tuple[str, ...] = ("demo", self.dataset, self.model, algorithm, self.privacy or "")
        return RunConfig(
            name="-".join(part for part in parts if part),
            seed=self.seed,
            rounds=self.rounds,
            model=ModelConfig(name=self.model, parameters=self._shape(dataset)),
            trainer=self._trainer(dataset),
            aggregation=self._central()
            if self.privacy == "central"
            else self._aggregation(_NOISY_CLIP if noisy else _CLIP),
            minimum_sites=max(1, (self.sites + 1) // 2),
            round_seconds=600,
            evaluation=EvaluationConfig(sites=not private, server=True),
            privacy=RunPrivacy(terms=self._terms(dataset)) if private and self.privacy != "central" else None,
        )

    def _aggregation(self, clip_norm: float) -> AggregationConfig:
        if self.algorithm == "fedavg":
            return AggregationConfig(clip_norm=clip_norm)
        rho, zeta = _PENALTY[self.model]
        return AggregationConfig(rule=self.algorithm, clip_norm=clip_norm, rho=rho, zeta=zeta)

    def _central(self) -> AggregationConfig:
        """Return literal numbers for noise at the server that cost at most the epsilon asked for, over all rounds."""
        from ...privacy.accounting.calibrate import calibrate

        noise = calibrate(self.epsilon or 0.0, _DELTA, steps=self.rounds, adjacency="add-remove")
        return AggregationConfig(
            rule="dp-fedavg", clip_norm=_CENTRAL_CLIP, noise_multiplier=noise, sites=self.sites, delta=_DELTA
        )

    def _trainer(self, dataset: Dataset) -> TrainerConfig:
        private = self.privacy == "dp-sgd"
        rate: dict[str, Any] = (
            {"lr": _PRIVATE_RATE[self.model]} if private else {"lr": _RATE[self.model], "momentum": 0.9}
        )
        small = len(dataset.train) < 10_000
        return TrainerConfig(
            optimizer=OptimizerConfig(name="sgd", parameters=rate),
            metrics=(MetricConfig(name="accuracy"),),
            epochs=None if private else 1,
            steps=_STEPS if private else None,
            batch_size=64 if private or not small else 16,
            device="cpu",
        )

    def _terms(self, dataset: Dataset) -> PrivacyTerms:
        """Return literal numbers that cost at most the epsilon asked for, over all rounds."""
        from ...privacy.accounting.calibrate import calibrate, calibrate_laplace
        from ..site.price import bound_units

        epsilon, dimensions = self.epsilon or 0.0, self._elements(dataset)
        if self.privacy == "dp-sgd":
            rate, normaliser = _SAMPLING[self.dataset]
            noise = calibrate(
                epsilon,
                _DELTA,
                steps=_STEPS * self.rounds,
                sampling_rate=rate,
                adjacency="add-remove",
                bound_units=bound_units(_RECORD_CLIP, dimensions),
            )
            return PrivacyTerms(
                mechanism="dp-sgd",
                clip_norm=_RECORD_CLIP,
                noise_multiplier=noise,
                delta=_DELTA,
                releases=self.rounds,
                steps=_STEPS,
                sampling_rate=rate,
                normaliser=normaliser,
            )
        gaussian = self.privacy == "output-gaussian"
        noise = (
            calibrate(epsilon, _DELTA, steps=self.rounds, adjacency="any", bound_units=bound_units(1.0, dimensions))
            if gaussian
            else calibrate_laplace(epsilon, steps=self.rounds, adjacency="any")
        )
        return PrivacyTerms(
            mechanism="output-gaussian" if gaussian else "output-laplace",
            unit="site",
            adjacency="any",
            clip_norm=_OUTPUT_CLIP,
            noise_multiplier=noise,
            delta=_DELTA if gaussian else 0.0,
            releases=self.rounds,
        )

    def _elements(self, dataset: Dataset) -> int:
        trainer = build_trainer(self.unprotected().run(dataset), site="nobody")
        return sum(array.size for array in trainer.initial_parameters(self.seed).values())

    def _shape(self, dataset: Dataset) -> dict[str, Any]:
        if self.model == "cnn":
            return {"image": list(dataset.shape), "classes": dataset.classes}
        return {"inputs": dataset.inputs, "classes": dataset.classes}
