"""Before data is touched: are the per-record gradients of this model right, and each a function of one record?

`layers` knows single layers; what a model does with them (a softmax over the wrong dimension, a prompt that is expanded over the
batch, a loss divided by the tokens of all records) shows only when it runs. So it runs here, in training mode, on synthetic
records: never on the site's. With trained parameters moved a little, so that nothing is zero for a reason of its own (the
second half of a fresh LoRA adapter), each record is computed

- alone, by plain backpropagation without hooks: the reference;
- alone, with hooks: equal to the reference, or Opacus' rule for a layer is wrong (`UnsupportedModelError`);
- in two batches, of other records in another order, the second with a blank record (zeros): equal, or records are coupled
  (`CoupledRecordsError`); so must be the losses;
- beside a record of NaN: finite and equal, or one record can wipe out the others.

Equal means: for every trained parameter the rows differ by at most `TOLERANCE` of the reference's norm; for a parameter whose
gradient is next to nothing beside the whole (below `SMALL` of it), of that part of the whole, where float32 has no more digits.

Refused besides: a model that changes its parameters or buffers in a forward pass (statistics, spectral norm, caches), or that
draws from torch's generator (see `dropout`). Parameters, buffers and mode are put back; a refusal names the parameter.

Not shown by this: that a model which counts, keeps state outside of tensors, or looks at its values to decide what to do (a
branch on a batch statistic that synthetic records never reach) keeps records apart on others. It is a check, not a proof;
approving a model's code is the officer's part. Nothing of it depends on data, so it costs no budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

import torch
from torch import nn

from ..errors import CoupledRecordsError, PrivacyError, UnsupportedModelError
from .dropout import KeyedDropout
from .gradients import Losses
from .hooks import RecordGradients, check_losses
from .layers import check_model, trained

__all__ = ["SMALL", "TOLERANCE", "check_records"]

TOLERANCE: Final = 1e-4
"""Largest relative difference of a row from its reference."""

SMALL: Final = 1e-3
"""Part of a record's whole gradient norm below which a parameter's gradient is judged by the whole."""

_SHIFT: Final = 0.02
_REMEDY: Final = "Each record's loss must be a function of that record and the parameters alone; see docs/dpsgd.md."
_Batch: TypeAlias = tuple[torch.Tensor, ...]


def check_records(model: nn.Module, losses: Losses, records: _Batch) -> None:
    """Return if every synthetic record of ``records``, at least 4 and all different, has its own right gradient in any batch.

    ``losses(*tensors)`` runs ``model``, as for `gradients.PrivateGradients.step`.

    Raises:
        UnsupportedModelError: a layer or parameter; see also `layers.check_model`.
        CoupledRecordsError: losses or gradients that depend on other records.
    """
    if len(records[0]) < 4:
        raise UnsupportedModelError("the self-check needs at least 4 synthetic records", where="self-check")
    check_model(model)
    with _borrowed(model):
        try:
            _Check(model, losses, records).run()
        except PrivacyError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"the model does not run on synthetic records ({type(error).__name__}: {_short(error)})",
                where="self-check",
                remedy="Shapes must be those of the data, and the layers those of docs/dpsgd.md.",
            ) from error


class _Check:
    def __init__(self, model: nn.Module, losses: Losses, records: _Batch) -> None:
        self._model, self._losses, self._records = model, losses, records
        self._parameters = trained(model)
        self._count = len(records[0])

    def run(self) -> None:
        everybody = list(range(self._count))
        references = torch.stack([self._reference(i) for i in everybody])
        values = torch.cat([self._values([i]) for i in everybody])
        others = everybody[:0:-1]
        self._compare_values(self._values(everybody), values)
        self._compare_values(self._values(others), values[others])
        with RecordGradients(self._model) as hooks:
            for i in everybody:
                self._compare(self._rows(hooks, self._take([i])), references[[i]], alone=True)
            self._compare(self._rows(hooks, self._records), references, alone=False)
            mixed = tuple(torch.cat([one, torch.zeros_like(one[:1])]) for one in self._take(others))
            self._compare(self._rows(hooks, mixed)[:-1], references[others], alone=False)
            if self._records[0].is_floating_point():
                spoiled = tuple(one.clone() for one in self._records)
                spoiled[0][0] = float("nan")
                self._compare(self._rows(hooks, spoiled)[1:], references[1:], alone=False)

    def _take(self, which: Sequence[int]) -> _Batch:
        return tuple(one[list(which)] for one in self._records)

    def _values(self, which: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            return check_losses(self._losses(*self._take(which)), len(which)).detach().double()

    def _rows(self, hooks: RecordGradients, batch: _Batch) -> torch.Tensor:
        return hooks.rows(lambda: self._losses(*batch), len(batch[0]))

    def _reference(self, which: int) -> torch.Tensor:
        loss = check_losses(self._losses(*self._take([which])), 1).sum()
        if not loss.requires_grad:
            raise UnsupportedModelError("the loss does not depend on what is trained", where="loss", remedy=_REMEDY)
        found: Sequence[torch.Tensor | None] = torch.autograd.grad(
            loss, [*self._parameters.values()], allow_unused=True
        )
        used = {name: one.reshape(-1) for name, one in zip(self._parameters, found, strict=True) if one is not None}
        for name in self._parameters:
            if name not in used:
                raise UnsupportedModelError(
                    "the loss does not depend on this trained parameter", where=name, remedy="Freeze it."
                )
        return torch.cat(list(used.values()))

    def _compare(self, rows: torch.Tensor, references: torch.Tensor, *, alone: bool) -> None:
        wholes = references.double().norm(dim=1)
        column = 0
        for name, parameter in self._parameters.items():
            part = slice(column, column + parameter.numel())
            column += parameter.numel()
            wanted = references[:, part].double()
            apart = (rows[:, part].double() - wanted).norm(dim=1)
            if not bool((apart <= TOLERANCE * torch.maximum(wanted.norm(dim=1), SMALL * wholes)).all()):
                raise _wrong(name) if alone else _coupled(name, "a gradient")

    def _compare_values(self, values: torch.Tensor, wanted: torch.Tensor) -> None:
        if not bool(((values - wanted).abs() <= TOLERANCE * (wanted.abs() + SMALL)).all()):
            raise _coupled("loss", "a loss")


@contextmanager
def _borrowed(model: nn.Module) -> Iterator[None]:
    """Lend ``model`` out in training mode, trained parameters moved, and see that only what is put back was changed."""
    mode = {module: module.training for module in model.modules()}
    kept = {name: parameter.detach().clone() for name, parameter in trained(model).items()}
    dropout = KeyedDropout(model)
    dropout.prepare(None)
    _shift(model)
    try:
        before = _state(model)
        yield
        _unchanged(before, _state(model))
    finally:
        dropout.close()
        with torch.no_grad():
            for name, parameter in trained(model).items():
                parameter.copy_(kept[name])
        for module, training in mode.items():
            module.training = training


def _shift(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)  # a public seed, for synthetic numbers only
    with torch.no_grad():
        for parameter in trained(model).values():
            move = torch.randn(parameter.shape, generator=generator) * _SHIFT
            parameter.add_(move.to(parameter.device))


def _state(model: nn.Module) -> dict[str, object]:
    """What a forward pass must leave alone: tensors by identity and by torch's counter of changes, and its generators."""
    parameters = {f"parameter {name}": (id(one), one._version) for name, one in model.named_parameters()}
    buffers = {f"buffer {name}": (id(one), one._version) for name, one in model.named_buffers()}
    generators = [torch.random.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return {**parameters, **buffers, "generator": tuple(one.numpy().tobytes() for one in generators)}


def _unchanged(before: dict[str, object], after: dict[str, object]) -> None:
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if changed == ["generator"]:
        raise UnsupportedModelError(
            "the model draws random numbers of torch's generator",
            where="self-check",
            remedy="Use nn.Dropout modules, whose masks are drawn in secret, or set the rate to 0.",
        )
    if changed:
        raise UnsupportedModelError(
            "a forward pass changes this, so it would keep something of the records",
            where=changed[0],
            remedy="Use layers without statistics or caches, such as GroupNorm.",
        )


def _wrong(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "the gradient per record is not the gradient of that record's loss",
        where=name,
        remedy="Remove the grad sampler that was registered for this layer, or use a layer of docs/dpsgd.md.",
    )


def _coupled(name: str, what: str) -> CoupledRecordsError:
    return CoupledRecordsError(f"{what} that changes with the other records of the batch", where=name, remedy=_REMEDY)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
