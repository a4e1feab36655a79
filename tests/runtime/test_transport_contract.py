"""What every transport owes the server, asked of each of them; and what the one for Globus Compute owes beyond that.

Compute is `ComputeWorld` here: virtual time, faults to order. The real child, SDK and endpoint are in tests/globus.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterseal.runtime.delivery import DELIVERY_LIMIT, Grants
from counterseal.runtime.errors import JournalError, TransportError
from counterseal.runtime.site.worker import serve
from counterseal.runtime.stores.grants import Grant, GrantPart
from counterseal.runtime.transports.compute.parcels import OUTSTANDING
from counterseal.runtime.transports.compute.results import INFRASTRUCTURE
from counterseal.runtime.transports.compute.transport import ComputeTransport
from counterseal.runtime.transports.local import LocalTransport
from counterseal.runtime.transports.seam import Arrival, Transport

from .compute_world import SITES, START, ComputeWorld, answer_to, make_delivery, open_transport, ticket_of

A, B, C = SITES


# Every transport


class PipeSite:
    """A site on a thread of this process, on two pipes as `LocalTransport` has them."""

    def __init__(self, deaths: Counter[str], site: str) -> None:
        below, self.stdin = _pipe()
        self.stdout, above = _pipe()
        self._thread = threading.Thread(target=self._run, args=(below, above, deaths, site), daemon=True)
        self._thread.start()

    def _run(self, source: BinaryIO, sink: BinaryIO, deaths: Counter[str], site: str) -> None:
        class Site:
            def handle(self, delivery: bytes) -> bytes:
                if deaths[site]:
                    deaths[site] -= 1
                    raise EOFError
                return answer_to(ticket_of(delivery))

        with source, sink, contextlib.suppress(EOFError):
            serve(Site(), source, sink)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.stdin.close()
        self._thread.join(5)
        self.stdout.close()


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    source, sink = os.pipe()
    return os.fdopen(source, "rb"), os.fdopen(sink, "wb")


class Setting:
    """A transport, and a way to make its sites die at work."""

    def __init__(self, transport: Transport, kill: Callable[[str], None]) -> None:
        self.transport = transport
        self.kill = kill

    def collect(self, count: int) -> list[Arrival]:
        found: list[Arrival] = []
        end = time.monotonic() + 20
        while len(found) < count and time.monotonic() < end:
            found += self.transport.poll(1.0)
        return found


@pytest.fixture(params=["local", "compute"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    if request.param == "local":
        deaths: Counter[str] = Counter()
        transport: Transport = LocalTransport(lambda site: PipeSite(deaths, site))
        made = Setting(transport, lambda site: deaths.update([site]))
    else:
        world = ComputeWorld()
        transport = open_transport(world, tmp_path / "state")
        made = Setting(transport, lambda site: world.tasks_to_come.append("site_died"))
    yield made
    transport.close()


def test_each_delivery_brings_its_answer(setting: Setting) -> None:
    sent = {}
    for site in SITES:
        ticket, delivery = make_delivery(site)
        sent[ticket] = site
        setting.transport.dispatch(site, ticket, delivery)
    found = setting.collect(3)
    assert {(one.site, one.ticket, one.answer, one.failure) for one in found} == {
        (site, ticket, answer_to(ticket), None) for ticket, site in sent.items()
    }


def test_a_poll_without_anything_to_tell_ends(setting: Setting) -> None:
    assert setting.transport.poll(0.0) == []
    assert setting.transport.poll(0.05) == []


def test_a_delivery_is_answered_as_often_as_it_is_sent(setting: Setting) -> None:
    ticket, delivery = make_delivery(A)
    for _ in range(3):
        setting.transport.dispatch(A, ticket, delivery)
        assert [(one.ticket, one.answer) for one in setting.collect(1)] == [(ticket, answer_to(ticket))]


def test_a_site_that_dies_at_work_is_a_failure_and_answers_the_next_time(setting: Setting) -> None:
    ticket, delivery = make_delivery(B)
    setting.kill(B)
    setting.transport.dispatch(B, ticket, delivery)
    (failed,) = setting.collect(1)
    assert (failed.site, failed.ticket, failed.answer) == (B, ticket, None)
    assert failed.failure in {"site_died", "site_process_ended"}
    setting.transport.dispatch(B, ticket, delivery)
    assert [one.answer for one in setting.collect(1)] == [answer_to(ticket)]


def test_what_was_never_sent_is_not_waited_for(setting: Setting) -> None:
    ticket, _ = make_delivery(A)
    assert setting.transport.recover({ticket: A}) == set()


# Compute


@pytest.fixture
def world() -> ComputeWorld:
    return ComputeWorld()


@pytest.fixture
def transport(world: ComputeWorld, tmp_path: Path) -> Iterator[ComputeTransport]:
    made = open_transport(world, tmp_path / "state")
    yield made
    made.close()


def wait(transport: ComputeTransport, world: ComputeWorld, seconds: float) -> list[Arrival]:
    """Poll as a server does, for so long of the world's time or until something arrives."""
    end = world.now + seconds
    while world.now < end:
        if found := transport.poll(min(1.0, end - world.now)):
            return found
    return []


