"""Looking into the store, now and then, for the answers of silent sites.

A site puts its answer into the store before it sends it. So an answer that a transport lost, or that lies unread with a
service between, costs a round ten seconds and not the round. What is found there is nobody's word: it counts only if it
is a receipt like any other, and what is not one is ignored, for the true answer may still come.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ...errors import StoreError
from ...transports.seam import Arrival
from ..office import Office
from .receipts import stored_answer

__all__ = ["Lookout"]

_log = logging.getLogger(__name__)

_EVERY = 10
"""Seconds between two looks."""


class Lookout:
    """Looks for the answers of one round or errand; each is returned once."""

    def __init__(self, office: Office, run: str) -> None:
        self._office = office
        self._run = run
        self._next = office.clock() + _EVERY
        self._seen: set[str] = set()

    def look(self, silent: Mapping[str, str]) -> list[Arrival]:
        """Return the stored answers to the tickets ``silent`` (digest -> site), if it is time for a look."""
        office, found = self._office, list[Arrival]()
        if office.clock() < self._next:
            return found
        self._next = office.clock() + _EVERY
        for digest, site in silent.items():
            if digest in self._seen:
                continue
            try:
                stored = stored_answer(office, self._run, digest)
            except StoreError as error:
                _log.info("cannot look for answers in the store: %s", error)
                return found
            if stored is not None:
                _log.info("the answer of %s lay in the store", site)
                self._seen.add(digest)
                found.append(Arrival(site, digest, stored))
        return found
