"""ADMM in a whole federation: both ends hold the same duals bit for bit, whatever happens to a site, a server or an update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterseal.algorithms.rule import CohortRule
from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, Event, ReceiptFile, RunStart, UpdateReject, peek_event
from counterseal.audit.verify import verify
from counterseal.parameters import Schema, decode
from counterseal.runtime.config import AggregationConfig
from counterseal.runtime.replaying.replay import replay
from counterseal.runtime.server.rounds.state import RuleStates
from counterseal.runtime.server.start import start_run
from counterseal.runtime.site.site import Site
from counterseal.trust.canonical import parse
from counterseal.trust.dsse import read
from counterseal.trust.terms import PrivacyTerms

from ..federation import DirectTransport, Federation, run_config, trainer_of
from ..private import TERMS, private_run, private_site

AUDITOR = "auditor@fed.example"
RULES = ("iiadmm", "iceadmm")


def admm(rule: str = "iiadmm", **changes: Any) -> AggregationConfig:
    values: dict[str, Any] = {"rule": rule, "clip_norm": 50.0, "rho": 1.0, "zeta": 8.0}
    return AggregationConfig(**{**values, **changes})


def config_of(rounds: int = 3, rule: str = "iiadmm", **changes: Any) -> Any:
    aggregation = changes.pop("aggregation", None) or admm(rule)
    return run_config(rounds=rounds, aggregation=aggregation, **changes)


@dataclass
class World:
    """A federation whose states at both ends a test can read after every round."""

    federation: Federation
    config: Any
    sites: dict[str, Site] = field(default_factory=dict)
    pairs: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    """The server's pairs beside every version made, by site and plane: flat float32, or None."""
    reading: bool = True
    """Whether to read them; a server that lies may not be able to."""

    def pair_at_site(self, name: str) -> Any:
        """Return the site's current pair: what it would train its next round with."""
        memory, journal = self.sites[name]._memory, self.sites[name]._state.journal
        leaf = journal.get(f"run/{self.config.name}")
        start = peek_event(leaf["leaf"].encode())
        assert isinstance(start, RunStart)
        return memory.pair(start, self.schema.floats())

    @property
    def schema(self) -> Schema:
        return Schema.of(self.federation.first_parameters(self.config))

    def read(self, server: Any, version: int) -> None:
        """Read the server's state beside ``version``, through the run's key."""
        office, config = server._office, self.config
        file = start_run(office, config, self.federation.first_parameters(config), "")
        assert isinstance(file.rule, CohortRule)
        states = RuleStates(office, file, file.rule)
        found: dict[str, dict[str, Any]] = {}
        table = states.table(version)
        for plane in file.rule.state_planes:
            with ExitStack() as stack:
                rows = states.open(version, plane, stack)
                for site, row in zip(self.federation.sites, rows, strict=True):
                    values = None if row is None else np.frombuffer(row.read()[len(row.schema.header()) :], np.float32)
                    found.setdefault(site, {"rho": table.rho[site]})[plane] = values
        self.pairs.append(found)

    def play(self, meddle: Any = None, answers: Any = None, **changes: Any) -> tuple[Any, list[Event]]:
        transport = DirectTransport(self.sites, meddle=meddle, answers=answers, clock=self.federation.clock)
        with self.federation.server(transport, **changes) as server:
            result = server.run(self.config, self.federation.first_parameters(self.config))
            if result.versions and self.reading:
                self.read(server, result.versions)
            return result, [peek_event(server.log.entry(index)) for index in range(server.log.size)]

    def require_equal(self) -> None:
        """Every site's pair is the server's, bit for bit."""
        for name in self.federation.sites:
            kept, pair = self.pairs[-1][name], self.pair_at_site(name)
            if pair is None:
                assert kept["dual"] is None
                continue
            names = [spec.name for spec in self.schema.floats().tensors]
            for plane in ("dual",) if pair.primal is None else ("dual", "primal"):
                mine = np.concatenate([getattr(pair, plane)[one] for one in names])
                assert np.array_equal(mine.view(np.uint32), kept[plane].view(np.uint32)), (name, plane)
            assert pair.rho == kept["rho"]


