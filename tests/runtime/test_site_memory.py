"""The site's half of ADMM between two rounds: pending until the log settles it, then replayed from what was released."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from counterseal.algorithms.arithmetic import narrow, widen
from counterseal.algorithms.rule import make_rule
from counterseal.algorithms.statistics import Admission
from counterseal.parameters import Schema, decode, encode
from counterseal.runtime.errors import LostStateError, StoreUnavailableError, TrainingFailedError
from counterseal.runtime.journal import Journal
from counterseal.runtime.parties import Parties
from counterseal.runtime.planes import update_schema
from counterseal.runtime.site.local_round import LocalRound
from counterseal.runtime.site.memory import SiteMemory
from counterseal.runtime.site.settlement import Settlement
from counterseal.runtime.site.work import update_bytes
from counterseal.runtime.stores.tree import FileSource
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.validity import KeyHistory

from ..federation import Federation

PARAMETERS = {"rho": 2.0, "zeta": 1.0, "clip_norm": 100.0}
RULES = ("iiadmm", "iceadmm")
FATES = ("rejected", "expired", "late", "unused", "excluded", "noted")


def model(seed: int = 0) -> dict[str, Any]:
    """Three dtypes, a buffer that is no float, a scalar and an empty tensor."""
    generator = np.random.default_rng(seed)
    half = np.empty(300, np.uint16)
    narrow(generator.normal(size=300).astype(np.float32), "BF16", half)
    return {
        "a.brain": half.reshape(30, 10),
        "b.counter": np.array([3], np.int64),
        "c.float": generator.normal(size=(7, 3)).astype(np.float32),
        "d.half": generator.normal(size=5).astype(np.float16),
        "e.none": np.zeros((0, 4), np.float32),
        "f.scalar": np.float32(generator.normal()).reshape(()),
    }


def wide(schema: Schema, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for spec in schema.tensors:
        found[spec.name] = np.empty(spec.size, np.float32)
        widen(np.ascontiguousarray(values[prefix + spec.name]).reshape(-1), spec.dtype, found[spec.name])
    return found


def measured(schema: Schema, sent: bytes) -> Any:
    """Return the statistics that the server will have of these bytes."""
    admission = Admission([spec.size for spec in schema.tensors])
    for values in wide(schema, decode(schema, sent)).values():
        admission.feed(values)
    return admission.result()


def start(rule: str = "iiadmm", **changes: Any) -> Any:
    parameters = {} if rule == "fedavg" else {**PARAMETERS, **changes}
    return SimpleNamespace(run="run-1", rule=rule, parameters=parameters)


def ticket(number: int, version: int = 0) -> Any:
    return SimpleNamespace(digest=f"{number:064x}", document=SimpleNamespace(run="run-1", version=version))


@dataclass
class Bench:
    """A memory in a folder of its own, and a way to play a round with it."""

    federation: Federation
    folder: Path
    journal: Journal
    keys: MemberKeys
    memory: SiteMemory = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        charter, name = self.federation.charter, self.federation.sites[0]
        history = KeyHistory.from_charter(charter.charter.federation, charter.statements.values())
        parties = Parties(charter, history)
        self.memory = SiteMemory(self.folder, self.journal, name, parties, self.keys, self.federation.clock)

    def train(self, run: Any, number: int, w: Mapping[str, Any], *, keep: bool = True) -> tuple[LocalRound, bytes]:
        """Play a round with gradients that follow from the ticket's number; return it and the plaintext that is sent."""
        schema = Schema.of(dict(w))
        local = self.memory.begin(run, ticket(number), schema, w)
        assert local is not None
        after = dict(w)
        for spec in local.schema.tensors:
            values = wide(local.schema, w)[spec.name]
            for _ in range(2):
                gradient = np.random.default_rng(number).normal(size=spec.size).astype(np.float32)
                local.solver.step(spec.name, values, gradient)
            stored = values if spec.dtype == "F32" else np.empty(spec.size, spec.numpy_dtype)
            if spec.dtype != "F32":
                narrow(values, spec.dtype, stored)
            after[spec.name] = stored.reshape(spec.shape)
        local.require_stepped(after)
        admission = Admission([spec.size for spec in local.updates.tensors])
        sent = b"".join(
            bytes(chunk) for chunk in local.sent(update_bytes(local.schema, after, w, admission), admission)
        )
        assert admission.result() == measured(local.updates, sent)
        if keep:
            self.memory.keep(local)
        return local, sent

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation.make(tmp_path_factory.mktemp("memory") / "fed", 3)


@pytest.fixture
def bench(federation: Federation, tmp_path: Path) -> Iterator[Bench]:
    journal = Journal(tmp_path / "site.sqlite")
    with contextlib.closing(journal):
        yield Bench(federation, tmp_path / "memory", journal, federation.keys[federation.sites[0]])


