"""A demonstration for tests: everything real but the distance to the sites, which are in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from counterseal.runtime.assembly import open_site
from counterseal.runtime.config import load_site
from counterseal.runtime.demo.play import DemoResult, play
from counterseal.runtime.demo.settings import DemoSettings
from counterseal.runtime.demo.surroundings import Surroundings, one_machine
from counterseal.runtime.founding.federation import Founded
from counterseal.runtime.transports.seam import Arrival

SETTINGS = DemoSettings(dataset="digits", model="logistic", sites=3, rounds=2)


class InProcess:
    """Sites of this process, opened from their own configurations."""

    def __init__(self, founded: Founded) -> None:
        self._sites = {site: open_site(load_site(path)) for site, path in founded.site_configs.items()}
        self._waiting: list[Arrival] = []

    def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
        self._waiting.append(Arrival(site, ticket, self._sites[site].handle(delivery)))

    def poll(self, timeout: float) -> list[Arrival]:
        found, self._waiting = self._waiting, []
        return found

    def recover(self, tickets: dict[str, str]) -> set[str]:
        return set()

    def close(self) -> None:
        for site in self._sites.values():
            site.close()


@contextmanager
def in_process(settings: DemoSettings, out: Path) -> Iterator[Surroundings]:
    with one_machine(settings, out) as around:
        yield replace(around, ready=InProcess)


def played(out: Path, settings: DemoSettings = SETTINGS, **options: Any) -> DemoResult:
    return play(settings, out, surrounding=in_process, **options)
