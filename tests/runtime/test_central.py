"""Central DP-FedAvg in a federation: one noise for one aggregate, whatever dies; an auditor recomputes it; epsilon is right."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.optimize import brentq
from scipy.stats import norm

from counterseal.algorithms.dp_fedavg import DPFedAvg
from counterseal.algorithms.errors import WeightError
from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, RoundAbort, UpdateAdmit, UpdateReject
from counterseal.audit.verify import verify
from counterseal.parameters import Schema, decode
from counterseal.privacy.errors import GridError
from counterseal.privacy.noise import Keystream
from counterseal.runtime.central import CentralTerms
from counterseal.runtime.config import AggregationConfig, ModelConfig, RunConfig
from counterseal.runtime.delivery import Delivery
from counterseal.runtime.errors import RunError
from counterseal.runtime.places import global_payload_key, noise_manifest_key, noise_payload_key, openings_key
from counterseal.runtime.planes import row_schema
from counterseal.runtime.replaying import noise as replaying
from counterseal.runtime.rule_state import NoiseState, Row
from counterseal.runtime.sealed_json import open_openings
from counterseal.runtime.server import start
from counterseal.runtime.server.models import Models
from counterseal.runtime.server.rounds import aggregate, commit, noise
from counterseal.runtime.server.rounds.noise import VersionNoise
from counterseal.runtime.server.start import start_run
from counterseal.runtime.training.registry import build_trainer
from counterseal.trust.blob.manifest import Manifest, Place, read_manifest
from counterseal.trust.blob.open import open_blob
from counterseal.trust.canonical import parse
from counterseal.trust.documents import parse_document
from counterseal.trust.dsse import read
from counterseal.trust.errors import MalformedError

from ..federation import SERVER, DirectTransport, Federation, data_of, run_config
from ..private import TERMS
from .test_replay import RUN, Scene

Z = 0.25
INPUTS = 100
"""The model has 303 elements: enough for the auditor to see how far noise is spread."""


def config_of(rounds: int = 2, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "rule": "dp-fedavg",
        "clip_norm": 0.5,
        "noise_multiplier": Z,
        "sites": 3,
        "delta": 1e-3,
        **changes.pop("aggregation", {}),
    }
    return run_config(
        rounds=rounds,
        model=ModelConfig(name="logistic", parameters={"inputs": INPUTS, "classes": 3}),
        aggregation=AggregationConfig(**values),
        **{"evaluation": {"sites": False}, "round_seconds": 5, "retries": 0, **changes},
    )


def play(federation: Federation, config: RunConfig, meddle: Any = None, **changes: Any) -> Any:
    def trainers(name: str) -> Any:
        return lambda run: build_trainer(run, site=name, data=data_of(name, inputs=INPUTS))

    with ExitStack() as stack:
        sites = {name: stack.enter_context(federation.site(name, trainers=trainers(name))) for name in federation.sites}
        transport = DirectTransport(sites, meddle=meddle, clock=federation.clock)
        with federation.server(transport, **changes) as server:
            return server.run(config, federation.first_parameters(config))


def founded(folder: Path, count: int = 3, **changes: Any) -> Federation:
    return Federation.make(folder / "fed", count, **{"auditor": True, **changes})


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = founded(tmp_path_factory.mktemp("central"))
    assert play(federation, config_of()).outcome == "completed"
    return federation


@pytest.fixture
def scene(honest: Federation, tmp_path: Path) -> Scene:
    shutil.copytree(honest.folder, tmp_path / "fed")
    return Scene(replace(honest, folder=tmp_path / "fed"))


def statuses(scene: Scene) -> list[tuple[Status, str]]:
    return [(step.status, step.reason) for step in scene.replay().steps]


def plain(scene: Scene, key: str, version: int, kind: str, config: RunConfig | None = None) -> Any:
    """Open a sealed model or row as the auditor."""
    schema = Schema.of(scene.federation.first_parameters(config or config_of()))
    schema = row_schema("noise", schema) if kind == "state" else schema
    raw = scene.path(key.replace("payloads/", "runs/").replace("payload", "manifest")).read_bytes()
    context = parse_document(Manifest, read(raw).payload).context
    place = Place(**{name: getattr(context, name) for name in Place.model_fields})
    signed = read_manifest(raw, place=place, sender=scene.federation.keys[SERVER].signer.public, now=None)
    with scene.store.open(key) as source:
        data = open_blob(signed, source, scene.key, schema).read()
    values = decode(schema, data)
    return np.concatenate([values[spec.name].ravel() for spec in schema.tensors])


def table_of(scene: Scene, version: int) -> NoiseState:
    data = scene.store.get(openings_key(RUN, version), limit=1 << 24)
    found = open_openings(data, scene.key, federation="test-federation", run=RUN, version=version)
    assert found.state is not None
    return NoiseState.from_json(found.state.value)


# An honest run


def test_it_runs_verifies_and_replays(scene: Scene) -> None:
    source = FolderSource(scene.federation.log_folder)
    findings = verify(source, Trust(scene.federation.charter, objects=source.objects()))
    assert [row.id for row in findings.rows if row.status is Status.FAIL] == []
    assert statuses(scene) == [(Status.PASS, "")] * 2
    commits = scene.events(AggregateCommit)
    assert all(one.rule == "dp-fedavg" and one.state for one in commits) and commits[0].state != commits[1].state
    assert commits[0].parameters == {"clip_norm": 0.5, "noise_multiplier": Z, "sites": 3}


def test_the_noise_in_the_model_is_the_sealed_one_and_of_its_size(scene: Scene) -> None:
    deviation = Z * 0.5 / 3
    models = [plain(scene, global_payload_key(RUN, version), version, "global") for version in (0, 1, 2)]
    rows = [plain(scene, noise_payload_key(RUN, version), version, "state") for version in (1, 2)]
    k = CentralTerms.of(config_of().model_dump(mode="json")).rule.fineness  # type: ignore[union-attr]
    for version, row in enumerate(rows, start=1):
        step, drawn = models[version] - models[version - 1], row * (0.5 / k / 3)
        assert np.array_equal(row, np.trunc(row)) and 0.7 < drawn.std() / deviation < 1.3
        # What is left without the noise is the sites' clipped mean: no longer than the clipping bound, and not nothing.
        assert 0.01 < np.linalg.norm(step - drawn) <= 0.5
    assert not np.array_equal(rows[0], rows[1])
    assert [table_of(scene, version).attempt for version in (1, 2)] == [0, 0]


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_the_bits_do_not_depend_on_the_block(scene: Scene, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(aggregate, "BLOCK", block)
    monkeypatch.setattr(replaying, "BLOCK", block)
    assert [status for status, _ in statuses(scene)] == [Status.PASS] * 2


def test_a_federation_without_an_auditor_runs_too(tmp_path: Path) -> None:
    assert play(founded(tmp_path, auditor=False), config_of(1)).outcome == "completed"


def test_verdicts_say_nothing_of_others(tmp_path: Path) -> None:
    """An update above the charter's bound counts, clipped; nothing is flagged or compared: verdicts are public."""
    federation = founded(tmp_path, norm_bound=1e-6)
    assert play(federation, config_of(1)).outcome == "completed"
    scene = Scene(federation)
    assert len(scene.events(UpdateAdmit)) == 3 and scene.events(UpdateReject) == []
    assert all(one.flags == () for one in scene.events(UpdateAdmit))
    assert statuses(scene) == [(Status.PASS, "")]


