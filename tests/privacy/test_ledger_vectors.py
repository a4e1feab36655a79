"""The published vectors of docs/formats/ledger.md: read as a stranger would, with a hash and JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from counterseal.privacy.errors import LedgerDamagedError
from counterseal.privacy.ledger.book import Book
from counterseal.privacy.ledger.entry import Entry
from counterseal.tests.privacy.ledger_vectors import FOLDER, facts, files

TOLD: dict[str, Any] = json.loads((FOLDER / "vectors.json").read_text())
LINES = (FOLDER / "good.jsonl").read_bytes().splitlines()


def test_they_are_up_to_date() -> None:
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == files()


def test_the_chain_holds_for_whoever_can_hash() -> None:
    previous = "0" * 64
    for line in LINES:
        assert json.loads(line)["previous"] == previous
        previous = hashlib.sha256(line).hexdigest()
    assert previous == TOLD["head"]
    assert len({json.loads(line)["kind"] for line in LINES}) == 9, "every kind"


def test_a_reader_finds_what_is_told() -> None:
    found = facts([Entry.parse(line) for line in LINES])
    assert found == {name: TOLD[name] for name in ("head", "counter", "populations")}
    assert found["populations"]["staff"]["lost"] and not found["populations"]["patients"]["lost"]


@pytest.mark.parametrize("case", TOLD["bad"], ids=lambda case: case["name"])
def test_a_bad_ledger_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(LedgerDamagedError):
        Book.of(Entry.parse(line.encode()) for line in case["lines"])
