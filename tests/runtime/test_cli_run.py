"""Whole runs by command, as processes: server, sites, status, interruption, and what an outside reviewer then does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from counterseal.audit.checks.source import FolderSource
from counterseal.audit.tlog.proof import LogProof
from counterseal.runtime.cli.timeline import read_copy
from counterseal.runtime.config import load_server
from counterseal.tests.runtime.cli_world import SITES, World, call, command, document, execute, require_clean

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, Any]]:
    """A federation whose run is over, and what `server run --json` printed."""
    world = World.make(tmp_path_factory.mktemp("finished"))
    done = execute("server", "run", "--config", world.server, "--json")
    require_clean(done, 0)
    for secret in world.secrets():
        assert secret not in done.stdout + done.stderr
    return world, json.loads(done.stdout)


@pytest.fixture
def log(finished: tuple[World, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of its log that a test may harm."""
    shutil.copytree(finished[0].log, tmp_path / "log")
    return tmp_path / "log"


def test_run_tells_the_whole_result_as_json(finished: tuple[World, dict[str, Any]]) -> None:
    _, result = finished
    assert (result["outcome"], result["versions"], result["witnessed"]) == ("completed", 2, True)
    assert result["cosigners"] == list(SITES) and set(result["final"]) == set(SITES)
    assert [one["committed"] for one in result["rounds"]] == [True, True]
    assert {site["verdict"] for one in result["rounds"] for site in one["sites"]} == {"admitted"}


def test_run_again_tells_the_same_and_adds_nothing(finished: tuple[World, dict[str, Any]]) -> None:
    world, first = finished
    size = read_copy(world.log).checkpoint.size
    done = execute("server", "resume", "--config", world.server)
    require_clean(done, 0)
    assert first["model"] in done.stdout and read_copy(world.log).checkpoint.size == size


