"""The world of the attacks on privacy: a real federation whose sites have ledgers, stopped in the middle of a private run.

As in `world`, but every site has a steward with a ledger and an anchor, and what leaves is noise of the operating system: two
endings of one run have different models, so a row says who was counted, and what every ledger paid.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from counterseal.audit.events import AggregateCommit, Event, ReceiptFile, peek_event
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.runtime.config import EvaluationConfig, OptimizerConfig, PluginConfig, RunConfig, TrainerConfig
from counterseal.runtime.config.privacy import RunPrivacy
from counterseal.runtime.site.site import Site
from counterseal.runtime.training.registry import build_trainer
from counterseal.trust.dsse import read
from counterseal.trust.identifiers import sha256
from counterseal.trust.terms import PrivacyTerms

from ..federation import SERVER, Federation, data_of, run_config
from ..private import open_ledger, private_site
from .world import ME, VirtualClock, Wire, World, answer_of, kind_of

__all__ = [
    "GAUSSIAN",
    "PRIVATE",
    "PrivateFederation",
    "PrivateWorld",
    "Told",
    "heard",
    "private_worlds",
    "receipt_in",
    "sgd_run",
]

GAUSSIAN = PrivacyTerms(
    mechanism="output-gaussian",
    unit="site",
    adjacency="any",
    clip_norm=0.5,
    noise_multiplier=4.0,
    delta=1e-6,
    releases=4,
)
"""An epsilon of about 2.6 for all four releases: the default policy takes it."""
PRIVATE = run_config(
    rounds=3, minimum_sites=2, retries=1, privacy=RunPrivacy(terms=GAUSSIAN), evaluation=EvaluationConfig(sites=False)
)


def sgd_run(terms: PrivacyTerms, **changes: Any) -> RunConfig:
    """Return a run of one round under dp-sgd, with torch."""
    trainer = TrainerConfig(optimizer=OptimizerConfig(name="sgd", parameters={"lr": 0.5}), steps=terms.steps)
    values = {"rounds": 1, "retries": 0, "trainer": trainer, "privacy": RunPrivacy(terms=terms)}
    return run_config(**{**values, "evaluation": EvaluationConfig(sites=False), **changes})


@dataclass
class PrivateFederation(Federation):
    """A federation whose sites have ledgers."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What is different at a site, as `private_site` takes it."""
    plugins: tuple[PluginConfig, ...] = ()
    """What everybody's officers approved."""

    def first_parameters(self, config: RunConfig) -> dict[str, Any]:
        """Return version 0."""
        return build_trainer(config, site=SERVER, plugins=self.plugins).initial_parameters(config.seed)

    def site(self, name: str, **changes: Any) -> Site:
        """Open a site."""
        changes = {**self._approved(name), **self.settings.get(name, {}), **changes}
        if "steward" in changes:
            return super().site(name, **changes)
        settings, self.settings = self.settings, {}  # what `private_site` hands on is complete
        try:
            return private_site(self, name, **changes)
        finally:
            self.settings = settings

    def _approved(self, name: str) -> dict[str, Any]:
        if not self.plugins:
            return {}

        def trainers(config: RunConfig) -> Any:
            terms = None if config.privacy is None else config.privacy.of(name)
            return build_trainer(config, site=name, data=data_of(name), plugins=self.plugins, privacy=terms)

        return {"trainers": trainers}


@dataclass(frozen=True)
class Told:
    """How a run ended."""

    outcome: str
    codes: list[str]
    """What site-a answered to tickets to train, in order."""
    counted: tuple[int, ...]
    """The versions to which site-a contributed."""
    log: list[Event]


