"""`counterseal group`: made so that a federation can rest on it, and compared with a charter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterseal.tests.standin.cloud import Cloud

from ..runtime.cli_world import call, document
from .heart_world import HeartFederation, private

pytestmark = pytest.mark.processes


class Office:
    """Somebody who makes groups: a service account, with a configuration of Globus alone."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.client, secret = cloud.client("office")
        private(folder / "secret", secret)
        self.secret = secret
        self.file = folder / "globus.yaml"
        self.file.write_text(
            f"globus:\n  client_id: {self.client}\n  client_secret: {{file: secret}}\n"
            f"  insecure_test_cloud: {cloud.url}\n"
        )

    def call(self, command: str, *arguments: object) -> Any:
        done = call("group", command, *arguments, "--config", self.file, "--json")
        assert self.secret not in done.output
        return done

    def create(self, *arguments: object) -> str:
        done = self.call("create", "heart", *arguments)
        assert done.exit_code == 0, done.output
        return str(document(done)["group"])


@pytest.fixture
def office(cloud: Cloud, tmp_path: Path) -> Office:
    return Office(cloud, tmp_path)


def refused(done: Any) -> dict[str, str]:
    assert done.exit_code == 1, done.output
    found: dict[str, str] = document(done)["error"]
    return found


def test_a_new_group_is_one_that_a_federation_can_rest_on(office: Office) -> None:
    server, _ = office.cloud.client("server")
    group = office.create("--server", server, "--description", "Heart failure")
    assert office.cloud.members(group) == {office.client: ("admin", "active"), server: ("manager", "active")}
    facts = document(office.call("status", "--group", group))["group"]
    assert (facts["group_visibility"], facts["members_visibility"], facts["join_requests"]) == (
        "private",
        "members",
        False,
    )
    assert (facts["own_role"], facts["high_assurance"], facts["active_members"]) == ("admin", False, 2)


def test_the_maker_can_be_the_server(office: Office) -> None:
    group = office.create("--server", office.client)
    assert office.cloud.members(group) == {office.client: ("admin", "active")}


def test_a_group_for_people_can_ask_for_fresh_logins(office: Office) -> None:
    group = office.create("--assurance-seconds", 3600)
    assert refused(office.call("status", "--group", group))["code"] == "globus_refused"  # no login of ours is fresh


def test_a_subgroup_for_auditors(office: Office) -> None:
    parent = office.create()
    child = office.create("--parent", parent)
    assert child != parent


@pytest.mark.parametrize("path", ["/v2/groups/*/policies", "/v2/groups/????????-*"])
def test_a_group_left_half_made_is_finished_and_not_made_again(office: Office, path: str) -> None:
    server, _ = office.cloud.client("server")
    office.cloud.fault("groups", path, status=503, method="PUT" if path.endswith("policies") else "POST")
    done = office.call("create", "heart", "--server", server)
    error = document(done)["error"]
    assert (done.exit_code, error["code"]) == (3, "globus_unavailable")
    (group,) = [name for name, members in office.cloud.state()["groups"].items() if office.client in members]
    assert f"--finish {group}" in error["mend"] and group in error["where"]
    assert office.create("--server", server, "--finish", group) == group
    assert office.cloud.members(group)[server] == ("manager", "active")
    assert len(office.cloud.state()["groups"]) == 1


def test_nothing_is_tried_twice(office: Office) -> None:
    office.cloud.fault("groups", "/v2/groups", method="POST", drop=True)
    done = office.call("create", "heart")
    assert (done.exit_code, document(done)["error"]["code"]) == (3, "globus_unavailable")
    assert len(office.cloud.state()["groups"]) == 1


def test_people_are_invited_and_accounts_are_added(office: Office) -> None:
    group = office.create()
    anna = office.cloud.person("anna@hospital.example")
    account, _ = office.cloud.client("site-b")
    first = document(office.call("invite", "--group", group, "--username", "Anna@Hospital.example"))
    assert (first["identity"], first["status"]) == (anna, "invited")
    second = document(office.call("invite", "--group", group, "--identity", account.upper(), "--add"))
    assert (second["identity"], second["status"]) == (account, "active")
    third = document(
        office.call(
            "invite", "--group", group, "--identity", office.cloud.person("b@c.example"), "--role", "manager", "--add"
        )
    )
    assert office.cloud.members(group)[third["identity"]] == ("manager", "active")


def test_a_member_is_removed(office: Office) -> None:
    group = office.create()
    account, _ = office.cloud.client("site-b")
    office.call("invite", "--group", group, "--identity", account, "--add")
    assert document(office.call("remove", "--group", group, "--identity", account))["status"] == "removed"
    assert office.cloud.members(group)[account][1] == "removed"
    told = refused(office.call("remove", "--group", group, "--identity", account))
    assert told["code"] == "globus_refused" and "removed" in told["what"]


