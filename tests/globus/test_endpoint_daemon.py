"""The kit's folders under the real daemon: what the server's call reaches, as whom, and what it cannot reach.

The daemon, its engine and its workers, the registered function and the launcher are real; Globus' web services and the
scheduler are stood in for; the site's program is a script that shows what it was given. Changing users (identity mapping, sudo)
needs root, and sudo needs to be installed (`make system`).
"""

from __future__ import annotations

import base64
import getpass
import json
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

from counterseal.runtime.cli.doctor import judged
from counterseal.runtime.cli.doctor_endpoint import EndpointChecks
from counterseal.runtime.config import GlobusConfig, PassphraseConfig, load_site
from counterseal.runtime.endpoint.folder import drift, read_kit, write_folder
from counterseal.runtime.endpoint.kit import Batch, Kit, MultiUser
from counterseal.runtime.transports.compute.results import Outcome
from counterseal.runtime.transports.compute.service import ComputeService
from counterseal.tests.globus.caller import Caller, account_id
from counterseal.tests.standin.daemon import NOBODY, ROOT, find_endpoint_program
from counterseal.tests.standin.slurm import write_slurm
from counterseal.tests.standin.world import EndpointDaemon, StandIn

pytestmark = pytest.mark.processes

JSON = ["globus_compute_sdk.serialize.JSONData"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

PROGRAM = """#!/bin/sh
# Shows who it is, what it was told and given, and what arrived; "slow" takes its time.
input=$(cat)
case "$input" in *slow*) sleep 8 ;; esac
printf '{"uid": %s, "arguments": "%s", "input": "%s", "environment": "%s", "job": "%s"}' \\
  "$(id -u)" "$*" "$input" "$(/usr/bin/env | cut -d= -f1 | tr '\\n' ' ')" "${SLURM_JOB_ID-}"
"""


@dataclass
class Server:
    """The server's account at Globus, and its function."""

    standin: StandIn
    client: tuple[str, str]
    service: ComputeService
    function: str

    def send(self, endpoint: str, *deliveries: str) -> list[str]:
        coded = [base64.b64encode(one.encode()).decode() for one in deliveries]
        return self.service.submit(endpoint, self.function, None, coded)[1]

    def wait(self, tasks: list[str], count: int | None = None, patience: float = 150.0) -> dict[str, Outcome]:
        """Return the first ``count`` outcomes."""
        deadline = time.monotonic() + patience
        while True:
            found = {
                task: one for task, one in self.service.results(tasks) if one is not None and one.state != "pending"
            }
            if len(found) >= (count or len(tasks)):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.7)

    def ask(self, endpoint: str, delivery: str) -> dict[str, Any]:
        (outcome,) = self.wait(self.send(endpoint, delivery)).values()
        assert outcome.answer is not None, outcome
        told: dict[str, Any] = json.loads(outcome.answer)
        return told


@pytest.fixture(scope="module")
def server(standin: StandIn) -> Iterator[Server]:
    client = standin.control.client("server")
    secret = standin.folder.with_name("secret")
    secret.touch(0o600)
    secret.write_text(client[1])
    config = GlobusConfig(
        client_id=client[0], client_secret=PassphraseConfig(file=secret), insecure_test_cloud=standin.url
    )
    service = ComputeService(config)
    yield Server(standin, client, service, service.register())
    service.close()


@pytest.fixture(scope="module")
def place(standin: StandIn) -> Path:
    """A folder that every account can reach, with the site's program."""
    folder = standin.folder.with_name("kit")
    folder.mkdir(mode=0o755)
    program = folder / "bin" / "counterseal"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    (folder / "site.yaml").write_text("")
    return folder


def made(server: Server, place: Path, name: str, profile: str = "laptop", **changes: Any) -> Kit:
    user = pwd.getpwuid(NOBODY).pw_name if os.geteuid() == 0 else getpass.getuser()
    values: dict[str, Any] = {
        "profile": profile,
        "name": name,
        "folder": str(place / name / "endpoint"),
        "config": str(place / "site.yaml"),
        "function": server.function,
        "program": str(place / "bin" / "counterseal"),
        "daemon": str(find_endpoint_program()),
        "user": user,
        "test_cloud": server.standin.url,
    }
    return Kit.model_validate({**values, **changes})


def daemon_of(server: Server, kit: Kit, client: tuple[str, str] | None = None, **more: Any) -> EndpointDaemon:
    write_folder(kit)
    folder = Path(kit.folder)
    tmp = folder.parent / "tmp"
    tmp.mkdir(exist_ok=True)
    environment = {"TMPDIR": str(tmp), **more.pop("environment", {})}
    return EndpointDaemon(
        server.standin, folder.parent, folder.name, client or server.client, environment=environment, **more
    )


@pytest.fixture(scope="module")
def laptop(server: Server, place: Path) -> Iterator[EndpointDaemon]:
    with daemon_of(server, made(server, place, "laptop")) as daemon:
        yield daemon


