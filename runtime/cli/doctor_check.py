"""What a check of `counterseal site doctor` gives."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import CountersealError

__all__ = ["Check", "Doubt", "Fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line: ``ok`` is None where nobody can judge from here, or where a person should know."""

    name: str
    ok: bool | None
    what: str
    mend: str = ""


class Doubt(Exception):
    """A check cannot be judged here, or found something that a person should know."""


class Fault(CountersealError):
    """A check failed."""

    code = "doctor"
