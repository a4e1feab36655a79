"""Sealing and opening, beside the primitives that they are made of: `python benchmarks/blob.py [--large] [--folder F]`.

Prints one table per size. GB are 1e9 bytes of plaintext; CPU is the process's own time over all threads; memory is the peak
of RssAnon over what it was before the row. Rows are medians of three (large: one). The budget (docs/design.md): 1 GB/s a
core, that is, 1.0 CPU-s/GB, and 150 MiB over idle. Sealing includes writing the spool and its fsync. The primitives show
what bounds it: one SHA-256 pass over the ciphertext, a second one over the plaintext where its digest is asked for, and the
file system.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from counterseal.parameters import Schema, TensorSpec
from counterseal.trust.blob import FileSource, Place, Sealed, open_blob, seal
from counterseal.trust.keys.sealing import OpeningKey
from counterseal.trust.keys.signing import SoftwareSigner

MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """One measurement."""

    wall: float
    cpu: float
    anonymous: int


def anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise SystemExit("this benchmark needs RssAnon in /proc/self/status")


def measure(work: Callable[[], object]) -> Row:
    """Run ``work`` while a thread watches the memory (its own cost is in the figures: 200 looks a second)."""
    idle, peak, stop = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, anonymous())
            stop.wait(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    row = Row(time.perf_counter() - wall, time.process_time() - cpu, 0)
    stop.set()
    watcher.join()
    return Row(row.wall, row.cpu, max(0, peak - idle))


def chunks(schema: Schema, piece: memoryview) -> Iterator[memoryview]:
    yield memoryview(schema.header())
    left = schema.data_bytes
    while left:
        yield piece[:left]
        left -= min(left, len(piece))


class Bench:
    """One blob of ``length`` bytes and everything to be done with it."""

    def __init__(self, length: int, folder: Path) -> None:
        self.length, self.folder = length, folder
        self.schema = Schema((TensorSpec("weight", "F32", (length // 4,)),))
        self.signer, self.key = SoftwareSigner.generate(), OpeningKey.generate()
        self.piece = np.random.default_rng(0).integers(0, 256, MIB, np.uint8).data
        self.out = memoryview(bytearray(MIB + 16))
        self.sealed = self.seal(digest=True, workers=2)

    def seal(self, *, digest: bool, workers: int) -> Sealed:
        spool = self.folder / "blob"
        spool.unlink(missing_ok=True)
        place = Place(
            suite="MLKEM768_X25519",
            federation="bench",
            charter="0" * 64,
            run="bench",
            version=0,
            ticket=None,
            kind="global",
            sender="server",
            parent=None,
            schema_digest=self.schema.digest,
        )
        self.sealed = seal(
            chunks(self.schema, self.piece),
            schema=self.schema,
            place=place,
            recipients=[self.key.public],
            signer=self.signer,
            spool=spool,
            expires=2**40,
            digest=digest,
            workers=workers,
        )
        return self.sealed

    def stream(self, *, digest: bool, workers: int) -> None:
        view = self.out[:MIB]
        with FileSource(self.sealed.path) as source:
            blob = open_blob(self.sealed.manifest, source, self.key, self.schema, workers=workers)
            with blob.stream(digest=digest) as stream:
                while stream.readinto(view):
                    continue
                stream.finish()

    def read(self, *, workers: int) -> None:
        with FileSource(self.sealed.path) as source:
            open_blob(self.sealed.manifest, source, self.key, self.schema, workers=workers).read()

    def gcm(self) -> None:
        cipher, nonce = AESGCM(bytes(32)), bytearray(12)
        for index in range(self.length // MIB):
            nonce[:4] = index.to_bytes(4, "big")
            cipher.encrypt_into(bytes(nonce), self.piece, None, self.out)

    def sha256(self) -> None:
        state = hashlib.sha256()
        for _ in range(self.length // MIB):
            state.update(self.piece)

    def copy(self) -> None:
        for _ in range(self.length // MIB):
            self.out[:MIB] = self.piece

    def write(self) -> None:
        path = self.folder / "plain"
        with path.open("wb", buffering=0) as file:
            for _ in range(self.length // MIB):
                file.write(self.piece)
            os.fsync(file.fileno())
        path.unlink()

    def rows(self) -> Iterator[tuple[str, Callable[[], object]]]:
        yield "copy, 1 MiB at a time", self.copy
        yield "AES-256-GCM encrypt_into", self.gcm
        yield "SHA-256", self.sha256
        yield "write and fsync", self.write
        for workers in (1, 2):
            yield f"seal, workers={workers}", partial(self.seal, digest=False, workers=workers)
            yield f"seal with digest, workers={workers}", partial(self.seal, digest=True, workers=workers)
        for workers in (1, 2):
            yield f"open as stream, workers={workers}", partial(self.stream, digest=False, workers=workers)
            yield f"... with digest, workers={workers}", partial(self.stream, digest=True, workers=workers)
        if self.length <= 1 << 30:
            yield "open whole, workers=2", partial(self.read, workers=2)


def run(length: int, folder: Path, rounds: int) -> None:
    bench = Bench(length, folder)
    print(f"\n{length / 1e9:g} GB, {len(bench.sealed.manifest.document.parts)} parts, median of {rounds}")
    print(f"{'':34}{'GB/s':>8}{'CPU-s/GB':>10}{'GB/s a core':>13}{'MiB over idle':>15}")
    for name, work in bench.rows():
        found = [measure(work) for _ in range(rounds)]
        wall, cpu = (statistics.median(getattr(row, field) for row in found) for field in ("wall", "cpu"))
        memory = max(row.anonymous for row in found) >> 20
        size = length / 1e9
        print(f"{name:34}{size / wall:8.2f}{cpu / size:10.2f}{size / cpu:13.2f}{memory:15}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also 4 GB")
    parser.add_argument("--folder", type=Path, help="where the spool goes (default: the system's temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for length, rounds in [(64_000_000, 3), (1_000_000_000, 3), *([(4_000_000_000, 1)] if options.large else [])]:
            run(length, Path(folder), rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
