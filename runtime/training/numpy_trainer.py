"""`numpy-linear`: softmax regression (`logistic`) and least squares (`linear`) by mini-batch gradient descent.

A complete trainer that loads no torch: for small deployments, and wherever a process must start quickly. Parameters
have the names of the torch models of the same registry name (`linear.weight` float32[k, d], `linear.bias` float32[k]),
so a run may use either trainer; examples are flattened to d. Arithmetic is float32, the loss float64.

Takes: optimizer `sgd` with `lr`, `momentum`, `weight_decay`; loss `cross-entropy` or `mse`; no scheduler. Its rounds
take seconds, so it writes no checkpoints: a killed round starts again and gives the same bytes. With a solver (the local half of
an algorithm such as ADMM) its step takes the optimiser's place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ..errors import TrainingError, TrainingFailedError
from .batches import epoch_batches, plan
from .metrics import Metric, right
from .seam import Array, Arrays, LocalSolver, TrainerContext, TrainingResult, check_parameters, derive_seed

__all__ = ["NumpyLinearTrainer"]

_SIZES = {"logistic": ("inputs", "classes"), "linear": ("inputs", "outputs")}
_LOSSES = {"logistic": "cross-entropy", "linear": "mse"}
_OPTIONS = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}


class NumpyLinearTrainer:
    """One linear map, trained with numpy alone."""

    def __init__(self, context: TrainerContext) -> None:
        self._context = context
        self._inputs, self._outputs = _sizes(context)
        self._options = _options(context)
        _check_rest(context)
        self._metrics: dict[str, Metric] = {
            metric.name: context.registry.build("metric", metric.name, metric.parameters)
            for metric in context.trainer.metrics
        }

    @property
    def device(self) -> str:
        """Always ``cpu``."""
        return "cpu"

    @property
    def dimensions(self) -> int:
        """The elements of weight and bias; see `seam.Trainer`."""
        return (self._inputs + 1) * self._outputs

    def initial_parameters(self, seed: int) -> dict[str, Array]:
        """Return uniform weights within 1/sqrt(d), as torch's linear layer has, and a zero bias."""
        bound = 1.0 / np.sqrt(self._inputs)
        generator = np.random.default_rng(derive_seed(seed, "initial"))
        weight = generator.uniform(-bound, bound, (self._outputs, self._inputs)).astype(np.float32)
        return {"linear.weight": weight, "linear.bias": np.zeros(self._outputs, np.float32)}

    def train(
        self, parameters: Mapping[str, Array], *, seed: int, round_number: int, solver: LocalSolver | None = None
    ) -> TrainingResult:
        """Return the parameters after one round; see `seam.Trainer`."""
        self._check(parameters)
        data = self._context.require("train")
        seed = derive_seed(seed, "train", round_number, self._context.site)
        started = time.monotonic()
        state = {name: np.array(value, np.float32) for name, value in parameters.items()}
        velocity = {name: np.zeros_like(value) for name, value in state.items()}
        x, y = self._flat(data)
        with np.errstate(all="ignore"):  # overflow is found by the loss and the parameters, which must be finite
            losses = [
                self._epoch(state, velocity, x, y, seed, epoch, n, solver) for epoch, n in enumerate(self._plan(len(x)))
            ]
        if not all(np.isfinite(value).all() for value in state.values()):
            raise TrainingFailedError("a parameter is not finite", remedy="Lower the learning rate, or clip gradients.")
        seconds = time.monotonic() - started
        return TrainingResult(state, {"loss": losses[-1]}, len(x), self.device, seconds)

    def evaluate(self, parameters: Mapping[str, Array], split: str = "test") -> dict[str, float]:
        """Return ``loss`` and the run's metrics; see `seam.Trainer`."""
        self._check(parameters)
        x, y = self._flat(self._context.require(split))
        with np.errstate(all="ignore"):
            scores = _scores(parameters, x)
            found = {"loss": _finite(self._loss(scores, y)[0])}
        try:
            measured = {name: metric(scores.astype(np.float64), y) for name, metric in self._metrics.items()}
        except (ValueError, IndexError, TypeError) as error:
            raise TrainingFailedError(f"a metric failed ({type(error).__name__})") from None
        return found | {name: float(value) for name, value in measured.items() if value is not None}

    def count_right(self, parameters: Mapping[str, Array]) -> tuple[int, int]:
        """Return held-out examples, and those whose class is right; see `seam.Trainer`."""
        self._check(parameters)
        x, y = self._flat(self._context.require("test"))
        with np.errstate(all="ignore"):
            return len(y), right(_scores(parameters, x).astype(np.float64), y)

    def _check(self, parameters: Mapping[str, Array]) -> None:
        check_parameters(parameters, self.initial_parameters(0))

    def _plan(self, examples: int) -> list[int]:
        return plan(self._context.trainer, examples)

    def _flat(self, data: Arrays) -> tuple[Array, Array]:
        x = data.x.reshape(len(data), -1).astype(np.float32, copy=False)
        if x.shape[1] != self._inputs:
            raise TrainingFailedError("the loader's examples do not have the model's number of inputs")
        if self._context.model.name == "logistic":
            if data.y.dtype != np.int64 or data.y.ndim != 1 or data.y.min() < 0 or data.y.max() >= self._outputs:
                raise TrainingFailedError("the loader's labels are not classes of the model")
            return x, data.y
        return x, data.y.reshape(len(x), -1).astype(np.float32)

    def _epoch(
        self,
        state: dict[str, Array],
        velocity: dict[str, Array],
        x: Array,
        y: Array,
        seed: int,
        epoch: int,
        batches: int,
        solver: LocalSolver | None,
    ) -> float:
        total = 0.0
        count = 0
        for rows in epoch_batches(seed, epoch, len(x), self._context.trainer.batch_size, batches):
            loss, gradients = self._gradients(state, x[rows], y[rows])
            total, count = total + _finite(loss) * len(rows), count + len(rows)
            if solver is None:
                self._step(state, velocity, gradients)
            else:
                _solve(state, gradients, solver)
        return total / count

    def _gradients(self, state: Mapping[str, Array], x: Array, y: Array) -> tuple[float, dict[str, Array]]:
        loss, residual = self._loss(_scores(state, x), y)
        residual /= np.float32(len(x))
        gradients = {"linear.weight": residual.T @ x, "linear.bias": residual.sum(axis=0)}
        limit = self._context.trainer.clip_gradient_norm
        if limit is not None:
            norm = float(np.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in gradients.values())))
            gradients = {name: g * np.float32(min(1.0, limit / max(norm, 1e-12))) for name, g in gradients.items()}
        return loss, gradients

    def _loss(self, scores: Array, y: Array) -> tuple[float, Array]:
        """Return the mean loss, and its derivative by the scores times the batch size."""
        if self._context.model.name == "linear":
            if y.shape != scores.shape:
                raise TrainingFailedError("the loader's values do not have the model's number of outputs")
            residual = scores - y
            return float(np.square(residual, dtype=np.float64).mean()), residual * np.float32(2 / scores.shape[1])
        shifted = scores - scores.max(axis=1, keepdims=True)
        likely = np.exp(shifted)
        total = likely.sum(axis=1, keepdims=True)
        rows = np.arange(len(y))
        loss = (np.log(total[:, 0].astype(np.float64)) - shifted[rows, y]).mean()
        likely /= total
        likely[rows, y] -= 1
        return float(loss), likely

    def _step(self, state: dict[str, Array], velocity: dict[str, Array], gradients: dict[str, Array]) -> None:
        lr, momentum, decay = (np.float32(self._options[name]) for name in ("lr", "momentum", "weight_decay"))
        for name, gradient in gradients.items():
            velocity[name] = momentum * velocity[name] + gradient + decay * state[name]
            state[name] = state[name] - lr * velocity[name]


