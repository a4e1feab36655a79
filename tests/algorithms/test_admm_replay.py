"""The arithmetic of a round of ADMM against exact fractions, whatever the blocks; and every input that is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.algorithms.arithmetic import new_scratch
from counterseal.algorithms.cohort import Balance, Tally
from counterseal.algorithms.errors import AlgorithmError, NonFiniteError, OrderError, RuleError, ShapeError
from counterseal.algorithms.rule import Cohort, CohortRule, Workspace, make_rule

from .admm_oracle import Element, round_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "arithmetic" / "admm.json").read_text())
RULES = ("iiadmm", "iceadmm")

Float32 = npt.NDArray[np.float32]


def rule_of(name: str, **more: float) -> CohortRule:
    rule = make_rule(name, {"rho": 1.0, "clip_norm": 10.0, **more})
    assert isinstance(rule, CohortRule)
    return rule


def bits(values: Any) -> list[str]:
    return np.asarray(values, ">f4").tobytes().hex(" ", 4).split()


def floats(text: list[str]) -> Float32:
    return np.array([int(one, 16) for one in text], dtype=np.uint32).view(np.float32)


@pytest.mark.parametrize("case", VECTORS["rounds"], ids=lambda case: case["name"])
def test_vectors_of_a_round(case: dict[str, Any]) -> None:
    cohort = Cohort(tuple("abcdef"[: len(case["rho"])]), tuple(case["rows"]), tuple(floats(case["rho"]).tolist()))
    planes: Any = {name: [floats(row) for row in rows] for name, rows in case["planes"].items()}
    state = {name: [floats(row) for row in rows] for name, rows in case["state"].items()}
    parent, coeff = floats(case["parent"]), floats(case["coeff"])
    out, after = rule_of(case["rule"]).combine(planes, coeff, parent, state, cohort=cohort)
    assert bits(out) == case["out"]
    assert {name: [bits(row) for row in rows] for name, rows in after.items()} == case["next"]
    for wrong in case.get("not", {}).values():
        assert wrong != case["out"]


@pytest.mark.parametrize("case", VECTORS["balance"], ids=lambda case: case["name"])
def test_vectors_of_balancing(case: dict[str, Any]) -> None:
    tally = Tally((0,))
    tally.add_residual(0, floats(case["residual"]))
    tally.add_movement(0, floats(case["movement"]))
    found = [tally.residual[0], tally.movement[0]]
    assert [np.asarray(one, ">f8").tobytes().hex() for one in found] == case["sums"]
    assert case["sums"] not in case.get("not", {}).values()
    bounds = [case["parameters"][name] for name in ("balance_mu", "balance_tau", "rho_min", "rho_max")]
    assert bits(Balance(*bounds).after(floats([case["rho"]]).tolist(), tally)) == [case["next"]]


some = st.one_of(
    st.floats(-1e6, 1e6, width=32),
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, 1 + 2.0**-23, float(np.float32(0.1))]),
)
positive = st.floats(2.0**-10, 2.0**10, width=32)


@given(st.sampled_from(RULES), st.integers(1, 5), st.data())
@settings(max_examples=250, deadline=None, derandomize=True)
def test_every_element_is_what_exact_rounding_says(name: str, m: int, data: st.DataObject) -> None:
    def draw(count: int, values: Any = some) -> list[float]:
        return data.draw(st.lists(values, min_size=count, max_size=count))

    rows = sorted(data.draw(st.sets(st.integers(0, m - 1), min_size=1)))
    share = st.floats(2.0**-20, 1.0, width=32)
    coeff, delta, gained = draw(len(rows), share), draw(len(rows)), draw(len(rows))
    parent = draw(1)[0]
    pair = {"dual": draw(m), "primal": draw(m)}
    rho = draw(m, positive)
    element = Element(
        name,
        parent,
        pair["dual"],
        pair["primal"],
        rho,
        dict(zip(rows, coeff, strict=True)),
        dict(zip(rows, delta, strict=True)),
        dict(zip(rows, gained, strict=True)),
    )
    wanted, dual, primal = round_of(element)

    def block(values: list[float]) -> list[Float32]:
        return [np.array([value], np.float32) for value in values]

    cohort = Cohort(tuple("abcde"[:m]), tuple(rows), tuple(rho))
    planes: Any = {"delta": block(delta), "dual": block(gained)}
    out, after = rule_of(name).combine(
        planes,
        np.array(coeff, np.float32),
        block([parent])[0],
        {half: block(values) for half, values in pair.items()},
        cohort=cohort,
    )
    assert bits(out) == bits([wanted])
    assert [bits(row) for row in after["dual"]] == [bits([dual[one]]) for one in rows]
    assert [bits(row) for row in after["primal"]] == [bits([primal[one]]) for one in rows]


def some_round(seed: int, elements: int, m: int = 4) -> tuple[Any, ...]:
    random = np.random.default_rng(seed)

    def block(rows: int, scale: float = 1.0) -> list[Float32]:
        spread = scale * 10.0 ** random.integers(-6, 2, (rows, elements))
        return list((random.standard_normal((rows, elements)) * spread).astype(np.float32))

    rows = tuple(sorted(random.choice(m, size=random.integers(1, m + 1), replace=False).tolist()))
    rho = tuple(random.random(m).astype(np.float32).tolist())
    cohort = Cohort(tuple("abcdef"[:m]), rows, rho)
    planes = {"delta": block(len(rows)), "dual": block(len(rows))}
    coeff = random.random(len(rows)).astype(np.float32)
    return planes, coeff, block(1)[0], {"dual": block(m), "primal": block(m)}, cohort


@given(st.sampled_from(RULES), st.integers(0, 400), st.integers(1, 401), st.integers(1, 401), st.integers(0, 99))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_blocks_and_scratch_change_no_bit(name: str, elements: int, block: int, scratch: int, seed: int) -> None:
    rule = rule_of(name, balance_mu=1.5, balance_tau=2.0)
    planes, coeff, parent, state, cohort = some_round(seed, elements)
    tally, pieces = Tally(cohort.rows), Tally(cohort.rows)
    whole, after = rule.combine(planes, coeff, parent, state, cohort=cohort, tally=tally)
    space = Workspace(np.empty(block, np.float32), new_scratch(scratch))
    for start in range(0, elements, block):
        part = slice(start, min(start + block, elements))
        out, new = rule.combine(
            {plane: [row[part] for row in rows] for plane, rows in planes.items()},
            coeff,
            parent[part],
            {half: [row[part] for row in rows] for half, rows in state.items()},
            cohort=cohort,
            tally=pieces,
            workspace=space,
        )
        assert bits(out) == bits(whole[part])
        for half in ("dual", "primal"):
            assert [bits(row) for row in new[half]] == [bits(row[part]) for row in after[half]]
    assert (pieces.residual, pieces.movement) == (tally.residual, tally.movement)
    assert rule.adapt(cohort.rho, pieces) == rule.adapt(cohort.rho, tally)


def test_the_sums_are_strictly_sequential() -> None:
    values = (np.random.default_rng(1).standard_normal(200_000) * 1e3).astype(np.float32)
    tally, total = Tally((3,)), 0.0
    for start in range(0, values.size, 70_001):
        tally.add_residual(0, values[start : start + 70_001])
    for value in values.tolist():
        total += value * value
    assert tally.residual == [total] and total != float((values.astype(np.float64) ** 2).sum())
    # a square of a subnormal and one near overflow are exact
    tally.add_movement(0, np.array([2.0**-149], np.float32))
    assert tally.movement == [2.0**-298]
    tally.add_movement(0, np.array([2.0**127], np.float32))
    assert tally.movement == [2.0**254]


@pytest.mark.parametrize("name", RULES)
def test_the_site_replays_what_the_server_combined(name: str) -> None:
    rule = rule_of(name)
    planes, coeff, parent, state, cohort = some_round(5, 300)
    _, after = rule.combine(planes, coeff, parent, state, cohort=cohort)
    for place, row in enumerate(cohort.rows):
        sent = {plane: rows[place] for plane, rows in planes.items()}
        before = {half: rows[row] for half, rows in state.items()}
        mine = rule.replay(sent, float(coeff[place]), parent, before, cohort.rho[row])
        assert all(bits(mine[half]) == bits(after[half][place]) for half in ("dual", "primal"))


@pytest.mark.parametrize("name", RULES)
def test_a_member_that_was_never_heard_is_at_rest(name: str) -> None:
    parent = np.array([1.5, -0.25], np.float32)
    start = rule_of(name).initial_state(parent)
    assert start["dual"].tolist() == [0, 0] and start["primal"].tolist() == parent.tolist()
    # alone with one whose update is zero, it leaves the model where it is
    zero = np.zeros(2, np.float32)
    planes: Any = {"delta": [zero], "dual": [zero]}
    state = {half: [start[half], start[half]] for half in start}
    one = np.ones(1, np.float32)
    out, _ = rule_of(name).combine(planes, one, parent, state, cohort=Cohort(("a", "b"), (1,), (1.0, 1.0)))
    assert out.tolist() == parent.tolist()


@pytest.mark.parametrize(
    ("members", "rows", "rho", "error"),
    [
        (("b", "a"), (0,), (1.0, 1.0), OrderError),
        (("a", "a"), (0,), (1.0, 1.0), OrderError),
        (("a", "b"), (1, 0), (1.0, 1.0), OrderError),
        (("a", "b"), (0, 0), (1.0, 1.0), OrderError),
        (("a", "b"), (), (1.0, 1.0), ShapeError),
        (("a", "b"), (2,), (1.0, 1.0), ShapeError),
        (("a", "b"), (-1,), (1.0, 1.0), ShapeError),
        (("a", "b"), (0,), (1.0,), ShapeError),
        (("a", "b"), (0,), (1.0, 0.1), RuleError),
        (("a", "b"), (0,), (1.0, 0.0), RuleError),
        (("a", "b"), (0,), (1.0, math.inf), RuleError),
        (("a", "b"), (0,), (1.0, math.nan), RuleError),
    ],
)
def test_cohorts_that_cannot_be(
    members: tuple[str, ...], rows: tuple[int, ...], rho: tuple[float, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Cohort(members, rows, rho)


def test_a_cohort_from_names() -> None:
    found = Cohort.of(("a", "b", "c"), ("a", "c"), {"a": 1.0, "b": 2.0, "c": 0.5})
    assert found == Cohort(("a", "b", "c"), (0, 2), (1.0, 2.0, 0.5))
    for present, rho in ((("z",), {"a": 1.0}), (("a",), {})):
        with pytest.raises(ShapeError):
            Cohort.of(("a",), present, rho)
    with pytest.raises(OrderError):
        Cohort.of(("a", "b"), ("b", "a"), {"a": 1.0, "b": 1.0})


BROKEN: dict[str, tuple[type[AlgorithmError], Any]] = {
    "no cohort": (ShapeError, lambda a: a.update(cohort=None)),
    "no delta": (ShapeError, lambda a: a["planes"].pop("delta")),
    "a row of delta too few": (ShapeError, lambda a: a["planes"].update(delta=a["planes"]["delta"][:1])),
    "a short row": (ShapeError, lambda a: a["planes"]["delta"].__setitem__(0, np.zeros(2, np.float32))),
    "a row of float64": (ShapeError, lambda a: a["planes"]["delta"].__setitem__(0, np.zeros(3))),
    "no dual in the state": (ShapeError, lambda a: a["state"].pop("dual")),
    "a row of state too few": (ShapeError, lambda a: a["state"].update(primal=a["state"]["primal"][:1])),
    "an absent member's short row": (ShapeError, lambda a: a["state"]["dual"].__setitem__(1, np.zeros(2, np.float32))),
    "a coefficient too many": (ShapeError, lambda a: a.update(coeff=np.ones(3, np.float32))),
    "coefficients of float64": (ShapeError, lambda a: a.update(coeff=np.ones(2))),
    "a parent of two dimensions": (ShapeError, lambda a: a.update(parent=np.zeros((1, 3), np.float32))),
    "a parent in the workspace": (ShapeError, lambda a: a.update(parent=a["workspace"].out[:3])),
    "state in the workspace": (ShapeError, lambda a: a["state"]["primal"].__setitem__(0, a["workspace"].row(0, 3))),
    "a NaN sent": (NonFiniteError, lambda a: a["planes"]["delta"][0].fill(np.nan)),
    "an overflowing dual": (NonFiniteError, lambda a: a["state"]["dual"][0].fill(3.4e38)),
    "an absent member's infinity": (NonFiniteError, lambda a: a["state"]["dual"][1].fill(np.inf)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_round_that_cannot_be_combined(what: str) -> None:
    error, breaking = BROKEN[what]

    def block(rows: int) -> list[Float32]:
        return [np.full(3, -1e34, np.float32) for _ in range(rows)]

    arguments: dict[str, Any] = {
        "planes": {"delta": block(2)},
        "coeff": np.ones(2, np.float32),
        "parent": np.zeros(3, np.float32),
        "state": {"dual": block(3), "primal": block(3)},
        "cohort": Cohort(("a", "b", "c"), (0, 2), (1000.0, 1000.0, 1000.0)),
        "workspace": Workspace.of(8),
    }
    rule_of("iiadmm").combine(**arguments)  # sound before it is broken
    breaking(arguments)
    with pytest.raises(error):
        rule_of("iiadmm").combine(**arguments)


def test_balancing_without_a_tally_is_refused() -> None:
    planes, coeff, parent, state, cohort = some_round(1, 5)
    rule = rule_of("iiadmm", balance_mu=2.0, balance_tau=2.0)
    with pytest.raises(RuleError, match="tally"):
        rule.combine(planes, coeff, parent, state, cohort=cohort)
