"""What the transport remembers through any crash: its own journal, in its own folder.

    group/<site>      the task group in which the tasks of this site's endpoint are made
    intent/<site>     the tickets of a submission that was begun; null once its end is known
    parcel/<ticket>   a `Parcel`, with the tasks that are out
    ended/<task>      the site of a task that is over: what is in a group and nowhere here was made by a submission
                      whose end nobody saw
    found/<task>      the site of such a task, until it has answered

A task group belongs to one endpoint, never to several: so of a task that nobody remembers it is known at least whose
machine its result is from, and one site cannot answer for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ....durable import Probe, make_folder, silent
from ...journal import Journal
from .parcels import Parcel

__all__ = ["Book"]

_GROUP_TASKS = 2_000
"""A group with more tasks behind it is left for a new one when the transport is opened: looking through it takes long."""


class Book:
    """The transport's journal."""

    def __init__(self, folder: Path, probe: Probe = silent) -> None:
        """Open it.

        Raises:
            JournalError: another process is at work on it.
        """
        make_folder(folder, 0o700)
        self._journal = Journal(folder / "compute.sqlite", probe=probe)

    def parcels(self) -> Iterator[Parcel]:
        """Yield what earlier lives remembered."""
        for _, value in self._journal.items("parcel/"):
            yield Parcel(**value)

    def group(self, site: str) -> str | None:
        """Return the task group of ``site``'s endpoint."""
        found = self._journal.get(f"group/{site}")
        return None if found is None else str(found)

    def intent(self, site: str) -> list[str] | None:
        """Return the tickets of a submission whose end is not known."""
        found = self._journal.get(f"intent/{site}")
        return None if found is None else list(found)

    def found(self) -> dict[str, str]:
        """Return the tasks that were found in groups and have not answered: task to site."""
        return {key.removeprefix("found/"): site for key, site in self._journal.items("found/") if site is not None}

    def intend(self, site: str, parcels: Sequence[Parcel]) -> None:
        """Remember that a submission begins."""
        self._journal.put_many({f"intent/{site}": [one.ticket for one in parcels], **_parcels(parcels)})

    def submitted(self, site: str, group: str | None, parcels: Iterable[Parcel]) -> None:
        """Remember how a submission ended, with the tasks that the parcels now have, all at once."""
        values: dict[str, Any] = {f"intent/{site}": None, **_parcels(parcels)}
        self._journal.put_many(values if group is None else {**values, f"group/{site}": group})

    def reconciled(self, site: str, tasks: Iterable[str], parcels: Iterable[Parcel]) -> None:
        """Remember the tasks that a submission had left in the group."""
        found = {f"found/{task}": site for task in tasks}
        self._journal.put_many({f"intent/{site}": None, **found, **_parcels(parcels)})

    def lose_group(self, site: str) -> None:
        """Forget a group that Compute does not know any longer."""
        self._journal.put(f"group/{site}", None)

    def ended(self, site: str, task: str, parcel: Parcel | None) -> None:
        """Remember that a task is over."""
        known = {} if parcel is None else _parcels([parcel])
        found = {} if self._journal.get(f"found/{task}") is None else {f"found/{task}": None}
        self._journal.put_many({f"ended/{task}": site, **found, **known})

    def save(self, parcels: Iterable[Parcel]) -> None:
        """Remember these parcels as they are."""
        self._journal.put_many(_parcels(parcels))

    def forget(self, parcels: Iterable[Parcel]) -> None:
        """Forget these parcels."""
        self._journal.remove_many(f"parcel/{one.ticket}" for one in parcels)

    def unknown(self, site: str, tasks: Iterable[str]) -> list[str]:
        """Return those of ``tasks`` that no life remembers."""
        mine = {task for one in self.parcels() for task in one.tasks}
        return [
            task
            for task in tasks
            if task not in mine
            and self._journal.get(f"ended/{task}") is None
            and self._journal.get(f"found/{task}") is None
        ]

    def tidy(self) -> None:
        """Leave the groups that many tasks went through, where nothing is open in them."""
        ended: dict[str, list[str]] = {}
        for key, site in self._journal.items("ended/"):
            ended.setdefault(str(site), []).append(key)
        for site, keys in ended.items():
            if len(keys) > _GROUP_TASKS and self.intent(site) is None and site not in self.found().values():
                self._journal.put(f"group/{site}", None)
                self._journal.remove_many([*keys, *(key.replace("ended/", "found/", 1) for key in keys)])

    def close(self) -> None:
        """Release the journal."""
        self._journal.close()


def _parcels(parcels: Iterable[Parcel]) -> dict[str, Any]:
    return {f"parcel/{one.ticket}": one.to_json() for one in parcels}
