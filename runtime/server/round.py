"""One try at one version: open, send, file, admit, commit or abort.

The schedule (`algorithms.schedule`) decides, this file does what it says and reports back. Every step is journaled under the
name of the round, so a restart walks the same way: tickets and leaves are found, answers are read from the store before
anything is sent again, verdicts stand.

With ``commit_before_upload`` deliveries come twice: first without leave to upload, until the receipts that arrive within half of
the round's time are under a checkpoint; then with leave for exactly the bytes that those receipts name. So the server
cannot choose who is "late" after it has seen an update.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...algorithms import schedule as plan
from ...audit.events import (
    Decision,
    Event,
    Excluded,
    RoundAbort,
    RoundOpen,
    TicketExpire,
    TicketIssue,
    UpdateAdmit,
    UpdateExclude,
    UpdateReject,
    UpdateUnused,
    commitment,
    salt,
)
from ...errors import CountersealError
from ...trust.blob.manifest import Manifest
from ...trust.documents import parse_document
from ...trust.dsse import read
from ...trust.screening import History, Verdict, screen
from ..delivery import ANSWER_BYTES, Answer
from ..errors import StoreError
from ..places import answer_key
from ..progress import RoundStarted, SiteDone
from ..transports.seam import Arrival
from .admission import Admitted, admit
from .commit import Commitment, commit
from .models import Models
from .office import Office, RunFile
from .receipts import Filed, file_receipt, read_answer
from .tickets import Counter, Issued

__all__ = ["Round", "RoundEnd"]

_log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds between looks at the clock while waiting."""

_RETRYABLE = frozenset({"consistency_needed", "store_unavailable", "outage", "site_process_ended", "rollback"})


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """How the try ended."""

    committed: bool
    reason: str
    sites: tuple[SiteDone, ...]
    commitment: Commitment | None = None