@contextlib.contextmanager
def world(folder: Path, config: Any = None, count: int = 4, **changes: Any) -> Iterator[World]:
    federation = Federation.make(folder / "fed", count, **changes)
    found = World(federation, config or config_of())
    with ExitStack() as stack:
        for name in federation.sites:
            found.sites[name] = stack.enter_context(federation.site(name))
        yield found


def verified(federation: Federation) -> None:
    source = FolderSource(federation.log_folder)
    findings = verify(source, Trust(federation.charter, objects=source.objects()))
    assert [row.id for row in findings.rows if row.status is Status.FAIL] == []


def replayed(federation: Federation) -> list[Status]:
    source = FolderSource(federation.log_folder)
    found = replay(source, federation.charter, federation.store(), federation.keys[AUDITOR].opening)
    assert all(step.status is Status.PASS for step in found.steps), [step.reason for step in found.steps]
    return [step.status for step in found.steps]


@pytest.mark.parametrize("rule", RULES)
def test_both_ends_hold_the_same_pairs(tmp_path: Path, rule: str) -> None:
    with world(tmp_path, config_of(3, rule), auditor=True) as one:
        result, log = one.play()
        one.require_equal()
    assert (result.outcome, result.versions, result.witnessed) == ("completed", 3, True)
    states = [event.state for event in log if isinstance(event, AggregateCommit)]
    assert None not in states and len(set(states)) == 3
    verified(one.federation)
    assert len(replayed(one.federation)) == 3


def test_the_model_is_the_plain_formula(tmp_path: Path) -> None:
    """An independent oracle of two rounds, written from the papers' formulas, compared to the bit."""
    config = config_of(2, aggregation=admm(zeta=4.0, rho=2.0))
    with world(tmp_path, config, 3) as one:
        result, _ = one.play()
        found = {name: one.pair_at_site(name) for name in one.federation.sites}
    sites, weights = one.federation.sites, one.federation.charter.charter.weights
    w = one.federation.first_parameters(config)
    z = {name: {key: value.copy() for key, value in w.items()} for name in sites}
    dual = {name: {key: np.zeros_like(value) for key, value in w.items()} for name in sites}
    for version in range(2):
        for name in sites:
            scale = np.float32(weights[name] * 3 / sum(weights.values()))
            solver = _Plain(w, dual[name], scale)
            trained = trainer_of(config, name).train(w, seed=3, round_number=version, solver=solver).parameters
            for key in w:
                z[name][key] = w[key] + (trained[key] - w[key])
                dual[name][key] = dual[name][key] + np.float32(2) * (w[key] - z[name][key])
        w = {key: _minimiser(value, [(z[name][key], dual[name][key]) for name in sites]) for key, value in w.items()}
    for name in sites:
        for key in w:
            assert np.array_equal(found[name].dual[key], dual[name][key].reshape(-1))
    kept = (tmp_path / "fed" / sites[0] / "models" / "run-1.safetensors").read_bytes()
    assert result.outcome == "completed"
    assert all(np.array_equal(value, w[key]) for key, value in decode(Schema.of(w), kept).items())


@dataclass
class _Plain:
    """z <- w + (zeta (z - w) + l - c g) / (rho + zeta), with rho 2 and zeta 4."""

    parent: Mapping[str, Any]
    dual: Mapping[str, Any]
    scale: np.float32

    def step(self, name: str, values: Any, gradient: Any) -> None:
        w, dual, c = self.parent[name].reshape(-1), self.dual[name].reshape(-1), self.scale
        values[:] = w + ((values - w) * np.float32(4) + dual - gradient * c) / np.float32(6)


