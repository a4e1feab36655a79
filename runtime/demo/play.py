"""The demonstration: found a federation, give its sites unlike data, run it in processes of their own, check the log.

<out>/demo.json            what was asked for
<out>/federation/          `founding`: server, sites, store
<out>/s3/                  the private S3 server's folder, if there is one
<out>/rounds.json          what was seen of each round, so that a resumed demonstration has all of them
<out>/result.json          everything that `counterseal demo --json` prints, but for the partition's counts
<out>/report.html          the report; each site has one of its own in its folder

The same settings again in the same folder go on where an earlier call was interrupted; other settings, and a demonstration that
is finished, are refused, and nothing is changed. One that used the private S3 server cannot go on: its keys died with it.

The demonstration is everybody at once: it knows the partition and can train on the union, which nobody in a federation can.
What it knows that way (class counts, the comparisons) is never written into the log; the counts not into a report either.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...audit.checks.evidence import Trust, gather
from ...audit.checks.findings import Findings
from ...audit.checks.leaf_checks import read_events
from ...audit.checks.source import FolderSource
from ...audit.events import Event
from ...audit.verify import verify
from ...durable import create_file, make_folder, replace_file
from ...trust.canonical import canonical
from ...trust.terms import PrivacyTerms
from ..accounts import Account, accounts
from ..anchors.opening import open_ledger
from ..api import run_federation
from ..central import CentralAccount, central_accounts
from ..config import ConfigError, LoaderConfig, load_server, load_site
from ..delivery import ANSWER_BYTES
from ..founding.charter_folder import read_charter_folder
from ..founding.federation import Founded, found_federation
from ..progress import Progress, RoundDone, RunStarted
from ..server.correspondence.receipts import read_answer
from ..server.run import RunResult
from ..stores.directory import DirectoryStore
from ..stores.seam import ObjectStore
from ..training.arrays import load, write_arrays
from ..training.seam import Arrays
from .baselines import Curve, baselines
from .datasets import Dataset, load_dataset, write_sites
from .settings import DemoSettings
from .surroundings import Surrounding, Surroundings, one_machine

__all__ = [
    "Comparing",
    "DataReady",
    "DemoEvent",
    "DemoResult",
    "Sealed",
    "check_log",
    "play",
]


@dataclass(frozen=True, slots=True)
class DataReady:
    """The federation is founded and its data cut; ``counts`` are each site's examples by class, from the partitioner."""

    founded: Founded
    dataset: Dataset
    counts: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Comparing:
    """A comparison has done so many rounds."""

    name: str
    done: int
    total: int


DemoEvent = DataReady | Comparing | Progress


