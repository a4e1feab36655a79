"""The timeline: a row for every leaf, and nothing in it that a terminal or a spreadsheet would obey."""

from __future__ import annotations

import doctest
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.audit import show
from counterseal.audit.events import EVENTS
from counterseal.audit.show import plain, timeline
from counterseal.audit.tlog.log import Log
from counterseal.tests.audit.story import NOW, ORIGIN, SERVER, SITES, Story, tell
from counterseal.trust.canonical import canonical
from counterseal.trust.dsse import sign
from counterseal.trust.keys.signing import SoftwareSigner


def test_every_leaf_has_a_row(tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log"))
    checkpoint = story.keys[SERVER].checkpoint
    assert checkpoint is not None
    with Log.open(tmp_path / "log", ORIGIN, checkpoint) as log:
        rows = list(timeline(log.entry(index) for index in range(log.size)))
    assert [row.index for row in rows] == list(range(32))
    assert rows[0].type == "federation.create"
    assert rows[0].time == "2027-01-15 08:00:00Z"
    assert (rows[-1].type, rows[-1].says, rows[-1].version) == ("run.end", "completed, witnessed", "2")
    commit = next(row for row in rows if row.type == "aggregate.commit")
    assert commit.actor == SERVER
    assert f"left out: {SITES[2]} (rejected)" in commit.says


def test_every_type_has_words() -> None:
    assert set(show._SAYS) == set(EVENTS)


@pytest.mark.parametrize(
    "leaf", [b"", b"\x1b[2J", b"{}", b'{"payload":"","payloadType":"x","signatures":[]}', bytes(70_000)]
)
def test_unreadable_leaves_have_rows_too(leaf: bytes) -> None:
    (row,) = timeline([leaf], start=7)
    assert (row.index, row.type) == (7, "unreadable")
    assert row.says


def test_a_forged_line_stays_in_its_cell() -> None:
    # The names of a hostile event never reach a row: its grammar refuses them; what the refusal says is spelled out.
    event = {"type": "clock.skew", "federation": "f", "actor": "a\n[E:1][A:forged]\x1b[2J\u202e", "time": NOW}
    leaf = sign(canonical({**event, "identity": "x", "seconds": 1}), kind="event", signer=SoftwareSigner.generate())
    (row,) = timeline([leaf])
    assert row.type == "unreadable"
    assert "\n" not in row.says
    assert "\x1b" not in row.says
    assert "forged" not in row.says


@given(st.text(max_size=400))
def test_cells_are_harmless(text: str) -> None:
    cell = plain(text)
    assert len(cell) <= 200
    assert all(one == " " or unicodedata.category(one)[0] not in "CZ" for one in cell)
    assert cell[:1] not in ("=", "+", "-", "@")


@given(st.text(st.characters(categories=["L", "N"]), max_size=200))
def test_harmless_text_is_left_alone(text: str) -> None:
    assert plain(text) == text


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(show).failed == 0


def test_a_time_beyond_the_calendar(tmp_path: Path) -> None:
    event = {"type": "clock.skew", "federation": "f", "actor": "aa", "time": 2**53 - 1, "identity": "xx", "seconds": 1}
    (row,) = timeline([sign(canonical(event), kind="event", signer=SoftwareSigner.generate())])
    assert row.time == "9007199254740991 s"
