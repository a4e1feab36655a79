"""Membership from a Globus group: what admits, what refuses, and what is no answer at all."""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import globus_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.runtime.config import GlobusConfig, PassphraseConfig
from counterseal.runtime.errors import GlobusSetupError, LoginNeededError, TestCloudError
from counterseal.runtime.globus.authorizer import FAILURE_SECONDS, KEPT_SECONDS, GlobusAuthorizer, open_authorizer
from counterseal.runtime.globus.cloud import require_real_cloud, service_url
from counterseal.runtime.globus.credentials import Credentials
from counterseal.runtime.globus.groups import describe_group, facts, read_group
from counterseal.tests.standin.cloud import Cloud
from counterseal.trust.group import UNANSWERED, Reason, Role, Roster, RosterMember, Status


def uuid(number: int) -> str:
    return str(UUID(int=(0xABCDEF << 104) | number))


GROUP, AUDITORS, ME, OTHER, SERVER = (uuid(number) for number in range(5))


class Time:
    """Seconds that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def row(identity: str, status: str = "active", role: str = "member") -> dict[str, Any]:
    return {"group_id": GROUP, "identity_id": identity, "username": "x@y.z", "role": role, "status": status}


def answer(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    own = [row(SERVER, role="manager")]
    return {
        "id": GROUP,
        "name": "heart",
        "memberships": [*rows, *own],
        "my_memberships": own,
        "policies": {"group_members_visibility": "managers"},
        "enforce_session": False,
        **changes,
    }


class Fake:
    """A client of Groups that says what a test wants; the real one is in the second half of this file."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.asked: list[str] = []

    def __call__(self) -> Any:
        return self

    def get_group(self, group_id: str, include: Any) -> Any:
        self.asked.append(group_id)
        assert set(include) == {"memberships", "my_memberships", "policies"}
        if isinstance(self.body, Exception):
            raise self.body
        return SimpleNamespace(data=self.body(group_id) if callable(self.body) else self.body)


def fake(body: Any, **settings: Any) -> tuple[GlobusAuthorizer, Fake, Time]:
    client, time = Fake(body), Time()
    return (
        GlobusAuthorizer(client, GROUP, lambda: int(1_000 + time.now), monotonic=time, **settings),
        client,
        time,
    )


# What a table of members says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "role", "asked", "reason"),
    [
        ("active", "member", "site", "active"),
        ("active", "admin", "site", "active"),
        ("active", "member", "server", "wrong_role"),
        ("active", "manager", "server", "active"),
        ("active", "admin", "server", "active"),
        ("active", "owner", "server", "wrong_role"),
        ("active", "admin", "auditor", "wrong_role"),
        ("pending", "admin", "server", "pending"),
        ("invited", "member", "site", "invited"),
        ("declined", "member", "site", "declined"),
        ("rejected", "member", "site", "rejected"),
        ("left", "member", "site", "left"),
        ("removed", "manager", "server", "removed"),
        ("suspended", "member", "site", "not_active"),
    ],
)
def test_each_row(status: str, role: str, asked: Role, reason: str) -> None:
    decision = fake(answer(row(ME, status, role)))[0].check(frozenset({ME}), asked)
    assert (decision.reason, decision.allowed) == (reason, reason == "active")


def test_who_is_not_listed_is_no_member() -> None:
    authorizer = fake(answer(row(ME)))[0]
    assert authorizer.check(frozenset({OTHER}), "site").reason == "not_a_member"
    assert authorizer.check(frozenset(), "site").reason == "not_a_member"


def test_upper_case_is_the_same_uuid_on_either_side() -> None:
    shouted = answer(row(ME.upper()))
    assert fake(shouted)[0].check(frozenset({ME}), "site").allowed
    assert fake(answer(row(ME)))[0].check(frozenset({ME.upper()}), "site").allowed


def test_one_active_identity_of_those_linked_admits() -> None:
    """The manager of the group removed the old address and lists the new one: the person is meant to be in."""
    authorizer = fake(answer(row(ME, "removed"), row(OTHER)), identity_sets=lambda: {ME: frozenset({ME, OTHER})})[0]
    assert authorizer.check(frozenset({ME}), "site").allowed


