"""`torch`: trains any registered model with torch's optimisers, schedules and the registered losses.

All randomness of a round (order of examples, dropout) follows from (run seed, round, site, epoch), so a training is
equal bit by bit on the CPU, whether or not it was interrupted, whatever ran before it in the process. Version 0 follows
from the run's seed alone.

Failures after data was touched become `TrainingFailedError`: its text names the kind of the error and the line of code,
never a value. torch's own text, which can quote labels or shapes of the data, is dropped.

With a solver (the local half of an algorithm such as ADMM) its step takes the optimiser's place: it gets each trained tensor
flat, with the gradient of the mean loss. Then there is no schedule and no checkpoint, for the solver's own state is in neither:
a round that was killed starts again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from ...errors import CountersealError
from ..errors import TrainingError, TrainingFailedError
from .batches import epoch_batches, plan
from .checkpoint import Checkpoints, Progress, training_key
from .device import choose_device, describe_device, numerics
from .losses import Loss
from .metrics import Metric, right
from .optimisers import build_optimizer, build_scheduler, step_scheduler
from .seam import Array, Arrays, LocalSolver, TrainerContext, TrainingResult, check_parameters, derive_seed

__all__ = ["TorchTrainer", "finite_arrays", "guard", "solve"]

_DTYPES = {"float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"}
R = TypeVar("R")


class TorchTrainer:
    """One model, its loss and its metrics on one device."""

    def __init__(self, context: TrainerContext) -> None:
        self._context = context
        self._device = choose_device(context.device)
        self._template = self.initial_parameters(0)
        config, registry = context.trainer, context.registry
        self._loss: Loss = registry.build("loss", config.loss.name, config.loss.parameters)
        self._metrics: dict[str, Metric] = {
            metric.name: registry.build("metric", metric.name, metric.parameters) for metric in config.metrics
        }
        optimizer = build_optimizer(config.optimizer, self._model(0))  # so that a wrong name fails before the run
        build_scheduler(config.scheduler, optimizer, 0)

    @property
    def device(self) -> str:
        """The device in use, as it is reported."""
        return describe_device(self._device)

    def initial_parameters(self, seed: int) -> dict[str, Array]:
        """Return the model's own initialisation under ``seed``, made on the CPU: the same at every party."""
        return _arrays(self._model(derive_seed(seed, "initial")))

    @property
    def dimensions(self) -> int:
        """The elements of the trained tensors; see `seam.Trainer`."""
        return sum(one.numel() for one in self._model(0).parameters() if one.requires_grad)

    def train(
        self, parameters: Mapping[str, Array], *, seed: int, round_number: int, solver: LocalSolver | None = None
    ) -> TrainingResult:
        """Return the parameters after one round; see `seam.Trainer`."""
        check_parameters(parameters, self._template)
        data = self._context.require("train")
        started = time.monotonic()
        trained, losses = guard(lambda: self._round(parameters, data, seed, round_number, solver))
        seconds = time.monotonic() - started
        return TrainingResult(trained, {"loss": losses[-1]}, len(data), self.device, seconds)

    def evaluate(self, parameters: Mapping[str, Array], split: str = "test") -> dict[str, float]:
        """Return ``loss`` and the run's metrics; see `seam.Trainer`."""
        check_parameters(parameters, self._template)
        data = self._context.require(split)
        return guard(lambda: self._measure(parameters, data))

    def count_right(self, parameters: Mapping[str, Array]) -> tuple[int, int]:
        """Return held-out examples, and those whose class is right; see `seam.Trainer`."""
        check_parameters(parameters, self._template)
        data = self._context.require("test")
        return guard(lambda: (len(data), right(self._scores(parameters, data), data.y)))

    def _scores(self, parameters: Mapping[str, Array], data: Arrays) -> Array:
        model = self._load(parameters).eval()
        x, _ = self._tensors(data)
        with torch.no_grad(), numerics(self._device, 0):
            outputs = [model(x[first : first + 256]).cpu().double() for first in range(0, len(x), 256)]
        scores = torch.cat(outputs).numpy()
        return scores.reshape(len(scores), -1)

    def _model(self, seed: int) -> nn.Module:
        config = self._context.model
        with numerics(torch.device("cpu"), seed):
            model = self._context.registry.build("model", config.name, config.parameters)
        if not isinstance(model, nn.Module):
            raise TrainingError(f"model {config.name!r} is not a torch.nn.Module")
        return model

    def _round(
        self,
        parameters: Mapping[str, Array],
        data: Arrays,
        run_seed: int,
        round_number: int,
        solver: LocalSolver | None,
    ) -> tuple[dict[str, Array], tuple[float, ...]]:
        config = self._context.trainer
        seed = derive_seed(run_seed, "train", round_number, self._context.site)
        model = self._load(parameters)
        optimizer = build_optimizer(config.optimizer, model)
        scheduler = build_scheduler(config.scheduler, optimizer, round_number)
        move = optimizer.step if solver is None else lambda: solve(model, solver)
        checkpoints = None if solver is not None else self._checkpoints(parameters, data, run_seed, round_number)
        progress = (checkpoints and checkpoints.restore(model, optimizer, scheduler)) or Progress(0, ())
        x, y = self._tensors(data)
        for epoch, batches in enumerate(plan(config, len(data))):
            if epoch < progress.epochs:
                continue
            loss = self._epoch(model, move, x, y, seed, epoch, batches)
            if solver is None:
                step_scheduler(config.scheduler, scheduler, loss)
            progress = Progress(epoch + 1, (*progress.losses, loss))
            if checkpoints is not None:
                checkpoints.save(progress, model, optimizer, scheduler)
        return finite_arrays(model), progress.losses

    def _epoch(
        self,
        model: nn.Module,
        move: Callable[[], object],
        x: torch.Tensor,
        y: torch.Tensor,
        seed: int,
        epoch: int,
        batches: int,
    ) -> float:
        config = self._context.trainer
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        count = 0
        model.train()
        with numerics(self._device, derive_seed(seed, "epoch", epoch)):
            for rows in epoch_batches(seed, epoch, len(x), config.batch_size, batches):
                chosen = torch.from_numpy(rows).to(self._device)
                model.zero_grad(set_to_none=True)
                losses = self._losses(model(x[chosen]), y[chosen])
                losses.mean().backward()  # type: ignore[no-untyped-call]
                if config.clip_gradient_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient_norm)
                move()
                total += losses.detach().sum(dtype=torch.float64)
                count += len(rows)
        return _finite(float(total) / count)  # once an epoch: a look at every batch would wait for the GPU

    def _losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = self._loss(outputs, targets)
        if losses.shape != (len(targets),):
            raise TrainingFailedError("the loss does not give one value per record")
        return losses

    def _measure(self, parameters: Mapping[str, Array], data: Arrays) -> dict[str, float]:
        model = self._load(parameters).eval()
        x, y = self._tensors(data)
        size = max(self._context.trainer.batch_size, 256)
        outputs, losses = [], []
        with torch.no_grad(), numerics(self._device, 0):
            for first in range(0, len(x), size):
                scores = model(x[first : first + size])
                losses.append(self._losses(scores, y[first : first + size]).cpu().double())
                outputs.append(scores.cpu().double())
        scores = torch.cat(outputs).numpy()
        found = {"loss": _finite(float(torch.cat(losses).mean()))}
        shaped = scores.reshape(len(scores), 1) if scores.ndim == 1 else scores
        measured = {name: metric(shaped, data.y) for name, metric in self._metrics.items()}
        return found | {name: float(value) for name, value in measured.items() if value is not None}

    def _load(self, parameters: Mapping[str, Array]) -> nn.Module:
        model = self._model(0)
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in parameters.items()})
        return model.to(self._device)

    def _tensors(self, data: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
        # A read-only array (a memory map) is copied: torch has no read-only tensors.
        x, y = (value if value.flags.writeable else value.copy() for value in (data.x, data.y))
        return torch.from_numpy(x).to(self._device), torch.from_numpy(y).to(self._device)

    def _checkpoints(
        self, parameters: Mapping[str, Array], data: Arrays, seed: int, round_number: int
    ) -> Checkpoints | None:
        folder = self._context.checkpoints
        if folder is None:
            return None
        return Checkpoints(folder, training_key(self._context, parameters, data, seed, round_number, self.device))


def _arrays(model: nn.Module) -> dict[str, Array]:
    found = {}
    for name, value in model.state_dict().items():
        if str(value.dtype).removeprefix("torch.") not in _DTYPES:
            raise TrainingError(f"{name} is {value.dtype}, which numpy does not have", remedy="Use float32 parameters.")
        found[name] = value.detach().cpu().numpy().copy()
    return found


def finite_arrays(model: nn.Module) -> dict[str, Array]:
    """Return the ``state_dict`` of ``model`` as arrays.

    Raises:
        TrainingFailedError: a number in it is not finite.
    """
    found = _arrays(model)
    if not all(np.isfinite(array).all() for array in found.values()):
        raise TrainingFailedError("a parameter is not finite", remedy="Lower the learning rate, or clip gradients.")
    return found


def _finite(loss: float) -> float:
    if not np.isfinite(loss):
        raise TrainingFailedError("the loss is not finite", remedy="Lower the learning rate, or clip gradients.")
    return loss


def solve(model: nn.Module, solver: LocalSolver) -> None:
    """Let ``solver`` move every trained tensor of ``model`` by its gradient; one that the loss did not use has a zero one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                values = parameter.detach().cpu().reshape(-1).numpy().copy()
                solver.step(name, values, gradient.detach().cpu().reshape(-1).numpy())
                parameter.copy_(torch.from_numpy(values).reshape(parameter.shape))


def guard(work: Callable[[], R], passed: tuple[type[Exception], ...] = (CountersealError,)) -> R:
    """Return ``work()``, which touches data; every error but those ``passed`` on becomes `TrainingFailedError`.

    Raises:
        TrainingFailedError: naming the kind of the error and the line of code.
    """
    try:
        return work()
    except passed:
        raise
    except Exception as error:  # noqa: BLE001  models, losses, torch raise anything, and their texts may quote the data
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
        raise TrainingFailedError(f"the computation failed ({type(error).__name__}{place})") from None
