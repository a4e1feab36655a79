"""Anchors on a PKCS#11 token, tried on SoftHSM2: each scene of `anchor_token_play` in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from counterseal.tests.runtime.anchor_token_play import PIN, SCENES

MODULES = [
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/lib64/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
]

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which SoftHSM2 has one fresh token."""
    if shutil.which("softhsm2-util") is None or not any(path.exists() for path in MODULES):
        pytest.fail("these tests need SoftHSM2: apt-get install -y softhsm2 (or dnf install softhsm)")
    home = tmp_path_factory.mktemp("softhsm")
    (home / "tokens").mkdir()
    told = f"directories.tokendir = {home}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    (home / "softhsm2.conf").write_text(told)
    environment = {**os.environ, "SOFTHSM2_CONF": str(home / "softhsm2.conf")}
    make = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        "officer",
        "--pin",
        PIN.decode(),
        "--so-pin",
        "so-pin",
    ]
    subprocess.run(make, check=True, capture_output=True, env=environment)
    yield environment


@pytest.mark.parametrize("scene", list(SCENES))
def test_scene(scene: str, settings: dict[str, str], tmp_path: Path) -> None:
    module = next(path for path in MODULES if path.exists())
    command = [sys.executable, "-m", "counterseal.tests.runtime.anchor_token_play", scene, str(module), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=60, check=False)
    assert done.stdout == "fine\n", done.stderr
