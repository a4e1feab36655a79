"""The demonstration: it runs, it resumes, it never mixes, and it says when something failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from counterseal.audit.checks.findings import Status
from counterseal.runtime.config import ConfigError
from counterseal.runtime.demo import play as playing
from counterseal.runtime.demo.baselines import CENTRALISED, baselines
from counterseal.runtime.demo.datasets import load_dataset
from counterseal.runtime.demo.document import document
from counterseal.runtime.demo.keep import keep
from counterseal.runtime.demo.play import DataReady, DemoResult, free_folder
from counterseal.runtime.demo.screen import Screen
from counterseal.runtime.demo.settings import DemoSettings
from counterseal.runtime.demo.surroundings import environment_without_keys
from counterseal.runtime.progress import RoundDone, SiteDone
from counterseal.runtime.training.seam import Arrays
from counterseal.runtime.transports.local import spawn

from .demo_world import SETTINGS, played
from .test_founding import contents


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, Path]:
    out = tmp_path_factory.mktemp("demo") / "out"
    result = played(out)
    keep(result, out)
    return result, out


def counterseal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "counterseal.runtime.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.processes
def test_the_command_in_processes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("demo", "--model", "logistic", "--rounds", "2", "--out", str(out), "--json")
    done = counterseal(*options)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)  # one document and nothing else
    assert said["good"] and said["verification"]["passed"]
    assert [one["committed"] for one in said["rounds"]] == [True, True]
    assert [row["status"] for row in said["verification"]["rows"]].count("FAIL") == 0
    assert set(said["accuracy"]["local_only"]) == {"site-a", "site-b", "site-c", "site-d"}
    assert sum(map(sum, said["partition"]["examples_by_class"].values())) == len(load_dataset("digits", seed=7).train)
    # a process a site: the transport keeps each one's standard error in a file of its own
    errors = sorted((out / "federation" / "server" / "state" / "sites").iterdir())
    assert [path.name for path in errors] == [f"site-{letter}.stderr.txt" for letter in "abcd"]
    assert "Round 2" in done.stderr and "partitioner" in done.stderr

    before = contents(out)
    again = counterseal(*options)
    assert again.returncode == 1 and "finished" in again.stderr + again.stdout
    other = counterseal(*options, "--seed", "8")
    assert other.returncode == 1 and "other settings" in other.stderr + other.stdout
    assert contents(out) == before


def test_wrong_usage_is_told_before_anything_is_written(tmp_path: Path) -> None:
    done = counterseal("demo", "--dataset", "breast-cancer", "--model", "cnn", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "--model" in done.stderr
    assert contents(tmp_path) == {}


def test_the_result_and_what_is_kept(finished: tuple[DemoResult, Path]) -> None:
    result, out = finished
    assert result.good
    assert [number for number, _, _ in result.federated] == [0, 1, 2]
    assert result.federated[-1][2] > result.federated[0][2]
    assert result.sealed.models == 3 and result.sealed.updates == 6
    stored = sum(path.stat().st_size for path in (out / "federation" / "store").rglob("payload"))
    assert result.sealed.bytes == stored
    kept = json.loads((out / "result.json").read_bytes())
    assert "partition" not in kept
    assert kept == json.loads(json.dumps(document(result, out / "report.html")))
    assert (out / "report.html").is_file()
    assert all((out / "federation" / "sites" / site / "report.html").is_file() for site in SETTINGS.names)


def test_a_finished_demonstration_is_refused_and_kept(finished: tuple[DemoResult, Path]) -> None:
    _, out = finished
    before = contents(out)
    with pytest.raises(ConfigError, match="finished"):
        played(out)
    with pytest.raises(ConfigError, match="other settings"):
        played(out, SETTINGS.model_copy(update={"rounds": 3}))
    assert contents(out) == before


def test_the_next_free_folder_is_taken(finished: tuple[DemoResult, Path], tmp_path: Path) -> None:
    _, out = finished
    other = SETTINGS.model_copy(update={"seed": 8})
    assert free_folder(SETTINGS, tmp_path / "demo") == tmp_path / "demo"
    assert free_folder(SETTINGS, out) == out.with_name("out-2")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.json").write_bytes(SETTINGS.payload())  # interrupted: go on there
    assert free_folder(SETTINGS, tmp_path / "demo") == tmp_path / "demo"
    assert free_folder(other, tmp_path / "demo") == tmp_path / "demo-2"
    assert contents(tmp_path) == {"demo": None, "demo/demo.json": SETTINGS.payload()}


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(ConfigError, match="something else"):
        played(tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"three years of work"}


def test_an_interrupted_demonstration_goes_on(finished: tuple[DemoResult, Path], tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if isinstance(event, RoundDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        played(tmp_path / "out", observe=interrupt)
    result = played(tmp_path / "out")
    assert result.good
    assert [(one["version"], one["committed"]) for one in result.rounds] == [(0, True), (1, True)]
    # the same settings are the same experiment, interrupted or not, under whatever keys
    assert result.run.model == finished[0].run.model
    assert result.founded.digest != finished[0].founded.digest
    assert result.curves == finished[0].curves


def test_an_interrupted_demonstration_on_s3_is_refused(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"store": "s3"})
    (tmp_path / "out" / "federation").mkdir(parents=True)
    (tmp_path / "out" / "demo.json").write_bytes(settings.payload())
    with pytest.raises(ConfigError, match="S3 server of this demonstration is gone"):
        played(tmp_path / "out", settings)


def test_a_tampered_log_does_not_pass(tmp_path: Path) -> None:
    result = played(tmp_path / "out", DemoSettings(dataset="breast-cancer", model="logistic", sites=2, rounds=1))
    assert playing.check_log(result.founded).passed
    for path in (result.founded.folder / "server" / "log" / "tile" / "entries").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    findings = playing.check_log(result.founded)
    assert not findings.passed
    assert not replace(result, findings=findings).good


def test_an_aborted_run_is_not_good(finished: tuple[DemoResult, Path]) -> None:
    result, _ = finished
    assert not replace(result, run=replace(result.run, outcome="aborted")).good


def test_the_exit_code_says_that_it_failed(
    finished: tuple[DemoResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer
    from typer.testing import CliRunner

    from counterseal.runtime.cli.demo import demo

    result, _ = finished
    aborted = replace(result, run=replace(result.run, outcome="aborted", reason="no_quorum"))
    monkeypatch.setattr(playing, "play", lambda settings, out, observe: aborted)
    app = typer.Typer()
    app.command()(demo)
    (tmp_path / "out").mkdir()
    done = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 1
    assert not json.loads(done.stdout)["good"]
    assert "no_quorum" in done.stderr


def test_the_store_s_credentials_stay_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "the-store-s-secret")
    monkeypatch.setenv("KEPT", "yes")
    ask = "import os; print(sorted(os.environ.items()))"
    start = spawn({"site-a": [sys.executable, "-c", ask]}, tmp_path, environment_without_keys())
    process = start("site-a")
    told = process.stdout.read().decode()
    process.end()
    assert "the-store-s-secret" not in told and "AWS_" not in told
    assert "('KEPT', 'yes')" in told and "('OMP_NUM_THREADS', '1')" in told
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "the-store-s-secret"


@pytest.mark.parametrize(
    "options",
    [
        {"dataset": "breast-cancer", "model": "cnn"},
        {"sites": 0},
        {"sites": 27},
        {"rounds": 0},
        {"seed": -1},
        {"dataset": "mnist"},
        {"suite": "none"},
    ],
    ids=str,
)
def test_settings_that_no_demonstration_has(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DemoSettings.of(**options)


def test_what_is_not_said_follows_the_data() -> None:
    assert DemoSettings.of().model == "cnn"
    assert DemoSettings.of(dataset="breast-cancer", model=None, rounds=None).model == "mlp"


def test_the_comparisons_start_alike_and_are_repeatable() -> None:
    dataset = load_dataset("breast-cancer", seed=1)
    half = len(dataset.train) // 2
    sites = {
        "site-a": Arrays(dataset.train.x[:half], dataset.train.y[:half]),
        "site-b": Arrays(dataset.train.x[half:], dataset.train.y[half:]),
    }
    run = DemoSettings(dataset="breast-cancer", model="logistic", sites=2, rounds=2).run(dataset)
    told: list[tuple[str, int, int]] = []
    first = baselines(run, sites, dataset.test, tell=lambda *step: told.append(step))
    assert list(first) == ["site-a", "site-b", CENTRALISED]
    assert len({(curve.loss[0], curve.accuracy[0]) for curve in first.values()}) == 1  # the same version 0
    assert all(len(curve.loss) == 3 and curve.loss[2] < curve.loss[0] for curve in first.values())
    assert baselines(run, sites, dataset.test) == first
    assert told[:2] == [("site-a", 1, 2), ("site-a", 2, 2)]


def test_class_counts_are_told_once_and_are_those_of_the_partition(tmp_path: Path) -> None:
    seen: list[DataReady] = []
    settings = DemoSettings(dataset="breast-cancer", model="logistic", sites=2, rounds=1)
    result = played(
        tmp_path / "out", settings, observe=lambda event: seen.append(event) if isinstance(event, DataReady) else None
    )
    (ready,) = seen
    assert sum(map(sum, ready.counts.values())) == len(ready.dataset.train)
    # nothing that the log keeps beside it holds them
    log = result.founded.folder / "server" / "log"
    for counts in ready.counts.values():
        for path in log.rglob("*"):
            if path.is_file():
                assert str(list(counts)).encode() not in path.read_bytes()


@pytest.mark.processes
def test_s3_gives_the_same_model_and_the_sites_get_no_credentials(
    finished: tuple[DemoResult, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = played(out, SETTINGS.model_copy(update={"store": "s3"}))
    assert result.good
    assert result.run.model == finished[0].run.model
    assert result.sealed == finished[0].sealed
    (identity,) = json.loads((out / "s3" / "s3.json").read_bytes())["identities"]
    secret = identity["credentials"][0]["secretKey"].encode()
    files = [path for path in (out / "federation").rglob("*") if path.is_file()]
    assert files and not any(secret in path.read_bytes() for path in files)
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ


def shown(*events: Any, result: DemoResult | None = None) -> str:
    console = Console(file=StringIO(), width=140, markup=False, highlight=False, emoji=False)
    with Screen(console) as screen:
        for event in events:
            screen.show(event)
        if result is not None:
            screen.finish(result, Path("report.html"))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_screen_shows_what_became_of_every_update() -> None:
    rejected = SiteDone(0, "site-a", "rejected", ("not_finite",), ("[red]near_duplicate[/red]",), metrics={})
    admitted = SiteDone(
        0, "site-b", "admitted", norm=1.25, bytes=1234, metrics={"after": {"loss": 0.5, "accuracy": 0.75}}
    )
    end = RoundDone(0, False, "too_few_updates", (rejected, admitted), "0" * 64, 2.0, 17)
    text = shown(end)
    assert "Round 1: NOT COMMITTED (too_few_updates)" in text
    assert "rejected not_finite [red]near_duplicate[/red]" in text  # no markup is read
    for value in ("1.250", "1,234", "0.500", "75.0%", "17 leaves"):
        assert value in text


def test_the_screen_ends_with_what_was_found(finished: tuple[DemoResult, Path]) -> None:
    result, _ = finished
    text = shown(result=result)
    assert f"{result.federated[-1][2]:.1%}" in text and "site-b alone" in text and "15 PASS" in text
    assert "counterseal audit verify" in text and "report.html" in text
    rows = tuple(replace(row, status=Status.FAIL, reasons=("leaf 7: bad",)) for row in result.findings.rows)
    bad = replace(
        result,
        findings=replace(result.findings, rows=rows),
        run=replace(result.run, witnessed=False, cosigners=(), outcome="aborted", reason="no_quorum"),
    )
    text = shown(result=bad)
    assert "UNWITNESSED" in text and "leaf 7: bad" in text and "aborted (no_quorum)" in text
    assert "NO " in text and "16 FAIL" in text
