"""The mirror: what the log has published, in the store, so that a lost server machine loses little of it.

After every round, and at the end of a run, everything that is new is put, each object once:

    log/tile/..., log/checkpoint/<size>     as `audit.tlog.log.Log.mirror` yields them
    log/cosignatures/<size>/<digest>        the cosignatures that the checkpoint had by then; more of them, another object
    log/objects/<sha256>.json               canonical objects that leaves name

Between rounds a store that does not answer is no reason to stop: the next round puts what is missing, and the end of the
run waits for it. A key that holds other bytes is: then this is not the only history of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from ...trust.identifiers import sha256
from ..errors import StoreUnavailableError
from .office import Office

__all__ = ["Mirror"]

_log = logging.getLogger(__name__)


class Mirror:
    """The store's copy of the log."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def follow(self) -> None:
        """Put what is new, or leave it for the next time if the store does not answer.

        Raises:
            ObjectExistsError: the store holds another history of this log.
        """
        try:
            self.complete()
        except StoreUnavailableError as error:
            _log.warning("the mirror of the log is behind: %s", error)

    def complete(self) -> None:
        """Put what is new.

        Raises:
            StoreUnavailableError: the store does not answer.
            ObjectExistsError: the store holds another history of this log.
        """
        office = self._office
        for key, data in office.notary.log.mirror():
            office.store.put(f"log/{key}".lower(), data)
        self._put_cosignatures()
        for name, data in self._objects():
            office.store.put(f"log/objects/{name}", data)
            office.journal.put(f"mirror/object/{name}", True)

    def _put_cosignatures(self) -> None:
        office, log = self._office, self._office.notary.log
        known = {key: count for key, count in office.journal.items("mirror/cosignatures/")}
        fresh: dict[str, int] = {}
        for size in log.published_sizes:
            lines, name = log.cosignatures_at(size), f"mirror/cosignatures/{size:016d}"
            if len(lines) > known.get(name, 0):
                text = "".join(lines).encode()
                office.store.put(f"log/cosignatures/{size}/{sha256(text)}", text)
                fresh[name] = len(lines)
        if fresh:
            office.journal.put_many(dict(fresh))

    def _objects(self) -> Iterator[tuple[str, bytes]]:
        for path in self._office.notary.kept():
            if self._office.journal.get(f"mirror/object/{path.name}") is None:
                yield path.name, path.read_bytes()
