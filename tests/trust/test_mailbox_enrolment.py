"""A sealed enrolment opens at one server, for one federation, with the token that belongs to its keys."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterseal.tests.trust.charter_world import NOW, ORIGIN, founded, keys_of, statement_of
from counterseal.trust.canonical import canonical
from counterseal.trust.charter.signing import fingerprint
from counterseal.trust.documents import Signed, sign
from counterseal.trust.enrolment import OpenedEnrolment, SealedEnrolment, open_enrolment, seal_enrolment
from counterseal.trust.errors import (
    CharterError,
    MailboxError,
    MalformedError,
    RecipientError,
    SignatureError,
    TrustError,
)
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.sealing import OpeningKey, SealingKey
from counterseal.trust.keys.validity import KeyHistory
from counterseal.trust.mailbox import Mailbox, keys_at, write_message
from counterseal.trust.messages import Enrolment

TOKEN = "the-one-token-of-emil"
SERVER = keys_of("server").opening
NONCE = "7" * 64


def _enrolment(
    identity: str = "emil", *, token: str | None = TOKEN, server: SealingKey = SERVER.public, **place: Any
) -> Signed[Enrolment]:
    token_hash = None if token is None else sha256(token.encode())
    statement = statement_of(identity, token_hash=token_hash, nonce=NONCE, **place)
    document = Enrolment(
        federation=place.get("federation", "heart"), identity=identity, time=NOW,
        server_key=server.key_id, statement=statement.raw.decode(),
    )  # fmt: skip
    return sign(document, keys_of(identity).signer)


def _seal(signed: Signed[Enrolment], token: str | None = TOKEN, key: SealingKey = SERVER.public) -> bytes:
    return seal_enrolment(signed, key, token=token, typed_fingerprint=fingerprint(key.key_id)).to_bytes()


def _open(raw: bytes, opening: OpeningKey = SERVER, **changes: Any) -> OpenedEnrolment:
    place: dict[str, Any] = {"federation": "heart", "log_origin": ORIGIN, "now": NOW, "nonce": NONCE}
    return open_enrolment(raw, opening, **(place | changes))


def test_it_opens_at_the_server() -> None:
    signed = _enrolment()
    opened = _open(_seal(signed))
    assert opened.enrolment == signed
    assert opened.token == TOKEN
    assert opened.statement.document.identity == "emil"


def test_without_a_token_where_the_group_is_a_roster() -> None:
    assert _open(_seal(_enrolment(token=None), None)).token is None


def test_it_names_the_endpoint_that_the_newcomer_signed_for() -> None:
    endpoint = "0b5d1bd4-2fc2-4c8e-9b0e-6d1b1c8a3f00"
    signed = sign(_enrolment().document.model_copy(update={"endpoint": endpoint}), keys_of("emil").signer)
    assert _open(_seal(signed)).enrolment.document.endpoint == endpoint


def test_the_token_is_nowhere_to_be_seen() -> None:
    signed = _enrolment()
    raw = _seal(signed)
    opened = _open(raw)
    for text in (raw, signed.raw, repr(opened).encode(), repr(signed).encode(), opened.enrolment.raw):
        assert TOKEN.encode() not in text
        assert base64.b64encode(TOKEN.encode())[:16] not in text


@pytest.mark.parametrize("suite", ["P384", "MLKEM1024_P384"])
def test_every_suite(suite: Any) -> None:
    server = keys_of("server", 3, suite).opening
    assert _open(_seal(_enrolment(server=server.public), key=server.public), server).token == TOKEN


def test_the_officer_must_type_the_fingerprint_of_this_key() -> None:
    signed = _enrolment()
    with pytest.raises(MailboxError, match="typed fingerprint"):
        seal_enrolment(signed, SERVER.public, token=TOKEN, typed_fingerprint="0" * 64)
    with pytest.raises(CharterError, match="64 hexadecimal"):
        seal_enrolment(signed, SERVER.public, token=TOKEN, typed_fingerprint=SERVER.public.key_id[:16])


@pytest.mark.parametrize("token", [None, "another", TOKEN + " "])
def test_only_the_token_of_the_statement_is_sealed(token: str | None) -> None:
    with pytest.raises(MailboxError, match="the token"):
        _seal(_enrolment(), token)


def _resealed(signed: Signed[Any], token: str | None, **changes: Any) -> bytes:
    """What somebody who does not use our sealing function would send."""
    inside = canonical({"enrolment": signed.raw.decode(), "token": token} | changes)
    key = SERVER.public
    wrapped = key.wrap(inside, b"counterseal-enrolment-v1\nheart\n" + key.key_id.encode())
    return SealedEnrolment(
        federation="heart", key=key.key_id, sealed=base64.b64encode(wrapped).decode(), suite=key.suite
    ).to_bytes()


def _edited(**changes: Any) -> bytes:
    return canonical(json.loads(_seal(_enrolment())) | changes)


def _stolen() -> bytes:
    """Emil's statement presented by another, who signs the enrolment with keys of its own."""
    theirs = _enrolment().document
    return _resealed(sign(theirs, keys_of("eve").signer), TOKEN)


