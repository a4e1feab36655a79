"""Whose tasks a real endpoint daemon runs, and as whom: the two ways in which a site can let a server reach it.

Under the server's own service account an unprivileged daemon runs the server's tasks as itself (test_standin_compute.py). Under
an account of the site's own only a daemon with root's privileges and an identity mapping runs them, as the user that the
mapping says; without privileges it refuses, whatever the mapping says. The tests need root for the first half of that, and
test the second half without.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterseal.tests.globus.caller import Caller, account_id
from counterseal.tests.standin.daemon import NOBODY, ROOT
from counterseal.tests.standin.endpoint_files import write_endpoint
from counterseal.tests.standin.world import EndpointDaemon, StandIn

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def server(standin: StandIn) -> Caller:
    return Caller(standin.url, standin.control.client("server"))


@pytest.fixture(scope="module")
def site(standin: StandIn) -> Caller:
    return Caller(standin.url, standin.control.client("site"))


@pytest.fixture(scope="module")
def daemon(standin: StandIn, server: Caller, site: Caller) -> Iterator[EndpointDaemon]:
    """An endpoint under the site's own account that maps the server to nobody; root's if we are root."""
    standin.control.enforce_owner(False)  # what the daemon does is the question
    folder = standin.folder.with_name("multi")
    users = folder / "users"
    users.mkdir(parents=True)
    mapping = write_mapping(folder / "mapping.json", server.client[0])
    write_endpoint(
        folder,
        "multi",
        email="admin@site.example",
        identity_mapping_config_path=str(mapping),
        environment={"GLOBUS_COMPUTE_USER_DIR": str(users), "PATH": f"{EndpointDaemon.programs()}:{os.defpath}"},
    )
    made = EndpointDaemon(standin, folder, "multi", site.client, user=ROOT)
    with made:
        if os.geteuid() == 0:
            shutil.chown(users, NOBODY, NOBODY)
        yield made


def write_mapping(path: Path, identity: str) -> Path:
    rule = {"source": "{id}", "match": identity, "output": "nobody", "literal": True}
    path.write_text(json.dumps([{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}]))
    return path


def outcome(caller: Caller, endpoint: str) -> dict[str, Any]:
    return caller.wait(caller.submit(endpoint, caller.register(account_id)))


def test_only_a_privileged_daemon_maps_the_server_to_a_local_user(daemon: EndpointDaemon, server: Caller) -> None:
    found = outcome(server, daemon.uuid)
    if os.geteuid() == 0:
        assert server.serializer.deserialize(found["result"])[0] == NOBODY
    else:
        assert found["status"] == "failed" and "untrusted identity" in found["exception"]


def test_only_a_privileged_daemon_says_that_it_is_for_others(standin: StandIn, daemon: EndpointDaemon) -> None:
    assert standin.control.endpoints()[daemon.uuid]["multi_user"] is (os.geteuid() == 0)


def test_identities_without_a_mapping_are_refused(standin: StandIn, daemon: EndpointDaemon) -> None:
    stranger = Caller(standin.url, standin.control.client("stranger"))
    found = outcome(stranger, daemon.uuid)
    assert found["status"] == "failed"
    reason = "failed to map to a local user" if os.geteuid() == 0 else "untrusted identity"
    assert reason in found["exception"]


def test_with_a_mapping_the_sites_own_account_is_nobody_special(daemon: EndpointDaemon, site: Caller) -> None:
    found = outcome(site, daemon.uuid)
    if os.geteuid() == 0:
        assert found["status"] == "failed" and "failed to map" in found["exception"]
    else:
        assert site.serializer.deserialize(found["result"])[0] == os.geteuid()


def test_a_linked_identity_is_mapped_like_the_one_it_is_linked_with(
    standin: StandIn, daemon: EndpointDaemon, server: Caller, site: Caller
) -> None:
    linked = Caller(standin.url, standin.control.client("linked"))
    standin.control.link(server.client[0] if os.geteuid() == 0 else site.client[0], linked.client[0])
    found = outcome(linked, daemon.uuid)
    assert linked.serializer.deserialize(found["result"])[0] == (NOBODY if os.geteuid() == 0 else os.geteuid())
