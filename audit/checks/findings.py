"""Findings: what a verifier checked, and what it found, row by row.

A row is PASS only if the check ran over everything it speaks of. FAIL names what contradicts the promise; UNDECIDED says
what was missing for a judgement; NOT COVERED says that nobody looked, and who would have to. A report that prints these
rows never says more than the check showed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Findings", "Outcome", "Status", "judge"]

_SHOWN = 20


class Status(StrEnum):
    """How a check ended."""

    PASS = "PASS"  # noqa: S105  (not a password)
    FAIL = "FAIL"
    UNDECIDED = "UNDECIDED"
    NOT_COVERED = "NOT COVERED"


@dataclass(frozen=True, slots=True)
class Finding:
    """One obligation: its number, what it checks, how it ended, and why (at most 20 reasons, then a count)."""

    id: str
    checks: str
    status: Status
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """Every obligation's finding, for the log of ``size`` leaves under ``root`` (hexadecimal, empty if none was verified)."""

    origin: str
    size: int
    root: str
    rows: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed; rows that are UNDECIDED or NOT COVERED promise nothing."""
        return all(row.status is not Status.FAIL for row in self.rows)

    def row(self, id_: str) -> Finding:
        """Return the finding of the obligation ``id_``."""
        return next(row for row in self.rows if row.id == id_)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended, before it has a number."""

    status: Status
    reasons: tuple[str, ...] = ()


def judge(faults: list[str], open_questions: list[str] | None = None) -> Outcome:
    """Return FAIL with the ``faults``, else UNDECIDED with the ``open_questions``, else PASS."""
    for status, reasons in ((Status.FAIL, faults), (Status.UNDECIDED, open_questions or [])):
        if reasons:
            more = [f"and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else []
            return Outcome(status, tuple(reasons[:_SHOWN] + more))
    return Outcome(Status.PASS)