def send(transport: ComputeTransport, site: str = A, seq: int = 1, **changes: Any) -> str:
    ticket, delivery = make_delivery(site, seq, **changes)
    transport.dispatch(site, ticket, delivery)
    return ticket


def test_a_round_goes_out_in_one_go_and_each_site_has_a_group_of_its_own(
    world: ComputeWorld, transport: ComputeTransport
) -> None:
    for site in SITES:
        send(transport, site)
    send(transport, A, 2)
    transport.poll(0.01)
    assert world.seen["submit"] == 3
    assert wait(transport, world, 5)
    assert len(world.groups) == 3
    send(transport, A, 3)
    wait(transport, world, 5)
    assert len(world.groups) == 3


def test_a_lost_task_is_sent_again_after_the_silence_and_then_after_twice_that(
    world: ComputeWorld, transport: ComputeTransport
) -> None:
    world.tasks_to_come.extend(["lost", "lost", "lost", "lost"])
    send(transport, not_after=START + 5_000)
    assert wait(transport, world, 2_000) == []
    made = [task.made for task in world.made.values()]
    assert len(made) == OUTSTANDING
    assert made[1] - made[0] == pytest.approx(60, abs=3)
    assert made[2] - made[1] == pytest.approx(120, abs=3)


def test_an_answer_to_a_repetition_is_the_answer(world: ComputeWorld, transport: ComputeTransport) -> None:
    world.tasks_to_come.append("lost")
    ticket = send(transport)
    assert [one.ticket for one in wait(transport, world, 90)] == [ticket]
    assert len(world.made) == 2


def test_nothing_is_sent_after_the_tickets_time(world: ComputeWorld, transport: ComputeTransport) -> None:
    world.tasks_to_come.append("lost")
    send(transport, not_after=START + 30)
    assert wait(transport, world, 1_000) == []
    assert len(world.made) == 1


def test_a_newer_ticket_ends_the_older_ones(world: ComputeWorld, transport: ComputeTransport) -> None:
    world.tasks_to_come.extend(["lost", "answer"])
    send(transport, seq=1)
    transport.poll(1.0)
    newer = send(transport, seq=2)
    assert [one.ticket for one in wait(transport, world, 10)] == [newer]
    assert wait(transport, world, 500) == []
    assert len(world.made) == 2


def test_a_late_answer_still_arrives(world: ComputeWorld, transport: ComputeTransport) -> None:
    world.tasks_to_come.append("slow")
    older = send(transport, seq=1, not_after=START + 20)
    transport.poll(1.0)
    send(transport, seq=2)
    wait(transport, world, 10)
    assert [one.ticket for one in wait(transport, world, 500)] == [older]


