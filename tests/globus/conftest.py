"""Fixtures of the tests about Globus."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from counterseal.tests.standin.cloud import Cloud
from counterseal.tests.standin.world import StandIn


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A stand-in for Globus Auth and Groups, fresh for each test."""
    with Cloud() as made:
        yield made


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    """The whole stand-in as processes, for one module."""
    folder = Path(tempfile.mkdtemp(prefix="counterseal-"))
    folder.chmod(0o755)  # daemons run as somebody else
    try:
        with StandIn(folder / "cloud") as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
