"""Replay: an auditor recomputes every aggregate of a run, bit for bit (promise P8).

    found = replay(FolderSource(log), charter, store, key)

What the caller brings: the charter (its digest compared out of band) and the auditor's private key. The log must hold by itself,
leaf by leaf under the charter's keys, or nothing is replayed. Then, for every commit:

 1. it continues the version before it, under the rule, the parameters and the weights of charter and ``run.start``;
 2. parent and result are sealed models of the server's, with exactly the digests that the log names;
 3. every input was admitted in this version, and its sealed update is its site's, signed with a key that was valid at the
    admitting leaf; the openings open the log's commitments to its statistics and its coefficient;
 4. norms, measured again, agree with the committed ones to 2^-16, relatively;
 5. so do the coefficients that the rule gives from the norms *measured here* and the charter's weights;
 6. parent and updates, combined with the **committed** coefficients, hash to the committed output: all bits of it;
 7. for a rule that keeps state (ADMM), that pass also gives the committed state, from the state before (`states`); for a rule
    with noise (DP-FedAvg), the noise is the committed one, and there is as much of it as the rule says (`noise`).

PASS means that all of them held. FAIL names the first that did not, and no fault of the store makes one. UNDECIDED means that
bytes which the log names are not at hand (`exhibits`): a server that withholds them gets no PASS. No rule of this version selects
updates, so there is no selection that could be closer than 2^-16 and undecided for that.

Why step 6 with step 5: each coefficient is fixed before, by its commitment, so the server cannot choose it after the replay;
and it is within 2^-16 of the rule's, so a wrong one shows. What remains free is the last bits of a coefficient.

Memory: one stored part and one segment of each input, and a block (`aggregate.BLOCK`); time: two passes over every update,
model and row. Nothing decrypted is written anywhere.

Not handled here: whether the right updates were admitted, and who may count (`audit.verify`); whether an update is what its site
should have sent; and fingerprints, whose key only the server has.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from ...algorithms.arithmetic import Float32
from ...algorithms.rule import AggregationRule, CohortRule, NoisyRule, UpdateMeta, make_rule
from ...algorithms.statistics import UpdateStatistics
from ...audit.checks.evidence import Logged, Trust, gather
from ...audit.checks.findings import Outcome, Status
from ...audit.checks.leaf_checks import Reading, check_actors, check_leaves, read_events
from ...audit.checks.source import FolderSource
from ...audit.checks.tree_checks import check_checkpoints, check_entries, check_prefixes
from ...audit.events import AggregateCommit, Input, RoundOpen, RunStart, TicketIssue, UpdateAdmit, commitment
from ...parameters import Schema
from ...trust.blob.open import Opened
from ...trust.charter.signing import SignedCharter
from ...trust.keys.sealing import OpeningKey
from ...trust.keys.validity import KeyHistory
from ..delivery import Opening
from ..errors import FalseCommitError, MissingEvidenceError, ReplayError
from ..planes import update_schema
from ..sealed_json import Counted, Openings
from ..server.rounds.admission import measure
from ..server.rounds.aggregate import Kept, combined
from ..server.rounds.fingerprint import Fingerprint
from .exhibits import Exhibits, ReadableStore, UpdatePlace, judged
from .noise import NoiseTrail
from .states import StateTrail

__all__ = ["Replay", "Step", "replay"]

_AGREE = 2.0**-16


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one commit: the leaf at ``index``, which made ``version`` of ``run``."""

    run: str
    version: int
    index: int
    output: str
    inputs: tuple[str, ...]
    status: Status
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Replay:
    """Every commit of the log of ``size`` leaves under ``root``, in order, or those of one run."""

    origin: str
    size: int
    root: str
    charter: str
    steps: tuple[Step, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed; a step that is UNDECIDED promises nothing."""
        return all(step.status is not Status.FAIL for step in self.steps)


def replay(
    source: FolderSource,
    charter: SignedCharter,
    store: ReadableStore,
    opening: OpeningKey,
    run: str | None = None,
    *,
    observe: Callable[[Step], None] = lambda step: None,
) -> Replay:
    """Replay the commits of ``run``, or of every run in the log, telling ``observe`` about each as it is done.

    Raises:
        ReplayError: the charter has no auditor, ``opening`` is not its key, the log does not hold, or has no such run.
        StoreUnavailableError, StoreSetupError: the store does not answer.
    """
    evidence = gather(source, Trust(charter, objects=source.objects()))
    reading = read_events(evidence)
    for outcome in (check_checkpoints(evidence), check_entries(evidence), check_prefixes(evidence)):
        _require(outcome)
    _require(check_leaves(reading))
    _require(check_actors(evidence, reading))
    _require_auditor(charter, reading.history, opening)
    latest = evidence.latest
    if latest is None:
        raise ReplayError("the log holds no checkpoint", where="log")
    story = _Story(charter, store, opening, reading)
    steps = []
    for one in story.commits(run):
        steps.append(story.step(one))
        observe(steps[-1])
    return Replay(latest.origin, latest.size, latest.root.hex(), charter.digest, tuple(steps))


def _require(outcome: Outcome) -> None:
    if outcome.status is not Status.PASS:
        remedy = "`counterseal audit verify` says more; nothing is replayed from a log that does not hold."
        raise ReplayError(outcome.reasons[0], where="log", remedy=remedy)


def _require_auditor(charter: SignedCharter, history: KeyHistory, opening: OpeningKey) -> None:
    auditor, held = charter.charter.auditor, history.tenures.get(opening.public.key_id)
    if auditor is None:
        raise ReplayError("the charter names no auditor: nobody outside holds the inputs", where="charter")
    if held is None or (held.identity, held.use) != (auditor, "seal"):
        raise ReplayError(
            f"{opening.public.key_id[:16]} is no sealing key of the auditor {auditor}",
            where="keys",
            remedy="Give the folder of the auditor's keys.",
        )


@dataclass
class _Run:
    """Where a run stands before its next commit."""

    exhibits: Exhibits
    start: Logged[RunStart]
    model: str
    version: int = 0
    manifest: str = ""
    """Digest of the manifest of the current version, and the leaf that named it."""
    named: int = 0
    plaintexts: dict[str, str] = field(default_factory=dict)
    """Digests of models, by manifest: a manifest fixes every byte, so no model is hashed twice."""
    trail: StateTrail = field(kw_only=True)
    noises: NoiseTrail = field(kw_only=True)


class _Story:
    """The events, as far as a replay needs them."""

    def __init__(self, charter: SignedCharter, store: ReadableStore, opening: OpeningKey, reading: Reading) -> None:
        self._weights = charter.charter.weights
        self._commits: list[Logged[AggregateCommit]] = []
        self._issues: dict[str, TicketIssue] = {}
        self._admits: dict[str, Logged[UpdateAdmit]] = {}
        self._runs: dict[str, _Run] = {}
        for one in reading.events:
            event = one.event
            if isinstance(event, RunStart):
                if event.run in self._runs:
                    raise ReplayError(f"run {event.run} starts twice", where=f"leaf {one.index}")
                exhibits = Exhibits(charter, reading.history, store, opening, event)
                trail = StateTrail(exhibits, charter.charter.sites)
                logged = Logged(one.index, event, one.digest, one.key_id)
                self._runs[event.run] = _Run(exhibits, logged, event.model, trail=trail, noises=NoiseTrail(exhibits))
            elif isinstance(event, RoundOpen) and event.run in self._runs and event.version == 0:
                first = self._runs[event.run]
                first.manifest, first.named = first.manifest or event.manifest, first.named or one.index
            elif isinstance(event, TicketIssue):
                self._issues[event.ticket] = event
            elif isinstance(event, UpdateAdmit):
                self._admits[event.ticket] = Logged(one.index, event, one.digest, one.key_id)
            elif isinstance(event, AggregateCommit):
                self._commits.append(Logged(one.index, event, one.digest, one.key_id))

    def commits(self, run: str | None) -> list[Logged[AggregateCommit]]:
        """Return the commits of ``run``, or all."""
        if run is not None and run not in self._runs:
            known = ", ".join(sorted(self._runs)) or "none"
            raise ReplayError(f"no run {run[:64]} in this log", where="run", remedy=f"Runs: {known}.")
        return [one for one in self._commits if run in (None, one.event.run)]

    def step(self, one: Logged[AggregateCommit]) -> Step:
        """Replay one commit, and go on from what it says whatever comes out."""
        event, status, reason = one.event, Status.PASS, ""
        run = self._runs.get(event.run)
        try:
            if run is None:
                raise FalseCommitError("the run was never started", where=f"leaf {one.index}")
            self._check(run, one)
        except MissingEvidenceError as error:
            status, reason = Status.UNDECIDED, f"{error.where}: {error.what}"
        except FalseCommitError as error:
            status, reason = Status.FAIL, f"{error.where}: {error.what}"
        if run is not None:
            run.trail.note(one)
            run.model, run.version, run.manifest, run.named = event.output, event.version + 1, event.manifest, one.index
        sites = tuple(item.site for item in event.inputs)
        return Step(event.run, event.version + 1, one.index, event.output, sites, status, reason)

    def _check(self, run: _Run, one: Logged[AggregateCommit]) -> None:
        commit, exhibits = one.event, run.exhibits
        rule = self._rule(run, commit)
        openings = exhibits.openings(commit.version + 1)
        schema = exhibits.schema(openings)
        floats = update_schema(rule.planes, schema)
        with ExitStack() as stack:
            parent = exhibits.model(commit.version, run.manifest, run.named, schema, stack)
            _same_model(run, parent, run.manifest, commit.parent, f"model of version {commit.version}")
            made = exhibits.model(commit.version + 1, commit.manifest, one.index, schema, stack)
            _same_model(run, made, commit.manifest, commit.output, f"model of version {commit.version + 1}")
            told = [_told(openings, item) for item in commit.inputs]
            updates = [
                exhibits.update(counted.manifest, self._update_place(commit, item), floats, stack)
                for item, counted in zip(commit.inputs, told, strict=True)
            ]
            stats = [
                self._measured(item, counted, update, floats)
                for item, counted, update in zip(commit.inputs, told, updates, strict=True)
            ]
            coefficients = self._coefficients(rule, commit, told, stats)
            state = None
            if isinstance(rule, CohortRule):
                state = run.trail.begin(rule, one, openings, schema, stack)
            noise = run.noises.open(rule, one, openings, schema, stack) if isinstance(rule, NoisyRule) else None
            with judged("the recomputed model"):
                found = _digest(
                    schema, parent, updates, rule, coefficients, None if state is None else state.kept, noise
                )
        if found != commit.output:
            raise FalseCommitError(
                f"parent and updates combine to {found[:16]}, the commit says {commit.output[:16]}",
                where=f"leaf {one.index}",
            )
        if state is not None:
            state.require()

    def _rule(self, run: _Run, commit: AggregateCommit) -> AggregationRule:
        start, where = run.start.event, f"commit of version {commit.version + 1}"
        if (commit.version, commit.parent) != (run.version, run.model):
            raise FalseCommitError("it does not continue the version before it", where=where)
        if (commit.rule, commit.parameters) != (start.rule, start.parameters):
            raise FalseCommitError("another rule or parameters than the run started with", where=where)
        for item in commit.inputs:
            if item.weight != self._weights.get(item.site):
                raise FalseCommitError(f"another weight of {item.site} than the charter's", where=where)
        with judged(where):
            rule = make_rule(commit.rule, commit.parameters)
        if isinstance(rule, NoisyRule) and rule.sites != len(self._weights):
            raise FalseCommitError(f"divided by {rule.sites}, not by the number of sites in the charter", where=where)
        if (commit.state is not None) != (rule.needs_cohort or isinstance(rule, NoisyRule)):
            raise FalseCommitError("a state that the rule does not keep, or none where it keeps one", where=where)
        return rule

    def _update_place(self, commit: AggregateCommit, item: Input) -> UpdatePlace:
        issue, admit = self._issues.get(item.ticket), self._admits.get(item.ticket)
        if issue is None or admit is None:
            raise FalseCommitError("counted without a ticket and an admission", where=f"update of {item.site}")
        asked = (issue.run, issue.version, issue.site, issue.kind)
        admitted = (admit.event.run, admit.event.version, admit.event.site, admit.event.manifest)
        if asked != (commit.run, commit.version, item.site, "train") or admitted != (*asked[:3], item.manifest):
            raise FalseCommitError("counted otherwise than asked for and admitted", where=f"update of {item.site}")
        return UpdatePlace(item.site, item.ticket, commit.version, commit.parent, item.manifest, admit.index)

    def _measured(self, item: Input, told: Counted, update: Opened, schema: Schema) -> UpdateStatistics:
        where = f"update of {item.site}"
        shown = told.statistics
        if commitment(shown.value, shown.salt) != self._admits[item.ticket].event.statistics:
            raise MissingEvidenceError("its statistics do not open the commitment", where="openings")
        with judged(where):
            stats = measure(update, schema, Fingerprint(bytes(32)))
        if not stats.finite:
            raise FalseCommitError("it is not finite, and was counted", where=where)
        if not _norms_agree(shown, stats):
            raise FalseCommitError("the norms committed at its admission are not its norms", where=where)
        return stats

    def _coefficients(
        self, rule: AggregationRule, commit: AggregateCommit, told: Sequence[Counted], stats: Sequence[UpdateStatistics]
    ) -> Float32:
        """Return the committed coefficients, float32[n], if the rule gives the same to 2^-16."""
        meta = [UpdateMeta(item.site, self._issues[item.ticket].seq) for item in commit.inputs]
        with judged(f"coefficients of version {commit.version + 1}"):
            expected = rule.coefficients(meta, stats, None, self._weights)
        committed = np.empty(len(told), np.float32)
        for place, (item, one) in enumerate(zip(commit.inputs, told, strict=True)):
            if commitment(one.coefficient.value, one.coefficient.salt) != item.coefficient:
                raise MissingEvidenceError(
                    f"the coefficient of {item.site} does not open its commitment", where="openings"
                )
            committed[place] = _bits(one.coefficient.value, item.site)
            if not _agree(float(committed[place]), float(expected[place])):
                raise FalseCommitError(
                    f"committed {committed[place]!s} where rule and charter give {expected[place]!s}",
                    where=f"coefficient of {item.site}",
                )
        return committed


def _told(openings: Openings, item: Input) -> Counted:
    for one in openings.inputs:
        if one.ticket == item.ticket:
            return one
    raise MissingEvidenceError(f"nothing about the update of {item.site}", where="openings")


def _same_model(run: _Run, opened: Opened, manifest: str, digest: str, where: str) -> None:
    """Return if the sealed model is the one with ``digest``."""
    found = run.plaintexts.get(manifest)
    if found is None:
        with judged(where), opened.stream(digest=True) as stream:
            stream.finish()
            found = run.plaintexts[manifest] = stream.digest
    if found != digest:
        raise FalseCommitError(f"sealed is {found[:16]}, the log says {digest[:16]}", where=where)


def _digest(
    schema: Schema,
    parent: Opened,
    updates: Sequence[Opened],
    rule: AggregationRule,
    coefficients: Float32,
    kept: Kept | None,
    noise: Opened | None,
) -> str:
    found = hashlib.sha256()
    for chunk in combined(schema, parent, updates, rule, coefficients, kept, noise):
        found.update(chunk)
    return found.hexdigest()


def _norms_agree(shown: Opening, stats: UpdateStatistics) -> bool:
    value = shown.value if isinstance(shown.value, dict) else {}
    layers = value.get("layer_norms")
    if not isinstance(layers, list) or len(layers) != len(stats.layer_norms):
        return False
    pairs = [(value.get("norm"), stats.norm), *zip(layers, stats.layer_norms, strict=True)]
    return all(isinstance(one, int | float) and _agree(float(one), two) for one, two in pairs)


def _agree(one: float, two: float) -> bool:
    return math.isfinite(one) and abs(one - two) <= _AGREE * max(abs(one), abs(two))


def _bits(value: object, site: str) -> np.float32:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != 4:
        raise FalseCommitError("not eight hexadecimal digits", where=f"coefficient of {site}")
    return np.float32(np.frombuffer(data, ">f4")[0])
