"""Replaying ADMM: every dual, primal and penalty is recomputed, and a server that changes one is caught (P8)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from counterseal.algorithms.consensus import ConsensusRule
from counterseal.audit.checks.findings import Status
from counterseal.audit.events import commitment, salt
from counterseal.runtime.delivery import Opening
from counterseal.runtime.places import state_manifest_key, state_payload_key
from counterseal.runtime.rule_state import RuleState, float_bits
from counterseal.runtime.server.rounds import aggregate, state
from counterseal.runtime.server.rounds.state import Pass, RuleStates
from counterseal.trust.errors import MalformedError

from ..federation import Federation
from .test_admm_federation import World, admm, config_of, dropping, world
from .test_replay import RUN, Scene

ROUNDS = 3
ABSENT = 1
"""The version in whose round the second site is absent."""


def made(folder: Path, rule: str = "iiadmm", rounds: int = ROUNDS, **changes: Any) -> World:
    """Play a run; the server may be patched, and then tells its lie consistently."""
    aggregation = admm(rule, rho=0.05, balance_mu=1.5, balance_tau=2.0)
    config = config_of(rounds, aggregation=aggregation, minimum_sites=2, retries=0)
    with world(folder, config, 3, auditor=True, **changes) as one:
        one.reading = False
        one.play(meddle=dropping(one.federation.sites[1], ABSENT))
        return one


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return made(tmp_path_factory.mktemp("admm")).federation


@pytest.fixture
def scene(honest: Federation, tmp_path: Path) -> Scene:
    """A copy of the honest run."""
    shutil.copytree(honest.folder, tmp_path / "fed")
    return Scene(Federation(tmp_path / "fed", honest.sites, honest.keys, honest.charter, honest.clock))


def statuses(scene: Scene) -> list[Status]:
    return [step.status for step in scene.replay().steps]


PASSED = [Status.PASS] * ROUNDS


def test_an_honest_run_passes(scene: Scene) -> None:
    assert statuses(scene) == PASSED


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_the_bits_do_not_depend_on_the_block(scene: Scene, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(aggregate, "BLOCK", block)
    assert statuses(scene) == PASSED


def test_two_planes_pass_too(tmp_path: Path) -> None:
    assert statuses(Scene(made(tmp_path, "iceadmm").federation)) == PASSED


# The table, as a stranger reads it

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "state" / "vectors.json").read_text()
)


@pytest.mark.parametrize("case", VECTORS["good"], ids=lambda case: str(case["name"]))
def test_good_tables(case: dict[str, Any]) -> None:
    assert RuleState.from_json(case["table"]).to_json() == case["table"]
    assert commitment(case["table"], case["salt"]) == case["commitment"]


@pytest.mark.parametrize("case", VECTORS["bad"], ids=lambda case: str(case["name"]))
def test_bad_tables(case: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        RuleState.from_json(case["table"])


# A server that lies


def bend(plane: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Change one bit of the first new row of ``plane`` of every commit, and commit to that."""

    def lie(monkeypatch: pytest.MonkeyPatch) -> None:
        def push(branches: Any, name: str, update: int, block: memoryview) -> None:
            data = bytearray(block)
            if (name, update) == (plane, 0):
                data[2] ^= 1
            branches[name, update].push(memoryview(data))

        monkeypatch.setattr(state, "_push", push)

    return lie


def bend_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a site that took no part the rows of another."""
    honest: Any = RuleState.after

    def after(self: RuleState, made: Any, rho: Any) -> RuleState:
        found = honest(self, made, rho)
        if len(made) == len(self.members):
            return found  # type: ignore[no-any-return]
        members = list(found.members)
        members[1] = members[1].model_copy(update={"made": members[0].made})
        return found.model_copy(update={"members": tuple(members)})  # type: ignore[no-any-return]

    monkeypatch.setattr(RuleState, "after", after)


def another_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the penalty of one site follow something else than its residuals."""
    honest: Any = ConsensusRule.adapt
    monkeypatch.setattr(
        ConsensusRule, "adapt", lambda self, rho, tally: (0.3 + 0 * rho[0], *honest(self, rho, tally)[1:])
    )


def forget_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a member that took part as if it never had."""
    honest: Any = RuleStates.open

    def opened(self: RuleStates, version: int, plane: str, stack: Any) -> Any:
        return [None, *honest(self, version, plane, stack)[1:]]

    monkeypatch.setattr(RuleStates, "open", opened)


def digests_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit to digests that are nobody's."""
    honest: Any = Pass.facts

    def facts(self: Pass) -> Any:
        found = honest(self)
        table = found[f"{RUN}/state/{self._version + 1}"]["value"]
        table["members"][0]["made"]["rows"]["dual"]["plaintext"] = "0" * 64
        return found

    monkeypatch.setattr(Pass, "facts", facts)


