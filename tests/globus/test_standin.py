"""The stand-in cloud under Globus' own client library: logins, tokens, introspection, groups, faults.

What the SDK does here it does in production; what the services answer is ours (tests/standin/__init__.py says what of it is
known and what is guessed).
"""

from __future__ import annotations

import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import globus_sdk
import pytest
from globus_sdk import (
    AccessTokenAuthorizer,
    AuthAPIError,
    AuthClient,
    BatchMembershipActions,
    ClientCredentialsAuthorizer,
    ConfidentialAppAuthClient,
    GroupsAPIError,
    GroupsClient,
    NativeAppAuthClient,
    RefreshTokenAuthorizer,
)
from globus_sdk.transport import RetryConfig

from counterseal.tests.standin.cloud import Cloud

pytestmark = pytest.mark.processes

ALL = str(GroupsClient.scopes.all)
READ = str(GroupsClient.scopes.view_my_groups_and_memberships)


@pytest.fixture
def server(cloud: Cloud) -> ConfidentialAppAuthClient:
    return account(cloud, "server")


def account(cloud: Cloud, name: str) -> ConfidentialAppAuthClient:
    client, secret = cloud.client(name)
    return ConfidentialAppAuthClient(client, secret, base_url=cloud.url + "/auth")


def groups_of(cloud: Cloud, login: ConfidentialAppAuthClient, scope: str = ALL) -> GroupsClient:
    return GroupsClient(base_url=cloud.url + "/groups", authorizer=ClientCredentialsAuthorizer(login, scope))


def groups_with(cloud: Cloud, token: str) -> GroupsClient:
    return GroupsClient(
        base_url=cloud.url + "/groups",
        authorizer=AccessTokenAuthorizer(token),
        retry_config=RetryConfig(max_retries=0),
    )


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def visit(address: str) -> str:
    """Open an authorize page and return the code in the address that it sends the browser to."""
    try:
        urllib.request.build_opener(NoRedirect).open(address)
    except urllib.error.HTTPError as redirect:
        place = redirect.headers["Location"]
        redirect.close()
    return urllib.parse.parse_qs(urllib.parse.urlsplit(place).query)["code"][0]


def test_a_service_account_gets_a_token_for_each_service(cloud: Cloud, server: ConfidentialAppAuthClient) -> None:
    reply = server.oauth2_client_credentials_tokens(requested_scopes=["openid", ALL, f"{READ}[openid *{ALL}]"])
    assert set(reply.by_resource_server) == {"auth.globus.org", "groups.api.globus.org"}
    assert reply.by_resource_server["groups.api.globus.org"]["scope"] == f"{ALL} {READ}"
    assert reply.decode_id_token()["sub"] == server.client_id
    wrong = ConfidentialAppAuthClient(str(server.client_id), "guessed", base_url=cloud.url + "/auth")
    with pytest.raises(AuthAPIError) as refused:
        wrong.oauth2_client_credentials_tokens(requested_scopes=ALL)
    assert refused.value.http_status == 401


def test_a_browser_login_is_bound_to_its_verifier(cloud: Cloud) -> None:
    alice, native = cloud.person("alice@a.example"), cloud.native()
    cloud.visitor(alice)
    ours = NativeAppAuthClient(native, base_url=cloud.url + "/auth")
    ours.oauth2_start_flow(requested_scopes=["openid", READ], refresh_tokens=True, redirect_uri="http://127.0.0.1:1/cb")
    code = visit(ours.oauth2_get_authorize_url())
    thief = NativeAppAuthClient(native, base_url=cloud.url + "/auth")
    thief.oauth2_start_flow(requested_scopes=[READ], redirect_uri="http://127.0.0.1:1/cb")
    with pytest.raises(AuthAPIError, match="invalid_grant"):
        thief.oauth2_exchange_code_for_tokens(code)
    reply = ours.oauth2_exchange_code_for_tokens(visit(ours.oauth2_get_authorize_url()))
    assert reply.decode_id_token()["sub"] == alice
    assert reply.by_resource_server["groups.api.globus.org"]["refresh_token"]


