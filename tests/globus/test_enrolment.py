"""The server's desk: what a token must be, and every way in which a good one is somebody else's."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterseal.errors import CountersealError
from counterseal.runtime.errors import AdmissionError, GlobusUnavailableError
from counterseal.runtime.founding.admissions import LinkedIdentities
from counterseal.runtime.globus.examination import MFA as ACCEPTED
from counterseal.runtime.globus.examination import SKEW, TokenRules, examine
from counterseal.tests.globus.enrolment_world import (
    ENDPOINT,
    MFA,
    Hall,
    enrolment_of,
    keys_of,
    sealed,
    statement_of,
)
from counterseal.tests.standin.cloud import Cloud
from counterseal.trust.errors import (
    MailboxError,
    MalformedError,
    RecipientError,
    SignatureError,
    TrustError,
)

GROUPS = "urn:globus:auth:scope:groups.api.globus.org:view_my_groups_and_memberships"


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


# Attacks with a token: each is refused with its reason, and the refusal is on record.


def _another_audience(hall: Hall) -> bytes:
    """A token for Globus Groups, lifted from somewhere: Globus tells a stranger to it nothing."""
    return hall.enrolment(hall.token(scopes=GROUPS))


def _own_for_another_audience(hall: Hall) -> bytes:
    """A token that the server's own application obtained for another service, and lost."""
    return hall.enrolment(hall.token(scopes=GROUPS, client=hall.server_client))


def _another_server(hall: Hall) -> bytes:
    other, _ = hall.cloud.client("another federation's server")
    return hall.enrolment(hall.token(scopes=hall.cloud.scope(other, "enrol")))


def _more_than_enrol(hall: Hall) -> bytes:
    return hall.enrolment(hall.token(scopes=f"{hall.scope} {hall.cloud.scope(hall.server_client, 'manage')}"))


def _lured(hall: Hall) -> bytes:
    """A page of the attacker's lets anna log in, and gets a token for our server in its own name."""
    return hall.enrolment(hall.token(client=hall.cloud.native()))


def _revoked(hall: Hall) -> bytes:
    raw = hall.enrolment()
    hall.cloud.revoke(hall.anna)
    return raw


def _expired(hall: Hall) -> bytes:
    raw = hall.enrolment()
    hall.cloud.advance(172_801)
    return raw


def _invented(hall: Hall) -> bytes:
    return hall.enrolment("Ag" + "x" * 48)


def _another_person(hall: Hall) -> bytes:
    """Eve, with a good token of her own, enrols her keys in anna's name."""
    eve = hall.cloud.person("eve@bad.example")
    hall.cloud.member(hall.group, eve)
    return hall.enrolment(hall.token(eve), identity=hall.anna, name="eve")


def _second_use(hall: Hall) -> bytes:
    """Eve holds anna's token, which was used, and pairs it with keys of her own."""
    token = hall.token()
    hall.desk().decide(hall.enrolment(token))
    return hall.enrolment(token, name="eve")


def _old_session(hall: Hall) -> bytes:
    return hall.enrolment(hall.token(session={**MFA, "auth_time": int(time.time()) - 3700}))


def _session_from_the_future(hall: Hall) -> bytes:
    return hall.enrolment(hall.token(session={**MFA, "auth_time": int(time.time()) + SKEW + 60}))


def _no_session(hall: Hall) -> bytes:
    return hall.enrolment(hall.token(session={"authentications": {}}))


def _session_of_another(hall: Hall) -> bytes:
    entry = {"auth_time": int(time.time()), **MFA}
    return hall.enrolment(hall.token(session={"authentications": {hall.cloud.person("eve@bad.example"): entry}}))


def _mfa_long_ago(hall: Hall) -> bytes:
    """Two logins in one session: the young one had one factor, the one with two is too old."""
    linked = hall.cloud.person("anna@lab.example", linked=[hall.anna])
    now = int(time.time())
    entries = {hall.anna: {"auth_time": now, "amr": ["pwd"]}, linked: {"auth_time": now - 9000, **MFA}}
    return hall.enrolment(hall.token(session={"authentications": entries}))


def _program(hall: Hall) -> bytes:
    program, _ = hall.cloud.client("a program")
    hall.cloud.member(hall.group, program)
    return hall.enrolment(hall.token(program, {"authentications": {}}, client=program), identity=program)