# Deaths


TWO = config_of(1, aggregation={"sites": 2})


class Died(Exception):
    pass


def test_a_death_between_noise_and_commit_uses_the_same_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation, drawn = founded(tmp_path, 2), list[str]()
    honest: Any = VersionNoise.draw

    def draw(self: VersionNoise) -> None:
        honest(self)
        drawn.append(self._record["value"]["noise"]["plaintext"])
        if len(drawn) == 1:
            raise Died

    monkeypatch.setattr(VersionNoise, "draw", draw)
    with pytest.raises(Died):
        play(federation, TWO)
    assert not (federation.folder / "store" / "objects" / noise_payload_key(RUN, 1)).exists()
    assert play(federation, TWO).outcome == "completed"
    scene = Scene(federation)
    assert drawn == [table_of(scene, 1).noise.plaintext] * 2
    assert statuses(scene) == [(Status.PASS, "")]


@pytest.mark.parametrize(
    "step", ["_drawn", "open", "upload", "put_openings", "sealed model"], ids=lambda step: step.strip("_")
)
def test_a_death_at_any_step_leaves_one_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    federation = founded(tmp_path, 2)
    with monkeypatch.context() as inner:
        if step == "put_openings":
            inner.setattr(commit, step, raising)
        elif step == "sealed model":
            inner.setattr(
                Models, "_upload", lambda self, version: raising() if version else honest_upload(self, version)
            )
        else:
            inner.setattr(VersionNoise, step, after(getattr(VersionNoise, step)))
        with pytest.raises(Died):
            play(federation, TWO)
    assert play(federation, TWO).outcome == "completed"
    scene = Scene(federation)
    assert statuses(scene) == [(Status.PASS, "")]
    assert list((federation.folder / "server").rglob("noise-*")) == []


