"""What a run's releases cost this site: computed from the terms and the model's size, never from data.

    price = price_of(terms, counts, dimensions)
    price.cost             of one release, for the ledger (`privacy.accounting.rdp`)
    price.stated(k)        epsilon and delta of k releases, for policy, receipt and people

A release is one update under the terms, and with it the noisy counts if the run asks for some. The multiplier that is accounted
for is the discrete Gaussian's, not the one that was asked for (`privacy.accounting.events.effective_multiplier`).

Not handled here: who pays (`privacy.ledger`), who allows it (`trust.policy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...privacy.accounting.events import Event, event_of_terms
from ...privacy.accounting.rdp import Cost, rdp_cost
from ...privacy.accounting.statement import Statement, stated_epsilon
from ...privacy.counts import counts_event
from ...privacy.grid import Grid
from ...privacy.mechanism import Local, Plan, per_record
from ...privacy.output import plan_of
from ...trust.terms import PrivacyTerms
from ..config.privacy import CountsConfig

__all__ = ["COUNTS", "Price", "bound_units", "price_of"]


COUNTS = 2
"""Noisy counts of a release: the held-out records, and those classified right. One record changes each by at most one."""


@dataclass(frozen=True, slots=True)
class Price:
    """The cost of one site's releases in one run."""

    terms: PrivacyTerms
    counts: CountsConfig | None
    bound: int
    """What one unit contributes at most, in grid units."""
    dimensions: int
    tv: float
    """The sampler's error per number drawn."""

    @property
    def releases(self) -> int:
        """How many the run reserves."""
        return self.terms.releases

    @property
    def cost(self) -> Cost:
        """The cost of one release, for the ledger."""
        found = Cost()
        for event in self._events(1):
            found = found + rdp_cost(event)
        return found

    def statement(self, releases: int) -> Statement:
        """Return what ``releases`` releases say about one unit at most."""
        terms = self.terms
        return stated_epsilon(self._events(releases), delta=terms.delta, adjacency=terms.adjacency, unit=terms.unit)

    def stated(self, releases: int) -> dict[str, Any]:
        """Return `statement` as a JSON object."""
        return self.statement(releases).document()

    def _events(self, releases: int) -> list[Event]:
        terms = self.terms
        update = event_of_terms(
            terms, bound_units=self.bound, dimensions=self.dimensions, tv_per_draw=self.tv, releases=releases
        )
        if self.counts is None:
            return [update]
        counts = counts_event(
            COUNTS,
            contribution=COUNTS,
            noise_multiplier=self.counts.noise_multiplier,
            releases=releases,
            adjacency=terms.adjacency,
            unit=terms.unit,
        )
        return [update, counts]


def price_of(terms: PrivacyTerms, counts: CountsConfig | None, dimensions: int) -> Price:
    """Return what releases of ``dimensions`` numbers under ``terms`` cost.

    Raises:
        PrivacyError: terms for which there is no noise, or no argument.
    """
    plan = _plan(terms, dimensions)
    return Price(terms, counts, plan.bound, dimensions, plan.noise.tv)


def _plan(terms: PrivacyTerms, dimensions: int) -> Plan[Local]:
    if terms.mechanism == "dp-sgd":
        return per_record(terms.clip_norm, terms.noise_multiplier).plan(dimensions)
    return plan_of(terms.mechanism, terms.clip_norm, terms.noise_multiplier, dimensions)


def bound_units(clip_norm: float, dimensions: int) -> int:
    """Return what one record contributes at most under ``dp-sgd``, in grid units."""
    return Grid(clip_norm, dimensions).bound
