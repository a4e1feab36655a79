"""Checking many signatures on several cores.

A signature check costs about 70 µs and holds Python's lock, so a long log is checked in child processes of the same
interpreter: each reads claims from its standard input and answers one byte a claim. The framing is ours and flat (lengths
and bytes, nothing that could be unpickled), the children get no other input, and the current folder is not on their path.
A child that dies or answers short has proven nothing: its share is checked again here.

    algorithm[1] length of key[2] of signature[2] of message[4]   key, signature, message        integers big-endian
"""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from ...trust.errors import TrustError
from ...trust.keys.signing import SignatureAlgorithm, VerifyingKey

__all__ = ["Claim", "hold"]

_FRAME = struct.Struct(">BHHI")
_ALGORITHMS: tuple[SignatureAlgorithm, ...] = ("ed25519", "p384", "p256")
_WORTH_A_CHILD = 4_000
"""Claims below which starting a child costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Claim:
    """That ``key`` made ``signature`` over ``message``."""

    key: VerifyingKey
    signature: bytes
    message: bytes

    def holds(self) -> bool:
        """Return whether it is so."""
        try:
            self.key.verify(self.signature, self.message)
        except TrustError:
            return False
        return True


def hold(claims: Sequence[Claim], *, workers: int | None = None) -> list[bool]:
    """Return which of ``claims`` hold, checked by up to ``workers`` processes (by default one a core)."""
    wanted = workers if workers is not None else (os.cpu_count() or 1)
    shares = max(1, min(wanted, len(claims) // _WORTH_A_CHILD))
    if shares == 1:
        return [claim.holds() for claim in claims]
    bounds = [len(claims) * share // shares for share in range(shares + 1)]
    parts = [claims[start:end] for start, end in itertools.pairwise(bounds)]
    with ThreadPoolExecutor(shares - 1) as threads:
        others = [threads.submit(_in_child, part) for part in parts[1:]]
        own = [claim.holds() for claim in parts[0]]
        return own + [one for other in others for one in other.result()]


def _in_child(claims: Sequence[Claim]) -> list[bool]:
    data = b"".join(_frame(claim) for claim in claims)
    command = [sys.executable, "-P", "-m", __spec__.name]
    try:
        answer = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=False).stdout
    except OSError:
        answer = b""
    if len(answer) != len(claims) or set(answer) - {0, 1}:
        return [claim.holds() for claim in claims]
    return [one == 1 for one in answer]


def _frame(claim: Claim) -> bytes:
    head = (len(claim.key.public), len(claim.signature), len(claim.message))
    algorithm = _ALGORITHMS.index(claim.key.algorithm)
    return _FRAME.pack(algorithm, *head) + claim.key.public + claim.signature + claim.message


def _answer(claims: BinaryIO, answers: BinaryIO) -> None:
    known: dict[tuple[int, bytes], VerifyingKey] = {}
    found = bytearray()
    while head := claims.read(_FRAME.size):
        algorithm, *lengths = _FRAME.unpack(head)
        public, signature, message = (claims.read(length) for length in lengths)
        key = known.get((algorithm, public))
        if key is None:
            key = known.setdefault((algorithm, public), VerifyingKey(_ALGORITHMS[algorithm], public))
        found.append(Claim(key, signature, message).holds())
    answers.write(found)


if __name__ == "__main__":
    _answer(sys.stdin.buffer, sys.stdout.buffer)
