"""The schedule: who works, for how long they are waited for, and what is committed. It knows no clock and no thread.

`on_event(event, now)` returns the next state and what to do. Both are plain frozen data, so the server may journal the
events, replay them after a crash and stand where it stood; the simulator drives the same code with virtual time.

What `SynchronousSchedule` guarantees, for any sequence of events whatever:

1. A dead, hanging or lying site never stops the others. Every open round has a deadline and says so in each `Wait`; an event
   at or after it finds the round closed, whether or not a `Tick` came first.
2. A round is closed once: by `Commit` with at least ``minimum`` admitted sites, or by `Abort`. It closes early when every
   site is settled, or when too few are left to reach the minimum.
3. A `Commit` is followed by another only if a site named in it was excluded before the commit was done (its membership is
   checked again at that moment), and then names fewer sites, never others. After `Committed` or `Abort` nothing follows.
4. A site counts once a round, whatever is repeated. The first word on a site settles it, except that an admitted site can
   still be excluded, and that an update can turn up although its delivery was reported as failed.
5. A failed delivery is sent again, with the same ticket, at most ``retries`` times a round and site; failures that spent
   the ticket (``retry=False``) are not.
6. Events of another round are late; they change nothing.

The deadline is for admission, not for arrival: it must leave the server the time to read what arrived. A site is never
told "late" for an update that was read in time.

Not handled here: sending, admission, group checks, the log (the server does them and reports back as events); asynchronous
and semi-asynchronous schedules (later, behind the same seam).

Source: DESIGN sections 1 (P1, P9), 4 and 6; Bonawitz et al., Towards Federated Learning at Scale: System Design, MLSys
2019, section 2.2 (rounds with a minimum and a time limit).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

from .errors import ScheduleError

__all__ = [
    "Abort",
    "Admitted",
    "Arrived",
    "Commit",
    "Committed",
    "Decision",
    "Dispatch",
    "Event",
    "Excluded",
    "Failed",
    "Outcome",
    "Rejected",
    "RoundOpened",
    "Schedule",
    "Standing",
    "SynchronousSchedule",
    "Tick",
    "Wait",
    "Work",
]


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """A round begins with the sites that may take part in it."""

    round: int
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A site's receipt is there; its update is not admitted yet."""

    round: int
    site: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A site's update passed every check."""

    round: int
    site: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A site's update was refused."""

    round: int
    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A delivery failed; ``retry`` says whether the same ticket may be sent again."""

    round: int
    site: str
    reason: str
    retry: bool = True


@dataclass(frozen=True, slots=True)
class Excluded:
    """A site may not take part any more: removed from the group, or quarantined."""

    round: int
    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class Committed:
    """The server has done what the last `Commit` said."""

    round: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = RoundOpened | Arrived | Admitted | Rejected | Failed | Excluded | Committed | Tick


@dataclass(frozen=True, slots=True)
class Work:
    """What a site shall do; ``steps`` None means what the run's configuration says."""

    kind: Literal["train", "evaluate"] = "train"
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send a site its ticket; ``attempt`` counts from 0, and above 0 it is the same ticket again."""

    site: str
    work: Work
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """Make the next version from the updates of these sites, in site order."""

    updates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before the next event or until this time, whichever is first; then send a `Tick`."""

    until: float


@dataclass(frozen=True, slots=True)
class Abort:
    """Give the round up: ``minimum_unreachable``, ``deadline``, or ``membership`` (too few left at the commit)."""

    reason: Literal["minimum_unreachable", "deadline", "membership"]


Decision: TypeAlias = Dispatch | Commit | Wait | Abort

