"""A charter holds when every member signed exactly it, each with its own key, after typing its digest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.tests.trust.charter_world import (
    NOW,
    Signing,
    charter,
    first_statement,
    founded,
    keys_of,
    member,
    plan,
    statement_of,
)
from counterseal.trust.charter.model import Charter
from counterseal.trust.charter.signing import (
    CharterSignature,
    fingerprint,
    read_charter,
    read_fingerprint,
    sign_charter,
    verify_charter,
)
from counterseal.trust.documents import sign
from counterseal.trust.errors import CharterError
from counterseal.trust.identifiers import sha256
from counterseal.trust.messages import Approval

RAW = charter().payload()
DIGEST = sha256(RAW)
EVERYBODY = ("server", "anna", "bert", "cleo", "dora")


def test_signed_by_all_it_holds() -> None:
    signed = founded()
    assert signed.digest == DIGEST
    assert signed.signers == set(EVERYBODY)
    assert signed.effective_index == 0
    assert signed.sign_key("anna") == keys_of("anna").signer.public
    with pytest.raises(CharterError, match="not a member"):
        signed.sign_key("zoe")


@given(st.binary(min_size=32, max_size=32).map(bytes.hex), st.sampled_from([" ", "-", "\n", "  ", "\t"]))
def test_a_fingerprint_read_aloud_comes_back(digest: str, gap: str) -> None:
    assert read_fingerprint(fingerprint(digest)) == digest
    assert read_fingerprint(fingerprint(digest).upper().replace(" ", gap)) == digest
    assert len(fingerprint(digest).split()) == 16


@pytest.mark.parametrize("typed", [
    "",
    DIGEST[:63],
    DIGEST[:16],  # a prefix is never enough
    DIGEST + "0",
    "yes",
    "z" * 64,
    DIGEST.replace(DIGEST[0], "\u0660", 1),  # a digit, but not one of ours
    fingerprint(DIGEST)[:-5],
])  # fmt: skip
def test_what_is_no_digest_is_refused(typed: str) -> None:
    with pytest.raises(CharterError, match="64 hexadecimal"):
        read_fingerprint(typed)
    with pytest.raises(CharterError):
        sign_charter(RAW, "anna", keys_of("anna").signer, typed, now=NOW)


def test_the_officer_must_type_the_digest_of_this_very_file() -> None:
    other = charter(title="Another title").payload()
    with pytest.raises(CharterError, match="not that of this file") as caught:
        sign_charter(other, "anna", keys_of("anna").signer, DIGEST, now=NOW)
    assert "Do not sign" in caught.value.remedy


def test_one_flipped_digit_is_noticed() -> None:
    for place in range(64):
        typed = DIGEST[:place] + ("0" if DIGEST[place] != "0" else "1") + DIGEST[place + 1 :]
        with pytest.raises(CharterError):
            sign_charter(RAW, "anna", keys_of("anna").signer, typed, now=NOW)


def test_nobody_signs_for_another_or_what_cannot_hold() -> None:
    with pytest.raises(CharterError, match="not the sign key"):
        sign_charter(RAW, "anna", keys_of("bert").signer, DIGEST, now=NOW)
    with pytest.raises(CharterError, match="not the sign key"):
        sign_charter(RAW, "anna", keys_of("anna").cosigner, DIGEST, now=NOW)
    with pytest.raises(CharterError, match="not a member"):
        sign_charter(RAW, "zoe", keys_of("zoe").signer, DIGEST, now=NOW)
    value = plan()
    value["members"][1]["statement"] = statement_of("anna", not_before=1, not_after=2).raw.decode()
    stale = Charter.from_json(value).payload()
    with pytest.raises(CharterError, match="valid from"):
        sign_charter(stale, "bert", keys_of("bert").signer, sha256(stale), now=NOW)


def _by(*names: str) -> list[bytes]:
    return Signing(RAW).by(*names)


def _says(
    identity: str, key_of: str | None = None, *, federation: str = "heart", digest: str = DIGEST, time: int = NOW
) -> bytes:
    document = CharterSignature(federation=federation, charter=digest, identity=identity, time=time)
    return sign(document, keys_of(key_of or identity).signer).raw


def _another_kind() -> bytes:
    approval = Approval(
        federation="heart", identity="dora", time=NOW, subject=DIGEST, subject_kind="charter",
        decision="approve", officer="D", meaning="yes",
    )  # fmt: skip
    return sign(approval, keys_of("dora").signer).raw


FOUR = ("server", "anna", "bert", "cleo")
ATTACKS: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "nobody": (list, "not signed by anna, bert, cleo, dora, server"),
    "one is missing": (lambda: _by(*FOUR), "not signed by dora"),
    "the server is missing": (lambda: _by("anna", "bert", "cleo", "dora"), "not signed by server"),
    "one twice for another": (lambda: _by(*FOUR, "cleo"), "signed twice by cleo"),
    "one twice in other words": (lambda: [*_by(*EVERYBODY), _says("cleo", time=NOW - 9)], "signed twice by cleo"),
    "a stranger besides": (lambda: [*_by(*EVERYBODY), _says("zoe")], "zoe has no voice"),
    "in another's name": (lambda: [*_by(*FOUR), _says("dora", "cleo")], "wrong key"),
    "with the cosign key": (
        lambda: [*_by(*FOUR), sign(read_signature(_says("dora")), keys_of("dora").cosigner).raw], "wrong key"),
    "for another federation": (lambda: [*_by(*FOUR), _says("dora", federation="lung")], "another charter"),
    "for another charter": (lambda: [*_by(*FOUR), _says("dora", digest="0" * 64)], "another charter"),
    "from the future": (lambda: [*_by(*FOUR), _says("dora", time=NOW + 301)], "future"),
    "another document": (lambda: [*_by(*FOUR), _another_kind()], ""),
    "no envelope": (lambda: [*_by(*FOUR), b"{}"], "envelope"),
    "a changed envelope": (lambda: [*_by(*FOUR), _tampered(_says("dora"))], ""),
}  # fmt: skip


def read_signature(raw: bytes) -> CharterSignature:
    from counterseal.trust import dsse
    from counterseal.trust.documents import parse_document

    return parse_document(CharterSignature, dsse.read(raw).payload)


def _tampered(raw: bytes) -> bytes:
    place = raw.index(b'"sig":"') + 10
    return raw[:place] + (b"A" if raw[place : place + 1] != b"A" else b"B") + raw[place + 1 :]


@pytest.mark.parametrize("name", ATTACKS)
def test_signatures_that_make_no_federation(name: str) -> None:
    signatures, what = ATTACKS[name]
    with pytest.raises(CharterError) as caught:
        verify_charter(RAW, signatures(), now=NOW)
    assert what in caught.value.what


def test_a_clock_a_little_ahead_is_borne() -> None:
    verify_charter(RAW, [*_by(*FOUR), _says("dora", time=NOW + 300)], now=NOW)


def test_signatures_are_over_the_stored_bytes() -> None:
    """The same charter with another spelling has another digest, so its signatures do not carry over."""
    spaced = RAW.replace(b'"version":1', b'"version": 1')
    assert read_charter(spaced) == read_charter(RAW)
    with pytest.raises(CharterError, match="another charter"):
        verify_charter(spaced, _by(*EVERYBODY), now=NOW)


def test_an_amendment_is_no_first_charter() -> None:
    raw = charter(version=2, previous=DIGEST).payload()
    with pytest.raises(CharterError, match="amendment"):
        verify_charter(raw, Signing(raw).by(*EVERYBODY), now=NOW)


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_no_changed_byte_keeps_the_signatures(place: int, change: int) -> None:
    changed = bytearray(RAW)
    changed[place] ^= change
    with pytest.raises(CharterError):
        verify_charter(bytes(changed), SIGNATURES, now=NOW)


SIGNATURES = Signing(RAW).by(*EVERYBODY)


def test_an_auditor_signs_like_everybody() -> None:
    value = plan(auditor="audra")
    value["members"].append(member("audra", "auditor"))
    raw = Charter.from_json(value).payload()
    with pytest.raises(CharterError, match="not signed by audra"):
        verify_charter(raw, Signing(raw).by(*EVERYBODY), now=NOW)
    assert verify_charter(raw, Signing(raw).by(*EVERYBODY, "audra"), now=NOW).charter.auditor == "audra"
    assert first_statement("audra").document.identity == "audra"
