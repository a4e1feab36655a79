"""Measure the aggregation kernel and the admission pass: GB/s of update bytes read, on one core.

    python benchmarks/aggregate_kernel.py [--sites 4] [--chunk-mib 1] [--repeat 40]

Ratios within one run count, not single numbers: ``read`` (one pass of ``max`` over the same bytes) is the machine's floor.
CPU time of this process, best of the repetitions. The budget (docs/design.md, section 10) compares the whole aggregation of
sealed streams with verifying and decrypting them; this file measures only the part that is arithmetic.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from counterseal.algorithms.arithmetic import SPAN, new_scratch, require_finite, weighted_sum, widen
from counterseal.algorithms.statistics import Admission


def best(work: Callable[[], object], nbytes: int, repeat: int) -> float:
    """Return GB/s of CPU time for ``work``, which reads ``nbytes``; the best of ``repeat`` after one to warm up."""
    work()
    found = []
    for _ in range(repeat):
        start = time.process_time_ns()
        work()
        found.append(time.process_time_ns() - start)
    return nbytes / max(min(found), 1)


def measure(sites: int, chunk_mib: int, repeat: int) -> dict[str, float]:
    """Return GB/s by name."""
    elements = chunk_mib << 18
    random = np.random.default_rng(0)
    updates = [random.standard_normal(elements).astype(np.float32) for _ in range(sites)]
    halves = [(row.view(np.uint32) >> 16).astype(np.uint16) for row in updates]
    parent = random.standard_normal(elements).astype(np.float32)
    coeff = np.full(sites, 1 / sites, dtype=np.float32)
    out, scratch, wide = np.empty_like(parent), new_scratch(), [np.empty_like(parent) for _ in range(sites)]

    def admit(previous: bool) -> None:
        for row in updates:
            admission = Admission([elements], against_previous=previous)
            admission.feed(row, parent if previous else None)
            admission.result()

    def combine() -> None:
        weighted_sum(out, parent, updates, coeff, scratch)
        require_finite(out)

    def combine_bf16() -> None:
        for row, room in zip(halves, wide, strict=True):
            widen(row, "BF16", room)
        weighted_sum(out, parent, wide, coeff, scratch)
        require_finite(out)

    nbytes = sites * elements * 4
    return {
        "read": best(lambda: [row.max() for row in updates], nbytes, repeat),
        "weighted_sum F32": best(combine, nbytes, repeat),
        "weighted_sum BF16": best(combine_bf16, nbytes // 2, repeat),
        "admission": best(lambda: admit(False), nbytes, repeat),
        "admission, dot with previous": best(lambda: admit(True), nbytes, repeat),
    }


def main() -> None:
    """Print the measurements as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--chunk-mib", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=40)
    given = parser.parse_args()
    rates = measure(given.sites, given.chunk_mib, given.repeat)
    terms = {"sites": given.sites, "chunk_mib": given.chunk_mib, "span": SPAN, "numpy": np.__version__}
    print(json.dumps({**terms, "GB/s per core": {name: round(rate, 2) for name, rate in rates.items()}}, indent=1))


if __name__ == "__main__":
    main()