def _minimiser(w: Any, pairs: list[Any]) -> Any:
    total: Any = None
    for z, dual in pairs:
        term = (z - w) * np.float32(2) - dual
        total = term if total is None else total + term
    return w + total / np.float32(6)


@pytest.mark.parametrize("rule", RULES)
def test_clipped_updates_are_replayed_from_the_scaled_value(tmp_path: Path, rule: str) -> None:
    with world(tmp_path, config_of(2, aggregation=admm(rule, clip_norm=0.05)), 3, auditor=True) as one:
        one.play()
        one.require_equal()
    replayed(one.federation)


@pytest.mark.parametrize("rule", RULES)
def test_penalties_follow_the_released_values_at_both_ends(tmp_path: Path, rule: str) -> None:
    balanced = admm(rule, rho=0.05, balance_mu=1.5, balance_tau=2.0)
    with world(tmp_path, config_of(3, aggregation=balanced), 3, auditor=True) as one:
        one.play()
        one.require_equal()
        penalties = {one.pairs[-1][name]["rho"] for name in one.federation.sites}
        assert penalties != {float(np.float32(0.05))}
    replayed(one.federation)


def dropping(name: str, version: int, times: int = 1000) -> Any:
    """Return what drops the first ``times`` deliveries that order ``name`` to train from ``version``."""
    dropped: list[str] = []

    def meddle(site: str, delivery: bytes) -> bytes | None:
        order = parse(read(parse(delivery, limit=1 << 24)["ticket"].encode()).payload)
        if (site, order["kind"], order["version"]) != (name, "train", version) or len(dropped) == times:
            return delivery
        dropped.append(site)
        return None

    return meddle


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_absent_site_keeps_its_pair(tmp_path: Path, number: int) -> None:
    with world(tmp_path, config_of(3, minimum_sites=2), 3, auditor=True) as one:
        absent = one.federation.sites[1]
        result, log = one.play(meddle=dropping(absent, number))
        commits = [event for event in log if isinstance(event, AggregateCommit)]
        assert [absent in [item.site for item in commit.inputs] for commit in commits] == [
            version != number for version in range(3)
        ]
        one.require_equal()
    assert result.outcome == "completed"
    verified(one.federation)
    replayed(one.federation)


def test_a_site_that_never_took_part_has_no_pair(tmp_path: Path) -> None:
    with world(tmp_path, config_of(2, minimum_sites=2), 4, auditor=True) as one:
        absent = one.federation.sites[2]
        one.play(meddle=lambda site, delivery: None if site == absent else delivery)
        assert one.pairs[-1][absent]["dual"] is None
        assert one.sites[absent]._state.journal.get("memory/run-1") is None
    replayed(one.federation)


class Shouting:
    """A trainer whose update in one round is far beyond the bound."""

    def __init__(self, trainer: Any, version: int) -> None:
        self.trainer = trainer
        self.version = version
        self.device = trainer.device

    def initial_parameters(self, seed: int) -> Any:
        return self.trainer.initial_parameters(seed)

    def evaluate(self, parameters: Any, split: str = "test") -> Any:
        return self.trainer.evaluate(parameters, split)

    def train(self, parameters: Any, *, seed: int, round_number: int, solver: Any = None) -> Any:
        result = self.trainer.train(parameters, seed=seed, round_number=round_number, solver=solver)
        if round_number == self.version:
            for value in result.parameters.values():
                value += 1e4
        return result


@pytest.mark.parametrize("version", [0, 1])
def test_a_rejected_update_changes_no_pair(tmp_path: Path, version: int) -> None:
    federation = Federation.make(tmp_path / "fed", 3, auditor=True)
    loud = federation.sites[0]
    one = World(federation, config_of(3, minimum_sites=2))
    with ExitStack() as stack:
        for name in federation.sites:
            changes: dict[str, Any] = {}
            if name == loud:
                changes["trainers"] = lambda config: Shouting(trainer_of(config, loud), version)
            one.sites[name] = stack.enter_context(federation.site(name, **changes))
        _, log = one.play()
        assert [(event.site, event.version) for event in log if isinstance(event, UpdateReject)] == [(loud, version)]
        one.require_equal()
    verified(federation)
    replayed(federation)


