"""SECURITY.md names tests: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()
FILES = sorted(
    set(re.findall(r"`((?:trust|runtime|audit|privacy|crash|fuzz|attacks|globus)/[\w*./]*|test_\w+\.py)`", TEXT))
)
IDS = sorted(set(re.findall(r"\bP\d+-\d{3}\b", TEXT)))


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_there(name: str) -> None:
    found = list((ROOT / "tests").glob(name.rstrip("/")))
    assert found, f"SECURITY.md names tests/{name}"
    assert any(path.is_file() or any(path.glob("test_*.py")) for path in found)


@pytest.mark.parametrize("name", IDS)
def test_every_attack_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\| {name} \|", (ROOT / "docs" / "attacks.md").read_text(), re.M)


def test_every_threat_has_a_test_or_says_not_covered() -> None:
    rows = [line.split("|")[1:-1] for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) >= 20
    for _, threat, _, test, missing in (tuple(cell.strip() for cell in row) for row in rows):
        assert test or "NOT COVERED" in missing, threat
