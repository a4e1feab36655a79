"""The stored vectors of docs/formats/blob.md open, or are refused with their reason code."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.errors import CountersealError
from counterseal.parameters import Schema
from counterseal.tests.trust.blob_tink import stock_tink
from counterseal.trust import dsse
from counterseal.trust.blob import BytesSource, Manifest, Place, explain, open_blob, read_manifest
from counterseal.trust.blob.inspect import _time
from counterseal.trust.blob.wraps import unwrap_root
from counterseal.trust.canonical import canonical
from counterseal.trust.documents import parse_document
from counterseal.trust.keys.sealing import OpeningKey
from counterseal.trust.keys.signing import SoftwareSigner, VerifyingKey

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "blob" / "vectors.json").read_text())
GOOD = VECTORS["good"]
SCHEMA = Schema.from_json(VECTORS["schema"])


def verifying(name: str) -> VerifyingKey:
    return VerifyingKey("ed25519", bytes.fromhex(VECTORS["signing_keys"][name]))


def opening(name: str) -> OpeningKey:
    private = bytes.fromhex(VECTORS["opening_keys"][name])
    return OpeningKey.from_private_bytes(VECTORS["place"]["suite"], private)


def opened(manifest: str, payload: str, opener: str, *, alone: bool = False) -> memoryview:
    place = Place.from_json(VECTORS["place"])
    source = BytesSource(base64.b64decode(payload))
    trusted = read_manifest(manifest.encode(), place=place, sender=verifying("alice"), now=VECTORS["now"])
    if opener == "outsider" or alone:
        rewrapped = VECTORS["rewrap"]
        handed = read_manifest(
            rewrapped["manifest"].encode(),
            place=place.model_copy(update={"sender": rewrapped["sender"]}),
            sender=verifying("server"),
            now=VECTORS["now"],
        )
        return open_blob(handed, source, opening("outsider"), SCHEMA, original=None if alone else trusted).read()
    return open_blob(trusted, source, opening(opener), SCHEMA).read()


@pytest.mark.parametrize("opener", ["server", "auditor", "outsider"])
def test_the_good_blob_opens_for_everybody_it_is_for(opener: str) -> None:
    plaintext = opened(GOOD["manifest"], GOOD["payload"], opener)  # the outsider by the rewrap
    assert hashlib.sha256(plaintext).hexdigest() == GOOD["plaintext_sha256"]


def test_stock_tink_opens_the_payload_with_the_unwrapped_root() -> None:
    document = parse_document(Manifest, dsse.read(GOOD["manifest"].encode()).payload)
    keys = unwrap_root(document, opening("server"))
    stored = io.BytesIO(base64.b64decode(GOOD["payload"]))
    with stock_tink(keys.tink).new_decrypting_stream(stored, bytes.fromhex(GOOD["binding"])) as stream:
        assert hashlib.sha256(stream.read()).hexdigest() == GOOD["plaintext_sha256"]


def test_the_binding_is_that_of_the_stored_context() -> None:
    payload = json.loads(base64.b64decode(json.loads(GOOD["manifest"])["payload"]))
    rewritten = json.dumps(payload["context"], sort_keys=True, separators=(",", ":")).encode()
    assert hashlib.sha256(rewritten).hexdigest() == GOOD["binding"]


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["name"])
def test_the_bad_ones_are_refused(vector: dict[str, Any]) -> None:
    manifest, payload = vector.get("manifest", GOOD["manifest"]), vector.get("payload", GOOD["payload"])
    opener, alone = vector.get("opener", "server"), vector.get("rewrap_alone", False)
    with pytest.raises(CountersealError) as caught:
        if opener == "outsider":
            place = Place.from_json(VECTORS["place"])
            trusted = read_manifest(manifest.encode(), place=place, sender=verifying("alice"), now=VECTORS["now"])
            open_blob(trusted, BytesSource(base64.b64decode(payload)), opening(opener), SCHEMA)
        else:
            opened(manifest, payload, opener, alone=alone)
    assert caught.value.code == vector["code"]


def explained(blob: bytes) -> str:
    lines = explain(blob)
    assert all(line.isprintable() for line in lines)
    return "\n".join(lines)


def test_a_manifest_is_explained_without_a_key(tmp_path: Path) -> None:
    said = explained(GOOD["manifest"].encode())
    for word in ("Nothing below is verified", "alice@site-a.example", "lung.example", "run-1", "version 4", "update"):
        assert word in said
    for name in ("server", "auditor"):
        assert opening(name).public.key_id in said
    assert "Hands on manifest" in explained(VECTORS["rewrap"]["manifest"].encode())
    (tmp_path / "manifest").write_text(GOOD["manifest"])
    assert explain(tmp_path / "manifest") == explain(GOOD["manifest"].encode())
    by_mallory = next(one for one in VECTORS["bad"] if one["name"] == "signed by another member")
    assert "BUT IT NAMES" in explained(by_mallory["manifest"].encode())


def test_a_payload_is_explained_without_a_key() -> None:
    payload = base64.b64decode(GOOD["payload"])
    said = explained(payload)
    assert f"{SCHEMA.total_bytes:,}" in said
    assert payload[1:33].hex() in said


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"{",
        b"{}",
        b"x",
        b"x" * 100,
        b"\x28" * 55,
        b"\x28" * ((1 << 20) + 16),
        b"{" + b" " * (1 << 20),
        b'{"payload":"","payloadType":"application/vnd.counterseal.ticket.v1+json","signatures":[{"keyid":"'
        + b"0" * 64
        + b'","sig":""}]}',
    ],
)
def test_what_is_neither_is_said_to_be_so(blob: bytes) -> None:
    assert explained(blob).startswith("NOT A ")


def test_an_expiry_beyond_any_calendar_is_told() -> None:
    assert "beyond any calendar" in _time(2**53 - 1)
    assert _time(0) == "1970-01-01 00:00:00 UTC"


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"{" + tail) | st.text().map(str.encode))
def test_anything_is_explained_in_printable_lines(blob: bytes) -> None:
    assert explained(blob)
    place = Place.from_json(VECTORS["place"])
    with pytest.raises(CountersealError):
        read_manifest(blob, place=place, sender=verifying("alice"), now=None)


def test_a_hostile_member_name_cannot_paint_on_the_terminal() -> None:
    document = json.loads(base64.b64decode(json.loads(GOOD["manifest"])["payload"]))
    document["\x1b[2Jall is well\u202e"] = 1
    raw = dsse.sign(canonical(document), kind="manifest", signer=SoftwareSigner.generate())
    assert explained(raw).startswith("NOT A MANIFEST")