def _solve(state: dict[str, Array], gradients: Mapping[str, Array], solver: LocalSolver) -> None:
    for name, gradient in gradients.items():
        values = np.ascontiguousarray(state[name]).reshape(-1)
        solver.step(name, values, np.ascontiguousarray(gradient, np.float32).reshape(-1))
        state[name] = values.reshape(state[name].shape)


def _scores(parameters: Mapping[str, Array], x: Array) -> Array:
    return np.asarray(x @ parameters["linear.weight"].T + parameters["linear.bias"])


def _finite(loss: float) -> float:
    if not np.isfinite(loss):
        raise TrainingFailedError("the loss is not finite", remedy="Lower the learning rate, or clip gradients.")
    return loss


def _sizes(context: TrainerContext) -> tuple[int, int]:
    model = context.model
    if model.name not in _SIZES:
        raise TrainingError(
            f"numpy-linear does not train the model {model.name!r}", remedy=f"Known: {', '.join(_SIZES)}."
        )
    found = []
    for name in _SIZES[model.name]:
        value = model.parameters.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**7:
            raise TrainingError(f"model {model.name!r} needs {name}, a whole number above 0", where="model.parameters")
        found.append(value)
    unknown = sorted(set(model.parameters) - set(_SIZES[model.name]))
    if unknown:
        raise TrainingError(f"model {model.name!r} has no parameter {unknown[0]!r}", where="model.parameters")
    return found[0], found[1]


def _options(context: TrainerContext) -> dict[str, float]:
    optimizer = context.trainer.optimizer
    if optimizer.name != "sgd":
        raise TrainingError(f"numpy-linear does not have the optimizer {optimizer.name!r}", remedy="Known: sgd.")
    options = dict(_OPTIONS)
    for name, value in optimizer.parameters.items():
        if name not in options or not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise TrainingError(
                f"optimizer sgd does not take this {name!r}",
                remedy=f"Known, as numbers from 0: {', '.join(options)}.",
                where="trainer.optimizer.parameters",
            )
        options[name] = float(value)
    return options


def _check_rest(context: TrainerContext) -> None:
    config = context.trainer
    wanted = _LOSSES[context.model.name]
    if config.loss.name != wanted or config.loss.parameters:
        raise TrainingError(
            f"numpy-linear trains {context.model.name!r} with the loss {wanted!r} and no parameters",
            where="trainer.loss",
        )
    if config.scheduler is not None:
        raise TrainingError("numpy-linear has no schedulers", where="trainer.scheduler", remedy="Use trainer torch.")
    if context.device not in {"auto", "cpu"}:
        raise TrainingError(f"numpy-linear computes on the cpu, not {context.device!r}", remedy="Use trainer torch.")
