"""A change takes effect by the old quorum's word and the newcomers' consent; a table of the ways to cheat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from counterseal.tests.trust.charter_world import (
    NOW,
    Signing,
    first_statement,
    founded,
    keys_of,
    member,
    plan,
    statement_of,
)
from counterseal.tests.trust.test_charter_model import vkey
from counterseal.trust.charter.amendment import Amendment, apply_amendment, statements_in_force, threshold
from counterseal.trust.charter.model import Charter
from counterseal.trust.charter.signing import SignedCharter
from counterseal.trust.charter.votes import approve_recovery, approve_revocation
from counterseal.trust.documents import Signed, sign
from counterseal.trust.errors import CharterError
from counterseal.trust.keys.statement import KeyStatement
from counterseal.trust.keys.validity import KeyHistory
from counterseal.trust.messages import Recovery, Revocation

OLD = founded()


def rotated(
    identity: str, *, signed_by: int | None = 1, previous: Signed[KeyStatement] | None = None
) -> Signed[KeyStatement]:
    """The second statement of ``identity``, signed by a generation of its keys; by its own new key for a recovery."""
    signer = None if signed_by is None else keys_of(identity, signed_by).signer
    return statement_of(
        identity, keys_of(identity, 2), previous=previous or first_statement(identity), previous_signer=signer
    )


def amended(old: SignedCharter = OLD, **changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = old.charter.model_dump(mode="json")
    return value | {"version": old.charter.version + 1, "previous": old.digest} | changes


def _only(*names: str, extra: tuple[dict[str, Any], ...] = ()) -> list[dict[str, Any]]:
    rows = OLD.charter.model_dump(mode="json")["members"]
    return [row for row in rows if row["identity"] in names] + list(extra)


def _replaced(identity: str, statement: Signed[KeyStatement]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = OLD.charter.model_dump(mode="json")["members"]
    return [row | {"statement": statement.raw.decode()} if row["identity"] == identity else row for row in rows]


def amend(
    value: dict[str, Any],
    *signers: str,
    old: SignedCharter = OLD,
    generations: dict[str, int] | None = None,
    index: int = 10,
    history: KeyHistory | None = None,
) -> Amendment:
    new = Charter.from_json(value)
    raw = new.payload()
    known = dict(old.statements if history is None else statements_in_force(history, new, index))
    signatures = Signing(raw, known).by(*signers, generations=generations)
    return apply_amendment(old, raw, signatures, effective_index=index, now=NOW, history=history)


def test_limits_change_with_the_old_quorum() -> None:
    done = amend(amended(max_staleness=9), "anna", "bert", "cleo")
    assert done.charter.charter.max_staleness == 9
    assert done.charter.effective_index == 10
    assert done.approved_by == {"anna", "bert", "cleo"}
    assert (done.joined, done.removed, done.recovered) == (frozenset(), frozenset(), frozenset())


def test_a_member_joins_with_its_own_consent() -> None:
    value = amended(members=[*_only("server", "anna", "bert", "cleo", "dora"), member("emil")], quorum={"k": 4, "f": 1})
    done = amend(value, "anna", "bert", "dora", "emil")
    assert done.joined == {"emil"}
    assert done.approved_by == {"anna", "bert", "dora"}
    assert done.charter.sign_key("emil") == keys_of("emil").signer.public


def test_a_member_is_removed_by_the_others() -> None:
    done = amend(amended(members=_only("server", "anna", "bert", "cleo")), "anna", "bert", "cleo")
    assert done.removed == {"dora"}
    assert done.charter.charter.sites == ("anna", "bert", "cleo")


def test_amendments_chain() -> None:
    first = amend(amended(max_staleness=3), "anna", "bert", "cleo").charter
    second = amend(amended(first, max_staleness=4), "anna", "bert", "cleo", old=first, index=11)
    assert second.charter.charter.version == 3
    with pytest.raises(CharterError, match="not after leaf"):
        amend(amended(first, max_staleness=4), "anna", "bert", "cleo", old=first, index=10)


@dataclass
class Attack:
    """Arguments of `amend`, and the error."""

    value: Callable[[], dict[str, Any]]
    signers: tuple[str, ...]
    where: str
    what: str
    more: dict[str, Any] = field(default_factory=dict)


THREE = ("anna", "bert", "cleo")
FRIENDS = ("finn", "gina", "hugo", "iris")

ATTACKS: dict[str, Attack] = {
    "the server alone": Attack(lambda: amended(max_staleness=9), ("server",), "charter signatures", "0 of the old"),
    "nobody": Attack(lambda: amended(max_staleness=9), (), "charter signatures", "0 of the old"),
    "one voice short": Attack(lambda: amended(max_staleness=9), ("anna", "bert", "server"), "charter signatures", "2 of the old"),
    "a voice twice": Attack(lambda: amended(max_staleness=9), ("anna", "bert", "bert"), "charter signatures", "twice by bert"),
    "a version skipped": Attack(lambda: amended(version=3), THREE, "version", "does not follow version 1"),
    "a version again": Attack(lambda: amended(version=1, previous=None), THREE, "version", "does not follow"),
    "a wrong previous": Attack(lambda: amended(previous="0" * 64), THREE, "previous", "another charter"),
    "another federation": Attack(
        lambda: amended(federation="lung", members=[
            row | {"statement": statement_of(row["identity"], federation="lung").raw.decode()} for row in plan()["members"]
        ]), (), "federation", "lung"),
    "another log": Attack(lambda: amended(log_origin="x.example/log"), (), "log_origin", "keeps the log"),
    "the quorum of the new members": Attack(
        lambda: amended(members=_only("server", "anna", extra=tuple(member(name) for name in FRIENDS)), quorum={"k": 4, "f": 1}),
        ("server", "anna", *FRIENDS), "charter signatures", "1 of the old"),
    "newcomers outvote": Attack(
        lambda: amended(members=[*_only("server", *THREE, "dora"), *(member(name) for name in FRIENDS)], quorum={"k": 5, "f": 1}),
        ("anna", "bert", *FRIENDS), "charter signatures", "2 of the old"),
    "a newcomer who did not agree": Attack(
        lambda: amended(members=[*_only("server", *THREE, "dora"), member("emil")], quorum={"k": 4, "f": 1}),
        THREE, "charter signatures", "not signed by emil"),
    "a new role nobody asked for": Attack(
        lambda: amended(members=[
            row | {"roles": ["site", "auditor"]} if row["identity"] == "dora" else row
            for row in OLD.charter.model_dump(mode="json")["members"]
        ]), THREE, "charter signatures", "not signed by dora"),
    "a demoted site votes on its demotion": Attack(
        lambda: amended(members=[
            row | {"roles": ["auditor"], "weight": None} if row["identity"] == "dora" else row
            for row in OLD.charter.model_dump(mode="json")["members"]
        ]), ("anna", "bert", "dora"), "charter signatures", "2 of the old"),
    "a stale leaf": Attack(lambda: amended(max_staleness=9), THREE, "effective index", "not after leaf 0", {"index": 0}),
    "a quorum that can be split": Attack(
        lambda: amended(quorum={"k": 2, "f": 1}), THREE, "Charter", "quorum.k"),
    "the server reads updates, by majority": Attack(
        lambda: amended(server_validates_updates=True), THREE, "charter signatures", "not signed by dora"),
    "another auditor, by majority": Attack(
        lambda: amended(auditor="audra", members=[*_only("server", *THREE, "dora"), member("audra", "auditor")]),
        (*THREE, "audra"), "charter signatures", "not signed by dora"),
    "another server, by majority": Attack(
        lambda: amended(server="server2", members=[*_only(*THREE, "dora"), member("server2", "server")]),
        (*THREE, "server2"), "charter signatures", "not signed by dora"),
    "keys from nowhere": Attack(
        lambda: amended(members=_replaced("dora", statement_of("dora", keys_of("dora", 2)))), (),
        "members.4.statement", "does not follow the statement in force"),
    "a serial skipped": Attack(
        lambda: amended(members=_replaced("dora", statement_of(
            "dora", keys_of("dora", 3), previous=rotated("dora"), previous_signer=keys_of("dora", 2).signer))), (),
        "members.4.statement", "serial 3 does not follow"),
    "a heir of other keys than those in force": Attack(
        lambda: amended(members=_replaced("dora", rotated("dora", previous=statement_of("dora", keys_of("dora", 5))))), (),
        "members.4.statement", "does not follow the statement in force"),
    "a rotation signed by another member": Attack(
        lambda: amended(members=_replaced("dora", statement_of(
            "dora", keys_of("dora", 2), previous=first_statement("dora"), previous_signer=keys_of("cleo").signer))), (),
        "members.4.statement", ""),
    "a recovered key votes on its recovery": Attack(
        lambda: amended(members=_replaced("dora", rotated("dora", signed_by=None))), ("anna", "bert", "dora"),
        "charter signatures", "2 of the old", {"generations": {"dora": 2}}),
    "a recovered member that did not sign": Attack(
        lambda: amended(members=_replaced("dora", rotated("dora", signed_by=None))), THREE,
        "charter signatures", "not signed by dora"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_amendments_that_take_no_effect(name: str) -> None:
    attack = ATTACKS[name]
    with pytest.raises(Exception) as caught:
        if attack.signers:
            amend(attack.value(), *attack.signers, **attack.more)
        else:  # nobody would sign this; the verifier must refuse before it counts
            apply_amendment(OLD, Charter.from_json(attack.value()).payload(), [], effective_index=10, now=NOW)
    error = caught.value
    assert getattr(error, "where", None) == attack.where, error
    assert attack.what in getattr(error, "what", "")


def test_a_removed_partys_signature_is_not_taken() -> None:
    raw = Charter.from_json(amended(members=_only("server", *THREE))).payload()
    from counterseal.trust.charter.signing import CharterSignature
    from counterseal.trust.identifiers import sha256

    bye = CharterSignature(federation="heart", charter=sha256(raw), identity="dora", time=NOW)
    signatures = [*Signing(raw, dict(OLD.statements)).by("anna", "bert"), sign(bye, keys_of("dora").signer).raw]
    with pytest.raises(CharterError, match="dora has no voice"):
        apply_amendment(OLD, raw, signatures, effective_index=10, now=NOW)


def test_signatures_for_the_old_charter_do_not_carry_over() -> None:
    raw = Charter.from_json(amended(max_staleness=9)).payload()
    with pytest.raises(CharterError, match="another charter"):
        apply_amendment(OLD, raw, [one.raw for one in OLD.signatures], effective_index=10, now=NOW)


def test_the_suite_never_gets_weaker() -> None:
    raw = Charter.from_json(amended(suite="P384")).payload()
    with pytest.raises(CharterError, match="P384 is weaker than MLKEM768_X25519"):
        apply_amendment(OLD, raw, [], effective_index=10, now=NOW)


def test_more_may_be_seen_if_every_site_agrees() -> None:
    done = amend(amended(server_validates_updates=True), *THREE, "dora")
    assert done.charter.charter.server_validates_updates
    amend(amended(done.charter, server_validates_updates=False), *THREE, old=done.charter, index=11)


def test_a_rotation_inside_an_amendment_keeps_its_owners_voice() -> None:
    done = amend(amended(members=_replaced("cleo", rotated("cleo"))), *THREE, generations={"cleo": 2})
    assert done.recovered == frozenset()
    assert done.charter.sign_key("cleo") == keys_of("cleo", 2).signer.public


def test_a_recovery_inside_an_amendment_needs_the_others() -> None:
    value = amended(members=_replaced("dora", rotated("dora", signed_by=None)))
    done = amend(value, *THREE, "dora", generations={"dora": 2})
    assert done.recovered == {"dora"}
    assert done.approved_by == set(THREE)


@pytest.mark.parametrize(("quorum", "wanted"), [
    ({"k": 3, "f": 1}, 3),
    ({"k": 4, "f": 2}, 4),
    ({"k": 1, "f": 1, "external_witness": vkey()}, 3),  # a witness does not vote: one site must not rule
    ({"k": 1, "f": 1, "unwitnessed": True}, 3),
    ({"k": 1, "f": 4, "unwitnessed": True}, 4),
])  # fmt: skip
def test_how_many_must_agree(quorum: dict[str, Any], wanted: int) -> None:
    assert threshold(Charter.from_json(plan(quorum=quorum))) == wanted


def test_one_site_and_a_witness_cannot_throw_the_others_out() -> None:
    old = founded(quorum={"k": 1, "f": 1, "external_witness": vkey()})
    value = amended(old, members=_only("server", "anna"), quorum={"k": 1, "f": 1, "unwitnessed": True})
    with pytest.raises(CharterError, match="1 of the old charter's sites, not 3"):
        amend(value, "anna", "server", old=old)


def _history() -> KeyHistory:
    return KeyHistory.from_charter("heart", OLD.statements.values())


def test_a_key_revoked_in_the_log_is_not_carried_on() -> None:
    history = _history().revoke(keys_of("cleo").signer.public.key_id, at=5)
    with pytest.raises(CharterError, match="revoked") as caught:
        amend(amended(max_staleness=9), *THREE, history=history)
    assert caught.value.where == "members.3.statement"


def test_a_revoked_key_names_no_heir() -> None:
    history = _history().revoke(keys_of("cleo").signer.public.key_id, at=5)
    with pytest.raises(CharterError, match="revoked"):
        amend(amended(members=_replaced("cleo", rotated("cleo"))), *THREE, history=history, generations={"cleo": 2})
    value = amended(members=_replaced("cleo", rotated("cleo", signed_by=None)))
    done = amend(value, "anna", "bert", "dora", "cleo", history=history, generations={"cleo": 2})
    assert done.recovered == {"cleo"}


def test_a_statement_that_was_replaced_in_the_log_does_not_come_back() -> None:
    new = rotated("cleo")
    history = _history().rotate(new, at=5)
    with pytest.raises(CharterError, match="does not follow the statement in force"):
        apply_amendment(
            OLD, Charter.from_json(amended(max_staleness=9)).payload(), [], effective_index=10, now=NOW, history=history
        )
    done = amend(amended(members=_replaced("cleo", new)), *THREE, history=history, generations={"cleo": 2})
    assert done.approved_by == set(THREE)


def _vouch(voter: str, statement: Signed[KeyStatement], who: str = "dora") -> Signed[Recovery]:
    vote = Recovery(federation="heart", identity=voter, time=NOW, member=who, statement=statement.raw.decode())
    return sign(vote, keys_of(voter).signer)


def test_recovery_by_the_votes_of_the_others() -> None:
    new = rotated("dora", signed_by=None)
    approval = approve_recovery(OLD.charter, [_vouch(name, new) for name in THREE])
    history = _history().recover(new, approval, at=6)
    assert history.current("dora", "sign", 6) == keys_of("dora", 2).signer.public


@pytest.mark.parametrize(("voters", "what"), [
    ((), "0 different statements"),
    (("anna", "bert"), "2 sites"),
    (("anna", "bert", "bert", "bert"), "2 sites"),
    (("anna", "bert", "server"), "2 sites"),
    (("anna", "bert", "zoe"), "2 sites"),
])  # fmt: skip
def test_too_few_votes_for_a_recovery(voters: tuple[str, ...], what: str) -> None:
    new = rotated("dora", signed_by=None)
    with pytest.raises(CharterError, match=what):
        approve_recovery(OLD.charter, [_vouch(name, new) for name in voters])


def test_votes_for_two_statements_are_not_added_up() -> None:
    votes = [_vouch("anna", rotated("dora", signed_by=None)), _vouch("bert", rotated("dora"))]
    with pytest.raises(CharterError, match="2 different statements"):
        approve_recovery(OLD.charter, votes)


def _revoke(voter: str, key: str = "0" * 64) -> Signed[Revocation]:
    return sign(
        Revocation(federation="heart", identity=voter, time=NOW, member="dora", key=key, reason="stolen"),
        keys_of(voter).signer,
    )


def test_revocation_by_oneself_or_a_quorum() -> None:
    assert approve_revocation(OLD.charter, [_revoke("dora")]) == ("dora", "0" * 64)
    assert approve_revocation(OLD.charter, [_revoke(name) for name in THREE]) == ("dora", "0" * 64)
    for voters in (("anna",), ("anna", "bert"), ("anna", "bert", "server")):
        with pytest.raises(CharterError, match="not 3"):
            approve_revocation(OLD.charter, [_revoke(name) for name in voters])
    with pytest.raises(CharterError, match="2 different keys"):
        approve_revocation(OLD.charter, [_revoke("anna"), _revoke("dora", "1" * 64)])
