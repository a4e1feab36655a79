"""What code a party runs: one digest over the interpreter and every installed distribution.

Each distribution counts with its name, version and the digest of its RECORD file, which holds the digest of every file that was
installed; so two environments agree only if the same wheels were installed. It identifies, it does not attest: a party
whose machine lies can report any digest.
"""

from __future__ import annotations

import functools
import platform
import sys
from importlib import metadata

from ..trust.canonical import canonical
from ..trust.identifiers import sha256

__all__ = ["environment", "environment_digest"]


@functools.cache
def environment() -> dict[str, object]:
    """Return the interpreter and the installed distributions, as JSON."""
    found = {
        f"{distribution.name}=={distribution.version}": sha256((distribution.read_text("RECORD") or "").encode())
        for distribution in metadata.distributions()
    }
    return {
        "implementation": sys.implementation.name,
        "version": platform.python_version(),
        "machine": platform.machine(),
        "distributions": found,
    }


@functools.cache
def environment_digest() -> str:
    """Return the SHA-256 of `environment` in canonical JSON."""
    return sha256(canonical(environment()))
