"""A federation without its seals: the runtime's own trainers, releases and rules, in one process.

    loop = Loop(run, cut(dataset, sites, seed=7), dataset.test)
    accuracies = loop.play()                # on the central test split, version 0 first
    loop.final                              # the last version

A site's round is what a site's runtime does between opening a model and sealing an update (train, release under the terms,
subtract), and the commit is the rule's `coefficients` and `combine`. What is left out: keys, tickets, encryption, the log,
processes, the ledger. Without privacy both are deterministic, and a test compares the last versions of this loop and of a whole
federation bit for bit. Noise comes from the operating system's randomness, so no two plays under privacy terms are equal.

Weights are equal, as in the demonstration, and nobody is ever absent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterseal.algorithms.cohort import Cohort, Tally
from counterseal.algorithms.rule import CohortRule, UpdateMeta, make_rule
from counterseal.algorithms.solver import objective_scale
from counterseal.algorithms.statistics import Admission
from counterseal.parameters import Schema
from counterseal.runtime.config import RunConfig
from counterseal.runtime.demo.datasets import Dataset, write_sites
from counterseal.runtime.site.releases import released
from counterseal.runtime.training.arrays import load
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import Arrays, SiteData

__all__ = ["Loop", "cut"]

Flat = npt.NDArray[np.float32]


def cut(dataset: Dataset, sites: tuple[str, ...], *, seed: int) -> dict[str, SiteData]:
    """Return what each site's loader would give: the demonstration's own partition."""
    with tempfile.TemporaryDirectory() as found:
        folders = [Path(found) / site / "data" for site in sites]
        for folder in folders:
            folder.mkdir(parents=True)
        write_sites(dataset, folders, seed=seed)
        return {site: load({"folder": str(folder)}) for site, folder in zip(sites, folders, strict=True)}


@dataclass(eq=False)
class Loop:
    """One run over ``sites``, measured on ``test`` after every round."""

    run: RunConfig
    sites: Mapping[str, SiteData]
    test: Arrays
    final: dict[str, Any] = field(default_factory=dict)
    _pairs: dict[str, Mapping[str, Flat]] = field(default_factory=dict)
    """The ADMM's dual and primal of each site."""

    def __post_init__(self) -> None:
        self._rule = make_rule(self.run.aggregation.rule, self.run.aggregation.parameters)
        self._terms = {site: None if self.run.privacy is None else self.run.privacy.of(site) for site in self.sites}
        self._trainers = {
            site: build_trainer(self.run, site=site, data=data, device="cpu", privacy=self._terms[site])
            for site, data in self.sites.items()
        }
        self._judge = build_trainer(self.run, site="server", data=SiteData(self.test, self.test), device="cpu")
        self._weights = dict.fromkeys(self.sites, 1.0)

    def play(self) -> list[float]:
        """Return the accuracy of version 0 and of the model after each round."""
        parameters = self._judge.initial_parameters(self.run.seed)
        self._schema = Schema.of(parameters)
        if not all(spec.dtype == "F32" for spec in self._schema.tensors):
            raise ValueError("this loop has no rounding between dtypes")
        found = [self._judge.evaluate(parameters)["accuracy"]]
        for number in range(self.run.rounds):
            parameters = self._shaped(self._round(parameters, number))
            found.append(self._judge.evaluate(parameters)["accuracy"])
        self.final = parameters
        return found

    def _round(self, parameters: Mapping[str, Any], number: int) -> Flat:
        parent = self._flat(parameters)
        planes: dict[str, list[Flat]] = {plane: [] for plane in self._rule.planes}
        stats, meta = [], [UpdateMeta(site) for site in sorted(self.sites)]
        for one in meta:
            update = self._update(one.site, parameters, parent, number)
            admission = Admission([plane.size for plane in update.values()])
            for plane in sorted(update):
                planes[plane].append(update[plane])
                admission.feed(update[plane])
            stats.append(admission.result())
        coefficients = self._rule.coefficients(meta, stats, None, self._weights)
        if not isinstance(self._rule, CohortRule):
            return np.array(self._rule.combine(planes, coefficients, parent, {})[0])
        return self._consensus(planes, coefficients, parent)

    def _consensus(self, planes: dict[str, list[Flat]], coefficients: Flat, parent: Flat) -> Flat:
        names = sorted(self.sites)
        pairs = [self._pair(site, parent) for site in names]
        cohort = Cohort.of(names, names, dict.fromkeys(names, self._rule.penalty))
        state = {half: [pair[half] for pair in pairs] for half in self._rule.state_planes}
        after, state = self._rule.combine(planes, coefficients, parent, state, cohort=cohort, tally=Tally(cohort.rows))
        for place, site in enumerate(names):
            self._pairs[site] = {half: np.array(rows[place]) for half, rows in state.items()}
        return np.array(after)

    def _update(self, site: str, parameters: Mapping[str, Any], parent: Flat, number: int) -> dict[str, Flat]:
        """Return what the site sends, by plane."""
        trainer, terms, seed = self._trainers[site], self._terms[site], self.run.seed
        if not isinstance(self._rule, CohortRule):
            result = trainer.train(parameters, seed=seed, round_number=number).parameters
            private = released(terms, self._schema, result, parameters)
            return {"delta": self._flat(private) - parent}
        dual, rho = self._pair(site, parent)["dual"], self._rule.penalty
        solver = self._rule.solver(
            dict(self._split(parent)), dict(self._split(dual)), rho=rho, scale=objective_scale(self._weights, site)
        )
        result = trainer.train(parameters, seed=seed, round_number=number, solver=solver).parameters
        private = released(terms, self._schema, result, parameters, lambda flat: flat + dual / np.float32(rho))
        others = {plane: self._flat(tensors) for plane, tensors in solver.planes.items()}
        return {"delta": self._flat(private) - parent, **others}

    def _pair(self, site: str, parent: Flat) -> Mapping[str, Flat]:
        return self._pairs.get(site) or self._rule.initial_state(parent)

    def _flat(self, tensors: Mapping[str, Any]) -> Flat:
        return np.concatenate([np.asarray(tensors[spec.name]).reshape(-1) for spec in self._schema.tensors])

    def _split(self, flat: Flat) -> Iterator[tuple[str, Flat]]:
        start = 0
        for spec in self._schema.tensors:
            yield spec.name, flat[start : start + spec.size]
            start += spec.size

    def _shaped(self, flat: Flat) -> dict[str, Any]:
        shapes = {spec.name: spec.shape for spec in self._schema.tensors}
        return {name: np.array(piece).reshape(shapes[name]) for name, piece in self._split(flat)}
