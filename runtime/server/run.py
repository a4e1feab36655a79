"""A whole run: start, rounds, release, end. Resumed from wherever an earlier life of the server stopped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...audit.events import ModelRelease, Place, RunEnd
from ...parameters import Schema, decode, encode
from ...trust.screening import Candidate, History, Verdict
from ..config import RunConfig
from ..errors import RunError
from ..progress import RoundDone, RunDone, RunStarted
from ..training.seam import Array
from .correspondence.errand import Errand, Errands
from .correspondence.quorum import Quorums
from .correspondence.tickets import Counter
from .mirror import Mirror
from .models import Models
from .office import Office, RunFile
from .rounds.admission import Admitted
from .rounds.round import Round, RoundEnd
from .start import start_run

__all__ = ["RunResult", "run_to_end"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    run: str
    outcome: str
    versions: int
    """Commits made."""
    model: str
    """Digest of the last version."""
    witnessed: bool
    cosigners: tuple[str, ...]
    leaves: int
    checkpoint: str
    reason: str = ""
    final: Mapping[str, Mapping[str, Any]] | None = None


def run_to_end(office: Office, config: RunConfig, parameters: Mapping[str, Array]) -> RunResult:
    """Run ``config`` from version 0 = ``parameters`` (or from where it stopped) to its end.

    Raises:
        RunError: the run's name is taken by another configuration, or no quorum is ready to witness its start.
    """
    model = hashlib.sha256(b"".join(encode(Schema.of(dict(parameters)), parameters))).hexdigest()
    file = start_run(office, config, parameters, model)
    models = Models(office, file)
    models.seal_first(parameters, office.parties.charter.sites)
    if models.digest(0) != file.start.model:
        raise RunError("version 0 is not the model that run.start names", where="run.start")
    return _Run(office, file, models).play()


class _Run:
    def __init__(self, office: Office, file: RunFile, models: Models) -> None:
        self._office = office
        self._file = file
        self._models = models
        self._counter = Counter(office, file, models)
        self._errands = Errands(office, file, self._counter)
        self._quorums = Quorums(office, self._errands)
        self._mirror = Mirror(office)
        self._run = file.start.run
        self._final: dict[str, Mapping[str, Any]] = {}

    def play(self) -> RunResult:
        office, config = self._office, self._file.config
        office.publish()
        sites = office.parties.charter.sites
        elements = sum(spec.size for spec in self._file.schema.tensors)
        office.observe(RunStarted(self._run, sites, config.rounds, elements, self._file.start.suite))
        reason = "" if self._quorums.collect("start", self._file.index, 0) is not None else "no_quorum_at_start"
        version, history = 0, History()
        while not reason and version < config.rounds:
            end, history = self._version(version, history)
            if not end.committed:
                reason = end.reason
                break
            version += 1
        return self._end(version, reason)

    def _version(self, version: int, history: History) -> tuple[RoundEnd, History]:
        """Play attempts at the version after ``version`` until one commits or the retries are spent."""
        office, config = self._office, self._file.config
        end = RoundEnd(False, "not_played")
        for attempt in range(config.retries + 1):
            started = time.monotonic()
            witnessed = self._witnessed(version)
            if witnessed is None:
                return RoundEnd(False, "no_quorum"), history
            played = Round(office, self._file, self._models, self._counter, version, attempt, history, witnessed)
            over = office.journal.get(f"{self._run}/over/{version}/{attempt}")
            end = played.play() if over is None else _replayed(over)
            record = office.journal.once(
                f"{self._run}/over/{version}/{attempt}", partial(played.desk.record, end.committed, end.reason)
            )
            history = _fold(history, version, record)
            self._mirror.follow()
            if over is None:
                self._report(version, end, time.monotonic() - started)
            if end.committed:
                break
        return end, history

    def _witnessed(self, version: int) -> int | None:
        """Return a cosigned checkpoint that holds the leaf which made the version before ``version``."""
        index = self._file.index if version < 2 else self._office.notary.step(f"{self._run}/commit/{version - 2}")
        if index is None:
            return None
        return self._quorums.collect(f"before/{version}", index, version)

    def _report(self, version: int, end: RoundEnd, seconds: float) -> None:
        office = self._office
        evaluation: Mapping[str, float] = {}
        made = version + 1 if end.committed else version
        if end.committed and office.evaluator is not None and self._file.config.evaluation.server:
            evaluation = office.evaluator.evaluate(self.parameters(made))
        office.observe(
            RoundDone(
                version,
                end.committed,
                end.reason,
                end.sites,
                self._models.digest(made),
                seconds,
                office.notary.log.size,
                evaluation,
            )
        )

    def parameters(self, version: int) -> dict[str, Array]:
        """Return the parameters of ``version``, in memory."""
        with ExitStack() as stack:
            data = self._models.open(version, stack).read()
        return {name: np.array(value) for name, value in decode(self._file.schema, data).items()}

    # The end

    def _end(self, version: int, reason: str) -> RunResult:
        office, run = self._office, self._run
        cosigners: tuple[str, ...] = ()
        made = self._file.index if version == 0 else office.notary.step(f"{run}/commit/{version - 1}")
        witnessed = None if made is None else self._quorums.collect("end", made, version, everybody=True)
        if witnessed is not None:
            cosigners = tuple(sorted(self._quorums.cosigners(witnessed)))
            if version > 0:
                self._release(version, witnessed, cosigners)
        office.notary.record(
            f"{run}/end",
            lambda: RunEnd(
                **office.about(run),
                version=version,
                model=self._models.digest(version),
                outcome="aborted" if reason else "completed",
                witnessed=witnessed is not None,
            ),
        )
        now = office.publish()
        office.journal.once(f"ended/{run}", office.clock)
        self._mirror.complete()
        result = RunResult(
            run=run,
            outcome="aborted" if reason else "completed",
            versions=version,
            model=self._models.digest(version),
            witnessed=witnessed is not None,
            cosigners=cosigners,
            leaves=now.size,
            checkpoint=office.notary.log.cosigned_at(now.size).decode(),
            reason=reason,
            final=dict(self._final),
        )
        office.observe(
            RunDone(
                run,
                result.outcome,
                version,
                result.model,
                result.witnessed,
                cosigners,
                now.size,
                result.checkpoint,
                self._final,
            )
        )
        return result

    def _release(self, version: int, size: int, witnesses: tuple[str, ...]) -> None:
        """Log the release under the quorum's checkpoint, then give the final model to every member."""
        office, run = self._office, self._run
        recipients = tuple(site for site in self._models.sites(version) if office.gate.ask(site, "site").allowed)
        office.notary.record(
            f"{run}/release",
            lambda: ModelRelease(
                **office.about(run),
                version=version,
                model=self._models.digest(version),
                manifest=self._models.manifest_digest(version),
                checkpoint=Place(size=size, root=office.notary.log.root(size).hex()),
                witnesses=witnesses,
                recipients=recipients,
            ),
        )
        filed = self._errands.run(Errand("receive", "receive", version, recipients, size), lambda: False)
        self._final = {site: one.metrics for site, one in filed.items()}


def _replayed(record: Mapping[str, Any]) -> RoundEnd:
    return RoundEnd(bool(record["committed"]), str(record["reason"]))


def _fold(history: History, version: int, record: Mapping[str, Any]) -> History:
    """Return the screening history after a round that is over; the same from the journal as from memory."""
    candidates: list[Candidate] = []
    verdicts: dict[str, Verdict] = {}
    for value in record["updates"]:
        found = Admitted.from_json(value["admitted"])
        candidate = found.candidate()
        if candidate is None or candidate.statistics.sketch == ():
            continue
        candidates.append(candidate)
        verdicts[found.site] = Verdict(tuple(value["reasons"]), tuple(value["flags"]))
    return history.after(candidates, verdicts, step_norm=None, committed=bool(record["committed"]))
