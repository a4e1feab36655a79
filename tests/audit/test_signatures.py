"""Signatures checked in child processes: the same answers, whatever becomes of the children."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from counterseal.audit.checks import signatures
from counterseal.audit.checks.signatures import Claim, hold
from counterseal.trust.keys.signing import SoftwareSigner

FORGED = {0, 7, 399, 400, 401, 799}


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[Claim]:
    monkeypatch.setattr(signatures, "_WORTH_A_CHILD", 100)
    signers = [SoftwareSigner.generate(name) for name in ("ed25519", "ed25519", "p256", "p384")]
    found = []
    for number in range(800):
        signer, message = signers[number % 4], b"message %d" % number
        signature = signer.sign(b"another" if number in FORGED else message)
        found.append(Claim(signer.public, signature, message))
    return found


@pytest.mark.parametrize("workers", [1, 2, 3, 64])
def test_the_same_answers_from_any_number_of_processes(workers: int, claims: list[Claim]) -> None:
    answers = hold(claims, workers=workers)
    assert {number for number, holds in enumerate(answers) if not holds} == FORGED
    assert len(answers) == len(claims)


@pytest.mark.parametrize(
    "child", ["exit 1", "exit 0", "cat >/dev/null; head -c 400 /dev/zero | tr '\\0' '\\2'", "gone"]
)
def test_a_child_that_fails_has_proven_nothing(
    child: str, claims: list[Claim], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "python"
    if child != "gone":
        path.write_text(f"#!/bin/sh\n{child}\n")
        path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    answers = hold(claims, workers=2)
    assert {number for number, holds in enumerate(answers) if not holds} == FORGED


def test_signatures_of_any_length_are_answers_not_errors(claims: list[Claim]) -> None:
    odd = [Claim(one.key, one.signature[: number % 60], one.message) for number, one in enumerate(claims)]
    assert hold(odd, workers=2) == [False] * len(odd)


def test_no_claims() -> None:
    assert hold([], workers=2) == []