def test_an_aborted_attempt_changes_no_pair(tmp_path: Path) -> None:
    """Two sites answer in an attempt that fails for want of the third: their updates were never counted."""
    with world(tmp_path, config_of(2, minimum_sites=3, retries=2, round_seconds=5), 3, auditor=True) as one:
        result, log = one.play(meddle=dropping(one.federation.sites[2], 1, 1))
        assert [event.type for event in log].count("round.abort") == 1
        assert [event.type for event in log].count("ticket.expire") == 3
        one.require_equal()
    assert result.outcome == "completed"
    replayed(one.federation)


# Privacy

OUTPUT = PrivacyTerms(
    mechanism="output-gaussian",
    unit="site",
    adjacency="any",
    clip_norm=0.5,
    noise_multiplier=5.0,
    delta=1e-6,
    releases=2,
)


@pytest.mark.parametrize(
    ("rule", "mechanism"), [("iiadmm", "output-gaussian"), ("iiadmm", "dp-sgd"), ("iceadmm", "dp-sgd")]
)
def test_both_ends_replay_from_the_noisy_value(tmp_path: Path, rule: str, mechanism: str) -> None:
    terms = OUTPUT if mechanism != "dp-sgd" else TERMS
    config = private_run(terms, aggregation=admm(rule, rho=4.0), rounds=2, minimum_sites=3)
    federation = Federation.make(tmp_path / "fed", 3, auditor=True)
    one = World(federation, config)
    with ExitStack() as stack:
        for name in federation.sites:
            one.sites[name] = stack.enter_context(private_site(federation, name))
        result, log = one.play()
        one.require_equal()
    assert result.outcome == "completed", [event.reason for event in log if isinstance(event, ReceiptFile)]
    replayed(federation)


# Crashes


class Struck(BaseException):
    """The process dies here: no handler of ours catches it."""


@dataclass
class Strike:
    """A probe that counts the steps and dies at one of them."""

    at: int = -1
    steps: list[str] = field(default_factory=list)

    def __call__(self, step: str) -> None:
        self.steps.append(step)
        if len(self.steps) - 1 == self.at:
            raise Struck(step)


def undisturbed(folder: Path, config: Any) -> tuple[str, Strike, Strike]:
    """Play without a crash; return the model, and what the server and the first site announced."""
    federation = Federation.make(folder / "fed", 3)
    at_server, at_site, one = Strike(), Strike(), World(federation, config)
    with ExitStack() as stack:
        for number, name in enumerate(federation.sites):
            changes = {"probe": at_site} if number == 0 else {}
            one.sites[name] = stack.enter_context(federation.site(name, **changes))
        result, _ = one.play(probe=at_server)
    return result.model, at_server, at_site


def commit_window(steps: list[str]) -> range:
    """Return the points of the first commit: from its first sealed byte to the next model's."""
    sealed = [index for index, step in enumerate(steps) if step == "blob.write"]
    return range(sealed[1], sealed[8])  # version 0; model and six rows of version 1; then version 2


def test_a_server_that_dies_in_a_commit_goes_on_with_the_same_states(tmp_path: Path) -> None:
    """A few points of the commit; the crash matrix has all of them."""
    config = config_of(2)
    model, steps, _ = undisturbed(tmp_path / "calm", config)
    for at in commit_window(steps.steps)[7::40]:
        with world(tmp_path / str(at), config, 3) as one:
            with contextlib.suppress(Struck):
                one.play(probe=Strike(at))
            result, _ = one.play()
            one.require_equal()
        assert (result.outcome, result.model) == ("completed", model), (at, steps.steps[at])
        assert list((tmp_path / str(at) / "fed" / "server" / "spool").iterdir()) == []