class Round:
    """One attempt at the version after ``version``."""

    def __init__(
        self,
        office: Office,
        file: RunFile,
        models: Models,
        counter: Counter,
        version: int,
        attempt: int,
        history: History,
    ) -> None:
        self._office = office
        self._file = file
        self._models = models
        self._counter = counter
        self._run = file.start.run
        self._version = version
        self._attempt = attempt
        self._history = history
        self._step = f"{version}/{attempt}"
        self._tickets: dict[str, Issued] = {}
        self._by_digest: dict[str, str] = {}
        self._filed: dict[str, Filed] = {}
        self._admitted: dict[str, Admitted] = {}
        self._started: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._resent: dict[str, int] = {}
        self._done: dict[str, SiteDone] = {}
        self._plan = self._fresh_plan()

    def play(self, witnessed: int | None) -> RoundEnd:
        """Play the round to its end; ``witnessed`` is the size of the cosigned checkpoint that deliveries show."""
        self._witnessed = witnessed
        sites = self._open()
        opened_at = self._journal("opened", self._office.clock)
        todo = self._tell(plan.RoundOpened(self._number, sites), opened_at)
        self._office.observe(RoundStarted(self._version, sites))
        self._remember()
        while True:
            for decision in todo:
                if isinstance(decision, plan.Commit):
                    end = self._close(decision.updates)
                    if end is not None:
                        return end
                    todo = self._tell_now(plan.Tick())
                    break
                if isinstance(decision, plan.Abort):
                    return self._abort(decision.reason)
                if isinstance(decision, plan.Dispatch):
                    self._send(decision.site, first=decision.attempt == 0)
            else:
                todo = self._listen()

    # The schedule

    @property
    def _number(self) -> int:
        return self._version * 1001 + self._attempt

    def _fresh_plan(self) -> plan.SynchronousSchedule:
        config = self._file.config
        return plan.SynchronousSchedule(
            sites=tuple(sorted(self._office.parties.charter.sites, key=str.encode)),
            minimum=config.minimum_sites,
            deadline_seconds=float(config.round_seconds),
            retries=config.retries,
        )

    def _tell(self, event: plan.Event, now: float) -> tuple[plan.Decision, ...]:
        self._plan, decisions = self._plan.on_event(event, now)
        return decisions

    def _tell_now(self, event: plan.Event) -> tuple[plan.Decision, ...]:
        return self._tell(event, float(self._office.clock()))

    def _journal(self, what: str, make: Any) -> Any:
        return self._office.journal.once(f"{self._run}/{what}/{self._step}", make)

    # Opening

    def _open(self) -> tuple[str, ...]:
        office, version = self._office, self._version
        decisions = [Decision(**value) for value in self._journal("decisions", self._ask_all)]
        allowed = {one.identity for one in decisions if one.allowed}
        for one in decisions:
            if not one.allowed:
                office.gate.deny(f"{self._run}/{self._step}", one, self._run, "ticket")
        sealed = self._models.sites(version)
        sites = tuple(site for site in sorted(sealed, key=str.encode) if site in allowed)
        if office.identity not in allowed:
            sites = ()
        for site in sites:
            ticket = self._counter.issue(self._step, site, "train", version, self._file.config.round_seconds)
            self._tickets[site] = ticket
            self._by_digest[ticket.digest] = site
        steps = {f"{self._run}/open/{self._step}": lambda: self._round_open(sites, decisions)}
        for ticket in self._tickets.values():
            steps[f"issue/{ticket.digest}"] = lambda ticket=ticket: ticket_issue(office, ticket)  # type: ignore[misc]
        office.notary.record_all(steps)
        return sites

    def _ask_all(self) -> list[dict[str, Any]]:
        """Ask the group about the server and every site; an outage is waited out until the round's time is over."""
        office = self._office
        deadline = office.clock() + self._file.config.round_seconds
        asked = [(office.identity, "server"), *((site, "site") for site in office.parties.charter.sites)]
        while True:
            decisions = [office.gate.ask(identity, role) for identity, role in asked]  # type: ignore[arg-type]
            if not any(one.reason == "outage" for one in decisions) or office.clock() >= deadline:
                return [one.model_dump(mode="json") for one in decisions]
            office.pause(_PATIENCE)

    def _round_open(self, sites: Sequence[str], decisions: Sequence[Decision]) -> Event:
        return RoundOpen(
            **self._office.about(self._run),
            version=self._version,
            attempt=self._attempt,
            parent=self._models.digest(self._version),
            manifest=self._models.manifest_digest(self._version),
            participants=tuple(sites),
            decisions=tuple(decisions),
        )

    # Sending and listening

    def _remember(self) -> None:
        """After a restart: take what was admitted, and what the store already holds, before anything is sent."""
        office = self._office
        for site, ticket in self._tickets.items():
            found = office.journal.get(f"admitted/{ticket.digest}")
            if found is not None:
                self._filed[site] = self._refile(ticket)
                self._judge(site, Admitted.from_json(found))
            elif office.store.length(answer_key(self._run, ticket.digest)) is not None:
                self._take(
                    Arrival(
                        site, ticket.digest, office.store.get(answer_key(self._run, ticket.digest), limit=ANSWER_BYTES)
                    )
                )

    def _refile(self, ticket: Issued) -> Filed:
        answer = Answer.from_json(self._office.journal.get(f"answer/{ticket.digest}"))
        return file_receipt(self._office, self._run, ticket, answer)

    def _send(self, site: str, *, first: bool) -> None:
        if site in self._admitted or (site in self._filed and first):
            return
        ticket, two_steps = self._tickets[site], self._office.parties.charter.commit_before_upload
        upload = not two_steps or self._receipts_closed()
        filed = self._filed.get(site)
        digests = None if filed is None or filed.manifest is None or not two_steps else _digests(filed.manifest)
        if upload and two_steps and digests is None:
            return  # no receipt of this site stands under the checkpoint
        grants = self._counter.grants(ticket, self._file.schema, upload=upload, digests=digests)
        self._started.setdefault(site, time.monotonic())
        self._office.transport.dispatch(
            site, ticket.digest, self._counter.deliver(ticket, grants=grants, witnessed=self._witnessed)
        )

    def _listen(self) -> tuple[plan.Decision, ...]:
        todo: tuple[plan.Decision, ...] = ()
        for arrival in self._office.transport.poll(_PATIENCE):
            todo += self._take(arrival)
        if self._office.parties.charter.commit_before_upload:
            self._close_receipts()
        return (*todo, *self._tell_now(plan.Tick()))

    def _take(self, arrival: Arrival) -> tuple[plan.Decision, ...]:
        site = self._by_digest.get(arrival.ticket)
        if site is None or site != arrival.site:
            _log.info("an answer to another ticket came from %s", arrival.site)
            return ()
        if site in self._admitted or site in self._done:
            return ()
        ticket = self._tickets[site]
        try:
            if arrival.answer is None:
                return self._fail(site, arrival.failure or "transport", retry=True)
            answer = read_answer(arrival.answer)
            if answer.fault is not None:
                return self._fault(site, answer)
            self._office.journal.once(f"answer/{ticket.digest}", lambda: answer.model_dump(mode="json"))
            filed = file_receipt(self._office, self._run, ticket, answer)
        except CountersealError as error:
            _log.warning("an answer of %s does not count: %s", site, error)
            return self._fail(site, error.code, retry=False)
        return self._after_filing(site, ticket, filed)

    def _fault(self, site: str, answer: Answer) -> tuple[plan.Decision, ...]:
        fault = answer.fault
        if fault is not None and fault.code == "consistency_needed" and fault.witness_size is not None:
            self._resent[site] = self._resent.get(site, 0) + 1
            if fault.witness_size <= self._office.notary.log.size and self._resent[site] <= 3:
                self._office.journal.put(f"seen/{site}", fault.witness_size)
                self._send(site, first=False)
                return ()
        code = "fault" if fault is None else fault.code
        return self._fail(site, code, retry=code in _RETRYABLE)

    def _fail(self, site: str, reason: str, *, retry: bool) -> tuple[plan.Decision, ...]:
        decisions = self._tell_now(plan.Failed(self._number, site, reason, retry=retry))
        outcome = self._plan.outcome(site)
        if outcome is not None and outcome.standing == "failed":
            self._finish(SiteDone(self._version, site, "failed", (reason,), seconds=self._elapsed(site)))
        return decisions

    def _after_filing(self, site: str, ticket: Issued, filed: Filed) -> tuple[plan.Decision, ...]:
        self._filed[site] = filed
        self._seconds[site] = self._elapsed(site)
        if filed.receipt.outcome != "done" or filed.manifest is None:
            return self._fail(site, filed.receipt.reason or filed.receipt.outcome, retry=False)
        if not filed.uploaded:
            return self._tell_now(plan.Arrived(self._number, site)) if self._plan_pending(site) else ()
        return self._admit(site, ticket, filed)

    def _plan_pending(self, site: str) -> bool:
        outcome = self._plan.outcome(site)
        return outcome is not None and outcome.standing == "pending"

    def _elapsed(self, site: str) -> float:
        return time.monotonic() - self._started.get(site, time.monotonic())

    # Two steps

    def _receipts_closed(self) -> bool:
        return self._office.journal.get(f"{self._run}/receipts/{self._step}") is not None

    def _close_receipts(self) -> None:
        """Put the receipts of the round under a checkpoint, then give leave to upload, once all are in or time is half over."""
        if self._receipts_closed():
            return
        waiting = [site for site in self._tickets if site not in self._filed and site not in self._done]
        half = self._plan.deadline - self._file.config.round_seconds / 2
        if waiting and self._office.clock() < half:
            return
        self._office.publish()
        self._journal("receipts", lambda: sorted(self._filed))
        for site in sorted(self._filed):
            if site not in self._done:
                self._send(site, first=False)

    # Judging

    def _admit(self, site: str, ticket: Issued, filed: Filed) -> tuple[plan.Decision, ...]:
        office = self._office
        decision = office.gate.ask(site, "site")
        while decision.reason == "outage" and office.clock() < self._plan.deadline:
            office.pause(_PATIENCE)
            decision = office.gate.ask(site, "site")
        if not decision.allowed:
            office.gate.deny(f"{self._run}/{self._step}/admission", decision, self._run, "admission")
            found = Admitted(site, ticket.digest, None, "", None, ("not_authorized",), 0)
        else:
            try:
                bound = office.parties.charter.limits.norm_bound
                found = admit(office, self._file, ticket, filed, self._history, bound)
            except StoreError as error:
                return self._fail(site, error.code, retry=True)
        office.journal.put_many(
            {
                f"admitted/{ticket.digest}": found.to_json(),
                f"membership/{ticket.digest}": decision.model_dump(mode="json"),
            }
        )
        return self._judge(site, found)

    def _judge(self, site: str, found: Admitted) -> tuple[plan.Decision, ...]:
        self._admitted[site] = found
        if found.reasons:
            self._reject(site, found.reasons)
            return self._tell_now(plan.Rejected(self._number, site, found.reasons[0]))
        return self._tell_now(plan.Admitted(self._number, site))

    def _reject(self, site: str, reasons: Sequence[str]) -> None:
        ticket, filed = self._tickets[site], self._filed.get(site)
        self._office.notary.record(
            f"verdict/{ticket.digest}",
            lambda: UpdateReject(
                **self._office.about(self._run),
                version=self._version,
                site=site,
                ticket=ticket.digest,
                receipt=None if filed is None else filed.digest,
                reasons=tuple(reasons),
            ),
        )
        self._finish(self._site_done(site, "rejected", tuple(reasons)))

    def _site_done(self, site: str, verdict: str, reasons: tuple[str, ...] = (), **more: Any) -> SiteDone:
        admitted, filed = self._admitted.get(site), self._filed.get(site)
        statistics = None if admitted is None else admitted.statistics
        return SiteDone(
            self._version,
            site,
            verdict,
            reasons,
            norm=None if statistics is None or not statistics.finite else statistics.norm,
            bytes=0 if admitted is None else admitted.length,
            seconds=self._seconds.get(site, 0.0),
            metrics={} if filed is None else filed.metrics,
            **more,
        )

    def _finish(self, done: SiteDone) -> None:
        if done.site not in self._done:
            self._done[done.site] = done
            self._office.observe(done)

    # The end

    def _close(self, updates: Sequence[str]) -> RoundEnd | None:
        """Screen the round together, ask the group once more, commit. None: somebody fell out, ask the schedule again."""
        verdicts = self._screen(updates)
        refused = [site for site in updates if not verdicts[site].admit]
        for site in refused:
            self._reject(site, verdicts[site].reasons)
            decisions = self._tell_now(plan.Excluded(self._number, site, verdicts[site].reasons[0]))
            if any(isinstance(one, plan.Abort) for one in decisions):
                return self._abort("membership")
        updates = [site for site in updates if site not in refused]
        self._record_admissions(updates, verdicts)
        membership = [Decision(**value) for value in self._journal("membership", lambda: self._ask_again(updates))]
        out = [one for one in membership if not one.allowed]
        if any(one.role == "server" for one in out):
            return self._abort("not_authorized")
        for one in out:
            self._exclude(one)
            decisions = self._tell_now(plan.Excluded(self._number, one.identity, one.reason))
            if any(isinstance(decision, plan.Abort) for decision in decisions):
                return self._abort("outage" if one.reason == "outage" else "membership")
        updates = [site for site in updates if all(one.identity != site for one in out)]
        self._expire_the_rest("round_closed")
        inputs = [(self._tickets[site], self._admitted[site]) for site in sorted(updates, key=str.encode)]
        made = commit(
            self._office, self._file, self._models, self._version, inputs, self._excluded(updates), membership
        )
        for site in sorted(updates):
            verdict = verdicts[site]
            flags = tuple(sorted({*verdict.flags, *(f"persistent_{flag}" for flag in verdict.persistent)}))
            self._finish(self._site_done(site, "admitted", flags=flags, coefficient=made.coefficients[site]))
        self._tell_now(plan.Committed(self._number))
        return RoundEnd(True, "committed", self._results(), made)

    def _screen(self, updates: Sequence[str]) -> dict[str, Verdict]:
        candidates = [found for site in updates if (found := self._admitted[site].candidate()) is not None]
        return screen(candidates, self._history, self._office.parties.charter.limits.norm_bound)

    def _record_admissions(self, sites: Sequence[str], verdicts: dict[str, Verdict]) -> None:
        steps = {}
        for site in sorted(sites):
            ticket = self._tickets[site]
            opening = self._office.journal.once(f"statistics/{ticket.digest}", lambda site=site: self._statistics(site))
            steps[f"verdict/{ticket.digest}"] = lambda site=site, opening=opening: self._update_admit(  # type: ignore[misc]
                site, verdicts[site], opening
            )
        self._office.notary.record_all(steps)

    def _statistics(self, site: str) -> dict[str, Any]:
        statistics = self._admitted[site].statistics
        if statistics is None:
            return {"value": None, "salt": salt()}
        value = {
            "digest": self._admitted[site].digest,
            "norm": statistics.norm,
            "layer_norms": list(statistics.layer_norms),
        }
        return {"value": value, "salt": salt()}

    def _update_admit(self, site: str, verdict: Verdict, opening: dict[str, Any]) -> Event:
        ticket, filed = self._tickets[site], self._filed[site]
        manifest = filed.receipt.manifest
        if manifest is None:
            raise LookupError("an admitted update has a manifest")
        return UpdateAdmit(
            **self._office.about(self._run),
            version=self._version,
            site=site,
            ticket=ticket.digest,
            receipt=filed.digest,
            manifest=manifest,
            statistics=commitment(opening["value"], opening["salt"]),
            flags=tuple(sorted({*verdict.flags, *(f"persistent_{flag}" for flag in verdict.persistent)})),
            decision=Decision(**self._office.journal.get(f"membership/{ticket.digest}")),
        )

    def _ask_again(self, sites: Sequence[str]) -> list[dict[str, Any]]:
        office = self._office
        asked = [(office.identity, "server"), *((site, "site") for site in sorted(sites))]
        while True:
            found = [office.gate.ask(identity, role) for identity, role in asked]  # type: ignore[arg-type]
            if not any(one.reason == "outage" for one in found) or office.clock() >= self._plan.deadline:
                return [one.model_dump(mode="json") for one in found]
            office.pause(_PATIENCE)

    def _exclude(self, decision: Decision) -> None:
        ticket = self._tickets[decision.identity]
        self._office.notary.record(
            f"exclude/{ticket.digest}",
            lambda: UpdateExclude(
                **self._office.about(self._run),
                version=self._version,
                site=decision.identity,
                ticket=ticket.digest,
                reason=decision.reason,
                decision=decision,
            ),
        )
        self._finish(self._site_done(decision.identity, "excluded", (decision.reason,)))

    def _expire_the_rest(self, reason: str) -> None:
        """Say of every ticket without a verdict that it is over; a receipt that says "failed" is its own end."""
        steps = {}
        for site, ticket in self._tickets.items():
            if self._office.notary.step(f"verdict/{ticket.digest}") is None:
                filed = self._filed.get(site)
                if filed is not None and filed.receipt.outcome != "done":
                    continue
                code = self._done[site].reasons[0] if site in self._done and self._done[site].reasons else reason
                steps[f"expire/{ticket.digest}"] = lambda ticket=ticket, code=code: TicketExpire(  # type: ignore[misc]
                    **self._office.about(self._run),
                    version=self._version,
                    ticket=ticket.digest,
                    site=ticket.order.site,
                    reason=code,
                )
                self._finish(self._site_done(site, "expired", (code,)))
        self._office.notary.record_all(steps)

    def _excluded(self, updates: Sequence[str]) -> tuple[Excluded, ...]:
        out = []
        for site in sorted(self._office.parties.charter.sites):
            if site not in updates:
                done = self._done.get(site)
                out.append(Excluded(site=site, reason=done.reasons[0] if done and done.reasons else "not_asked"))
        return tuple(out)

    def _abort(self, reason: str) -> RoundEnd:
        self._expire_the_rest("round_aborted")
        steps = {}
        for ticket in self._tickets.values():
            admitted = self._admitted.get(ticket.order.site)
            verdict = self._office.notary.step(f"verdict/{ticket.digest}")
            if verdict is not None and admitted is not None and not admitted.reasons:
                steps[f"unused/{ticket.digest}"] = lambda ticket=ticket: UpdateUnused(  # type: ignore[misc]
                    **self._office.about(self._run),
                    version=self._version,
                    site=ticket.order.site,
                    ticket=ticket.digest,
                    reason="round_aborted",
                )
        steps[f"{self._run}/abort/{self._step}"] = lambda: RoundAbort(
            **self._office.about(self._run),
            version=self._version,
            attempt=self._attempt,
            reason=reason,
            excluded=self._excluded(()),
        )
        self._office.notary.record_all(steps)
        self._office.publish()
        return RoundEnd(False, reason, self._results())

    def record(self, end: RoundEnd) -> dict[str, Any]:
        """Return what later rounds need of this one, as JSON: every update that was read, and what became of it."""
        done = {one.site: one for one in end.sites}
        updates = [
            {
                "admitted": found.to_json(),
                "reasons": [] if done[site].verdict != "rejected" else list(done[site].reasons),
                "flags": [flag for flag in done[site].flags if not flag.startswith("persistent_")],
            }
            for site, found in sorted(self._admitted.items())
            if site in done
        ]
        return {"committed": end.committed, "reason": end.reason, "updates": updates}

    def _results(self) -> tuple[SiteDone, ...]:
        return tuple(self._done[site] for site in sorted(self._done))


def ticket_issue(office: Office, ticket: Issued) -> TicketIssue:
    """Return the leaf that says that ``ticket`` was issued."""
    order = ticket.order
    return TicketIssue(
        **office.about(order.run),
        version=order.version,
        ticket=ticket.digest,
        site=order.site,
        seq=order.seq,
        kind=order.kind,
        not_after=order.not_after,
    )


def _digests(manifest: str) -> dict[str, Any]:
    """Return what a grant binds when the manifest is known: the digests of the parts."""
    parts = parse_document(Manifest, read(manifest.encode()).payload).parts
    return {"sha256": parts[0]} if len(parts) == 1 else {"part_sha256": parts}
