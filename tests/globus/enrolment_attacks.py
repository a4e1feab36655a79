"""Attacks upon a server's desk: enrolments that are refused, and files that nobody said. Tests and the attack table use them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from counterseal.runtime.globus.examination import SKEW
from counterseal.tests.globus.enrolment_world import MFA, Hall, enrolment_of, keys_of, sealed, statement_of
from counterseal.trust.errors import MailboxError, MalformedError, RecipientError, SignatureError, TrustError

__all__ = ["GROUPS", "REFUSED", "UNSAID"]

GROUPS = "urn:globus:auth:scope:groups.api.globus.org:view_my_groups_and_memberships"


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
    hall.cloud.token_seconds(-1)
    token = hall.token()
    hall.cloud.token_seconds(172_800)
    return hall.enrolment(token)


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
"""name: (what makes it, the reason for which it is refused)"""


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


def _flipped(raw: bytes) -> bytes:
    value = json.loads(raw)
    text = value["sealed"]
    at = len(text) // 2
    value["sealed"] = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


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
"""name: (what makes it, the error that it meets, the nonce that was handed out)"""
