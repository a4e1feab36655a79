"""What a site asks of its ledger: the whole budget of a run, and one release of it.

The words in an order name things; none of them is data, and no count of records belongs in any of them: the ledger lies at
the site, but its export goes to auditors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..accounting.rdp import Cost
from ..errors import LedgerError
from .entry import canonical, is_digest

__all__ = ["Outcome", "RunKey", "RunOrder", "TicketOrder", "check_name", "check_note"]

Outcome = Literal["released", "failed", "not_started"]
"""How a reserved ticket ended: two of the three cost the full release, whatever became of it."""

RunKey = tuple[str, str, str]
"""Federation, run, site: what a budget is reserved for. Two sites of one institution have a budget each."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@_.-]{0,127}")
_NOTE = 500


def check_name(value: str, what: str) -> str:
    """Return ``value`` if it can name something in the ledger.

    Raises:
        LedgerError: it is not 1 to 128 letters, digits, `@`, `_`, `.` or `-`.
    """
    if not _NAME.fullmatch(value):
        raise LedgerError(
            f"{what} is not a name", where="ledger", remedy="1 to 128 letters, digits, '@', '_', '.' or '-'."
        )
    return value


def check_note(value: str) -> str:
    """Return ``value`` if it is a line for people.

    Raises:
        LedgerError: it is longer than 500 characters, or holds characters that a terminal would obey.
    """
    if len(value) > _NOTE or not value.isprintable():
        raise LedgerError(f"a note is at most {_NOTE} printable characters", where="ledger")
    return value


@dataclass(frozen=True)
class RunOrder:
    """The fixed sequence of releases of one site in one run.

    ``cost`` is that of ONE release; ``terms`` are the literal numbers that the run's terms say.
    """

    federation: str
    run: str
    site: str
    charter: str
    """Digest of the charter; it may be amended while the run goes on."""
    dataset: str
    terms: Mapping[str, Any]
    unit: str
    adjacency: str
    cost: Cost
    releases: int
    """How many releases there are at most: all of them are reserved at once."""
    statement: Mapping[str, Any] = field(default_factory=dict)
    """What was stated of the run: epsilon, delta, accountant."""

    def __post_init__(self) -> None:
        for what in ("federation", "run", "site", "dataset", "unit", "adjacency"):
            check_name(getattr(self, what), what)
        if not is_digest(self.charter):
            raise LedgerError("the charter is not named by its digest", where="ledger")
        if type(self.releases) is not int or not 1 <= self.releases <= 10**9:
            raise LedgerError("releases are a whole number from 1 on", where="ledger")
        canonical(dict(self.terms))
        canonical(dict(self.statement))

    @property
    def key(self) -> RunKey:
        """Federation, run and site."""
        return self.federation, self.run, self.site


@dataclass(frozen=True)
class TicketOrder:
    """One release of a run: the ticket, and its place in the site's sequence."""

    ticket: str
    """Digest of the ticket."""
    federation: str
    run: str
    site: str
    sequence: int

    def __post_init__(self) -> None:
        if not is_digest(self.ticket):
            raise LedgerError("a ticket is named by its digest", where="ledger")
        for what in ("federation", "run", "site"):
            check_name(getattr(self, what), what)
        if type(self.sequence) is not int or not 0 <= self.sequence <= 2**53 - 1:
            raise LedgerError("a sequence number is a whole number from 0 on", where="ledger")

    @property
    def key(self) -> RunKey:
        """Federation, run and site."""
        return self.federation, self.run, self.site
