"""`site doctor --through`: a worker that is well, and each way in which a cluster's worker is not."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import yaml

from counterseal.runtime.cli.doctor import Check, judged
from counterseal.runtime.cli.doctor_state import StateChecks
from counterseal.runtime.cli.doctor_worker import WorkerChecks
from counterseal.runtime.config import load_site
from counterseal.runtime.endpoint.folder import write_folder
from counterseal.runtime.endpoint.kit import Kit
from counterseal.runtime.site.probe import probe
from counterseal.tests.globus.test_endpoint_kit import kit
from counterseal.tests.runtime.cli_world import World, call, document, execute

pytestmark = pytest.mark.processes

NAMES = ("runs", "state folder", "locks", "persistence", "clock", "device")

NODE = """
import fcntl, runpy, sys, time
sys.argv = sys.argv[sys.argv.index("counterseal.runtime.cli"):]
import counterseal.runtime.site.probe as probe
{patch}
runpy.run_module("counterseal.runtime.cli", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("worker"))


@pytest.fixture
def config(founded: World) -> Path:
    path = founded.site()
    (path.parent / "state").mkdir(mode=0o700, exist_ok=True)
    value = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**value, "device": "cpu"}))
    return path


def told(config: Path, *through: str, kit: Kit | None = None) -> dict[str, Check]:
    checks = WorkerChecks(load_site(config), config, lambda: kit, through)
    found = {name.removeprefix("worker: "): judged(name, check) for name, check in checks.each()}
    assert tuple(found) == NAMES
    assert list((config.parent / "state").glob(".doctor-*")) == [], "nothing is left behind"
    return found


def node(folder: Path, patch: str) -> tuple[str, ...]:
    """A worker that differs from this machine by ``patch``."""
    path = folder / "node.py"
    path.write_text(NODE.format(patch=patch))
    return sys.executable, str(path)


def test_a_worker_that_is_well(config: Path) -> None:
    found = told(config, "env", "SOMETHING=1")
    assert {check.ok for check in found.values()} == {True}, found
    assert "both directions" in found["locks"].what and "cpu" in found["device"].what


def test_through_the_launcher_of_the_endpoint(config: Path, tmp_path: Path) -> None:
    made = kit(tmp_path / "ward", config=str(config), program=str(Path(sys.executable).with_name("counterseal")))
    write_folder(made)
    found = told(config, "env", kit=made)
    assert {check.ok for check in found.values()} == {True}, found
    assert made.launcher in found["runs"].what


def test_a_launcher_that_others_could_write_is_not_run(config: Path, tmp_path: Path) -> None:
    """A doctor that is run by root, or by the site's account, must not run what the server's code left in the folder."""
    made = kit(tmp_path / "ward", config=str(config), program="/bin/false")
    write_folder(made)
    (tmp_path / "ward" / "deliver").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "ward").chmod(0o777)
    found = told(config, "env", kit=made)
    assert found["runs"].ok and "counterseal.runtime.cli" in found["runs"].what
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("patch", "failed", "mend"),
    [
        ("fcntl.flock = lambda *_: None", "locks", "NFS"),
        ("probe._take = lambda path: path.touch() or 0; probe.os.close = lambda _: None", "locks", "Lustre"),
        ("probe.replace_file = lambda *_, **__: None", "persistence", "keeps what a job wrote"),
        ("probe.write_table = lambda *_: None", "persistence", "share"),
        ("now = time.time; time.time = lambda: now() + 900", "clock", "NTP"),
        ("import counterseal.runtime.cli.doctor_state as s; from pathlib import Path; s.nearest = lambda _: Path('/usr')",
         "state folder", "share"),
    ],
)  # fmt: skip
def test_each_harm_fails_alone(config: Path, tmp_path: Path, patch: str, failed: str, mend: str) -> None:
    found = told(config, *node(tmp_path, patch))
    bad = {name: check for name, check in found.items() if check.ok is False}
    assert set(bad) == {failed}, found
    assert mend in bad[failed].mend