def test_an_identity_that_enrolled_by_itself_speaks_for_nobody_else() -> None:
    sets = {ME: frozenset({ME, OTHER}), OTHER: frozenset({ME, OTHER})}
    authorizer = fake(answer(row(ME, "removed"), row(OTHER)), identity_sets=lambda: sets)[0]
    assert authorizer.check(frozenset({ME}), "site").reason == "removed"
    assert authorizer.check(frozenset({OTHER}), "site").allowed


def test_auditors_are_the_members_of_their_subgroup() -> None:
    bodies = {GROUP: answer(row(ME)), AUDITORS: answer(row(OTHER), id=AUDITORS)}
    authorizer, client, _ = fake(bodies.__getitem__, auditors=AUDITORS)
    assert authorizer.check(frozenset({OTHER}), "auditor").allowed
    assert authorizer.check(frozenset({ME}), "auditor").reason == "not_a_member"
    assert authorizer.check(frozenset({OTHER}), "site").reason == "not_a_member"
    assert client.asked == [AUDITORS, GROUP]


STATUSES: tuple[Status, ...] = ("active", "pending", "invited", "declined", "left", "removed", "rejected")
TABLE = st.dictionaries(
    st.integers(10, 15), st.tuples(st.sampled_from(STATUSES), st.sampled_from(["member", "manager", "admin"]))
)


@given(TABLE, st.frozensets(st.integers(10, 16), max_size=4), st.sampled_from(["site", "server"]))
def test_a_group_and_the_roster_that_says_the_same_agree(
    table: dict[int, tuple[Status, str]], asked: frozenset[int], role: Role
) -> None:
    roles: dict[str, tuple[Role, ...]] = {
        "member": ("site",),
        "manager": ("site", "server"),
        "admin": ("site", "server"),
    }
    roster = Roster(
        group=GROUP,
        members=tuple(
            RosterMember(identity=uuid(who), status=status, roles=roles[held]) for who, (status, held) in table.items()
        ),
    )
    body = answer(*(row(uuid(who), status, held) for who, (status, held) in table.items()))
    identities = frozenset(uuid(who) for who in asked)
    decision = fake(body)[0].check(identities, role)
    assert decision.reason == roster.reason(identities, role)
    assert not decision.outage


# What is no answer -----------------------------------------------------------------------------------------------------


BAD: dict[str, tuple[Any, str]] = {
    "another group's answer": (answer(row(ME), id=AUDITORS), "outage"),
    "an answer without an id": (answer(row(ME), id=None), "outage"),
    "a list": ([], "outage"),
    "no JSON": (None, "outage"),
    "no memberships": ({k: v for k, v in answer(row(ME)).items() if k != "memberships"}, "not_visible"),
    "memberships: null": (answer(row(ME), memberships=None), "not_visible"),
    "nobody at all, not even an administrator": (answer(memberships=[]), "not_visible"),
    "ourselves alone, where managers only see the others": (
        answer(memberships=[row(SERVER)], my_memberships=[row(SERVER)]),
        "not_visible",
    ),
    "a manager that was removed sees a rest": (
        answer(row(ME), my_memberships=[row(SERVER, "removed", "manager")]),
        "not_visible",
    ),
    "memberships that are no list": (answer(memberships={"0": row(ME)}), "outage"),
    "a row that is no object": (answer(row(ME), memberships=[7]), "outage"),
    "a row without an identity": (answer({"role": "member", "status": "active"}), "outage"),
    "a row with a username for an identity": (answer({**row(ME), "identity_id": "me@site.example"}), "outage"),
    "a row without a status": (answer({**row(ME), "status": None}), "outage"),
    "a status that is a list": (answer({**row(ME), "status": ["active"]}), "outage"),
    "a status with a line in it": (answer({**row(ME), "status": "active\n"}), "outage"),
    "a role that is true": (answer({**row(ME), "role": True}), "outage"),
    "two rows that contradict each other": (answer(row(ME), row(ME, "removed")), "outage"),
    "the same in two spellings": (answer(row(ME), row(ME.upper(), "removed")), "outage"),
    "an error of ours": (ZeroDivisionError("x"), "outage"),
    "an error of the SDK's taking apart": (KeyError("access_token"), "outage"),
}


