"""The stand-in's Compute under the real endpoint daemon: registration, tasks, refusals, outages, and tasks meddled with."""

from __future__ import annotations

import base64
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from globus_sdk import ComputeAPIError, NetworkError

from counterseal.tests.globus.caller import Caller, account_id, credentials, slow
from counterseal.tests.standin.endpoint_files import WORKERS, write_endpoint
from counterseal.tests.standin.state import COMPUTE_SCOPE
from counterseal.tests.standin.world import EndpointDaemon, StandIn

pytestmark = pytest.mark.processes


@dataclass
class Site:
    standin: StandIn
    caller: Caller
    daemon: EndpointDaemon
    who: str
    """The functions that the endpoint allows, and one that it does not."""
    slow: str
    curious: str
    unlisted: str

    @property
    def uuid(self) -> str:
        return self.daemon.uuid


@pytest.fixture(scope="module")
def site(standin: StandIn) -> Iterator[Site]:
    """An endpoint that runs under the caller's own service account and allows two functions."""
    client = standin.control.client("server")
    caller = Caller(standin.url, client)
    who, sleeper, curious, unlisted = (caller.register(each) for each in (account_id, slow, credentials, account_id))
    folder = standin.folder.with_name("site")
    folder.mkdir()
    write_endpoint(folder, "site", allowed=[who, sleeper, curious])
    with EndpointDaemon(standin, folder, "site", client) as daemon:
        yield Site(standin, caller, daemon, who, sleeper, curious, unlisted)


@pytest.fixture(autouse=True)
def _as_before(standin: StandIn) -> Iterator[None]:
    yield
    standin.control.clear_meddling()
    standin.control.clear_faults()
    standin.control.enforce_allowed(True)
    standin.control.enforce_owner(True)


def test_a_function_runs_as_somebody_without_privileges_and_is_polled_for(site: Site) -> None:
    user, process = site.caller.result(site.uuid, site.who)
    assert user == site.daemon.user
    if os.geteuid() == 0:
        assert user != 0
    assert site.daemon.user_endpoints() == [process]  # the thread engine runs tasks in the user endpoint itself
    assert site.caller.v2.get_endpoint_status(site.uuid)["status"] == "online"
    assert not any("queue" in path or "amqp" in path for _, path, _ in site.standin.control.requests)


def test_a_function_is_shown_with_its_code(site: Site) -> None:
    assert site.caller.v2.get_function(site.who)["function_code"] == site.caller.code(account_id)
    with pytest.raises(ComputeAPIError) as refused:
        site.caller.v2.get_function("00000000-0000-4000-8000-000000000000")
    assert refused.value.http_status == 404


def test_an_unlisted_function_is_refused_by_the_service_and_by_the_daemon(site: Site) -> None:
    with pytest.raises(ComputeAPIError) as refused:
        site.caller.submit(site.uuid, site.unlisted)
    assert (refused.value.http_status, refused.value.code) == (403, "FUNCTION_NOT_PERMITTED")
    assert site.caller.v3.get_endpoint_allowlist(site.uuid)["functions"] == [site.who, site.slow, site.curious]
    site.standin.control.enforce_allowed(False)
    found = site.caller.wait(site.caller.submit(site.uuid, site.unlisted))
    assert found["status"] == "failed" and "not permitted" in found["exception"]


def test_what_the_service_refuses_at_once(site: Site) -> None:
    too_much = site.caller.body(site.who, "x" * 8_000_000)
    nowhere = site.caller.body(site.who, task_group_id="00000000-0000-4000-8000-000000000000")
    for body, status in ((too_much, 413), (nowhere, 404)):
        with pytest.raises(ComputeAPIError) as refused:
            site.caller.v3.submit(site.uuid, body)
        assert refused.value.http_status == status
    for status in (429, 503):
        site.standin.control.fault("compute", "/v3/endpoints/*/submit", status=status, retry_after=1)
        with pytest.raises(ComputeAPIError) as refused:
            site.caller.submit(site.uuid, site.who)
        assert refused.value.http_status == status
    assert site.caller.submit(site.uuid, site.who)


def test_the_daemons_login_does_not_reach_tasks(site: Site) -> None:
    assert site.caller.result(site.uuid, site.curious) == ["", ""]


