"""The dual-Dirichlet partition: one labelled dataset cut into unequal, unlike sites.

`partition` is a pure function of (labels, sites, seed, concentrations). It guarantees that the parts are disjoint, that
together they are the whole, that each part is sorted, and that each has at least ``minimum`` examples: a draw that leaves
a site with fewer is drawn again, from the same generator, at most ``tries`` times.

The shares. Sites' sizes follow ``W ~ Dir(alpha_size * p)`` with p = 1/N for each of N sites; site i's classes follow
``X_i ~ Dir(alpha_class * q)`` with q the classes' frequencies; site i gets the share ``W_i X_ic / sum_j W_j X_jc`` of class
c. Both concentrations are totals: a small ``alpha_size`` gives unequal sizes, a small ``alpha_class`` unlike classes.

Source: Z. Li et al., "FedCompass: Efficient Cross-Silo Federated Learning on Heterogeneous Client Devices Using a
Computing Power-Aware Scheduler", ICLR 2024, appendix on the dual Dirichlet partition. Ours rounds by largest remainders,
where truncation would give the last site everything that is left.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

__all__ = ["partition"]

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def partition(
    labels: npt.NDArray[np.int64],
    sites: int,
    seed: int,
    *,
    alpha_class: float = 2.0,
    alpha_size: float = 8.0,
    minimum: int = 8,
    tries: int = 100,
) -> list[Indices]:
    """Return for each of ``sites`` the sorted indices of its examples; ``labels`` is int64[n].

    Raises:
        ConfigError: no such partition can exist, or none was found in ``tries`` draws.
    """
    _check(labels, sites, alpha_class, alpha_size, minimum, tries)
    generator = np.random.default_rng(seed)
    _, classes = np.unique(labels, return_inverse=True)
    members = [np.flatnonzero(classes == label) for label in range(int(classes.max()) + 1)]
    for _ in range(tries):
        parts = _draw(members, sites, generator, alpha_class, alpha_size)
        if min(len(part) for part in parts) >= minimum:
            return parts
    raise ConfigError(
        f"no draw of {tries} gave every site {minimum} examples",
        remedy="Raise alpha_size or tries, or lower minimum or the number of sites.",
    )


def _check(labels: Indices, sites: int, alpha_class: float, alpha_size: float, minimum: int, tries: int) -> None:
    if labels.ndim != 1 or len(labels) == 0:
        raise ConfigError("labels must be a list of at least one")
    if sites < 1 or minimum < 0 or tries < 1:
        raise ConfigError("sites and tries must be at least 1, and minimum at least 0")
    if not all(np.isfinite(alpha) and alpha > 0 for alpha in (alpha_class, alpha_size)):
        raise ConfigError("alpha_class and alpha_size must be above 0")
    if sites * max(minimum, 0) > len(labels):
        raise ConfigError(f"{len(labels)} examples cannot give {sites} sites {minimum} each")


def _draw(
    members: list[Indices], sites: int, generator: np.random.Generator, alpha_class: float, alpha_size: float
) -> list[Indices]:
    counts = np.array([len(member) for member in members], np.float64)
    sizes = _dirichlet(generator, np.full(sites, alpha_size / sites))
    mixes = np.stack([_dirichlet(generator, alpha_class * counts / counts.sum()) for _ in range(sites)])
    weights = sizes[:, None] * mixes
    pieces: list[list[Indices]] = [[] for _ in range(sites)]
    for label, member in enumerate(members):
        share = _apportion(weights[:, label], len(member), generator)
        cuts = np.cumsum(share)[:-1]
        for site, piece in enumerate(np.split(generator.permutation(member), cuts)):
            pieces[site].append(piece)
    return [np.sort(np.concatenate(piece)) for piece in pieces]


def _dirichlet(generator: np.random.Generator, alpha: Floats) -> Floats:
    # Gamma variates in logarithms: with tiny concentrations the plain ones all underflow to zero. For shape a below 1,
    # log Gamma(a) = log Gamma(a + 1) + log(U) / a (Marsaglia & Tsang 2000, section 6).
    logs = np.log(generator.gamma(alpha + 1.0)) + np.log1p(-generator.random(len(alpha))) / alpha
    shifted = np.exp(logs - logs.max())
    return np.asarray(shifted / shifted.sum(), np.float64)


def _apportion(weights: Floats, count: int, generator: np.random.Generator) -> Indices:
    """Return whole numbers that sum to ``count``, as near to proportional as they can be."""
    total = weights.sum()
    if total <= 0:  # every site's weight underflowed: one of them takes the class
        weights, total = np.eye(len(weights))[generator.integers(len(weights))], 1.0
    exact = weights / total * count
    whole: Indices = np.floor(exact).astype(np.int64)
    short = count - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:short]] += 1
    return whole
