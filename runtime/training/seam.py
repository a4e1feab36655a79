"""The seam between the site and whatever trains: numpy in, numpy out.

A trainer gets the global parameters as arrays by name and returns new ones with the same names, shapes and dtypes. It
sees neither keys, tickets nor stores, and the site sees neither torch nor a GPU; importing this module loads neither.

Guarantees of every trainer here: the same (parameters, data, configuration, seed, round, site) gives the same bytes on
the CPU of one machine; names, shapes and dtypes are kept, integer buffers included; a failure after data was touched
is `TrainingFailedError` (`site_failed`), whose text says nothing about the data.

Not handled here: privacy. Parameters, metrics, counts and seconds in a `TrainingResult` are exact; what may leave the
site is decided by the site's privacy policy, not by its trainer. Across machines (other BLAS, other GPU) results may
differ in the last bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ...trust.terms import PrivacyTerms
from ..config import ModelConfig, TrainerConfig
from ..errors import TrainingError, TrainingFailedError

__all__ = [
    "Array",
    "Arrays",
    "LocalSolver",
    "SiteData",
    "Trainer",
    "TrainerContext",
    "TrainingResult",
    "check_parameters",
    "derive_seed",
    "parameters_digest",
]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """Examples: ``x`` float32 or int64 [n, ...], ``y`` int64 [n] (classes) or float32 [n] or [n, k] (values)."""

    x: Array
    y: Array

    def __post_init__(self) -> None:
        for name, array, dtypes in (("x", self.x, ("float32", "int64")), ("y", self.y, ("float32", "int64"))):
            kind: type = type(array)  # a loader is foreign code: its annotation proves nothing
            if not issubclass(kind, np.ndarray) or array.dtype.name not in dtypes or array.ndim < 1:
                raise TrainingFailedError(f"the loader's {name} is not an array of {' or '.join(dtypes)}")
        if len(self.x) != len(self.y) or len(self.x) == 0:
            raise TrainingFailedError("the loader's x and y are empty or of different length")

    def __len__(self) -> int:
        return len(self.x)

    def require_finite(self) -> None:
        """Return if all values are finite.

        Not for private runs: whether this fails depends on a single record, and the server would see that it failed.

        Raises:
            TrainingFailedError: one is not.
        """
        for name, array in (("x", self.x), ("y", self.y)):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise TrainingFailedError(f"the loader's {name} holds values that are not finite")


@dataclass(frozen=True, slots=True, eq=False)
class SiteData:
    """What a loader returns. ``describe`` is for this site's own people; nothing of it leaves the site.

    ``unit`` is what one record stands for, and ``records_per_unit`` how many records one unit can have at most: what the loader
    guarantees by how it is written, whatever the data. A budget protects units.
    """

    train: Arrays
    test: Arrays | None = None
    describe: Mapping[str, str | int | float] = field(default_factory=dict)
    unit: str = "record"
    records_per_unit: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """What one round of training gave; exact, so private until the site's policy says otherwise."""

    parameters: dict[str, Array]
    metrics: dict[str, float]
    examples: int
    device: str
    seconds: float


class LocalSolver(Protocol):
    """A step other than an optimiser's: what the local half of an algorithm (ADMM) makes of a gradient."""

    def step(self, name: str, values: npt.NDArray[np.float32], gradient: npt.NDArray[np.float32]) -> None:
        """Move ``values``, float32[k], the flat tensor called ``name``, in place; ``gradient``: float32[k], that of the loss."""


class Trainer(Protocol):
    """One site's way to train the run's model."""

    @property
    def device(self) -> str:
        """The device in use, as it is reported: ``cpu``, ``cuda:0 (name)``."""

    @property
    def dimensions(self) -> int:
        """How many numbers training changes: the elements of the trained tensors. Needs no data."""

    def initial_parameters(self, seed: int) -> dict[str, Array]:
        """Return version 0: the same for the same seed. Needs no data."""

    def train(
        self, parameters: Mapping[str, Array], *, seed: int, round_number: int, solver: LocalSolver | None = None
    ) -> TrainingResult:
        """Return the parameters after one round on the site's data, starting from ``parameters``.

        ``seed`` is the run's; ``round_number`` the version it starts from (from 0). The trainer mixes in the
        round and its site (`derive_seed`). With a ``solver``, its step takes the place of the optimiser's.

        Raises:
            TrainingError: names, shapes or dtypes differ from the model's, or there is no data. No data was touched.
            TrainingFailedError: after data was touched.
        """

    def count_right(self, parameters: Mapping[str, Array]) -> tuple[int, int]:
        """Return how many held-out examples there are, and how many of them get their class right: exact, so private.

        Raises:
            TrainingError, TrainingFailedError: as in `evaluate`.
        """

    def evaluate(self, parameters: Mapping[str, Array], split: str = "test") -> dict[str, float]:
        """Return the metrics on ``test`` or ``train``; a metric that is undefined on these data is left out.

        Raises:
            TrainingError: as in `train`.
            TrainingFailedError: after data was touched.
        """


@dataclass(frozen=True, slots=True, eq=False)
class TrainerContext:
    """What a trainer is built from. ``data`` is None where only version 0 is needed (the server)."""

    model: ModelConfig
    trainer: TrainerConfig
    site: str
    data: SiteData | None
    device: str
    checkpoints: Path | None
    registry: Any  # a training.registry.Registry: not imported, it imports this module
    privacy: PrivacyTerms | None = None
    """The terms under which what this trainer gives may leave the site; only a trainer that keeps them is built with any."""

    def require(self, split: str) -> Arrays:
        """Return the examples of ``split``.

        Raises:
            TrainingError: there are none.
        """
        if split not in {"train", "test"}:
            raise TrainingError(f"no split {split!r}", remedy="Known: train, test.")
        arrays = None if self.data is None else self.data.train if split == "train" else self.data.test
        if arrays is None:
            raise TrainingError(
                f"this party has no {split} data", remedy="Name a loader that gives them, or switch evaluation off."
            )
        if self.privacy is None:
            arrays.require_finite()
        return arrays


def derive_seed(*parts: int | str) -> int:
    """Return a seed below 2^63 that follows from ``parts`` alone: run seed, purpose, round, site, epoch, ...

    Different parts give unrelated seeds: it is the head of a SHA-256 over an unambiguous encoding. Not for privacy
    noise, whose keys come from the operating system.
    """
    text = "".join(f"{type(part).__name__}:{len(str(part))}:{part};" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def check_parameters(given: Mapping[str, Array], model: Mapping[str, Array]) -> None:
    """Return if ``given`` has the names, shapes and dtypes of ``model``.

    Raises:
        TrainingError: saying which name differs, and how.
    """
    if set(given) != set(model):
        missing, extra = sorted(set(model) - set(given)), sorted(set(given) - set(model))
        raise TrainingError(
            f"the parameters' names are not the model's (missing {missing[:5]}, unknown {extra[:5]})",
            remedy="The run's model and the parameters' schema must be the same.",
        )
    for name, array in model.items():
        if given[name].shape != array.shape or given[name].dtype != array.dtype:
            raise TrainingError(
                f"{name} is {given[name].dtype}{list(given[name].shape)},"
                f" but the model has {array.dtype}{list(array.shape)}",
                remedy="The run's model and the parameters' schema must be the same.",
            )


def parameters_digest(parameters: Mapping[str, Array]) -> str:
    """Return a SHA-256 over names, dtypes, shapes and bytes: names a starting point, proves nothing to others."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        array = np.ascontiguousarray(parameters[name])
        digest.update(f"{len(name)}:{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()
