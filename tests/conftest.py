"""Shared by all tests: skipping is failing where it counts, and the package is never imported under a second name."""

from __future__ import annotations

import os
import re
import sys

import pytest

_DIGITS = re.compile(r"[0-9a-f]{16}|[A-Za-z0-9+/]{24}")

FLOORS = {"algorithms", "audit", "privacy", "runtime", "trust"}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the session for a second copy of the package, and in CI for any skipped test."""
    doubled = sorted(FLOORS & {name.split(".")[0] for name in sys.modules})
    if doubled:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nimported twice, from the repository root: {doubled}")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    if os.environ.get("CI") and skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\n{len(skipped)} tests were skipped; in CI a skipped test is a failure")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name bytes and long texts by their length: fresh keys in a name would differ between parallel workers."""
    if isinstance(val, bytes):
        return f"{argname}-{len(val)}-bytes"
    if isinstance(val, str) and (len(val) > 60 or _DIGITS.search(val)):
        return f"{argname}-{len(val)}-characters"
    return None