def test_a_code_can_be_copied_by_hand_and_serves_once(cloud: Cloud) -> None:
    alice, native = cloud.person("alice@a.example"), cloud.native()
    cloud.visitor(alice)
    client = NativeAppAuthClient(native, base_url=cloud.url + "/auth")
    client.oauth2_start_flow(requested_scopes=READ)
    with urllib.request.urlopen(client.oauth2_get_authorize_url()) as page:
        code = page.read().decode().partition("<code>")[2].partition("</code>")[0]
    assert client.oauth2_exchange_code_for_tokens(code).by_resource_server
    with pytest.raises(AuthAPIError, match="invalid_grant"):
        client.oauth2_exchange_code_for_tokens(code)


def test_a_revoked_token_is_renewed_once_and_a_revoked_refresh_token_is_the_end(cloud: Cloud) -> None:
    alice, native = cloud.person("alice@a.example"), cloud.native()
    cloud.group("g", {alice: ("member", "active")})
    client = NativeAppAuthClient(native, base_url=cloud.url + "/auth")
    client.oauth2_start_flow(requested_scopes=READ, refresh_tokens=True)
    reply = client.oauth2_exchange_code_for_tokens(cloud.code(alice, READ)).by_resource_server["groups.api.globus.org"]
    authorizer = RefreshTokenAuthorizer(
        reply["refresh_token"], client, access_token=reply["access_token"], expires_at=2**40
    )
    groups = GroupsClient(base_url=cloud.url + "/groups", authorizer=authorizer)
    client.oauth2_revoke_token(reply["access_token"])
    assert [each["name"] for each in groups.get_my_groups()] == ["g"]
    cloud.revoke(alice)
    with pytest.raises(AuthAPIError, match="invalid_grant"):
        groups.get_my_groups()


def test_a_resource_server_learns_the_identity_set_and_the_login(
    cloud: Cloud, server: ConfidentialAppAuthClient
) -> None:
    old = cloud.person("alice@old.example")
    alice = cloud.person("alice@new.example", linked=[old])
    scope = cloud.scope(str(server.client_id), "enrol")
    token = cloud.token(alice, scope, session={"amr": ["pwd", "mfa"], "auth_time": 1_000})
    told = server.oauth2_token_introspect(token, include="identity_set,session_info")
    assert told["aud"][0] == server.client_id and told["sub"] == alice and told["scope"] == scope
    assert told["identity_set"] == [alice, old]
    assert told["session_info"]["authentications"][alice]["auth_time"] == 1_000
    assert told["session_info"]["authentications"][alice]["amr"] == ["pwd", "mfa"]
    stranger = account(cloud, "stranger")
    assert stranger.oauth2_token_introspect(token).data == {"active": False}
    cloud.advance(200_000)
    assert server.oauth2_token_introspect(token).data == {"active": False}


def test_a_service_account_without_a_login_has_no_authentications(
    cloud: Cloud, server: ConfidentialAppAuthClient
) -> None:
    scope = cloud.scope(str(server.client_id), "enrol")
    site = account(cloud, "site")
    token = site.oauth2_client_credentials_tokens(requested_scopes=scope).by_resource_server[str(server.client_id)][
        "access_token"
    ]
    told = server.oauth2_token_introspect(token, include="identity_set,session_info")
    assert told["sub"] == site.client_id == told["identity_set"][0]
    assert told["session_info"]["authentications"] == {}


def test_a_scope_is_registered_by_its_client_and_unknown_ones_are_refused(
    cloud: Cloud, server: ConfidentialAppAuthClient
) -> None:
    scope = f"https://auth.globus.org/scopes/{server.client_id}/enrol"
    with pytest.raises(AuthAPIError, match="unknown_scope_error"):
        server.oauth2_client_credentials_tokens(requested_scopes=scope)
    manage = ClientCredentialsAuthorizer(server, str(AuthClient.scopes.manage_projects))
    auth = AuthClient(base_url=cloud.url + "/auth", authorizer=manage)
    made = auth.create_scope(str(server.client_id), "Enrol", "Enrol a site", "enrol")
    assert made["scope"]["scope_string"] == scope
    assert server.oauth2_client_credentials_tokens(requested_scopes=scope).by_resource_server
    with pytest.raises(AuthAPIError) as refused:
        auth.create_scope(str(account(cloud, "other").client_id), "Enrol", "Enrol a site", "enrol")
    assert refused.value.http_status == 403


