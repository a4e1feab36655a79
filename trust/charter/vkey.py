"""The verifier key of an outside witness, as C2SP writes it.

    <name>+<8 hex digits>+<base64 of: type byte 0x04, then the 32 bytes of an Ed25519 key>

The hex digits are the first four bytes of SHA-256(name, LF, type byte, key). Only type 0x04 (cosignature/v1) is taken:
a witness that signs like a log is not a witness. The key is checked like every key that enters.

Source: C2SP signed-note (Verifier keys) and tlog-cosignature (Format).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Self

from ..errors import MalformedError
from ..keys.signing import VerifyingKey

__all__ = ["WitnessKey"]

_COSIGNATURE = b"\x04"


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness outside the federation."""

    name: str
    key: VerifyingKey

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Return the witness that ``vkey`` names.

        Raises:
            MalformedError: not a cosignature vkey, or the hash in it is another key's.
            WeakKeyError: a key of small order.
        """
        name, _, rest = vkey.partition("+")
        digits, _, text = rest.partition("+")
        if not name or not name.isascii() or not name.isprintable() or " " in name:
            raise MalformedError("a witness vkey begins with a name without spaces or plus signs", where="vkey")
        try:
            data = base64.b64decode(text.encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise MalformedError("a witness vkey ends in base64", where="vkey") from None
        if base64.b64encode(data).decode() != text or len(data) != 33 or data[:1] != _COSIGNATURE:
            raise MalformedError("a witness vkey holds type 0x04 and an Ed25519 key of 32 bytes", where="vkey")
        if hashlib.sha256(name.encode() + b"\n" + data).digest()[:4].hex() != digits:
            raise MalformedError("the hash in the witness vkey is not that of its name and key", where="vkey")
        return cls(name, VerifyingKey("ed25519", data[1:]))
