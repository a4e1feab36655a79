"""What a round says of each site's part: admitted, rejected, excluded, expired, unused; one leaf each, logged once.

`Desk` is what lies on the table during one round; `Verdicts` writes it down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ....audit.events import (
    Decision,
    Event,
    Excluded,
    RoundAbort,
    TicketExpire,
    TicketIssue,
    UpdateAdmit,
    UpdateExclude,
    UpdateReject,
    UpdateUnused,
    commitment,
    salt,
)
from ....trust.screening import Verdict
from ...progress import SiteDone
from ..correspondence.receipts import Filed
from ..correspondence.tickets import Issued
from ..office import Office
from .admission import Admitted

__all__ = ["Desk", "Verdicts", "ticket_issue"]


@dataclass
class Desk:
    """One round's papers: tickets, filed receipts, updates that were read, and what became of each site."""

    run: str
    version: int
    attempt: int
    tickets: dict[str, Issued] = field(default_factory=dict)
    filed: dict[str, Filed] = field(default_factory=dict)
    admitted: dict[str, Admitted] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    done: dict[str, SiteDone] = field(default_factory=dict)

    @property
    def step(self) -> str:
        """The round's name in journal and steps."""
        return f"{self.version}/{self.attempt}"

    def results(self) -> tuple[SiteDone, ...]:
        """Return what became of each site, in site order."""
        return tuple(self.done[site] for site in sorted(self.done))

    def record(self, committed: bool, reason: str) -> dict[str, Any]:
        """Return what later rounds need of this one, as JSON: every update that was read, and what became of it."""
        updates = []
        for site, found in sorted(self.admitted.items()):
            if site in self.done:
                done = self.done[site]
                updates.append(
                    {
                        "admitted": found.to_json(),
                        "reasons": list(done.reasons) if done.verdict == "rejected" else [],
                        "flags": [flag for flag in done.flags if not flag.startswith("persistent_")],
                    }
                )
        return {"committed": committed, "reason": reason, "updates": updates}


