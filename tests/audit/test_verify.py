"""The verifier: silent on an honest log, and for every lie the obligation that it breaks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Findings, Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import (
    AggregateCommit,
    Event,
    EvidenceEquivocation,
    KeyRevoke,
    KeyRotate,
    MemberRemove,
    Place,
    RoundOpen,
    TicketIssue,
    UpdateExclude,
)
from counterseal.audit.tlog.checkpoint import Checkpoint, log_key, sign_checkpoint
from counterseal.audit.tlog.cosignature import Witnesses, cosign
from counterseal.audit.tlog.log import Log
from counterseal.audit.tlog.note import NoteSignature
from counterseal.audit.tlog.policy import Policy
from counterseal.audit.verify import OBLIGATIONS, verify
from counterseal.tests.audit.story import NOW, ORIGIN, SERVER, SITES, Said, Story, digest, federation, statement, tell
from counterseal.trust.documents import sign
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.signing import SoftwareSigner, VerifyingKey
from counterseal.trust.messages import Revocation

A, B, C = SITES


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability is tested in test_log_crash; a hundred syncs a story are not needed here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def judged(story: Story, **trust: Any) -> Findings:
    return verify(FolderSource(story.folder), Trust(story.charter, objects=story.objects, **trust))


def statuses(findings: Findings) -> dict[str, str]:
    return {row.id: row.status.value for row in findings.rows}


HONEST = {id_: "PASS" for id_, _, _ in OBLIGATIONS} | {"16": "NOT COVERED"}


def test_an_honest_log_passes(tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log"))
    findings = judged(story)
    assert statuses(findings) == HONEST, findings
    assert findings.passed
    assert findings.size == 32
    assert [row.id for row in findings.rows] == [str(number) for number in range(1, 17)]


def test_a_downloaded_mirror_is_as_good(tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log"))
    checkpoint = story.keys[SERVER].checkpoint
    assert checkpoint is not None
    with Log.open(tmp_path / "log", ORIGIN, checkpoint) as log:
        for key, data in log.mirror():
            path = tmp_path / "mirror" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    findings = verify(FolderSource(tmp_path / "mirror"), Trust(story.charter))
    # The mirror has no cosignature files: those inside the receipts witness the commits up to the last round's tickets.
    assert statuses(findings) == HONEST | {"5": "UNDECIDED"}
    assert findings.row("5").reasons == ("the commit at leaf 29 is UNWITNESSED",)


def change(**fields: Any) -> Callable[[Story, str, Any], Said]:
    return lambda story, actor, event: [(actor, event.model_copy(update=fields))]


def drop(story: Story, actor: str, event: Event) -> Said:
    return []


def twice(story: Story, actor: str, event: Event) -> Said:
    return [(actor, event), (actor, event)]


def by(other: str) -> Callable[[Story, str, Any], Said]:
    """The same words, said by somebody else in its own name."""
    return lambda story, actor, event: [(other, event.model_copy(update={"actor": other}))]


def forged_by(other: str) -> Callable[[Story, str, Any], Said]:
    """The same words, in the actor's name, under somebody else's key."""
    return lambda story, actor, event: [(other, event)]


class Impostor:
    """Signs with its own key and says that it was somebody else's."""

    def __init__(self, victim: VerifyingKey) -> None:
        self.public = victim
        self._own = SoftwareSigner.generate()

    def sign(self, message: bytes) -> bytes:
        return self._own.sign(message)


def impersonated(story: Story, actor: str, event: Event) -> Said:
    """The same words, in the actor's name, under the actor's key id, and not under its key."""
    story.signers["impostor"] = Impostor(story.keys[actor].signer.public)
    return [("impostor", event)]


def before(make: Callable[[Story], tuple[str, Event]]) -> Callable[[Story, str, Any], Said]:
    return lambda story, actor, event: [make(story), (actor, event)]


def removal(story: Story) -> tuple[str, Event]:
    return SERVER, MemberRemove(**story.about(SERVER), identity=A, reason="left")


def revocation(story: Story) -> tuple[str, Event]:
    key = story.keys[A].signer.public.key_id
    federation = story.charter.charter.federation
    message = sign(
        Revocation(federation=federation, identity=A, time=1, member=A, key=key, reason="stolen"), story.keys[A].signer
    )
    story.objects[message.digest] = message.raw
    return A, KeyRevoke(**story.about(A), identity=A, key=key, reason="stolen", messages=(message.digest,))


