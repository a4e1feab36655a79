"""The strings that name things: identifiers, identities, digests, times.

Names go into object keys, file names, log leaves and reports, so each has one narrow grammar: no control characters,
no bidirectional overrides, no path separators, nothing that a terminal or a spreadsheet would obey.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

__all__ = ["Digest", "Identifier", "Identity", "KeyId", "ObjectKey", "Text", "Time", "Uuid", "sha256"]

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}[a-z0-9]$|^[a-z0-9]$")]
"""A short lower-case name of ours: run, federation, rule (1 to 64 characters)."""

Identity = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9@_.-]{0,126}[A-Za-z0-9]$")]
"""A member's name in its group: a Globus UUID or username, a roster name. No plus sign: it also names the witness's key."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hexadecimal."""

KeyId = Digest
"""The SHA-256 that names a public key; see `trust.keys.signing`."""

ObjectKey = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*$", max_length=512)]
"""A place in the object store: our names only, never a peer's. `..` cannot be spelled."""

Uuid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
"""A UUID as Globus prints it: lower case, with hyphens."""

Time = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""Seconds since 1970 in UTC."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _printable(text: str) -> str:
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp", "Co", "Cn"} or character in _BIDI:
            raise ValueError(f"character U+{ord(character):04X} is not allowed in text that people will read")
    return text


Text = Annotated[str, StringConstraints(max_length=500), AfterValidator(_printable)]
"""A line for people: no control, bidirectional, surrogate, private or unassigned characters."""


def sha256(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of ``data`` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()
