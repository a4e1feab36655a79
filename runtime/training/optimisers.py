"""torch's optimisers and learning-rate schedules by registry name, with the user's own parameters passed through.

The lists are closed: a name from a run never reaches `getattr`. Left out are those that need a closure (LBFGS), sparse
gradients, or a function as parameter (LambdaLR).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn, optim
from torch.optim import lr_scheduler

from ..config import OptimizerConfig, SchedulerConfig
from ..errors import TrainingError
from .registry import call, unknown

__all__ = ["OPTIMIZERS", "SCHEDULERS", "build_optimizer", "build_scheduler", "step_scheduler"]

OPTIMIZERS: Mapping[str, type[optim.Optimizer]] = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "adamax": optim.Adamax,
    "adagrad": optim.Adagrad,
    "adadelta": optim.Adadelta,
    "asgd": optim.ASGD,
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
    "rmsprop": optim.RMSprop,
    "rprop": optim.Rprop,
}

SCHEDULERS: Mapping[str, type[lr_scheduler.LRScheduler]] = {
    "constant": lr_scheduler.ConstantLR,
    "cosine": lr_scheduler.CosineAnnealingLR,
    "cosine-restarts": lr_scheduler.CosineAnnealingWarmRestarts,
    "exponential": lr_scheduler.ExponentialLR,
    "linear": lr_scheduler.LinearLR,
    "multistep": lr_scheduler.MultiStepLR,
    "plateau": lr_scheduler.ReduceLROnPlateau,
    "polynomial": lr_scheduler.PolynomialLR,
    "step": lr_scheduler.StepLR,
}


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> optim.Optimizer:
    """Return the optimiser over the parameters of ``model`` that are trained.

    Raises:
        TrainingError: an unknown name or parameter; it lists the known ones.
    """
    if config.name not in OPTIMIZERS:
        raise unknown("optimizer", config.name, sorted(OPTIMIZERS))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found: optim.Optimizer = _call(OPTIMIZERS[config.name], f"optimizer {config.name!r}", config.parameters, trained)
    return found


def build_scheduler(
    config: SchedulerConfig | None, optimizer: optim.Optimizer, round_number: int
) -> lr_scheduler.LRScheduler | None:
    """Return the schedule, already ``round_number`` steps (from 0) ahead if it is one over rounds.

    Raises:
        TrainingError: an unknown name or parameter; it lists the known ones.
    """
    if config is None:
        return None
    if config.name not in SCHEDULERS:
        raise unknown("scheduler", config.name, sorted(SCHEDULERS))
    if config.name == "plateau" and config.step == "round":
        raise TrainingError("the scheduler 'plateau' cannot step by round: it follows the loss of the epochs")
    found: lr_scheduler.LRScheduler = _call(
        SCHEDULERS[config.name], f"scheduler {config.name!r}", config.parameters, optimizer
    )
    if config.step == "round":
        with warnings.catch_warnings():
            # torch warns because these steps come before the optimiser's: they were taken in earlier rounds.
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(round_number):
                found.step()
    return found


def step_scheduler(config: SchedulerConfig | None, scheduler: lr_scheduler.LRScheduler | None, loss: float) -> None:
    """Take the step that follows an epoch whose mean loss was ``loss``."""
    if config is None or scheduler is None or config.step == "round":
        return
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        scheduler.step()


def _call(builder: type[Any], what: str, parameters: Mapping[str, Any], *first: Any) -> Any:
    known = list(inspect.signature(builder).parameters)[1:]
    extra = sorted(set(parameters) - set(known))
    if extra:
        raise TrainingError(f"{what} has no parameter {extra[0]!r}", remedy=f"Known: {', '.join(known)}.")
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()}
    return call(builder, what, plain, *first)