def test_options_that_the_endpoint_does_not_know_fail_the_task(site: Site) -> None:
    task = site.caller.submit(site.uuid, site.who, user_endpoint_config={"worker_init": "echo"})
    found = site.caller.wait(task)
    assert found["status"] == "failed" and "result" not in found


def test_an_endpoints_policy_asks_for_another_login(site: Site) -> None:
    control, url = site.standin.control, site.standin.url
    strict = {"high_assurance": True, "required_mfa": True, "domain_constraints_include": ["a.example"]}
    policy = control.policy(authentication_assurance_timeout=600, **strict)
    registered = site.caller.v3.register_endpoint({"endpoint_name": "policed", "authentication_policy": policy})
    alice, mallory = control.person("alice@a.example"), control.person("mallory@m.example")
    good = {"amr": ["pwd", "mfa"]}
    old = {**good, "auth_time": int(time.time()) - 601}
    for person, session, allowed in (
        (alice, good, True),
        (alice, {}, False),
        (alice, old, False),
        (mallory, good, False),
    ):
        caller = Caller.with_token(url, control.token(person, COMPUTE_SCOPE, session))
        if allowed:
            assert caller.submit(registered["endpoint_id"], site.who)
            continue
        with pytest.raises(ComputeAPIError) as refused:
            caller.submit(registered["endpoint_id"], site.who)
        assert refused.value.info.authorization_parameters.session_required_policies == [policy]


def test_a_task_group_is_its_owners_and_may_hold_what_nobody_submitted(site: Site) -> None:
    reply = site.caller.v3.submit(site.uuid, site.caller.body(site.who))
    group = reply["task_group_id"]
    assert site.caller.submit(site.uuid, site.who, task_group_id=group)
    assert len(site.caller.v2.get_task_group(group)["tasks"]) == 2
    site.standin.control.meddle("extra", count=3)
    listed = site.caller.v2.get_task_group(group)["tasks"]
    assert len(listed) == 5
    assert site.caller.status(listed[-1]["id"]) == {"status": "failed", "reason": "unknown task id"}
    stranger = Caller(site.standin.url, site.standin.control.client("stranger"))
    with pytest.raises(ComputeAPIError):
        stranger.v2.get_task_group(group)
    assert stranger.status(listed[0]["id"])["reason"] == "unknown task id"


def test_tasks_are_lost_run_twice_and_answered_late_on_demand(site: Site, tmp_path: Path) -> None:
    control, file = site.standin.control, site.daemon.folder / "ran"
    control.meddle("lose", endpoint=site.uuid)
    control.meddle("redeliver", endpoint=site.uuid)
    lost = site.caller.submit(site.uuid, site.slow, str(file), 0.0)
    twice = site.caller.submit(site.uuid, site.slow, str(file), 0.0)
    control.meddle("delay", seconds=1.0)  # whichever of its two results comes first
    kept = site.caller.wait(twice)
    until(lambda: control.tasks()[twice]["results"] == 2)
    assert kept["status"] == "success" and site.caller.status(twice) == kept
    assert file.read_text() == "ran\nran\n"
    assert control.tasks()[lost]["delivered"] == 0 and "completion_t" not in site.caller.status(lost)
    control.meddle("delay", seconds=1.5)
    control.meddle("repeat")
    before = time.monotonic()
    late = site.caller.submit(site.uuid, site.who)
    site.caller.wait(late)
    assert time.monotonic() - before >= 1.5
    until(lambda: control.tasks()[late]["results"] == 2)


def test_results_are_replaced_by_hostile_ones_and_forgotten_on_demand(site: Site, tmp_path: Path) -> None:
    control, mark = site.standin.control, tmp_path / "mark"
    control.meddle("hostile", text=f"touch {mark}")
    trap = site.caller.wait(site.caller.submit(site.uuid, site.who))["result"]
    kind, _, payload = trap.partition("\n")
    assert kind == "00" and not mark.exists()
    pickle.loads(base64.b64decode(payload))  # it is what it claims to be: whoever deserialises it runs the command
    assert mark.exists()
    control.meddle("replace", text='11\n"ours"')
    assert (
        site.caller.serializer.deserialize(site.caller.wait(site.caller.submit(site.uuid, site.who))["result"])
        == "ours"
    )
    control.meddle("forget")
    task = site.caller.submit(site.uuid, site.who)
    assert "result" in site.caller.wait(task)
    again = site.caller.status(task)
    assert again["status"] == "success" and "result" not in again and "exception" not in again


