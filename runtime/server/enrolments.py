"""What the log gets of admissions: a leaf for each member that presented its keys, and for each newcomer that was refused.

Logged at the server's start, each once: the step in the journal is named after the enrolment. The admission of somebody
whom the charter does not name with these very keys waits: it is logged when a charter does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...audit.events import AccessDenied, Event, KeyEnrol
from ...trust.charter.signing import SignedCharter
from ...trust.errors import SignatureError
from ..founding.admissions import Admission, Admissions
from .office import Office

__all__ = ["log_admissions"]


def log_admissions(office: Office, charter: SignedCharter, folder: Path) -> None:
    """Log what ``folder`` holds and the log does not.

    Raises:
        CustodyError, MalformedError, SignatureError: a record that this server did not write for this federation.
    """
    steps: dict[str, Callable[[], Event]] = {}
    for one in Admissions(folder, office.keys.signer.public).records():
        record = one.document
        if (record.federation, record.server) != (office.federation, office.identity):
            raise SignatureError("an admission of another federation or server", where=str(folder))
        make = _leaf(record, charter)
        if make is not None:
            steps[f"enrolment/{record.enrolment_digest}"] = partial(_make, make, office)
    if steps:
        office.notary.record_all(steps)


def _make(make: Callable[[dict[str, Any]], Event], office: Office) -> Event:
    return make({"federation": office.federation, "actor": office.identity, "time": office.clock()})


def _leaf(record: Admission, charter: SignedCharter) -> Callable[[dict[str, Any]], Event] | None:
    if not record.decision.allowed:
        return partial(_denied, record)
    known = charter.statements.get(record.decision.identity)
    return partial(_enrolled, record) if known is not None and known.digest == record.statement.digest else None


def _denied(record: Admission, about: dict[str, Any]) -> Event:
    return AccessDenied(**about, run=None, at="enrolment", decision=record.decision)


def _enrolled(record: Admission, about: dict[str, Any]) -> Event:
    shown = record.shown
    return KeyEnrol(
        **about,
        identity=record.decision.identity,
        statement=record.statement.digest,
        enrolment=record.enrolment_digest,
        decision=record.decision,
        mfa=None if shown is None else shown.mfa,
        session_age=None if shown is None else shown.session_age,
    )
