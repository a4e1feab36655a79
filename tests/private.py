"""Private runs for tests: the harness of `federation`, with ledgers, populations and privacy terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from counterseal.privacy.ledger.ledger import Ledger
from counterseal.privacy.ledger.path_anchor import PathAnchor
from counterseal.runtime.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainerConfig
from counterseal.runtime.config.ledger import LedgerConfig
from counterseal.runtime.config.privacy import RunPrivacy, SitePrivacy
from counterseal.runtime.site.site import Site
from counterseal.runtime.site.steward import Steward
from counterseal.runtime.training.registry import build_trainer
from counterseal.trust.policy.policy import SitePolicy
from counterseal.trust.terms import PrivacyTerms

from .federation import Federation, data_of, run_config

__all__ = ["TERMS", "ledger_of", "open_ledger", "private_run", "private_site", "privacy_of"]

TERMS = PrivacyTerms(
    mechanism="dp-sgd",
    clip_norm=1.0,
    noise_multiplier=2.0,
    delta=1e-5,
    releases=4,
    steps=3,
    sampling_rate=0.25,
    normaliser=5.0,
)


def private_run(terms: PrivacyTerms = TERMS, **changes: Any) -> RunConfig:
    """A short run of the torch trainer under ``terms``."""
    trainer = TrainerConfig(optimizer=OptimizerConfig(name="sgd", parameters={"lr": 0.5}), steps=max(terms.steps, 1))
    privacy = changes.pop("privacy", None) or RunPrivacy(terms=terms)
    values = {"trainer": trainer, "privacy": privacy, "evaluation": EvaluationConfig(sites=False)}
    return run_config(**{**values, **changes})


def privacy_of(folder: Path, site: str, **changes: Any) -> SitePrivacy:
    """The configuration of a site's ledger; the anchor is in another folder."""
    config = LedgerConfig(path=folder / "ledgers" / site / "ledger.sqlite")
    return SitePrivacy(**{"ledger": config, "population": "people", "dataset": "data", **changes})


def ledger_of(folder: Path, site: str, *, epsilon: float = 50.0, delta: float = 1e-4) -> Ledger:
    """A site's ledger with one population, made when it is first asked for."""
    path = folder / "ledgers" / site / "ledger.sqlite"
    if path.exists():
        return open_ledger(folder, site)
    for one in (path.parent, folder / "anchors"):
        one.mkdir(parents=True, exist_ok=True)
    ledger = Ledger.create(path, PathAnchor(folder / "anchors" / f"{site}.mark"))
    ledger.set_population("people", unit="record", adjacency="add-remove", epsilon=epsilon, delta=delta)
    ledger.map_dataset("data", "people")
    return ledger


def open_ledger(folder: Path, site: str) -> Ledger:
    """The site's ledger, opened again."""
    anchor = PathAnchor(folder / "anchors" / f"{site}.mark")
    return Ledger.open(folder / "ledgers" / site / "ledger.sqlite", anchor)


def private_site(
    federation: Federation, name: str, *, policy: SitePolicy | None = None, cap: float = 50.0, **changes: Any
) -> Site:
    """A site with a ledger; its data are those of `federation.data_of`."""
    data = changes.pop("data", None) or data_of(name)

    def trainers(config: RunConfig) -> Any:
        privacy = None if config.privacy is None else config.privacy.of(name)
        return build_trainer(config, site=name, data=data, privacy=privacy)

    steward = Steward(
        federation.charter,
        name,
        policy=policy,
        privacy=changes.pop("privacy", None) or privacy_of(federation.folder, name),
        ledger=changes.pop("ledger", None) or ledger_of(federation.folder, name, epsilon=cap),
        unprotected=changes.pop("unprotected", False),
    )
    return federation.site(name, **{"trainers": trainers, "steward": steward, **changes})
