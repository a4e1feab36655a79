"""Replay: an auditor recomputes every aggregate bit for bit, and each lie of a server is caught (P8)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterseal.algorithms.fedavg import NormClippedFedAvg
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, UpdateAdmit, peek_event
from counterseal.runtime.config import AggregationConfig
from counterseal.runtime.delivery import Opening
from counterseal.runtime.errors import ReplayError
from counterseal.runtime.journal import Journal
from counterseal.runtime.places import global_manifest_key, openings_key, update_payload_key
from counterseal.runtime.replaying.replay import Replay, Step, replay
from counterseal.runtime.sealed_json import Openings, open_openings, seal_openings
from counterseal.runtime.server import models
from counterseal.runtime.server.rounds import aggregate, commit, openings, verdicts
from counterseal.runtime.stores.directory import DirectoryStore
from counterseal.trust.blob.manifest import Wrap
from counterseal.trust.blob.seal import seal
from counterseal.trust.blob.wraps import wrap_root
from counterseal.trust.errors import RecipientError
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.sealing import OpeningKey

from ..federation import SERVER, DirectTransport, Federation, run_config

AUDITOR = "auditor@fed.example"
RUN = "run-1"
COMBINED = f"{commit.__name__}.combined"
"""Where the server calls the arithmetic: a lie is told there, and the replay is left alone."""
CLIP = 0.5
"""Below the norm of what the sites send: coefficients depend on norms."""


def play(federation: Federation, rounds: int = 2) -> None:
    """Play a run to whatever end its sites let it have: a server that lies is not always followed."""
    with contextlib.ExitStack() as stack:
        sites = {name: stack.enter_context(federation.site(name)) for name in federation.sites}
        config = run_config(rounds=rounds, round_seconds=5, retries=0, aggregation=AggregationConfig(clip_norm=CLIP))
        with federation.server(DirectTransport(sites, clock=federation.clock)) as server:
            server.run(config, federation.first_parameters(config))


def made(folder: Path, rounds: int = 2, **changes: Any) -> Federation:
    federation = Federation.make(folder, 3, **{"auditor": True, **changes})
    play(federation, rounds)
    return federation


@dataclass
class Scene:
    """A finished run whose store and log a test may harm, and what the auditor makes of it."""

    federation: Federation
    steps: list[Step] = field(default_factory=list)

    @property
    def store(self) -> DirectoryStore:
        return self.federation.store()

    @property
    def key(self) -> OpeningKey:
        return self.federation.keys[AUDITOR].opening

    def replay(self, key: OpeningKey | None = None, run: str | None = RUN) -> Replay:
        source = FolderSource(self.federation.log_folder)
        return replay(source, self.federation.charter, self.store, key or self.key, run, observe=self.steps.append)

    def only(self) -> Step:
        (step,) = self.replay().steps
        return step

    def events(self, kind: type[Any]) -> list[Any]:
        with self.federation.server(DirectTransport({})) as server:
            found = [peek_event(server.log.entry(index)) for index in range(server.log.size)]
        return [one for one in found if isinstance(one, kind)]

    def path(self, key: str) -> Path:
        return self.federation.folder / "store" / "objects" / key

    def change(self, key: str, change: Callable[[bytes], bytes]) -> None:
        path = self.path(key)
        data = change(path.read_bytes())
        path.unlink()  # other names of the same file keep what they have
        path.write_bytes(data)

    def reseal(self, version: int, change: Callable[[Openings], Openings]) -> None:
        """Put other openings in place: whoever knows the auditor's public key can seal some."""
        place: dict[str, Any] = {"federation": "test-federation", "run": RUN, "version": version}

        def made(data: bytes) -> bytes:
            return seal_openings(change(open_openings(data, self.key, **place)), self.key.public, **place)

        self.change(openings_key(RUN, version), made)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return made(tmp_path_factory.mktemp("replay") / "fed")


