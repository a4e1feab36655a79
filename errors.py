"""The root of the error tree.

Every error that counterseal raises for somebody's bad input, bad bytes or bad luck descends from `CountersealError`
and says what was wrong, where, and what to do. `code` is the reason code: the only part of an error that is ever sent
to a peer or written to the log. Secrets never enter any of the three texts. The whole tree is drawn in docs/errors.md.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = ["CountersealError", "ParametersError"]


class CountersealError(Exception):
    """Something a caller, a peer or the world did wrong; never a bug of ours."""

    code: ClassVar[str] = "error"

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}.{advice}" if not self.what.endswith(".") else f"{place}{self.what}{advice}"


class ParametersError(CountersealError):
    """Bytes that are not the model parameters that the schema promises."""

    code = "schema"