def _status(status: str) -> Callable[[Hall], bytes]:
    def make(hall: Hall) -> bytes:
        hall.cloud.member(hall.group, hall.anna, status=status)
        return hall.enrolment()

    return make


def _stranger(hall: Hall) -> bytes:
    otto = hall.cloud.person("otto@uni.example")
    return hall.enrolment(hall.token(otto), identity=otto)


REFUSED: dict[str, tuple[Callable[[Hall], bytes], str]] = {
    "a token of another audience": (_another_audience, "token_inactive"),
    "a token of another audience, obtained by the server": (_own_for_another_audience, "token_audience"),
    "a token for another federation's server": (_another_server, "token_inactive"),
    "a token that may do more": (_more_than_enrol, "token_scope"),
    "a token that another application obtained": (_lured, "token_client"),
    "a revoked token": (_revoked, "token_inactive"),
    "an expired token": (_expired, "token_inactive"),
    "an invented token": (_invented, "token_inactive"),
    "a token of another person": (_another_person, "token_identity"),
    "a token that was used": (_second_use, "replayed"),
    "no token": (lambda hall: sealed(enrolment_of("anna", hall.anna, None), None), "token_missing"),
    "an old login": (_old_session, "session_old"),
    "a login in the future": (_session_from_the_future, "session_missing"),
    "no login": (_no_session, "session_missing"),
    "another person's login": (_session_of_another, "session_missing"),
    "one factor": (lambda hall: hall.enrolment(hall.token(session={"amr": ["pwd"]})), "mfa_missing"),
    "a single strong factor": (lambda hall: hall.enrolment(hall.token(session={"amr": ["hwk"]})), "mfa_missing"),
    "two factors long ago": (_mfa_long_ago, "mfa_missing"),
    "a program": (_program, "service_account"),
    "application pending": (_status("pending"), "pending"),
    "invited": (_status("invited"), "invited"),
    "removed": (_status("removed"), "removed"),
    "a stranger": (_stranger, "not_a_member"),
}


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


def _hash_of_another(hall: Hall) -> bytes:
    """Eve's stolen token beside anna's signed enrolment."""
    return sealed(enrolment_of("anna", hall.anna, hall.token()), hall.token())


def _resealed(hall: Hall) -> bytes:
    """Anna's statement in an enrolment that eve signed, with eve's token."""
    token = hall.token()
    statement = statement_of("anna", hall.anna, token)
    return sealed(enrolment_of("eve", hall.anna, token, signed=statement), token)


def _for_another_server(hall: Hall) -> bytes:
    key = keys_of("other server").opening.public
    token = hall.token()
    return sealed(enrolment_of("anna", hall.anna, token, server_key=key.key_id), token, key)


UNSAID: dict[str, tuple[Callable[[Hall], bytes], type[TrustError], str | None]] = {
    "another token's hash": (_hash_of_another, MailboxError, None),
    "another's statement sealed again": (_resealed, SignatureError, None),
    "sealed for another server": (_for_another_server, MailboxError, None),
    "another federation": (
        lambda hall: sealed(enrolment_of("anna", hall.anna, "t", federation="lung"), "t", to="lung"), MailboxError, None,
    ),
    "another federation inside": (
        lambda hall: sealed(enrolment_of("anna", hall.anna, "t", federation="lung"), "t"), SignatureError, None,
    ),
    "another log": (lambda hall: hall.enrolment("t", log_origin="lung.example/log"), SignatureError, None),
    "keys that ended": (lambda hall: hall.enrolment("t", not_before=1, not_after=2), SignatureError, None),
    "from the future": (lambda hall: hall.enrolment("t", time=int(time.time()) + 400), MailboxError, None),
    "another nonce": (lambda hall: hall.enrolment("t", nonce="1" * 64), SignatureError, "2" * 64),
    "not sealed": (lambda hall: enrolment_of("anna", hall.anna, "t").raw, MalformedError, None),
    "nothing": (lambda hall: b"", MalformedError, None),
    "a bit flipped": (lambda hall: _flipped(hall.enrolment("t")), RecipientError, None),
}  # fmt: skip


def _flipped(raw: bytes) -> bytes:
    value = json.loads(raw)
    text = value["sealed"]
    at = len(text) // 2
    value["sealed"] = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


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