@pytest.mark.parametrize("code", sorted(INFRASTRUCTURE))
def test_trouble_between_costs_the_round_nothing(world: ComputeWorld, transport: ComputeTransport, code: str) -> None:
    world.tasks_to_come.extend([code] * 4)
    ticket = send(transport)
    assert [(one.ticket, one.failure) for one in wait(transport, world, 200)] == [(ticket, None)]
    made = [task.made for task in world.made.values()]
    pauses = [round(later - earlier) for earlier, later in pairwise(made)]
    assert pauses == sorted(pauses) and pauses[0] >= 3 and pauses[-1] >= 16  # task time, then 2, 4, 8, 16 s


def test_a_busy_site_is_asked_again_and_the_server_hears_nothing(
    world: ComputeWorld, transport: ComputeTransport
) -> None:
    world.tasks_to_come.extend(["busy", "busy"])
    ticket = send(transport)
    assert [one.answer for one in wait(transport, world, 60)] == [answer_to(ticket)]
    assert transport.counts["hidden busy"] == 2


def test_busy_while_the_first_is_at_work_waits_for_the_first(world: ComputeWorld, transport: ComputeTransport) -> None:
    world.tasks_to_come.extend(["slow", "busy", "busy", "busy", "busy"])
    ticket = send(transport)
    assert [one.answer for one in wait(transport, world, 500)] == [answer_to(ticket)]
    assert len(world.made) <= 4


@pytest.mark.parametrize("code", ["endpoint_refused", "endpoint_unknown", "function_unknown", "delivery_too_large"])
def test_what_is_refused_for_good_comes_back_at_once(
    world: ComputeWorld, transport: ComputeTransport, code: str
) -> None:
    world.submissions.append(f"refused:{code}")
    ticket = send(transport)
    assert [(one.ticket, one.answer, one.failure) for one in wait(transport, world, 2)] == [(ticket, None, code)]


def test_a_server_that_repeats_what_is_refused_is_slowed_down(world: ComputeWorld, transport: ComputeTransport) -> None:
    world.submissions.extend(["refused:endpoint_refused"] * 1_000)
    ticket, delivery = make_delivery(A)
    while world.now < 300:
        transport.dispatch(A, ticket, delivery)
        wait(transport, world, 100)
    assert world.seen["submit"] <= 12


@pytest.mark.parametrize("fate", ["limited", "down", "refused:login_needed", "refused:globus_unavailable"])
def test_an_outage_is_waited_out(world: ComputeWorld, transport: ComputeTransport, fate: str) -> None:
    world.submissions.extend([fate] * 3)
    ticket = send(transport)
    assert [one.ticket for one in wait(transport, world, 200)] == [ticket]
    assert world.seen["submit"] == 4


def test_an_endless_outage_is_asked_seldom(world: ComputeWorld, transport: ComputeTransport) -> None:
    world.submissions.extend(["down"] * 10_000)
    send(transport, not_after=START + 4_000)
    assert wait(transport, world, 3_600) == []
    assert world.seen["submit"] < 70


def test_a_site_without_an_endpoint_and_a_delivery_too_long(transport: ComputeTransport) -> None:
    transport.dispatch("stranger", "0" * 64, b"{}")
    transport.dispatch(A, "1" * 64, bytes(DELIVERY_LIMIT + 1))
    assert {one.failure for one in transport.poll(0.1)} == {"endpoint_unknown", "delivery_too_large"}


def test_what_is_no_delivery_is_our_own_mistake(transport: ComputeTransport) -> None:
    with pytest.raises(TransportError):
        transport.dispatch(A, "1" * 64, b'{"ticket": 1}')


def test_a_result_of_another_ticket_and_a_repeated_one_reach_nobody_else(
    world: ComputeWorld, transport: ComputeTransport
) -> None:
    world.tasks_to_come.extend(["twice", "answer"])
    first, second = send(transport, A), send(transport, B)
    found = [*wait(transport, world, 5), *wait(transport, world, 5)]
    assert Counter(one.ticket for one in found) <= Counter({first: 1, second: 1})
    assert transport.counts["unknown"] == 1


