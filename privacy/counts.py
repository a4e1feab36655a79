"""Noisy counts: how many records, how many of them right, in place of exact metrics, with a debit of their own.

Each count gets independent discrete Laplace noise, P(k) proportional to exp(-|k| / scale), with scale = noise multiplier x
contribution. ``contribution`` is the most that one unit can change all counts together, the sum over the counts (a record that
is one of the records and may be one of the right ones: 2). Then one unit more or less changes the probability of every
outcome by a factor of at most exp(contribution / scale) = exp(1 / noise multiplier) (Ghosh, Roughgarden, Sundararajan 2009;
Dwork, McSherry, Nissim, Smith 2006): pure epsilon 1 / multiplier for add-remove, twice that for replace-one.

Clamping at zero afterwards is post-processing; it makes the mean of small counts too large, the price of numbers that look
like counts.

Guaranteed here: the noise is an integer from the release's own keystream, added before anything else happens. `counts_event` is
what the ledger is debited, with the sampler's distance in total variation.

Not handled here: that units really contribute at most ``contribution`` (the caller bounds that, before counting), and the
*names* of the counts: they are released as they are, so they must not come from the data. A class that only one site has is a
name from the data; count every class that the model knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .accounting.events import LaplaceEvent
from .errors import AdjacencyError, MechanismError
from .noise.keystream import Keystream
from .noise.laplace import DiscreteLaplace

__all__ = ["counts_event", "noisy_counts"]

_MOST = 2**53


def noisy_counts(
    counts: Mapping[str, int], *, contribution: int, noise_multiplier: float, stream: Keystream
) -> Mapping[str, int]:
    """Return ``counts``, each with noise and at least 0, under the same names.

    Raises:
        MechanismError: no counts, a count that is not a whole number from 0 to 2^53, or a contribution below 1.
        NoiseError: the scale is below 1 or above 2^40.
    """
    noise = _noise(contribution, noise_multiplier)
    for count in counts.values():
        if type(count) is not int or not 0 <= count <= _MOST:
            # The number itself is not told: it is what the noise is there to hide.
            raise MechanismError("a count is not a whole number from 0 to 2^53", where="noisy counts")
    if not counts:
        raise MechanismError("no counts", where="noisy counts", remedy="Leave the release out instead.")
    names = sorted(counts)
    exact = np.array([counts[name] for name in names], np.int64)
    noisy = np.maximum(exact + noise.sample(len(names), stream), 0)
    return dict(zip(names, noisy.tolist(), strict=True))


def counts_event(
    names: int, *, contribution: int, noise_multiplier: float, releases: int, adjacency: str, unit: str
) -> LaplaceEvent:
    """Return the event of ``releases`` releases of ``names`` noisy counts.

    Raises:
        AdjacencyError: adjacency or unit are missing, or it is ``any``: between *all* datasets counts have no bound.
        MechanismError, NoiseError: see `noisy_counts`.
    """
    if adjacency == "any":
        raise AdjacencyError(
            "counts differ without bound between arbitrary datasets",
            where="noisy counts",
            remedy="Account counts by add-remove or replace-one of the loader's unit.",
        )
    tv = min(1.0, names * releases * _noise(contribution, noise_multiplier).tv)
    return LaplaceEvent(noise_multiplier, releases, adjacency=adjacency, unit=unit, tv=tv)


def _noise(contribution: int, noise_multiplier: float) -> DiscreteLaplace:
    if contribution < 1:
        raise MechanismError(
            f"a contribution of {contribution} counts", where="noisy counts", remedy="State at least 1."
        )
    return DiscreteLaplace(math.nextafter(noise_multiplier * contribution, math.inf))
