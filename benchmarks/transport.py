"""What a round costs on the way: processes of this machine beside Globus Compute, against the number of sites.

The model has 21 parameters and training is one pass of numpy over 20 examples, so that what is measured is the way: tickets,
proofs, sealing, the store, the transport. With Globus Compute each delivery starts a process of the site's own (that is what
keeps what Globus sends apart from the site's keys), and each site has a real endpoint daemon; Globus' web services are the
stand-in, and so have no distance. Prints wall seconds per round (median of the rounds after the first) and the CPU seconds of
the whole machine per round, less those of the stand-in and of the S3 server, which stand in the last column. Daemons start
workers that are nobody's children, so only the whole machine's account is complete: run it where nothing else runs.

    python benchmarks/transport.py [--sites 1,2,4] [--rounds 4] [--transport local|globus]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from counterseal.runtime.api import run_federation
from counterseal.runtime.config import LoaderConfig
from counterseal.runtime.demo.surroundings import private_s3
from counterseal.runtime.founding.federation import Founded, found_federation
from counterseal.runtime.progress import Progress, RoundDone, RoundStarted
from counterseal.runtime.training.arrays import write_arrays
from counterseal.tests.federation import data_of, run_config, site_names
from counterseal.tests.standin.federation import globus_place


def cpu() -> tuple[float, float]:
    """CPU seconds used so far by this machine, and by the stand-in and the S3 server on it."""
    whole = psutil.cpu_times()
    busy = whole.user + whole.nice + whole.system + getattr(whole, "irq", 0.0) + getattr(whole, "softirq", 0.0)
    around = 0.0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "counterseal.tests.standin" in command or "/weed" in command:
                times = process.cpu_times()
                around += times.user + times.system
    return busy - around, around


class Watch:
    """Takes the time of each round."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        self.around: list[float] = []
        self._start = (0.0, 0.0, 0.0)

    def __call__(self, event: Progress) -> None:
        if isinstance(event, RoundStarted):
            self._start = (time.monotonic(), *cpu())
        if isinstance(event, RoundDone):
            now = (time.monotonic(), *cpu())
            assert event.committed, event.reason
            self.seconds.append(now[0] - self._start[0])
            self.cpu.append(now[1] - self._start[1])
            self.around.append(now[2] - self._start[2])


@contextmanager
def local(folder: Path, count: int) -> Iterator[Founded]:
    sites = site_names(count)
    with private_s3(folder / "s3") as (_, store, _objects):
        yield _found(folder, sites, store=store, federation="local")


@contextmanager
def globus(folder: Path, count: int) -> Iterator[Founded]:
    with globus_place(folder, count) as place:
        founded = _found(
            folder,
            place.sites,
            store=place.store,
            server=place.server,
            group=place.group,
            globus=place.globus,
            transport=place.compute.model_copy(update={"resend_seconds": 300.0}),
            federation="globus",
        )
        place.settle(founded)
        yield founded


def _found(folder: Path, sites: tuple[str, ...], **options: object) -> Founded:
    loader = LoaderConfig(entry_point="arrays", folder=Path("data"))
    founded = found_federation(
        folder / "federation",
        sites,
        run=run_config("measured", rounds=OPTIONS.rounds, round_seconds=600),
        loaders={site: loader for site in sites},
        **options,  # type: ignore[arg-type]
    )
    for site, path in founded.site_configs.items():
        data = data_of(site)
        assert data.test is not None
        write_arrays(path.parent / "data", data.train, data.test)
    return founded


def main() -> None:
    print("transport  sites  wall s/round  CPU-s/round  CPU-s/round and site  stand-in and S3, CPU-s/round")
    for name, surround in (("local", local), ("globus", globus)):
        if OPTIONS.transport not in (None, name):
            continue
        for count in map(int, OPTIONS.sites.split(",")):
            folder = Path(tempfile.mkdtemp(prefix="counterseal-bench-"))
            folder.chmod(0o755)
            watch = Watch()
            try:
                with surround(folder, count) as founded:
                    result = run_federation(founded.server_config, observe=watch)
                    assert result.outcome == "completed", result.reason
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            wall, own, around = (statistics.median(one[1:] or one) for one in (watch.seconds, watch.cpu, watch.around))
            print(f"{name:9}  {count:5}  {wall:12.2f}  {own:11.2f}  {own / count:20.2f}  {around:29.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--sites", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--transport", choices=("local", "globus"))
    OPTIONS = parser.parse_args()
    main()