# Endpoints that are away


def test_repetitions_wait_for_an_endpoint_that_is_away(
    world: ComputeWorld, transport: ComputeTransport, caplog: pytest.LogCaptureFixture
) -> None:
    world.offline.add(A)
    ticket = send(transport, not_after=START + 5_000)
    assert wait(transport, world, 1_000) == []
    assert len(world.made) == 1
    assert transport.status()[A].online is False
    assert "endpoint of site-a@fed.example is offline since 2027-" in caplog.text
    assert world.seen["online"] <= 1 + 1_000 / 60
    world.offline.clear()
    assert [one.ticket for one in wait(transport, world, 100)] == [ticket]
    assert len(world.made) == 1


def test_a_quick_round_asks_no_endpoint_how_it_is(world: ComputeWorld, transport: ComputeTransport) -> None:
    for seq in range(1, 6):
        send(transport, seq=seq)
        assert wait(transport, world, 10)
    assert world.seen["online"] == 0
    assert transport.status()[A].trouble is None


# A child that dies


def test_a_child_that_dies_loses_nothing(world: ComputeWorld, transport: ComputeTransport) -> None:
    ticket = send(transport)
    transport.poll(0.3)
    world.die()
    assert [one.ticket for one in wait(transport, world, 10)] == [ticket]
    assert len(world.made) == 1


@pytest.mark.parametrize(
    "nonsense",
    [
        {"end": "submitted"},
        {"end": 7},
        {"task": "t"},
        {"task": [], "answer": 3},
        {"id": "x"},
        {"end": "asked", "gone": 5},
    ],
)
def test_a_child_that_talks_nonsense_is_ended_and_loses_nothing(
    world: ComputeWorld, transport: ComputeTransport, nonsense: dict[str, Any]
) -> None:
    ticket = send(transport)
    transport.poll(0.01)
    number = max(transport._desk.requests, default=0)
    world.later({"id": number, **nonsense}, 0.0)
    assert [one.ticket for one in wait(transport, world, 90)] == [ticket]


@pytest.mark.parametrize("over", ["submit", "results"])
def test_a_child_that_never_speaks_again_is_ended_and_loses_nothing(
    world: ComputeWorld, transport: ComputeTransport, over: str
) -> None:
    """Stopped, or stuck: it is not dead, so nobody is told. Its endpoint must not stay without deliveries for ever."""
    world.tasks_to_come.append("slow")
    ticket = send(transport, not_after=START + 5_000)
    while over not in {one.do for one in transport._desk.requests.values()}:
        assert transport.poll(0.01) == [] and world.now < 10
    world.events.clear()
    assert {one.ticket for one in wait(transport, world, 1_500)} == {ticket}
    assert len(world.made) <= 3


def test_a_child_that_does_not_come_back_costs_little(world: ComputeWorld, tmp_path: Path) -> None:
    steps: Counter[str] = Counter()
    with contextlib.closing(open_transport(world, tmp_path / "state", probe=lambda step: steps.update([step]))) as one:
        for site in SITES:
            send(one, site)
        world.dead = True
        assert wait(one, world, 60) == []
        assert steps["journal.write"] <= 2 * 60 / 0.5 + 10


def test_a_long_run_leaves_little_behind(world: ComputeWorld, transport: ComputeTransport) -> None:
    for seq in range(1, 150):
        send(transport, seq=seq)
        assert wait(transport, world, 10)
    transport.poll(100.0)
    assert len(list(transport._desk.parcels)) < 60
    assert len(list(transport._desk.book.parcels())) < 60


@pytest.mark.parametrize("seconds", [1e9, 1e300])
def test_compute_cannot_order_a_rest_for_ever(world: ComputeWorld, transport: ComputeTransport, seconds: float) -> None:
    transport._desk.places[A].rest(world.now, seconds, "globus_unavailable")
    ticket = send(transport)
    assert [one.ticket for one in wait(transport, world, 400)] == [ticket]


