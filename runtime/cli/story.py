"""What a log's events say about each run: how far it is, and how it ended. Read, not verified."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...audit.events import (
    AggregateCommit,
    Event,
    ModelRelease,
    ReceiptFile,
    RoundAbort,
    RoundOpen,
    RunEnd,
    RunStart,
    UpdateAdmit,
    UpdateReject,
)

__all__ = ["Story", "tell"]


@dataclass
class Story:
    """One run, as far as its events go. ``versions`` counts commits; ``outcome`` is empty while the run is open."""

    run: str
    rounds: int | None = None
    versions: int = 0
    open_round: int | None = None
    participants: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    admitted: int = 0
    rejected: int = 0
    aborts: int = 0
    released: bool = False
    outcome: str = ""
    witnessed: bool | None = None
    model: str = ""
    last_reason: str = ""

    def summary(self) -> str:
        """Return the story in one or two sentences."""
        of = "" if self.rounds is None else f" of {self.rounds}"
        counts = f"{self.admitted} updates admitted, {self.rejected} rejected, {self.aborts} rounds given up"
        if self.outcome:
            seen = "witnessed" if self.witnessed else "UNWITNESSED"
            return f"{self.run}: {self.outcome} at version {self.versions}{of}, {seen}; {counts}. Model {self.model}"
        at = f"version {self.versions}{of}"
        if self.open_round is None:
            why = f" (last: {self.last_reason})" if self.last_reason else ""
            return f"{self.run}: open, {at}, between rounds{why}; {counts}."
        waiting = sorted(set(self.participants) - set(self.answered))
        rest = f", waiting for {', '.join(waiting)}" if waiting else ""
        return f"{self.run}: open, {at}, round {self.open_round + 1} under way{rest}; {counts}."

    def see(self, event: Event) -> None:
        """Take the next event of this run."""
        match event:
            case RunStart():
                rounds = event.config.get("rounds")
                self.rounds = rounds if isinstance(rounds, int) else None
                self.model = event.model
            case RoundOpen():
                self.open_round, self.participants, self.answered = event.version, list(event.participants), []
            case ReceiptFile(kind="train"):
                self.answered.append(event.actor)
            case UpdateAdmit():
                self.admitted += 1
            case UpdateReject():
                self.rejected += 1
            case AggregateCommit():
                self.versions, self.open_round, self.model = event.version + 1, None, event.output
            case RoundAbort():
                self.aborts, self.open_round, self.last_reason = self.aborts + 1, None, event.reason
            case ModelRelease():
                self.released = True
            case RunEnd():
                self.outcome, self.witnessed, self.model = event.outcome, event.witnessed, event.model


def tell(events: Iterable[Event]) -> list[Story]:
    """Return the story of each run, in the order in which they began."""
    stories: dict[str, Story] = {}
    for event in events:
        run = getattr(event, "run", None)
        if isinstance(run, str):
            stories.setdefault(run, Story(run)).see(event)
    return list(stories.values())
