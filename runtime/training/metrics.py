"""Metrics by registry name, in numpy: the same numbers whichever trainer made the scores.

A metric is made from its parameters and maps scores float64[n, k] and labels int64[n] (or values float32[n] or [n, k])
to a float, or to None where it is undefined on these data (an AUC with one class only). `loss` is not here: it is the
run's own loss, and every trainer adds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .seam import Array

__all__ = ["METRICS", "Metric", "right"]

Metric: TypeAlias = Callable[[Array, Array], float | None]


def accuracy(top: int = 1) -> Callable[[Array, Array], float]:
    """Share of examples whose class is among the ``top`` highest scores; a single score decides at zero."""

    def measure(scores: Array, labels: Array) -> float:
        if scores.shape[1] == 1:
            return float(((scores[:, 0] > 0) == (labels.reshape(-1) > 0.5)).mean())
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        return float((best == labels[:, None]).any(axis=1).mean())

    return measure


def right(scores: Array, labels: Array) -> int:
    """Return how many examples get their class right: those that `accuracy` counts. Scores float64[n, k]."""
    return round(accuracy()(scores, labels) * len(labels))


def macro_f1() -> Metric:
    """Unweighted mean of the classes' F1; classes that are neither present nor predicted are left out."""

    def measure(scores: Array, labels: Array) -> float:
        predicted, labels = _classes(scores, labels)
        found = []
        for label in np.union1d(predicted, labels):
            hits = np.sum((predicted == label) & (labels == label))
            found.append(2 * hits / (np.sum(predicted == label) + np.sum(labels == label)))
        return float(np.mean(found))

    return measure


def auc() -> Metric:
    """Area under the ROC curve; with several classes the mean of one-against-rest over the classes present.

    Source: Hanley & McNeil 1982: the area is the Mann-Whitney statistic, ties counted half.
    """

    def measure(scores: Array, labels: Array) -> float | None:
        columns = scores.shape[1]
        labels = (labels.reshape(-1) > 0.5).astype(np.int64) if columns == 1 else labels
        if columns <= 2:
            return _binary_auc(scores[:, -1] - (scores[:, 0] if columns == 2 else 0), labels == 1)
        likely = _softmax(scores)
        areas = [_binary_auc(likely[:, label], labels == label) for label in range(columns)]
        defined = [area for area in areas if area is not None]
        return float(np.mean(defined)) if defined else None

    return measure


def mean_absolute_error() -> Metric:
    """Mean absolute difference between scores and values."""

    def measure(scores: Array, values: Array) -> float:
        return float(np.abs(scores - values.reshape(scores.shape)).mean())

    return measure


def root_mean_squared_error() -> Metric:
    """Root of the mean squared difference between scores and values."""

    def measure(scores: Array, values: Array) -> float:
        return float(np.sqrt(np.square(scores - values.reshape(scores.shape)).mean()))

    return measure


METRICS: dict[str, Callable[..., Metric]] = {
    "accuracy": accuracy,
    "macro-f1": macro_f1,
    "auc": auc,
    "mae": mean_absolute_error,
    "rmse": root_mean_squared_error,
}


def _classes(scores: Array, labels: Array) -> tuple[Array, Array]:
    if scores.shape[1] == 1:
        return (scores[:, 0] > 0).astype(np.int64), (labels.reshape(-1) > 0.5).astype(np.int64)
    return scores.argmax(axis=1), labels


def _softmax(scores: Array) -> Array:
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _binary_auc(scores: Array, positive: Array) -> float | None:
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of every group of ties
    ranks = middle[inverse][positive].sum()
    return float((ranks - ones * (ones + 1) / 2) / (ones * zeros))
