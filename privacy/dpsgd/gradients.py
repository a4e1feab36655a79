"""One step of DP-SGD: the noisy sum of clipped gradients of records, as ``p.grad``.

For the records of one Poisson batch, a micro-batch at a time:

    g_i    = gradient of record i's loss, float32[d]    (`hooks`; not finite: zero)
    z_i    = integers with ||z_i||_2 <= K               (`grid`: clip to C, round to C / K, check the integer norm)
    S      = sum of z_i                                 (int64, exact)
    p.grad = (S + noise) * (C / K) / normaliser         (discrete Gaussian, sigma = noise_multiplier * K; one conversion)

Guaranteed, if the model passed `layers.check_model` and `selfcheck.check_records`: with and without any one record, S differs by
an integer vector of norm at most K, whatever the record holds; so a step is one (subsampled) discrete Gaussian mechanism of
sensitivity 1 and noise multiplier ``noise_multiplier`` (add or remove; twice the sensitivity for replacing). Everything behind
``p.grad`` (momentum, weight decay, schedules) is post-processing. The divisor is a public number, never the realised batch.

Argument: z_i is a function of record i, the model and its own randomness, because

- the rows of a micro-batch are computed independently of one another (what the two checks are for), in micro-batches of one
  fixed size: the last is filled up with blank records (zeros), whose rows are dropped;
- a record whose values make the model or the loss raise an error is found by running each record of that micro-batch in its
  own place among blanks, and counts as zero; nothing is reported, in no number and no text, for that would be a query;
- masks of dropout are secret and independent (`dropout`).

Never more than one micro-batch of rows is held: micro_batch * d floats, three times while Opacus hands them over.

Ghost clipping is refused. It never forms g_i, only norms of it in floating point and a sum weighted by them, so there is
nothing to round and check: the sensitivity would be C + gamma sqrt(d) + the rounding errors of norms and of a sum in an order
that BLAS chooses. No bound of the last two is proved here, and without one the stated epsilon would be a guess.

Not handled here, and so not covered by the integer bound: in a micro-batch of more than one, BLAS may choose its order of
summation by a row's place, so that a record's float gradient can differ in its last bits with the *places* of others
(micro_batch=1 has no others; the tests look for such differences). Also time: how long a step takes tells about how many
micro-batches there were. On CUDA an index out of range (a token beyond an embedding) ends the process.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..errors import MechanismError
from ..mechanism import per_record
from ..noise import Keystream
from .dropout import KeyedDropout
from .hooks import RecordGradients
from .layers import check_model

__all__ = ["Losses", "PrivateGradients"]

Losses: TypeAlias = Callable[..., torch.Tensor]
"""(*tensors, each [B, ...]) -> float32[B]: runs the model on B records and returns their losses."""

_ELEMENTS: Final = 1 << 24  # quantised at once: bounds the memory of the grid's float64 copies


class PrivateGradients:
    """DP-SGD's gradients of one model; a context manager that leaves the model as it was, but for ``p.grad``."""

    def __init__(
        self,
        model: nn.Module,
        *,
        clip_norm: float,
        noise_multiplier: float,
        normaliser: float,
        micro_batch: int = 32,
        clipping: str = "per-record",
    ) -> None:
        """Take ``model`` over.

        Raises:
            UnsupportedModelError: see `layers.check_model`.
            MechanismError: numbers that make no mechanism, or ghost clipping.
        """
        _check(clipping, normaliser, noise_multiplier, micro_batch)
        check_model(model)
        self._mode = {name: module.training for name, module in model.named_modules()}
        self._model = model
        self._size = micro_batch
        self._normaliser = normaliser
        self._proved = False
        self._hooks = RecordGradients(model)
        self._dropout = KeyedDropout(model)
        self._plan = per_record(clip_norm, noise_multiplier).plan(self._hooks.dimensions)

    @property
    def dimensions(self) -> int:
        """How many numbers are trained."""
        return self._hooks.dimensions

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by the names of the model's ``state_dict``, in the order of the columns."""
        return self._hooks.parameters

    def step(self, losses: Losses, records: tuple[torch.Tensor, ...], stream: Keystream) -> None:
        """Set ``p.grad`` of everything that is trained from ``records``, tensors [n, ...] of the n >= 0 that take part.

        ``stream`` is this step's own, after it gave the batch.

        Raises:
            CoupledRecordsError, UnsupportedModelError: on blank records, before any of ``records`` was touched.
        """
        self._dropout.prepare(stream)
        self._prove(losses, records)
        total = np.zeros(self.dimensions, dtype=np.int64)
        for first in range(0, len(records[0]), self._size):
            part = tuple(one[first : first + self._size] for one in records)
            for rows in self._pieces(self._micro_batch(losses, part)):
                total = self._plan.grid.total(total, self._plan.summed(rows, stream))
        self._hand_over(self._plan.released(total, stream, self._normaliser).values)

    def close(self) -> None:
        """Give the model back, in the mode in which it came. Closing twice is nothing."""
        self._dropout.close()
        self._hooks.close()
        for name, module in self._model.named_modules():
            module.training = self._mode.get(name, module.training)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"PrivateGradients({self.dimensions} numbers)"

    def _prove(self, losses: Losses, records: tuple[torch.Tensor, ...]) -> None:
        """Run one micro-batch of blanks, so that a model that never works is told without a look at a record."""
        if not self._proved:
            self._rows(losses, tuple(_blank(one, self._size) for one in records))
            self._proved = True

    def _micro_batch(self, losses: Losses, part: tuple[torch.Tensor, ...]) -> torch.Tensor:
        count = len(part[0])
        full = tuple(torch.cat([one, _blank(one, self._size - count)]) for one in part)
        try:
            return self._rows(losses, full)[:count]
        except Exception:  # noqa: BLE001  a record's values may raise anything; which one, and that any did, stays here
            return torch.cat([self._alone(losses, full, place) for place in range(count)])

    def _alone(self, losses: Losses, full: tuple[torch.Tensor, ...], place: int) -> torch.Tensor:
        among_blanks = tuple(_blank(one, len(one)) for one in full)
        for mine, all_of_them in zip(among_blanks, full, strict=True):
            mine[place] = all_of_them[place]
        try:
            return self._rows(losses, among_blanks)[place : place + 1]
        except Exception:  # noqa: BLE001  see above
            device = next(iter(self.parameters.values())).device
            return torch.zeros((1, self.dimensions), dtype=torch.float32, device=device)

    def _rows(self, losses: Losses, records: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self._hooks.rows(lambda: losses(*records), len(records[0]))

    def _pieces(self, rows: torch.Tensor) -> list[npt.NDArray[np.float32]]:
        at_once = max(1, _ELEMENTS // self.dimensions)
        return [rows[first : first + at_once].cpu().numpy() for first in range(0, len(rows), at_once)]

    def _hand_over(self, gradient: npt.NDArray[np.float32]) -> None:
        column = 0
        for parameter in self.parameters.values():
            piece = torch.from_numpy(gradient[column : column + parameter.numel()].copy())
            parameter.grad = piece.reshape(parameter.shape).to(parameter.device)
            column += parameter.numel()


def _blank(like: torch.Tensor, count: int) -> torch.Tensor:
    return torch.zeros((count, *like.shape[1:]), dtype=like.dtype, device=like.device)


def _check(clipping: str, normaliser: float, noise_multiplier: float, micro_batch: int) -> None:
    if clipping == "ghost":
        raise MechanismError(
            "ghost clipping has no vector per record: nothing to round and check, and no proved bound of its float sums",
            where="clipping",
            remedy="Use per-record clipping; LoRA keeps the rows small.",
        )
    if clipping != "per-record":
        raise MechanismError(f"no clipping called {clipping!r}", where="clipping", remedy="Known: per-record.")
    if not (normaliser > 0 and noise_multiplier > 0 and np.isfinite(normaliser) and np.isfinite(noise_multiplier)):
        raise MechanismError("normaliser and noise_multiplier must be finite and above 0", where="dp-sgd")
    if micro_batch < 1:
        raise MechanismError("a micro-batch holds at least one record", where="dp-sgd")
