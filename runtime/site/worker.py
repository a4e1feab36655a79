"""The site's process: deliveries in on standard input, answers out on standard output, until the input ends.

Started by `counterseal site run`. Frames carry ``ticket digest LF delivery``; the digest is only an address for the answer.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO, Protocol

from ..transports.frames import read_frame, write_frame

__all__ = ["Handler", "serve", "serve_standard_streams"]


class Handler(Protocol):
    """What answers deliveries: a `Site`."""

    def handle(self, delivery: bytes) -> bytes:
        """Return the answer to a delivery; never raises for what a peer sent."""


def serve(site: Handler, source: BinaryIO, sink: BinaryIO) -> int:
    """Answer deliveries until ``source`` ends; return how many."""
    count = 0
    while (frame := read_frame(source)) is not None:
        ticket, _, delivery = frame.partition(b"\n")
        write_frame(sink, ticket[:64] + b"\n" + site.handle(delivery))
        count += 1
    return count


def serve_standard_streams(site: Handler) -> int:
    """Serve on this process's standard streams; whatever else prints goes to standard error."""
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with sink:
        return serve(site, sys.stdin.buffer, sink)
