"""Aggregation from sealed blobs: admission pass and combining pass, beside verifying and decrypting the same bytes.

Budget (docs/design.md, section 10): at most 1.5 times the CPU of verifying and decrypting the bytes of its passes, and memory
that does not depend on the size of the model. The next version is not sealed here: `benchmarks/blob.py` measures that.

    python benchmarks/aggregate.py [--mb 25 100] [--sites 4 16]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from counterseal.algorithms.rule import UpdateMeta, make_rule
from counterseal.parameters import Schema, encode
from counterseal.runtime.server.rounds.admission import measure
from counterseal.runtime.server.rounds.aggregate import combined
from counterseal.runtime.server.rounds.fingerprint import Fingerprint
from counterseal.trust.blob import BlobKind, FileSource, Place, open_blob, seal
from counterseal.trust.blob.open import Opened
from counterseal.trust.keys.sealing import OpeningKey
from counterseal.trust.keys.signing import SoftwareSigner


class World:
    """A sealed parent and n sealed updates in a folder."""

    def __init__(self, folder: Path, megabytes: int, sites: int) -> None:
        self.key, self.signer = OpeningKey.generate(), SoftwareSigner.generate()
        generator = np.random.default_rng(0)
        count = megabytes * 1_000_000 // 4 // 10
        arrays = {f"layer{i}": generator.normal(size=count).astype(np.float32) for i in range(10)}
        self.schema = Schema.of(arrays)
        self.blobs = [self._seal(folder / f"blob{i}", arrays, "update" if i else "global") for i in range(sites + 1)]

    def _seal(self, path: Path, arrays: dict[str, np.ndarray], kind: BlobKind) -> Callable[[], Opened]:
        place = Place(
            suite="MLKEM768_X25519",
            federation="bench",
            charter="0" * 64,
            run="bench",
            version=0,
            ticket=None,
            kind=kind,
            sender="bench",
            parent=None,
            schema_digest=self.schema.digest,
        )
        made = seal(
            encode(self.schema, arrays),
            schema=self.schema,
            place=place,
            recipients=[self.key.public],
            signer=self.signer,
            spool=path,
            expires=2**40,
        )
        return lambda: open_blob(made.manifest, FileSource(path), self.key, self.schema)

    def verify(self) -> None:
        """Verify and decrypt what the two passes read: each update twice, the parent once."""
        buffer = memoryview(bytearray(1 << 20))
        for one in (self.blobs[0], *self.blobs[1:], *self.blobs[1:]):
            with one().stream() as stream:
                while stream.readinto(buffer):
                    pass
                stream.finish()

    def aggregate(self) -> None:
        """Admit every update, then combine them."""
        stats = [measure(one(), self.schema, Fingerprint(bytes(32))) for one in self.blobs[1:]]
        rule = make_rule("norm-clipped-fedavg", {"clip_norm": 10.0})
        meta = [UpdateMeta(f"site-{i:03}") for i in range(len(stats))]
        coefficients = rule.coefficients(meta, stats, None, {one.site: 1.0 for one in meta})
        for _ in combined(self.schema, self.blobs[0](), [one() for one in self.blobs[1:]], rule, coefficients):
            pass


def measured(act: Callable[[], None]) -> tuple[float, float, float]:
    """Return CPU seconds, wall seconds and the peak of anonymous memory over the start, in MiB."""
    peak, done, start = [0.0], threading.Event(), anonymous()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    cpu, wall = time.process_time(), time.perf_counter()
    act()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    done.set()
    thread.join()
    return cpu, wall, peak[0]


def anonymous() -> float:
    """Return this process's anonymous resident memory in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, nargs="+", default=[25, 100])
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16])
    options = parser.parse_args()
    print("model  sites |  verify+decrypt        aggregate        ratio of CPU   peak memory over start")
    for sites in options.sites:
        for megabytes in options.mb:
            with tempfile.TemporaryDirectory(prefix="counterseal-bench-") as folder:
                world = World(Path(folder), megabytes, sites)
                world.verify()  # once each beforehand: imports and buffers
                world.aggregate()
                base, base_wall, _ = measured(world.verify)
                cpu, wall, peak = measured(world.aggregate)
            print(
                f"{megabytes:4} MB {sites:5} | {base:6.2f} CPU-s {base_wall:6.2f} s | {cpu:6.2f} CPU-s {wall:6.2f} s |"
                f" {cpu / base:8.2f}      | {peak:6.0f} MiB"
            )


if __name__ == "__main__":
    main()
