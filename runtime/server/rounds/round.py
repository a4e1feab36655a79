"""One try at one version: open, send, file, admit, commit or abort.

The schedule (`algorithms.schedule`) decides, this file does what it says and reports back. Every step is journaled under the
name of the round, so a restart walks the same way: tickets and leaves are found, answers are read from the store before
anything is sent again, verdicts stand.

With ``commit_before_upload`` deliveries come twice: first without leave to upload, until the receipts that arrive within half of
the round's time are under a checkpoint; then with leave for exactly the bytes that those receipts name. So the server
cannot choose who is "late" after it has seen an update.

Grants may end before the ticket does (`grant_seconds`): a delivery that waited in a batch queue, or a training that took longer,
then meets an expired one. The site says so, nothing is decided, and the same ticket goes out again with fresh grants; that is
no failure and spends no retry. A grant that is refused before its time does.

Under a rule with noise (DP-FedAvg) verdicts are public and would say what the noise hides: whose update is like another's, whose
norm is far from the others'. So an update is refused there only if it is not finite, and nothing is flagged; clipping bounds
what it does.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ....algorithms import schedule as plan
from ....algorithms.rule import NoisyRule
from ....audit.events import Decision, Event, RoundOpen
from ....errors import CountersealError
from ....trust.blob.manifest import Manifest
from ....trust.canonical import canonical
from ....trust.documents import parse_document
from ....trust.dsse import read
from ....trust.screening import History, Verdict, examine, screen
from ...delivery import Answer
from ...errors import GrantError, GroupUnavailableError, StoreUnavailableError
from ...progress import RoundStarted, SiteDone
from ...transports.seam import Arrival
from ..correspondence.late import file_late
from ..correspondence.lookout import Lookout
from ..correspondence.receipts import Filed, file_receipt, read_answer, stored_answer
from ..correspondence.tickets import Counter, Issued, Leave
from ..models import Models
from ..office import Office, RunFile
from .admission import Admitted, admit
from .commit import Commitment, commit
from .verdicts import Desk, Verdicts, flags_of, ticket_issue

__all__ = ["Round", "RoundEnd"]

_log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds between looks at the clock while waiting."""