def used(number: int, coefficient: float = 1.0) -> Settlement:
    return Settlement(ticket(number).digest, "used", coefficient=coefficient)


def by_hand(rule: str, schema: Schema, w: Any, sent: bytes, dual: Any, coefficient: float) -> dict[str, Any]:
    """The dual of the papers, in float32, from what was sent."""
    planes = make_rule(rule, PARAMETERS).planes
    found = decode(update_schema(planes, schema), sent)
    prefix = "" if len(planes) == 1 else "delta/"
    parent, delta = wide(schema.floats(), w), wide(schema.floats(), found, prefix)
    a, rho, after = np.float32(coefficient), np.float32(2), {}
    for name, old in dual.items():
        if rule == "iiadmm":
            after[name] = old + rho * (parent[name] - (parent[name] + a * delta[name]))
        else:
            after[name] = old + rho * (a * wide(schema.floats(), found, "dual/")[name])
    return after


@pytest.mark.parametrize("coefficient", [1.0, float(np.float32(0.3))])
@pytest.mark.parametrize("rule", RULES)
def test_the_pair_follows_from_what_was_released(bench: Bench, rule: str, coefficient: float) -> None:
    run, dual = (
        start(rule),
        {name: np.zeros_like(one) for name, one in wide(Schema.of(model()).floats(), model()).items()},
    )
    for number in (1, 2, 3):
        w = model(number)
        local, sent = bench.train(run, number, w)
        assert all(np.array_equal(local.dual[name], dual[name]) for name in dual)
        bench.memory.settle(run, used(number, coefficient))
        dual = by_hand(rule, Schema.of(w), w, sent, dual, coefficient)
        bench.memory.rest()
        pair = bench.memory.pair(run, local.schema)
        assert pair is not None and pair.primal is None and pair.rho == 2.0
        assert all(np.array_equal(pair.dual[name], dual[name]) for name in dual)
        assert bench.names() == {f"{ticket(number).digest}.state"}


def test_what_is_sent_is_what_the_schema_says(bench: Bench) -> None:
    w = model(1)
    _, sent = bench.train(start("iceadmm"), 1, w)
    found = decode(update_schema(("delta", "dual"), Schema.of(w)), sent)
    assert sorted(found)[:2] == ["delta/a.brain", "delta/c.float"] and len(found) == 10
    assert found["dual/a.brain"].dtype == np.uint16 and found["dual/c.float"].any()


def test_the_primal_is_kept_where_penalties_adapt(bench: Bench) -> None:
    run, w = start(balance_mu=1.5, balance_tau=2.0, rho_min=0.5), model(1)
    local, sent = bench.train(run, 1, w)
    bench.memory.settle(run, used(1))
    bench.memory.rest()
    pair = bench.memory.pair(run, local.schema)
    delta = wide(local.schema, decode(local.schema, sent))
    assert pair is not None and pair.primal is not None
    assert all(np.array_equal(pair.primal[name], wide(local.schema, w)[name] + delta[name]) for name in delta)
    assert pair.rho == 1.0  # the first movement is the residual: s = rho r > mu r


@pytest.mark.parametrize("fate", FATES)
def test_any_other_fate_drops_what_was_pending(bench: Bench, fate: str) -> None:
    run = start()
    bench.train(run, 1, model(1))
    bench.memory.settle(run, used(1))
    before = bench.memory.pair(run, Schema.of(model()).floats())
    bench.memory.rest()
    bench.train(run, 2, model(2))
    assert len(bench.names()) == 2
    bench.memory.settle(run, Settlement(ticket(2).digest, fate))
    after = bench.memory.pair(run, Schema.of(model()).floats())
    assert before is not None and after is not None and after.ticket == ticket(1).digest
    assert all(np.array_equal(after.dual[name], before.dual[name]) for name in before.dual)
    assert bench.names() == {f"{ticket(1).digest}.state"} and not list(bench.journal.items("memory-pending/"))


def test_the_same_settlement_again_changes_nothing(bench: Bench) -> None:
    run = start()
    bench.train(run, 1, model(1))
    bench.memory.settle(run, used(1))
    before = bench.journal.get("memory/run-1")
    bench.memory.settle(run, used(1))
    bench.open()
    bench.memory.settle(run, used(1))
    assert bench.journal.get("memory/run-1") == before


def test_work_that_is_done_again_replaces_what_was_pending(bench: Bench) -> None:
    run = start()
    bench.train(run, 1, model(1))
    _, sent = bench.train(run, 1, model(2))
    bench.memory.settle(run, used(1))
    pair, w = bench.memory.pair(run, Schema.of(model()).floats()), model(2)
    zeros = {name: np.zeros_like(one) for name, one in wide(Schema.of(w).floats(), w).items()}
    expected = by_hand("iiadmm", Schema.of(w), w, sent, zeros, 1.0)
    assert pair is not None and all(np.array_equal(pair.dual[name], expected[name]) for name in expected)


