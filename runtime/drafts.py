"""Drafts that a killed process left behind: half-written, never named, nobody's.

Files appear whole because they are written under another name first (`durable`, `trust.blob.seal`):
``.<name>.<pid>.<8 hex>.draft``. A process that is killed in between leaves the draft. It harms nobody but fills the disk,
and what it holds was perhaps never meant to stay; so who holds a folder's lock removes the drafts in it when it opens the
folder.

Not handled here: the drafts of a `DirectoryStore`, which several parties share (`DirectoryStore.sweep`).
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["remove_drafts"]

_DRAFT = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.draft")


def remove_drafts(folder: Path) -> int:
    """Remove every draft below ``folder`` and return how many; the caller holds the lock of the folder's one writer."""
    count = 0
    for path in folder.rglob(".*.draft"):
        if _DRAFT.fullmatch(path.name):
            path.unlink(missing_ok=True)
            count += 1
    return count