@pytest.mark.parametrize("name", BAD)
def test_no_answer_admits_nobody_and_expels_nobody(name: str) -> None:
    body, reason = BAD[name]
    for identity, role in ((ME, "site"), (ME, "server")):
        decision = fake(body)[0].check(frozenset({identity}), cast(Role, role))
        assert (decision.reason, decision.allowed, decision.outage) == (reason, False, True)


def test_a_contradiction_about_one_member_is_no_outage_for_the_others() -> None:
    authorizer = fake(answer(row(ME), row(ME, "removed"), row(OTHER)))[0]
    assert authorizer.check(frozenset({OTHER}), "site").allowed


def test_admissions_that_cannot_be_believed_are_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    def spoiled() -> dict[str, frozenset[str]]:
        raise LoginNeededError("spoiled record")

    assert fake(answer(row(ME)), identity_sets=spoiled)[0].check(frozenset({ME}), "site").reason == "outage"
    assert "spoiled record" in caplog.text


def test_every_reason_holds_or_refuses_and_the_two_do_not_meet() -> None:
    refuses = {
        "not_active",
        "wrong_role",
        "removed",
        "rejected",
        "left",
        "declined",
        "pending",
        "invited",
        "not_a_member",
    }
    every = set(cast(Any, Reason).__args__)
    assert every == {"active"} | refuses | UNANSWERED
    assert not refuses & UNANSWERED and "active" not in UNANSWERED


@pytest.mark.parametrize(
    ("rows", "asked", "reason"),
    [
        ([row(ME), row(ME)], "site", "active"),
        ([row(ME), row(ME, role="manager")], "server", "active"),
        ([row(ME), row(ME, "removed")], "site", "outage"),
        ([row(ME, "invited", "manager"), row(ME)], "server", "outage"),
        ([row(ME, "removed"), row(ME, "invited")], "site", "removed"),
        ([row(ME, "suspended"), row(ME, "pending")], "site", "not_active"),
    ],
)
def test_a_member_with_several_rows(rows: list[dict[str, Any]], asked: Role, reason: str) -> None:
    """Members of a subgroup are members of its parent as well: Globus may list such a person twice."""
    assert fake(answer(*rows))[0].check(frozenset({ME}), asked).reason == reason


# What the client library's own recordings of the service look like ------------------------------------------------------


