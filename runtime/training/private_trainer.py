"""`torch` under dp-sgd: the same models, losses and optimisers, with a gradient that protects each record.

A round is exactly ``terms.steps`` steps. In each, every record takes part with probability ``terms.sampling_rate``; the
gradients of those that do are clipped, rounded, summed and noised (`privacy.dpsgd.gradients`), divided by ``terms.normaliser``
and given to the optimiser, or to the solver. A step whose batch is empty is a step: noise alone. ``trainer.batch_size`` is only
how many records are computed at once: it bounds memory and is no part of the mechanism.

What differs from `torch_trainer`:

- No two trainings are equal: each step draws its own key from the operating system; the run's seed has no part in it.
- No checkpoint is written. A round that was killed starts again with new noise; nothing of its first life had left the site.
- The result says nothing but the parameters: no metric, ``examples`` 0, whole minutes, rounded up. (How long the site took can
  be seen from outside by whoever waits for it; that is not covered.)
- Before data is touched: numbers that do not agree (`TrainingError`), layers that are not known to keep records apart, and a
  self-check on synthetic records of the loader's shape (`UnsupportedModelError`, `CoupledRecordsError`).
- Afterwards every failure is `TrainingFailedError`, and none may depend on what a record holds, for that would be an
  unpaid query. What values could make a step fail, and what happens instead:

    x or y not finite, a loss or gradient that overflows    that record's gradient is zero
    a class label out of range (`cross-entropy`)            that record's loss, and so its gradient, is zero
    a token beyond an embedding, or whatever else makes     the record is found among blanks, and its gradient is zero
      the model or a plug-in's loss raise an error            (on CUDA an index out of range ends the process: NOT COVERED)
    parameters that are not finite after the round          an error, computed from the noised parameters alone: not a query

  NOT COVERED: code that does not come back, or ends the process, for some record. Shape and dtype of a record, and that there
  are any records, count as public.

`count_right` looks at every held-out record alone, so that one record changes each count by at most one whatever it does.

`evaluate` is that of `torch_trainer`, exact: for the site's own people and for data that are public; the site's policy decides
whether anything of it leaves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from torch import nn

from ...privacy.dpsgd.gradients import Losses, PrivateGradients
from ...privacy.dpsgd.layers import check_model
from ...privacy.dpsgd.sampling import PoissonSampler
from ...privacy.dpsgd.selfcheck import check_records
from ...privacy.errors import UnsupportedModelError
from ...privacy.noise import Keystream
from ...trust.terms import PrivacyTerms
from ..config import TrainerConfig
from ..errors import TrainingError, TrainingFailedError
from .device import numerics
from .metrics import right
from .optimisers import build_optimizer, build_scheduler
from .seam import Array, Arrays, LocalSolver, TrainerContext, TrainingResult, check_parameters
from .torch_trainer import TorchTrainer, finite_arrays, guard, solve

__all__ = ["PrivateTorchTrainer"]

_SYNTHETIC = 5


class PrivateTorchTrainer(TorchTrainer):
    """One model, its loss and its terms on one device."""

    def __init__(self, context: TrainerContext) -> None:
        self._terms = _terms(context)
        super().__init__(context)
        check_model(self._model(0))
        self._checked = False

    def train(
        self, parameters: Mapping[str, Array], *, seed: int, round_number: int, solver: LocalSolver | None = None
    ) -> TrainingResult:
        """Return the parameters after one private round; see `seam.Trainer`. ``seed`` has no part in it.

        Raises:
            UnsupportedModelError, CoupledRecordsError: the self-check refuses the model; no data was touched.
        """
        check_parameters(parameters, self._template)
        data = self._context.require("train")
        model = self._load(parameters)
        self._check(model, data)
        started = time.monotonic()
        trained = guard(lambda: self._private_round(model, data, round_number, solver), passed=(TrainingFailedError,))
        minutes = math.ceil((time.monotonic() - started) / 60)
        return TrainingResult(trained, {}, 0, self.device, 60.0 * minutes)

    def count_right(self, parameters: Mapping[str, Array]) -> tuple[int, int]:
        """Return held-out examples, and those whose class is right; see `seam.Trainer`.

        Each record is looked at alone: one that makes the model fail is not right, and neither that nor the size of a batch
        (on which the last bits of a score depend) changes what is counted of any other.
        """
        check_parameters(parameters, self._template)
        data = self._context.require("test")
        model = self._load(parameters).eval()
        with torch.no_grad(), numerics(self._device, 0):
            return len(data), sum(self._is_right(model, data, one) for one in range(len(data)))

    def _is_right(self, model: nn.Module, data: Arrays, one: int) -> bool:
        try:
            x, _ = self._tensors(Arrays(data.x[one : one + 1], data.y[one : one + 1]))
            return right(model(x).cpu().double().numpy().reshape(1, -1), data.y[one : one + 1]) == 1
        except Exception:  # noqa: BLE001  foreign code on a record: which one it was, and how it failed, stays here
            return False

    def _private_round(
        self, model: nn.Module, data: Arrays, round_number: int, solver: LocalSolver | None
    ) -> dict[str, Array]:
        config, terms = self._context.trainer, self._terms
        optimizer = build_optimizer(config.optimizer, model)
        build_scheduler(config.scheduler, optimizer, round_number)  # one over rounds: it only sets the rate
        sampler = PoissonSampler(terms.sampling_rate, len(data))
        x, y = self._tensors(data)
        losses = self._losses_of(model)
        with numerics(self._device, 0), self._gradients(model) as gradients:
            for _ in range(terms.steps):
                with self._keystream() as stream:
                    chosen = torch.from_numpy(sampler.draw(stream)).to(self._device)
                    gradients.step(losses, (x[chosen], y[chosen]), stream)
                if solver is None:
                    optimizer.step()
                else:
                    solve(model, solver)
        return finite_arrays(model)

    def _gradients(self, model: nn.Module) -> PrivateGradients:
        return PrivateGradients(
            model,
            clip_norm=self._terms.clip_norm,
            noise_multiplier=self._terms.noise_multiplier,
            normaliser=self._terms.normaliser,
            micro_batch=self._context.trainer.batch_size,
        )

    def _keystream(self) -> Keystream:
        return Keystream()

    def _losses_of(self, model: nn.Module) -> Losses:
        def losses(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            scores = model(x)
            if self._context.trainer.loss.name != "cross-entropy" or scores.ndim != 2 or y.ndim != 1:
                return self._loss(scores, y)
            known = (y >= 0) & (y < scores.shape[1])  # on CUDA an unknown class would end the process
            return torch.where(known, self._loss(scores, y.clamp(0, scores.shape[1] - 1)), 0.0)

        return losses

    def _check(self, model: nn.Module, data: Arrays) -> None:
        if self._checked:
            return
        with numerics(self._device, 0):
            x, y = self._synthetic(model, data)
            check_records(model, self._losses_of(model), (x, y))
            if y.dtype == torch.int64 and y.ndim == 2:
                self._check_ignoring(model, x, y)
        self._checked = True

    def _check_ignoring(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        """Records with different numbers of tokens that count: a loss divided by those of the batch gives itself away."""
        y = y.clone()
        for record in range(len(y)):
            y[record, : min(record, y.shape[1] - 2)] = -100
        try:
            check_records(model, self._losses_of(model), (x, y))
        except UnsupportedModelError:
            return  # this loss does not know torch's mark for "does not count"

    def _synthetic(self, model: nn.Module, data: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
        """Return records of the shape and dtype of the data, and of nothing else of them."""
        generator = torch.Generator().manual_seed(0)  # synthetic numbers, not noise
        tokens = min((one.num_embeddings for one in model.modules() if isinstance(one, nn.Embedding)), default=2)
        x = _random(generator, data.x.shape[1:], data.x.dtype.kind, tokens).to(self._device)
        try:
            with torch.no_grad():
                scores = model(x)
            classes = scores.shape[-1] if scores.ndim > 1 else 2
        except Exception as error:  # noqa: BLE001  foreign code on synthetic records
            raise UnsupportedModelError(
                f"the model does not run on records of shape {list(data.x.shape[1:])} ({type(error).__name__})",
                where="self-check",
                remedy="The loader's records must have the shape and dtype that the model takes.",
            ) from None
        return x, _random(generator, data.y.shape[1:], data.y.dtype.kind, classes).to(self._device)


def _random(generator: torch.Generator, shape: tuple[int, ...], kind: str, below: int) -> torch.Tensor:
    if kind == "f":
        return torch.randn((_SYNTHETIC, *shape), generator=generator)
    return torch.randint(0, max(below, 1), (_SYNTHETIC, *shape), generator=generator)


def _terms(context: TrainerContext) -> PrivacyTerms:
    terms, config = context.privacy, context.trainer
    if terms is None or terms.mechanism != "dp-sgd":
        raise TrainingError("the private trainer needs the terms of dp-sgd", where="privacy")
    _agree(terms, config)
    return terms


def _agree(terms: PrivacyTerms, config: TrainerConfig) -> None:
    if config.steps != terms.steps:
        raise TrainingError(
            f"the terms pay for {terms.steps} steps a round, the trainer is to do"
            f" {'epochs' if config.steps is None else f'{config.steps} steps'}",
            where="trainer.steps",
            remedy=f"Write `steps: {terms.steps}` and no epochs: how many steps an epoch has is a number of records.",
        )
    if config.scheduler is not None and config.scheduler.step != "round":
        raise TrainingError(
            "a schedule over epochs follows the number of records",
            where="trainer.scheduler",
            remedy="Write `step: round`, or leave the scheduler out.",
        )
    if config.clip_gradient_norm is not None:
        raise TrainingError(
            "clip_gradient_norm scales a batch's gradient; under dp-sgd each record's is clipped already",
            where="trainer.clip_gradient_norm",
            remedy="Leave it out; the bound is privacy.clip_norm.",
        )
