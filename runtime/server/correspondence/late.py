"""Answers that come after their ticket's time: they count for nothing, and are not dropped either.

A site's receipts are a chain of their own, so a receipt that the server received and kept out of the log would look like one that
it suppressed. A late receipt is therefore logged like any other (its cosignature may still help a quorum), and a late update
is named by `update.late`; its round, and the `ticket.expire` that settled it, stay as they are.
"""

from __future__ import annotations

import logging

from ....audit.events import UpdateLate
from ....errors import CountersealError
from ...transports.seam import Arrival
from ..office import Office, RunFile
from .receipts import file_receipt, read_answer
from .tickets import Counter

__all__ = ["file_late"]

_log = logging.getLogger(__name__)


def file_late(office: Office, file: RunFile, counter: Counter, arrival: Arrival) -> None:
    """Log what ``arrival`` brings for a ticket of this run that nobody waits for any more; anything else is ignored."""
    ticket = counter.find(arrival.ticket)
    if ticket is None or ticket.order.site != arrival.site or arrival.answer is None:
        _log.info("an answer to a ticket that is not of this run came from %s", arrival.site)
        return
    if office.notary.step(f"receipt/{ticket.digest}") is not None:
        return  # a repetition
    try:
        answer = read_answer(arrival.answer)
        if answer.fault is not None:
            return
        filed = file_receipt(office, file, ticket, answer)
    except CountersealError as error:
        _log.warning("a late answer of %s does not count: %s", arrival.site, error)
        return
    if filed.manifest is not None:
        office.notary.record(
            f"late/{ticket.digest}",
            lambda: UpdateLate(
                **office.about(file.start.run),
                version=ticket.order.version,
                site=ticket.order.site,
                ticket=ticket.digest,
                receipt=filed.digest,
            ),
        )
