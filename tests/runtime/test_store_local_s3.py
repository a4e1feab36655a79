"""The private S3 server: nothing of it outlives its owner, and nobody else gets in."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from counterseal.runtime.errors import StoreSetupError, StoreUnavailableError
from counterseal.runtime.stores import local_s3
from counterseal.runtime.stores.local_s3 import LocalS3, find_weed
from counterseal.tests.seaweed import store_on

pytestmark = pytest.mark.processes


def alive(pid: int) -> bool:
    try:
        return "weed" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_it_serves_privately_and_ends_with_an_exception(tmp_path: Path) -> None:
    tmp_path = tmp_path / ("a-deep-folder" * 10)  # longer than the path of a socket may be
    with pytest.raises(RuntimeError, match="ours"), LocalS3(tmp_path / "s3") as server:
        pid = server.pid or 0
        assert alive(pid)
        command = Path(f"/proc/{pid}/cmdline").read_text()
        assert server.secret_key not in command
        for name in ("s3.json", "data", "tmp", "logs"):
            assert (tmp_path / "s3" / name).stat().st_mode & 0o077 == 0
        store = store_on(server, "models")
        store.put("k", b"x")
        assert store.get("k", limit=1) == b"x"
        store.close()
        watchdog = server._watchdog.pid if server._watchdog else 0
        raise RuntimeError("ours")
    assert not alive(pid) and server.pid is None
    assert not Path(f"/proc/{watchdog}").exists()
    assert not [path for path in Path("/tmp").glob("seaweedfs-*.sock") if str(server.port + 10_000) in path.name]


def test_it_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from counterseal.runtime.stores.local_s3 import LocalS3\n"
        "with LocalS3(Path(sys.argv[1])) as server:\n"
        "    print(server.pid, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "s3")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
        owner.kill()
        owner.wait()
    assert gone(pid, 30)


def test_a_server_that_dies_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "weed"
    program.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(local_s3, "find_weed", lambda: program)
    with pytest.raises(StoreUnavailableError, match=r"weed\.log"), LocalS3(tmp_path / "s3"):
        raise AssertionError
    assert (tmp_path / "s3" / "weed.log").read_text().count("no") == 3


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(StoreSetupError, match=r"requirements/seaweedfs\.txt"):
        find_weed()
    with pytest.raises(StoreSetupError), LocalS3(tmp_path / "s3"):
        raise AssertionError
    assert not (tmp_path / "s3").exists()
