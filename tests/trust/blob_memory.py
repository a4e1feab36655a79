"""Seal and open a large blob in a process of its own, and print how much anonymous memory that took (run by a test)."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from counterseal.parameters import Schema, TensorSpec
from counterseal.tests.trust.blob_world import LATER, World
from counterseal.trust.blob import FileSource, open_blob, seal


def anonymous() -> int:
    """Return RssAnon of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise SystemExit("no RssAnon in /proc/self/status")


class Peak:
    """Watches RssAnon on a thread."""

    def __init__(self) -> None:
        self.value = anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.value = max(self.value, anonymous())
            time.sleep(0.002)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def chunks(schema: Schema) -> Iterator[memoryview]:
    """Yield the canonical bytes of ones without ever holding the model."""
    yield memoryview(schema.header())
    piece = np.ones(1 << 18, np.float32).view(np.uint8).data
    left = schema.data_bytes
    while left:
        yield piece[:left]
        left -= min(left, len(piece))


def main(folder: Path, length: int) -> None:
    """Print the bytes over idle for sealing and for opening ``length`` bytes."""
    world, schema = World(), Schema((TensorSpec("weight", "F32", (length // 4,)),))
    idle = anonymous()
    with Peak() as sealing:
        sealed = seal(
            chunks(schema),
            schema=schema,
            place=world.place(schema),
            recipients=[world.openers["server"].public],
            signer=world.signers["alice"],
            spool=folder / "blob",
            expires=LATER,
            workers=2,
        )
    buffer = memoryview(bytearray(1 << 20))
    with Peak() as opening, FileSource(sealed.path) as source:
        blob = open_blob(sealed.manifest, source, world.openers["server"], schema, workers=2)
        with blob.stream(digest=True) as stream:
            while stream.readinto(buffer):
                continue
            stream.finish()
            if stream.digest != sealed.plaintext_digest:
                raise SystemExit("another plaintext came out")
    print(sealing.value - idle, opening.value - idle)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
