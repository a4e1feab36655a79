"""Central DP-FedAvg in a run: its numbers, its noise, and what it comes to.

    terms = CentralTerms.of(start.config)      # None unless the run's rule is dp-fedavg
    terms.plan(dimensions)                     # grid and sampler (`privacy.central`)
    terms.statement(releases)                  # epsilon and delta of so many versions, for one site
    terms.noise_norm(dimensions)               # beside an update of norm clip_norm at most

Everything follows from literal numbers that stand in ``run.start``, so anybody computes it again from the log.

What is stated: the unit is one *site*. Whether its update counts in a version or not, with whatever data, changes the sum by
at most ``clip_norm``; every version is one release without sampling (q = 1), and all versions of a run are composed. The
server and the auditor hold updates and noise: they are trusted. That a site is a member, that it answered, and that its
update was refused for not being finite, is public and in no epsilon. Screening that compares sites is off in such a run
(`server.rounds.round`).

Not handled here: what the sites' ledgers hold (nothing of this: the sites release exact updates to a server that they trust).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..algorithms.errors import AlgorithmError
from ..algorithms.rule import NoisyRule, make_rule
from ..audit.events import AggregateCommit, Event, RunStart
from ..privacy import central
from ..privacy.accounting.events import GaussianEvent
from ..privacy.accounting.statement import Statement, stated_epsilon
from ..privacy.mechanism import Central, Plan
from ..trust.errors import MalformedError

__all__ = ["ADJACENCY", "UNIT", "CentralAccount", "CentralTerms", "central_accounts", "plan_of"]

UNIT = "site"
ADJACENCY = "add-remove"

_DIMENSIONS = 1 << 42
"""Elements of the largest model (2^44 bytes): the log does not tell a model's size."""


@dataclass(frozen=True, slots=True)
class CentralTerms:
    """The literal numbers."""

    rule: NoisyRule
    delta: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self | None:
        """Return the terms in the configuration of a run, as ``run.start`` has it; None if its rule adds no noise.

        Raises:
            MalformedError: the rule adds noise, and its numbers are none that this version knows.
        """
        aggregation = config.get("aggregation")
        if not isinstance(aggregation, dict) or aggregation.get("rule") != "dp-fedavg":
            return None
        names = ("clip_norm", "noise_multiplier", "sites")
        try:
            rule = make_rule("dp-fedavg", {name: aggregation[name] for name in names})
            delta = float(aggregation["delta"])
        except (AlgorithmError, KeyError, TypeError, ValueError):
            raise MalformedError("not the numbers of dp-fedavg", where="run.start aggregation") from None
        if not isinstance(rule, NoisyRule) or not 0 < delta < 1:
            raise MalformedError("not the numbers of dp-fedavg", where="run.start aggregation")
        return cls(rule, delta)

    def plan(self, dimensions: int) -> Plan[Central]:
        """Return grid and sampler; see `plan_of`."""
        return plan_of(self.rule, dimensions)

    def statement(self, releases: int) -> Statement:
        """Return what ``releases`` versions say about one site at most."""
        noise = plan_of(self.rule, 1).noise  # the grid's fineness does not depend on the dimensions
        event = GaussianEvent(
            self.rule.noise_multiplier,
            releases,
            adjacency=ADJACENCY,
            unit=UNIT,
            tv=min(1.0, noise.tv * _DIMENSIONS * releases),
        )
        return stated_epsilon([event], delta=self.delta, adjacency=ADJACENCY, unit=UNIT)

    def noise_norm(self, dimensions: int) -> float:
        """Return the norm that the noise on one version has, in the units of the parameters."""
        rule = self.rule
        return central.expected_noise(rule.sites, dimensions, rule.noise_multiplier, rule.clip_norm)


def plan_of(rule: NoisyRule, dimensions: int) -> Plan[Central]:
    """Return grid and sampler of ``rule`` for a model with ``dimensions`` floating elements.

    The sampler's `effective` deviation is noise_multiplier times the grid's bound or more: that multiplier is accounted.

    Raises:
        GridError: more dimensions than this much noise leaves room for in binary32.
    """
    return central.mechanism(rule.clip_norm, rule.noise_multiplier, rule.fineness).plan(dimensions)


@dataclass(frozen=True, slots=True)
class CentralAccount:
    """One run's versions under these terms, as a log has them: what they say about any one site."""

    run: str
    terms: CentralTerms
    commits: int
    """Versions made: each is one release about every site."""
    rounds: int
    """Versions that the run may make at most."""
    statement: Statement | None
    """Of the versions made; None if there are none."""
    whole: Statement
    """Of all versions that the run may make."""

    @property
    def epsilon(self) -> float:
        """Epsilon of the versions made."""
        return 0.0 if self.statement is None else self.statement.epsilon


def central_accounts(events: Iterable[tuple[int, Event]]) -> tuple[CentralAccount, ...]:
    """Return an account for every run whose server adds the noise, from (leaf, event) of a log whose signatures held.

    Raises:
        MalformedError: a run with numbers that this version does not know.
        PrivacyError: numbers that cannot be accounted for.
    """
    runs: dict[str, RunStart] = {}
    made: dict[str, int] = {}
    for _, event in events:
        if isinstance(event, RunStart):
            runs.setdefault(event.run, event)
        elif isinstance(event, AggregateCommit):
            made[event.run] = made.get(event.run, 0) + 1
    found = []
    for run, start in sorted(runs.items()):
        terms, rounds = CentralTerms.of(start.config), start.config.get("rounds")
        if terms is not None and type(rounds) is int and rounds >= 1:
            commits = made.get(run, 0)
            stated = terms.statement(commits) if commits else None
            found.append(CentralAccount(run, terms, commits, rounds, stated, terms.statement(max(rounds, commits))))
    return tuple(found)