class Verdicts:
    """The pen of one round."""

    def __init__(self, office: Office, desk: Desk) -> None:
        self._office = office
        self._desk = desk

    def reject(self, site: str, reasons: Sequence[str]) -> None:
        """Log that an update does not count."""
        ticket, filed = self._desk.tickets[site], self._desk.filed.get(site)
        receipt = None if filed is None else filed.digest
        self._office.notary.record(
            f"verdict/{ticket.digest}",
            lambda: UpdateReject(**self._about(ticket), receipt=receipt, reasons=tuple(reasons)),
        )
        self.finish(site, "rejected", tuple(reasons))

    def admit(self, sites: Sequence[str], verdicts: Mapping[str, Verdict]) -> None:
        """Log that these updates count, with commitments to what the screens saw."""
        steps: dict[str, Callable[[], Event]] = {}
        for site in sorted(sites):
            ticket = self._desk.tickets[site]
            opening = self._office.journal.once(f"statistics/{ticket.digest}", partial(self._statistics, site))
            steps[f"verdict/{ticket.digest}"] = partial(self._update_admit, site, verdicts[site], opening)
        self._office.notary.record_all(steps)

    def exclude(self, decision: Decision) -> None:
        """Log that an admitted update is taken out: the group no longer names its site."""
        ticket = self._desk.tickets[decision.identity]
        self._office.notary.record(
            f"exclude/{ticket.digest}",
            lambda: UpdateExclude(**self._about(ticket), reason=decision.reason, decision=decision),
        )
        self.finish(decision.identity, "excluded", (decision.reason,))

    def expire_the_rest(self, reason: str) -> None:
        """Say of every ticket without a verdict that it is over; a receipt that says "failed" is its own end."""
        steps: dict[str, Callable[[], Event]] = {}
        for site, ticket in self._desk.tickets.items():
            if self._office.notary.step(f"verdict/{ticket.digest}") is not None:
                continue
            filed, done = self._desk.filed.get(site), self._desk.done.get(site)
            if filed is not None and filed.receipt.outcome != "done":
                continue
            code = done.reasons[0] if done is not None and done.reasons else reason
            steps[f"expire/{ticket.digest}"] = partial(self._expire, ticket, code)
            self.finish(site, "expired", (code,))
        self._office.notary.record_all(steps)

    def abort(self, reason: str) -> None:
        """Log that the round is given up, and that what was admitted in it is unused."""
        steps: dict[str, Callable[[], Event]] = {}
        for site, ticket in self._desk.tickets.items():
            found = self._desk.admitted.get(site)
            judged = self._office.notary.step(f"verdict/{ticket.digest}") is not None
            if judged and found is not None and self._desk.done.get(site, found) is found:
                steps[f"unused/{ticket.digest}"] = partial(self._unused, ticket)
        steps[f"{self._desk.run}/abort/{self._desk.step}"] = partial(self._abort, reason)
        self._office.notary.record_all(steps)

    def excluded(self, updates: Sequence[str]) -> tuple[Excluded, ...]:
        """Return every site that is not among ``updates``, with the reason."""
        out = []
        for site in sorted(self._office.parties.charter.sites):
            if site not in updates:
                done = self._desk.done.get(site)
                out.append(Excluded(site=site, reason=done.reasons[0] if done and done.reasons else "not_asked"))
        return tuple(out)

    def finish(self, site: str, verdict: str, reasons: tuple[str, ...] = (), **more: Any) -> None:
        """Tell the watcher what became of a site's part, once."""
        desk = self._desk
        if site in desk.done:
            return
        found, filed = desk.admitted.get(site), desk.filed.get(site)
        statistics = None if found is None else found.statistics
        desk.done[site] = SiteDone(
            desk.version,
            site,
            verdict,
            reasons,
            norm=None if statistics is None or not statistics.finite else statistics.norm,
            bytes=0 if found is None else found.length,
            seconds=desk.seconds.get(site, 0.0),
            metrics={} if filed is None else filed.metrics,
            epsilon=None if filed is None or filed.receipt.spending is None else filed.receipt.spending.epsilon,
            **more,
        )
        self._office.observe(desk.done[site])

    def _about(self, ticket: Issued) -> dict[str, Any]:
        about = self._office.about(self._desk.run)
        return {**about, "version": self._desk.version, "site": ticket.order.site, "ticket": ticket.digest}

    def _statistics(self, site: str) -> dict[str, Any]:
        found = self._desk.admitted[site]
        if found.statistics is None:
            return {"value": None, "salt": salt()}
        value = {
            "fingerprint": found.fingerprint,
            "norm": found.statistics.norm,
            "layer_norms": list(found.statistics.layer_norms),
        }
        return {"value": value, "salt": salt()}

    def _update_admit(self, site: str, verdict: Verdict, opening: Mapping[str, Any]) -> Event:
        ticket, filed = self._desk.tickets[site], self._desk.filed[site]
        if filed.receipt.manifest is None:
            raise LookupError("an admitted update has a manifest")
        return UpdateAdmit(
            **self._about(ticket),
            receipt=filed.digest,
            manifest=filed.receipt.manifest,
            statistics=commitment(opening["value"], opening["salt"]),
            flags=flags_of(verdict),
            decision=Decision(**self._office.journal.get(f"membership/{ticket.digest}")),
        )

    def _expire(self, ticket: Issued, code: str) -> Event:
        return TicketExpire(**self._about(ticket), reason=code)

    def _unused(self, ticket: Issued) -> Event:
        return UpdateUnused(**self._about(ticket), reason="round_aborted")

    def _abort(self, reason: str) -> Event:
        return RoundAbort(
            **self._office.about(self._desk.run),
            version=self._desk.version,
            attempt=self._desk.attempt,
            reason=reason,
            excluded=self.excluded(()),
        )


def flags_of(verdict: Verdict) -> tuple[str, ...]:
    """Return the flags of a verdict as the log has them; those that a site carried before are said to persist."""
    return tuple(sorted({*verdict.flags, *(f"persistent_{flag}" for flag in verdict.persistent)}))


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
