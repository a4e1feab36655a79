"""The published vectors of docs/formats/charter.md and docs/formats/mailbox.md, read as a stranger would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from counterseal.trust.charter.signing import verify_charter
from counterseal.trust.enrolment import OpenedEnrolment, open_enrolment
from counterseal.trust.errors import CharterError, TrustError, UnknownKeyError
from counterseal.trust.keys.sealing import OpeningKey
from counterseal.trust.keys.signing import VerifyingKey
from counterseal.trust.mailbox import Mailbox, read_message

VECTORS = Path(__file__).parent.parent / "vectors"
CHARTER: dict[str, Any] = json.loads((VECTORS / "charter" / "vectors.json").read_text())
INDEX: dict[str, Any] = json.loads((VECTORS / "mailbox" / "index.json").read_text())


@pytest.mark.parametrize("case", CHARTER["cases"], ids=lambda case: case["name"])
def test_charter(case: dict[str, Any]) -> None:
    old, new = case.get("replace", ("", ""))
    raw = CHARTER["charter"].replace(old, new, 1).encode()
    signatures = [CHARTER["signatures"][name].encode() for name in case["signatures"]]
    if case["where"] is None:
        assert verify_charter(raw, signatures, now=CHARTER["now"]).digest == CHARTER["digest"]
        return
    with pytest.raises(CharterError) as caught:
        verify_charter(raw, signatures, now=CHARTER["now"])
    assert caught.value.where == case["where"]


def _resolve(identity: str, key_id: str) -> VerifyingKey:
    key = VerifyingKey("p384", bytes.fromhex(INDEX["east"]))
    if (identity, key_id) != ("east", key.key_id):
        raise UnknownKeyError(f"{identity} has no such key")
    return key


def _open(raw: bytes) -> OpenedEnrolment:
    key = OpeningKey.from_private_bytes(INDEX["server_suite"], bytes.fromhex(INDEX["server_private"]))
    return open_enrolment(raw, key, federation="lung", log_origin=INDEX["log_origin"], now=INDEX["now"])


@pytest.mark.parametrize("file", INDEX["files"])
def test_message(file: str) -> None:
    path, code = VECTORS / "mailbox" / file, INDEX["files"][file]

    def read() -> str:
        if file.endswith(".enrolment.counterseal.json"):
            return _open(path.read_bytes()).token or ""
        return str(read_message(path, _resolve, federation="lung", now=INDEX["now"]).document.identity)

    if code is None:
        assert read() in {"east", INDEX["token"]}
        return
    with pytest.raises(TrustError) as caught:
        read()
    assert caught.value.code == code


def test_the_whole_museum_through_one_mailbox(tmp_path: Path) -> None:
    box = Mailbox(tmp_path, "lung")
    for file in INDEX["files"]:
        (box.inbox / file).write_bytes((VECTORS / "mailbox" / file).read_bytes())
    taken = {one.path.name for one in box.receive(_resolve, now=INDEX["now"], opener=_open)}
    assert taken == {file for file, code in INDEX["files"].items() if code is None}
    reasons = sorted(path.read_text().strip() for path in box.refused.glob("*.reason"))
    assert reasons == sorted(code for code in INDEX["files"].values() if code is not None)
