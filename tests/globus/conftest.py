"""Fixtures of the tests about Globus."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from counterseal.tests.globus.ceremony_world import Ceremony, convene, draw_keys
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


@pytest.fixture(scope="session")
def key_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key folders of everybody at the ceremony of enrolment."""
    return draw_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def ceremony(cloud: Cloud, tmp_path: Path, key_folders: Path) -> Ceremony:
    """A server and three sites, before there is a federation."""
    return convene(cloud, tmp_path, key_folders)
