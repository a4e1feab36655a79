"""Key histories: who may use which key at which index, and every way of getting a key in or out that is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.trust.documents import Signed
from counterseal.trust.errors import RevokedKeyError, SignatureError, TrustError, UnknownKeyError, WeakKeyError
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.sealing import OpeningKey
from counterseal.trust.keys.signing import Signer, SoftwareSigner
from counterseal.trust.keys.statement import KeyStatement, KeyUse, make_statement
from counterseal.trust.keys.validity import Approval, KeyHistory

ORIGIN = "log.example.org/net"
# Making keys costs milliseconds: the tests draw from these.
POOL = [MemberKeys.generate() for _ in range(12)]
ALICE, BOB, CAROL = POOL[:3]

Statement = Signed[KeyStatement]


def _make(keys: MemberKeys, identity: str, previous: Statement | None = None, signer: Signer | None = None,
          **changes: Any) -> Statement:  # fmt: skip
    given_: dict[str, Any] = {
        "federation": "net",
        "log_origin": ORIGIN,
        "not_before": 0,
        "not_after": 10,
        "nonce": "0" * 64,
    }
    return make_statement(keys, **{**given_, **changes}, identity=identity, previous=previous, previous_signer=signer)


FIRST_A, FIRST_B, FIRST_C = _make(ALICE, "alice"), _make(BOB, "bob"), _make(CAROL, "carol")
CHARTER = KeyHistory.from_charter("net", [FIRST_A, FIRST_B, FIRST_C])
NEXT_A = _make(POOL[3], "alice", FIRST_A, ALICE.signer)
LOST_A = _make(POOL[4], "alice", FIRST_A)


def _id(keys: MemberKeys) -> str:
    return keys.signer.public.key_id


def _valid(history: KeyHistory, identity: str, keys: MemberKeys, at: int) -> bool:
    try:
        assert history.key(identity, "sign", _id(keys), at=at) == keys.signer.public
    except (UnknownKeyError, RevokedKeyError):
        return False
    return True


def test_the_charter_gives_every_use() -> None:
    for at in (0, 1, 10**9):
        assert CHARTER.current("alice", "sign", at) == ALICE.signer.public
        assert CHARTER.current("alice", "cosign", at) == ALICE.cosigner.public
        assert CHARTER.current("alice", "seal", at) == ALICE.opening.public
        assert CHARTER.current("alice", "release", at) == ALICE.release.public
        assert CHARTER.statement("alice", at) == FIRST_A
        with pytest.raises(UnknownKeyError):
            CHARTER.current("alice", "checkpoint", at)
    with pytest.raises(UnknownKeyError):
        CHARTER.statement("dave", 0)


def test_a_key_is_nobody_elses_and_for_nothing_else() -> None:
    for use in get_args(KeyUse):
        if use != "sign":
            with pytest.raises(UnknownKeyError):
                CHARTER.key("alice", use, _id(ALICE), at=0)
    for identity in ("bob", "dave"):
        with pytest.raises(UnknownKeyError):
            CHARTER.key(identity, "sign", _id(ALICE), at=0)


def test_a_rotation_counts_from_its_index_on() -> None:
    history = CHARTER.rotate(NEXT_A, at=7)
    assert [_valid(history, "alice", ALICE, at) for at in (0, 6, 7, 8)] == [True, True, False, False]
    assert [_valid(history, "alice", POOL[3], at) for at in (0, 6, 7, 8)] == [False, False, True, True]
    assert history.current("alice", "seal", 6) == ALICE.opening.public
    assert history.current("alice", "seal", 7) == POOL[3].opening.public
    assert history.statement("alice", 6) == FIRST_A and history.statement("alice", 7) == NEXT_A
    with pytest.raises(RevokedKeyError, match="replaced at index 7"):
        history.key("alice", "sign", _id(ALICE), at=7)
    with pytest.raises(UnknownKeyError):
        history.key("alice", "sign", _id(POOL[3]), at=6)
    assert _valid(CHARTER, "alice", ALICE, 8), "the older history is untouched"


def test_a_rotation_may_keep_keys() -> None:
    kept = replace(POOL[3], cosigner=ALICE.cosigner, opening=ALICE.opening)
    history = CHARTER.rotate(_make(kept, "alice", FIRST_A, ALICE.signer), at=7)
    for at in (0, 6, 7, 8):
        assert history.key("alice", "cosign", ALICE.cosigner.public.key_id, at=at) == ALICE.cosigner.public
    assert history.tenures[ALICE.cosigner.public.key_id].start == 0


@pytest.mark.parametrize("effective", [None, 0, 5, 6, 20])
def test_a_revocation_at_its_boundary(effective: int | None) -> None:
    history = CHARTER.revoke(_id(ALICE), at=5, effective=effective)
    end = max(5, effective or 0)
    assert _valid(history, "alice", ALICE, end - 1)
    assert not _valid(history, "alice", ALICE, end)
    assert not _valid(history, "alice", ALICE, end + 1)
    with pytest.raises(RevokedKeyError, match=f"revoked from index {end}"):
        history.current("alice", "sign", end)
    assert history.current("alice", "cosign", end) == ALICE.cosigner.public


def test_the_earliest_of_several_revocations_holds() -> None:
    late_first = CHARTER.revoke(_id(ALICE), at=5, effective=50).revoke(_id(ALICE), at=6, effective=20)
    early_first = CHARTER.revoke(_id(ALICE), at=5, effective=20).revoke(_id(ALICE), at=6, effective=50)
    for history in (late_first, early_first):
        assert [_valid(history, "alice", ALICE, at) for at in (19, 20)] == [True, False]
        assert history.last == 6


def test_a_pending_revocation_survives_a_rotation_that_keeps_the_key() -> None:
    kept = replace(POOL[3], cosigner=ALICE.cosigner)
    history = CHARTER.revoke(ALICE.cosigner.public.key_id, at=3, effective=20)
    history = history.rotate(_make(kept, "alice", FIRST_A, ALICE.signer), at=7)
    history.key("alice", "cosign", ALICE.cosigner.public.key_id, at=19)
    with pytest.raises(RevokedKeyError):
        history.key("alice", "cosign", ALICE.cosigner.public.key_id, at=20)


def test_a_recovery_ends_every_older_key() -> None:
    history = CHARTER.revoke(_id(ALICE), at=5)
    approval = Approval("alice", LOST_A.digest, frozenset({"bob", "carol"}))
    history = history.recover(LOST_A, approval, at=9)
    assert [_valid(history, "alice", ALICE, at) for at in (4, 5, 9)] == [True, False, False]
    assert [_valid(history, "alice", POOL[4], at) for at in (8, 9)] == [False, True]
    assert history.current("alice", "seal", 8) == ALICE.opening.public
    assert history.current("alice", "seal", 9) == POOL[4].opening.public
    following = _make(POOL[5], "alice", LOST_A, POOL[4].signer)
    assert history.rotate(following, at=10).current("alice", "sign", 10) == POOL[5].signer.public


def _kept_in_recovery() -> Statement:
    return _make(replace(POOL[4], cosigner=ALICE.cosigner), "alice", FIRST_A)


def _approve(statement: Statement, *approvers: str, identity: str = "alice") -> Approval:
    return Approval(identity, statement.digest, frozenset(approvers))


RECOVERIES: dict[str, tuple[Statement, Approval, type[TrustError], str]] = {
    "approved by nobody": (LOST_A, _approve(LOST_A), SignatureError, "nobody"),
    "approved by the member": (LOST_A, _approve(LOST_A, "alice", "bob"), SignatureError, "the member itself"),
    "approved by a stranger": (LOST_A, _approve(LOST_A, "bob", "dave"), SignatureError, "not in force"),
    "approved for another member": (
        LOST_A,
        _approve(LOST_A, "bob", identity="carol"),
        SignatureError,
        "another statement",
    ),
    "approved for another statement": (LOST_A, _approve(NEXT_A, "bob", "carol"), SignatureError, "another statement"),
    "a rotation as a recovery": (NEXT_A, _approve(NEXT_A, "bob", "carol"), SignatureError, "its own sign key"),
    "an old key kept": (_kept_in_recovery(), _approve(_kept_in_recovery(), "bob"), RevokedKeyError, "comes back"),
    "a first statement": (FIRST_A, _approve(FIRST_A, "bob"), SignatureError, "does not follow"),
}


@pytest.mark.parametrize("name", RECOVERIES)
def test_recoveries_that_are_refused(name: str) -> None:
    statement, approval, error, words = RECOVERIES[name]
    if name == "an old key kept":
        approval = _approve(statement, "bob", "carol")
    with pytest.raises(error, match=words):
        CHARTER.recover(statement, approval, at=5)


def test_a_member_whose_key_is_revoked_approves_nothing() -> None:
    history = CHARTER.revoke(_id(BOB), at=5)
    with pytest.raises(SignatureError, match="not in force"):
        history.recover(LOST_A, _approve(LOST_A, "bob", "carol"), at=6)


ROTATIONS: dict[str, tuple[Statement, type[TrustError], str]] = {
    "signed by its own key": (LOST_A, UnknownKeyError, "no sign key"),
    "signed by another member": (_make(POOL[3], "alice", FIRST_A, BOB.signer), UnknownKeyError, "no sign key"),
    "signed by the cosign key": (_make(POOL[3], "alice", FIRST_A, ALICE.cosigner), UnknownKeyError, "no sign key"),
    "after another statement": (_make(POOL[3], "alice", FIRST_B, ALICE.signer), SignatureError, "does not follow"),
    "with a skipped serial": (_make(POOL[5], "alice", NEXT_A, ALICE.signer), SignatureError, "does not follow"),
    "a first statement": (FIRST_A, SignatureError, "does not follow"),
    "of another federation": (_make(POOL[3], "alice", FIRST_A, ALICE.signer, federation="x"), SignatureError, "federation"),
    "of another log": (_make(POOL[3], "alice", FIRST_A, ALICE.signer, log_origin="log.x"), SignatureError, "log"),
    "of a stranger": (_make(POOL[3], "dave", FIRST_A, ALICE.signer), UnknownKeyError, "dave has no keys"),
    "with another member's key": (
        _make(replace(POOL[3], cosigner=BOB.cosigner), "alice", FIRST_A, ALICE.signer), WeakKeyError, "of bob",
    ),
    "with a key under another use": (
        _make(replace(POOL[3], cosigner=ALICE.signer), "alice", FIRST_A, ALICE.signer), WeakKeyError, "the sign key of alice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotations_that_are_refused(name: str) -> None:
    statement, error, words = ROTATIONS[name]
    with pytest.raises(error, match=words):
        CHARTER.rotate(statement, at=5)


def test_a_revoked_key_names_no_heir() -> None:
    history = CHARTER.revoke(_id(ALICE), at=4, effective=5)
    with pytest.raises(RevokedKeyError):
        history.rotate(NEXT_A, at=5)
    history = CHARTER.revoke(_id(ALICE), at=4, effective=6)
    assert history.rotate(NEXT_A, at=5).current("alice", "sign", 5) == POOL[3].signer.public


def test_a_retired_key_does_not_come_back() -> None:
    history = CHARTER.rotate(NEXT_A, at=5)
    back = _make(ALICE, "alice", NEXT_A, POOL[3].signer)
    with pytest.raises(RevokedKeyError, match="comes back"):
        history.rotate(back, at=6)


@pytest.mark.parametrize("use", ["signer", "cosigner", "opening", "release"])
def test_one_key_has_one_owner(use: str) -> None:
    shared = replace(POOL[6], **{use: getattr(ALICE, use)})
    with pytest.raises(WeakKeyError):
        KeyHistory.from_charter("net", [FIRST_A, _make(shared, "mallory")])
    with pytest.raises(WeakKeyError):
        CHARTER.enrol(_make(shared, "mallory"), at=5)


def test_a_p384_sign_key_is_nobodys_sealing_key() -> None:
    """The two have the same bytes and different names: the one case in which comparing names is not enough."""
    owner, thief = MemberKeys.generate("P384"), MemberKeys.generate("P384")
    assert isinstance(owner.signer, SoftwareSigner) and isinstance(owner.signer.private, ec.EllipticCurvePrivateKey)
    scalar = owner.signer.private.private_numbers().private_value.to_bytes(48, "big")
    same = OpeningKey.from_private_bytes("P384", scalar)
    assert same.public.public == owner.signer.public.public and same.public.key_id != owner.signer.public.key_id
    with pytest.raises(WeakKeyError, match="two uses"):
        _make(replace(owner, opening=same), "alice")
    with pytest.raises(WeakKeyError, match="already the sign key of alice"):
        KeyHistory.from_charter("net", [_make(owner, "alice"), _make(replace(thief, opening=same), "mallory")])


def test_enrolments_that_are_refused() -> None:
    assert CHARTER.enrol(_make(POOL[6], "dave"), at=5).current("dave", "sign", 5) == POOL[6].signer.public
    with pytest.raises(SignatureError, match="keys already"):
        CHARTER.enrol(_make(POOL[6], "alice"), at=5)
    with pytest.raises(SignatureError, match="federation"):
        CHARTER.enrol(_make(POOL[6], "dave", federation="x"), at=5)
    with pytest.raises(SignatureError, match="not a first"):
        CHARTER.enrol(_make(POOL[6], "dave", FIRST_A), at=5)
    with pytest.raises(SignatureError, match="not a first"):
        CHARTER.enrol(_make(POOL[6], "dave", signer=ALICE.signer), at=5)


def test_who_left_has_no_keys_and_returns_by_recovery_only() -> None:
    history = CHARTER.remove("alice", at=5)
    assert [_valid(history, "alice", ALICE, at) for at in (4, 5)] == [True, False]
    with pytest.raises(RevokedKeyError, match="left at index 5"):
        history.current("alice", "seal", 5)
    with pytest.raises(RevokedKeyError):
        history.rotate(NEXT_A, at=6)
    with pytest.raises(SignatureError, match="keys already"):
        history.enrol(_make(POOL[6], "alice"), at=6)
    assert _valid(history.recover(LOST_A, _approve(LOST_A, "bob", "carol"), at=6), "alice", POOL[4], 6)
    with pytest.raises(UnknownKeyError):
        CHARTER.remove("dave", at=5)


def test_leaves_come_in_order_and_refusals_leave_no_trace() -> None:
    history = CHARTER.rotate(NEXT_A, at=7)
    for at in (0, 6, 7):
        with pytest.raises(SignatureError, match="comes after"):
            history.revoke(_id(POOL[3]), at=at)
        with pytest.raises(SignatureError, match="comes after"):
            history.remove("bob", at=at)
    with pytest.raises(UnknownKeyError):
        history.revoke("00" * 32, at=8)
    assert history.last == 7
    with pytest.raises(TypeError):
        history.tenures["x"] = history.tenures[_id(BOB)]  # type: ignore[index]


def test_a_member_finds_the_keys_that_it_did_not_make() -> None:
    own = ALICE.key_ids | POOL[3].key_ids
    planted = CHARTER.recover(LOST_A, _approve(LOST_A, "bob", "carol"), at=6)
    assert CHARTER.foreign("alice", own) == ()
    assert CHARTER.rotate(NEXT_A, at=5).foreign("alice", own) == ()
    assert planted.foreign("alice", own) == (LOST_A,)
    assert planted.foreign("bob", BOB.key_ids) == ()
    one_key = replace(ALICE, opening=POOL[7].opening)
    assert CHARTER.foreign("alice", one_key.key_ids) == (FIRST_A,)


STEPS = st.lists(st.tuples(st.sampled_from(["rotate", "revoke", "recover", "stale"]), st.integers(1, 5)), max_size=10)


@settings(max_examples=120, deadline=None)
@given(steps=STEPS)
def test_every_chain_agrees_with_the_plain_story(steps: list[tuple[str, int]]) -> None:
    """The oracle is a list of (first index, keys, end): what a person would write down while reading the log."""
    history = KeyHistory.from_charter("net", [FIRST_A, FIRST_B, FIRST_C])
    pool = iter(POOL[3:])
    statement, at = FIRST_A, 0
    story: list[tuple[int, MemberKeys, int | None]] = [(0, ALICE, None)]
    for step, gap in steps:
        at += gap
        start, keys, end = story[-1]
        fresh = next(pool, None)
        if fresh is None:
            break
        if step == "revoke":
            history = history.revoke(_id(keys), at=at)
            story[-1] = (start, keys, at if end is None else end)
        elif step == "stale":
            with pytest.raises(TrustError):
                history.rotate(_make(fresh, "alice", FIRST_B, keys.signer), at=at)
        elif step == "rotate":
            made = _make(fresh, "alice", statement, keys.signer)
            if end is not None:
                with pytest.raises(RevokedKeyError):
                    history.rotate(made, at=at)
                continue
            history, statement = history.rotate(made, at=at), made
            story[-1:] = [(start, keys, at), (at, fresh, None)]
        else:
            made = _make(fresh, "alice", statement)
            history = history.recover(made, _approve(made, "bob", "carol"), at=at)
            statement = made
            story[-1:] = [(start, keys, at if end is None else end), (at, fresh, None)]
    for index in range(at + 2):
        holders = [keys for start, keys, end in story if start <= index and (end is None or index < end)]
        assert [keys for _, keys, _ in story if _valid(history, "alice", keys, index)] == holders
        assert len(holders) <= 1
        if holders:
            assert history.current("alice", "sign", index) == holders[0].signer.public
        else:
            with pytest.raises(RevokedKeyError):
                history.current("alice", "sign", index)
        assert _valid(history, "bob", BOB, index)