def test_a_delivery_reaches_the_program_and_nothing_else_does(
    server: Server, laptop: EndpointDaemon, place: Path
) -> None:
    told = server.ask(laptop.uuid, "a delivery")
    assert told["arguments"] == f"site answer --config {place / 'site.yaml'}" and told["input"] == "a delivery"
    assert told["uid"] == laptop.user
    names = set(told["environment"].split()) - {"PWD", "SHLVL", "_", "OLDPWD"}
    assert names == {"PATH", "HOME", "LANG", "TMPDIR"}, "the daemon's secret stays with the daemon"


def test_the_daemon_s_files_are_no_drift(server: Server, laptop: EndpointDaemon) -> None:
    server.ask(laptop.uuid, "once more")
    folder = laptop.folder / laptop.name
    assert drift(read_kit(folder), folder) == ()


SITE = """
identity: {client}
charter: charter
keys: keys
passphrase: {{file: passphrase}}
state: state
store: {{kind: directory, path: store}}
loader: {{entry_point: arrays, folder: data}}
globus: {{client_id: {client}, client_secret: {{file: {secret}}}, insecure_test_cloud: "{url}"}}
"""


def test_the_doctor_finds_the_daemon_online_and_its_function_ours(
    server: Server, laptop: EndpointDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "site.yaml"
    secret = server.standin.folder.with_name("secret")
    path.write_text(SITE.format(client=server.client[0], secret=secret, url=server.standin.url))
    checks = EndpointChecks(load_site(path), None, laptop.folder / laptop.name)
    found = {name.removeprefix("endpoint: "): judged(name, check) for name, check in checks.each()}
    assert found["online"].ok and "allows the one function" in found["online"].what, found
    assert found["function"].ok and found["daemon"].ok, found
    assert found["folder"].ok is None and "TEST CLOUD" in found["folder"].what


def test_a_second_worker_is_free_while_the_first_trains(server: Server, laptop: EndpointDaemon) -> None:
    server.ask(laptop.uuid, "warm")
    (slow,) = server.send(laptop.uuid, "slow")
    time.sleep(2)
    started = time.monotonic()
    assert server.ask(laptop.uuid, "quick")["input"] == "quick"
    assert time.monotonic() - started < 6, "the second delivery waited for the first"
    (outcome,) = server.wait([slow]).values()
    assert outcome.answer is not None and json.loads(outcome.answer)["input"] == "slow"


def test_other_functions_and_options_are_refused(server: Server, laptop: EndpointDaemon) -> None:
    caller = Caller(server.standin.url, server.client)
    other = caller.register(account_id)
    server.standin.control.enforce_allowed(False)
    try:
        found = caller.wait(caller.submit(laptop.uuid, other))
    finally:
        server.standin.control.enforce_allowed(True)
    assert found["status"] == "failed"
    for options in ({"worker_init": "touch /tmp/pwned"}, {"engine": {"type": "ThreadPoolEngine"}}, {"x": "{{ 7*7 }}"}):
        body = {"user_endpoint_config": options}
        found = caller.wait(caller.submit(laptop.uuid, server.function, "eA==", **body))
        assert found["status"] == "failed", options


def test_arguments_that_would_be_unpickled_are_refused(server: Server, laptop: EndpointDaemon) -> None:
    """`Caller` packs arguments with the SDK's default, dill: the worker takes JSON."""
    caller = Caller(server.standin.url, server.client)
    found = caller.wait(caller.submit(laptop.uuid, server.function, "eA=="))
    assert found["status"] == "failed" and "disabled by current configuration" in str(found["exception"])


@pytest.fixture(scope="module")
def site_account(standin: StandIn) -> tuple[str, str]:
    return standin.control.client("the site's own account")


def _account(stack: ExitStack, name: str) -> int:
    """Make a local account, and remove it at the end."""
    subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name], check=True)
    stack.callback(subprocess.run, ["userdel", name], check=False, capture_output=True)
    return pwd.getpwnam(name).pw_uid


@as_root
def test_a_multi_user_daemon_runs_the_server_as_the_mapped_account(
    server: Server, place: Path, site_account: tuple[str, str]
) -> None:
    work = place / "multi" / "work"
    users = MultiUser(server=server.client[0], user="nobody", email="it@site.example", work=str(work))
    kit = made(server, place, "multi", user="root", multi_user=users)
    daemon = daemon_of(server, kit, site_account, user=ROOT)
    work.mkdir()
    shutil.chown(work, NOBODY, NOBODY)
    with daemon:
        assert server.ask(daemon.uuid, "hello")["uid"] == NOBODY
        stranger = Caller(server.standin.url, server.standin.control.client("a stranger"))
        found = stranger.wait(stranger.submit(daemon.uuid, server.function, "eA=="))
        assert found["status"] == "failed" and "failed to map" in found["exception"]


