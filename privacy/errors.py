"""The errors of `privacy`: what it costs, and what may not be spent.

PrivacyError
├── NoiseError                  noise that cannot be drawn as specified: scale, table, keystream
├── GridError                   a vector that does not fit the grid, its bound, or integers
├── MechanismError              stages that make no mechanism, or parameters without a privacy argument
├── AccountingError             events that cannot be composed, or a target that cannot be reached
│   └── AdjacencyError          unit, adjacency or trust model are missing, or are not those of the population
├── UnsupportedModelError       a layer or adapter whose per-record gradients are not known to be right
├── CoupledRecordsError         a loss or gradient that mixes records: clipping would not bound one of them
└── LedgerError                 the site's record of what was spent
    ├── BudgetError             this release would exceed the population's cap
    ├── RollbackError           the ledger is older than its anchor, or a copy of it went on elsewhere
    ├── AnchorError             the place outside the ledger's disk does not answer, or refuses
    ├── LedgerDamagedError      the chain of entries does not hold
    └── SecondReleaseError      another order, or another sequence, in the place of one that was reserved
"""

from __future__ import annotations

from ..errors import CountersealError


class PrivacyError(CountersealError):
    """A matter of what a release would say about somebody."""

    code = "privacy"


class NoiseError(PrivacyError):
    """Noise that cannot be drawn as specified."""

    code = "noise"


class GridError(PrivacyError):
    """A vector that does not fit the grid, its bound, or 64-bit integers."""

    code = "grid"


class MechanismError(PrivacyError):
    """Stages that make no mechanism, or parameters for which there is no privacy argument."""

    code = "mechanism"


class AccountingError(PrivacyError):
    """Events that cannot be composed, or a target that cannot be reached."""

    code = "accounting"


class AdjacencyError(AccountingError):
    """Unit, adjacency or trust model are missing, or are not those of the population."""

    code = "adjacency"


class UnsupportedModelError(PrivacyError):
    """A layer or adapter whose per-record gradients are not known to be right."""

    code = "unsupported_model"


class CoupledRecordsError(PrivacyError):
    """A loss or gradient that mixes records, so that clipping would not bound one of them."""

    code = "coupled_records"


class LedgerError(PrivacyError):
    """The site's record of what was spent cannot be used."""

    code = "ledger"


class BudgetError(LedgerError):
    """This release would exceed the cap of its population."""

    code = "budget"


class RollbackError(LedgerError):
    """The ledger is older than its anchor, or a copy of it went on elsewhere."""

    code = "ledger_rollback"


class AnchorError(LedgerError):
    """The place outside the ledger's disk does not answer, or refuses."""

    code = "ledger_anchor"


class LedgerDamagedError(LedgerError):
    """The chain of entries does not hold."""

    code = "ledger_damaged"


class SecondReleaseError(LedgerError):
    """Another order, or another sequence, in the place of one that was reserved."""

    code = "second_release"