def inputs(edit: Callable[[list[Any]], list[Any]]) -> Callable[[Story, str, Any], Said]:
    def attack(story: Story, actor: str, event: AggregateCommit) -> Said:
        return [(actor, event.model_copy(update={"inputs": tuple(edit(list(event.inputs)))}))]

    return attack


def no(site: str) -> Callable[[Story, str, Any], Said]:
    """The group said no, and the server went on."""

    def attack(story: Story, actor: str, event: Any) -> Said:
        refused = story.decision(site).model_copy(update={"allowed": False, "reason": "removed"})
        if isinstance(event, AggregateCommit | RoundOpen):
            decisions = tuple(refused if one.identity == site else one for one in event.decisions)
            return [(actor, event.model_copy(update={"decisions": decisions}))]
        return [(actor, event.model_copy(update={"decision": refused}))]

    return attack


def sealed_twice(story: Story, actor: str, event: AggregateCommit) -> Said:
    exclusion = UpdateExclude(
        **story.about(SERVER), run="run-1", version=event.version, site=A, ticket=event.inputs[0].ticket,
        reason="removed", decision=story.decision(A).model_copy(update={"allowed": False}),
    )  # fmt: skip
    return [(actor, exclusion), (actor, event)]


def edit_receipt(**fields: Any) -> Callable[[Story, str, Any], Said]:
    def attack(story: Story, actor: str, event: Any) -> Said:
        changed = {name: make(story, event) if callable(make) else make for name, make in fields.items()}
        return [(actor, event.model_copy(update=changed))]

    return attack


