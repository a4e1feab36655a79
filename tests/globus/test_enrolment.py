"""The server's desk: what a token must be, and every way in which a good one is somebody else's."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from counterseal.errors import CountersealError
from counterseal.runtime.errors import AdmissionError, GlobusUnavailableError
from counterseal.runtime.founding.admissions import LinkedIdentities
from counterseal.runtime.globus.examination import MFA as ACCEPTED
from counterseal.runtime.globus.examination import TokenRules, examine
from counterseal.tests.globus.enrolment_attacks import REFUSED, UNSAID
from counterseal.tests.globus.enrolment_world import (
    ENDPOINT,
    Hall,
    keys_of,
)
from counterseal.tests.standin.cloud import Cloud

pytestmark = pytest.mark.processes  # the stand-in for Globus is a server


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def hall(cloud: Cloud, tmp_path: Path) -> Hall:
    return Hall(cloud, tmp_path)


def test_a_member_is_admitted_once_and_the_record_says_how(hall: Hall) -> None:
    token = hall.token()
    record = hall.desk().decide(hall.enrolment(token, endpoint=ENDPOINT)).document
    assert (record.decision.allowed, record.decision.reason, record.decision.identity) == (True, "active", hall.anna)
    assert record.decision.source.endswith(hall.group)
    assert record.claimed.endpoint == ENDPOINT
    assert record.statement.document.key_ids == keys_of("anna").key_ids
    shown = record.shown
    assert shown is not None
    assert (shown.identity_set, shown.client, shown.authenticated, shown.mfa) == (
        (hall.anna,),
        hall.native,
        hall.anna,
        True,
    )
    assert shown.session_age is not None
    assert 0 <= shown.session_age < 60
    (path,) = hall.files
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert token.encode() not in path.read_bytes()


def test_the_group_may_list_another_of_ones_identities(hall: Hall, cloud: Cloud) -> None:
    other = cloud.person("anna@lab.example", linked=[hall.anna])
    token = hall.token(other)
    record = hall.desk().decide(hall.enrolment(token, identity=other)).document
    assert record.shown is not None
    assert set(record.shown.identity_set) == {hall.anna, other}
    linked = LinkedIdentities(hall.folder / "admissions", keys_of("server").signer.public)
    assert linked() == {other: frozenset({hall.anna, other})}


def test_a_named_service_account(hall: Hall, cloud: Cloud) -> None:
    program, _ = cloud.client("site")
    cloud.member(hall.group, program)
    token = hall.token(program, {"authentications": {}}, client=program)
    record = hall.desk(service_accounts=frozenset({program})).decide(hall.enrolment(token, identity=program)).document
    assert record.shown is not None
    assert (record.shown.authenticated, record.shown.mfa, record.shown.session_age) == (None, None, None)
    assert record.rules is not None
    assert record.rules.service_account


def test_a_login_with_one_factor_where_the_officer_allows_it(hall: Hall) -> None:
    record = hall.desk(require_mfa=False).decide(hall.enrolment(hall.token(session=None))).document
    assert record.shown is not None
    assert record.shown.mfa is False
    assert record.rules is not None
    assert record.rules.mfa is False


# Attacks with a token (`enrolment_attacks`): each is refused with its reason, and the refusal is on record.


@pytest.mark.parametrize("attack", REFUSED)
def test_refused(attack: str, hall: Hall) -> None:
    make, reason = REFUSED[attack]
    assert hall.refusal(make(hall)) == reason


def test_every_reason_of_the_table_was_met() -> None:
    from counterseal.runtime.globus import examination

    table = {line.split("`")[1] for line in (examination.__doc__ or "").splitlines() if line.startswith("| `")}
    met = {reason for _, reason in REFUSED.values()}
    assert table - met == {"token_expired"}  # Globus says `inactive` first; see the next test
    assert len(table) == 10


def test_a_token_that_ended_on_the_way_though_globus_still_calls_it_active() -> None:
    with pytest.raises(AdmissionError) as caught:
        examine(ANSWER, "anna", RULES, ANSWER["exp"])
    assert caught.value.reason == "token_expired"


# Files that nobody said: an error, no record, and nothing that would keep the true one out.


@pytest.mark.parametrize("attack", UNSAID)
def test_what_nobody_said_leaves_no_record(attack: str, hall: Hall) -> None:
    make, error, nonce = UNSAID[attack]
    raw = make(hall)
    asked = len(hall.cloud.requests)
    with pytest.raises(error):
        hall.desk().decide(raw, nonce=nonce)
    assert hall.files == []
    assert len(hall.cloud.requests) == asked, "a file that does not hold makes the server ask Globus"


def test_the_nonce_that_was_handed_out(hall: Hall) -> None:
    assert hall.desk().decide(hall.enrolment(nonce="1" * 64), nonce="1" * 64).document.decision.allowed


def test_the_same_enrolment_again_decides_nothing(hall: Hall) -> None:
    raw = hall.enrolment()
    hall.desk().decide(raw)
    (before,) = (path.read_bytes() for path in hall.files)
    with pytest.raises(AdmissionError, match="decided before: admitted") as caught:
        hall.desk().decide(raw)
    assert caught.value.reason == "replayed"
    assert [path.read_bytes() for path in hall.files] == [before]


def test_a_refusal_is_final_for_its_enrolment_and_a_new_one_is_heard(hall: Hall, cloud: Cloud) -> None:
    cloud.member(hall.group, hall.anna, status="pending")
    raw = hall.enrolment()
    assert hall.refusal(raw) == "pending"
    cloud.member(hall.group, hall.anna)
    with pytest.raises(AdmissionError, match="refused \\(pending\\)"):
        hall.desk().decide(raw)
    assert hall.desk().decide(hall.enrolment()).document.decision.allowed


def test_a_token_where_the_group_is_a_roster(hall: Hall) -> None:
    with pytest.raises(AdmissionError) as caught:
        hall.desk(auth=False).decide(hall.enrolment())
    assert caught.value.reason == "token_unexpected"


# Who cannot be asked has decided nothing.

OUTAGES: dict[str, tuple[str, str, int]] = {
    "introspection is down": ("auth", "/v2/oauth2/token/introspect", 503),
    "introspection asks to come again": ("auth", "/v2/oauth2/token/introspect", 429),
    "Groups is down": ("groups", "/v2/groups", 503),
    "Groups asks to come again": ("groups", "/v2/groups", 429),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_decides_nothing_and_the_same_file_counts_afterwards(outage: str, hall: Hall) -> None:
    service, path, status = OUTAGES[outage]
    raw = hall.enrolment()
    hall.cloud.fault(service, path, status=status, times=None)
    with pytest.raises(GlobusUnavailableError) as caught:
        hall.desk().decide(raw)
    assert caught.value.retryable
    assert hall.files == []
    hall.cloud.clear_faults()
    assert hall.desk().decide(raw).document.decision.allowed


def test_the_cloud_is_gone(hall: Hall) -> None:
    raw, desk = hall.enrolment(), hall.desk()
    hall.cloud.close()
    with pytest.raises(GlobusUnavailableError):
        desk.decide(raw)
    assert hall.files == []
    hall.cloud.open()
    assert desk.decide(raw).document.decision.allowed


def test_a_group_that_hides_its_members_from_the_server_decides_nothing(hall: Hall) -> None:
    hall.cloud.member(hall.group, hall.server_client, role="member")
    with pytest.raises(CountersealError, match="nothing was decided") as caught:
        hall.desk().decide(hall.enrolment())
    assert not isinstance(caught.value, AdmissionError)
    assert hall.files == []


NONSENSE: dict[str, Any] = {
    "an empty object": {},
    "active as text": {"active": "true"},
    "no audience": {"active": True, "scope": "x", "client_id": "c", "sub": "s", "exp": 1, "identity_set": []},
    "a number for a scope": {
        "active": True, "scope": 1, "client_id": "c", "sub": "s", "exp": 1, "identity_set": [], "aud": []},
    "times as text": {
        "active": True, "scope": "x", "client_id": "c", "sub": "s", "exp": "1", "identity_set": [], "aud": []},
    "an identity with a line break": {
        "active": True, "scope": "x", "client_id": "c", "sub": "s1", "exp": 1, "identity_set": ["s1\n"], "aud": []},
    "a login without a time": {
        "active": True, "scope": "x", "client_id": "c", "sub": "s", "exp": 1, "identity_set": [], "aud": [],
        "session_info": {"authentications": {"s": {"amr": ["mfa"]}}}},
}  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
def test_an_answer_that_is_none_decides_nothing(name: str, hall: Hall) -> None:
    hall.cloud.fault("auth", "/v2/oauth2/token/introspect", status=200, body=NONSENSE[name], times=None)
    with pytest.raises(GlobusUnavailableError):
        hall.desk().decide(hall.enrolment())
    assert hall.files == []


# What examine() says of answers, without a cloud.

RULES = TokenRules("server", "enrol", frozenset({"app"}), 3600, True)
ANSWER: dict[str, Any] = {
    "active": True, "scope": "enrol", "client_id": "app", "sub": "anna", "aud": ["server", "app"], "exp": 20_000,
    "identity_set": ["anna", "anna2"], "iss": "https://auth.globus.org", "username": "anna@uni.example",
    "session_info": {"session_id": "1", "authentications": {"anna2": {"auth_time": 9_000, "amr": ["mfa"], "acr": None}}},
}  # fmt: skip


def _entry(**about: Any) -> dict[str, Any]:
    return {"session_info": {"authentications": {"anna": {"auth_time": 9_990, **about}}}}


def test_the_login_may_be_of_a_linked_identity() -> None:
    found = examine(ANSWER, "anna", RULES, 10_000)
    assert (found.authenticated, found.session_age, found.mfa) == ("anna2", 1_000, True)


@pytest.mark.parametrize("about", [{"amr": ["pwd", "mfa"]}, {"acr": "https://refeds.org/profile/mfa", "amr": None}])
def test_what_counts_as_more_than_one_factor(about: dict[str, Any]) -> None:
    assert examine(ANSWER | _entry(**about), "anna", RULES, 10_000).mfa is True


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"amr": []},
        {"amr": ["MFA"]},
        {"amr": ["otp", "pwd"]},
        {"acr": "mfa"},
        {"acr": "https://refeds.org/profile/sfa"},
        {"amr": ["https://refeds.org/profile/mfa"]},
    ],
)
def test_what_does_not(about: dict[str, Any]) -> None:
    with pytest.raises(AdmissionError) as caught:
        examine(ANSWER | _entry(**about), "anna", RULES, 10_000)
    assert caught.value.reason == "mfa_missing"


def test_the_table_of_factors_is_as_short_as_the_documents_say() -> None:
    assert {name: set(values) for name, values in ACCEPTED.items()} == {
        "amr": {"mfa"},
        "acr": {"https://refeds.org/profile/mfa"},
    }


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "an audience too many": ({"aud": ["server", "app", "transfer"]}, "token_audience"),
    "only another audience": ({"aud": ["app"]}, "token_audience"),
    "no scope": ({"scope": ""}, "token_scope"),
    "a scope twice": ({"scope": "enrol enrol"}, "token_scope"),
    "a sub outside of its own set": ({"sub": "eve"}, "token_identity"),
    "an identity in other letters": ({"identity_set": ["ANNA", "anna2"]}, "token_identity"),
    "a program that is linked to a person": ({"client_id": "anna", "aud": ["server", "anna"]}, "service_account"),
}


def test_of_two_young_logins_the_one_with_two_factors_counts() -> None:
    entries = {"anna": {"auth_time": 9_990, "amr": ["pwd"]}, "anna2": {"auth_time": 9_000, "amr": ["mfa"]}}
    found = examine(ANSWER | {"session_info": {"authentications": entries}}, "anna", RULES, 10_000)
    assert (found.authenticated, found.mfa, found.session_age) == ("anna2", True, 1_000)


@pytest.mark.parametrize("change", CHANGES)
def test_what_an_answer_must_not_be(change: str) -> None:
    values, reason = CHANGES[change]
    with pytest.raises(AdmissionError) as caught:
        examine(ANSWER | values, "anna", RULES, 10_000)
    assert caught.value.reason == reason


def test_a_named_program_speaks_for_itself_alone() -> None:
    """Globus links a program's identity to its owner's: naming the program does not let it enrol the owner."""
    rules = TokenRules("server", "enrol", frozenset({"app"}), 3600, True, frozenset({"anna"}))
    program = ANSWER | {"client_id": "bot", "sub": "bot", "aud": ["server", "bot"], "identity_set": ["bot", "anna"]}
    with pytest.raises(AdmissionError) as caught:
        examine(program, "anna", rules, 10_000)
    assert caught.value.reason == "service_account"
