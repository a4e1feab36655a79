"""Key statements: each way of claiming a key, a use or a place that is not one's own meets its error."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.trust import dsse
from counterseal.trust.canonical import canonical
from counterseal.trust.documents import Signed
from counterseal.trust.errors import MalformedError, SignatureError, TrustError, WeakKeyError
from counterseal.trust.keys.member import SIGN_ALGORITHM, MemberKeys
from counterseal.trust.keys.sealing import SealSuite
from counterseal.trust.keys.signing import Signer, SoftwareSigner
from counterseal.trust.keys.statement import (
    MAXIMUM_LIFE,
    KeyStatement,
    make_statement,
    possession_message,
    verify_recovery,
    verify_statement,
)

FEDERATION, ORIGIN, NOW = "cancer-net", "log.example.org/cancer-net", 1_000_000
PLACE: dict[str, Any] = {"federation": FEDERATION, "log_origin": ORIGIN, "now": NOW}
SMALL_ORDER = ["01" + "00" * 31, "ec" + "ff" * 30 + "7f", "00" * 32, "00" * 31 + "80"]
VECTORS = Path(__file__).parent.parent / "vectors" / "keys"

ALICE = MemberKeys.generate(operator=True)
MALLORY = MemberKeys.generate(operator=True)

Json = dict[str, Any]


def _make(keys: MemberKeys, **changes: Any) -> Signed[KeyStatement]:
    given_: dict[str, Any] = {
        "federation": FEDERATION,
        "identity": "alice@example.org",
        "log_origin": ORIGIN,
        "not_before": NOW - 10,
        "not_after": NOW + 10,
        "nonce": "ab" * 32,
    }
    return make_statement(keys, **{**given_, **changes})


FIRST = _make(ALICE)


def _resigned(
    change: Callable[[Json], object], signer: Signer = ALICE.signer, first: Signed[KeyStatement] = FIRST
) -> bytes:
    """Return the statement with a changed payload under a valid envelope: what a dishonest member can produce."""
    payload = json.loads(base64.b64decode(json.loads(first.raw)["payload"]))
    change(payload)
    return dsse.sign(canonical(payload), kind="key-statement", signer=signer)


def _entry(payload: Json, use: str) -> Json:
    found: Json = next(entry for entry in payload["keys"] if entry["use"] == use)
    return found


def _own(use: str, signer: Signer, algorithm: str | None = None) -> Callable[[Json], None]:
    """Put ``signer`` under ``use`` with a proof that is right in everything else."""

    def change(payload: Json) -> None:
        entry = _entry(payload, use)
        entry["algorithm"] = algorithm or signer.public.algorithm
        entry["public"] = base64.b64encode(signer.public.public).decode()
        claim = {name: payload[name] for name in ("federation", "log_origin", "nonce", "token_hash", "identity")}
        claim |= {name: entry[name] for name in ("use", "algorithm", "public")}
        proof = signer.sign(b"counterseal-possession-v1\n" + canonical(claim))
        entry["possession"] = base64.b64encode(proof).decode()

    return change


@pytest.mark.parametrize("suite", get_args(SealSuite))
@pytest.mark.parametrize("operator", [False, True])
def test_a_statement_names_every_key(suite: SealSuite, operator: bool) -> None:
    keys = MemberKeys.generate(suite, operator)
    made = _make(keys, token_hash="cd" * 32)
    read = verify_statement(made.raw, **PLACE)
    document = read.document
    assert read == made and document.suite == suite and document.serial == 1
    assert document.sign == keys.signer.public and document.sign.algorithm == SIGN_ALGORITHM[suite]
    assert document.cosign == keys.cosigner.public and document.release == keys.release.public
    assert document.seal == keys.opening.public and document.key_ids == keys.key_ids
    assert document.is_operator is operator
    assert document.checkpoint == (keys.checkpoint.public if keys.checkpoint else None)
    assert keys.opening.unwrap(document.seal.wrap(b"welcome", b""), b"") == b"welcome"


def test_the_possession_message_is_what_the_page_says() -> None:
    entry = FIRST.document.keys[0]
    assert possession_message(FIRST.document, entry) == (
        b'counterseal-possession-v1\n{"algorithm":"ed25519","federation":"cancer-net","identity":"alice@example.org",'
        b'"log_origin":"log.example.org/cancer-net","nonce":"' + b"ab" * 32 + b'","public":"'
        + entry.public.encode() + b'","token_hash":null,"use":"sign"}'
    )  # fmt: skip


def test_what_the_envelope_alone_would_allow_is_stopped_by_possession() -> None:
    """The helper makes valid statements: unchanged, and with another key that the member does hold."""
    assert verify_statement(_resigned(lambda payload: None), **PLACE).document == FIRST.document
    other = SoftwareSigner.generate()
    assert verify_statement(_resigned(_own("cosign", other)), **PLACE).document.cosign == other.public


def _set(use: str, /, **members: Any) -> Callable[[Json], None]:
    return lambda payload: _entry(payload, use).update(members)


def _stolen(use: str) -> Callable[[Json], None]:
    """Name somebody else's public key, with the proof that its owner made for the owner's own statement."""
    theirs = json.loads(base64.b64decode(json.loads(_make(MALLORY, identity="mallory").raw)["payload"]))
    return lambda payload: _entry(payload, use).update(_entry(theirs, use))


def _swapped(payload: Json) -> None:
    cosign, checkpoint = _entry(payload, "cosign"), _entry(payload, "checkpoint")
    cosign["possession"], checkpoint["possession"] = checkpoint["possession"], cosign["possession"]


def _exchanged(payload: Json) -> None:
    cosign, checkpoint = _entry(payload, "cosign"), _entry(payload, "checkpoint")
    cosign["use"], checkpoint["use"] = "checkpoint", "cosign"


def _drop(use: str) -> Callable[[Json], None]:
    return lambda payload: payload["keys"].remove(_entry(payload, use))


def _twice(payload: Json) -> None:
    payload["keys"].append(dict(_entry(payload, "cosign")))
    payload["keys"].remove(_entry(payload, "checkpoint"))


P256 = SoftwareSigner.generate("p256")
P384 = SoftwareSigner.generate("p384")
SEAL = base64.b64encode(ALICE.opening.public.public).decode()
LOW_SEAL = base64.b64encode(ALICE.opening.public.public[:-32] + bytes(32)).decode()

ATTACKS: dict[str, tuple[Callable[[Json], object], type[TrustError], str]] = {
    "another's cosign key, with its owner's proof": (_stolen("cosign"), SignatureError, "cosign key's proof"),
    "another's release key, with its owner's proof": (_stolen("release"), SignatureError, "release key's proof"),
    "proofs of two keys swapped": (_swapped, SignatureError, "proof of possession"),
    "uses of two keys exchanged": (_exchanged, SignatureError, "proof of possession"),
    "proof omitted": (_set("cosign", possession=None), MalformedError, "proof of possession"),
    "proof empty": (_set("cosign", possession=""), SignatureError, "proof of possession"),
    "proof over zero bytes": (_set("release", possession="AAAA"), SignatureError, "proof of possession"),
    "proof for the sealing key": (_set("seal", possession="AAAA"), MalformedError, "proof of possession"),
    "proof over another nonce": (lambda p: p.update(nonce="cd" * 32), SignatureError, "proof of possession"),
    "proof over another token": (lambda p: p.update(token_hash="cd" * 32), SignatureError, "proof of possession"),
    "proof over another identity": (lambda p: p.update(identity="bob"), SignatureError, "proof of possession"),
    "another federation": (lambda p: p.update(federation="other"), SignatureError, "federation"),
    "another log": (lambda p: p.update(log_origin="log.example.org/x"), SignatureError, "log"),
    "no sign key": (_drop("sign"), MalformedError, "exactly one key"),
    "no cosign key": (_drop("cosign"), MalformedError, "exactly one key"),
    "no sealing key": (_drop("seal"), MalformedError, "exactly one key"),
    "no release key": (_drop("release"), MalformedError, "exactly one key"),
    "two cosign keys": (_twice, MalformedError, "exactly one key"),
    "no keys": (lambda p: p.update(keys=[]), MalformedError, "keys"),
    "sign key also for cosign": (_own("cosign", ALICE.signer), WeakKeyError, "two uses"),
    "cosign key also for checkpoint": (_own("checkpoint", ALICE.cosigner), WeakKeyError, "two uses"),
    "P-256 cosign key": (_own("cosign", P256), WeakKeyError, "cosign key is ed25519"),
    "P-384 checkpoint key": (_own("checkpoint", P384), WeakKeyError, "checkpoint key is ed25519"),
    "Ed25519 release key": (_own("release", SoftwareSigner.generate()), WeakKeyError, "release key is p256"),
    "P-384 sign key in the Ed25519 profile": (_own("sign", P384), WeakKeyError, "sign key is ed25519"),
    "sealing key as cosign key": (_set("cosign", algorithm="MLKEM768_X25519", public=SEAL), WeakKeyError, "used for"),
    "signing key as sealing key": (
        _set("seal", algorithm="ed25519", public=base64.b64encode(bytes(range(32))).decode()), WeakKeyError, "used for",
    ),
    "sealing key of another suite": (lambda p: p.update(suite="MLKEM1024_P384"), WeakKeyError, "under"),
    "weak sealing key": (_set("seal", public=LOW_SEAL), WeakKeyError, "small order"),
    "unknown algorithm": (_set("cosign", algorithm="rsa"), MalformedError, "algorithm"),
    "unknown use": (_set("cosign", use="decrypt"), MalformedError, "use"),
    "unknown member": (lambda p: p.update(admin=True), MalformedError, "admin"),
    "public key not base64": (_set("cosign", public="*"), MalformedError, "base64"),
    "public key with stray bits": (_set("cosign", public="AAB="), MalformedError, "stray"),
    "valid for too long": (lambda p: p.update(not_after=p["not_before"] + MAXIMUM_LIFE + 1), MalformedError, "400 days"),
    "valid for nothing": (lambda p: p.update(not_after=p["not_before"]), MalformedError, "400 days"),
    "serial 0": (lambda p: p.update(serial=0), MalformedError, "serial"),
    "serial as text": (lambda p: p.update(serial="1"), MalformedError, "serial"),
    "serial 2 without previous": (lambda p: p.update(serial=2), MalformedError, "previous"),
    "serial 1 with previous": (lambda p: p.update(previous="ab" * 32), MalformedError, "previous"),
    "later statement as a first one": (lambda p: p.update(serial=2, previous="ab" * 32), SignatureError, "not a first"),
    "nonce too short": (lambda p: p.update(nonce="ab"), MalformedError, "nonce"),
    "origin with a newline": (lambda p: p.update(log_origin="log\nx"), MalformedError, "log_origin"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_dishonest_member_is_refused(name: str) -> None:
    change, error, words = ATTACKS[name]
    with pytest.raises(error, match=words):
        verify_statement(_resigned(change), **PLACE)


@pytest.mark.parametrize("encoded", SMALL_ORDER)
@pytest.mark.parametrize("use", ["sign", "cosign", "checkpoint"])
def test_small_order_keys_do_not_enter(use: str, encoded: str) -> None:
    weak = base64.b64encode(bytes.fromhex(encoded)).decode()
    forged = base64.b64encode(bytes.fromhex("01" + "00" * 63)).decode()
    with pytest.raises(WeakKeyError, match="small order"):
        verify_statement(_resigned(_set(use, public=weak, possession=forged)), **PLACE)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"federation": "other"}, "federation"),
        ({"log_origin": "log.example.org/other"}, "log"),
        ({"nonce": "cd" * 32}, "nonce"),
        ({"now": NOW - 11}, "valid from"),
        ({"now": NOW + 11}, "valid from"),
        ({"previous_key": ALICE.signer.public}, "rotation belongs"),
    ],
)
def test_a_statement_counts_in_its_place_only(wrong: dict[str, Any], words: str) -> None:
    verify_statement(FIRST.raw, **PLACE, nonce="ab" * 32)
    with pytest.raises(SignatureError, match=words):
        verify_statement(FIRST.raw, **{**PLACE, **wrong})


@pytest.mark.parametrize("edge", [NOW - 10, NOW + 10])
def test_the_ends_of_the_time_are_inside(edge: int) -> None:
    verify_statement(FIRST.raw, **{**PLACE, "now": edge})


def test_a_statement_re_signed_by_another_is_refused() -> None:
    for signer in (MALLORY.signer, ALICE.cosigner, ALICE.release):
        with pytest.raises(SignatureError):
            verify_statement(_resigned(lambda payload: None, signer), **PLACE)
    with pytest.raises(SignatureError, match="kind"):
        verify_statement(dsse.sign(FIRST.document.payload(), kind="charter", signer=ALICE.signer), **PLACE)


def test_a_rotation_is_signed_by_the_previous_key() -> None:
    fresh = MemberKeys.generate()
    rotation = _make(fresh, previous=FIRST, previous_signer=ALICE.signer)
    read = verify_statement(rotation.raw, **PLACE, previous_key=ALICE.signer.public)
    assert read.document.sign == fresh.signer.public
    assert (read.document.serial, read.document.previous) == (2, FIRST.digest)
    assert read.key_id == ALICE.signer.public.key_id
    with pytest.raises(SignatureError, match="not a first"):
        verify_statement(rotation.raw, **PLACE)
    for wrong in (fresh.signer.public, MALLORY.signer.public, ALICE.cosigner.public):
        with pytest.raises(SignatureError, match="signed with key"):
            verify_statement(rotation.raw, **PLACE, previous_key=wrong)
    with pytest.raises(SignatureError, match="signed with key"):
        verify_recovery(rotation.raw, **PLACE)


def test_a_recovery_is_no_first_statement_and_no_rotation() -> None:
    fresh = MemberKeys.generate()
    recovery = _make(fresh, previous=FIRST)
    assert verify_recovery(recovery.raw, **PLACE).key_id == fresh.signer.public.key_id
    with pytest.raises(SignatureError, match="not a first"):
        verify_statement(recovery.raw, **PLACE)
    with pytest.raises(SignatureError, match="signed with key"):
        verify_statement(recovery.raw, **PLACE, previous_key=ALICE.signer.public)
    with pytest.raises(SignatureError, match="recovery belongs"):
        verify_recovery(FIRST.raw, **PLACE)


def test_nonces_are_fresh_unless_given() -> None:
    assert _make(ALICE, nonce=None).document.nonce != _make(ALICE, nonce=None).document.nonce


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damaged_statement_is_taken(data: st.DataObject) -> None:
    raw = bytearray(FIRST.raw)
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))
    with pytest.raises(TrustError):
        verify_statement(bytes(raw), **PLACE)
    with pytest.raises(TrustError):
        verify_statement(FIRST.raw[:place], **PLACE)


@pytest.mark.parametrize("name", sorted(path.name for path in (VECTORS / "good").glob("*.json")))
def test_good_vectors(name: str) -> None:
    vector = json.loads((VECTORS / "good" / name).read_text())
    read = verify_statement(canonical(vector["envelope"]), **vector["place"])
    assert read.digest == vector["digest"]
    assert sorted(read.document.key_ids) == vector["key_ids"]


@pytest.mark.parametrize("name", sorted(path.name for path in (VECTORS / "bad").glob("*.json")))
def test_bad_vectors(name: str) -> None:
    vector = json.loads((VECTORS / "bad" / name).read_text())
    with pytest.raises(TrustError) as caught:
        verify_statement(canonical(vector["envelope"]), **vector["place"])
    assert caught.value.code == vector["code"]


def test_the_vectors_are_there() -> None:
    assert len(list((VECTORS / "good").glob("*.json"))) == 3
    assert len(list((VECTORS / "bad").glob("*.json"))) >= 12
