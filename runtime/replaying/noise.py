"""Replaying a rule with noise (DP-FedAvg): the noise in a version is the committed one, and it is noise.

A commit carries a salted commitment to a table (`rule_state.NoiseState`) that names one sealed row by digest. For each
commit:

 1. the commitment opens to a table of this version, this try and exactly the updates that the commit counts;
 2. the row is a sealed blob of the server's with the digests that the table names; the pass that makes the model reads it;
 3. it holds whole numbers that are as far spread as the rule says, or further, and no earlier version had the same.

So a server that adds none, too little, or the same twice is caught by the auditor, whom sites and server trust with every
update in this model. The third is a test of what was drawn: an honest server fails it once in e^64 versions. With d numbers
of variance v, their squares add up to less than (1 - 2 sqrt(64 / d)) d v with a probability of at most e^-64 (Laurent,
Massart 2000, lemma 1, for Gaussians; the discrete one's moment generating function is the same but for a factor within 1 +-
1e-70). It says nothing for fewer than 257 numbers, and of repetition nothing for fewer than 32.

Not handled here: that the noise was drawn independently of everything: its key is gone, and no test shows it.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ...algorithms.rule import NoisyRule
from ...audit.checks.evidence import Logged
from ...audit.events import AggregateCommit, commitment
from ...parameters import Schema
from ...trust.blob.open import Opened
from ...trust.errors import MalformedError
from ..central import plan_of
from ..errors import FalseCommitError, MissingEvidenceError
from ..planes import row_schema
from ..rule_state import NoiseState
from ..sealed_json import Openings
from ..server.rounds.aggregate import BLOCK, floats
from .exhibits import Exhibits, judged

__all__ = ["NoiseTrail"]

_RARE: Final = 64.0
_ENOUGH: Final = 32
_EXACT: Final = 2.0**24


@dataclass
class NoiseTrail:
    """The noise of one run, version by version."""

    exhibits: Exhibits
    seen: dict[str, int] = field(default_factory=dict)
    """Which version had the noise with this digest."""

    def open(
        self, rule: NoisyRule, one: Logged[AggregateCommit], openings: Openings, schema: Schema, stack: ExitStack
    ) -> Opened:
        """Return the noise of a commit for the pass that makes the model; it closes with ``stack``.

        Raises:
            FalseCommitError, MissingEvidenceError: see above.
        """
        table, rows = self._table(one.event, openings), row_schema("noise", schema)
        where = f"noise in version {table.version}"
        opened = self.exhibits.noise(table.version, table.noise, one.index, rows, stack)
        with judged(where):
            found, squares = _measured(opened, rows)
        if found != table.noise.plaintext:
            raise FalseCommitError(f"sealed is {found[:16]}, the state says {table.noise.plaintext[:16]}", where=where)
        count = sum(spec.size for spec in rows.tensors)
        if self.seen.setdefault(found, table.version) != table.version and count >= _ENOUGH:
            raise FalseCommitError(f"the noise of version {self.seen[found]} again", where=where)
        least = (1 - 2 * math.sqrt(_RARE / count)) * count * plan_of(rule, count).sigma_units ** 2
        if squares < least:
            raise FalseCommitError(
                f"a spread of {math.sqrt(squares / count):.4g}, where the rule asks for "
                f"{plan_of(rule, count).sigma_units:.4g}",
                where=where,
            )
        return opened

    def _table(self, commit: AggregateCommit, openings: Openings) -> NoiseState:
        where, shown = f"noise in version {commit.version + 1}", openings.state
        if shown is None or commitment(shown.value, shown.salt) != commit.state:
            raise MissingEvidenceError("the table shown does not open the commitment", where=where)
        try:
            table = NoiseState.from_json(shown.value)
        except MalformedError as error:
            raise FalseCommitError(error.what, where=where) from error
        expected = (commit.version + 1, commit.attempt, tuple(item.ticket for item in commit.inputs))
        if (table.version, table.attempt, table.tickets) != expected:
            raise FalseCommitError("drawn for another version, try, or set of updates", where=where)
        return table


def _measured(opened: Opened, schema: Schema) -> tuple[str, float]:
    """Return digest and sum of squares of a row of whole numbers."""
    stored, wide, squares = np.empty(0, np.uint8), np.empty(BLOCK, np.float32), 0.0
    with opened.stream(digest=True) as stream:
        for span in schema.spans():
            for start in range(0, span.count, BLOCK):
                values = floats(stream, "F32", min(BLOCK, span.count - start), stored, wide).astype(np.float64)
                if not (np.abs(values) <= _EXACT).all() or (values != np.trunc(values)).any():
                    raise FalseCommitError("not whole numbers", where="noise")
                squares += float(np.square(values).sum())
        stream.finish()
        return stream.digest, squares
