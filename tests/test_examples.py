"""The examples run, and the README shows what runs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from .runtime.demo_world import played

ROOT = Path(__file__).parents[1]
UTILITY = ROOT / "examples" / "privacy_utility"


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


@pytest.mark.processes
def test_the_study_of_privacy_and_utility_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(UTILITY / "study.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert {one["mechanism"] for one in found["points"]} == {"dp-sgd", "output-gaussian", "output-laplace"}
    for one in found["points"]:
        assert 0.95 * one["epsilon"] < one["stated"] <= one["epsilon"]
        assert all(0.0 <= accuracy <= 1.0 for accuracy in one["accuracy"])
    assert found["time"]["private"] > found["time"]["noise"] >= 0
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG" and "Unprotected" in (
        tmp_path / "results.txt"
    ).read_text()


def test_the_committed_results_are_one_and_what_their_text_says() -> None:
    results, text = json.loads((UTILITY / "results.json").read_text()), (UTILITY / "results.txt").read_text()
    assert _load("table").table(results) == text
    assert text in (UTILITY / "README.md").read_text()
    assert {one["epsilon"] for one in results["points"]} == {1.0, 2.0, 4.0, 8.0}
    for one in results["federations"]:
        for site in one["sites"].values():
            assert site["stated"] <= one["asked"] and abs(site["stated"] - site["recomputed"]) <= 2e-3 * site["stated"]
            assert abs(site["stated"] - site["other"]) <= 0.03


@pytest.mark.parametrize("algorithm", ["fedavg", "iiadmm"])
def test_the_study_without_seals_trains_what_a_federation_trains(tmp_path: Path, algorithm: str) -> None:
    from counterseal.parameters import Schema, encode
    from counterseal.runtime.demo.datasets import load_dataset
    from counterseal.runtime.demo.settings import DemoSettings

    loop = _load("loop")
    settings = DemoSettings.of(dataset="breast-cancer", model="logistic", sites=3, rounds=2, algorithm=algorithm)
    dataset = load_dataset("breast-cancer", seed=settings.seed)
    sites = loop.cut(dataset, settings.names, seed=settings.seed)
    one = loop.Loop(settings.run(dataset), sites, dataset.test)
    accuracy = one.play()
    whole = played(tmp_path / "out", settings)
    assert accuracy == [right for _, _, right in whole.federated]
    encoded = b"".join(encode(Schema.of(one.final), one.final))
    assert hashlib.sha256(encoded).hexdigest() == whole.rounds[-1]["model"]


def _load(name: str) -> Any:
    """Return a module of the study, which is no package."""
    spec = importlib.util.spec_from_file_location(f"utility_{name}", UTILITY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for their own module
    spec.loader.exec_module(module)
    return module