@dataclass(frozen=True, slots=True)
class Sealed:
    """What lies in the store: sealed models and updates, the bytes of all ciphertexts (a rule's state too), sealed metrics."""

    suite: str
    models: int
    updates: int
    bytes: int
    metrics: int
    """Answers that carry sealed metrics."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """How a demonstration ended. ``rounds`` are `RoundDone` as JSON, committed or not, in order."""

    settings: DemoSettings
    source: str
    founded: Founded
    parameters: int
    rounds: tuple[Mapping[str, Any], ...]
    curves: Mapping[str, Curve]
    run: RunResult
    tests: int
    """Examples of the central test split."""
    sealed: Sealed
    findings: Findings
    seconds: float
    accounts: tuple[Account, ...] = ()
    """What each site stated that its releases cost, and what that comes to when it is computed again from the log."""
    central: CentralAccount | None = None
    """What the versions say about one site, where the server adds the noise; computed from the log."""
    debited: bool = False
    """Whether each ledger has as many releases as its site stated, under the head that it signed, and agrees with its anchor."""

    @property
    def good(self) -> bool:
        """Whether the run completed, the verifier found no fault, and every epsilon is what the terms come to or was asked."""
        paid = self.settings.privacy is None or (self.debited and all(one.agrees for one in self.accounts))
        if self.settings.privacy == "central":
            paid = self.central is not None and self.central.epsilon <= (self.settings.epsilon or 0.0)
        return self.run.outcome == "completed" and self.findings.passed and paid

    @property
    def terms(self) -> PrivacyTerms | None:
        """The privacy terms of the run, if it has any."""
        privacy = load_server(self.founded.server_config).run_config.privacy
        return None if privacy is None else privacy.terms

    @property
    def clip(self) -> float:
        """The largest L2 norm with which an update counts."""
        return load_server(self.founded.server_config).run_config.aggregation.clip_norm

    @property
    def federated(self) -> list[tuple[int, float, float]]:
        """Round, loss and accuracy of every committed version on the central test split; round 0 is version 0."""
        first = next(iter(self.curves.values()))
        points = [(0, first.loss[0], first.accuracy[0])]
        for one in self.rounds:
            if one["committed"] and "accuracy" in one["evaluation"]:
                points.append((one["version"] + 1, one["evaluation"]["loss"], one["evaluation"]["accuracy"]))
        return points


def play(
    settings: DemoSettings,
    out: Path,
    *,
    observe: Callable[[DemoEvent], None] = lambda event: None,
    surrounding: Surrounding = one_machine,
) -> DemoResult:
    """Play the demonstration in ``out``, or go on with it, and return how it ended.

    The sites are processes of this machine, unless ``surrounding`` puts them elsewhere.

    Raises:
        ConfigError: the folder holds something else, or a demonstration with other settings, or a finished one.
        CountersealError: what the federation's parts raise.
    """
    started = time.monotonic()
    out = out.absolute()
    dataset = load_dataset(settings.dataset, data_path=_path(settings.data_path), seed=settings.seed)
    _claim(settings, out)
    with surrounding(settings, out) as around:
        founded = _found(settings, dataset, out, around)
        parts = _cut(settings, dataset, founded)
        observe(DataReady(founded, dataset, {site: _count(found, dataset.classes) for site, found in parts.items()}))
        diary = _Diary(out / "rounds.json", observe)
        result = run_federation(founded.server_config, observe=diary, transport=around.ready(founded))
        objects = around.objects if around.objects is not None else DirectoryStore(founded.folder / "store")
        sealed = _sealed(objects, result.run, settings.suite)
    curves = baselines(
        settings.unprotected().run(dataset) if settings.privacy else load_server(founded.server_config).run_config,
        {site: train for site, (train, _) in parts.items()},
        dataset.test,
        tell=lambda name, done, total: observe(Comparing(name, done, total)),
    )
    seconds = time.monotonic() - started
    rounds = tuple(diary.rounds)
    findings = check_log(founded)
    spent = recount(founded) if settings.privacy else ()
    return DemoResult(
        settings,
        dataset.source,
        founded,
        diary.parameters,
        rounds,
        curves,
        result,
        len(dataset.test),
        sealed,
        findings,
        seconds,
        spent,
        central=_central(founded) if settings.privacy == "central" else None,
        debited=_debited(founded, spent),
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def free_folder(settings: DemoSettings, base: Path) -> Path:
    """Return the first of ``base``, ``base-2``, ``base-3``, ... in which these settings can start or go on."""
    for number in itertools.count(1):
        out = base if number == 1 else base.with_name(f"{base.name}-{number}")
        with suppress(ConfigError):
            _check(settings, out)
            return out
    raise AssertionError("there is always another number")


def _claim(settings: DemoSettings, out: Path) -> None:
    """Make ``out`` the folder of this demonstration, or see that it is."""
    _check(settings, out)
    if not (out / "demo.json").is_file():
        make_folder(out, 0o700)
        create_file(out / "demo.json", settings.payload(), step="demo.settings")


def _check(settings: DemoSettings, out: Path) -> None:
    """Return if these settings can start or go on in ``out``. Changes nothing."""
    asked = out / "demo.json"
    if not asked.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError("something else is here", where=str(out), remedy="Name a new folder with --out.")
        return
    if asked.read_bytes() != settings.payload():
        raise ConfigError(
            "a demonstration with other settings is here", where=str(out), remedy="Name another folder with --out."
        )
    if (out / "result.json").is_file():
        raise ConfigError(
            "this demonstration is finished",
            where=str(out),
            remedy=f"Its report is {out / 'report.html'}. For another one, name another folder with --out.",
        )
    if settings.store == "s3" and (out / "federation").exists():
        raise ConfigError(
            "the private S3 server of this demonstration is gone, and its keys with it",
            where=str(out),
            remedy="Name another folder with --out.",
        )


def _found(settings: DemoSettings, dataset: Dataset, out: Path, around: Surroundings) -> Founded:
    loader = LoaderConfig(entry_point="arrays", folder=Path("data"))
    letters = zip(around.sites, settings.names, strict=True)
    return found_federation(
        out / "federation",
        around.sites,
        run=settings.run(dataset),
        loaders={site: loader for site in around.sites},
        store=around.store,
        server=around.server,
        server_loader=loader,
        suite=settings.suite,
        names={around.server: "The demonstration's server"}
        | {site: f"Demonstration site {name[-1].upper()}" for site, name in letters},
        cap=_cap(settings),
        federation=f"demo-{settings.dataset}",
        title=f"A demonstration on one machine: {dataset.source}",
        group=around.group,
        globus=around.globus,
        transport=around.compute,
    )


def _cap(settings: DemoSettings) -> tuple[float, float] | None:
    """Return a cap for each site's population: the filter over all runs is less tight than the statement of one."""
    return None if settings.epsilon is None else (2 * settings.epsilon + 1, 1e-5)


