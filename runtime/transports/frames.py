"""Frames on a pipe: a decimal length without leading zeros, a line feed, that many bytes. Nothing but JSON is put in them."""

from __future__ import annotations

import re
from typing import BinaryIO

from ..delivery import DELIVERY_LIMIT
from ..errors import TransportError

__all__ = ["read_frame", "write_frame"]

_HEAD = re.compile(rb"(?:0|[1-9][0-9]{0,7})\n")


def write_frame(stream: BinaryIO, data: bytes) -> None:
    """Write one frame and flush."""
    stream.write(b"%d\n" % len(data))
    stream.write(data)
    stream.flush()


def read_frame(stream: BinaryIO, limit: int = DELIVERY_LIMIT) -> bytes | None:
    """Return the next frame, or None at the end of the stream.

    Raises:
        TransportError: not a frame, longer than ``limit``, or cut short.
    """
    head = stream.readline(16)
    if not head:
        return None
    if not _HEAD.fullmatch(head) or int(head) > limit:
        raise TransportError("not a frame of this protocol, or too long", where="pipe")
    data = stream.read(int(head))
    if len(data) != int(head):
        raise TransportError("the stream ended in the middle of a frame", where="pipe")
    return data