def test_a_dependent_token_acts_for_the_person(cloud: Cloud, server: ConfidentialAppAuthClient) -> None:
    alice = cloud.person("alice@a.example")
    cloud.group("g", {alice: ("member", "active")})
    token = cloud.token(alice, cloud.scope(str(server.client_id), "enrol"))
    reply = server.oauth2_get_dependent_tokens(token, scope=READ).by_resource_server["groups.api.globus.org"]
    assert [each["name"] for each in groups_with(cloud, reply["access_token"]).get_my_groups()] == ["g"]


def test_identities_are_looked_up(cloud: Cloud, server: ConfidentialAppAuthClient) -> None:
    alice = cloud.person("alice@a.example")
    auth = AuthClient(base_url=cloud.url + "/auth", authorizer=ClientCredentialsAuthorizer(server, "openid"))
    assert auth.get_identities(usernames="alice@a.example")["identities"][0]["id"] == alice
    assert auth.get_identities(ids=[alice, str(server.client_id)])["identities"][1]["username"] == "alice@a.example"
    assert auth.userinfo()["identity_set"][0]["sub"] == server.client_id


def test_a_group_grows_by_invitation(cloud: Cloud, server: ConfidentialAppAuthClient) -> None:
    chief, site = groups_of(cloud, server), account(cloud, "site")
    group = chief.create_group({"name": "federation", "description": "ours"})["id"]
    policies = globus_sdk.GroupPolicies(
        is_high_assurance=False,
        group_visibility="private",
        group_members_visibility="members",
        join_requests=False,
        signup_fields=[],
    )
    assert chief.set_group_policies(group, policies)["group_members_visibility"] == "members"
    invited = chief.batch_membership_action(group, BatchMembershipActions().invite_members(str(site.client_id)))
    assert invited["invite"][0]["status"] == "invited"
    member = groups_of(cloud, site)
    assert "memberships" not in member.get_group(group, include="memberships").data
    assert member.batch_membership_action(group, BatchMembershipActions().accept_invites(str(site.client_id)))["accept"]
    seen = member.get_group(group, include=["memberships", "policies"])
    assert {each["identity_id"]: each["status"] for each in seen["memberships"]} == {
        server.client_id: "active",
        site.client_id: "active",
    }
    forbidden = member.batch_membership_action(group, BatchMembershipActions().remove_members(str(server.client_id)))
    assert forbidden["errors"]["remove"][0]["code"] == "FORBIDDEN"
    chief.batch_membership_action(group, BatchMembershipActions().remove_members(str(site.client_id)))
    assert cloud.members(group)[str(site.client_id)] == ("member", "removed")
    with pytest.raises(GroupsAPIError) as refused:
        member.get_group(group)
    assert refused.value.http_status == 403


def test_roles_change_and_members_leave(cloud: Cloud, server: ConfidentialAppAuthClient) -> None:
    chief, site = groups_of(cloud, server), account(cloud, "site")
    group = chief.create_group({"name": "federation"})["id"]
    them = str(site.client_id)
    chief.batch_membership_action(group, BatchMembershipActions().add_members(them))
    chief.batch_membership_action(group, BatchMembershipActions().change_roles("manager", [them]))
    manager = groups_of(cloud, site)
    forbidden = manager.batch_membership_action(group, BatchMembershipActions().change_roles("admin", [them]))
    assert "errors" in forbidden.data and cloud.members(group)[them] == ("manager", "active")
    manager.batch_membership_action(group, BatchMembershipActions().leave(them))
    assert cloud.members(group)[them] == ("manager", "left")


