"""Where the time of a private run goes: gradients of single records, rounding, noise; and what the accounting takes beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from loop import Loop

from counterseal.privacy.dpsgd.hooks import RecordGradients
from counterseal.privacy.dpsgd.sampling import PoissonSampler
from counterseal.privacy.grid import Grid
from counterseal.privacy.noise import DiscreteGaussian
from counterseal.runtime.config import RunConfig
from counterseal.runtime.demo.datasets import Dataset
from counterseal.runtime.demo.settings import DemoSettings
from counterseal.runtime.site.price import price_of
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import SiteData

__all__ = ["shares_of_time"]

_PARTS: tuple[tuple[str, type, str], ...] = (
    ("gradients of single records", RecordGradients, "rows"),
    ("clipping, rounding, integer check, sum", Grid, "summed"),
    ("noise", DiscreteGaussian, "sample"),
    ("drawing who takes part", PoissonSampler, "draw"),
)


def shares_of_time(
    settings: DemoSettings, dataset: Dataset, run: RunConfig, sites: Mapping[str, SiteData]
) -> dict[str, Any]:
    """Return CPU seconds of a private run of all sites by part, of the same without privacy, and of the accounting."""
    spent: dict[str, float] = {}
    with ExitStack() as stack:
        for name, owner, method in _PARTS:
            stack.enter_context(_timed(spent, name, owner, method))
        private = _seconds(Loop(run, sites, dataset.test).play)
    if missing := {name for name, _, _ in _PARTS} - set(spent):
        raise SystemExit(f"nothing was seen of: {', '.join(sorted(missing))}")
    bare = settings.unprotected().run(dataset)
    return {
        "private": private,
        **{name: round(spent[name], 3) for name, _, _ in _PARTS},
        "unprotected": _seconds(Loop(bare, sites, dataset.test).play),
        "choosing the noise for an epsilon, once a run": _seconds(lambda: settings.run(dataset)),
        "stating epsilon, each release of each site": _accounting(run),
    }


def _accounting(run: RunConfig) -> float:
    assert run.privacy is not None
    terms, dimensions = run.privacy.terms, build_trainer(run, site="nobody").dimensions

    def state() -> None:
        for releases in range(1, terms.releases + 1):
            price = price_of(terms, None, dimensions)
            price.statement(releases)
            _ = price.cost

    return round(_seconds(state) / terms.releases, 3)


def _seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return round(time.process_time() - before, 3)


@contextmanager
def _timed(spent: dict[str, float], name: str, owner: type, method: str) -> Iterator[None]:
    original = getattr(owner, method)

    def watched(*given: Any, **named: Any) -> Any:
        before = time.process_time()
        try:
            return original(*given, **named)
        finally:
            spent[name] = spent.get(name, 0.0) + time.process_time() - before

    with mock.patch.object(owner, method, watched):
        yield
