"""The vectors of docs/formats/log.md: good ones hold, each bad one meets its error, and they are what the code writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from counterseal.audit.errors import AuditError
from counterseal.audit.tlog.merkle import leaf_hash, require_consistency, require_inclusion
from counterseal.audit.tlog.policy import Policy
from counterseal.audit.tlog.proof import LogProof
from counterseal.tests.audit import log_vectors

FOLDER = Path(__file__).parent.parent / "vectors" / "log"
PROOFS: dict[str, Any] = json.loads((FOLDER / "proofs.json").read_text())
TREE: dict[str, Any] = json.loads((FOLDER / "tree.json").read_text())
POLICY = Policy.parse((FOLDER / "policy.txt").read_text())


@pytest.mark.parametrize("name", PROOFS)
def test_proofs(name: str) -> None:
    leaf, error = PROOFS[name]["leaf"].encode(), PROOFS[name]["error"]
    found = ""
    try:
        proof = LogProof.parse((FOLDER / name).read_bytes())
        proof.verify(leaf, POLICY.logs[0].name, POLICY.logs[0].key, POLICY)
    except AuditError as caught:
        found = caught.code
    assert found == error


def test_there_is_no_file_without_a_verdict() -> None:
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*")}
    assert files == set(PROOFS)


def test_inclusion() -> None:
    for one in TREE["inclusion"]:
        leaf = leaf_hash(b"leaf %d" % one["index"])
        root = bytes.fromhex(TREE["roots"][str(one["size"])])
        require_inclusion(leaf, one["index"], one["size"], [bytes.fromhex(step) for step in one["proof"]], root)


def test_consistency() -> None:
    for one in TREE["consistency"]:
        roots = [bytes.fromhex(TREE["roots"][str(one[which])]) for which in ("old", "new")]
        steps = [bytes.fromhex(step) for step in one["proof"]]
        require_consistency(one["old"], roots[0], one["new"], roots[1], steps)


def test_the_vectors_are_what_the_code_writes(tmp_path: Path) -> None:
    log_vectors.write(tmp_path)
    for path in (one for one in FOLDER.rglob("*") if one.is_file()):
        assert (tmp_path / path.relative_to(FOLDER)).read_bytes() == path.read_bytes(), path.name
