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
from .datasets import Dataset

__all__ = ["DatasetName", "DemoSettings", "ModelName", "StoreName"]

DatasetName = Literal["digits", "breast-cancer", "fashion-mnist"]
ModelName = Literal["logistic", "mlp", "cnn"]
StoreName = Literal["directory", "s3"]

_ROUNDS: Final[Mapping[str, int]] = MappingProxyType({"digits": 25, "breast-cancer": 8, "fashion-mnist": 6})
_RATE: Final[Mapping[str, float]] = MappingProxyType({"logistic": 0.1, "mlp": 0.05, "cnn": 0.03})
_CLIP = 10.0
"""L2 norm; loose: honest updates of these models stay below it."""


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

    @classmethod
    def of(cls, *, dataset: DatasetName = "digits", **options: Any) -> DemoSettings:
        """Return the settings with what suits ``dataset`` where an option is None or missing.

        Raises:
            ValidationError: options that no demonstration has, or that contradict each other.
        """
        usual = {"rounds": _ROUNDS.get(dataset), "model": "mlp" if dataset == "breast-cancer" else "cnn"}
        return cls(dataset=dataset, **(usual | {name: value for name, value in options.items() if value is not None}))

    @model_validator(mode="after")
    def _fits(self) -> DemoSettings:
        if self.model == "cnn" and self.dataset == "breast-cancer":
            raise ValueError("breast-cancer has measurements, no images: use --model logistic or mlp")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The sites' identities."""
        return tuple(f"site-{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"[: self.sites])

    def payload(self) -> bytes:
        """Return the canonical JSON that is kept beside the demonstration."""
        return canonical(self.model_dump(mode="json"))

    def run(self, dataset: Dataset) -> RunConfig:
        """Return the training of this demonstration."""
        return RunConfig(
            name=f"demo-{self.dataset}-{self.model}",
            seed=self.seed,
            rounds=self.rounds,
            model=ModelConfig(name=self.model, parameters=self._shape(dataset)),
            trainer=TrainerConfig(
                optimizer=OptimizerConfig(name="sgd", parameters={"lr": _RATE[self.model], "momentum": 0.9}),
                metrics=(MetricConfig(name="accuracy"),),
                epochs=1,
                batch_size=16 if len(dataset.train) < 10_000 else 64,
                device="cpu",
            ),
            aggregation=AggregationConfig(clip_norm=_CLIP),
            minimum_sites=max(1, (self.sites + 1) // 2),
            round_seconds=600,
            evaluation=EvaluationConfig(sites=True, server=True),
        )

    def _shape(self, dataset: Dataset) -> dict[str, Any]:
        if self.model == "cnn":
            return {"image": list(dataset.shape), "classes": dataset.classes}
        return {"inputs": dataset.inputs, "classes": dataset.classes}
