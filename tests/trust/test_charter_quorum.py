"""The arithmetic of quorums, against enumeration of every pair of quorums and every set of liars."""

from __future__ import annotations

from itertools import combinations

import pytest

from counterseal.trust.charter.quorum import Quorum
from counterseal.trust.errors import CharterError


def _some_honest_in_every_pair(k: int, n: int, f: int) -> bool:
    """The definition, without arithmetic: sets are bit masks; quorums have k members or more."""
    quorums = [mask for mask in range(1 << n) if mask.bit_count() >= k]
    least = min((one & two).bit_count() for one in quorums for two in quorums)
    return least > f  # f liars can cover an intersection of f or fewer members


@pytest.mark.parametrize("n", range(1, 9))
def test_the_formula_is_the_definition_for_every_k_and_f(n: int) -> None:
    for k in range(1, n + 1):
        for f in range(1, n + 1):
            assert Quorum(k, n, f).intersects_in_honest() == _some_honest_in_every_pair(k, n, f), (k, n, f)


@pytest.mark.parametrize("n", range(1, 7))
def test_liars_alone_can_fork_exactly_where_the_formula_says_so(n: int) -> None:
    """Name the liars outright: two quorums whose common members all lie exist if and only if 2k <= n + f."""
    for k in range(1, n + 1):
        for f in range(1, n + 1):
            everybody = range(n)
            forked = any(
                set(one) & set(two) <= set(liars)
                for liars in combinations(everybody, f)
                for one in combinations(everybody, k)
                for two in combinations(everybody, k)
            )
            assert forked != Quorum(k, n, f).intersects_in_honest(), (k, n, f)


@pytest.mark.parametrize("n", range(1, 9))
def test_smallest_k_is_the_least_that_holds(n: int) -> None:
    for f in range(1, n + 1):
        holding = [k for k in range(1, n + 1) if Quorum(k, n, f).intersects_in_honest()]
        assert Quorum.smallest_k(n, f) == (holding[0] if holding else None)


@pytest.mark.parametrize(("k", "n", "f", "field"), [
    (0, 3, 1, "quorum.k"),
    (-1, 3, 1, "quorum.k"),
    (4, 3, 1, "quorum.k"),
    (2, 3, 0, "quorum.f"),
    (2, 3, -1, "quorum.f"),
    (2, 3, 4, "quorum.f"),
])  # fmt: skip
def test_numbers_that_are_no_quorum_are_refused(k: int, n: int, f: int, field: str) -> None:
    with pytest.raises(CharterError) as caught:
        Quorum(k, n, f)
    assert caught.value.where == field


MEMBERS = frozenset("abcd")


@pytest.mark.parametrize(("by", "met"), [
    ("abc", True),
    ("abcd", True),
    ("ab", False),
    ("", False),
    ("abxyz", False),  # strangers never make a quorum
    ("abcx", True),
])  # fmt: skip
def test_only_members_are_counted(by: str, met: bool) -> None:
    assert Quorum(3, 4, 1).met(frozenset(by), MEMBERS) is met


def test_a_quorum_is_not_counted_against_another_roster() -> None:
    with pytest.raises(CharterError, match="counted against"):
        Quorum(3, 4, 1).met(frozenset("abc"), frozenset("abc"))


def test_it_says_how_many_may_be_away() -> None:
    assert Quorum(3, 4, 1).lasts_without() == 1
    assert Quorum(3, 4, 1).overlap == 2