@pytest.fixture
def scene(honest: Federation, tmp_path: Path) -> Scene:
    """A copy of the honest run."""
    shutil.copytree(honest.folder, tmp_path / "fed")
    return Scene(Federation(tmp_path / "fed", honest.sites, honest.keys, honest.charter, honest.clock))


# Honest runs


def test_an_honest_run_passes_commit_by_commit(scene: Scene) -> None:
    found = scene.replay()
    commits = scene.events(AggregateCommit)
    assert [step.status for step in found.steps] == [Status.PASS, Status.PASS]
    assert [(step.version, step.output) for step in found.steps] == [(1, commits[0].output), (2, commits[1].output)]
    assert all(step.inputs == scene.federation.sites and step.reason == "" for step in found.steps)
    assert scene.steps == list(found.steps) and found.passed and found.charter == scene.federation.charter.digest
    assert scene.replay(run=None).steps == found.steps


@pytest.mark.parametrize("suite", ["P384", "MLKEM1024_P384"])
def test_every_suite(tmp_path: Path, suite: str) -> None:
    found = Scene(made(tmp_path / "fed", 1, suite=suite)).only()
    assert (found.status, found.reason) == (Status.PASS, "")


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_the_bits_do_not_depend_on_the_block(scene: Scene, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(aggregate, "BLOCK", block)
    assert {step.status for step in scene.replay().steps} == {Status.PASS}


def test_updates_are_clipped_in_this_run(scene: Scene) -> None:
    """Otherwise a rule that ignored norms would pass here too."""
    weights = scene.federation.charter.charter.weights
    place: dict[str, Any] = {"federation": "test-federation", "run": RUN, "version": 1}
    data = scene.store.get(openings_key(RUN, 1), limit=1 << 24)
    found = open_openings(data, scene.key, **place)
    shares = [weights[site] / sum(weights[site] for site in scene.federation.sites) for site in scene.federation.sites]
    values = [np.frombuffer(bytes.fromhex(one.coefficient.value), ">f4")[0] for one in found.inputs]
    assert any(value < share * 0.999 for value, share in zip(values, shares, strict=True))


def test_without_an_auditor_nothing_is_put_and_nothing_replayed(tmp_path: Path) -> None:
    scene = Scene(made(tmp_path / "fed", 1, auditor=False))
    assert not [key for key in scene.store.list("runs/") if "openings" in key]
    with pytest.raises(ReplayError, match="names no auditor"):
        scene.replay(scene.federation.keys[SERVER].opening)


def test_the_store_sees_no_opening_in_the_clear_and_no_telling_length(scene: Scene) -> None:
    data = scene.store.get(openings_key(RUN, 1), limit=1 << 24)
    assert b"salt" not in data and b"norm" not in data and (len(data) - 1136) % 4096 == 0
    with pytest.raises(RecipientError):
        open_openings(data, MemberKeys.generate().opening, federation="test-federation", run=RUN, version=1)


class Killed(Exception):
    """The server dies here."""


@pytest.mark.parametrize("point", ["before the put", "after the put", "after the note"])
def test_a_restart_puts_the_same_openings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    federation = Federation.make(tmp_path / "fed", 3, auditor=True)
    stored, place = openings.put_openings, f"{RUN}/openings/1"

    def struck(office: Any, *arguments: Any) -> None:
        put = office.store.put

        def put_and_die(key: str, source: Any) -> None:
            if point != "before the put":
                put(key, source)
            if point != "after the note":
                raise Killed

        with monkeypatch.context() as inner:
            inner.setattr(office.store, "put", put_and_die)
            stored(office, *arguments)
        raise Killed

    with monkeypatch.context() as outer, pytest.raises(Killed):
        outer.setattr(commit, "put_openings", struck)
        play(federation)
    with contextlib.closing(Journal(federation.folder / "server" / "server.sqlite")) as journal:
        noted = journal.get(place)
    play(federation)
    found = federation.store().get(openings_key(RUN, 1), limit=1 << 24)
    assert noted == ("stored" if point == "after the note" else base64.b64encode(found).decode())
    assert [step.status for step in Scene(federation).replay().steps] == [Status.PASS, Status.PASS]


# A server that lies. It is patched where it computes, so the log tells its lie consistently.


def favour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the share for the first site: committed, opened and applied."""
    honest: Any = NormClippedFedAvg.coefficients

    def coefficients(*arguments: Any) -> Any:
        found = honest(*arguments)
        found[0] *= 2
        return found

    monkeypatch.setattr(NormClippedFedAvg, "coefficients", coefficients)


def favour_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part in 2^15 more, committed, opened and applied."""
    honest: Any = NormClippedFedAvg.coefficients

    def coefficients(*arguments: Any) -> Any:
        return honest(*arguments) * np.float32(1 + 2**-15)

    monkeypatch.setattr(NormClippedFedAvg, "coefficients", coefficients)


def apply_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit what the rule gives, apply something else."""
    honest: Any = aggregate.combined
    monkeypatch.setattr(COMBINED, lambda *a: honest(*a[:-1], a[-1] * np.float32(1.0001)))


def bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change one bit of one parameter of the result, and log the digest of that."""
    honest = aggregate.combined

    def chunks(*arguments: Any) -> Iterator[memoryview]:
        for number, chunk in enumerate(honest(*arguments)):
            data = bytearray(chunk)
            if number == 1:
                data[0] ^= 1
            yield memoryview(data)

    monkeypatch.setattr(COMBINED, chunks)


def drop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name all inputs and combine two of them."""
    honest = aggregate.combined
    monkeypatch.setattr(COMBINED, lambda s, p, u, r, c: honest(s, p, u[:2], r, c[:2]))


def another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log the digest of the right model and hand out another one."""
    honest, digest = aggregate.combined, dict[int, str]()

    def chunks(*arguments: Any) -> Iterator[memoryview]:
        right = hashlib.sha256()
        for number, chunk in enumerate(honest(*arguments)):
            right.update(chunk)
            data = bytearray(chunk)
            if number == 1:
                data[0] ^= 1
            yield memoryview(data)
        digest[1] = right.hexdigest()

    told = models.Models.digest
    monkeypatch.setattr(COMBINED, chunks)
    monkeypatch.setattr(models.Models, "digest", lambda self, version: digest.get(version) or told(self, version))


def other_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit to a smaller norm than the update has."""
    honest = verdicts.Verdicts._statistics

    def statistics(self: Any, site: str) -> dict[str, Any]:
        found = honest(self, site)
        found["value"]["norm"] *= 0.5
        return found

    monkeypatch.setattr(verdicts.Verdicts, "_statistics", statistics)


def not_for_the_auditor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal the result so that no auditor can look at it."""
    honest = seal

    def sealed(*arguments: Any, recipients: Any, place: Any, **changes: Any) -> Any:
        kept = [recipients[0], *recipients[2:]] if place.version else recipients
        return honest(*arguments, recipients=kept, place=place, **changes)

    monkeypatch.setattr(f"{models.__name__}.seal", sealed)


LIES: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    favour: "coefficient of site-a@fed.example: committed",
    favour_a_little: "coefficient of site-a@fed.example: committed",
    apply_others: "parent and updates combine to",
    bias: "parent and updates combine to",
    drop: "parent and updates combine to",
    another_model: "model of version 1: sealed is",
    other_statistics: "the norms committed at its admission are not its norms",
    not_for_the_auditor: "model of version 1: not sealed to the auditor",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_lie_of_the_server_fails(tmp_path: Path, lie: Callable[[pytest.MonkeyPatch], None]) -> None:
    federation = Federation.make(tmp_path / "fed", 3, auditor=True)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Exception):
        lie(patch)
        play(federation, 1)
    found = Scene(federation).only()
    assert found.status is Status.FAIL and LIES[lie] in found.reason


