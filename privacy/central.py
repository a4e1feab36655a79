"""DP-FedAvg: the server clips each site's update, adds them, and noises the sum. For many sites.

The unit is the site: whether a site took part, with whatever data, changes the sum by at most the clipping bound S, so the
adjacency is "add-remove" and the sensitivity S. The sum gets Gaussian noise of standard deviation z S and is divided by a
public n, the number of sites on the roster (never the number that answered, which would be another query).

**The trust model is `Central`, and weak.** The server sees every update and is trusted to add noise and to forget. A site
that does not trust the server with its update needs noise of its own (`dpsgd`, `output`), and then does not need this.

**How bad it is for few sites.** The mean of n updates of norm S has norm S at most; the noise on it has standard deviation z
S / n in *each* coordinate, so norm z S sqrt(d) / n (`expected_noise`). Over 100 rounds in which every site takes part (no
amplification by sampling), with the least z for each epsilon, in units of S:

    sites   delta   epsilon       z    each coordinate   norm for d = 10,000
       10    1e-3         8    4.80             0.4800                  48.0
       10    1e-3         1   25.75             2.5750                 257.5
      100    1e-4         8    5.43             0.0543                   5.4
      100    1e-4         1   31.86             0.3186                  31.9
    10000    1e-6         8    6.53             0.0007                   0.1
    10000    1e-6         1   42.25             0.0042                   0.4

With ten sites the noise is fifty times the signal at an epsilon of 8, for a model of only ten thousand parameters. Nothing in
an optimiser makes up for that. Below some thousand sites protect records instead (`dpsgd`): their number is what the noise is
divided by.

In a run the first two stages are `algorithms.dp_fedavg`'s: it cuts fractions off instead of rounding at random, on a finer
grid, so that an auditor recomputes every bit. The noise is the plan's here, and the bound K is the same; `runtime.central`
brings both together. `aggregate` is the whole list in one piece, for simulations.

Source: McMahan, Ramage, Talwar, Zhang 2018, arXiv 1710.06963 (flat clipping, fixed denominator). Adaptive clipping (Andrew et
al. 2021) is not offered: its count of clipped sites needs noise of n / 20, which at ten sites is all there is.

Not handled here: epsilon (`accounting`), and sampling of sites.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from .errors import MechanismError
from .mechanism import Central, Clip, Float32, Mechanism, Noise, Quantise, Release
from .noise import Keystream

__all__ = ["aggregate", "expected_noise", "mechanism"]


def mechanism(clip_norm: float, noise_multiplier: float, fineness: int | None = None) -> Mechanism[Central]:
    """Return the list of stages for updates clipped to ``clip_norm`` in L2, ``fineness`` grid units."""
    return Mechanism((Clip("l2", clip_norm), Quantise(fineness), Noise("gaussian", noise_multiplier)), Central())


def aggregate(
    updates: Iterable[Float32], dimensions: int, sites: int, *, how: Mechanism[Central], stream: Keystream
) -> Release[Central]:
    """Return the noisy sum of the ``updates``, float32[dimensions] each, over ``sites``, a public number.

    Updates are read one at a time. Sites that did not answer are simply missing; none at all is a release of noise.

    Raises:
        MechanismError: more updates than ``sites``: some site would count twice.
    """
    plan, total = how.plan(dimensions), np.zeros(dimensions, dtype=np.int64)
    for count, update in enumerate(updates, start=1):
        if count > sites:
            raise MechanismError(f"more updates than {sites} sites", where="central", remedy="One update of each site.")
        total = plan.grid.total(total, plan.summed(update[None], stream))
    return plan.released(total, stream, float(sites))


def expected_noise(sites: int, dimensions: int, noise_multiplier: float, clip_norm: float) -> float:
    """Return the norm that the noise on the mean has, to be compared with a signal of norm ``clip_norm`` at most."""
    return noise_multiplier * clip_norm * math.sqrt(dimensions) / sites
