"""The examples run, and the README shows what runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.processes
def test_embedding_a_federation(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "embed.py"), str(tmp_path / "fed")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^completed: 3 versions, \d+ leaves, cosigned by site-a, site-b, site-c$", done.stdout, re.MULTILINE
    )
    assert done.stdout.count("accuracy") == 3


def test_the_readme_shows_the_example() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown in (ROOT / "examples" / "embed.py").read_text()


def test_what_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text())
    local = [link for link in links if "://" not in link]
    assert local and [link for link in local if not (ROOT / link).exists()] == []