class Mortal:
    """A site that may die at a point, and is opened again and given the delivery once more."""

    def __init__(self, federation: Federation, name: str, strike: Strike) -> None:
        self._open: Callable[[Any], Site] = lambda probe: federation.site(name, probe=probe)
        self.site = self._open(strike)

    def handle(self, delivery: bytes) -> bytes:
        try:
            return self.site.handle(delivery)
        except Struck:
            self.site.close()
            self.site = self._open(lambda step: None)
            return self.site.handle(delivery)


def test_a_site_that_dies_anywhere_goes_on_with_the_same_pair(tmp_path: Path) -> None:
    """A few points; the crash matrix has all of them."""
    config = config_of(2)
    model, _, steps = undisturbed(tmp_path / "calm", config)
    for at in range(12, len(steps.steps), 27):
        federation = Federation.make(tmp_path / str(at) / "fed", 3)
        one = World(federation, config)
        with ExitStack() as stack:
            mortal = Mortal(federation, federation.sites[0], Strike(at))
            one.sites[federation.sites[0]] = mortal  # type: ignore[assignment]
            for name in federation.sites[1:]:
                one.sites[name] = stack.enter_context(federation.site(name))
            result, _ = one.play()
            one.sites[federation.sites[0]] = mortal.site
            stack.callback(mortal.site.close)
            one.require_equal()
            named = {path.suffix for path in (federation.folder / federation.sites[0] / "memory").iterdir()}
        assert (result.outcome, result.model, named) == ("completed", model, {".state"}), (at, steps.steps[at])


def test_a_site_is_opened_anew_for_every_delivery(tmp_path: Path) -> None:
    class Forgetful:
        def __init__(self, federation: Federation, name: str) -> None:
            self._open: Callable[[], Site] = lambda: federation.site(name)

        def handle(self, delivery: bytes) -> bytes:
            with self._open() as site:
                return site.handle(delivery)

    config = config_of(3)
    model, _, _ = undisturbed(tmp_path / "calm", config)
    federation = Federation.make(tmp_path / "fed", 3)
    one = World(federation, config, {name: Forgetful(federation, name) for name in federation.sites})  # type: ignore[misc]
    result, _ = one.play()
    assert result.model == model


# Lost memory


@pytest.mark.parametrize("what", ["state", "pending"])
def test_a_site_that_lost_its_memory_trains_no_more(tmp_path: Path, what: str) -> None:
    with world(tmp_path, config_of(3, minimum_sites=2), 3) as one:
        name = one.federation.sites[0]
        folder = one.federation.folder / name / "memory"
        faults: list[bytes] = []

        def answers(site: str, answer: bytes) -> bytes:
            found = sorted(folder.glob(f"*.{what}"))
            if site == name and found and not faults:
                found[0].unlink()
            if site == name and b"lost_state" in answer:
                faults.append(answer)
            return answer

        result, log = one.play(answers=answers)
        commits = [event for event in log if isinstance(event, AggregateCommit)]
        taken = [name in [item.site for item in commit.inputs] for commit in commits]
    assert faults and result.outcome == "completed"
    assert taken == ([True, True, False] if what == "state" else [True, False, False])


def test_nothing_of_a_memory_is_in_the_clear(tmp_path: Path) -> None:
    with world(tmp_path, config_of(2), 3) as one:
        one.play()
        name = one.federation.sites[0]
        pair = one.pair_at_site(name)
        needle = pair.dual["linear.weight"][:4].tobytes()
        for path in (p for p in one.federation.folder.rglob("*") if p.is_file()):
            assert needle not in path.read_bytes(), path
        assert (one.federation.folder / name / "memory").stat().st_mode & 0o777 == 0o700


def test_receipts_of_admm_say_as_much_as_others(tmp_path: Path) -> None:
    with world(tmp_path, config_of(1), 3) as one:
        _, log = one.play()
    assert all(event.outcome == "done" for event in log if isinstance(event, ReceiptFile))
