"""Running a program as another user who may not be able to walk to the interpreter.

Continuous integration runs as root, and root's Python is often below /root, where nobody else may look. The daemon then runs
in a mount namespace of its own, in which the folders in the way show what the program needs and nothing else. Nothing changes
for the rest of the machine.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["as_user", "reaches", "uncovered"]

_MOUNT = """set -e
cover=$(mktemp -d)
mount -t tmpfs -o mode=755 none "$cover"
for child in {children}; do mkdir "$cover/$child"; mount --rbind {parent}/"$child" "$cover/$child"; done
mount --move "$cover" {parent}
rmdir "$cover"
"""


def as_user(user: int) -> list[str]:
    """Return what goes before a command so that ``user`` runs it."""
    if user == os.geteuid():
        return []
    group = pwd.getpwuid(user).pw_gid
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]


def uncovered(programs: Iterable[Path]) -> list[str]:
    """Return what goes before a command of root's so that everybody can walk to ``programs``; nothing if they can."""
    hidden: dict[Path, set[str]] = {}
    for place in {_home(each) for each in programs} | {_home(Path(sys.executable))}:
        blocked = _blocked(place.resolve())
        if blocked is not None:
            hidden.setdefault(blocked[0], set()).add(blocked[1])
    if os.geteuid() != 0 or not hidden:
        return []
    mounts = "".join(
        _MOUNT.format(parent=_quoted(str(parent)), children=" ".join(map(_quoted, sorted(children))))
        for parent, children in hidden.items()
    )
    return ["unshare", "--mount", "sh", "-c", mounts + 'exec "$@"', "sh"]


def reaches(user: int, place: Path, before: Iterable[str] = ()) -> bool:
    """Return whether ``user`` can read ``place``, started through ``before``."""
    command = [*before, *as_user(user), "test", "-r", str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _home(program: Path) -> Path:
    """Return the folder that the program's interpreter lives in."""
    return program.resolve().parent


def _blocked(place: Path) -> tuple[Path, str] | None:
    """Return the first folder above ``place`` that others may not pass, and where it leads on."""
    for parent in reversed(place.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent, place.relative_to(parent).parts[0]
    return None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