def test_a_false_version_does_not_make_the_next_one_false(tmp_path: Path) -> None:
    """The second commit continues, rightly, from what the first one wrongly made."""
    federation = Federation.make(tmp_path / "fed", 3, auditor=True)
    honest = aggregate.combined

    def chunks(schema: Any, parent: Any, *arguments: Any) -> Iterator[memoryview]:
        for number, chunk in enumerate(honest(schema, parent, *arguments)):
            data = bytearray(chunk)
            data[0] ^= number == 1 and parent.manifest.context.version == 0
            yield memoryview(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(COMBINED, chunks)
        play(federation)
    assert [step.status for step in Scene(federation).replay().steps] == [Status.FAIL, Status.PASS]


# A store that lies, loses and swaps


def payload_of(scene: Scene, place: int) -> str:
    return update_payload_key(RUN, scene.events(AggregateCommit)[0].inputs[place].ticket)


def missing_update(scene: Scene) -> None:
    scene.path(payload_of(scene, 0)).unlink()


def swapped_updates(scene: Scene) -> None:
    one, two = scene.path(payload_of(scene, 0)), scene.path(payload_of(scene, 1))
    first, second = one.read_bytes(), two.read_bytes()
    for path, data in ((one, second), (two, first)):
        path.unlink()
        path.write_bytes(data)


def changed_update(scene: Scene) -> None:
    scene.change(payload_of(scene, 0), lambda data: data[:-1] + bytes([data[-1] ^ 1]))


def longer_update(scene: Scene) -> None:
    scene.change(payload_of(scene, 0), lambda data: data + b"\0")


def missing_manifest(scene: Scene) -> None:
    scene.path(global_manifest_key(RUN, 1)).unlink()


def garbled_manifest(scene: Scene) -> None:
    scene.change(global_manifest_key(RUN, 1), lambda data: data[:-9])


def another_manifest(scene: Scene) -> None:
    two = scene.path(global_manifest_key(RUN, 2)).read_bytes()
    scene.change(global_manifest_key(RUN, 1), lambda data: two)


def broken_signature(scene: Scene) -> None:
    scene.change(global_manifest_key(RUN, 1), lambda data: data.replace(b'"sig":"', b'"sig":"AAAA')[:-9] + data[-5:])


def missing_openings(scene: Scene) -> None:
    scene.path(openings_key(RUN, 1)).unlink()


def swapped_openings(scene: Scene) -> None:
    two = scene.path(openings_key(RUN, 2)).read_bytes()
    scene.change(openings_key(RUN, 1), lambda data: two)


def openings_of_another_version(scene: Scene) -> None:
    """As swapped, but sealed for this version by somebody who could open them."""
    place: dict[str, Any] = {"federation": "test-federation", "run": RUN}
    two = open_openings(scene.path(openings_key(RUN, 2)).read_bytes(), scene.key, version=2, **place)
    scene.reseal(1, lambda one: two)


def _first(one: Openings, **changes: Any) -> Openings:
    head = one.inputs[0].model_copy(update=changes)
    return one.model_copy(update={"inputs": (head, *one.inputs[1:])})


def another_coefficient_opened(scene: Scene) -> None:
    scene.reseal(1, lambda one: _first(one, coefficient=Opening(value="3f800000", salt="00" * 32)))


def other_statistics_opened(scene: Scene) -> None:
    scene.reseal(1, lambda one: _first(one, statistics=Opening(value={"norm": 1.0}, salt="00" * 32)))


def manifests_exchanged(scene: Scene) -> None:
    scene.reseal(1, lambda one: _first(one, manifest=one.inputs[1].manifest))


def another_schema(scene: Scene) -> None:
    scene.reseal(1, lambda one: one.model_copy(update={"layout": {**one.layout, "tensors": []}}))


HARMS: dict[Callable[[Scene], None], str] = {
    missing_update: "update of site-a@fed.example: no such object",
    swapped_updates: "update of site-a@fed.example: part 0 differs",
    changed_update: "update of site-a@fed.example: part 0 differs",
    longer_update: "bytes lie where",
    missing_manifest: "model of version 1: no such object",
    garbled_manifest: "model of version 1: ",
    another_manifest: "not the manifest that the log names",
    broken_signature: "model of version 1: ",
    missing_openings: "openings of version 1: no such object",
    swapped_openings: "openings of version 1: this wrap does not open here",
    openings_of_another_version: "nothing about the update of site-a@fed.example",
    another_coefficient_opened: "the coefficient of site-a@fed.example does not open its commitment",
    other_statistics_opened: "its statistics do not open the commitment",
    manifests_exchanged: "not the manifest that the log names",
    another_schema: "not the schema that run.start names",
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_what_the_store_alone_can_do_decides_nothing(scene: Scene, harm: Callable[[Scene], None]) -> None:
    harm(scene)
    step = scene.replay().steps[0]
    assert step.status is Status.UNDECIDED and HARMS[harm] in step.reason


@pytest.mark.parametrize(("sender", "status"), [("update", Status.UNDECIDED), ("global", Status.FAIL)])
@pytest.mark.parametrize("root", ["another key's", "another root"])
def test_whose_fault_a_wrap_is_that_does_not_open(tmp_path: Path, sender: str, status: Status, root: str) -> None:
    """A site can blind the auditor and the server cannot see it; in its own models a blind wrap is the server's lie."""
    federation = Federation.make(tmp_path / "fed", 3, auditor=True)
    auditor, stranger = federation.keys[AUDITOR].opening.public, MemberKeys.generate().opening.public
    honest = wrap_root

    def wraps(keys: Any, context: Any, recipients: Any) -> Any:
        if context.kind != sender or (sender == "global" and context.version == 0):
            return honest(keys, context, recipients)
        key, secret = (stranger, keys.root) if root == "another key's" else (auditor, bytes(32))
        data = key.wrap(secret, context.binding)
        blind = Wrap(key_id=auditor.key_id, wrapped=base64.b64encode(data).decode())
        return tuple(blind if one.key_id == auditor.key_id else one for one in honest(keys, context, recipients))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("counterseal.trust.blob.seal"), "wrap_root", wraps)
        play(federation, 1)
    found = Scene(federation).only()
    assert found.status is status and "wrap" in found.reason
    assert ("site-a@fed.example" in found.reason) == (sender == "update")


# Keys and logs


def test_a_strangers_key_is_refused(scene: Scene) -> None:
    for key in (MemberKeys.generate().opening, scene.federation.keys[SERVER].opening):
        with pytest.raises(ReplayError, match="no sealing key of the auditor"):
            scene.replay(key)


def test_an_unknown_run_is_refused(scene: Scene) -> None:
    with pytest.raises(ReplayError, match="no run other"):
        scene.replay(run="other")


@pytest.mark.parametrize("part", ["tile/entries", "checkpoints"])
def test_a_log_that_does_not_hold_is_not_replayed(scene: Scene, part: str) -> None:
    for path in (scene.federation.log_folder / part).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    with pytest.raises(ReplayError, match="log: "):
        scene.replay()


def test_the_admitting_leaf_is_what_the_replay_opens(scene: Scene) -> None:
    """The openings hold what each admission committed to, in full."""
    data = scene.store.get(openings_key(RUN, 1), limit=1 << 24)
    found = open_openings(data, scene.key, federation="test-federation", run=RUN, version=1)
    admitted = {one.ticket for one in scene.events(UpdateAdmit) if one.version == 0}
    assert {one.ticket for one in found.inputs} == admitted
    assert all(set(one.statistics.value) == {"fingerprint", "norm", "layer_norms"} for one in found.inputs)