def test_a_submission_nobody_saw_the_end_of_is_found_in_its_group(
    world: ComputeWorld, transport: ComputeTransport
) -> None:
    send(transport, seq=1)
    assert wait(transport, world, 5)  # now there is a group
    world.submissions.append("die-after")
    ticket = send(transport, seq=2)
    assert [one.ticket for one in wait(transport, world, 20)] == [ticket]
    assert len(world.made) == 2


def test_a_submission_that_was_not_made_is_made_after_a_look(world: ComputeWorld, transport: ComputeTransport) -> None:
    send(transport, seq=1)
    assert wait(transport, world, 5)
    world.submissions.append("die-before")
    ticket = send(transport, seq=2)
    assert [one.ticket for one in wait(transport, world, 20)] == [ticket]
    assert (len(world.made), world.seen["tasks"]) == (2, 1)


def test_a_found_task_answers_for_its_own_site_only(world: ComputeWorld, transport: ComputeTransport) -> None:
    """Whose task it is, the result says itself: a hostile site cannot name another site's ticket."""
    send(transport, A, 1)
    assert wait(transport, world, 5)
    theirs, delivery = make_delivery(B)
    world.tasks_to_come.extend(["slow", "answer"])
    transport.dispatch(B, theirs, delivery)
    transport.poll(0.2)
    world.submissions.append("unseen")
    mine = send(transport, A, 2)
    transport.poll(0.2)
    hostile = [task for task in world.made.values() if task.ticket == mine]
    assert len(hostile) == 1
    hostile[0].answer = answer_to(theirs, "policy_denied")
    found = wait(transport, world, 90)
    assert [(one.site, one.ticket) for one in found] == [(A, mine)]  # asked again, after the rubbish
    assert transport.counts["unknown"] == 1


# Another life


def test_what_is_out_is_asked_about_in_the_next_life_and_not_sent_again(world: ComputeWorld, tmp_path: Path) -> None:
    world.tasks_to_come.append("slow")
    first = open_transport(world, tmp_path / "state", resend=500)
    ticket, delivery = make_delivery(A)
    first.dispatch(A, ticket, delivery)
    first.poll(1.0)
    first.close()
    world.now += 300
    second = open_transport(world, tmp_path / "state", resend=500)
    assert second.recover({ticket: A, "0" * 64: B}) == {ticket}
    assert second.recover({ticket: B}) == set()
    second.dispatch(A, ticket, delivery)
    assert [one.ticket for one in wait(second, world, 200)] == [ticket]
    assert len(world.made) == 1
    second.close()


def test_the_silence_is_counted_over_lives(world: ComputeWorld, tmp_path: Path) -> None:
    world.tasks_to_come.append("lost")
    ticket, delivery = make_delivery(A)
    with contextlib.closing(open_transport(world, tmp_path / "state", resend=100)) as first:
        first.dispatch(A, ticket, delivery)
        first.poll(1.0)
    world.now += 80
    with contextlib.closing(open_transport(world, tmp_path / "state", resend=100)) as second:
        second.dispatch(A, ticket, delivery)
        assert wait(second, world, 15) == []
        assert [one.ticket for one in wait(second, world, 15)] == [ticket]


def test_a_delivery_with_more_leave_goes_out_at_once(world: ComputeWorld, transport: ComputeTransport) -> None:
    """Two steps: leave to upload is given to a site whose first answer got lost and was found in the store."""
    world.tasks_to_come.append("lost")
    send(transport)
    transport.poll(1.0)
    part = GrantPart(number=1, length=1)
    leave = Grant(method="put", store="directory", key="runs/r/u/payload", length=1, expires=START + 600, parts=(part,))
    ticket = send(transport, grants=Grants(update=leave))
    assert [one.ticket for one in wait(transport, world, 5)] == [ticket]


