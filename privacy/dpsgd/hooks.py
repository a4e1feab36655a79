"""The gradient of each record, from Opacus' hooks, attached to a model and taken off it without a trace.

Opacus (Yousefpour et al. 2021, arXiv 2109.12298) multiplies, layer by layer, what went in with what comes back, before the sum
over the batch. Used are its hooks alone (`GradSampleHooks`, mode "hooks"), not its optimiser, sampler, noise or accountant; the
model is not wrapped, so the names of its ``state_dict`` stay what all sites agreed on. The losses are summed, never averaged:
a mean would have to be undone with the size of the batch, which Opacus guesses from activations.

Guaranteed: rows come back only if the loss is [B] and every trained parameter has a per-record gradient [B, *shape]; otherwise
`CoupledRecordsError` or `UnsupportedModelError`, at every step and not only at the first. After each call, also a failed one, no
gradient, activation or counter of a record is left on the model; after `close` no hook and no attribute is.

Not handled here: whether a row is the gradient of its record alone (`selfcheck`), clipping and noise (`gradients`). A row may
be anything, NaN included.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from ..errors import CoupledRecordsError, UnsupportedModelError
from .layers import trained

__all__ = ["RecordGradients", "check_losses"]


class RecordGradients:
    """Per-record gradients of ``model``, which must have passed `layers.check_model`, until `close`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = trained(model)
        self.dimensions = sum(parameter.numel() for parameter in self.parameters.values())
        try:
            self._hooks = _opacus().GradSampleHooks(model, batch_first=True, loss_reduction="sum", strict=True)
        except NotImplementedError as error:
            _clear(model)
            raise UnsupportedModelError(
                f"Opacus does not take this model ({_short(error)})", remedy="See docs/dpsgd.md for what it takes."
            ) from None

    def rows(self, losses: Callable[[], torch.Tensor], batch: int) -> torch.Tensor:
        """Return float32[batch, d]: the gradients of the entries of ``losses()``, parameters side by side.

        ``losses`` runs the model on ``batch`` records, in training mode, and returns one loss per record.

        Raises:
            CoupledRecordsError: losses or gradients are not one per record.
            UnsupportedModelError: a trained parameter has no gradient.
        """
        try:
            _reset(self.model)
            with warnings.catch_warnings():
                # torch tells of hooks on a first layer, whose input needs no gradient: Opacus asks for none.
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                values = check_losses(losses(), batch)
                values.sum().backward()  # type: ignore[no-untyped-call]
            return self._gather(batch)
        finally:
            _reset(self.model)

    def close(self) -> None:
        """Take everything off the model. Closing twice is nothing."""
        self._hooks.cleanup()
        _clear(self.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _gather(self, batch: int) -> torch.Tensor:
        device = next(iter(self.parameters.values())).device
        rows = torch.empty((batch, self.dimensions), dtype=torch.float32, device=device)
        column = 0
        for name, parameter in self.parameters.items():
            rows[:, column : column + parameter.numel()] = _of(name, parameter, batch).reshape(batch, -1)
            column += parameter.numel()
            parameter.grad_sample = None  # type: ignore[attr-defined]  # give the memory back while the next is copied
        return rows


def check_losses(losses: Any, batch: int) -> torch.Tensor:
    """Return ``losses`` if it is one loss per record.

    Raises:
        CoupledRecordsError: it is not.
    """
    shape = list(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
    if shape != [batch]:
        raise CoupledRecordsError(
            f"the loss of {batch} records is {shape}, not [{batch}]",
            where="loss",
            remedy="Return one loss per record (reduction='none', then the mean over the record's own outputs or tokens).",
        )
    found: torch.Tensor = losses
    return found


def _of(name: str, parameter: nn.Parameter, batch: int) -> torch.Tensor:
    found = getattr(parameter, "grad_sample", None)
    if not isinstance(found, torch.Tensor):
        raise UnsupportedModelError(
            "a trained parameter without a gradient per record",
            where=name,
            remedy="Freeze it if the loss does not use it; use it through its layer's forward alone.",
        )
    if tuple(found.shape) != (batch, *parameter.shape):
        raise CoupledRecordsError(
            f"a per-record gradient of shape {list(found.shape)} for {batch} records of {list(parameter.shape)}",
            where=name,
            remedy="Each layer must see the records in its first dimension. Instead of prompts use LoRA on linear layers.",
        )
    return found


def _reset(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None
        vars(parameter).pop("_current_grad_sample", None)
        if hasattr(parameter, "grad_sample"):
            parameter.grad_sample = None
            parameter._forward_counter = 0  # type: ignore[attr-defined]
    for module in model.modules():
        vars(module).pop("activations", None)
        vars(module).pop("max_batch_len", None)


def _clear(model: nn.Module) -> None:
    for parameter in model.parameters():
        for name in ("grad_sample", "_forward_counter", "_current_grad_sample"):
            vars(parameter).pop(name, None)
    for module in model.modules():
        for name in ("activations", "max_batch_len", "ft_compute_sample_grad", "autograd_grad_sample_hooks"):
            vars(module).pop(name, None)


def _opacus() -> Any:
    """Import Opacus' hooks, whose package puts a handler on the root logger, and take that off again."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    from opacus import grad_sample

    for handler in [one for one in root.handlers if one not in before]:
        root.removeHandler(handler)
    root.setLevel(level)
    return grad_sample


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
