"""The table itself: long enough, every promise in it, and printed as it is."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from .rows import ROWS
from .table import PROMISES, markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "attacks.md"


def test_the_table_is_long_enough_and_names_every_promise() -> None:
    assert len(ROWS) >= 60
    counts = Counter(row.promise for row in ROWS)
    assert set(counts) == set(PROMISES)
    assert min(counts.values()) >= 10


def test_each_row_has_a_name_of_its_own_and_says_something_of_its_own() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert all(re.fullmatch(r"P[0-9]+-[0-9]{3}", row.id) for row in ROWS)
    assert not [text for text, count in Counter((row.where, row.attack) for row in ROWS).items() if count > 1]


def test_every_side_is_attacked_and_every_attacker_attacks() -> None:
    assert {row.where for row in ROWS} == {"site", "server", "verifier", "everybody"}
    assert {row.who for row in ROWS} == {
        "network",
        "storage",
        "server",
        "site",
        "member",
        "thief",
        "peer",
        "log holder",
    }


def test_the_page_is_printed_from_the_table() -> None:
    assert PAGE.read_text() == markdown(ROWS), "python -m counterseal.tests.attacks.table > docs/attacks.md"