def test_a_rule_without_a_half_at_the_site_leaves_no_trace(bench: Bench) -> None:
    run, w = start("fedavg"), model()
    assert bench.memory.begin(run, ticket(1), Schema.of(w), w) is None
    bench.memory.settle(run, used(1))
    bench.memory.require(run)
    assert bench.names() == set() and bench.memory.pair(run, Schema.of(w).floats()) is None


def test_what_no_journal_entry_names_is_removed(bench: Bench) -> None:
    run = start()
    bench.train(run, 1, model(1))
    bench.memory.settle(run, used(1))
    bench.train(run, 2, model(2))
    named = bench.names()
    (bench.folder / f"{ticket(9).digest}.state").write_bytes(b"x")
    (bench.folder / f".{ticket(9).digest}.pending.12.0123abcd.draft").write_bytes(b"x")
    bench.open()
    assert bench.names() == named and len(named) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in bench.folder.iterdir()} == {0o600}


# Lost


def test_a_used_update_that_is_not_pending_loses_the_pair_for_good(bench: Bench) -> None:
    run = start()
    bench.train(run, 1, model(1), keep=False)
    bench.memory.settle(run, used(1))
    refused(bench, run)
    bench.memory.settle(run, used(2))
    refused(bench, run)


def refused(bench: Bench, run: Any) -> None:
    bench.memory.rest()
    with pytest.raises(LostStateError, match="lost"):
        bench.memory.begin(run, ticket(5), Schema.of(model()), model())


DAMAGE: dict[str, Any] = {
    "gone": lambda path: path.unlink(),
    "a bit changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", ["state", "pending"])
def test_a_damaged_file_loses_the_pair(bench: Bench, which: str, damage: str) -> None:
    run = start()
    bench.train(run, 1, model(1))
    if which == "state":
        bench.memory.settle(run, used(1))
    (path,) = bench.folder.iterdir()
    path.chmod(0o600)
    DAMAGE[damage](path)
    if which == "pending":
        bench.memory.settle(run, used(1))
    refused(bench, run)
    if damage == "gone":
        with pytest.raises(LostStateError):
            bench.memory.require(run)


def test_other_keys_do_not_open_it(bench: Bench) -> None:
    run = start()
    bench.train(run, 1, model(1))
    bench.memory.settle(run, used(1))
    bench.keys = MemberKeys.generate()
    bench.open()
    refused(bench, run)


def test_a_disk_that_does_not_answer_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start()
    bench.train(run, 1, model(1))

    def fail(*arguments: Any) -> Any:
        raise StoreUnavailableError("the file system failed")

    with monkeypatch.context() as inner, pytest.raises(StoreUnavailableError):
        inner.setattr(FileSource, "read_into", fail)
        bench.memory.settle(run, used(1))
    assert bench.journal.get("memory/run-1") is None
    bench.memory.settle(run, used(1))
    assert bench.memory.pair(run, Schema.of(model()).floats()) is not None


def test_running_statistics_are_refused(bench: Bench) -> None:
    w = model(1)
    local = bench.memory.begin(start(), ticket(1), Schema.of(w), w)
    assert local is not None
    local.require_stepped(w)
    with pytest.raises(TrainingFailedError, match="without the solver"):
        local.require_stepped({**w, "c.float": w["c.float"] + 1})
    values = w["c.float"].reshape(-1).copy()
    local.solver.step("c.float", values, np.ones_like(values))
    local.require_stepped({**w, "c.float": values.reshape(7, 3)})


def test_the_centre_of_output_perturbation_is_released(bench: Bench) -> None:
    """w + l / rho: with zeta 0 a local step ends within C / rho of it, whatever the data."""
    run = start(zeta=0.0)
    bench.train(run, 1, model(1))
    bench.memory.settle(run, used(1))
    w = {name: value for name, value in model(2).items() if name == "c.float"}
    bench.journal.remove("memory/run-1")
    local = bench.memory.begin(run, ticket(2), Schema.of(w), w)
    assert local is not None
    flat = w["c.float"].reshape(-1)
    assert np.array_equal(local.centre(flat), flat)
    local.dual = {"c.float": np.full(21, 3.0, np.float32)}
    assert np.array_equal(local.centre(flat), flat + np.float32(1.5))


def test_nothing_of_it_is_in_the_clear(bench: Bench) -> None:
    run, w = start(), {"c.float": np.arange(1000, dtype=np.float32)}
    bench.train(run, 1, w)
    data = b"".join(encode(Schema.of(w), w))
    assert all(data[-64:] not in path.read_bytes() for path in bench.folder.iterdir())
    bench.memory.settle(run, used(1))
    pair = bench.memory.pair(run, Schema.of(w))
    assert pair is not None
    needle = pair.dual["c.float"][-16:].tobytes()
    assert all(needle not in path.read_bytes() for path in bench.folder.iterdir())
