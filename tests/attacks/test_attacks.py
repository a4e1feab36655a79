"""Every attack of the table meets exactly its error, and harms nothing."""

from __future__ import annotations

import os

import pytest

from .rows import ROWS
from .table import Row


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.id, marks=[pytest.mark.processes] if row.served else []) for row in ROWS]
)
def test_an_attack_meets_its_error(row: Row) -> None:
    assert row.play() == row.expected
