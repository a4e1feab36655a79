"""Children by fork: a function runs in a process of its own and leaves JSON, or is killed.

The process that forks has one thread and no torch; it is started for this purpose (`matrix`). A child that runs longer
than it may is ended by the alarm, which is told apart from the kill.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

LIMIT = 50
"""Seconds for one child: less than a round's, so that who waits for a deadline is caught."""


def require_clean() -> None:
    """Refuse to fork where a child could inherit somebody's lock, or torch."""
    if "torch" in sys.modules:
        raise RuntimeError("torch is imported: forked children would inherit its threads")
    if threading.active_count() != 1:
        raise RuntimeError("threads are alive: forked children would inherit their locks")


def start(work: Callable[[], Any], report: Path, limit: int = LIMIT) -> int:
    """Fork a child that runs ``work`` and writes what it returns to ``report``; return its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _run(work, report, limit)
    return child


def _run(work: Callable[[], Any], report: Path, limit: int) -> NoReturn:
    code = 1
    try:
        signal.alarm(limit)
        report.write_text(json.dumps(work()))
        code = 0
    except BaseException:  # noqa: BLE001 - the child's last word
        report.with_suffix(".error").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def wait(child: int) -> str:
    """Wait for ``child`` and return how it ended: ``done``, ``killed``, ``too slow``, or what else."""
    return how(os.waitpid(child, 0)[1])


def how(status: int) -> str:
    """Return how a process with this wait status ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {signal.SIGKILL: "killed", signal.SIGALRM: "too slow"}.get(
            signal.Signals(number), signal.Signals(number).name
        )
    code = os.waitstatus_to_exitcode(status)
    return "done" if code == 0 else f"failed with {code}"


def in_child(work: Callable[[], Any], report: Path) -> tuple[str, Any]:
    """Run ``work`` in a child and return how it ended and what it returned."""
    ended = wait(start(work, report))
    if ended == "done":
        return ended, json.loads(report.read_text())
    error = report.with_suffix(".error")
    return ended, error.read_text() if error.exists() else None
