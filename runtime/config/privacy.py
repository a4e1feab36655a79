"""Privacy in configuration: what a run asks for, and what a site brings.

`RunPrivacy` stands in the run and so in the log: literal numbers, for all sites or one by one. `SitePrivacy` is the site's own:
where its ledger is, whose data these are. Neither holds an epsilon: it follows from the numbers.

Not handled here: whether a site accepts the terms (`trust.policy`, `privacy.ledger`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...trust.identifiers import Identifier, Identity
from ...trust.terms import PrivacyTerms
from .ledger import LedgerConfig
from .parts import Config

__all__ = ["CountsConfig", "RunPrivacy", "SitePrivacy"]


class CountsConfig(Config):
    """Noisy counts in place of exact metrics: how many held-out records there are, and how many are classified right."""

    noise_multiplier: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    """Scale of the discrete Laplace noise over what one unit can change (2 counts by 1 each); costs 1 / this per release."""


class RunPrivacy(Config):
    """How the releases of a run are made private."""

    terms: PrivacyTerms
    """The terms of every site that has none of its own."""
    sites: Annotated[dict[Identity, PrivacyTerms], Field(max_length=1_000)] = Field(default_factory=dict)
    """Other terms for some sites: larger ones can sample less."""
    counts: CountsConfig | None = None
    """Noisy counts of right answers beside each update (`dp-sgd` only); none by default."""

    @model_validator(mode="after")
    def _agrees(self) -> RunPrivacy:
        if self.counts is not None and any(one.mechanism != "dp-sgd" for one in (self.terms, *self.sites.values())):
            raise ValueError("counts say something about records: output mechanisms, which protect the site, have none")
        return self

    def of(self, site: str) -> PrivacyTerms:
        """Return the terms of ``site``."""
        return self.sites.get(site, self.terms)


class SitePrivacy(Config):
    """What a site brings to private runs: its ledger, and whose data these are."""

    ledger: LedgerConfig
    """Where what was spent is recorded."""
    population: Identifier
    """The people whose budget this is, as the officer named them in the ledger."""
    dataset: Identifier
    """The name of these data in the ledger; they belong to one population for ever."""
    unit: Identifier = "record"
    """What the loader gives as one record: the unit that the budget protects (`record`, `patient`)."""
    records_per_unit: Literal[1] = 1
    """How many records one unit can have: the loader must bring it down to one."""
    public: bool = False
    """Whether these data are public: the policy may then let exact metrics out."""