def raising(*_: Any, **__: Any) -> None:
    raise Died


def after(honest: Callable[..., Any]) -> Callable[..., Any]:
    def dying(*arguments: Any) -> Any:
        honest(*arguments)
        raise Died

    return dying


honest_upload: Any = Models._upload


def test_another_try_uses_other_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try draws its noise and then fails for good; the second counts other updates and gets a row of its own."""
    federation, rows = founded(tmp_path), dict[int, Any]()
    honest: Any = VersionNoise.draw

    def draw(self: VersionNoise) -> None:
        honest(self)
        rows[self._attempt] = self._record

    monkeypatch.setattr(VersionNoise, "draw", draw)
    with federation.server(DirectTransport({})) as server:
        office, config = server._office, config_of(1)
        file = start_run(office, config, federation.first_parameters(config), "00" * 32)

        class Ticket:
            digest = "ab" * 32

        class Other:
            digest = "cd" * 32

        made: Any = [VersionNoise(office, file, file.rule, 0, attempt, [Ticket()]) for attempt in (0, 1)]  # type: ignore[arg-type,list-item]
        for one in made:
            one.draw()
        made[0].draw()
        assert rows[0]["value"]["noise"] != rows[1]["value"]["noise"]
        assert made[0]._record == rows[0] and not made[0]._spool.exists() and made[1]._spool.exists()
        with pytest.raises(RunError, match="other updates"):
            VersionNoise(office, file, file.rule, 0, 1, [Ticket(), Other()]).draw()  # type: ignore[arg-type,list-item]


def test_an_aborted_try_publishes_nothing_and_the_next_names_its_own(tmp_path: Path) -> None:
    """A site's first ticket is lost and everybody is needed: the round is aborted, and tried again."""
    federation, lost = founded(tmp_path, 4), list[str]()

    def meddle(site: str, delivery: bytes) -> bytes | None:
        order = parse(read(Delivery.from_json(parse(delivery, limit=1 << 24)).ticket.encode()).payload)
        if site != federation.sites[0] or order["kind"] != "train" or lost[:1] not in ([], [order["seq"]]):
            return delivery
        lost.append(order["seq"])
        return None

    config = config_of(1, minimum_sites=4, retries=1, aggregation={"sites": 4})
    assert play(federation, config, meddle).outcome == "completed"
    scene = Scene(federation)
    assert len(scene.events(RoundAbort)) == 1 and lost
    assert table_of(scene, 1).attempt == 1 and statuses(scene) == [(Status.PASS, "")]


