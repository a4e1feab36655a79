"""What the auditor gets of every commit: its inputs' manifests, coefficients and statistics with their salts, sealed to it.

The log commits to each coefficient; here lie the openings, so that an auditor independent of the server can replay the
commit (`runtime.replaying.replay`) from the log, the sealed blobs and its own key alone. They are sealed once and journaled
before they are put, so a restart puts the same bytes; what lies in the store need not lie in the journal as well, and is
struck out there.

Without an auditor in the charter nothing is made, and false arithmetic is NOT COVERED.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial

from ....trust.keys.sealing import SealingKey
from ...delivery import Opening
from ...places import openings_key
from ...sealed_json import Counted, Openings, seal_openings
from ..correspondence.tickets import Issued
from ..office import Office, RunFile
from .admission import Admitted

__all__ = ["put_openings"]

_STORED = "stored"


def put_openings(
    office: Office,
    file: RunFile,
    version: int,
    inputs: Sequence[tuple[Issued, Admitted]],
    state: Opening | None = None,
) -> None:
    """Put the openings of the commit that made ``version`` from ``inputs`` into the store, once, if there is an auditor.

    ``state`` opens the commitment to the state of a rule that keeps one.
    """
    run = file.start.run
    for key in office.auditor_key():
        step = f"{run}/openings/{version}"
        sealed = office.journal.once(step, partial(_sealed, office, file, version, inputs, state, key))
        if sealed != _STORED:
            office.store.put(openings_key(run, version), base64.b64decode(sealed))
            office.journal.put(step, _STORED)


def _sealed(
    office: Office,
    file: RunFile,
    version: int,
    inputs: Sequence[tuple[Issued, Admitted]],
    state: Opening | None,
    key: SealingKey,
) -> str:
    openings = Openings(
        layout=file.schema.to_json(),
        inputs=tuple(_counted(office, ticket, admitted) for ticket, admitted in inputs),
        state=state,
    )
    data = seal_openings(openings, key, federation=office.federation, run=file.start.run, version=version)
    return base64.b64encode(data).decode()


def _counted(office: Office, ticket: Issued, admitted: Admitted) -> Counted:
    journal = office.journal
    return Counted(
        ticket=ticket.digest,
        manifest=admitted.manifest or "",
        coefficient=Opening(**journal.get(f"coefficient/{ticket.digest}")),
        statistics=Opening(**journal.get(f"statistics/{ticket.digest}")),
    )
