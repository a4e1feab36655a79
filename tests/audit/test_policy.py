"""Witness policies and `.tlog-proof` files."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.audit.errors import CheckpointError, PolicyError, ProofError, QuorumError
from counterseal.audit.tlog.checkpoint import log_key
from counterseal.audit.tlog.cosignature import CosignedCheckpoint, Witnesses, cosign, witness_key
from counterseal.audit.tlog.log import Log
from counterseal.audit.tlog.note import NoteSignature
from counterseal.audit.tlog.policy import Policy
from counterseal.audit.tlog.proof import LogProof
from counterseal.trust.keys.signing import SoftwareSigner

ORIGIN = "counterseal.example/f7"
NAMES = ("x1", "x2", "x3", "y1", "y2")
KEYS = {name: SoftwareSigner.generate() for name in NAMES}
LOG = SoftwareSigner.generate()


def vkey(name: str) -> str:
    return witness_key(f"{name}.example", KEYS[name].public).vkey()


TEXT = f"""# who counts
log {log_key(ORIGIN, LOG.public).vkey()} https://log.example/

witness x1 {vkey("x1")}
witness\tx2  {vkey("x2")} https://x2.example/
  witness x3 {vkey("x3")}
group X 2 x1 x2 x3
witness y1 {vkey("y1")}
witness y2 {vkey("y2")}
group Y any y1 y2
group X-and-Y all X Y
quorum X-and-Y
"""


def test_groups_of_groups() -> None:
    policy = Policy.parse(TEXT)
    for count in range(6):
        for names in itertools.combinations(NAMES, count):
            expected = len({"x1", "x2", "x3"} & set(names)) >= 2 and bool({"y1", "y2"} & set(names))
            assert policy.satisfied(names) is expected, names
    assert not policy.satisfied(["X", "Y", "X-and-Y"]), "a group's name is not a cosignature"


def test_a_policy_round_trips() -> None:
    policy = Policy.parse(TEXT)
    assert Policy.parse(policy.to_text()) == policy
    nobody = Policy.parse("quorum none\n")
    assert nobody.quorum is None
    assert nobody.satisfied([])
    assert Policy.parse(nobody.to_text()) == nobody


@given(k=st.integers(1, 5))
def test_k_of(k: int) -> None:
    witnesses = Witnesses.of({f"{name}.example": KEYS[name].public for name in NAMES})
    policy = Policy.k_of((log_key(ORIGIN, LOG.public),), witnesses, k)
    assert policy.satisfied([f"{name}.example" for name in NAMES[:k]])
    assert not policy.satisfied([f"{name}.example" for name in NAMES[: k - 1]])
    assert Policy.parse(policy.to_text()) == policy


BAD = {
    "no quorum": f"witness x1 {vkey('x1')}\n",
    "two quorums": "quorum none\nquorum none\n",
    "unknown quorum": "quorum x1\n",
    "quorum before its witness": f"quorum x1\nwitness x1 {vkey('x1')}\n",
    "unknown word": "quota none\n",
    "k = 0": f"witness x1 {vkey('x1')}\ngroup g 0 x1\nquorum g\n",
    "k > n": f"witness x1 {vkey('x1')}\ngroup g 2 x1\nquorum g\n",
    "k = -1": f"witness x1 {vkey('x1')}\ngroup g -1 x1\nquorum g\n",
    "k in other digits": f"witness x1 {vkey('x1')}\ngroup g \u0661 x1\nquorum g\n",
    "group of nobody": "group g any\nquorum g\n",
    "group of itself": f"witness x1 {vkey('x1')}\ngroup g any x1 g\nquorum g\n",
    "group of none": "group g any none\nquorum g\n",
    "member twice in a group": f"witness x1 {vkey('x1')}\ngroup g 2 x1 x1\nquorum g\n",
    "member of two groups": f"witness x1 {vkey('x1')}\ngroup g any x1\ngroup h any x1\nquorum g\n",
    "one key under two names": f"witness x1 {vkey('x1')}\nwitness x2 {vkey('x1')}\nquorum none\n",
    "one name for two keys": f"witness x1 {vkey('x1')}\nwitness x1 {vkey('x2')}\nquorum none\n",
    "group named as a witness": f"witness x1 {vkey('x1')}\ngroup x1 any x1\nquorum x1\n",
    "witness called none": f"witness none {vkey('x1')}\nquorum none\n",
    "log key as a witness": f"witness x1 {log_key(ORIGIN, LOG.public).vkey()}\nquorum none\n",
    "witness key as a log": f"log {vkey('x1')}\nquorum none\n",
    "log twice": f"log {log_key(ORIGIN, LOG.public).vkey()}\nlog {log_key('o', LOG.public).vkey()}\nquorum none\n",
    "bad vkey": "log abc\nquorum none\n",
    "weak key": "log x+00000000+AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nquorum none\n",
    "control character": "quorum none\n\x1b[2J",
    "carriage return": "quorum none\r\n",
    "too long": "#" * 70_000 + "\nquorum none\n",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_policies(name: str) -> None:
    with pytest.raises(PolicyError):
        Policy.parse(BAD[name])


@pytest.fixture
def log(open_log: Callable[..., Log]) -> Log:
    log = open_log(signer=LOG)
    log.append([b"leaf %d" % index for index in range(300)])
    log.checkpoint()
    return log


def lines(log: Log, *names: str) -> list[str]:
    assert log.published is not None
    return [cosign(log.published, KEYS[name], f"{name}.example", 7) for name in names]


def proof(log: Log, index: int) -> LogProof:
    return LogProof(index, log.inclusion(index, 300), log.cosigned_at(300))


def test_quorum(log: Log) -> None:
    policy = Policy.parse(TEXT)
    log.add_cosignatures(300, lines(log, "x1", "x2"))
    with pytest.raises(QuorumError, match="2 of 5"):
        policy.require(CosignedCheckpoint.open(log.cosigned_at(300), ORIGIN, LOG.public))
    log.add_cosignatures(300, lines(log, "y2"))
    found = policy.require(CosignedCheckpoint.open(log.cosigned_at(300), ORIGIN, LOG.public))
    assert found == {"x1": 7, "x2": 7, "y2": 7}


def test_a_proof_file_stands_alone(log: Log) -> None:
    log.add_cosignatures(300, lines(log, "x1", "x2", "y1"))
    raw = proof(log, 77).to_bytes()
    found = LogProof.parse(raw)
    assert found.to_bytes() == raw
    assert found.verify(b"leaf 77", ORIGIN, LOG.public, Policy.parse(TEXT)).size == 300
    with_extra = LogProof(77, found.hashes, found.checkpoint, b"\0extra")
    assert LogProof.parse(with_extra.to_bytes()) == with_extra


def test_a_proof_of_the_only_leaf(open_log: Callable[..., Log]) -> None:
    log = open_log(folder="one", signer=LOG)
    log.append([b"only"])
    log.checkpoint()
    raw = LogProof(0, log.inclusion(0, 1), log.cosigned_at(1)).to_bytes()
    assert LogProof.parse(raw).verify(b"only", ORIGIN, LOG.public).size == 1


def test_a_proof_is_of_one_leaf_in_one_log_with_a_quorum(log: Log) -> None:
    found = proof(log, 77)
    with pytest.raises(ProofError):
        found.verify(b"leaf 78", ORIGIN, LOG.public)
    with pytest.raises(CheckpointError):
        found.verify(b"leaf 77", "other.example", LOG.public)
    with pytest.raises(CheckpointError):
        found.verify(b"leaf 77", ORIGIN, KEYS["x1"].public)
    with pytest.raises(QuorumError):
        found.verify(b"leaf 77", ORIGIN, LOG.public, Policy.parse(TEXT))
    moved = LogProof(78, found.hashes, found.checkpoint)
    with pytest.raises(ProofError):
        moved.verify(b"leaf 77", ORIGIN, LOG.public)


def test_a_forged_witness_line_rejects_the_proof(log: Log) -> None:
    key = witness_key("x1.example", KEYS["x1"].public)
    forged = NoteSignature(key.name, key.id, bytes(72)).line().encode()
    found = LogProof(77, log.inclusion(77, 300), log.checkpoint_at(300) + forged)
    with pytest.raises(CheckpointError, match="does not hold"):
        found.verify(b"leaf 77", ORIGIN, LOG.public, Policy.parse(TEXT))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "other version": lambda raw: raw.replace(b"@v1", b"@v2"),
    "no index": lambda raw: raw.replace(b"index 77\n", b""),
    "index with zero": lambda raw: raw.replace(b"index 77", b"index 077"),
    "negative index": lambda raw: raw.replace(b"index 77", b"index -7"),
    "two indices": lambda raw: raw.replace(b"index 77\n", b"index 77\nindex 77\n"),
    "extra after index": lambda raw: raw.replace(b"index 77\n", b"index 77\nextra AAAA\n"),
    "loose base64": lambda raw: raw.replace(b"=\n", b"\n", 1),
    "short hash": lambda raw: raw.replace(b"index 77\n", b"index 77\nAAAA\n"),
    "64 hashes": lambda raw: raw.replace(b"index 77\n", b"index 77\n" + (b"A" * 43 + b"=\n") * 64),
    "carriage return": lambda raw: raw.replace(b"index 77\n", b"index 77\r\n"),
    "no blank line": lambda raw: raw.replace(b"\n\n", b"\n"),
    "not ASCII": lambda raw: raw.replace(b"index", "indéx".encode()),
    "too long": lambda raw: raw + b"x" * (2 << 20),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_files_that_are_not_proofs(name: str, log: Log) -> None:
    with pytest.raises(ProofError):
        LogProof.parse(DAMAGE[name](proof(log, 77).to_bytes()))
