"""Collecting cosignatures: which checkpoint enough sites have signed, and witness tickets for those that have not.

Every receipt brings its site's cosignature on the checkpoint of its delivery, so in a healthy run the quorum comes by itself.
When it does not (a site was late, the run begins or ends), witness tickets ask: no data, no model, nothing to debit.
"""

from __future__ import annotations

from ..office import Office
from .errand import Errand, Errands

__all__ = ["Quorums"]


class Quorums:
    """The cosigned checkpoints of one run."""

    def __init__(self, office: Office, errands: Errands) -> None:
        self._office = office
        self._errands = errands

    def holding(self, index: int) -> int | None:
        """Return the size of the newest checkpoint that holds leaf ``index`` and that a quorum cosigned."""
        log = self._office.notary.log
        for size in reversed(log.published_sizes):
            if size <= index:
                return None
            if self._met(size):
                return size
        return None

    def cosigners(self, size: int) -> frozenset[str]:
        """Return the sites that cosigned the checkpoint of ``size`` leaves."""
        note = self._office.notary.log.cosigned_at(size)
        return self._office.parties.cosigners(note, at=size)

    def _met(self, size: int) -> bool:
        charter = self._office.parties.charter
        return charter.arithmetic.met(self.cosigners(size), charter.cosigners)

    def collect(self, step: str, index: int, version: int, *, everybody: bool = False) -> int | None:
        """Return a cosigned checkpoint that holds leaf ``index``, asking with witness tickets if there is none yet.

        ``everybody`` waits for all sites within the time and not only for a quorum. None if too few answered.
        """
        name = f"witness/{step}"
        found = self.holding(index)
        if found is not None and not everybody and (not self._errands.begun(name) or self._errands.over(name)):
            return found
        asked = self._office.parties.charter.sites
        sites = tuple(site for site in asked if self._office.gate.ask(site, "site").allowed)
        errand = Errand(name, "witness", version, sites)
        self._errands.run(errand, lambda: not everybody and self.holding(index) is not None)
        return self.holding(index)