def test_a_result_outlives_the_brokers_restart_and_an_outage_of_the_services(site: Site) -> None:
    site.caller.result(site.uuid, site.who)
    task = site.caller.submit(site.uuid, site.slow, str(site.daemon.folder / "bounced"), 1.0)
    until((site.daemon.folder / "bounced").exists)
    site.standin.stop_broker()
    site.standin.stop_cloud()
    with pytest.raises(NetworkError):
        site.caller.status(task)
    site.standin.start_cloud()
    site.standin.start_broker()
    assert site.caller.wait(task)["status"] == "success"
    assert site.caller.result(site.uuid, site.who)


def test_a_killed_user_endpoint_loses_its_task_and_the_next_one_starts(site: Site) -> None:
    file = site.daemon.folder / "killed"
    lost = site.caller.submit(site.uuid, site.slow, str(file), 60.0)
    until(file.exists)
    time.sleep(0.6)  # by then the message is acknowledged: the daemon acknowledges what it has begun
    assert site.daemon.kill_user_endpoint(signal.SIGKILL) == 1
    site.daemon.forgive()
    assert site.caller.result(site.uuid, site.who)
    assert "completion_t" not in site.caller.status(lost)


def test_a_stranger_is_refused_by_the_service_and_by_the_daemon(site: Site) -> None:
    stranger = Caller(site.standin.url, site.standin.control.client("stranger"))
    with pytest.raises(ComputeAPIError) as refused:
        stranger.submit(site.uuid, site.who)
    assert (refused.value.http_status, refused.value.code) == (403, "ENDPOINT_ACCESS_FORBIDDEN")
    site.standin.control.enforce_owner(False)
    found = stranger.wait(stranger.submit(site.uuid, site.who))
    assert found["status"] == "failed" and "untrusted identity" in found["exception"]
    assert len(site.daemon.user_endpoints()) <= 1
    site.standin.control.link(site.caller.client[0], stranger.client[0])
    assert stranger.result(site.uuid, site.who)[0] == site.daemon.user


def test_a_daemon_comes_back_as_the_same_endpoint_after_a_power_failure(site: Site) -> None:
    before, old = site.uuid, site.daemon.pid
    site.daemon.kill()
    assert not Path(f"/proc/{old}").exists()
    site.daemon.forgive()
    assert site.daemon.start() == before and site.daemon.pid != old
    assert site.caller.result(site.uuid, site.who)


def test_the_sdks_executor_gets_its_results_through_the_broker(site: Site) -> None:
    environment = {
        "PATH": os.defpath,
        "HTTP_PROXY": site.standin.url,
        "GLOBUS_SDK_ENVIRONMENT": "local",
        "GLOBUS_SDK_SERVICE_URL_AUTH": site.standin.url + "/auth",
        "GLOBUS_COMPUTE_CLIENT_ID": site.caller.client[0],
        "GLOBUS_COMPUTE_CLIENT_SECRET": site.caller.client[1],
        "GLOBUS_COMPUTE_USER_DIR": str(site.standin.folder / "sdk"),
    }
    program = (
        "import os, sys\n"
        "from globus_compute_sdk import Client, Executor\n"
        "executor = Executor(endpoint_id=sys.argv[1], client=Client(local_compute_services=True))\n"
        "print(executor.submit_to_registered_function(sys.argv[2], (0.0,)).result(timeout=60)[0], flush=True)\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, site.uuid, site.who]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout.strip() == str(site.daemon.user), done.stderr


def test_workers_of_production_run_a_function_and_an_ended_endpoint_is_offline(standin: StandIn) -> None:
    client = standin.control.client("production")
    caller = Caller(standin.url, client)
    function = caller.register(account_id)
    folder = standin.folder.with_name("production")
    folder.mkdir()
    write_endpoint(folder, "workers", engine=WORKERS)
    with EndpointDaemon(standin, folder, "workers", client) as daemon:
        user, process = caller.result(daemon.uuid, function)
        (user_endpoint,) = daemon.user_endpoints()
        assert user == daemon.user and process != user_endpoint
    until(lambda: caller.v2.get_endpoint_status(daemon.uuid)["status"] == "offline")
    assert not Path(f"/proc/{process}").exists() and not Path(f"/proc/{user_endpoint}").exists()


def until(done: object, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    assert callable(done)
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