def test_a_subgroup_is_made_by_the_parents_administrator(cloud: Cloud, server: ConfidentialAppAuthClient) -> None:
    chief, stranger = groups_of(cloud, server), groups_of(cloud, account(cloud, "stranger"))
    group = chief.create_group({"name": "federation"})["id"]
    child = chief.create_group({"name": "auditors", "parent_id": group})
    assert chief.get_group(group, include="child_ids")["child_ids"] == [child["id"]]
    with pytest.raises(GroupsAPIError):
        stranger.create_group({"name": "mine", "parent_id": group})


def test_members_are_shown_as_the_policy_says(cloud: Cloud, server: ConfidentialAppAuthClient) -> None:
    alice, bob = cloud.person("alice@a.example"), cloud.person("bob@b.example")
    group = cloud.group("g", {alice: ("member", "active"), bob: ("admin", "active")}, members_visible=False)
    assert (
        "memberships" not in groups_with(cloud, cloud.token(alice, READ)).get_group(group, include="memberships").data
    )
    assert groups_with(cloud, cloud.token(bob, READ)).get_group(group, include="memberships")["memberships"]
    with pytest.raises(GroupsAPIError) as refused:
        groups_of(cloud, server).get_group(group)
    assert refused.value.http_status == 403
    with pytest.raises(GroupsAPIError) as lacking:
        groups_of(cloud, server, READ).create_group({"name": "no"})
    assert lacking.value.http_status == 403


def test_a_high_assurance_group_asks_for_a_recent_login(cloud: Cloud) -> None:
    alice = cloud.person("alice@a.example")
    group = cloud.group(
        "g", {alice: ("member", "active")}, is_high_assurance=True, authentication_assurance_timeout=600
    )
    token = cloud.token(alice, READ)
    assert groups_with(cloud, token).get_group(group)["id"] == group
    cloud.advance(601)
    with pytest.raises(GroupsAPIError) as refused:
        groups_with(cloud, token).get_group(group)
    assert refused.value.info.authorization_parameters.session_required_identities == [alice]


def test_faults_come_as_often_as_ordered(cloud: Cloud) -> None:
    alice = cloud.person("alice@a.example")
    groups = groups_with(cloud, cloud.token(alice, READ))
    cloud.fault("groups", "/v2/groups/my_groups", status=503, times=2)
    statuses = []
    for _ in range(3):
        try:
            groups.get_my_groups()
            statuses.append(200)
        except GroupsAPIError as error:
            statuses.append(error.http_status)
    assert statuses == [503, 503, 200]
    cloud.fault("groups", "/v2/groups/*", times=None, drop=True)
    with pytest.raises(globus_sdk.NetworkError):
        groups.get_my_groups()
    cloud.clear_faults()
    assert not list(groups.get_my_groups())
    assert [status for _, _, status in cloud.requests] == [503, 503, 200, 0, 200]


def test_a_rate_limit_says_when_to_come_again(cloud: Cloud) -> None:
    alice = cloud.person("alice@a.example")
    groups = groups_with(cloud, cloud.token(alice, READ))
    cloud.rate_limit("groups", 2, 60)
    for _ in range(2):
        groups.get_my_groups()
    with pytest.raises(GroupsAPIError) as refused:
        groups.get_my_groups()
    assert refused.value.http_status == 429
    assert 0 < int(refused.value.headers["Retry-After"]) <= 61
    groups_with(cloud, cloud.token(alice, READ)).get_my_groups()  # another credential has a limit of its own


def test_an_outage_forgets_nothing(cloud: Cloud) -> None:
    alice = cloud.person("alice@a.example")
    groups = groups_with(cloud, cloud.token(alice, READ))
    groups.get_my_groups()
    cloud.close()
    before = time.monotonic()
    with pytest.raises(globus_sdk.NetworkError):
        groups.get_my_groups()
    assert time.monotonic() - before < 2
    cloud.open()
    assert not list(groups.get_my_groups())


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("GLOBUS_SDK_ENVIRONMENT", raising=False)
    yield