def seal_another_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal another dual than the one that is committed to; the next round is computed with it."""
    honest: Any = RuleStates.seal_row
    right: dict[str, str] = {}

    def seal_row(self: RuleStates, version: int, member: int, plane: str, ticket: str, chunks: Iterator[bytes]) -> Any:
        if (member, plane, version) != (0, "dual", 1):
            return honest(self, version, member, plane, ticket, chunks)
        whole = b"".join(chunks)
        right["digest"] = hashlib.sha256(whole).hexdigest()
        return honest(self, version, member, plane, ticket, iter([whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]]))

    facts: Any = Pass.facts

    def told(self: Pass) -> Any:
        found = facts(self)
        if self._version == 0:
            table = found[f"{RUN}/state/1"]["value"]
            table["members"][0]["made"]["rows"]["dual"]["plaintext"] = right["digest"]
        return found

    monkeypatch.setattr(RuleStates, "seal_row", seal_row)
    monkeypatch.setattr(Pass, "facts", told)


def another_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that a row was made from an update that it was not made from."""
    honest: Any = Pass.facts

    def facts(self: Pass) -> Any:
        found = honest(self)
        found[f"{RUN}/state/{self._version + 1}"]["value"]["members"][0]["made"]["ticket"] = "1" * 64
        return found

    monkeypatch.setattr(Pass, "facts", facts)


def commit_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the state out of the commit."""
    monkeypatch.setattr(RuleStates, "commitment", lambda self, version: None)


LIES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int, str]] = {
    "a wrong dual": (bend("dual"), 1, "the dual is recomputed as"),
    "a wrong primal": (bend("primal"), 1, "the primal is recomputed as"),
    "an absent site's pair changed": (bend_an_absent_one, 2, "changed without an update"),
    "another penalty": (another_penalty, 1, "where the rule gives"),
    "a member forgotten": (forget_a_member, 2, "combine to"),
    "digests of nothing": (digests_of_others, 1, "the dual is recomputed as"),
    "another row sealed than committed": (seal_another_row, 2, "the state says"),
    "another ticket": (another_ticket, 1, "not made from the update that was counted"),
    "no state": (commit_to_nothing, 1, "none where it keeps one"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_the_state_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    tell, version, reason = LIES[lie]
    with monkeypatch.context() as inner:
        tell(inner)
        federation = made(tmp_path, rounds=version).federation
    steps = Scene(federation).replay().steps
    assert [step.status for step in steps[:version]] == [Status.PASS] * (version - 1) + [Status.FAIL]
    assert reason in steps[version - 1].reason


# A store that lost something, or openings that somebody else sealed


def flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def undecided(scene: Scene, version: int, reason: str) -> None:
    """The commit from ``version`` on cannot be judged; all the others are as they were."""
    steps = scene.replay().steps
    assert [step.status for step in steps] == [
        Status.UNDECIDED if step.version == version + 1 else Status.PASS for step in steps
    ]
    assert reason in steps[version].reason


@pytest.mark.parametrize("plane", ["dual", "primal"])
def test_a_lost_row_leaves_the_next_commit_undecided(scene: Scene, plane: str) -> None:
    scene.path(state_payload_key(RUN, 1, 0, plane)).unlink()
    undecided(scene, 1, "no such object")


def test_an_absent_site_s_row_is_needed_as_long_as_it_counts(scene: Scene) -> None:
    """The second site was absent in the round of version 1: its row of version 1 counts in versions 2 and 3."""
    scene.path(state_manifest_key(RUN, 1, 1, "dual")).unlink()
    steps = scene.replay().steps
    assert [step.status for step in steps] == [Status.PASS, Status.UNDECIDED, Status.UNDECIDED]


@pytest.mark.parametrize("key", [state_payload_key, state_manifest_key])
def test_other_bytes_in_place_of_a_row_convict_nobody(scene: Scene, key: Any) -> None:
    scene.change(key(RUN, 1, 0, "dual"), flip)
    undecided(scene, 1, "")


def test_another_row_s_blob_in_place_convicts_nobody(scene: Scene) -> None:
    other = scene.path(state_manifest_key(RUN, 1, 1, "dual")).read_bytes()
    scene.change(state_manifest_key(RUN, 1, 0, "dual"), lambda _: other)
    undecided(scene, 1, "not the manifest that the log names")


def test_openings_without_the_table_leave_two_commits_undecided(scene: Scene) -> None:
    scene.reseal(2, lambda found: found.model_copy(update={"state": None}))
    assert statuses(scene) == [Status.PASS, Status.UNDECIDED, Status.UNDECIDED]


def test_a_table_that_somebody_else_made_up_convicts_nobody(scene: Scene) -> None:
    def change(found: Any) -> Any:
        value = dict(found.state.value)
        value["members"][0]["rho"] = float_bits(9.0)
        return found.model_copy(update={"state": Opening(value=value, salt=salt())})

    scene.reseal(ROUNDS, change)
    assert statuses(scene) == [*PASSED[:-1], Status.UNDECIDED]


def test_the_rows_of_the_last_version_are_not_needed(scene: Scene) -> None:
    for folder in ("runs", "payloads"):
        shutil.rmtree(scene.path(f"{folder}/{RUN}/states/{ROUNDS:06d}"))
    assert statuses(scene) == PASSED
