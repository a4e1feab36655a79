"""One round: 4 sites x 50 MB, no training, real processes, everything signed, sealed, logged and synced.

Prints wall seconds and CPU seconds of every process per round (median of the rounds after the first), beside what the bytes alone
cost on this machine in the same run: hashing and copying. Budget (docs/design.md, section 10): 1.6 CPU-s and 1.3 s on the
directory store. A peer's figure is another program on another day; compare ratios, on a quiet machine.

    python benchmarks/round.py [--mb 50] [--sites 4] [--rounds 6] [--store directory|s3] [--rule iiadmm|iceadmm]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import psutil

from counterseal.runtime.config import AggregationConfig, EvaluationConfig
from counterseal.runtime.progress import Progress, RoundDone
from counterseal.runtime.site.worker import serve
from counterseal.runtime.training.seam import TrainingResult
from counterseal.runtime.transports.local import LocalTransport
from counterseal.tests.federation import Clock, Federation, run_config


class Nothing:
    """A trainer that adds a constant (or makes one step without a gradient): the round's own cost is what is left."""

    device = "cpu"

    def __init__(self, step: float) -> None:
        self._step = np.float32(step)

    def initial_parameters(self, seed: int) -> dict[str, Any]:
        return {}  # the parameters of version 0 are made below

    def train(self, parameters: Any, *, seed: int, round_number: int, solver: Any = None) -> TrainingResult:
        after = {name: array + self._step for name, array in parameters.items()}
        for name, array in after.items() if solver is not None else ():
            solver.step(name, array.reshape(-1), np.zeros(array.size, np.float32))
        return TrainingResult(after, {}, 1, "cpu", 0.0)

    def evaluate(self, parameters: Any, split: str = "test") -> dict[str, float]:
        return {}


class Forked:
    """A site in a forked process, speaking frames over two pipes."""

    inherited: ClassVar[list[int]] = []
    """The parent's ends of earlier pipes: a child that kept them open would keep its siblings alive."""

    def __init__(self, open_site: Any) -> None:
        down, up = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for descriptor in self.inherited:
                os.close(descriptor)
            os.close(down[1])
            os.close(up[0])
            with open_site() as site, os.fdopen(down[0], "rb") as source, os.fdopen(up[1], "wb") as sink:
                serve(site, source, sink)
            os._exit(0)
        os.close(down[0])
        os.close(up[1])
        self.inherited += [down[1], up[0]]
        self.stdin: BinaryIO = os.fdopen(down[1], "wb")
        self.stdout: BinaryIO = os.fdopen(up[0], "rb")

    def end(self) -> None:
        self.stdin.close()
        os.waitpid(self.pid, 0)
        self.stdout.close()


def cpu(pids: list[int]) -> float:
    """Return user and system seconds of the processes so far."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def machine(size: int) -> tuple[float, float]:
    """Return GB/s of SHA-256 and of copying on one core, now."""
    data = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    started = time.process_time()
    hashlib.sha256(data).digest()
    hashed = time.process_time() - started
    target = np.empty_like(data)
    np.copyto(target, data)
    started = time.process_time()
    np.copyto(target, data)
    return size / hashed / 1e9, size / (time.process_time() - started) / 1e9


def play(folder: Path, sites: int, megabytes: int, rounds: int, store: str, rule: str) -> None:
    """Run the rounds and print the table."""
    generator = np.random.default_rng(1)
    count = megabytes * 1_000_000 // 40
    parameters = {f"layer{i}": generator.normal(size=count).astype(np.float32) for i in range(10)}
    federation = Federation.make(folder, sites, clock=Clock(int(time.time())), norm_bound=1e9)
    config = run_config(
        rounds=rounds,
        round_seconds=60,
        minimum_sites=sites,
        evaluation=EvaluationConfig(sites=False),
        aggregation=AggregationConfig(rule=rule, clip_norm=1e6, rho=1.0 if rule.endswith("admm") else None),
    )
    with ExitStack() as stack:
        ends = stores(stack, folder, store)
        processes = {
            name: Forked(
                lambda name=name, i=i: federation.site(name, trainers=lambda _: Nothing(1e-3 * (i + 1)), **ends[1])
            )
            for i, name in enumerate(federation.sites)
        }
        pids = [os.getpid(), *(one.pid for one in processes.values())]
        marks: list[tuple[float, list[float]]] = []

        def observe(progress: Progress) -> None:
            if isinstance(progress, RoundDone):
                marks.append((time.perf_counter(), [cpu([pid]) for pid in pids]))

        server = stack.enter_context(
            federation.server(LocalTransport(lambda site: processes[site]), observe=observe, **ends[0])
        )
        result = server.run(config, parameters)
        assert result.outcome == "completed", result.reason
        hashing, copying = machine(megabytes * 1_000_000)
    print(rule)
    report(marks, sites, megabytes, store, hashing, copying)


def stores(stack: ExitStack, folder: Path, store: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what server and sites are given in place of the directory store."""
    if store == "directory":
        return {}, {}
    from counterseal.runtime.stores.local_s3 import LocalS3
    from counterseal.runtime.stores.s3 import S3Store
    from counterseal.runtime.stores.s3_client import S3GrantClient

    service = stack.enter_context(LocalS3(folder / "s3"))
    place = service.place("models")
    made = S3Store(place, access_key=service.access_key, secret_key=service.secret_key)
    made.create_bucket()
    return {"store": made}, {"store": S3GrantClient(place)}


def report(
    marks: list[tuple[float, list[float]]], sites: int, megabytes: int, store: str, hashing: float, copying: float
) -> None:
    """Print medians over the rounds after the first."""
    walls = [two[0] - one[0] for one, two in pairwise(marks)]
    server = [two[1][0] - one[1][0] for one, two in pairwise(marks)]
    clients = [sum(two[1][1:]) - sum(one[1][1:]) for one, two in pairwise(marks)]
    floor = 2 * sites * megabytes / 1e3 / hashing * 2  # each byte hashed once by its writer and once by its reader
    print(f"{sites} sites x {megabytes} MB, {store} store, {len(walls)} rounds after the first")
    print(f"  wall      median {statistics.median(walls):.2f} s   (min {min(walls):.2f}, max {max(walls):.2f})")
    print(f"  CPU       server {statistics.median(server):.2f} s, sites together {statistics.median(clients):.2f} s")
    print(f"  CPU       all    {statistics.median(a + b for a, b in zip(server, clients, strict=True)):.2f} s")
    print(f"  peak RSS  server {psutil.Process().memory_info().rss / 1e6:.0f} MB now")
    print(f"  machine   SHA-256 {hashing:.2f} GB/s a core, copy {copying:.1f} GB/s; hashing alone: {floor:.2f} CPU-s")


def main() -> None:
    """Parse the command line and play."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=50)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--store", choices=("directory", "s3"), default="directory")
    parser.add_argument("--rule", choices=("norm-clipped-fedavg", "iiadmm", "iceadmm"), default="norm-clipped-fedavg")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="counterseal-bench-") as folder:
        play(Path(folder) / "federation", options.sites, options.mb, options.rounds, options.store, options.rule)


if __name__ == "__main__":
    main()
