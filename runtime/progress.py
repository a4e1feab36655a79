"""What a run tells whoever watches: plain values for tables, progress bars and reports. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Observer", "Progress", "RoundDone", "RoundStarted", "RunDone", "RunStarted", "SiteDone", "ignore"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run is in the log."""

    run: str
    sites: tuple[str, ...]
    rounds: int
    parameters: int
    """Elements of the model."""
    suite: str


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """Tickets for the model of ``version`` are on their way."""

    version: int
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SiteDone:
    """What became of one site's part of a round. ``norm`` is for the operator's eyes; the log has a commitment to it."""

    version: int
    site: str
    verdict: str
    """``admitted``, ``rejected``, ``failed``, ``refused``, ``expired``, ``excluded``."""
    reasons: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    norm: float | None = None
    coefficient: float | None = None
    bytes: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    epsilon: float | None = None
    """What the site states for its releases of this run so far, where it has privacy terms."""


@dataclass(frozen=True, slots=True)
class RoundDone:
    """A version was made, or the round was given up."""

    version: int
    committed: bool
    reason: str
    sites: tuple[SiteDone, ...]
    model: str
    seconds: float
    leaves: int
    evaluation: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the new version on the server's own data, if it evaluates."""


@dataclass(frozen=True, slots=True)
class RunDone:
    """The run is over."""

    run: str
    outcome: str
    versions: int
    model: str
    witnessed: bool
    cosigners: tuple[str, ...]
    leaves: int
    checkpoint: str
    final: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Metrics of the final model at each site that received it."""


Progress: TypeAlias = RunStarted | RoundStarted | SiteDone | RoundDone | RunDone
Observer: TypeAlias = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Watch nothing."""
