"""The examples run, and the README shows what runs."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
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


@pytest.mark.processes
def test_an_embedded_run_leaves_no_thread_and_no_process(tmp_path: Path) -> None:
    from counterseal import found_federation, run_federation
    from counterseal.runtime.config import LoaderConfig, load_run
    from counterseal.runtime.training.arrays import write_arrays
    from counterseal.runtime.training.seam import Arrays

    run = load_run(ROOT / "examples" / "embed.yaml")
    sites = ("site-a", "site-b", "site-c")
    loaders = {site: LoaderConfig(entry_point="arrays", folder=Path("data")) for site in sites}
    founded = found_federation(tmp_path / "fed", sites, run=run, loaders=loaders)
    generator = np.random.default_rng(0)
    for site in sites:
        x = generator.normal(size=(40, 2)).astype(np.float32)
        data = Arrays(x, (x.sum(axis=1) > 0).astype(np.int64))
        write_arrays(founded.site_configs[site].parent / "data", train=data, test=data)
    threads, children = set(threading.enumerate()), set(psutil.Process().children(recursive=True))
    assert run_federation(founded.server_config).outcome == "completed"
    assert set(threading.enumerate()) == threads
    assert set(psutil.Process().children(recursive=True)) == children


def test_the_readme_shows_the_example() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown in (ROOT / "examples" / "embed.py").read_text()


def test_what_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text())
    local = [link for link in links if "://" not in link]
    assert local and [link for link in local if not (ROOT / link).exists()] == []
