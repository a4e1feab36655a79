"""`counterseal site endpoint`: options become a kit, and what cannot work is refused before anything is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from counterseal.runtime.endpoint.folder import read_kit
from counterseal.runtime.endpoint.kit import Batch
from counterseal.tests.globus.test_endpoint_kit import DAEMON, FUNCTION, SERVER
from counterseal.tests.runtime.cli_world import call, document

SITE = """
identity: 11111111-2222-4333-8444-555555555555
charter: charter
keys: keys
passphrase: {file: passphrase}
state: state
store: {kind: directory, path: store}
loader: {entry_point: arrays, folder: data}
globus:
  client_id: 22222222-2222-4333-8444-555555555555
  client_secret: {file: secret}
  server_client: 0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d
"""


def _site(folder: Path, old: str = "", new: str = "") -> Path:
    path = folder / "site.yaml"
    path.write_text(SITE.replace(old, new) if old else SITE)
    return path


def _command(folder: Path, *options: object, config: Path | None = None) -> Any:
    where = config or _site(folder)
    usual = (
        "--config",
        where,
        "--function",
        FUNCTION,
        "--out",
        folder / "ward",
        "--daemon",
        DAEMON,
        "--user",
        "fedendpoint",
    )
    return call("site", "endpoint", *usual, *options)


def test_the_command_writes_a_folder_and_says_what_comes_next(tmp_path: Path) -> None:
    result = _command(
        tmp_path, "--profile", "slurm", "--partition", "gpu", "--gpus", 1, "--run-as", "fedsite", "--json"
    )
    assert result.exit_code == 0, result.output
    told = document(result)
    made = read_kit(tmp_path / "ward")
    assert made.client == SERVER and made.batch == Batch(partition="gpu", gpus=1) and made.run_as == "fedsite"
    assert made.program == str(Path(sys.executable).with_name("counterseal"))
    assert told["launcher"] == str(tmp_path / "ward" / "deliver") and len(told["next"]) == 6
    shown = _command(tmp_path, "--profile", "laptop")
    assert shown.exit_code == 0 and "NOT COVERED" in shown.output and "setsid" in shown.output


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--profile", "laptop", "--partition", "gpu"), 2, "does not belong"),
        (("--profile", "slurm", "--image", "x"), 2, "does not belong"),
        (("--profile", "laptop", "--gpus", "1"), 2, "does not belong"),
        (("--profile", "mainframe"), 2, "profile"),
        (("--profile", "kubernetes", "--image", "x"), 2, "claim"),
        (("--profile", "laptop", "--map-to", "x"), 2, "--multi-user"),
        (("--profile", "laptop", "--user", "root"), 2, "root"),
        (("--profile", "laptop", "--daemon", "/opt/a b/x"), 2, "daemon"),
    ],
)
def test_wrong_options_are_usage_errors(tmp_path: Path, options: tuple[str, ...], code: int, said: str) -> None:
    result = _command(tmp_path, *options)
    assert (result.exit_code, said in result.output) == (code, True), result.output
    assert not (tmp_path / "ward").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("passphrase: {file: passphrase}", "passphrase: {environment: P}", "passphrase is in an environment variable"),
        ("client_secret: {file: secret}", "client_secret: {environment: S}", "client_secret is in an environment"),
        (SITE[SITE.index("globus:") :], "", "no block globus"),
    ],
)
def test_a_site_that_cannot_work_behind_the_launcher_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    result = _command(tmp_path, "--profile", "laptop", config=_site(tmp_path, old, new))
    assert result.exit_code == 1 and said in " ".join(result.output.split()), result.output
    assert not (tmp_path / "ward").exists()
