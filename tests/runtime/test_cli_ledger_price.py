"""`counterseal ledger price`: the numbers are those that a site states, and a target is met by the noise it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from counterseal.runtime.cli.application import app

RUN = """\
name: priced
seed: 1
rounds: 4
model: {{name: logistic, parameters: {{inputs: 6, classes: 3}}}}
trainer: {{name: torch, {work}}}
aggregation: {{clip_norm: 1.0}}
minimum_sites: 1
evaluation: {{sites: false}}
{privacy}
"""
DP = "steps: 5, sampling_rate: 0.1, normaliser: 10, unit: patient"
TERMS = (
    "privacy: {{terms: {{mechanism: {mechanism}, clip_norm: 1.0, noise_multiplier: {noise}, delta: {delta}, "
    "releases: 4, {more}}}}}"
)


def priced(tmp_path: Path, mechanism: str, noise: float, *options: str, delta: float = 1e-5, more: str = DP) -> Any:
    path = tmp_path / "run.yaml"
    privacy = TERMS.format(mechanism=mechanism, noise=noise, delta=delta, more=more)
    path.write_text(RUN.format(work="steps: 5", privacy=privacy))
    done = CliRunner().invoke(app, ["ledger", "price", str(path), *options, "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.output)["terms"]
    return row


@pytest.mark.parametrize(
    ("mechanism", "delta", "more"),
    [
        ("dp-sgd", 1e-5, DP),
        ("output-gaussian", 1e-5, "unit: site, adjacency: any"),
        ("output-laplace", 0, "unit: site, adjacency: any"),
    ],
)
def test_the_noise_that_is_named_meets_the_target(tmp_path: Path, mechanism: str, delta: float, more: str) -> None:
    row = priced(tmp_path, mechanism, 1.0, "--epsilon", "2.0", delta=delta, more=more)
    assert row["epsilon"] > row["epsilon_of_one_release"] > 0 and row["needs"] > 1.0
    better = priced(tmp_path, mechanism, row["needs"], delta=delta, more=more)
    assert 1.9 < better["epsilon"] <= 2.0


def test_a_run_without_terms_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.format(work="epochs: 1", privacy=""))
    done = CliRunner().invoke(app, ["ledger", "price", str(path)])
    assert done.exit_code == 0 and "exactly as computed" in done.output
