"""Metrics against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from counterseal.runtime.training.metrics import METRICS
from counterseal.runtime.training.seam import Array


def draw(seed: int, classes: int, n: int = 40) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    scores = np.round(generator.normal(size=(n, classes)), 1)  # rounded: with ties
    return scores, generator.integers(0, classes, n)


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_against_scikit_learn(seed: int, classes: int) -> None:
    scores, labels = draw(seed, classes)
    predicted = scores.argmax(1)
    assert METRICS["accuracy"]()(scores, labels) == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert METRICS["macro-f1"]()(scores, labels) == pytest.approx(oracle.f1_score(labels, predicted, average="macro"))
    if len(set(labels.tolist())) < classes:
        return
    if classes == 2:
        expected = oracle.roc_auc_score(labels, scores[:, 1] - scores[:, 0])
    else:
        shifted = np.exp(scores - scores.max(1, keepdims=True))  # as ours: the last bit decides what is a tie
        likely = shifted / shifted.sum(1, keepdims=True)
        expected = oracle.roc_auc_score(labels, likely, multi_class="ovr", average="macro")
    assert METRICS["auc"]()(scores, labels) == pytest.approx(expected)


def test_a_single_score_is_a_decision_at_zero() -> None:
    scores, labels = np.array([[-2.0], [0.5], [0.25], [-1.0]]), np.array([0, 1, 0, 1])
    assert METRICS["accuracy"]()(scores, labels) == 0.5
    assert METRICS["auc"]()(scores, labels) == oracle.roc_auc_score(labels, scores[:, 0])
    assert METRICS["macro-f1"]()(scores, labels) == 0.5


def test_top_k() -> None:
    scores, labels = draw(1, 5)
    expected = oracle.top_k_accuracy_score(labels, scores + np.arange(5) * -1e-9, k=2)
    assert METRICS["accuracy"](top=2)(scores, labels) == pytest.approx(expected)


def test_an_undefined_auc_is_left_out() -> None:
    assert METRICS["auc"]()(np.ones((3, 2)), np.array([1, 1, 1])) is None


def test_errors_of_values() -> None:
    scores, values = np.array([[1.0], [3.0]]), np.array([0.0, 0.0], np.float32)
    assert METRICS["mae"]()(scores, values) == 2.0
    assert METRICS["rmse"]()(scores, values) == pytest.approx(5**0.5)