LIES: dict[str, tuple[str, Callable[[Story, str, Any], Said], str]] = {
    # name: (what is attacked, how, the obligation that must fail)
    "no founding": ("create", drop, "7"),
    "founded under another charter": ("create", change(charter=digest("other")), "7"),
    "a second founding": ("create", twice, "7"),
    "a member with other keys": (f"add {A}", change(statement=digest("other")), "7"),
    "a site speaks for the server": ("open 0", by(A), "7"),
    "a site admits its own update": (f"admit 0 {A}", by(A), "7"),
    "the server writes a receipt": (f"receipt 0 {A}", by(SERVER), "7"),
    "another federation's leaf": ("start", change(federation="other"), "6"),
    "a leaf forged under another's key": (f"receipt 0 {A}", forged_by(B), "6"),
    "a receipt under the site's key id alone": (f"receipt 0 {A}", impersonated, "6"),
    "a commit under the server's key id alone": ("commit 0", impersonated, "6"),
    "a receipt forged by the server": (f"receipt 0 {A}", forged_by(SERVER), "6"),
    "the run starts twice": ("start", twice, "8"),
    "the run never started": ("start", drop, "8"),
    "a round opens twice": ("open 0", twice, "8"),
    "a round on a version to come": ("open 0", change(version=3), "8"),
    "a round that was never opened": ("open 1", drop, "8"),
    "an abort of nothing": ("abort", twice, "8"),
    "a commit twice": ("commit 0", twice, "8"),
    "a leaf after the end": ("end", twice, "8"),
    "a ticket twice": (f"ticket 0 {A}", twice, "9"),
    "a sequence number that repeats": (f"ticket 1 {A}", change(seq=1), "9"),
    "no ticket": (f"ticket 0 {A}", drop, "9"),
    "admitted without a receipt": (f"receipt 0 {A}", drop, "9"),
    "a receipt for another ticket": (f"receipt 0 {A}", change(ticket=digest("other")), "9"),
    "a receipt for another's ticket": (f"receipt 0 {A}", change(ticket=digest(f"ticket {B} 0")), "9"),
    "two receipts for one ticket": (f"receipt 0 {A}", twice, "9"),
    "a receipt of another version": (f"receipt 0 {A}", change(version=1), "9"),
    "a refusal admitted": (f"receipt 0 {A}", change(outcome="refused", reason="policy"), "9"),
    "another manifest admitted": (f"admit 0 {A}", change(manifest=digest("other")), "9"),
    "another receipt admitted": (f"admit 0 {A}", change(receipt=digest("other")), "9"),
    "admitted under another's name": (f"admit 0 {A}", change(site=B), "9"),
    "admitted twice": (f"admit 0 {A}", twice, "9"),
    "rejected twice": ("reject", twice, "9"),
    "an admitted update left out": ("commit 0", inputs(lambda items: items[1:]), "10"),
    "an update counted that was not admitted": (f"admit 0 {A}", drop, "10"),
    "a rejected update counted": (
        "commit 0",
        inputs(lambda i: [*i, i[0].model_copy(update={"site": C, "ticket": digest(f"ticket {C} 0"), "weight": 3.0})]),
        "10",
    ),
    "an update counted twice": ("commit 0", inputs(lambda items: [items[0], *items]), "10"),
    "another weight": ("commit 0", inputs(lambda i: [i[0].model_copy(update={"weight": 9.0}), *i[1:]]), "10"),
    "another manifest counted": (
        "commit 0",
        inputs(lambda i: [i[0].model_copy(update={"manifest": digest("other")}), *i[1:]]),
        "10",
    ),
    "another order of inputs": ("commit 0", inputs(lambda items: items[::-1]), "10"),
    "nobody says who was left out": ("commit 0", change(excluded=()), "10"),
    "another rule": ("commit 0", change(rule="fedavg"), "10"),
    "a state where there was none": ("commit 1", change(state=digest("state")), "10"),
    "other parameters": ("commit 0", change(parameters={"clip_norm": 9.0}), "10"),
    "an excluded update counted": ("commit 0", sealed_twice, "10"),
    "last round's update counted again": (
        "commit 1",
        inputs(lambda i: [i[0].model_copy(update={"ticket": digest(f"ticket {A} 0")}), *i[1:]]),
        "10",
    ),
    "an abort that says nothing of anybody": ("abort", change(excluded=()), "10"),
    "a round on another model": ("open 1", change(parent=digest("other")), "11"),
    "a commit on another model": ("commit 1", change(parent=digest("model 0")), "11"),
    "a release of another model": ("release", change(model=digest("other")), "11"),
    "an end on another model": ("end", change(model=digest("other")), "11"),
    "an end at another version": ("end", change(version=1), "11"),
    "removed before it was admitted": (f"admit 0 {A}", before(removal), "12"),
    "removed before the commit": ("commit 0", before(removal), "12"),
    "key revoked before it was admitted": (f"admit 0 {A}", before(revocation), "12"),
    "key revoked before the commit": ("commit 0", before(revocation), "12"),
    "asked although the group said no": ("open 0", no(A), "12"),
    "admitted although the group said no": (f"admit 0 {A}", no(A), "12"),
    "counted although the group said no": ("commit 0", no(A), "12"),
    "a stranger asked": ("open 0", change(participants=(*SITES, "stranger@fed.example")), "12"),
    "a site saw another log": (
        f"receipt 0 {A}",
        edit_receipt(checkpoint=lambda s, e: Place(size=e.checkpoint.size, root=digest("fork"))),
        "13",
    ),
    "a site saw a longer log": (
        f"receipt 0 {A}",
        edit_receipt(checkpoint=lambda s, e: Place(size=500, root=e.checkpoint.root)),
        "13",
    ),
    "a cosignature over another checkpoint": (
        f"receipt 0 {A}",
        edit_receipt(
            cosignature=lambda s, e: cosign(
                Checkpoint(ORIGIN, e.checkpoint.size, bytes(32)), s.keys[A].cosigner, A, NOW
            )
        ),
        "13",
    ),
    "a cosignature of somebody else": (
        f"receipt 0 {A}",
        edit_receipt(
            cosignature=lambda s, e: cosign(
                Checkpoint(ORIGIN, e.checkpoint.size, bytes.fromhex(e.checkpoint.root)), s.keys[B].cosigner, A, NOW
            )
        ),
        "13",
    ),
    "a site's chain of receipts forks": (f"receipt 1 {A}", change(previous=None), "13"),
    "a site saw less than before": (
        f"receipt 1 {A}",
        edit_receipt(checkpoint=lambda s, e: Place(size=1, root=s.log.root(1).hex()), cosignature=None),
        "13",
    ),
    "evidence was filed": (
        "release",
        before(
            lambda s: (
                A,
                EvidenceEquivocation(
                    **s.about(A), identity=SERVER, what="two_tickets", first=digest("1"), second=digest("2")
                ),
            )
        ),
        "14",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_breaks_its_obligation(lie: str, tmp_path: Path) -> None:
    name, attack, broken = LIES[lie]
    story = tell(Story(tmp_path / "log", {name: attack}))
    findings = judged(story)
    assert findings.row(broken).status is Status.FAIL, findings
    assert findings.row(broken).reasons
    assert not findings.passed
    for id_ in ("1", "2", "3", "4"):
        assert findings.row(id_).status is Status.PASS, "the tree itself is sound: a liar signs sound trees"


def test_a_dropped_receipt_is_missed_by_its_successor(tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log", {f"receipt 1 {A}": change(previous=digest("dropped"))}))
    row = judged(story).row("13")
    assert (row.status, "dropped, or never sent" in row.reasons[0]) == (Status.UNDECIDED, True)


def test_a_forged_revocation_changes_nothing(tmp_path: Path) -> None:
    def attack(story: Story, actor: str, event: Event) -> Said:
        return [*impersonated(story, A, revocation(story)[1]), (actor, event)]

    findings = judged(tell(Story(tmp_path / "log", {f"admit 0 {A}": attack})))
    assert findings.row("6").reasons == ("leaf 13: the signature does not hold",)
    assert findings.row("12").status is Status.PASS


def rotate(story: Story, actor: str, event: Event) -> Said:
    """A gives itself new keys just before the second commit and signs on with them."""
    old, new = story.keys[A], MemberKeys.generate()
    signed = statement(A, new, previous=story.charter.statements[A], previous_signer=old.signer)
    story.objects[signed.digest] = signed.raw
    return [
        (A, KeyRotate(**story.about(A), identity=A, statement=signed.digest)),
        (actor, event),
    ]


def test_a_rotation_needs_its_statement_and_ends_the_old_key(tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log", {"release": rotate}))
    assert statuses(judged(story))["6"] == "PASS"
    story.objects.clear()
    row = judged(story).row("6")
    assert (row.status, "not at hand" in row.reasons[0]) == (Status.UNDECIDED, True)
    late = tell(Story(tmp_path / "late", {f"receipt 0 {A}": rotate}))
    assert judged(late).row("6").status is Status.FAIL, "a receipt under the old key after the rotation"


@pytest.mark.parametrize(("by", "status"), [(SERVER, Status.PASS), (B, Status.FAIL)])
def test_a_rotation_is_filed_by_its_member_or_the_server(tmp_path: Path, by: str, status: Status) -> None:
    def told(story: Story, actor: str, event: Event) -> Said:
        (_, rotation), last = rotate(story, actor, event)
        return [(by, rotation.model_copy(update={"actor": by})), last]

    findings = judged(tell(Story(tmp_path / "log", {"release": told})))
    assert findings.row("7").status is status


# The tree


def rewrite(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        path = folder / name
        path.write_bytes(edit(path.read_bytes()))

    return attack


def fork(folder: Path) -> None:
    """The log signed another tree at an earlier size: what a forked site would hold."""
    checkpoint = federation()[1][SERVER].checkpoint
    assert checkpoint is not None
    (folder / "checkpoints/20").write_bytes(sign_checkpoint(Checkpoint(ORIGIN, 20, bytes(32)), checkpoint))


def truncate(folder: Path) -> None:
    for path in (folder / "tile/entries").iterdir():
        if path.name.startswith("000.p"):
            (path / "32").unlink(missing_ok=True)


TREE: dict[str, tuple[Callable[[Path], object], str]] = {
    "checkpoint signature": (rewrite("checkpoints/32", lambda d: d[:-8] + b"AAAAAA=\n"), "1"),
    "checkpoint of another size": (
        lambda f: shutil.copy(f / "checkpoints/32", f / "checkpoints/31"),
        "1",
    ),
    "empty checkpoint": (rewrite("checkpoints/32", lambda d: b""), "1"),
    "no checkpoint": (lambda f: shutil.rmtree(f / "checkpoints"), "1"),
    "a leaf changed": (rewrite("tile/entries/000.p/32", lambda d: d[:500] + b"x" + d[501:]), "2"),
    "leaves missing": (truncate, "2"),
    "a bundle garbled": (rewrite("tile/entries/000.p/32", lambda d: d[:-1]), "2"),
    "two trees signed": (fork, "3"),
    "a tile changed": (rewrite("tile/0/000.p/32", lambda d: bytes(32) + d[32:]), "4"),
    "a tile gone": (lambda f: (f / "tile/0/000.p/32").unlink(), "4"),
    "a forged cosignature": (
        rewrite(
            "cosignatures/32",
            lambda d: d + NoteSignature(A, _cosign_id(A), bytes(72)).line().encode(),
        ),
        "5",
    ),
}


def _cosign_id(name: str) -> bytes:
    return next(iter(Witnesses.of({name: federation()[1][name].cosigner.public}))).id


@pytest.mark.parametrize("attack", TREE)
def test_a_damaged_copy(attack: str, tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log"))
    damage, broken = TREE[attack]
    damage(story.folder)
    findings = judged(story)
    assert findings.row(broken).status is Status.FAIL, findings
    if findings.row("2").status is Status.FAIL or attack == "no checkpoint":
        assert findings.size == 0
        told = {findings.row(id_).status for id_ in ("8", "9", "10", "11", "12", "13", "14")}
        assert Status.PASS not in told or attack == "a leaf changed"


def test_without_a_quorum_the_commits_are_unwitnessed(tmp_path: Path) -> None:
    story = Story(tmp_path / "log")
    story.cosigners = (A, B)
    tell(story)
    row = judged(story).row("5")
    assert row.status is Status.UNDECIDED
    assert row.reasons == ("the commit at leaf 29 is UNWITNESSED",), "the receipts' words cover the first commit"


def test_a_checkpoint_up_to_a_commit_does_not_hold_it(tmp_path: Path) -> None:
    def attack(story: Story, actor: str, event: Event) -> Said:
        story.publish()
        story.cosigners = ()
        return [(actor, event)]

    story = tell(Story(tmp_path / "log", {"commit 1": attack}))
    assert 29 in FolderSource(story.folder).sizes()
    assert judged(story).row("5").reasons == ("the commit at leaf 29 is UNWITNESSED",)


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log"))
    logs = (log_key(ORIGIN, Trust(story.charter).log_key),)
    outsider = Witnesses.of({"outside.example": SoftwareSigner.generate().public})
    sites = Witnesses.of({name: story.keys[name].cosigner.public for name in SITES})
    assert judged(story, policy=Policy.k_of(logs, sites, 3)).row("5").status is Status.PASS
    assert judged(story, policy=Policy.k_of(logs, sites, 0)).row("5").status is Status.NOT_COVERED
    assert judged(story, policy=Policy.k_of(logs, outsider, 1)).row("5").status is Status.UNDECIDED


def test_another_federations_charter_verifies_nothing(tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log"))
    federation.cache_clear()
    other, _ = federation()
    findings = verify(FolderSource(story.folder), Trust(other))
    assert findings.row("1").status is Status.FAIL
    assert findings.size == 0


def test_an_empty_folder(tmp_path: Path) -> None:
    findings = verify(FolderSource(tmp_path / "nothing"), Trust(federation()[0]))
    assert findings.row("1").reasons == ("the copy holds no checkpoint",)
    assert not findings.passed


def test_a_stranger_for_whom_the_group_answers_yes(tmp_path: Path) -> None:
    def attack(story: Story, actor: str, event: RoundOpen) -> Said:
        name = "stranger@fed.example"
        decisions = (*event.decisions, story.decision(name))
        return [(actor, event.model_copy(update={"participants": (*SITES, name), "decisions": decisions}))]

    findings = judged(tell(Story(tmp_path / "log", {"open 0": attack})))
    assert findings.row("12").reasons == ("leaf 6: stranger@fed.example is no site of the charter",)


def test_a_stranger_gets_a_ticket(tmp_path: Path) -> None:
    def attack(story: Story, actor: str, event: TicketIssue) -> Said:
        stranger = event.model_copy(update={"site": "stranger@fed.example", "ticket": digest("stranger")})
        return [(actor, event), (actor, stranger)]

    findings = judged(tell(Story(tmp_path / "log", {f"ticket 0 {A}": attack})))
    assert any("no site of the charter" in reason for reason in findings.row("12").reasons)


def test_a_verifier_loads_nothing_heavy() -> None:
    program = "import sys, counterseal.audit.verify, counterseal.audit.show; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "boto3", "globus_sdk", "globus_compute_sdk", "transformers", "opacus", "matplotlib", "numpy"}
    assert not heavy & set(loaded.split())