def _renamed() -> bytes:
    document = _enrolment().document.model_copy(update={"identity": "eve"})
    return _resealed(sign(document, keys_of("emil").signer), TOKEN)


OTHER = keys_of("server", 4).opening

ATTACKS: dict[str, tuple[Callable[[], bytes], type[TrustError], dict[str, Any]]] = {
    "another server": (lambda: _seal(_enrolment()), MailboxError, {"opening": OTHER}),
    "another server under the old name": (
        lambda: _edited(key=OTHER.public.key_id), RecipientError, {"opening": OTHER}),
    "another federation": (lambda: _seal(_enrolment()), MailboxError, {"federation": "lung"}),
    "moved to another federation": (lambda: _edited(federation="lung"), RecipientError, {"federation": "lung"}),
    "another log": (lambda: _seal(_enrolment()), SignatureError, {"log_origin": "x.example"}),
    "another nonce": (lambda: _seal(_enrolment()), SignatureError, {"nonce": "8" * 64}),
    "too late": (lambda: _seal(_enrolment()), SignatureError, {"now": NOW + 366 * 86_400}),
    "one bit": (lambda: _edited(sealed=base64.b64encode(b"\0" * 1200).decode()), RecipientError, {}),
    "not base64": (lambda: _edited(sealed="%%%"), MalformedError, {}),
    "an unknown field": (lambda: _edited(also=1), MalformedError, {}),
    "another format": (lambda: _edited(format="v2"), MalformedError, {}),
    "another suite": (lambda: _edited(suite="P384"), MailboxError, {}),
    "not JSON": (lambda: b"hello", MalformedError, {}),
    "another token": (lambda: _resealed(_enrolment(), "another"), MailboxError, {}),
    "no token": (lambda: _resealed(_enrolment(), None), MailboxError, {}),
    "relayed by a server to another": (
        lambda: _resealed(_enrolment(server=OTHER.public), TOKEN), MailboxError, {}),
    "keys of another": (_stolen, SignatureError, {}),
    "the name of another": (_renamed, MailboxError, {}),
    "more inside": (lambda: _resealed(_enrolment(), TOKEN, also=1), MalformedError, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_enrolments_that_do_not_open(name: str) -> None:
    make, error, changes = ATTACKS[name]
    with pytest.raises(error) as caught:
        _open(make(), **changes)
    assert TOKEN not in str(caught.value)


def test_in_the_mailbox_the_token_is_not_kept(tmp_path: Path) -> None:
    box = Mailbox(tmp_path, "heart")
    resolver = keys_at(KeyHistory.from_charter("heart", founded().statements.values()), 1)
    signed = _enrolment()
    write_message(box.inbox, SealedEnrolment.from_json(json.loads(_seal(signed))), "emil")
    (received,) = box.receive(resolver, now=NOW, opener=_open)
    assert received.opened is not None and received.opened.token == TOKEN
    box.finish(received)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in kept] == [signed.raw]
    # Sealed again, it is other bytes and still the same enrolment.
    write_message(box.inbox, SealedEnrolment.from_json(json.loads(_seal(signed))), "emil")
    assert box.receive(resolver, now=NOW, opener=_open) == ()


def test_at_a_site_an_enrolment_is_refused(tmp_path: Path) -> None:
    box = Mailbox(tmp_path, "heart")
    resolver = keys_at(KeyHistory.from_charter("heart", founded().statements.values()), 1)
    write_message(box.inbox, SealedEnrolment.from_json(json.loads(_seal(_enrolment()))))
    assert box.receive(resolver, now=NOW) == ()
    (reason,) = box.refused.glob("*.reason")
    assert reason.read_text() == "mailbox\n"


def test_an_enrolment_is_never_written_in_clear(tmp_path: Path) -> None:
    with pytest.raises(MailboxError, match="sealed before"):
        write_message(tmp_path, _enrolment())
    assert list(tmp_path.iterdir()) == []
