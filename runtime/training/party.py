"""What a party's configuration makes of a run: its trainers, with its own data, device, plug-ins and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ...trust.terms import PrivacyTerms
from ..config import RunConfig, ServerConfig, SiteConfig
from ..errors import TrainingError
from .plugins import load_data
from .registry import build_trainer
from .seam import SiteData, Trainer

__all__ = ["server_trainer", "site_trainers"]


def site_trainers(config: SiteConfig) -> Callable[[RunConfig], Trainer]:
    """Return what builds this site's trainer of a run; the site's data are loaded once, at the first run.

    The returned function raises:
        TrainingError: the run names something that this site does not have.
        PluginError: the loader or a plug-in is not what was approved.
        TrainingFailedError: the loader failed.
    """

    @cache
    def data() -> SiteData:
        return load_data(config.loader)

    def build(run: RunConfig) -> Trainer:
        return build_trainer(
            run,
            site=config.identity,
            data=data(),
            device=config.device,
            checkpoints=config.checkpoints,
            plugins=config.plugins,
            privacy=_terms(run, config, data()),
        )

    return build


def _terms(run: RunConfig, config: SiteConfig, data: SiteData) -> PrivacyTerms | None:
    """Return the terms of this site, if the loader gives what they protect: one record a unit.

    Raises:
        TrainingError: it gives another unit, or several records of one. Both are how it is written, not what it read.
    """
    if run.privacy is None:
        return None
    terms = run.privacy.of(config.identity)
    if terms.mechanism == "dp-sgd" and (data.unit, data.records_per_unit) != (terms.unit, 1):
        raise TrainingError(
            f"the loader gives up to {data.records_per_unit} records of a {data.unit}, and the run protects one {terms.unit}",
            where="loader",
            remedy="Write a loader that makes one record of each unit, and say so in SiteData(unit=..., records_per_unit=1).",
        )
    return terms


def server_trainer(config: ServerConfig) -> Trainer:
    """Return the server's trainer: it makes version 0 and, where the run says so, evaluates on the server's own data.

    Raises:
        TrainingError: the run names something that the server does not have.
        PluginError: the loader or a plug-in is not what was approved.
        TrainingFailedError: the loader failed.
    """
    run = config.run_config
    wanted = config.loader if run.evaluation.server else None
    data = None if wanted is None else load_data(wanted)
    return build_trainer(run, site=config.identity, data=data, device=config.device, plugins=config.plugins)
