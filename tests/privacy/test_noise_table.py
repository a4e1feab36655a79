"""The sampler of a table, word for word, against the definition: first + #{j : T_j <= U}."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.privacy.noise import Keystream
from counterseal.privacy.noise.gaussian import _table
from counterseal.privacy.noise.laplace import _terms
from counterseal.privacy.noise.table import Table, _Scratch, draw, upward

UNIT, WORD = 1 << 128, 1 << 64


class Second:
    """A stream that gives the second words of ties, and counts them."""

    def __init__(self, second: int) -> None:
        self.second, self.asked = second, 0

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        self.asked += count
        return np.full(count, self.second, dtype=np.uint64)


def samples(table: Table, words: Sequence[int], second: int = 0) -> tuple[list[int], int]:
    stream = Second(second)
    found = table.indices(np.array(words, dtype=np.uint64), _Scratch(len(words)), stream)  # type: ignore[arg-type]
    return found.tolist(), stream.asked


def defined(table: Table, words: Sequence[int], second: int = 0) -> list[int]:
    return [bisect_right(table.edges, word * WORD + second) for word in words]


def around(table: Table) -> list[int]:
    """Words at, beside and a bucket away from every edge, and at the ends."""
    near = {
        (edge >> 64) + shift for edge in table.edges for shift in (-(1 << 48), -2, -1, 0, 1, 2, 1 << 48) if edge < UNIT
    }
    buckets = {(bucket << 48) + shift for bucket in range(0, 1 << 16, 257) for shift in (-1, 0, 1)}
    return sorted(word for word in near | buckets | {0, WORD - 1} if 0 <= word < WORD)


TABLES = {
    "gaussian 16": _table(Fraction(16) ** 2),
    "gaussian 1000": _table(Fraction(1000) ** 2),
    "laplace 100": _terms(Fraction(100))[0][1],
    "digits": _terms(Fraction(1000))[0][1],
    "one value": Table(5, [], 0.0),
    "a coin": Table(0, [UNIT // 2], 0.0),
    "a coin that falls on its edge": Table(0, [UNIT // 2 - 1, UNIT // 2, UNIT // 2 + 1], 0.0),
    "edges in one word": Table(-1, [7 * WORD, 7 * WORD + 1, 7 * WORD + 2, 8 * WORD - 1, 8 * WORD, UNIT - 1], 0.0),
    "every bucket crowded": Table(0, [(i << 111) + i for i in range(1, 1 << 17)], 0.0),
    "only the middle crowded": Table(0, [(1 << 127) + i for i in range(1000)], 0.0),
    "values without probability": Table(0, [0, 0, 1, UNIT // 3, UNIT // 3, UNIT], 0.0),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("second", [0, 1, WORD // 2, WORD - 1])
def test_every_edge_is_where_the_table_says(name: str, second: int) -> None:
    table = TABLES[name]
    words = around(table)
    if len(words) > 100_000:
        words = words[::7]
    assert samples(table, words, second)[0] == defined(table, words, second)


@pytest.mark.parametrize("name", ["gaussian 16", "gaussian 1000", "laplace 100", "digits"])
def test_the_second_word_decides_at_each_edge_to_the_last_bit(name: str) -> None:
    table = TABLES[name]
    for j in range(0, len(table.edges), 1 + len(table.edges) // 200):
        high, low = divmod(table.edges[j], WORD)
        for second in {max(low - 1, 0), low, min(low + 1, WORD - 1)}:
            assert samples(table, [high], second) == (defined(table, [high], second), 1)


def test_nothing_but_a_tie_costs_a_second_word() -> None:
    table = TABLES["gaussian 1000"]
    tops = {edge >> 64 for edge in table.edges}
    words = [word for word in around(table) if word not in tops]
    assert samples(table, words)[1] == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    edges=st.lists(st.integers(0, UNIT), max_size=40),
    words=st.lists(st.integers(0, WORD - 1), max_size=40),
    second=st.integers(0, WORD - 1),
)
def test_any_table_any_words(edges: list[int], words: list[int], second: int) -> None:
    table = Table(-3, sorted(edges), 0.0)
    words += [min(edge // WORD, WORD - 1) for edge in edges]
    assert samples(table, words, second)[0] == defined(table, words, second)


def test_probabilities_are_all_there_is() -> None:
    for table in TABLES.values():
        assert sum(table.probabilities()) == UNIT and min(table.probabilities()) >= 0


def test_weights_become_edges_by_floors() -> None:
    table = Table.of(10, [1, 1, 1], 0, 0.0)
    assert table.edges == (UNIT // 3, 2 * UNIT // 3) and table.first == 10
    assert table.tv >= 3 / UNIT
    assert Table.of(0, [1 << 200, 1 << 200], 1 << 100, 2.0**-90).tv >= 2.0**-90 + 2.0**-100


def test_a_draw_adds_its_terms_whatever_the_blocks() -> None:
    table = TABLES["a coin"]
    count = 100_000  # more than three blocks
    words = Keystream(bytes(32)).words(2 * count)
    found = draw([(1, table), (-10, table)], count, Keystream(bytes(32)))
    assert set(found.tolist()) == {0, 1, -10, -9}
    block = 1 << 15
    expected, place = [], 0
    for start in range(0, count, block):
        size = min(block, count - start)
        bits = (words[place : place + 2 * size] >> np.uint64(63)).astype(np.int64)
        expected.append(bits[:size] - 10 * bits[size:])
        place += 2 * size
    assert np.array_equal(found, np.concatenate(expected))
    assert draw([(1, table)], 0, Keystream(bytes(32))).shape == (0,)


@pytest.mark.parametrize(
    "value", [Fraction(1, 3), Fraction(1, 2), Fraction(1, 3 * 2**120), Fraction(0), Fraction(10**30 + 1)]
)
def test_upward_is_the_next_float(value: Fraction) -> None:
    assert Fraction(upward(value)) >= value
    assert upward(value) == 0 or Fraction(float(np.nextafter(upward(value), 0))) < value