def test_what_an_invitation_meets(office: Office) -> None:
    group = office.create()
    anna = office.cloud.person("anna@hospital.example")
    nobody = refused(office.call("invite", "--group", group, "--username", "nobody@hospital.example"))
    assert nobody["code"] == "globus_refused" and "--identity" in nobody["mend"]
    office.call("invite", "--group", group, "--identity", anna, "--add")
    assert refused(office.call("invite", "--group", group, "--identity", anna))["code"] == "globus_refused"
    gone = "0a1b2c3d-0000-4000-8000-000000000001"
    assert refused(office.call("invite", "--group", gone, "--identity", anna))["code"] == "globus_refused"
    for wrong in (
        ["--group", group],
        ["--group", group, "--username", "a@b.example", "--identity", anna],
        ["--group", "heart", "--identity", anna],
        ["--identity", anna],
        ["--group", group, "--identity", "anna"],
    ):
        assert call("group", "invite", "--config", office.file, *wrong).exit_code == 2, wrong


def test_a_person_needs_a_login_that_covers_it(cloud: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "person.yaml"
    file.write_text(
        f"globus:\n  client_id: {cloud.native()}\n  tokens: tokens.db\n  insecure_test_cloud: {cloud.url}\n"
    )
    assert refused(call("group", "create", "heart", "--config", file, "--json"))["code"] == "login_needed"


# With a charter --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeartFederation]:
    with Cloud() as cloud:
        yield HeartFederation.make(cloud, tmp_path_factory.mktemp("heart"))


@pytest.fixture
def heart(federation: HeartFederation) -> HeartFederation:
    """The federation, with the group as it was when it was founded."""
    for identity in federation.cloud.members(federation.group):
        federation.cloud.no_member(federation.group, identity)
    for identity in (federation.server, *federation.sites):
        role = "manager" if identity == federation.server else "member"
        federation.cloud.member(federation.group, identity, role)
    return federation


def status(heart: HeartFederation, code: int) -> dict[str, Any]:
    done = call("group", "status", "--config", heart.founded.server_config, "--json")
    assert done.exit_code == code, done.output
    found: dict[str, Any] = document(done)
    assert found["fits"] == (code == 0)
    return found


def test_a_group_that_fits_its_charter(heart: HeartFederation) -> None:
    found = status(heart, 0)
    assert {row["identity"]: row["charter"] for row in found["members"]} == {
        heart.server: "server",
        **dict.fromkeys(heart.sites, "site"),
    }
    may = {row["identity"]: row["may"] for row in found["members"]}
    assert may == {heart.server: ["site", "server"], **{site: ["site"] for site in heart.sites}}
    table = call("group", "status", "--config", heart.founded.site_configs[heart.sites[0]])
    assert table.exit_code == 0 and "site, server" in table.stdout and "TEST CLOUD" in table.stdout, table.output


def test_who_is_in_the_charter_and_not_active(heart: HeartFederation) -> None:
    heart.cloud.member(heart.group, heart.sites[0], status="invited")
    heart.cloud.no_member(heart.group, heart.sites[1])
    bad = [one["what"] for one in status(heart, 1)["findings"] if one["ok"] is False]
    assert bad == [f"{heart.sites[0]} as site: invited", f"{heart.sites[1]} as site: not_a_member"]


def test_who_is_active_and_not_in_the_charter(heart: HeartFederation) -> None:
    eve = heart.cloud.person("eve@elsewhere.example")
    heart.cloud.member(heart.group, eve)
    open_points = [one["what"] for one in status(heart, 0)["findings"] if one["ok"] is None]
    assert open_points == ["eve@elsewhere.example is active and not in the charter: it can do nothing here"]


def test_a_server_that_is_a_mere_member(heart: HeartFederation) -> None:
    heart.cloud.member(heart.group, heart.server, role="member")
    bad = [one["what"] for one in status(heart, 1)["findings"] if one["ok"] is False]
    assert bad == [f"{heart.server} as server: wrong_role"]


def test_a_group_that_hides_its_members_from_this_login(heart: HeartFederation) -> None:
    hidden = heart.cloud.group("hidden", {heart.server: ("member", "active")}, members_visible=False)
    done = call("group", "status", "--config", heart.founded.server_config, "--group", hidden, "--json")
    assert done.exit_code == 1
    assert [one["ok"] for one in document(done)["findings"]] == [False, None]


def test_the_charters_group_is_the_one_that_is_changed(heart: HeartFederation) -> None:
    assert call("group", "remove", "--config", heart.founded.server_config, "--identity", heart.sites[0]).exit_code == 0
    assert heart.cloud.members(heart.group)[heart.sites[0]][1] == "removed"
    by_a_site = call(
        "group", "remove", "--config", heart.founded.site_configs[heart.sites[1]], "--identity", heart.server, "--json"
    )
    assert refused(by_a_site)["code"] == "globus_refused"
    assert heart.cloud.members(heart.group)[heart.server] == ("manager", "active")
