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

Not handled here: the noise (`privacy`), what an officer writes (`trust.policy`), what the log says of updates (`settlement`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import CountersealError
from ...privacy.errors import AdjacencyError, AnchorError, BudgetError, SecondReleaseError, UnsupportedModelError
from ...privacy.ledger.orders import Outcome, RunOrder, TicketOrder
from ...trust.charter.signing import SignedCharter
from ...trust.errors import TicketError
from ...trust.terms import PrivacyTerms
from ..config import RunConfig
from ..config.privacy import SitePrivacy
from ..errors import LedgerUnavailableError, RefusedError, TrainingFailedError
from .checks import Verified

if TYPE_CHECKING:
    from ...privacy.ledger.balance import Balance
    from ...privacy.ledger.book import Run
    from ...privacy.ledger.ledger import Ledger
    from ...trust.policy.policy import SitePolicy
    from ...trust.policy.request import Action, PolicyRequest
    from .price import Price

__all__ = ["Leave", "Steward"]


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
        identity: str,
        *,
        policy: SitePolicy | None = None,
        privacy: SitePrivacy | None = None,
        ledger: Ledger | None = None,
        unprotected: bool = False,
    ) -> None:
        """Guard ``identity`` under ``charter``; without a ``policy`` the default one decides."""
        self._charter = charter
        self._identity = identity
        self._given = policy
        self._privacy = privacy
        self._ledger = ledger
        self._unprotected = unprotected

    @classmethod
    def unprotected(cls, charter: SignedCharter) -> Steward:
        """Return a steward of data that may go out as they are, as far as the default policy allows."""
        return cls(charter, "", unprotected=True)

    @cached_property
    def policy(self) -> SitePolicy:
        """The policy that decides; the default one is read when it is first needed."""
        from ...trust.policy.policy import SitePolicy

        return SitePolicy.default() if self._given is None else self._given

    def admit(self, verified: Verified, dimensions: Callable[[RunConfig, PrivacyTerms], int]) -> Leave:
        """Return leave to do what ``verified`` orders; under privacy terms, the release is then debited.

        ``dimensions`` says how many numbers training changes; it reads no record.

        Raises:
            RefusedError: policy or budget say no.
            TicketError: the ticket's terms are not those of ``run.start``.
            TrainingFailedError, UnsupportedModelError: this ticket failed before, and its answer was lost.
            LedgerError: the ledger cannot be used, and a person must look.
            LedgerUnavailableError: its anchor does not answer now; nothing was decided.
        """
        config = RunConfig.from_json(verified.run.config, what="run.start config")
        ticket = verified.ticket.document
        terms = None if config.privacy is None else config.privacy.of(self._identity)
        if ticket.privacy != (terms if ticket.kind == "train" else None):
            raise TicketError(
                "the ticket's privacy terms are not the ones that run.start names", where="ticket.privacy"
            )
        if ticket.kind == "witness":
            return Leave(config)
        if ticket.kind != "train":
            return self._other(config, verified, terms)
        if terms is None:
            verdict = self._asked("train", config, verified)
            metrics = config.evaluation.sites and self._allowed("releaseMetrics", config, verified)
            return Leave(config, metrics=metrics, spending=self._spending(verdict))
        return self._private(config, verified, terms, dimensions)

    def settle(self, ticket: str, *, released: bool) -> None:
        """Say how the work on ``ticket`` ended; nothing happens if nothing was debited for it."""
        self._settle(ticket, "released" if released else "failed")

    def give_back(self, ticket: str) -> None:
        """Say that the work on ``ticket`` was never begun, for a cause outside the data: its release is not spent."""
        self._settle(ticket, "not_started")

    def _settle(self, ticket: str, outcome: Outcome) -> None:
        if self._ledger is None:
            return
        with _ledger_faults():
            found = self._ledger.ticket(ticket)
            if found is not None and found.outcome is None:
                self._ledger.settle(ticket, outcome)

    def _other(self, config: RunConfig, verified: Verified, terms: PrivacyTerms | None) -> Leave:
        """Evaluate, or take the final model: then the run is over, and what it did not draw is given back."""
        ticket = verified.ticket.document
        self._asked("receive" if ticket.kind == "receive" else "evaluate", config, verified)
        metrics = config.evaluation.sites and self._allowed("releaseMetrics", config, verified)
        if ticket.kind == "receive" and self._ledger is not None and terms is not None:
            with _ledger_faults():
                run = self._ledger.run(ticket.federation, ticket.run, self._identity)
                if run is not None and run.closed is None:
                    self._ledger.close_run(ticket.federation, ticket.run, self._identity)
        return Leave(config, metrics=metrics)

    def _private(
        self,
        config: RunConfig,
        verified: Verified,
        terms: PrivacyTerms,
        dimensions: Callable[[RunConfig, PrivacyTerms], int],
    ) -> Leave:
        ticket, privacy, ledger = verified.ticket.document, self._privacy, self._ledger
        if privacy is None or ledger is None:
            raise RefusedError("this site has no ledger for private runs", remedy="Configure `privacy` at this site.")
        if terms.unit not in (privacy.unit, "site"):
            raise RefusedError(f"the run protects a {terms.unit}, this site's records are {privacy.unit}s")
        from .price import price_of

        price = price_of(terms, config.privacy.counts if config.privacy else None, dimensions(config, terms))
        run = RunOrder(
            federation=ticket.federation,
            run=ticket.run,
            site=self._identity,
            charter=self._charter.digest,
            dataset=privacy.dataset,
            terms=terms.model_dump(mode="json"),
            unit=terms.unit,
            adjacency=terms.adjacency,
            cost=price.cost,
            releases=terms.releases,
            statement=price.stated(terms.releases),
        )
        order = TicketOrder(verified.ticket.digest, ticket.federation, ticket.run, self._identity, ticket.seq)
        with _ledger_faults():
            known = ledger.ticket(verified.ticket.digest)
            if known is not None and known.outcome is not None:
                raise _again(known.outcome)
            _require_paid(ledger.run(ticket.federation, ticket.run, self._identity), price)
            verdict = self._asked("train", config, verified, price, ledger.forecast(run))
            ledger.reserve_run(run)
            ledger.reserve(order)
            drawn = ledger.run(ticket.federation, ticket.run, self._identity)
            head = ledger.head
        count = 0 if drawn is None else drawn.drawn
        stated = price.stated(count)
        counts = (
            None if config.privacy is None or config.privacy.counts is None else config.privacy.counts.noise_multiplier
        )
        spending = {
            "policy": verdict,
            "ledger": head,
            "releases": count,
            "epsilon": stated["epsilon"],
            "delta": stated["delta"],
        }
        return Leave(config, terms, counts=counts, head=head, spending=spending)

    def _spending(self, policy: str) -> dict[str, Any]:
        return {"policy": policy, "ledger": None, "releases": 0, "epsilon": None, "delta": None}

    def _asked(
        self,
        action: Action,
        config: RunConfig,
        verified: Verified,
        price: Price | None = None,
        after: Balance | None = None,
    ) -> str:
        """Return the digest of the policy that allows ``action``.

        Raises:
            RefusedError: it does not.
        """
        verdict = self.policy.decide(self._request(action, config, verified, price, after))
        if not verdict.allowed:
            why = "; ".join(verdict.errors or verdict.reasons) or "no policy permits it"
            raise RefusedError(f"{action} is not allowed: {why}"[:500], where=f"site policy {self.policy.digest[:16]}")
        return self.policy.digest

    def _allowed(self, action: Action, config: RunConfig, verified: Verified) -> bool:
        return self.policy.decide(self._request(action, config, verified, None, None)).allowed

    def _request(
        self, action: Action, config: RunConfig, verified: Verified, price: Price | None, after: Balance | None
    ) -> PolicyRequest:
        from ...trust.policy.request import PolicyRequest

        ticket, charter, privacy = verified.ticket.document, self._charter.charter, self._privacy
        return PolicyRequest(
            action=action,
            server=charter.server,
            federation=ticket.federation,
            group_source=charter.group.authorizer,
            dataset=verified.ticket.document.site if privacy is None else privacy.dataset,
            public=privacy is not None and privacy.public,
            population=None if privacy is None else privacy.population,
            unit=None if privacy is None else privacy.unit,
            charter=self._charter.digest,
            run=ticket.run,
            version=ticket.version,
            private=config.privacy is not None,
            terms=None if price is None else price.terms,
            epsilon_run=None if price is None else price.stated(price.releases)["epsilon"],
            epsilon_after=None if after is None else after.reserved,
            epsilon_cap=None if after is None else after.cap,
            rule=config.aggregation.rule,
            trainer=config.trainer.name,
            model=config.model.name,
            anchored=self._ledger is not None and self._ledger.anchored,
            commit_before_upload=charter.commit_before_upload,
            auditor=charter.auditor is not None,
            server_validates_updates=charter.server_validates_updates,
            unprotected_allowed=self._unprotected,
        )