def test_the_divisor_is_the_number_of_sites_not_of_answers(tmp_path: Path) -> None:
    federation = founded(tmp_path, 4)

    def meddle(site: str, delivery: bytes) -> bytes | None:
        order = parse(read(Delivery.from_json(parse(delivery, limit=1 << 24)).ticket.encode()).payload)
        return None if site == federation.sites[0] and order["kind"] == "train" else delivery

    assert play(federation, config_of(1, aggregation={"sites": 4}), meddle).outcome == "completed"
    scene = Scene(federation)
    (made,) = scene.events(AggregateCommit)
    assert len(made.inputs) == 3 and statuses(scene) == [(Status.PASS, "")]


# A server that lies


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(noise, "_chunks", bent(lambda row: row * 0))


def too_little(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(noise, "_chunks", bent(lambda row: np.trunc(row / 16)))


def no_whole_numbers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(noise, "_chunks", bent(lambda row: row + np.float32(0.5)))


def the_same_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(noise, "Keystream", lambda: Keystream(bytes(32)))


def for_another_try(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(noise, "NoiseState", lambda **fields: NoiseState(**{**fields, "attempt": 1}))
    patch.setattr(VersionNoise, "draw", lambda self: self._office.journal.once(self._key, self._drawn))


def for_other_updates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(noise, "NoiseState", lambda **fields: NoiseState(**{**fields, "tickets": ("0" * 64,)}))
    patch.setattr(VersionNoise, "draw", lambda self: self._office.journal.once(self._key, self._drawn))


def another_than_committed(patch: pytest.MonkeyPatch) -> None:
    """Add something else than what is sealed."""
    honest: Any = DPFedAvg.combine

    def combine(self: DPFedAvg, planes: Any, coeff: Any, parent: Any, state: Any, **other: Any) -> Any:
        return honest(self, planes, coeff, parent, {"noise": [state["noise"][0] + np.float32(4096)]}, **other)

    patch.setattr(DPFedAvg, "combine", combine)


def another_digest(patch: pytest.MonkeyPatch) -> None:
    row = lambda **fields: Row(**{**fields, "plaintext": "0" * 64})  # noqa: E731
    patch.setattr(noise, "Row", row)


def nothing_committed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VersionNoise, "commitment", None)


def bent(bend: Callable[[Any], Any]) -> Callable[..., Iterator[memoryview]]:
    honest = noise._chunks

    def chunks(*arguments: Any) -> Iterator[memoryview]:
        header, *rows = honest(*arguments)
        yield header
        for row in rows:
            yield bend(np.frombuffer(row, np.float32)).astype(np.float32).view(np.uint8).data

    return chunks


LIES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int, str]] = {
    "no noise": (no_noise, 1, "a spread of 0, where the rule asks for"),
    "too little": (too_little, 1, "a spread of"),
    "no whole numbers": (no_whole_numbers, 1, "not whole numbers"),
    "the same again": (the_same_again, 2, "the noise of version 1 again"),
    "for another try": (for_another_try, 1, "drawn for another version, try"),
    "for other updates": (for_other_updates, 1, "or set of updates"),
    "another than committed": (another_than_committed, 1, "combine to"),
    "another digest": (another_digest, 1, "the state says 0000"),
    "nothing committed": (nothing_committed, 1, "none where it keeps one"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_the_noise_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    tell, version, reason = LIES[lie]
    federation = founded(tmp_path, 2)
    with monkeypatch.context() as inner:
        tell(inner)
        play(federation, config_of(version, aggregation={"sites": 2}))
    steps = Scene(federation).replay().steps
    assert [step.status for step in steps] == [Status.PASS] * (version - 1) + [Status.FAIL]
    assert reason in steps[-1].reason


@pytest.mark.parametrize("key", [noise_payload_key, noise_manifest_key])
def test_bytes_that_were_changed_in_the_store_convict_nobody(scene: Scene, key: Any) -> None:
    scene.change(key(RUN, 1), lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    assert [status for status, _ in statuses(scene)] == [Status.UNDECIDED, Status.PASS]


def test_a_lost_row_and_a_lost_table_leave_it_undecided(scene: Scene) -> None:
    scene.path(noise_payload_key(RUN, 2)).unlink()
    scene.reseal(1, lambda found: found.model_copy(update={"state": None}))
    assert [status for status, _ in statuses(scene)] == [Status.UNDECIDED] * 2


# What cannot be started


def test_the_divisor_and_the_weights_are_the_charters(tmp_path: Path) -> None:
    federation = founded(tmp_path)
    with pytest.raises(RunError, match="divides by 4 sites, and the charter has 3"):
        play(federation, config_of(1, aggregation={"sites": 4}))
    weights = {name: 1.0 + place for place, name in enumerate(federation.sites)}
    rule = CentralTerms.of(config_of().model_dump(mode="json"))
    assert rule is not None
    with pytest.raises(WeightError, match="weights differ"):
        start._require_noisy(rule.rule, weights, 303)
    with pytest.raises(GridError):  # so much noise leaves a grid too coarse for so many numbers
        start._require_noisy(replace(rule.rule, noise_multiplier=4096.0), dict.fromkeys(weights, 1.0), 10_000)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aggregation": {"noise_multiplier": None}}, "there is no noise_multiplier"),
        ({"aggregation": {"sites": None}}, "there is no sites"),
        ({"aggregation": {"delta": None}}, "there is no delta"),
        ({"aggregation": {"noise_multiplier": 1e9}}, "outside"),
        ({"aggregation": {"rho": 1.0}}, "rho is a parameter of"),
        ({"aggregation": {"rule": "norm-clipped-fedavg"}}, "noise_multiplier is a parameter of dp-fedavg"),
        ({"evaluation": {"sites": True}}, "evaluation.sites: false"),
        ({"privacy": {"terms": TERMS.model_dump()}}, "leave privacy out"),
    ],
    ids=str,
)
def test_bad_configurations(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config_of(**changes)


# What it comes to


@pytest.mark.parametrize(
    ("z", "rounds", "delta"), [(5.43, 100, 1e-4), (31.86, 100, 1e-4), (2.0, 5, 1e-5), (0.7, 1, 1e-3)]
)
def test_epsilon_is_that_of_the_analytic_gaussian(z: float, rounds: int, delta: float) -> None:
    """Rounds without sampling are one Gaussian of multiplier z / sqrt(T); Balle, Wang 2018, theorem 8, solved for epsilon."""
    config = config_of(aggregation={"noise_multiplier": z, "delta": delta}).model_dump(mode="json")
    terms = CentralTerms.of(config)
    assert terms is not None
    shift = math.sqrt(rounds) / z

    def excess(epsilon: float) -> float:
        one, two = norm.logcdf(shift / 2 - epsilon / shift), norm.logcdf(-shift / 2 - epsilon / shift)
        return math.exp(one) - math.exp(epsilon + two) - delta

    exact = brentq(excess, 0.0, 200.0)
    stated = terms.statement(rounds)
    assert exact - 1e-9 <= stated.epsilon <= exact * 1.002 + 1e-3
    assert (stated.adjacency, stated.unit) == ("add-remove", "site") and delta <= stated.delta <= delta * (1 + 2e-5)


def test_the_terms_of_other_runs() -> None:
    assert CentralTerms.of(run_config().model_dump(mode="json")) is None
    for broken in (
        {"rule": "dp-fedavg"},
        {"rule": "dp-fedavg", "clip_norm": 1, "noise_multiplier": 0, "sites": 3, "delta": 0.1},
    ):
        with pytest.raises(MalformedError):
            CentralTerms.of({"aggregation": broken})
