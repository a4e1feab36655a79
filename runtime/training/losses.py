"""Losses by registry name. Each gives one value per record, float32[B]; trainers minimise the mean over the batch.

One value per record is what per-record clipping needs (each entry a function of one record). It also means that
`cross-entropy` with class ``weight`` divides by the number of records, not by the sum of their weights as torch does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch.nn import functional

__all__ = ["Loss", "binary_cross_entropy", "cross_entropy", "huber", "mean_absolute_error", "mean_squared_error"]

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs float32[B, ...], targets [B, ...]) -> float32[B]."""


def cross_entropy(label_smoothing: float = 0.0, weight: Sequence[float] | None = None) -> Loss:
    """Softmax cross-entropy of scores [B, classes] against int64[B]."""
    weights = None if weight is None else torch.tensor(weight, dtype=torch.float32)

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        on_device = None if weights is None else weights.to(scores.device)
        return functional.cross_entropy(
            scores, labels, weight=on_device, label_smoothing=label_smoothing, reduction="none"
        )

    return loss


def binary_cross_entropy(positive_weight: float | None = None) -> Loss:
    """Logistic loss of scores [B, 1] or [B, k] against 0 and 1."""
    weights = None if positive_weight is None else torch.tensor(positive_weight, dtype=torch.float32)

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        on_device = None if weights is None else weights.to(scores.device)
        targets = labels.reshape(scores.shape).to(scores.dtype)
        return _by_record(
            functional.binary_cross_entropy_with_logits(scores, targets, pos_weight=on_device, reduction="none")
        )

    return loss


def mean_squared_error() -> Loss:
    """Squared difference, averaged over a record's outputs."""
    return lambda outputs, values: _by_record((outputs - _like(values, outputs)).square())


def mean_absolute_error() -> Loss:
    """Absolute difference, averaged over a record's outputs."""
    return lambda outputs, values: _by_record((outputs - _like(values, outputs)).abs())


def huber(delta: float = 1.0) -> Loss:
    """Huber's loss, averaged over a record's outputs."""
    return lambda outputs, values: _by_record(
        functional.huber_loss(outputs, _like(values, outputs), delta=delta, reduction="none")
    )


def _like(values: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    return values.reshape(outputs.shape).to(outputs.dtype)  # a reshape, never a broadcast: [B] against [B, 1]


def _by_record(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(len(values), -1).mean(dim=1)
