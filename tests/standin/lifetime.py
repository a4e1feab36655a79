"""Processes of the stand-in end with whoever started them, however that ended."""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__ = ["block_signals", "wait_for_the_end"]

_ENDS = {signal.SIGTERM, signal.SIGINT}


def block_signals() -> None:
    """Keep the signals that end us for `wait_for_the_end`; call it before any thread starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)


def wait_for_the_end(*, child: bool) -> None:
    """Wait for SIGTERM or SIGINT and, as a ``child``, for the end of standard input, which is the end of our parent."""
    if child:
        threading.Thread(target=_follow_parent, daemon=True).start()
    signal.sigwait(_ENDS)


def _follow_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
