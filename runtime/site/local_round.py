"""One round of an algorithm with a half at the site (ADMM): the solver that trains, what is sent, and the pair that follows.

    begin (`memory.SiteMemory`) -> LocalRound: train with `solver`, send `sent`, keep `released`
    the commit counts it        -> next_pair: the pair from what was released, by the code that the server runs

What is measured and kept is what is sent, rounded to the tensors' dtypes: nothing that a site computed before its release can
enter the next round.

Not handled here: files, keys and the log (`memory`); the formulas (`algorithms.consensus`); clipping and noise (`releases`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...algorithms.arithmetic import Float32, narrow, widen
from ...algorithms.cohort import Tally
from ...algorithms.rule import CohortRule, Solver, Workspace, make_rule
from ...algorithms.statistics import Admission
from ...audit.events import RunStart
from ...parameters import Plane, Schema, TensorSpec, encode
from ...trust.documents import Signed
from ...trust.tickets import Ticket
from ..errors import TrainingFailedError
from ..planes import row_schema, update_schema
from ..training.seam import Array

__all__ = ["LocalRound", "Pair", "next_pair", "pending_schema", "rule_of", "state_schema", "wide"]

_BLOCK = 1 << 18


def rule_of(run: RunStart) -> CohortRule | None:
    """Return the run's rule if it has a half at the site."""
    rule = make_rule(run.rule, run.parameters)
    return rule if isinstance(rule, CohortRule) else None


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Dual and primal by tensor, flat float32, as both ends have them, and the penalty of the next round."""

    ticket: str
    """Whose update made it."""
    dual: Mapping[str, Float32]
    primal: Mapping[str, Float32] | None
    """None where penalties do not adapt."""
    rho: float

    @classmethod
    def of(cls, rule: CohortRule, schema: Schema, found: Mapping[str, Array], ticket: str, rho: float) -> Pair:
        """Return the pair in ``found``, tensors of `state_schema`."""
        planes = {
            plane: {spec.name: found[f"{plane}/{spec.name}"].reshape(-1) for spec in schema.tensors}
            for plane in _kept(rule)
        }
        return cls(ticket, planes["dual"], planes.get("primal"), rho)


@dataclass(eq=False)
class LocalRound:
    """One round at the site: the solver that trains, and what is sent, as it is sent."""

    rule: CohortRule
    ticket: Signed[Ticket]
    schema: Schema
    """The floating tensors of the model."""
    parameters: Mapping[str, Array]
    dual: Mapping[str, Float32]
    rho: float
    solver: Solver
    _sent: list[bytes] = field(default_factory=list)

    @property
    def updates(self) -> Schema:
        """The schema of what is sent."""
        return update_schema(self.rule.planes, self.schema)

    def centre(self, parent: Float32) -> Float32:
        """Return where output perturbation clips around: w + l / rho, a function of released values (`algorithms.iiadmm`)."""
        flat = [self.dual[spec.name] for spec in self.schema.tensors]
        with np.errstate(all="ignore"):
            return parent + np.concatenate(flat) / np.float32(self.rho)

    def require_stepped(self, after: Mapping[str, Array]) -> None:
        """Return if every floating tensor that training changed was stepped by the solver.

        Raises:
            TrainingFailedError: one has no dual that would bring it back: running statistics, for instance.
        """
        for spec in self.schema.tensors:
            if spec.name not in self.solver.stepped and not np.array_equal(
                after[spec.name], self.parameters[spec.name]
            ):
                raise TrainingFailedError(
                    f"training changed {spec.name} without the solver",
                    where=self.rule.name,
                    remedy="Take a model without running statistics (group or layer normalisation), or another rule.",
                )

    def sent(self, delta: Iterator[memoryview], admission: Admission) -> Iterator[memoryview]:
        """Yield the canonical bytes of the update whose plane ``delta`` is given, and remember them.

        delta: the canonical bytes over `schema`, of which ``admission`` was told; it is told of the other planes here.
        """
        next(delta)  # the header of the model's schema
        yield memoryview(self.updates.header())
        for chunk in itertools.chain(delta, *(self._plane(plane, admission) for plane in sorted(self.rule.planes)[1:])):
            self._sent.append(bytes(chunk))
            yield chunk

    def _plane(self, plane: Plane, admission: Admission) -> Iterator[memoryview]:
        for spec in self.schema.tensors:
            values = self.solver.planes[plane][spec.name]
            for start in range(0, spec.size, _BLOCK):
                exact = np.array(values[start : start + _BLOCK])
                stored = exact if spec.dtype == "F32" else np.empty(exact.size, spec.numpy_dtype)
                if spec.dtype != "F32":
                    narrow(exact, spec.dtype, stored)
                    widen(stored, spec.dtype, exact)
                admission.feed(exact)
                yield stored.view(np.uint8).data

    def released(self) -> Iterator[bytes | memoryview]:
        """Yield the canonical bytes of what is kept until the log settles the ticket (`pending_schema`)."""
        yield pending_schema(self.rule, self.schema).header()
        yield from self._sent
        floats = {spec.name: self.parameters[spec.name] for spec in self.schema.tensors}
        yield from itertools.islice(encode(self.schema, floats), 1, None)


def pending_schema(rule: CohortRule, schema: Schema) -> Schema:
    """Return the tensors that were sent, and those of the model that they were computed from."""
    sent = [TensorSpec(f"{plane}/{one.name}", one.dtype, one.shape) for plane in rule.planes for one in schema.tensors]
    parent = [TensorSpec(f"parent/{one.name}", one.dtype, one.shape) for one in schema.tensors]
    return Schema(tuple(sorted([*sent, *parent], key=lambda one: one.name)))


def _kept(rule: CohortRule) -> tuple[str, ...]:
    """Return the planes that a site keeps: `replay` reads the primal before for the tally alone."""
    return tuple(plane for plane in rule.state_planes if plane != "primal" or rule.balanced)


def state_schema(rule: CohortRule, schema: Schema) -> Schema:
    """Return the tensors of the pair that a site keeps."""
    rows = [spec for plane in _kept(rule) for spec in row_schema(plane, schema).tensors]
    return Schema(tuple(sorted(rows, key=lambda spec: spec.name)))


def next_pair(
    rule: CohortRule,
    schema: Schema,
    sent: Mapping[str, Array],
    coefficient: float,
    before: Pair | None,
    rho: float,
    tally: Tally,
) -> Iterator[tuple[str, Array]]:
    """Yield the next pair's tensors, by name in `state_schema`.

    sent: the tensors of `pending_schema`; all elements are gone through in the schema's order, since the tally's sums have one.
    """
    room = Workspace.of(_BLOCK)
    for spec in schema.tensors:
        planes = {plane: wide(spec, sent[f"{plane}/{spec.name}"]) for plane in rule.planes}
        parent = wide(spec, sent[f"parent/{spec.name}"])
        old = dict(rule.initial_state(parent))
        if before is not None:
            old |= {"dual": before.dual[spec.name]}
            old |= {} if before.primal is None else {"primal": before.primal[spec.name]}
        made = {name: np.empty(spec.size, np.float32) for name in _kept(rule)}
        for start in range(0, spec.size, _BLOCK):
            part = slice(start, min(start + _BLOCK, spec.size))
            new = rule.replay(
                {plane: values[part] for plane, values in planes.items()},
                coefficient,
                parent[part],
                {name: values[part] for name, values in old.items()},
                rho,
                tally=tally,
                workspace=room,
            )
            for name, values in made.items():
                np.copyto(values[part], new[name])
        for name, values in made.items():
            yield f"{name}/{spec.name}", values.reshape(spec.shape)


def wide(spec: TensorSpec, stored: Array) -> Float32:
    """Return a stored tensor as flat float32."""
    flat = np.ascontiguousarray(stored).reshape(-1)
    if spec.dtype == "F32":
        return np.asarray(flat, np.float32)
    out = np.empty(spec.size, np.float32)
    widen(flat, spec.dtype, out)
    return out
