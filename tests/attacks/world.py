"""The world that every attack starts from: one real federation, stopped in the middle of a real run.

Four sites have made two versions together. `World` is a copy of all folders taken at the moment at which the server hands
site-a its ticket for the third (or, as ``receive``, for the finished model): nobody has acted on it yet. An attack changes
something, somebody meets it, and `World.finish` lets the same server go on from its journal with the same sites, so that a row
can say what the attack did to the end of the run.

Time is virtual: it passes only when somebody waits, so a deadline costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, Event, TicketExpire, UpdateReject, peek_event
from counterseal.audit.verify import verify
from counterseal.runtime.config import RunConfig
from counterseal.runtime.delivery import Answer
from counterseal.runtime.progress import Progress, SiteDone
from counterseal.runtime.site.site import Site
from counterseal.trust.canonical import parse
from counterseal.trust.dsse import read
from counterseal.trust.identifiers import sha256

from ..federation import SERVER, Clock, DirectTransport, Federation, run_config

__all__ = ["AUDITED", "CONFIG", "ME", "OTHER", "SERVER", "Ended", "VirtualClock", "World", "answer_of", "worlds"]

CONFIG = run_config(rounds=3, minimum_sites=2, retries=1)
ME, OTHER = "site-a@fed.example", "site-b@fed.example"
AUDITED = "auditor@fed.example"


class VirtualClock(Clock):
    """Seconds that pass only when somebody waits."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> int:
        return int(self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Wire(DirectTransport):
    """The in-process transport on virtual time."""

    clock: VirtualClock = field(default_factory=lambda: VirtualClock(0))

    def poll(self, timeout: float) -> list[Any]:
        found, self.waiting = self.waiting, []
        if not found:
            self.clock.advance(timeout)
        return found


@dataclass(frozen=True)
class Ended:
    """How a run went on after an attack."""

    outcome: str
    model: str
    log: list[Event]
    done: dict[str, SiteDone]
    """What became of each site in the attacked round."""
    halted: tuple[str, ...]

    def verdict(self, site: str) -> str:
        """Return the code under which ``site`` is not in the attacked version; `counted` if it is."""
        commit = next(event for event in self.log if isinstance(event, AggregateCommit) and event.version == 2)
        if site in [one.site for one in commit.inputs]:
            return "counted"
        for event in self.log:
            if isinstance(event, UpdateReject) and (event.site, event.version) == (site, 2):
                return str(event.reasons[0])
        assert any(isinstance(event, TicketExpire) and (event.site, event.version) == (site, 2) for event in self.log)
        return self.done[site].reasons[0]


@dataclass
class World:
    """A copy of the stopped federation, for one attack. ``delivery`` is what the server was about to hand to site-a."""

    federation: Federation
    clock: VirtualClock
    delivery: bytes
    ticket: str
    model: str
    """Digest of the final model of the undisturbed run."""
    alone: str
    """The same of the run in which site-a has no part in the last round."""
    past: list[tuple[str, str, bytes]]
    """Every delivery before: site, ticket, bytes."""
    config: RunConfig = CONFIG

    @property
    def folder(self) -> Path:
        """All folders of the federation."""
        return self.federation.folder

    @property
    def store(self) -> Path:
        """The object store's folder."""
        return self.folder / "store"

    def json(self) -> dict[str, Any]:
        """Return the delivery as JSON, for an attacker to change."""
        return cast("dict[str, Any]", json.loads(self.delivery))

    def hand(self, delivery: bytes, site: str = ME, **changes: Any) -> str:
        """Hand ``delivery`` to ``site`` and return the code that it meets; `accepted` if the work was done."""
        with self.federation.site(site, **changes) as opened:
            return answer_of(opened.handle(delivery))

    def facts(self, site: str = ME) -> dict[str, Any]:
        """Return everything that ``site`` has written down."""
        with contextlib.closing(sqlite3.connect(self.folder / site / "site.sqlite")) as table:
            return {key: json.loads(value) for key, value in table.execute("SELECT key, value FROM facts")}

    def files(self) -> dict[str, str]:
        """Return the digest of every file beside the journals, so that nothing can be left half-written."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and ".sqlite" not in path.name and path.suffix != ".lock":
                found[str(path.relative_to(self.folder))] = sha256(path.read_bytes())
        return found

    def finish(
        self,
        *,
        meddle: Callable[[str, bytes], bytes | None] | None = None,
        answers: Callable[[str, bytes], bytes | None] | None = None,
        rogues: Mapping[str, Callable[[Site], Any]] | None = None,
        wire: type[Wire] = Wire,
        **changes: Any,
    ) -> Ended:
        """Let the server go on from its journal until the run ends; ``rogues`` take the place of their sites."""
        seen: list[Progress] = []
        federation = self.federation
        with contextlib.ExitStack() as stack:
            honest = {name: stack.enter_context(federation.site(name)) for name in federation.sites}
            sites: dict[str, Any] = {**honest, **{name: make(honest[name]) for name, make in (rogues or {}).items()}}
            transport = wire(sites, meddle, answers, clock=self.clock)
            server = stack.enter_context(federation.server(transport, observe=seen.append, **changes))
            result = server.run(self.config, federation.first_parameters(self.config))
            log = [peek_event(server.log.entry(index)) for index in range(server.log.size)]
        done = {one.site: one for one in seen if isinstance(one, SiteDone) and one.version == 2}
        halted = tuple(site for site in federation.sites if "halted" in self.facts(site))
        return Ended(result.outcome, result.model, log, done, halted)

    def verify(self) -> list[str]:
        """Return the obligations that the log of this world fails."""
        source = FolderSource(self.federation.log_folder)
        findings = verify(source, Trust(self.federation.charter, objects=source.objects()))
        return [row.id for row in findings.rows if row.status is Status.FAIL]


def answer_of(answer: bytes) -> str:
    """Return the code in an answer: of the fault, or of the receipt; `accepted` if the work was done."""
    found = Answer.from_json(parse(answer, limit=6_000_000))
    if found.fault is not None:
        return found.fault.code
    receipt = json.loads(read((found.receipt or "").encode()).payload)
    return "accepted" if receipt["outcome"] == "done" else str(receipt["reason"])


@dataclass
class _Template:
    federation: Federation
    now: float
    delivery: bytes
    ticket: str
    past: list[tuple[str, str, bytes]]
    model: str = ""
    alone: str = ""


@cache
def _room() -> TemporaryDirectory[str]:
    shared = Path("/dev/shm")
    return TemporaryDirectory(prefix="attacks-", dir=shared if shared.is_dir() else None)


_TEMPLATES: dict[str, _Template] = {}


def kind_of(delivery: bytes) -> tuple[str, int]:
    """Return kind and version of the ticket in a delivery."""
    ticket = json.loads(read(json.loads(delivery)["ticket"].encode()).payload)
    return ticket["kind"], ticket["version"]


def _record() -> None:
    """Run the federation once and keep its folders as they stood before each of site-a's deliveries, and at the end."""
    room, clock = Path(_room().name), VirtualClock(1_800_000_000)
    federation = Federation.make(room / "origin", 4, clock=clock, auditor=True)
    found: dict[str, _Template] = {}

    def meddle(site: str, delivery: bytes) -> bytes:
        kind, version = kind_of(delivery)
        name = f"{kind}-{version}"
        if site == ME and name not in found:
            folder = room / name
            shutil.copytree(federation.folder, folder)
            ticket = sha256(read(json.loads(delivery)["ticket"].encode()).payload)
            copy = replace(federation, folder=folder)
            found[name] = _Template(copy, clock.now, delivery, ticket, list(wire.seen[:-1]))
        return delivery

    with contextlib.ExitStack() as stack:
        sites = {name: stack.enter_context(federation.site(name)) for name in federation.sites}
        wire = Wire(sites, meddle, clock=clock)
        server = stack.enter_context(federation.server(wire))
        model = server.run(CONFIG, federation.first_parameters(CONFIG)).model
    ended = replace(federation, folder=room / "ended")
    shutil.copytree(federation.folder, ended.folder)
    found["ended"] = _Template(ended, clock.now, b"{}", "", list(wire.seen))
    for one in found.values():
        one.model = model
    _TEMPLATES.update(found)
    with worlds("train-2") as world:
        alone = world.finish(meddle=lambda site, delivery: None if site == ME else delivery).model
    assert alone != model
    for one in found.values():
        one.alone = alone


@contextlib.contextmanager
def worlds(name: str = "train-2") -> Iterator[World]:
    """Yield a fresh copy of the federation as it stood when site-a was to get its ticket ``name``."""
    if not _TEMPLATES:
        _record()
    template = _TEMPLATES[name]
    with TemporaryDirectory(dir=_room().name) as place:
        folder, clock = Path(place) / "fed", VirtualClock(template.now)
        shutil.copytree(template.federation.folder, folder)
        federation = replace(template.federation, folder=folder, clock=clock)
        yield World(
            federation, clock, template.delivery, template.ticket, template.model, template.alone, template.past
        )