def look(key: str, program: str, config: str) -> list[str]:
    """What somebody would send who has the server's login at Globus, under the id that the endpoint lists."""
    import os
    import subprocess

    def run(*command: str) -> str:
        done = subprocess.run(command, input=b"a delivery", capture_output=True, check=False)
        return done.stdout.decode() if done.returncode == 0 else "refused"

    try:
        with open(key) as file:  # noqa: PTH123 - this text runs at the endpoint
            read = file.read()
    except OSError as error:
        read = type(error).__name__
    sudo = ("sudo", "-n", "-u", "csealsite", "--")
    return [
        str(os.getuid()),
        read,
        run(os.environ["COUNTERSEAL_SITE"]),
        run(*sudo, program, "site", "probe", "--config", config),
        run(*sudo, "id", "-u"),
        run(*sudo, "cat", key),
        run(*sudo, program, "site", "run", "--config", config),
        run(*sudo, program, "site", "answer", "--config", "/etc/passwd"),
        run(*sudo, program, "site", "answer", "--config", config, "--patience", "1"),
        run("sudo", "-n", "-u", "root", "--", program, "site", "answer", "--config", config),
        run("sudo", "-n", "-u", "csealsite", "PYTHONPATH=/tmp", program, "site", "answer", "--config", config),
    ]


@as_root
@pytest.mark.parametrize("multi", [False, True], ids=["under the server's account", "multi-user"])
def test_sudo_is_the_wall_between_the_server_s_code_and_the_site(
    server: Server, place: Path, site_account: tuple[str, str], multi: bool
) -> None:
    """Other code under the allowed id runs: it is another account, cannot read the keys, and sudo lets it start one program."""
    if shutil.which("sudo") is None:
        pytest.fail("sudo is not installed: `make system`")
    name = "walled-multi" if multi else "walled"
    with ExitStack() as stack:
        uid = _account(stack, "csealsite")
        key = place / "keys"
        key.write_text("the site's key")
        key.chmod(stat.S_IRUSR)
        shutil.chown(key, uid)
        work = place / name / "work"
        users = MultiUser(server=server.client[0], user="nobody", email="it@site.example", work=str(work))
        changes: dict[str, Any] = {"user": "root", "multi_user": users} if multi else {}
        caller = Caller(server.standin.url, server.client)
        caller.serializer = ComputeSerializer(strategy_code=PureSourceTextInspect, strategy_data=JSONData)
        listed = caller.register(look)
        kit = made(server, place, name, run_as="csealsite", function=listed, **changes)
        daemon = daemon_of(server, kit, site_account if multi else None, user=ROOT if multi else NOBODY)
        if multi:
            work.mkdir()
            shutil.chown(work, NOBODY, NOBODY)
            _install(stack, Path(kit.folder) / "pam", Path("/etc/pam.d/counterseal-endpoint"), 0o644)
        _install(stack, Path(kit.folder) / "sudoers", Path("/etc/sudoers.d/counterseal-test"), 0o440)
        stack.enter_context(daemon)
        found = caller.wait(
            caller.submit(daemon.uuid, listed, str(key), kit.program, kit.config, result_serializers=JSON), 150
        )
        assert found["status"] == "success", found
        who, read, answer, probe, *refused = caller.serializer.deserialize(found["result"])
        assert (who, read) == (str(NOBODY), "PermissionError")
        told = json.loads(answer)
        assert (told["uid"], told["input"]) == (uid, "a delivery"), told
        assert told["arguments"] == f"site answer --config {kit.config}"
        assert not {"GLOBUS_COMPUTE_CLIENT_SECRET", "TMPDIR", "COUNTERSEAL_SITE"} & set(told["environment"].split())
        assert json.loads(probe)["arguments"] == f"site probe --config {kit.config}"
        assert refused == ["refused"] * 7


def _install(stack: ExitStack, source: Path, target: Path, mode: int) -> None:
    stack.callback(target.unlink, missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def test_slurm_s_provider_queues_one_job_and_gives_it_back(server: Server, place: Path) -> None:
    """Real Parsl and daemon; `sbatch` and its friends run the job script here. A job has none of the daemon's environment."""
    slurm = place / "slurm-fake"
    commands = write_slurm(slurm)
    batch = Batch(partition="gpu", gpus=1, walltime="00:30:00", interface="lo", idle_seconds=10)
    kit = made(
        server,
        place,
        "slurm",
        "slurm",
        batch=batch,
        search=(str(commands),),
        worker_init="export MODULE=loaded\n",
        keep=("MODULE",),
    )
    with daemon_of(server, kit) as daemon:
        assert not any((slurm / "jobs").iterdir()), "nothing is queued before there is work"
        told = server.ask(daemon.uuid, "a delivery")
        assert (told["input"], told["job"]) == ("a delivery", "0")
        assert {"CUDA_VISIBLE_DEVICES", "MODULE"} <= set(told["environment"].split())
        script = (slurm / "jobs" / "0").read_text()
        for line in ("--partition=gpu", "--gpus-per-node=1", "--nodes=1", "--time=30"):
            assert f"#SBATCH {line}\n" in script
        server.ask(daemon.uuid, "another")
        assert len(list((slurm / "jobs").iterdir())) == 1, "one block, whatever comes"
        _until(lambda: (slurm / "cancelled").exists(), 60)
        assert server.ask(daemon.uuid, "after the job was given back")["job"] == "1"
    for pid in (slurm / "pids").iterdir():
        _until(lambda pid=pid: not Path("/proc", pid.read_text().strip()).exists(), 60)  # type: ignore[misc]


def _until(done: Callable[[], bool], patience: float) -> None:
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.3)