def _cut(settings: DemoSettings, dataset: Dataset, founded: Founded) -> dict[str, tuple[Arrays, Arrays]]:
    """Write every site's data into its own folder, and return training and held-out examples by site."""
    folders = {site: path.parent / "data" for site, path in founded.site_configs.items()}
    # With many sites, sizes as unequal as those of a few would leave some without any examples.
    alpha = 8.0 if len(folders) <= 8 else 4.0 * len(folders)
    write_sites(dataset, list(folders.values()), seed=settings.seed, alpha_size=alpha)
    # The loader asks for a training file; the server never trains.
    write_arrays(founded.server_config.parent / "data", dataset.test, dataset.test)
    found = {}
    for site, folder in folders.items():
        data = load({"folder": str(folder)})
        assert data.test is not None  # noqa: S101  (write_sites holds some back)
        found[site] = (data.train, data.test)
    return found


def _count(parts: tuple[Arrays, Arrays], classes: int) -> tuple[int, ...]:
    labels = np.concatenate([part.y for part in parts])
    return tuple(int(count) for count in np.bincount(labels, minlength=classes))


class _Diary:
    """Keeps what was seen of each round, and passes everything on."""

    def __init__(self, path: Path, observe: Callable[[DemoEvent], None]) -> None:
        self._path = path
        self._observe = observe
        self.rounds: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.is_file() else []
        self.parameters = 0

    def __call__(self, progress: Progress) -> None:
        if isinstance(progress, RunStarted):
            self.parameters = progress.parameters
        if isinstance(progress, RoundDone):
            self.rounds.append(asdict(progress))
            replace_file(self._path, canonical(self.rounds), step="demo.rounds")
        self._observe(progress)


def _sealed(store: ObjectStore, run: str, suite: str) -> Sealed:
    sealed = list(store.list(f"payloads/{run}/"))
    kept = [key for key in store.list(f"runs/{run}/updates/") if key.endswith("/answer")]
    answers = [read_answer(store.get(key, limit=ANSWER_BYTES)) for key in kept]
    models = sum(key.startswith(f"payloads/{run}/versions/") for key in sealed)
    updates = sum(key.startswith(f"payloads/{run}/updates/") for key in sealed)
    stored = sum(store.length(key) or 0 for key in sealed)
    return Sealed(suite, models, updates, stored, sum(bool(answer.metrics) for answer in answers))


def check_log(founded: Founded) -> Findings:
    """Check the server's log with the first site's own copy of the charter."""
    home = next(iter(founded.site_configs.values())).parent
    charter = read_charter_folder(home / "charter", now=int(time.time()))
    return verify(FolderSource(load_server(founded.server_config).log), Trust(charter))


def _debited(founded: Founded, spent: tuple[Account, ...]) -> bool:
    """Return whether the sites' own ledgers say what their receipts do."""
    for one in spent:
        privacy = load_site(founded.site_configs[one.site]).privacy
        if privacy is None:
            return False
        ledger = open_ledger(privacy.ledger)  # verifies the chain, and that the anchor agrees
        run = ledger.run(founded.charter.charter.federation, one.run, one.site)
        heads = {entry.digest for entry in ledger.export()}
        if run is None or run.drawn != one.spending.releases or one.spending.ledger not in heads or not ledger.anchored:
            return False
    return bool(spent)


def _central(founded: Founded) -> CentralAccount | None:
    found = central_accounts(_events(founded))
    return found[0] if found else None


def recount(founded: Founded) -> tuple[Account, ...]:
    """Compute every site's epsilon again, from the server's log alone."""
    return accounts(_events(founded))


def _events(founded: Founded) -> list[tuple[int, Event]]:
    source = FolderSource(load_server(founded.server_config).log)
    reading = read_events(gather(source, Trust(founded.charter)))
    return [(one.index, one.event) for one in reading.events]