_RETRYABLE = frozenset(
    {
        "busy",
        "checkpoint_rollback",
        "consistency_needed",
        "grant",
        "ledger_unavailable",
        "site_unavailable",
        "store_unavailable",
    }
)
"""What a site says when nothing is decided yet."""
_HELD = GroupUnavailableError.code
"""What a site says whose own authority does not answer: the round is held for it, as it is for the server's own question."""
_HELD_SECONDS = 2
_HOPELESS = frozenset(
    {"delivery_too_large", "endpoint_refused", "endpoint_unknown", "function_unknown", "globus_refused"}
)
"""What a transport says when the same delivery would fail the same way."""
_RESENDS = 3


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """How the try ended."""

    committed: bool
    reason: str
    sites: tuple[SiteDone, ...] = ()
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
        witnessed: int,
    ) -> None:
        """Prepare; ``witnessed`` is the size of the cosigned checkpoint that deliveries show."""
        self._office = office
        self._file = file
        self._models = models
        self._counter = counter
        self._noisy = isinstance(file.rule, NoisyRule)
        self._history = History() if self._noisy else history
        self._norm_bound = math.inf if self._noisy else office.parties.charter.limits.norm_bound
        self._witnessed = witnessed
        self.desk = Desk(file.start.run, version, attempt)
        self._verdicts = Verdicts(office, self.desk)
        self._lookout = Lookout(office, file.start.run)
        self._by_digest: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._resent: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._leave: dict[str, Leave] = {}
        self._plan = plan.SynchronousSchedule(
            sites=tuple(sorted(office.parties.charter.sites, key=str.encode)),
            minimum=file.config.minimum_sites,
            deadline_seconds=float(file.config.round_seconds),
            retries=file.config.retries,
        )

    def play(self) -> RoundEnd:
        """Play the round to its end."""
        sites = self._open()
        opened_at = self._once("opened", self._office.clock)
        todo = self._tell(plan.RoundOpened(self._number, sites), float(opened_at))
        self._office.observe(RoundStarted(self.desk.version, sites))
        todo = (*self._remember(), *todo)
        self._tell_what_is_out()
        while True:
            end = self._do(todo)
            if end is not None:
                return end
            todo = self._listen()

    def _tell_what_is_out(self) -> None:
        """After a restart: say why a delivery that is repeated below may not go out again at once."""
        waiting = {digest: site for digest, site in self._by_digest.items() if self._waits_for(site)}
        out = self._office.transport.recover(waiting)
        if out:
            sites = ", ".join(sorted(waiting[digest] for digest in out))
            _log.info("answers to deliveries of an earlier life may still come from %s", sites)

    def _do(self, todo: Sequence[plan.Decision]) -> RoundEnd | None:
        for decision in todo:
            if isinstance(decision, plan.Commit):
                return self._close(decision.updates)
            if isinstance(decision, plan.Abort):
                return self._abort(decision.reason)
            if isinstance(decision, plan.Dispatch):
                self._send(decision.site)
        return None

    # The schedule

    @property
    def _number(self) -> int:
        return self.desk.version * 1001 + self.desk.attempt

    def _tell(self, event: plan.Event, now: float | None = None) -> tuple[plan.Decision, ...]:
        self._plan, decisions = self._plan.on_event(event, float(self._office.clock()) if now is None else now)
        return decisions

    def _once(self, what: str, make: Callable[[], Any]) -> Any:
        return self._office.journal.once(f"{self.desk.run}/{what}/{self.desk.step}", make)

    # Opening

    def _open(self) -> tuple[str, ...]:
        office, desk = self._office, self.desk
        office.filing.take_inbox()
        decisions = [Decision(**value) for value in self._once("decisions", self._ask_everybody)]
        allowed = {one.identity for one in decisions if one.allowed}
        for one in decisions:
            if not one.allowed:
                office.gate.deny(f"{desk.run}/{desk.step}", one, desk.run, "ticket")
        sealed = sorted(self._models.sites(desk.version), key=str.encode)
        sites = tuple(site for site in sealed if site in allowed) if office.identity in allowed else ()
        for site in sites:
            ticket = self._counter.issue(desk.step, site, "train", desk.version, self._file.config.round_seconds)
            desk.tickets[site] = ticket
            self._by_digest[ticket.digest] = site
        steps: dict[str, Callable[[], Event]] = {
            f"{desk.run}/open/{desk.step}": partial(self._round_open, sites, tuple(decisions))
        }
        for ticket in desk.tickets.values():
            steps[f"issue/{ticket.digest}"] = partial(ticket_issue, office, ticket)
        office.notary.record_all(steps)
        return sites

    def _ask_everybody(self) -> list[dict[str, Any]]:
        office = self._office
        return self._ask(office.parties.charter.sites, office.clock() + self._file.config.round_seconds)

    def _ask(self, sites: Sequence[str], deadline: float) -> list[dict[str, Any]]:
        """Ask the group about the server and ``sites``; an outage is waited out until ``deadline``."""
        office = self._office
        while True:
            found = [office.gate.ask(office.identity, "server"), *(office.gate.ask(site, "site") for site in sites)]
            if not any(one.outage for one in found) or office.clock() >= deadline:
                return [one.model_dump(mode="json") for one in found]
            office.pause(_PATIENCE)

    def _round_open(self, sites: tuple[str, ...], decisions: tuple[Decision, ...]) -> Event:
        desk = self.desk
        return RoundOpen(
            **self._office.about(desk.run),
            version=desk.version,
            attempt=desk.attempt,
            parent=self._models.digest(desk.version),
            manifest=self._models.manifest_digest(desk.version),
            participants=sites,
            decisions=decisions,
        )

    # Sending and listening

    def _remember(self) -> tuple[plan.Decision, ...]:
        """After a restart: take what was admitted, and what the store already holds, before anything is sent."""
        office, todo = self._office, list[plan.Decision]()
        for site, ticket in self.desk.tickets.items():
            found = office.journal.get(f"admitted/{ticket.digest}")
            if found is not None:
                answer = Answer.from_json(office.journal.get(f"answer/{ticket.digest}"))
                self.desk.filed[site] = file_receipt(office, self._file, ticket, answer)
                todo += self._judge(site, Admitted.from_json(found))
            elif (stored := stored_answer(office, self.desk.run, ticket.digest)) is not None:
                todo += self._take(Arrival(site, ticket.digest, stored))
            elif (kept := office.journal.get(f"answer/{ticket.digest}")) is not None:
                todo += self._take(Arrival(site, ticket.digest, canonical(kept)))
        return tuple(todo)

    def _send(self, site: str) -> None:
        desk = self.desk
        if not self._waits_for(site):
            return
        ticket, two_steps = desk.tickets[site], self._office.parties.charter.commit_before_upload
        upload, filed, digests = not two_steps, desk.filed.get(site), None
        if two_steps and self._receipts_closed():
            if filed is None or filed.manifest is None:
                return  # no receipt of this site stands under the checkpoint
            upload, digests = True, _digests(filed.manifest)
        elif two_steps and filed is not None:
            return  # its receipt is here; leave to upload follows when the round's receipts are closed
        grants = self._counter.grants(ticket, upload=upload, digests=digests)
        if grants is None:
            return  # the round's own deadline closes it
        self._leave[site] = Leave.of(grants, self._office.clock())
        self._started.setdefault(site, time.monotonic())
        # Leave to upload comes with the checkpoint under which the receipts lie; all else with one that is the same for all.
        pinned = self._office.publish().size if two_steps and upload else self._counter.pin(desk.step)
        delivery = self._counter.deliver(ticket, grants=grants, witnessed=self._witnessed, pinned=pinned)
        self._office.transport.dispatch(site, ticket.digest, delivery)

    def _listen(self) -> tuple[plan.Decision, ...]:
        todo: list[plan.Decision] = []
        for arrival in self._office.transport.poll(_PATIENCE):
            todo += self._take(arrival)
        silent = {digest: site for digest, site in self._by_digest.items() if self._waits_for(site)}
        for arrival in self._lookout.look(silent):
            todo += self._take(arrival, stored=True)
        for site in [site for site, due in self._held.items() if self._office.clock() >= due]:
            del self._held[site]
            self._send(site)
        if self._office.parties.charter.commit_before_upload:
            self._close_receipts()
        return (*todo, *self._tell(plan.Tick()))

    def _waits_for(self, site: str) -> bool:
        return site not in self.desk.admitted and site not in self.desk.done

    def _take(self, arrival: Arrival, *, stored: bool = False) -> tuple[plan.Decision, ...]:
        site = self._by_digest.get(arrival.ticket)
        if site is None or site != arrival.site:
            file_late(self._office, self._file, self._counter, arrival)
            return ()
        if not self._waits_for(site):
            return ()
        ticket = self.desk.tickets[site]
        try:
            if arrival.answer is None:
                failure = arrival.failure or "transport"
                return self._fail(site, failure, retry=failure not in _HOPELESS)
            answer = read_answer(arrival.answer)
            if answer.fault is not None:
                return () if stored else self._fault(site, answer)
            filed = file_receipt(self._office, self._file, ticket, answer)
        except CountersealError as error:
            _log.warning("an answer of %s does not count: %s", site, error)
            return () if stored else self._fail(site, error.code, retry=False)
        self._office.journal.put(f"answer/{ticket.digest}", answer.model_dump(mode="json"))
        return self._after_filing(site, ticket, filed)

    def _fault(self, site: str, answer: Answer) -> tuple[plan.Decision, ...]:
        fault = answer.fault
        code = "fault" if fault is None else fault.code
        size = None if fault is None else fault.witness_size
        if code == GrantError.code and site in self._leave and self._leave[site].over(self._office.clock()):
            self._send(site)
            return ()
        if code == _HELD:
            return self._hold(site)
        self._resent[site] = self._resent.get(site, 0) + 1
        if size is not None and size <= self._office.notary.log.size and self._resent[site] <= _RESENDS:
            self._office.journal.put(f"seen/{site}", size)
            self._send(site)
            return ()
        return self._fail(site, code, retry=code in _RETRYABLE)

    def _hold(self, site: str) -> tuple[plan.Decision, ...]:
        """Send again later; but a site that was put out of the group, which then does not let it look, is not waited for."""
        decision, run = self._office.gate.ask(site, "site"), self.desk.run
        if decision.allowed or decision.outage:
            self._held[site] = self._office.clock() + _HELD_SECONDS
            return ()
        self._office.gate.deny(f"{run}/{self.desk.step}/admission", decision, run, "admission")
        return self._fail(site, decision.reason, retry=False)

    def _fail(self, site: str, reason: str, *, retry: bool) -> tuple[plan.Decision, ...]:
        decisions = self._tell(plan.Failed(self._number, site, reason, retry=retry))
        outcome = self._plan.outcome(site)
        if outcome is not None and outcome.standing == "failed":
            self._verdicts.finish(site, "failed", (reason,))
        return decisions

    def _after_filing(self, site: str, ticket: Issued, filed: Filed) -> tuple[plan.Decision, ...]:
        self.desk.filed[site] = filed
        self.desk.seconds[site] = time.monotonic() - self._started.get(site, time.monotonic())
        if filed.receipt.outcome != "done" or filed.manifest is None:
            return self._fail(site, filed.receipt.reason or filed.receipt.outcome, retry=False)
        if filed.uploaded:
            return self._admit(site, ticket, filed)
        outcome = self._plan.outcome(site)
        if outcome is not None and outcome.standing == "pending":
            return self._tell(plan.Arrived(self._number, site))
        return ()

    # Two steps

    def _receipts_closed(self) -> bool:
        return self._office.journal.get(f"{self.desk.run}/receipts/{self.desk.step}") is not None

    def _close_receipts(self) -> None:
        """Put the round's receipts under a checkpoint, then give leave to upload, once all are in or half the time is over."""
        if self._receipts_closed():
            return
        waiting = [site for site in self.desk.tickets if site not in self.desk.filed and site not in self.desk.done]
        if waiting and self._office.clock() < self._plan.deadline - self._file.config.round_seconds / 2:
            return
        self._office.publish()
        self._once("receipts", lambda: sorted(self.desk.filed))
        for site in sorted(self.desk.filed):
            self._send(site)

    # Judging

    def _admit(self, site: str, ticket: Issued, filed: Filed) -> tuple[plan.Decision, ...]:
        office, run = self._office, self.desk.run
        decision = self._ask_one(site)
        if not decision.allowed:
            office.gate.deny(f"{run}/{self.desk.step}/admission", decision, run, "admission")
            found = Admitted(site, ticket.digest, None, "", None, ("not_authorized",), 0)
        else:
            try:
                found = self._read(ticket, filed)
            except StoreUnavailableError as error:
                return self._fail(site, error.code, retry=False)
        membership = decision.model_dump(mode="json")
        office.journal.put_many(
            {f"admitted/{ticket.digest}": found.to_json(), f"membership/{ticket.digest}": membership}
        )
        return self._judge(site, found)

    def _read(self, ticket: Issued, filed: Filed) -> Admitted:
        """Admit one update; a store that does not answer is waited for until the deadline, and the site is left in peace."""
        while True:
            try:
                return admit(self._office, self._file, ticket, filed, self._history, self._norm_bound)
            except StoreUnavailableError as error:
                if self._office.clock() >= self._plan.deadline:
                    raise
                _log.warning("waiting for the store: %s", error)
                self._office.pause(_PATIENCE)

    def _ask_one(self, site: str) -> Decision:
        office = self._office
        decision = office.gate.ask(site, "site")
        while decision.outage and office.clock() < self._plan.deadline:
            office.pause(_PATIENCE)
            decision = office.gate.ask(site, "site")
        return decision

    def _judge(self, site: str, found: Admitted) -> tuple[plan.Decision, ...]:
        self.desk.admitted[site] = found
        if found.reasons:
            self._verdicts.reject(site, found.reasons)
            return self._tell(plan.Rejected(self._number, site, found.reasons[0]))
        return self._tell(plan.Admitted(self._number, site))

    # The end

    def _close(self, updates: Sequence[str]) -> RoundEnd:
        """Screen the round together, ask the group once more, commit: or abort, if too few are left."""
        verdicts = self._screen(updates)
        for site in [site for site in updates if not verdicts[site].admit]:
            self._verdicts.reject(site, verdicts[site].reasons)
            if self._fell_out(site, verdicts[site].reasons[0]):
                return self._abort("membership")
        updates = [site for site in updates if verdicts[site].admit]
        self._verdicts.admit(updates, verdicts)
        membership = [
            Decision(**value) for value in self._once("membership", lambda: self._ask(updates, self._plan.deadline))
        ]
        for one in membership:
            if not one.allowed and one.role == "server":
                return self._abort("outage" if one.outage else "not_authorized")
            if not one.allowed:
                self._verdicts.exclude(one)
                if self._fell_out(one.identity, one.reason):
                    return self._abort("outage" if one.outage else "membership")
        updates = [one.identity for one in membership if one.allowed and one.role == "site"]
        return self._commit(updates, verdicts, membership)

    def _fell_out(self, site: str, reason: str) -> bool:
        decisions = self._tell(plan.Excluded(self._number, site, reason))
        return any(isinstance(one, plan.Abort) for one in decisions)

    def _screen(self, updates: Sequence[str]) -> dict[str, Verdict]:
        candidates = [found for site in updates if (found := self.desk.admitted[site].candidate()) is not None]
        if self._noisy:
            return {one.site: Verdict(examine(one, self._history, self._norm_bound)) for one in candidates}
        return screen(candidates, self._history, self._norm_bound)

    def _commit(self, updates: Sequence[str], verdicts: dict[str, Verdict], membership: Sequence[Decision]) -> RoundEnd:
        desk = self.desk
        self._verdicts.expire_the_rest("round_closed")
        inputs = [(desk.tickets[site], desk.admitted[site]) for site in sorted(updates, key=str.encode)]
        excluded = self._verdicts.excluded(updates)
        made = commit(self._office, self._file, self._models, desk.version, desk.attempt, inputs, excluded, membership)
        for site in sorted(updates):
            flags = flags_of(verdicts[site])
            self._verdicts.finish(site, "admitted", flags=flags, coefficient=made.coefficients[site])
        self._withdraw(updates)
        self._tell(plan.Committed(self._number))
        return RoundEnd(True, "committed", desk.results(), made)

    def _abort(self, reason: str) -> RoundEnd:
        self._verdicts.expire_the_rest("round_aborted")
        self._verdicts.abort(reason)
        self._office.publish()
        self._withdraw(())
        return RoundEnd(False, reason, self.desk.results())

    def _withdraw(self, updates: Sequence[str]) -> None:
        """Let go of the uploads that do not count: nobody may add to them, and no part of them stays."""
        for site, ticket in self.desk.tickets.items():
            if site not in updates:
                self._counter.withdraw(ticket)


def _digests(manifest: str) -> dict[str, Any]:
    """Return what a grant binds when the manifest is known: the digests of the parts."""
    parts = parse_document(Manifest, read(manifest.encode()).payload).parts
    return {"sha256": parts[0]} if len(parts) == 1 else {"part_sha256": parts}
