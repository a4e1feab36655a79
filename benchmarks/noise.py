"""Noise: samples a second of each sampler, beside the generators that are not used, and of the grid. One thread, one run.

Budget (docs/design.md, section 10): at least 1e7 discrete Gaussian samples a second and core at a standard deviation of 1e5
grid units. Rates are per CPU second, in millions; wall seconds stand beside them. ``torch.randn`` is neither secret nor
discrete, numpy's generators are no more secret, and OpenDP's sampler is exact and the oracle of the tests.

    python benchmarks/noise.py [--million 20]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import opendp.prelude as dp
import torch

from counterseal.privacy.grid import Grid
from counterseal.privacy.noise import Bernoulli, DiscreteGaussian, DiscreteLaplace, Keystream
from counterseal.privacy.output import mechanism

_AT_ONCE = 1_000_000


def measured(act: Callable[[int], Any], count: int) -> tuple[float, float]:
    """Return CPU and wall seconds of ``act``, called until ``count`` samples are drawn; once beforehand for tables and caches."""
    at_once = min(count, _AT_ONCE)
    act(at_once)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(max(1, count // at_once)):
        act(at_once)
    return time.process_time() - cpu, time.perf_counter() - wall


def opendp(kind: str, scale: float) -> Callable[[int], Any]:
    """Return OpenDP's sampler of vectors of 64-bit integers."""
    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    if kind == "gaussian":
        return lambda count: dp.m.make_gaussian(domain, dp.l2_distance(T=float), scale=scale)([0] * count)
    return lambda count: dp.m.make_laplace(domain, dp.l1_distance(T="i64"), scale=scale)([0] * count)


def rows(norm: Any, count: int, dimensions: int) -> Callable[[int], Any]:
    """Return a function that quantises and sums ``count`` rows, whatever number of samples it is asked for."""
    grid, values = Grid(1.0, dimensions, norm=norm), torch.randn(count, dimensions).numpy()
    return lambda _: grid.summed(values, stream)


stream = Keystream()


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", type=int, default=20)
    count = parser.parse_args().million * 1_000_000
    torch.set_num_threads(1)
    generator = np.random.default_rng()
    plan, zero = mechanism("gaussian", 1.0, 1.0).plan(_AT_ONCE), np.zeros((1, _AT_ONCE))
    cases: list[tuple[str, Callable[[int], Any], int]] = [
        ("torch.randn float32", torch.randn, count),
        ("torch.randn float64", lambda n: torch.randn(n, dtype=torch.float64), count),
        ("numpy standard_normal float64", generator.standard_normal, count),
        ("keystream, 64-bit words", stream.words, count),
        *((f"gaussian, sigma {s:g}", noise(DiscreteGaussian(s)), count) for s in (16.0, 1e3, 1e5, 1e7, 2.0**40)),
        *((f"laplace, scale {s:g}", noise(DiscreteLaplace(s)), count) for s in (16.0, 1e5, 1e7)),
        ("mask, rate 0.01", lambda n: Bernoulli(0.01).mask(n, stream), count),
        *((f"OpenDP gaussian, sigma {s:g}", opendp("gaussian", s), 200_000) for s in (16.0, 1e5)),
        ("OpenDP laplace, scale 1e5", opendp("laplace", 1e5), 200_000),
        ("grid l2, 100 rows of 10,000", rows("l2", 100, 10_000), count),
        ("grid l1, 100 rows of 10,000", rows("l1", 100, 10_000), count),
        ("output perturbation of 1e6 values", lambda _: plan.released(plan.summed(zero, stream), stream), count),
    ]
    results = [(name, number, *measured(act, number)) for name, act, number in cases]
    base = results[0][1] / results[0][2]
    print(f"{'':34} {'million/CPU-s':>13} {'of torch.randn':>15} {'CPU-s':>7} {'wall':>7}")
    for name, number, cpu, wall in results:
        rate = number / cpu
        print(f"{name:34} {rate / 1e6:13.3f} {rate / base:15.4f} {cpu:7.2f} {wall:7.2f}")
    built = time.process_time()
    tv = DiscreteGaussian(99_999.0).tv
    print(
        f"tables for a new sigma of about 1e5: {time.process_time() - built:.3f} CPU-s; distance in total variation {tv:.1e}"
    )


def noise(sampler: DiscreteGaussian | DiscreteLaplace) -> Callable[[int], Any]:
    """Return the sampler on the one stream."""
    return lambda count: sampler.sample(count, stream)


if __name__ == "__main__":
    main()
