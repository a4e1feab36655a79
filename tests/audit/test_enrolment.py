"""`key.enrol` in a log: what a verifier asks of it, and that it gives nobody a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterseal.audit.checks.findings import Status
from counterseal.audit.events import KeyEnrol
from counterseal.audit.show import timeline
from counterseal.tests.audit.story import SERVER, SITES, Story, digest, statement, tell
from counterseal.tests.audit.test_verify import judged
from counterseal.trust.charter.model import Group
from counterseal.trust.documents import sign
from counterseal.trust.keys.member import MemberKeys

A, B, _ = SITES


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def enrolment(story: Story, name: str = A, **changes: Any) -> KeyEnrol:
    values = {
        **story.about(SERVER),
        "identity": name,
        "statement": story.charter.statements[name].digest,
        "enrolment": digest("enrolment"),
        "decision": story.decision(name),
        "mfa": True,
        "session_age": 60,
    }
    return KeyEnrol(**{**values, **changes})


def enrolled(make: Callable[[Story], KeyEnrol], actor: str = SERVER) -> dict[str, Any]:
    """An attack that logs an enrolment before the run starts."""
    return {"start": lambda story, who, event: [(actor, make(story)), (who, event)]}


def test_an_honest_enrolment_is_a_leaf_like_others(tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log", enrolled(enrolment)))
    assert judged(story).passed


LIES: dict[str, tuple[Callable[[Story], KeyEnrol], str]] = {
    "other keys than the charter's": (lambda s: enrolment(s, statement=digest("thief")), "other keys"),
    "another member's keys": (lambda s: enrolment(s, statement=s.charter.statements[B].digest), "other keys"),
    "the group said no": (
        lambda s: enrolment(s, decision=s.decision(A).model_copy(update={"allowed": False, "reason": "pending"})),
        "without the group's yes",
    ),
    "the group was asked about another": (lambda s: enrolment(s, decision=s.decision(B)), "without the group's yes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_an_enrolment_is_a_fault(lie: str, tmp_path: Path) -> None:
    make, says = LIES[lie]
    row = judged(tell(Story(tmp_path / "log", enrolled(make)))).row("7")
    assert row.status is Status.FAIL
    assert says in row.reasons[0]


def test_a_site_cannot_enrol_anybody(tmp_path: Path) -> None:
    story = tell(Story(tmp_path / "log", enrolled(lambda s: enrolment(s, actor=A), actor=A)))
    assert any("may not say key.enrol" in reason for reason in judged(story).row("7").reasons)


def test_a_stranger_is_an_open_question(tmp_path: Path) -> None:
    def stranger(story: Story) -> KeyEnrol:
        return enrolment(story, identity="eve@fed.example", decision=story.decision("eve@fed.example"))

    row = judged(tell(Story(tmp_path / "log", enrolled(stranger)))).row("7")
    assert row.status is Status.UNDECIDED


def test_an_enrolment_gives_nobody_a_key(tmp_path: Path) -> None:
    """The server enrols a thief's keys for A, perfectly signed; what the thief then signs does not count."""
    thief = MemberKeys.generate()

    def attack(story: Story, who: str, event: Any) -> Any:
        signed = statement(A, thief)
        story.objects[signed.digest] = signed.raw
        story.signers["thief"] = thief.signer
        return [(SERVER, enrolment(story, statement=signed.digest)), (who, event)]

    attacks = {"start": attack, f"receipt 0 {A}": lambda story, who, event: [("thief", event)]}
    findings = judged(tell(Story(tmp_path / "log", attacks)))
    assert (findings.row("6").status, findings.row("7").status) == (Status.FAIL, Status.FAIL)


def test_members_of_a_globus_group_without_an_enrolment_are_named(tmp_path: Path) -> None:
    story = Story(tmp_path / "log")
    # Not a charter that a reader would take: its members are not named by UUIDs. Only what is said of them is tested here.
    group = Group.model_construct(id="test-group", authorizer="globus")
    story.charter = replace(story.charter, charter=story.charter.charter.model_copy(update={"group": group}))
    story.attacks = enrolled(enrolment)
    findings = judged(tell(story))
    assert findings.passed
    told = findings.row("16").reasons[-1]
    assert "never admitted with a token" in told
    assert (A in told, B in told, SERVER in told) == (False, True, False)


def test_a_roster_federation_is_not_told_of_tokens(tmp_path: Path) -> None:
    assert "token" not in " ".join(judged(tell(Story(tmp_path / "log"))).row("16").reasons)


def test_it_reads_as_a_sentence(tmp_path: Path) -> None:
    story = Story(tmp_path / "log")
    leaf = sign(enrolment(story), story.signers[SERVER]).raw
    bare = sign(enrolment(story, mfa=None, session_age=None), story.signers[SERVER]).raw
    one, two = (row.says for row in timeline([leaf, bare]))
    assert one.endswith("(active; logged in 60 s before, MFA)")
    assert two.endswith("(active; no login)")
    story.log.close()