def test_the_table_for_people(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    done = execute("server", "run", "--config", world.server)
    require_clean(done, 0)
    for word in ("round 1 of 2 committed", "about", "left", "coefficient", "accuracy", "admitted", *SITES):
        assert word in done.stdout
    assert "\x1b" not in done.stdout  # no colours and no bars where there is no terminal
    assert done.stderr == ""


def test_status_from_the_log(finished: tuple[World, dict[str, Any]]) -> None:
    world, result = finished
    found = document(call("server", "status", "--config", world.server, "--json"))
    assert found["running"] is False
    (run,) = found["runs"]
    assert (run["run"], run["outcome"], run["versions"], run["rounds"]) == ("run-1", "completed", 2, 2)
    assert run["model"] == result["model"] and run["admitted"] == 6
    assert "run-1: completed at version 2 of 2, witnessed" in call("server", "status", "-c", world.server).stdout


def test_status_and_resume_before_anything_was_started(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    assert "No run was started." in call("server", "status", "--config", world.server).stdout
    done = execute("server", "resume", "--config", world.server)
    require_clean(done, 1)
    assert "never started" in done.stderr and "server run" in done.stderr
    assert not world.log.exists()


def test_a_second_server_is_refused_while_one_is_at_work(tmp_path: Path) -> None:
    world = World.make(tmp_path, rounds=200)  # more than a slow machine gets through while the second one starts
    with _serving(world) as first:
        _wait_for_version(world, 1)
        assert document(call("server", "status", "--config", world.server, "--json"))["running"] is True
        done = execute("server", "run", "--config", world.server)
        require_clean(done, 3)
        assert "another process" in done.stderr
        assert first.poll() is None
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(60) == 130


ROUNDS = 30


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How a run of `ROUNDS` ends that nobody disturbed, in a federation with other keys."""
    world = World.make(tmp_path_factory.mktemp("undisturbed"), ROUNDS)
    done = execute("server", "run", "--config", world.server, "--json")
    require_clean(done, 0)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_gives_the_undisturbed_model(
    number: signal.Signals, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    world = World.make(tmp_path, ROUNDS)
    with _serving(world) as server:
        _wait_for_version(world, 2)
        if number is signal.SIGINT:
            os.killpg(server.pid, number)  # as a terminal does: the server and its sites
        else:
            server.send_signal(number)
        out, err = server.communicate(timeout=60)
    assert server.returncode == 130, err
    assert "interrupted; nothing is lost" in err and f"server resume --config {world.server}" in err
    assert "Traceback" not in out + err
    assert "Traceback" not in "".join(path.read_text() for path in world.server.parent.rglob("*.stderr.txt"))
    made = document(call("server", "status", "--config", world.server, "--json"))["runs"][0]
    assert 2 <= made["versions"] < ROUNDS and made["outcome"] == ""
    resumed = execute("server", "resume", "--config", world.server, "--json")
    require_clean(resumed, 0)
    end = json.loads(resumed.stdout)
    assert end["model"] == undisturbed["model"] and end["versions"] == ROUNDS and end["witnessed"]
    verified = call("audit", "verify", world.log, "--charter", world.server.parent / "charter", "--json")
    assert verified.exit_code == 0, verified.output


def test_verify_a_whole_log(finished: tuple[World, dict[str, Any]]) -> None:
    world, _ = finished
    result = call("audit", "verify", world.log, "--charter", world.server.parent / "charter", "--json")
    assert result.exit_code == 0, result.output
    found = document(result)
    assert found["passed"] and found["charter_compared"] and found["charter"] == world.founded.digest
    rows = {row["id"]: row["status"] for row in found["obligations"]}
    assert rows.pop("16") == "NOT COVERED" and set(rows.values()) == {"PASS"} and len(rows) == 16
    shown = call("audit", "verify", world.log, "--digest", world.founded.digest)
    assert shown.exit_code == 0 and "16 PASS, 1 NOT COVERED" in shown.stdout


def test_verify_without_a_root_of_trust_says_so(finished: tuple[World, dict[str, Any]]) -> None:
    result = call("audit", "verify", finished[0].log)
    assert result.exit_code == 0 and "  0  UNDECIDED" in result.stdout and "--digest" in result.stdout


def test_verify_against_another_charter_fails(finished: tuple[World, dict[str, Any]], tmp_path: Path) -> None:
    world, _ = finished
    told = call("audit", "verify", world.log, "--digest", "ab12" * 16)
    assert told.exit_code == 1 and "PASS" not in told.stdout
    other = World.make(tmp_path)
    result = call("audit", "verify", world.log, "--charter", other.server.parent / "charter", "--json")
    assert result.exit_code == 1 and not document(result)["passed"]


def test_verify_a_charter_that_was_swapped_beside_the_log(
    finished: tuple[World, dict[str, Any]], log: Path, tmp_path: Path
) -> None:
    """A server that replaces log and objects alike passes its own charter, but not the digest that was told."""
    world, _ = finished
    own = next(path for path in (log / "objects").iterdir() if path.stem == world.founded.digest)
    own.write_bytes(own.read_bytes().replace(b"test", b"best").replace(b'"f":1', b'"f":2'))
    result = call("audit", "verify", log, "--digest", world.founded.digest)
    assert result.exit_code == 1 and "do not lie beside the log" in result.stderr


@pytest.mark.parametrize("harm", ["leaf", "checkpoint", "missing"])
def test_verify_fails_with_a_reason(finished: tuple[World, dict[str, Any]], log: Path, harm: str) -> None:
    size = read_copy(log).checkpoint.size
    if harm == "leaf":
        bundle = max(
            (log / "tile" / "entries").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0
        )
        data = bytearray(bundle.read_bytes())
        data[len(data) // 2] ^= 1
        bundle.write_bytes(data)
    elif harm == "checkpoint":
        path = log / "checkpoints" / str(size)
        path.write_bytes(path.read_bytes().replace(f"\n{size}\n".encode(), f"\n{size - 1}\n".encode()))
    else:
        shutil.rmtree(log / "tile" / "0")
    charter = finished[0].server.parent / "charter"
    result = call("audit", "verify", log, "--charter", charter, "--json")
    found = document(result)
    bad = [row for row in found["obligations"] if row["status"] in {"FAIL", "UNDECIDED"}]
    assert bad and all(row["reasons"] for row in bad)
    assert result.exit_code == 1 and not found["passed"]
    shown = call("audit", "verify", log, "--charter", charter)
    assert shown.exit_code == result.exit_code and all(row["reasons"][0][:40] in shown.stdout for row in bad)


def test_verify_loads_no_torch_boto3_or_globus(finished: tuple[World, dict[str, Any]]) -> None:
    code = (
        "import sys\n"
        "from counterseal.runtime.cli import main\n"
        f"sys.argv = ['counterseal', 'audit', 'verify', {str(finished[0].log)!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'boto3', 'botocore', 'globus_sdk', 'globus_compute_sdk', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PASS" in done.stdout


def test_a_site_process_loads_no_torch_before_training(finished: tuple[World, dict[str, Any]]) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from counterseal.runtime.assembly import open_site\n"
        "from counterseal.runtime.config import load_site\n"
        "import counterseal.runtime.site.worker, counterseal.runtime.cli.application\n"
        f"with open_site(load_site(Path({str(finished[0].site())!r}))): pass\n"
        "heavy = {'torch', 'boto3', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_show_filters_by_run_and_site(finished: tuple[World, dict[str, Any]]) -> None:
    world, _ = finished
    everything = document(call("audit", "show", world.log, "--json"))
    assert len(everything["events"]) == everything["size"] and everything["verified"] is False
    of_site = document(call("audit", "show", world.log, "--site", SITES[0], "--run", "run-1", "--json"))["events"]
    assert 0 < len(of_site) < everything["size"]
    assert all(SITES[0] in json.dumps(one["event"]) and one["event"]["run"] == "run-1" for one in of_site)
    receipts = [one for one in everything["events"] if one["event"]["type"] == "receipt.file"]
    mine = [one for one in receipts if one["event"]["actor"] == SITES[0]]
    assert {one["index"] for one in mine} <= {one["index"] for one in of_site}
    text = call("audit", "show", world.log, "--run", "run-1").stdout
    assert "aggregate.commit" in text and "Not verified" in text


def test_show_neutralises_what_a_log_may_hold(log: Path) -> None:
    """A hostile copy: leaves that are no events, and an origin with terminal escapes."""
    from counterseal.audit.tlog.tiles import encode_bundle

    for path in (log / "tile" / "entries").rglob("*"):
        if path.is_file():
            count = read_copy(log).checkpoint.size
            evil = b'{"payload":"\x1b]0;owned\x07","x":"\xe2\x80\xae"}'
            path.write_bytes(
                encode_bundle([evil] * min(int(path.name) if path.parent.name.endswith(".p") else 256, count))
            )
    result = call("audit", "show", log)
    assert result.exit_code == 0 and "cannot read" in result.stdout
    assert "\x1b" not in result.stdout and "\x07" not in result.stdout and "\u202e" not in result.stdout


def test_proof_verifies_with_the_log_key_alone(finished: tuple[World, dict[str, Any]], tmp_path: Path) -> None:
    world, _ = finished
    copy = read_copy(world.log)
    charter = world.founded.charter
    key = charter.statements[charter.charter.server].document.checkpoint
    assert key is not None
    for index in (0, 10, copy.checkpoint.size - 1):
        path = tmp_path / f"{index}.tlog-proof"
        result = call("audit", "proof", world.log, "--index", index, "--out", path, "--json")
        assert result.exit_code == 0 and document(result)["root"] == copy.checkpoint.root.hex()
        proof = LogProof.parse(path.read_bytes())
        assert proof.verify(copy.leaves[index], copy.checkpoint.origin, key) == copy.checkpoint
    again = call("audit", "proof", world.log, "--index", 0, "--out", tmp_path / "0.tlog-proof")
    assert again.exit_code == 1 and "already there" in again.stderr
    none = call("audit", "proof", world.log, "--index", copy.checkpoint.size, "--out", tmp_path / "x")
    assert none.exit_code == 1 and not (tmp_path / "x").exists()


def test_proof_refuses_a_damaged_log(log: Path, tmp_path: Path) -> None:
    size = read_copy(log).checkpoint.size
    (bundle,) = [path for path in (log / "tile" / "entries").rglob(str(size)) if path.is_file()]
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    bundle.write_bytes(data)
    result = call("audit", "proof", log, "--index", 0, "--out", tmp_path / "x")
    assert result.exit_code == 1 and "do not hash" in result.stderr and not (tmp_path / "x").exists()


def test_a_delivery_by_hand(finished: tuple[World, dict[str, Any]], tmp_path: Path) -> None:
    world, _ = finished
    (tmp_path / "delivery.json").write_text('{"ticket": "nonsense"}')
    done = execute("site", "run", "--config", world.site(), "--delivery", tmp_path / "delivery.json")
    require_clean(done, 1)
    assert json.loads(done.stdout)["fault"]["code"] and "refused" in done.stderr
    kept = execute(
        *(
            "site",
            "run",
            "--config",
            world.site(),
            "--delivery",
            tmp_path / "delivery.json",
            "--out",
            tmp_path / "a.json",
        )
    )
    require_clean(kept, 1)
    assert kept.stdout == "" and json.loads((tmp_path / "a.json").read_text()) == json.loads(done.stdout)
    require_clean(execute("site", "run", "--config", world.site(), "--out", tmp_path / "b"), 2)


def test_a_site_that_serves_ends_with_its_input(finished: tuple[World, dict[str, Any]]) -> None:
    done = execute("site", "run", "--config", finished[0].site())
    require_clean(done, 0)
    assert done.stdout == "" and "0 deliveries answered" in done.stderr
    require_clean(execute("site", "run", "--config", finished[0].site(), input="garbage\n", stdin=None), 3)


def test_status_reads_only(finished: tuple[World, dict[str, Any]]) -> None:
    state = load_server(finished[0].server).state
    before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    call("server", "status", "--config", finished[0].server)
    assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == before
    assert FolderSource(finished[0].log).sizes()


class _serving:
    """A server process in a group of its own, killed at the end if it still runs."""

    def __init__(self, world: World) -> None:
        self._process = subprocess.Popen(
            command("server", "run", "--config", world.server),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A suite that was started in the background ignores SIGINT, and so would everything it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> subprocess.Popen[str]:
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def _wait_for_version(world: World, version: int, seconds: float = 60) -> None:
    """Wait until the log's latest checkpoint holds the commit that made ``version``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        runs = document(call("server", "status", "--config", world.server, "--json"))["runs"]
        if runs and runs[0]["versions"] >= version:
            return
        time.sleep(0.02)
    raise AssertionError(f"no version {version} after {seconds} seconds")
