"""The synchronous schedule: a table of stories, and a machine that tries every order of events."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from counterseal.algorithms.errors import ScheduleError
from counterseal.algorithms.schedule import (
    Abort,
    Admitted,
    Arrived,
    Commit,
    Committed,
    Decision,
    Dispatch,
    Event,
    Excluded,
    Failed,
    Rejected,
    RoundOpened,
    SynchronousSchedule,
    Tick,
    Wait,
    Work,
)

SITES = ("a", "b", "c")
WAIT = Wait(100.0)


def schedule(minimum: int = 2, retries: int = 1, sites: tuple[str, ...] = SITES) -> SynchronousSchedule:
    return SynchronousSchedule(sites, minimum, 100.0, retries)


def play(start: SynchronousSchedule, *events: tuple[float, Event]) -> tuple[SynchronousSchedule, list[Decision]]:
    """Return the state after the events, and the decisions on the last."""
    state = start
    decisions: tuple[Decision, ...] = ()
    for now, event in events:
        state, decisions = state.on_event(event, now)
    return state, list(decisions)


OPEN = (0.0, RoundOpened(1, SITES))


def at(now: float, kind: Any, site: str, *more: Any) -> tuple[float, Event]:
    return now, kind(1, site, *more)


STORIES: dict[str, tuple[list[tuple[float, Event]], list[Decision]]] = {
    "opening sends every site its ticket": ([OPEN], [*(Dispatch(site, Work()) for site in SITES), WAIT]),
    "all admitted, in any order": (
        [OPEN, at(1, Admitted, "c"), at(2, Admitted, "a"), at(3, Admitted, "b")],
        [Commit(("a", "b", "c"))],
    ),
    "a dead site is waited for until the deadline": ([OPEN, at(1, Admitted, "a"), at(2, Admitted, "b")], [WAIT]),
    "and no longer": ([OPEN, at(1, Admitted, "a"), at(2, Admitted, "b"), (100, Tick())], [Commit(("a", "b"))]),
    "a tick too early changes nothing": ([OPEN, at(1, Admitted, "a"), at(2, Admitted, "b"), (99.9, Tick())], [WAIT]),
    "a hanging admission does not hold the round": (
        [OPEN, at(1, Admitted, "a"), at(2, Admitted, "b"), at(3, Arrived, "c"), (100, Tick())],
        [Commit(("a", "b"))],
    ),
    "an event after the deadline closes the round without itself": (
        [OPEN, at(1, Admitted, "a"), at(2, Admitted, "b"), at(100, Admitted, "c")],
        [Commit(("a", "b"))],
    ),
    "too few at the deadline": ([OPEN, at(1, Admitted, "a"), (100, Tick())], [Abort("deadline")]),
    "a liar is left out": (
        [OPEN, at(1, Admitted, "a"), at(2, Rejected, "b", "not_finite"), at(3, Admitted, "c")],
        [Commit(("a", "c"))],
    ),
    "too many liars end the round early": (
        [OPEN, at(1, Rejected, "a", "x"), at(2, Rejected, "b", "x")],
        [Abort("minimum_unreachable")],
    ),
    "a failed delivery is sent again": ([OPEN, at(1, Failed, "a", "transport")], [Dispatch("a", Work(), 1), WAIT]),
    "but not for ever": ([OPEN, at(1, Failed, "a", "transport"), at(2, Failed, "a", "transport")], [WAIT]),
    "and not when the ticket is spent": ([OPEN, at(1, Failed, "a", "site_failed", False)], [WAIT]),
    "an update that turns up after all counts": (
        [
            OPEN,
            at(1, Failed, "a", "t"),
            at(2, Failed, "a", "t"),
            at(3, Admitted, "b"),
            at(4, Arrived, "a"),
            at(5, Admitted, "a"),
            at(6, Admitted, "c"),
        ],
        [Commit(("a", "b", "c"))],
    ),
    "a store that fails at admission is asked again": (
        [OPEN, at(1, Arrived, "a"), at(2, Failed, "a", "store")],
        [Dispatch("a", Work(), 1), WAIT],
    ),
    "repetitions count once": (
        [OPEN, at(1, Admitted, "a"), at(1, Admitted, "a"), at(2, Arrived, "a"), at(3, Failed, "a", "t")],
        [WAIT],
    ),
    "a rejected site stays rejected": (
        [OPEN, at(1, Rejected, "a", "x"), at(2, Admitted, "a"), at(3, Admitted, "b")],
        [WAIT],
    ),
    "a member removed while the round is open": (
        [
            OPEN,
            at(1, Admitted, "a"),
            at(2, Excluded, "a", "not_authorized"),
            at(3, Admitted, "b"),
            at(4, Admitted, "c"),
        ],
        [Commit(("b", "c"))],
    ),
    "a member removed at the commit": (
        [
            OPEN,
            at(1, Admitted, "a"),
            at(2, Admitted, "b"),
            at(3, Admitted, "c"),
            at(4, Excluded, "b", "not_authorized"),
        ],
        [Commit(("a", "c"))],
    ),
    "two members removed at the commit": (
        [
            OPEN,
            at(1, Admitted, "a"),
            at(2, Admitted, "b"),
            at(3, Admitted, "c"),
            at(4, Excluded, "b", "x"),
            at(5, Excluded, "a", "x"),
        ],
        [Abort("membership")],
    ),
    "excluding a site that the commit does not name": (
        [OPEN, at(1, Admitted, "a"), at(2, Admitted, "b"), (100, Tick()), at(101, Excluded, "c", "not_authorized")],
        [],
    ),
    "a late admission of an earlier round": (
        [
            OPEN,
            *(at(1, Admitted, site) for site in SITES),
            (2, Committed(1)),
            (3, RoundOpened(2, SITES)),
            at(4, Admitted, "a"),
            (5, Admitted(2, "b")),
            (103, Tick()),
        ],
        [Abort("deadline")],
    ),
    "nothing follows the commit": (
        [OPEN, *(at(1, Admitted, site) for site in SITES), (2, Committed(1)), at(3, Excluded, "a", "x")],
        [],
    ),
    "a late word of an earlier round": (
        [
            OPEN,
            *(at(1, Admitted, site) for site in SITES),
            (2, Committed(1)),
            (3, RoundOpened(2, SITES)),
            at(4, Rejected, "a", "x"),
        ],
        [Wait(103.0)],
    ),
    "a word of a site that has no part": ([(0, RoundOpened(1, ("a", "b"))), at(1, Admitted, "c")], [WAIT]),
    "too few members to begin": ([(0, RoundOpened(1, ("a",)))], [Abort("minimum_unreachable")]),
    "a tick in idle time": ([(0, Tick())], []),
}


@pytest.mark.parametrize("name", STORIES)
def test_stories(name: str) -> None:
    events, decisions = STORIES[name]
    assert play(schedule(), *events)[1] == decisions


def test_outcomes_say_why_for_every_site() -> None:
    state, _ = play(
        schedule(1, 0), OPEN, at(1, Admitted, "a"), at(2, Rejected, "b", "norm_bound"), at(3, Failed, "c", "lost")
    )
    assert [(one.site, one.standing, one.reason) for one in state.outcomes] == [
        ("a", "admitted", ""),
        ("b", "rejected", "norm_bound"),
        ("c", "failed", "lost"),
    ]
    assert state.phase == "committing"


def test_an_aborted_round_makes_room_for_the_next() -> None:
    state, _ = play(schedule(), OPEN, (100, Tick()))
    assert state.phase == "idle"
    assert len(play(state, (101, RoundOpened(2, SITES)))[1]) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedule(0),
        lambda: schedule(4),
        lambda: schedule(retries=-1),
        lambda: schedule(sites=("b", "a")),
        lambda: schedule(sites=("a", "a", "b")),
        lambda: SynchronousSchedule(SITES, 1, 0.0),
        lambda: SynchronousSchedule(SITES, 1, math.inf),
        lambda: SynchronousSchedule(SITES, 1, math.nan),
        lambda: play(schedule(), OPEN, (1, RoundOpened(2, SITES))),
        lambda: play(schedule(), OPEN, (100, Tick()), (101, RoundOpened(1, SITES))),
        lambda: play(schedule(), (0, RoundOpened(1, ("a", "z")))),
        lambda: play(schedule(), (0, RoundOpened(1, ("a", "a", "b")))),
        lambda: play(schedule(), (math.nan, Tick())),
    ],
)
def test_what_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(ScheduleError):
        make()


class Driver(RuleBasedStateMachine):
    """A server that reports anything in any order, repeats itself, and restarts from its journal of events."""

    @initialize(n=st.integers(1, 4), data=st.data())
    def begin(self, n: int, data: st.DataObject) -> None:
        self.sites = tuple("abcd"[:n])
        self.minimum = data.draw(st.integers(1, n))
        self.retries = data.draw(st.integers(0, 2))
        self.first = SynchronousSchedule(self.sites, self.minimum, 10.0, self.retries)
        self.state, self.now, self.number = self.first, 0.0, 0
        self.journal: list[tuple[Event, float]] = []
        self.commits: list[Commit] = []
        self.over: list[int] = []
        self.dispatches: dict[str, int] = {}
        self.excluded: set[str] = set()
        self.refused: set[str] = set()

    def tell(self, event: Event) -> None:
        self.journal.append((event, self.now))
        self.state, decisions = self.state.on_event(event, self.now)
        for one in decisions:
            self.judge(one)
        if self.state.phase == "open":  # never open without saying until when
            assert [one.until for one in decisions if isinstance(one, Wait)] == [self.state.deadline]
            assert self.state.deadline <= self.opened + 10.0

    def judge(self, one: Decision) -> None:
        assert self.number not in self.over  # nothing follows an end
        if isinstance(one, Dispatch):
            assert one.attempt == self.dispatches.get(one.site, 0) <= self.retries
            self.dispatches[one.site] = one.attempt + 1
        elif isinstance(one, Commit):
            assert len(one.updates) >= self.minimum and list(one.updates) == sorted(set(one.updates))
            assert not set(one.updates) & (self.excluded | self.refused)
            if self.commits:
                assert set(one.updates) < set(self.commits[-1].updates)
            self.commits.append(one)
        elif isinstance(one, Abort):
            self.over.append(self.number)

    @precondition(lambda self: self.state.phase == "idle")
    @rule()
    def open(self) -> None:
        self.number += 1
        self.opened = self.now
        self.commits, self.dispatches, self.excluded, self.refused = [], {}, set(), set()
        self.tell(RoundOpened(self.number, self.sites))

    @rule(site=st.sampled_from("abcd"), kind=st.sampled_from([Arrived, Admitted]), back=st.integers(0, 1))
    def good_word(self, site: str, kind: Any, back: int) -> None:
        self.tell(kind(self.number - back, site))

    @rule(site=st.sampled_from("abcd"), kind=st.sampled_from([Rejected, Failed, Excluded]), back=st.integers(0, 1))
    def bad_word(self, site: str, kind: Any, back: int) -> None:
        before = self.state
        live = back == 0 and before.phase != "idle" and (before.phase == "committing" or self.now < before.deadline)
        if live and kind is Excluded:
            self.excluded.add(site)
        mine = before.outcome(site)
        if live and before.phase == "open" and kind is Rejected and mine and mine.standing in {"pending", "arrived"}:
            self.refused.add(site)
        self.tell(kind(self.number - back, site, "why"))

    @rule(site=st.sampled_from("abcd"))
    def spent_ticket(self, site: str) -> None:
        self.tell(Failed(self.number, site, "site_failed", retry=False))

    @rule(seconds=st.sampled_from([0.0, 0.5, 4.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    @rule()
    def commit_is_done(self) -> None:
        closing = self.state.phase == "committing"
        self.tell(Committed(self.number))
        if closing:
            assert self.state.phase == "idle"
            self.over.append(self.number)

    @invariant()
    def replay_of_the_journal_stands_where_we_stand(self) -> None:
        if not hasattr(self, "journal"):
            return
        state = self.first
        for event, now in self.journal:
            state, _ = state.on_event(event, now)
        assert state == self.state

    @invariant()
    def a_deadline_ends_every_open_round(self) -> None:
        if hasattr(self, "state") and self.state.phase == "open":
            after, decisions = self.state.on_event(Tick(), self.state.deadline)
            assert after.phase in {"idle", "committing"} and isinstance(decisions[-1], Commit | Abort)
            assert isinstance(decisions[-1], Commit) == (len(self.state.admitted) >= self.minimum)


Driver.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestDriver = Driver.TestCase