def test_a_device_that_is_not_there(config: Path) -> None:
    config.write_text(config.read_text().replace("device: cpu", "device: cuda:63"))
    found = told(config, "env")
    assert found["device"].ok is False and "--gpus" in found["device"].mend


@pytest.mark.parametrize(
    ("through", "said"),
    [
        (("true",), "it said nothing"),
        (("sh", "-c", "echo srun: error: Invalid partition >&2; exit 1"), "Invalid partition"),
        (("echo", "job 7 queued"), "exit code 0"),
        (("sh", "-c", 'cat >/dev/null & echo \'{"counterseal-probe": 1, "nonce": "replayed"}\''), "no report"),
        (("/nonexistent/srun",), "does not run"),
    ],
)
def test_a_prefix_that_reaches_no_worker(config: Path, through: tuple[str, ...], said: str) -> None:
    found = told(config, *through)
    assert found["runs"].ok is False and said in found["runs"].what and found["runs"].mend
    assert {check.ok for name, check in found.items() if name != "runs"} == {None}


def test_a_queue_that_is_never_served_is_left(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is told to go, so that it can cancel its job, before it is killed."""
    monkeypatch.setattr("counterseal.runtime.cli.doctor_worker.WAIT", 1.0)
    script = f"trap 'echo cancelled > {tmp_path}/job; exit 1' TERM; sleep 60 & wait"
    found = told(config, "sh", "-c", script)
    assert found["runs"].ok is False and (tmp_path / "job").read_text() == "cancelled\n"


def test_noise_of_the_scheduler_is_no_report(config: Path) -> None:
    found = told(config, "sh", "-c", 'echo "job 7 starts"; echo "[1]"; exec "$@"', "sh")
    assert found["runs"].ok is True


def test_a_shared_file_system_is_judged_by_the_worker(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterseal.runtime.cli.doctor_state._filesystem", lambda _: "lustre")
    state = load_site(config).state
    alone, through = (judged("state: folder", StateChecks(state, through=word).state) for word in (False, True))
    assert alone.ok is False and "--through" in alone.mend
    assert through.ok is None and "worker" in through.what


def test_the_command(config: Path) -> None:
    result = call("site", "doctor", "--config", config, "--through", "env A='b c'", "--json")
    found = {check["name"]: check["ok"] for check in document(result)["checks"]}
    assert [found[f"worker: {name}"] for name in NAMES] == [True] * 6
    assert call("site", "doctor", "--config", config, "--through", "srun 'x").exit_code == 2


def test_the_probe_answers_nobody_else(config: Path) -> None:
    done = execute("site", "probe", "--config", config)
    assert done.returncode == 2 and "doctor" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "scratch", ["../keys", "/etc", ".doctor-../../x", ".doctor-ABCDEFGH", ".doctor-", ".doctor-1234567\n"]
)
def test_the_probe_goes_into_no_other_folder(tmp_path: Path, scratch: str) -> None:
    greeting = json.dumps({"scratch": scratch, "nonce": "0" * 32}).encode() + b"\n"
    assert probe(tmp_path, lambda: "cpu", (io.BytesIO(greeting), io.BytesIO())) is False


def test_the_probe_follows_no_link(tmp_path: Path) -> None:
    """Who can start the probe may also be able to make names: neither a folder nor a lock may lead elsewhere."""
    nonce = "0" * 32
    real = tmp_path / "elsewhere"
    real.mkdir()
    (real / "nonce").write_text(nonce)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".doctor-12345678").symlink_to(real)
    greeting = json.dumps({"scratch": ".doctor-12345678", "nonce": nonce}).encode() + b"\n"
    out = io.BytesIO()
    assert probe(tmp_path / "state", lambda: "cpu", (io.BytesIO(greeting), out))
    assert json.loads(out.getvalue())["seen"] is False and [one.name for one in real.iterdir()] == ["nonce"]