def recorded(name: str) -> dict[str, Any]:
    """Return a group's document from the fixtures that come with globus-sdk, which have no list of members."""
    place = Path(globus_sdk.__file__).parent / "testing" / "data" / "groups" / "_common.py"
    spec = importlib.util.spec_from_file_location("groups_common", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return copy.deepcopy(cast("dict[str, Any]", getattr(module, name)))


@pytest.mark.parametrize("name", ["BASE_GROUP_DOC", "SUBSCRIPTION_GROUP_DOC"])
def test_a_recorded_group_is_read(name: str) -> None:
    body = recorded(name)
    group = read_group(cast(Any, Fake(body)), body["id"])
    (own,) = group.own
    assert (group.name, own.role, own.status) == (body["name"], "member", "active")
    assert group.members is None  # it shows its members to managers
    about = facts(group)
    assert (about.members_visibility, about.enforce_session) == ("managers", name == "SUBSCRIPTION_GROUP_DOC")
    assert (about.high_assurance, about.join_requests) == (None, None)  # the document does not say


def test_a_recorded_group_with_members_decides() -> None:
    body = recorded("BASE_GROUP_DOC")
    body["my_memberships"][0]["role"] = "manager"
    body["memberships"] = [*body["my_memberships"], row(ME), row(OTHER, "invited")]
    authorizer = GlobusAuthorizer(Fake(body), body["id"], lambda: 7)
    asked = [(body["my_memberships"][0]["identity_id"], "server"), (ME, "site"), (OTHER, "site")]
    found = [authorizer.check(frozenset({identity}), cast(Role, role)).reason for identity, role in asked]
    assert found == ["active", "active", "invited"]


# How long an answer serves ---------------------------------------------------------------------------------------------


def test_one_question_serves_every_check_for_thirty_seconds() -> None:
    authorizer, client, time = fake(answer(row(ME), row(OTHER, "removed")))
    first = authorizer.check(frozenset({ME}), "site")
    time.now += KEPT_SECONDS - 1
    again = authorizer.check(frozenset({OTHER}), "site")
    assert (first.source, again.source) == (f"globus group {GROUP}", f"globus group {GROUP} (kept)")
    assert (first.time, again.time) == (1_100, 1_100)  # when Globus was asked, not when we were
    assert (len(client.asked), again.reason) == (1, "removed")
    client.body = answer(row(ME, "removed"), row(OTHER))
    time.now += 1
    assert authorizer.check(frozenset({ME}), "site").reason == "removed"
    assert authorizer.check(frozenset({OTHER}), "site").allowed
    assert len(client.asked) == 2


def test_an_answer_ages_from_when_the_question_was_put() -> None:
    authorizer, client, time = fake(answer(row(ME)))

    def slow(group: str) -> Any:
        time.now += 20
        return answer(row(ME))

    client.body = slow
    authorizer.check(frozenset({ME}), "site")
    time.now += 11
    client.body = answer(row(ME, "removed"))
    assert authorizer.check(frozenset({ME}), "site").reason == "removed"


def test_a_failure_is_kept_for_two_seconds_only() -> None:
    authorizer, client, time = fake(None)
    assert [authorizer.check(frozenset({ME}), "site").reason for _ in range(5)] == ["outage"] * 5
    assert len(client.asked) == 1
    client.body = answer(row(ME))
    time.now += FAILURE_SECONDS
    assert authorizer.check(frozenset({ME}), "site").allowed


# Against the web services ----------------------------------------------------------------------------------------------


class Party:
    """A server with a service account at the stand-in, and its group."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, **group: Any) -> None:
        self.cloud = cloud
        self.client, secret = cloud.client("server")
        self.me = cloud.person("me@site.example")
        monkeypatch.setenv("GLOBUS_SECRET_OF_A_TEST", secret)
        self.group = cloud.group("heart", {self.client: ("manager", "active"), self.me: ("member", "active")}, **group)
        self.config = GlobusConfig(
            client_id=self.client,
            client_secret=PassphraseConfig(environment="GLOBUS_SECRET_OF_A_TEST"),
            insecure_test_cloud=cloud.url,
        )
        self.time = Time()
        self.credentials = Credentials.open(self.config)
        self.authorizer = GlobusAuthorizer(
            self.credentials.groups,
            self.group,
            lambda: 7,
            monotonic=self.time,
            forget=self.credentials.forget,
        )

    def ask(self, identity: str | None = None, role: Role = "site", later: float = KEPT_SECONDS) -> Reason:
        self.time.now += later
        return self.authorizer.check(frozenset({identity or self.me}), role).reason

    def asked(self) -> int:
        return sum("/groups/v2/groups/" in path for _, path, _ in self.cloud.requests)


@pytest.fixture
def party(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Party]:
    made = Party(cloud, monkeypatch)
    yield made
    made.credentials.close()


@pytest.mark.processes
def test_every_status_as_the_service_tells_it(party: Party) -> None:
    assert party.ask() == "active"
    assert party.ask(party.client, "server") == "active"
    assert party.ask(role="server") == "wrong_role"
    for status in ("pending", "invited", "declined", "left", "removed", "rejected"):
        party.cloud.member(party.group, party.me, status=status)
        assert party.ask() == status
    party.cloud.no_member(party.group, party.me)
    assert party.ask() == "not_a_member"


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "500": ({"status": 500}, "outage"),
    "502": ({"status": 502}, "outage"),
    "503": ({"status": 503, "retry_after": 3600}, "outage"),
    "an answer that is no JSON": ({"status": 200, "body": "<html>"}, "outage"),
    "an answer lost": ({"drop": True}, "outage"),
    "429": ({"status": 429, "retry_after": 5}, "rate_limited"),
    "429 for ever": ({"status": 429, "retry_after": 999_999}, "rate_limited"),
    "429 without a time": ({"status": 429}, "rate_limited"),
    "403": ({"status": 403}, "forbidden"),
    "404": ({"status": 404}, "no_such_group"),
    "409": ({"status": 409}, "outage"),
}


@pytest.mark.processes
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_service_is_a_reason_of_its_own_and_passes(party: Party, name: str) -> None:
    settings, reason = FAULTS[name]
    assert party.ask() == "active"
    party.cloud.fault("groups", "/v2/groups", times=None, **settings)
    before = party.asked()
    assert party.ask() == reason
    assert party.asked() == before + 1, "an outage is an answer, not five tries"
    assert reason in UNANSWERED
    party.cloud.clear_faults()
    assert party.ask() == "active"


@pytest.mark.processes
def test_globus_is_left_in_peace_for_as_long_as_it_asks(party: Party) -> None:
    party.cloud.fault("groups", "/v2/groups", times=None, status=429, retry_after=10)
    assert party.ask() == "rate_limited"
    before = party.asked()
    assert party.ask(later=9) == "rate_limited"
    assert party.asked() == before
    party.cloud.clear_faults()
    assert party.ask(later=1) == "active"


@pytest.mark.processes
def test_services_that_are_down_are_an_answer_at_once(party: Party) -> None:
    import time

    assert party.ask() == "active"
    party.cloud.close()
    started = time.monotonic()
    assert party.ask() == "outage"
    assert time.monotonic() - started < 3
    party.cloud.open()
    assert party.ask() == "active"


@pytest.mark.processes
def test_a_token_that_was_revoked_is_renewed_once_and_nobody_notices(party: Party) -> None:
    assert party.ask() == "active"
    party.cloud.revoke(party.client)
    assert party.ask() == "active"


@pytest.mark.processes
def test_a_secret_that_is_no_longer_good_is_a_login_that_is_needed(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = Party(cloud, monkeypatch)
    monkeypatch.setenv("GLOBUS_SECRET_OF_A_TEST", "not-the-secret")
    stale = open_authorizer(party.config, party.group, lambda: 7)
    assert stale.check(frozenset({party.me}), "site").reason == "login_needed"


@pytest.mark.processes
def test_members_that_the_group_shows_to_managers_only(party: Party, cloud: Cloud) -> None:
    hidden = cloud.group(
        "hidden", {party.client: ("member", "active"), party.me: ("member", "active")}, members_visible=False
    )
    authorizer = GlobusAuthorizer(party.credentials.groups, hidden, lambda: 7)
    assert authorizer.check(frozenset({party.me}), "site").reason == "not_visible"
    assert not describe_group(party.credentials.groups(), hidden).members_visible


@pytest.mark.processes
def test_a_server_that_lost_its_place_in_the_group_expels_nobody(party: Party) -> None:
    party.cloud.member(party.group, party.client, status="removed")
    assert party.ask() == "forbidden"


@pytest.mark.processes
def test_a_group_that_asks_for_a_fresh_login_is_closed_to_a_service_account(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = Party(cloud, monkeypatch, is_high_assurance=True)
    assert party.ask() == "forbidden"


@pytest.mark.processes
def test_the_facts_about_a_group(party: Party) -> None:
    facts = describe_group(party.credentials.groups(), party.group)
    assert (facts.name, facts.own_role, facts.active_members) == ("heart", "manager", 2)
    assert (facts.members_visible, facts.members_visibility) == (True, "members")
    assert (facts.high_assurance, facts.assurance_seconds, facts.enforce_session) == (False, None, False)
    assert (facts.group_visibility, facts.join_requests) == ("private", False)


@pytest.mark.processes
def test_a_decision_of_a_stand_in_says_so(party: Party) -> None:
    decision = open_authorizer(party.config, party.group, lambda: 7).check(frozenset({party.me}), "site")
    assert (decision.allowed, decision.source) == (True, f"TEST CLOUD, no Globus group {party.group}")


@pytest.mark.processes
def test_nothing_secret_is_shown(
    party: Party, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    caplog.set_level(logging.DEBUG)
    secret = os.environ["GLOBUS_SECRET_OF_A_TEST"]
    party.cloud.fault("groups", "/v2/groups", status=403, body={"code": "FORBIDDEN", "message": f"you sent {secret}"})
    party.ask()
    party.cloud.fault("groups", "/v2/groups", status=500, body={"message": secret})
    party.ask()
    token = party.credentials.access_token("urn:globus:auth:scope:groups.api.globus.org:all")
    shown = f"{caplog.text} {party.credentials!r} {party.authorizer!r} {party.config!r}"
    assert secret not in shown and token not in shown


# Whose cloud -----------------------------------------------------------------------------------------------------------


REAL = GlobusConfig(client_id=ME, client_secret=PassphraseConfig(environment="HOME"))
LOOPBACK = REAL.model_copy(update={"insecure_test_cloud": "http://127.0.0.1:5000"})


@pytest.mark.parametrize("config", [REAL, LOOPBACK])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GLOBUS_SDK_ENVIRONMENT", "local"),
        ("GLOBUS_SDK_ENVIRONMENT", "preview"),
        ("GLOBUS_SDK_ENVIRONMENT", ""),
        ("GLOBUS_SDK_SERVICE_URL_AUTH", "https://auth.globus.org"),
        ("GLOBUS_SDK_SERVICE_URL_GROUPS", "http://127.0.0.1:5000/groups"),
        ("GLOBUS_SDK_SERVICE_URL_TRANSFER", ""),
        ("GLOBUS_SDK_VERIFY_SSL", "0"),
        ("GLOBUS_SDK_VERIFY_SSL", "/tmp/my-own-authority.pem"),
        ("GLOBUS_COMPUTE_CLIENT_ID", "x"),
        ("GLOBUS_COMPUTE_CLIENT_SECRET", "hunter2"),
        ("FUNCX_SCOPE", "x"),
    ],
)
def test_an_environment_that_leads_elsewhere_is_refused(config: GlobusConfig, name: str, value: str) -> None:
    with pytest.raises(TestCloudError, match=name) as caught:
        require_real_cloud(config, {name: value})
    assert value not in str(caught.value).replace(name, "") or value in {"", "0", "x"}


@pytest.mark.parametrize(
    "environ", [{}, {"GLOBUS_SDK_ENVIRONMENT": "production"}, {"GLOBUS_SDK_VERIFY_SSL": "True"}, {"HOME": "/"}]
)
def test_an_environment_that_changes_nothing_is_not(environ: dict[str, str]) -> None:
    require_real_cloud(REAL, environ)
    require_real_cloud(LOOPBACK, environ)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1:5000",
        "http://localhost.evil.example:5000",
        "http://localhost:5000@evil.example:80",
        "https://localhost:5000",
        "http://0.0.0.0:5000",
    ],
)
def test_a_stand_in_is_on_this_machine_even_where_nobody_validated(url: str) -> None:
    with pytest.raises(ValueError, match="insecure_test_cloud"):
        GlobusConfig(client_id=ME, client_secret=PassphraseConfig(environment="X"), insecure_test_cloud=url)
    with pytest.raises(TestCloudError, match="on this machine"):
        require_real_cloud(REAL.model_copy(update={"insecure_test_cloud": url}), {})


def test_addresses() -> None:
    assert service_url(REAL, "groups") is None
    assert [service_url(LOOPBACK, each) for each in ("auth", "groups", "compute")] == [
        "http://127.0.0.1:5000/auth",
        "http://127.0.0.1:5000/groups",
        "http://127.0.0.1:5000",
    ]


def test_clients_go_to_globus_with_certificates_whatever_the_environment_becomes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    credentials = Credentials.open(REAL)
    monkeypatch.setenv("GLOBUS_SDK_VERIFY_SSL", "0")
    monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "preview")
    for client in (credentials.application(), credentials.groups(), credentials.groups(write=True), credentials.auth()):
        assert client.base_url.startswith("https://") and client.base_url.endswith(".globus.org/")
        assert ".preview." not in client.base_url
        assert client.transport.verify_ssl is True


def test_a_start_without_what_is_needed_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    person = GlobusConfig(client_id=ME, tokens=tmp_path / "tokens.db")
    with pytest.raises(LoginNeededError, match="nobody has logged in"):
        open_authorizer(person, GROUP, lambda: 7)
    monkeypatch.setattr("counterseal.runtime.globus.cloud.find_spec", lambda name: None)
    with pytest.raises(GlobusSetupError, match=r"counterseal\[globus\]"):
        open_authorizer(REAL, GROUP, lambda: 7)