def test_one_process_at_a_time(world: ComputeWorld, transport: ComputeTransport, tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        open_transport(world, tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(1, 13))
def test_a_crash_at_any_step_of_the_journal_loses_nothing(world: ComputeWorld, tmp_path: Path, step: int) -> None:
    """The second submission of a life is cut short at each of its writes; the next life goes on."""
    count = 0

    def probe(name: str) -> None:
        nonlocal count
        count += armed and name.startswith("journal.")
        if armed and count == step:
            raise Killed

    armed = False
    first = open_transport(world, tmp_path / "state", probe=probe)
    for site in (A, B):
        send(first, site, seq=1)
        assert wait(first, world, 5)  # now each has a group in which a lost submission can be found
    armed = True
    deliveries = {site: make_delivery(site, 2) for site in (A, B)}
    with contextlib.suppress(Killed):
        for site, (ticket, delivery) in deliveries.items():
            first.dispatch(site, ticket, delivery)
        wait(first, world, 3)
    armed = False
    first.close()
    with contextlib.closing(open_transport(world, tmp_path / "state")) as second:
        for site, (ticket, delivery) in deliveries.items():
            second.dispatch(site, ticket, delivery)
        found = [*wait(second, world, 90), *wait(second, world, 90)]
    assert {one.ticket for one in found} == {ticket for ticket, _ in deliveries.values()}
    assert all(task.ticket for task in world.made.values())
    assert set(Counter(task.ticket for task in world.made.values()).values()) == {1}, "sent twice"


# Any history

FATES = st.sampled_from(
    ["ok", "ok", "limited", "down", "unseen", "die-before", "die-after", "refused:globus_unavailable"]
)
TASKS = st.sampled_from(["answer", "slow", "twice", "lost", "busy", "foreign", *sorted(INFRASTRUCTURE)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.1, 100)),
        st.tuples(st.just("child"), st.just(0.0)),
        st.tuples(st.just("restart"), st.floats(0, 100)),
        st.tuples(st.just("away"), st.floats(0, 100)),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(FATES, max_size=8),
    st.lists(TASKS, max_size=8).filter(lambda tasks: tasks.count("lost") < OUTSTANDING),
    STEPS,
    st.integers(600, 4_000),
)
def test_whatever_happens_nothing_is_lost_and_nobody_is_flooded(
    fates: list[str], tasks: list[str], steps: list[tuple[str, float]], lasts: int
) -> None:
    world = ComputeWorld()
    world.submissions.extend(fates)
    world.tasks_to_come.extend(tasks)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ends:
        transport = open_transport(world, Path(name))
        deliveries = {
            ticket: (site, delivery)
            for site in (A, B)
            for ticket, delivery in [make_delivery(site, not_after=START + lasts + 3_000)]
        }
        arrived: list[Arrival] = []

        def dispatch() -> None:
            done = {one.ticket for one in arrived if one.answer is not None}
            for ticket, (site, delivery) in deliveries.items():
                if ticket not in done:
                    transport.dispatch(site, ticket, delivery)

        dispatch()
        for what, seconds in steps:
            if what == "child":
                world.die()
            elif what == "away":
                world.offline.add(A)
                arrived += wait(transport, world, seconds)
                world.offline.clear()
            elif what == "restart":
                transport.close()
                world.now += seconds
                transport = open_transport(world, Path(name))
                dispatch()
            arrived += wait(transport, world, seconds)
        ends.callback(transport.close)
        while world.now < lasts + 2_900 and {one.ticket for one in arrived} < set(deliveries):
            arrived += wait(transport, world, 500)
        assert {one.ticket for one in arrived} == set(deliveries), "nothing is lost before its time is over"
        for one in arrived:
            assert deliveries[one.ticket][0] == one.site
        sent = Counter(task.ticket for task in world.made.values())
        submitted = world.seen["submit"]
        wait(transport, world, 1_000)
        assert set(sent) <= set(deliveries)
        assert Counter(task.ticket for task in world.made.values()) == sent, "nothing is sent for what was answered"
        assert submitted <= 2 * (len(fates) + len(tasks) + len(steps) + 2) + 4
