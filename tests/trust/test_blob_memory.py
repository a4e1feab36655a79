"""Memory does not grow with the model: measured as anonymous memory of a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 150 << 20


def measure(folder: Path, length: int) -> list[int]:
    folder.mkdir()
    command = [sys.executable, "-m", "counterseal.tests.trust.blob_memory", str(folder), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.processes
def test_memory_is_flat(tmp_path: Path) -> None:
    large, middle = measure(tmp_path / "large", 300_000_000), measure(tmp_path / "middle", 100_000_000)
    for one, two in zip(large, middle, strict=True):
        assert 0 < one < LIMIT
        assert one < two + (24 << 20)
