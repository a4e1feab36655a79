"""Files that survive a power cut: whole or absent, and synced before anybody is told.

Every durable effect of the runtime passes through a `Probe`: a function that is told the name of the step just before
and just after it. Production passes `silent`; the crash tests pass one that kills the process at the chosen step, so a
new step is covered by being written with these functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

__all__ = ["Probe", "create_file", "make_folder", "replace_file", "silent", "sync_folder"]

Probe: TypeAlias = Callable[[str], None]


def silent(step: str) -> None:
    """Probe nothing."""


def replace_file(path: Path, data: bytes, *, step: str, probe: Probe = silent, mode: int = 0o644) -> None:
    """Make ``path`` hold ``data``: the old bytes or the new ones after a crash, never a mixture."""
    _publish(path, data, step, probe, mode, once=False)


def create_file(path: Path, data: bytes, *, step: str, probe: Probe = silent, mode: int = 0o644) -> None:
    """Create ``path`` with ``data``, or raise `FileExistsError` and leave what is there."""
    _publish(path, data, step, probe, mode, once=True)


def _publish(path: Path, data: bytes, step: str, probe: Probe, mode: int, *, once: bool) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.draft")
    probe(f"{step}.write")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        probe(f"{step}.publish")
        if once:
            os.link(draft, path)  # fails if the name is taken, even against a racing writer
        else:
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
    probe(f"{step}.done")


def sync_folder(path: Path) -> None:
    """Make the names in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, mode: int = 0o755) -> Path:
    """Create ``path`` and its parents durably, and return it."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=mode, exist_ok=True)
        sync_folder(path.parent)
    return path
