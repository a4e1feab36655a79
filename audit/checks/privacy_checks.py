"""Check 15: what private runs say of their cost.

A site states, in each receipt and under its own signature, which policy decided, the head of its ledger, how many releases of
this run it has reserved, and their epsilon; a training that failed costs and says the same. The numbers follow from the terms in
``run.start``: whoever doubts an epsilon computes it again (docs/accounting.md). Checked here is the form of the story: no release
of a private run goes unstated or uncounted, none beyond the number that was announced, no exact metrics beside it, and none
stated where there were no terms.

Not handled here: whether the ledger held (its site's own), and whether noise was drawn as said: a site can only vouch for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...trust.errors import MalformedError
from ...trust.terms import PrivacyTerms
from ..events import Event, ReceiptFile, RunStart, Spending
from .evidence import Logged
from .findings import Outcome, judge

__all__ = ["check_privacy", "spends", "terms_of"]


def terms_of(config: Mapping[str, Any], site: str) -> PrivacyTerms | None:
    """Return the privacy terms of ``site`` in a run's configuration as ``run.start`` has it; None if it has none.

    Raises:
        MalformedError: there are some, and they are none that this version knows.
    """
    privacy = config.get("privacy")
    if privacy is None:
        return None
    try:
        return PrivacyTerms.from_json(privacy.get("sites", {}).get(site, privacy["terms"]), what="run.start privacy")
    except (KeyError, TypeError, AttributeError):
        raise MalformedError("not privacy terms", where="run.start privacy") from None


def spends(receipt: ReceiptFile) -> bool:
    """Return whether a receipt is for a release: an update, or a training that failed and cost what an update costs."""
    if receipt.kind != "train" or receipt.outcome == "refused":
        return False
    return receipt.outcome == "done" or (receipt.spending is not None and receipt.spending.epsilon is not None)


def check_privacy(events: list[Logged[Event]]) -> Outcome:
    """15. Every release under privacy terms is stated, counted, and within what the run announced."""
    faults: list[str] = []
    runs: dict[str, RunStart] = {}
    last: dict[tuple[str, str], Spending] = {}
    for one in events:
        event = one.event
        if isinstance(event, RunStart):
            runs.setdefault(event.run, event)
        elif isinstance(event, ReceiptFile) and event.run in runs and spends(event):
            faults += [f"leaf {one.index}: {what}" for what in _release(runs[event.run], event, last)]
    return judge(faults)


def _release(run: RunStart, receipt: ReceiptFile, last: dict[tuple[str, str], Spending]) -> list[str]:
    site, told = receipt.actor, receipt.spending
    try:
        terms = terms_of(run.config, site)
    except MalformedError as error:
        return [str(error)]
    if terms is None:
        stated = told is not None and told.epsilon is not None
        return [f"{site} states an epsilon in a run without privacy terms"] if stated else []
    if told is None or told.ledger is None or told.epsilon is None or told.delta is None:
        return [f"{site} released under privacy terms without stating what it cost"]
    before = last.get((receipt.run, site))
    last[receipt.run, site] = told
    faults = []
    if not (0 if before is None else before.releases) < told.releases <= terms.releases:
        faults.append(f"{site} counts {told.releases} releases; it must rise, up to the {terms.releases} of the terms")
    if before is not None and told.epsilon < (before.epsilon or 0.0):
        faults.append(f"the epsilon of {site} falls")
    if receipt.metrics is not None and run.config["privacy"].get("counts") is None:
        faults.append(f"{site} sent metrics, and the terms have no counts")
    return faults