Standing = Literal["pending", "arrived", "admitted", "rejected", "failed", "excluded"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where one site stands in the round, and why."""

    site: str
    standing: Standing = "pending"
    reason: str = ""
    attempts: int = 1


class Schedule(Protocol):
    """What a schedule must offer."""

    def on_event(self, event: Event, now: float) -> tuple[Schedule, tuple[Decision, ...]]:
        """Return the schedule after ``event`` at ``now`` (seconds of any one clock), and what to do."""


@dataclass(frozen=True, slots=True)
class SynchronousSchedule:
    """Rounds in which every site works on the same version; configuration and state in one frozen value."""

    sites: tuple[str, ...]
    minimum: int
    deadline_seconds: float
    retries: int = 1
    phase: Literal["idle", "open", "committing"] = "idle"
    round: int = -1
    deadline: float = math.inf
    outcomes: tuple[Outcome, ...] = ()
    """Where every site of the current or last round stands, in site order: what the commit or abort states."""

    def __post_init__(self) -> None:
        if list(self.sites) != sorted(set(self.sites), key=str.encode):
            raise ScheduleError("sites are not in strictly ascending order", where="schedule")
        if not 1 <= self.minimum <= len(self.sites):
            raise ScheduleError(f"minimum {self.minimum} is not within 1 to {len(self.sites)} sites", where="schedule")
        if not (math.isfinite(self.deadline_seconds) and self.deadline_seconds > 0) or self.retries < 0:
            raise ScheduleError("deadline_seconds is not positive, or retries negative", where="schedule")

    def on_event(self, event: Event, now: float) -> tuple[SynchronousSchedule, tuple[Decision, ...]]:
        """Return the schedule after ``event`` at ``now``, and what to do.

        Raises:
            ScheduleError: ``now`` is no time, or a round is opened that cannot be opened now.
        """
        if not math.isfinite(now):
            raise ScheduleError("now is not a finite time", where="schedule")
        if isinstance(event, RoundOpened):
            return self._open(event, now)
        if self.phase == "open" and now >= self.deadline:
            return self._close("deadline")
        if isinstance(event, Tick):
            return self, self._waiting()
        if self.phase == "idle" or event.round != self.round:
            return self, self._waiting()  # late, or a repetition
        if isinstance(event, Committed):
            return (replace(self, phase="idle"), ()) if self.phase == "committing" else (self, self._waiting())
        if self.phase == "committing":
            return self._while_committing(event)
        return self._while_open(event)

    def outcome(self, site: str) -> Outcome | None:
        """Return where ``site`` stands in the current or last round; None if it has no part in it."""
        return MappingProxyType({one.site: one for one in self.outcomes}).get(site)

    @property
    def admitted(self) -> tuple[str, ...]:
        """The sites whose updates are admitted, in site order."""
        return tuple(one.site for one in self.outcomes if one.standing == "admitted")

    def _open(self, event: RoundOpened, now: float) -> tuple[SynchronousSchedule, tuple[Decision, ...]]:
        if self.phase != "idle" or event.round <= self.round:
            raise ScheduleError(
                f"round {event.round} cannot open: round {self.round} is {self.phase}",
                where="schedule",
                remedy="Close a round before the next, and number rounds upwards.",
            )
        if not set(event.sites) <= set(self.sites) or len(set(event.sites)) != len(event.sites):
            raise ScheduleError("a round names a site that the schedule does not, or one twice", where="schedule")
        taking_part = tuple(Outcome(site) for site in self.sites if site in event.sites)
        opened = replace(
            self, phase="open", round=event.round, deadline=now + self.deadline_seconds, outcomes=taking_part
        )
        if len(taking_part) < self.minimum:
            return replace(opened, phase="idle"), (Abort("minimum_unreachable"),)
        return opened, (*(Dispatch(one.site, Work()) for one in taking_part), Wait(opened.deadline))

    def _while_open(
        self, event: Arrived | Admitted | Rejected | Failed | Excluded
    ) -> tuple[SynchronousSchedule, tuple[Decision, ...]]:
        before = self.outcome(event.site)
        if before is None or not _may_follow(before.standing, event):
            return self, self._waiting()
        if isinstance(event, Failed) and event.retry and before.attempts <= self.retries:
            again = replace(before, standing="pending", attempts=before.attempts + 1)
            return self._with(again), (Dispatch(event.site, Work(), before.attempts), Wait(self.deadline))
        after = self._with(_settle(before, event))
        left = [one for one in after.outcomes if one.standing in {"pending", "arrived"}]
        if len(after.admitted) + len(left) < self.minimum:
            return after._close("minimum_unreachable")
        return after._close("deadline") if not left else (after, after._waiting())

    def _while_committing(
        self, event: Arrived | Admitted | Rejected | Failed | Excluded
    ) -> tuple[SynchronousSchedule, tuple[Decision, ...]]:
        before = self.outcome(event.site)
        if not isinstance(event, Excluded) or before is None or before.standing != "admitted":
            return self, ()
        return self._with(_settle(before, event))._close("membership")

    def _close(
        self, reason: Literal["minimum_unreachable", "deadline", "membership"]
    ) -> tuple[SynchronousSchedule, tuple[Decision, ...]]:
        """Commit what is admitted if it is enough, else abort for ``reason``."""
        if len(self.admitted) >= self.minimum:
            return replace(self, phase="committing"), (Commit(self.admitted),)
        return replace(self, phase="idle"), (Abort(reason),)

    def _with(self, outcome: Outcome) -> SynchronousSchedule:
        return replace(self, outcomes=tuple(_exchange(self.outcomes, outcome)))

    def _waiting(self) -> tuple[Decision, ...]:
        return (Wait(self.deadline),) if self.phase == "open" else ()


def _exchange(outcomes: Iterable[Outcome], new: Outcome) -> Iterable[Outcome]:
    return (new if one.site == new.site else one for one in outcomes)


def _may_follow(standing: Standing, event: Event) -> bool:
    """Return whether ``event`` still says something new about a site that stands so."""
    if standing == "admitted":
        return isinstance(event, Excluded)
    if standing == "arrived":
        return not isinstance(event, Arrived)
    if standing == "failed":
        return isinstance(event, Arrived | Admitted | Rejected | Excluded)
    return standing == "pending"


def _settle(before: Outcome, event: Arrived | Admitted | Rejected | Failed | Excluded) -> Outcome:
    if isinstance(event, Arrived):
        return replace(before, standing="arrived")
    if isinstance(event, Admitted):
        return replace(before, standing="admitted")
    standings: dict[type, Standing] = {Rejected: "rejected", Failed: "failed", Excluded: "excluded"}
    return replace(before, standing=standings[type(event)], reason=event.reason)
