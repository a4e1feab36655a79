"""Who enrols with a token that is not its own, or not good for this; and what a server says of enrolments in its log.

The first rows are played at a server's desk, before there is a federation: nobody is admitted, and the true member's own
enrolment counts afterwards all the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counterseal.audit.events import Decision, KeyEnrol
from counterseal.errors import CountersealError
from counterseal.runtime.errors import AdmissionError
from counterseal.tests.globus.enrolment_attacks import REFUSED, UNSAID
from counterseal.tests.globus.enrolment_world import Hall
from counterseal.tests.standin.cloud import Cloud

from .forge import Forger
from .play import at_site
from .rows_log import FORGED, now, same, told
from .table import Promise, Row, Who
from .world import ME, OTHER, World

__all__ = ["ENROLMENT"]


def code_of(error: CountersealError) -> str:
    """Return the code that the record, or the caller, gets."""
    return error.reason if isinstance(error, AdmissionError) else error.code


def at_desk(
    id_: str, who: Who, attack: str, expected: str, make: Callable[[Hall], bytes], nonce: str | None = None
) -> Row:
    """Return a row in which an enrolment is brought to the server's desk."""

    def play() -> str:
        with tempfile.TemporaryDirectory() as folder, Cloud() as cloud:
            hall = Hall(cloud, Path(folder))
            raw = make(hall)
            admitted = _admitted(hall)
            try:
                hall.desk().decide(raw, nonce=nonce)
            except CountersealError as error:
                assert _admitted(hall) == admitted
                cloud.member(hall.group, hall.anna)
                assert hall.desk().decide(hall.enrolment()).document.decision.allowed
                return code_of(error)
        return "admitted"

    return Row(id_, "server", who, attack, expected, play, served=True)


def _admitted(hall: Hall) -> int:
    return sum(one.document.decision.allowed for one in hall.admissions.records())


_WHO: dict[str, Who] = {
    "an old login": "thief",
    "no login": "thief",
    "a program": "thief",
    "one factor": "thief",
    "a single strong factor": "thief",
    "two factors long ago": "thief",
    "application pending": "member",
    "invited": "member",
    "removed": "member",
    "a stranger": "member",
    "a token of another person": "site",
}


def _rows(first: int, promise: Promise, table: dict[str, Any], who: dict[str, Who]) -> tuple[Row, ...]:
    rows = []
    for number, (name, (make, expected, *nonce)) in enumerate(table.items(), first):
        code = expected if isinstance(expected, str) else expected.code
        rows.append(
            at_desk(f"{promise}-{number}", who.get(name, "thief" if promise == "P1" else "peer"), f"enrolment: {name}", code,
                    make, *nonce)
        )  # fmt: skip
    return tuple(rows)


def enrolled(world: World, identity: str = ME, **changes: Any) -> KeyEnrol:
    """Return a leaf that says that ``identity`` presented its keys."""
    decision = Decision(
        identity=identity, role="site", allowed=True, reason="active", source="group", time=world.clock()
    )
    values = {
        **now(world),
        "identity": identity,
        "statement": world.federation.charter.statements[identity].digest,
        "enrolment": FORGED,
        "decision": decision,
        "mfa": True,
        "session_age": 60,
    }
    return KeyEnrol(**{**values, **changes})


def refused(world: World) -> KeyEnrol:
    good = enrolled(world)
    return good.model_copy(
        update={"decision": good.decision.model_copy(update={"allowed": False, "reason": "removed"})}
    )


ENROLMENT: tuple[Row, ...] = (
    *_rows(150, "P1", REFUSED, _WHO),
    *_rows(150, "P2", UNSAID, {}),
    at_site(
        "P7-064",
        "server",
        "keys enrolled under this site's name that it did not make",
        "equivocation",
        lambda world: Forger(world, more=[enrolled(world, statement=FORGED)]).deliver(),
        halts=True,
    ),
    told(
        "P7-115",
        "a member enrolled with other keys than the charter's",
        "7",
        same,
        lambda w: [enrolled(w, statement=FORGED)],
    ),
    told("P7-116", "a member enrolled of whom the group said no", "7", same, lambda w: [refused(w)]),
    told(
        "P7-117",
        "a member enrolled by the group's word about another",
        "7",
        same,
        lambda w: [enrolled(w, decision=enrolled(w, OTHER).decision)],
    ),
    told("P7-118", "an enrolment in another member's name", "6", same, lambda w: [enrolled(w, actor=OTHER)]),
)
