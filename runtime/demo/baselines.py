"""What the federation is compared with: each site alone, and everybody's data in one place.

All start from the same version 0, use the same trainer and the same order-of-examples rule, and are measured on the same central
test split. *Local-only* gives a site's model as many passes over its own examples as the federation gave it. *Centralised* makes
as many passes over the union, which is the same total number of examples (and, but for the last batch of a pass, of steps) as
the federation's sites made together.

Only a demonstration can compute these: it made the partition, so it holds everybody's data. In a federation nobody does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..config import RunConfig
from ..training.registry import build_trainer
from ..training.seam import Arrays, SiteData, Trainer

__all__ = ["CENTRALISED", "Curve", "baselines"]

CENTRALISED = "centralised"


@dataclass(frozen=True, slots=True)
class Curve:
    """Loss and accuracy on the central test split: entry 0 is version 0, entry r the model after r rounds."""

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]


def baselines(
    run: RunConfig,
    sites: Mapping[str, Arrays],
    test: Arrays,
    *,
    tell: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, Curve]:
    """Return the curve of every site's local-only model by site, and `CENTRALISED`.

    ``sites`` are the examples that each site trains on; ``tell`` is called with a name, rounds done and rounds in all.

    Raises:
        TrainingError: the run cannot be built or trained on these examples.
    """
    union = Arrays(
        np.concatenate([arrays.x for arrays in sites.values()]),
        np.concatenate([arrays.y for arrays in sites.values()]),
    )
    found = {}
    for name, train in {**sites, CENTRALISED: union}.items():
        trainer = build_trainer(run, site=name, data=SiteData(train, test), device="cpu")
        found[name] = _train(trainer, run, name, tell)
    return found


def _train(trainer: Trainer, run: RunConfig, name: str, tell: Callable[[str, int, int], None]) -> Curve:
    parameters = trainer.initial_parameters(run.seed)
    measured = [trainer.evaluate(parameters)]
    for number in range(run.rounds):
        parameters = trainer.train(parameters, seed=run.seed, round_number=number).parameters
        measured.append(trainer.evaluate(parameters))
        tell(name, number + 1, run.rounds)
    return Curve(tuple(one["loss"] for one in measured), tuple(one["accuracy"] for one in measured))
