"""The order in which a site's examples are seen: a pure function of the seed, the same for every trainer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..config import TrainerConfig
from .seam import derive_seed

__all__ = ["epoch_batches", "plan"]


def plan(config: TrainerConfig, examples: int) -> list[int]:
    """Return the number of batches of every epoch of one round; the last epoch may be cut short by ``steps``."""
    whole = -(-examples // config.batch_size)
    if config.epochs is not None:
        return [whole] * config.epochs
    steps = config.steps or 0
    return [whole] * (steps // whole) + ([steps % whole] if steps % whole else [])


def epoch_batches(
    seed: int, epoch: int, examples: int, batch_size: int, batches: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the first ``batches`` index arrays of a fresh permutation of the examples."""
    order = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(examples)
    for number in range(batches):
        yield order[number * batch_size : (number + 1) * batch_size]