@contextmanager
def _ledger_faults() -> Iterator[None]:
    """Turn what the budget does not allow into a refusal, and an anchor that does not answer into "come again"."""
    try:
        yield
    except (BudgetError, AdjacencyError, SecondReleaseError) as error:
        raise RefusedError(error.what, where=error.where, remedy=error.remedy) from None
    except AnchorError as error:
        raise LedgerUnavailableError(error.what, where=error.where, remedy=error.remedy) from None


def _require_paid(reserved: Run | None, price: Price) -> None:
    """Return if a run that was reserved before was reserved for what a release costs now.

    The ledger knows a run by its names. A second federation of the same names could otherwise draw from the first one's
    reservation for a release with more in it: counts that the first run did not ask for.
    """
    if reserved is not None and any(now > then for now, then in zip(price.cost.numbers, reserved.cost, strict=True)):
        raise RefusedError(
            "a run of this name was reserved for releases that cost less", where=f"run {reserved.key[1]}"
        )


def _again(outcome: str) -> CountersealError:
    """Return the answer to a ticket whose release is over, although this site's state does not know of it."""
    if outcome == "failed":
        return TrainingFailedError("this ticket failed before")
    if outcome == "not_started":
        return UnsupportedModelError("this ticket's model was refused before")
    return RefusedError(
        "the ledger says that this ticket's update was released, and this site's state does not",
        remedy="The state folder is older than the ledger: restore the newest one. A second release would be a second cost.",
    )
