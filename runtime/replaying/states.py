"""Replaying the state of a rule with a cohort (ADMM): every dual and primal, and every penalty, bit for bit.

A commit carries a salted commitment to a table (`rule_state.RuleState`) that names every member's rows by digest, of the manifest
and of the plaintext. For each commit:

 1. the table before is the one that the commit before committed to (nobody's rows at version 0), the table after is the one
    that this commit commits to;
 2. the rows before are sealed blobs of the server's with exactly the digests that the table before names;
 3. they, parent and updates make, in the pass that makes the model, new rows with the digests of the table after; who is
    not among the inputs keeps its rows; the penalties are those that the rule gives from the tally of the pass.

So by induction every row follows from the sealed updates: a server that changes a dual between two rounds, or keeps an absent
site's pair from being counted, is caught at the commit where it does.

Not handled here: who tells FAIL from UNDECIDED (`exhibits`), the model (`replay`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ...algorithms.cohort import Cohort, Tally
from ...algorithms.rule import CohortRule
from ...audit.checks.evidence import Logged
from ...audit.events import AggregateCommit, commitment
from ...parameters import Schema
from ...trust.blob.open import Opened
from ...trust.errors import MalformedError
from ..errors import FalseCommitError, MissingEvidenceError
from ..planes import row_schema
from ..rule_state import Made, RuleState
from ..sealed_json import Openings
from ..server.rounds.aggregate import Kept
from .exhibits import Exhibits, judged

__all__ = ["StateStep", "StateTrail"]


@dataclass
class StateTrail:
    """What the log says of the states of one run, version by version."""

    exhibits: Exhibits
    members: tuple[str, ...]
    leaves: dict[int, tuple[int, str | None]] = field(default_factory=dict)
    """By version: the index of the leaf that made it, and its commitment to the state."""
    tables: dict[int, RuleState] = field(default_factory=dict)
    plaintexts: dict[str, str] = field(default_factory=dict)
    """Digests of rows, by manifest: a manifest fixes every byte, so no row is hashed twice."""

    def note(self, one: Logged[AggregateCommit]) -> None:
        """Remember what a commit says, whether it is so or not."""
        self.leaves[one.event.version + 1] = (one.index, one.event.state)

    def begin(
        self, rule: CohortRule, one: Logged[AggregateCommit], openings: Openings, schema: Schema, stack: ExitStack
    ) -> StateStep:
        """Return the state's part of one commit; the opened rows close with ``stack``.

        Raises:
            FalseCommitError, MissingEvidenceError: steps 1 and 2.
        """
        commit = one.event
        self.note(one)
        after = self._table(commit.version + 1, openings)
        before = self._before(rule, commit.version)
        with judged(f"state of version {commit.version}"):
            cohort = Cohort.of(self.members, [item.site for item in commit.inputs], before.rho)
        rows = {
            plane: [
                None if member.made is None else self._row(index, plane, member.made, schema, stack)
                for index, member in enumerate(before.members)
            ]
            for plane in rule.state_planes
        }
        return StateStep(rule, commit, schema, before, after, cohort, rows)

    def _before(self, rule: CohortRule, version: int) -> RuleState:
        if version == 0:
            return RuleState.first(self.members, rule)
        return self.tables.get(version) or self._table(version, self.exhibits.openings(version))

    def _table(self, version: int, openings: Openings) -> RuleState:
        where, shown = f"state of version {version}", openings.state
        committed = self.leaves[version][1] if version in self.leaves else None
        if committed is None:
            raise FalseCommitError("the commit names no state, and its rule keeps one", where=where)
        if shown is None or commitment(shown.value, shown.salt) != committed:
            raise MissingEvidenceError("the table shown does not open the commitment", where=where)
        try:
            table = RuleState.from_json(shown.value)
        except MalformedError as error:
            raise FalseCommitError(error.what, where=where) from error
        if (table.version, tuple(one.site for one in table.members)) != (version, self.members):
            raise FalseCommitError("a state of another version or of other members", where=where)
        self.tables[version] = table
        return table

    def _row(self, member: int, plane: str, made: Made, schema: Schema, stack: ExitStack) -> Opened:
        where = f"{plane} of {self.members[member]} at version {made.version}"
        if made.version not in self.leaves or plane not in made.rows:
            raise FalseCommitError("no commit made it", where=where)
        at, _ = self.leaves[made.version]
        opened = self.exhibits.state(member, plane, made, at, row_schema(plane, schema), where, stack)
        row = made.rows[plane]
        found = self.plaintexts.get(row.manifest)
        if found is None:
            with judged(where), opened.stream(digest=True) as stream:
                stream.finish()
                found = self.plaintexts[row.manifest] = stream.digest
        if found != row.plaintext:
            raise FalseCommitError(f"sealed is {found[:16]}, the state says {row.plaintext[:16]}", where=where)
        return opened


class StateStep:
    """One commit's part: give `kept` to the pass, then call `require`."""

    def __init__(
        self,
        rule: CohortRule,
        commit: AggregateCommit,
        schema: Schema,
        before: RuleState,
        after: RuleState,
        cohort: Cohort,
        rows: Mapping[str, list[Opened | None]],
    ) -> None:
        self._rule = rule
        self._commit = commit
        self._before = before
        self._after = after
        self._digests: dict[tuple[str, int], Any] = {}
        for plane in rule.state_planes:
            for place in range(len(commit.inputs)):
                self._digests[plane, place] = hashlib.sha256(row_schema(plane, schema).header())
        self.kept = Kept(cohort, rows, self._take, Tally(cohort.rows))

    def _take(self, plane: str, update: int, block: memoryview) -> None:
        self._digests[plane, update].update(block)

    def require(self) -> None:
        """Return if the table after is what the pass gives.

        Raises:
            FalseCommitError: it is not: a row, a penalty, or somebody who took no part.
        """
        version, table, cohort = self._commit.version + 1, self._after, self.kept.cohort
        found = {item.site: (place, item.ticket) for place, item in enumerate(self._commit.inputs)}
        with judged(f"penalties of version {version}"):
            rho = self._rule.adapt(cohort.rho, self.kept.tally)
        untouched = self._before.after({}, rho)
        for shown, old in zip(table.members, untouched.members, strict=True):
            where = f"state of {shown.site} at version {version}"
            if shown.rho != old.rho:
                raise FalseCommitError(f"penalty {shown.rho} where the rule gives {old.rho}", where=where)
            if shown.site in found:
                self._require_row(shown.made, *found[shown.site], where)
            elif shown.made != old.made:
                raise FalseCommitError("changed without an update", where=where)

    def _require_row(self, made: Made | None, place: int, ticket: str, where: str) -> None:
        version = self._commit.version + 1
        if made is None or (made.version, made.ticket) != (version, ticket):
            raise FalseCommitError("not made from the update that was counted", where=where)
        if set(made.rows) != set(self._rule.state_planes):
            raise FalseCommitError("not the planes that the rule keeps", where=where)
        for plane, row in made.rows.items():
            digest = self._digests[plane, place].hexdigest()
            if digest != row.plaintext:
                raise FalseCommitError(
                    f"the {plane} is recomputed as {digest[:16]}, the state says {row.plaintext[:16]}", where=where
                )
