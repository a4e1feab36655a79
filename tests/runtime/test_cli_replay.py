"""`counterseal audit replay`, as the auditor of a federation on disk calls it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import Result

from counterseal.runtime.founding.charter_folder import write_charter_folder
from counterseal.trust.keys.custody import create_folder
from counterseal.trust.keys.passphrase import Passphrase

from ..federation import SERVER, Clock, Federation
from .cli_world import call, document, execute, require_clean
from .test_replay import AUDITOR, bias, play


@dataclass(frozen=True)
class Desk:
    """What an auditor has on its disk."""

    federation: Federation

    @classmethod
    def make(cls, folder: Path, rounds: int) -> Desk:
        # The command reads the real clock: a charter of the future would not hold.
        federation = Federation.make(folder, 3, auditor=True, clock=Clock(int(time.time())))
        play(federation, rounds)
        passphrase = federation.folder / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text("a passphrase for tests")
        for name, member in (("keys", AUDITOR), ("server-keys", SERVER)):
            create_folder(federation.folder / name, federation.keys[member], Passphrase.from_file(passphrase))
        signatures = [(one.document.identity, one.raw) for one in federation.charter.signatures]
        write_charter_folder(federation.folder / "charter", federation.charter.raw, signatures)
        (federation.folder / "store.yaml").write_text("store: {kind: directory, path: store}\n")
        return cls(federation)

    @property
    def folder(self) -> Path:
        return self.federation.folder

    def arguments(self, *more: object, keys: str = "keys", store: str = "store") -> list[object]:
        wanted = {"--charter": "charter", "--store": store, "--keys": keys, "--passphrase-file": "passphrase"}
        named = [word for option, name in wanted.items() for word in (option, self.folder / name)]
        return ["audit", "replay", self.federation.log_folder, *named, *more]

    def call(self, *more: object, keys: str = "keys", store: str = "store") -> Result:
        return call(*self.arguments(*more, keys=keys, store=store))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk.make(tmp_path_factory.mktemp("audit") / "fed", 2)


def test_replay_for_people(desk: Desk) -> None:
    done = execute(*desk.arguments())
    require_clean(done, 0)
    assert "2 PASS" in done.stdout and "run-1 version 2  leaf" in done.stdout and done.stderr == ""


def test_replay_loads_neither_torch_nor_boto3(desk: Desk) -> None:
    words = [str(one) for one in desk.arguments()]
    program = (
        "import sys; from counterseal.runtime.cli.application import app\n"
        f"try: app({words!r})\n"
        "except SystemExit as end: print(end.code, *(name for name in ('torch', 'boto3') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines()[-1] == "0", (done.stdout, done.stderr)


def test_replay_as_json_with_a_store_file(desk: Desk) -> None:
    result = desk.call("--json", "--run", "run-1", store="store.yaml")
    assert result.exit_code == 0, result.output
    found = document(result)
    assert found["passed"] and found["charter"] == desk.federation.charter.digest
    assert [(one["version"], one["status"]) for one in found["commits"]] == [(1, "PASS"), (2, "PASS")]


def test_a_missing_object_is_named_and_is_no_failure(desk: Desk) -> None:
    path = desk.folder / "store" / "objects" / "runs" / "run-1" / "versions" / "000001" / "openings"
    kept = path.rename(desk.folder / "kept")
    try:
        result = desk.call()
    finally:
        kept.rename(path)
    assert result.exit_code == 0 and "1 PASS, 1 UNDECIDED" in result.stdout
    assert "openings of version 1: no such object" in result.stdout


def test_a_failure_is_exit_code_1(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        bias(patch)
        desk = Desk.make(tmp_path / "fed", 1)
    result = desk.call("--json")
    assert result.exit_code == 1 and [one["status"] for one in document(result)["commits"]] == ["FAIL"]
    assert desk.call().exit_code == 1


def test_refusals_say_what_to_do(desk: Desk, tmp_path: Path) -> None:
    wrong = desk.call(keys="server-keys")
    assert wrong.exit_code == 1 and "no sealing key of the auditor" in wrong.stderr
    nowhere = desk.call(store="nothing")
    assert nowhere.exit_code == 3 and "no store lies here" in nowhere.stderr
    assert not (desk.folder / "nothing").exists()
    unknown = desk.call("--run", "other", "--json")
    assert unknown.exit_code == 1 and json.loads(unknown.stdout)["error"]["code"] == "replay"