@dataclass
class PrivateWorld(World):
    """A copy of the stopped federation, for one attack."""

    federation: PrivateFederation

    def ledger(self, site: str = ME) -> Ledger:
        """Return the site's ledger, opened anew."""
        return open_ledger(self.folder, site)

    def drawn(self, site: str = ME, run: str = "run-1") -> int:
        """Return how many releases of ``run`` the ledger of ``site`` has paid for."""
        if not (self.folder / "ledgers" / site / "ledger.sqlite").exists():
            return 0
        found = self.ledger(site).run("test-federation", run, site)
        return 0 if found is None else found.drawn

    def answer(self, delivery: bytes, site: str = ME, **changes: Any) -> tuple[bytes, ReceiptFile | None]:
        """Hand ``delivery`` to ``site`` and return its answer, and the receipt in it."""
        with self.federation.site(site, **changes) as opened:
            raw = opened.handle(delivery)
        return raw, receipt_in(raw)

    def told(self, config: RunConfig | None = None, **changes: Any) -> Told:
        """Let the run go on to its end, or play ``config`` from its beginning, and listen to what site-a answers."""
        self.config = config or self.config
        codes: list[str] = []
        answers = changes.pop("answers", lambda site, raw: raw)

        def listen(site: str, raw: bytes) -> bytes | None:
            receipt = receipt_in(raw)
            if site == ME and (receipt is None or receipt.kind == "train"):
                codes.append(answer_of(raw))
            passed: bytes | None = answers(site, raw)
            return passed

        ended = self.finish(answers=listen, **changes)
        commits = [event for event in ended.log if isinstance(event, AggregateCommit) and event.run == self.config.name]
        counted = tuple(event.version for event in commits if ME in [one.site for one in event.inputs])
        return Told(ended.outcome, codes, counted, ended.log)

    def kept(self, name: str = "kept") -> Path:
        """Return a copy of every folder as it is now; `restore` puts parts of it back."""
        kept = self.folder.parent / name
        shutil.copytree(self.folder, kept)
        return kept

    def restore(self, kept: Path, *names: str) -> None:
        """Put these files or folders back as they were."""
        for name in names:
            place = self.folder / name
            if place.is_dir():
                shutil.rmtree(place)
                shutil.copytree(kept / name, place)
            else:
                shutil.copy2(kept / name, place)


def receipt_in(answer: bytes) -> ReceiptFile | None:
    """Return the receipt in an answer, unverified."""
    text = json.loads(answer).get("receipt")
    if text is None:
        return None
    found = peek_event(text.encode())
    assert isinstance(found, ReceiptFile)
    return found


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Listen to everything that is logged, traces included."""
    lines: list[str] = []
    handler = logging.Handler(logging.DEBUG)
    formatter = logging.Formatter()
    handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@dataclass
class _Template:
    federation: PrivateFederation
    now: float
    delivery: bytes = b"{}"
    ticket: str = ""


@cache
def _room() -> TemporaryDirectory[str]:
    shared = Path("/dev/shm")
    return TemporaryDirectory(prefix="attacks-", dir=shared if shared.is_dir() else None)


_TEMPLATES: dict[str, _Template] = {}


def _record() -> None:
    """Run the federation once; keep its folders at the beginning, before each of site-a's deliveries, and at the end."""
    room, clock = Path(_room().name), VirtualClock(1_800_000_000)
    made = Federation.make(room / "origin", 3, clock=clock, auditor=True)
    federation = PrivateFederation(made.folder, made.sites, made.keys, made.charter, clock)
    found: dict[str, _Template] = {}

    def keep(name: str, delivery: bytes = b"{}", ticket: str = "") -> None:
        if name not in found:
            shutil.copytree(federation.folder, room / name)
            found[name] = _Template(replace(federation, folder=room / name), clock.now, delivery, ticket)

    def meddle(site: str, delivery: bytes) -> bytes:
        if site == ME:
            kind, version = kind_of(delivery)
            keep(f"{kind}-{version}", delivery, sha256(read(json.loads(delivery)["ticket"].encode()).payload))
        return delivery

    keep("new")
    with contextlib.ExitStack() as stack:
        sites = {name: stack.enter_context(federation.site(name)) for name in federation.sites}
        server = stack.enter_context(federation.server(Wire(sites, meddle, clock=clock)))
        server.run(PRIVATE, federation.first_parameters(PRIVATE))
    keep("ended")
    _TEMPLATES.update(found)


@contextlib.contextmanager
def private_worlds(name: str = "train-2") -> Iterator[PrivateWorld]:
    """Yield a fresh copy of the federation as it stood when site-a was to get its ticket ``name``, or ``new``, or ``ended``."""
    if not _TEMPLATES:
        _record()
    template = _TEMPLATES[name]
    with TemporaryDirectory(dir=_room().name) as place:
        folder, clock = Path(place) / "fed", VirtualClock(template.now)
        shutil.copytree(template.federation.folder, folder)
        federation = replace(template.federation, folder=folder, clock=clock, settings={}, plugins=())
        yield PrivateWorld(federation, clock, template.delivery, template.ticket, "", "", [], PRIVATE)
