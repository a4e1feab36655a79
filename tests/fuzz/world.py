"""A real run of a real federation, whose bytes seed the targets; and the state of a site before each delivery to it."""

from __future__ import annotations

import atexit
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from counterseal.audit.tlog.log import Log
from counterseal.runtime.site.site import Site
from counterseal.tests.federation import SERVER, DirectTransport, Federation, run_config
from counterseal.trust.dsse import read

__all__ = ["ME", "VECTORS", "Scene", "World", "folder", "payload_of", "vectors", "world"]

VECTORS = Path(__file__).parent.parent / "vectors"
ME = "site-a@fed.example"


@dataclass(frozen=True, slots=True)
class Scene:
    """A delivery to `ME` as the server sent it, and a copy of the site's state from just before."""

    state: Path
    delivery: bytes

    @property
    def ticket(self) -> str:
        """The ticket's envelope."""
        return str(json.loads(self.delivery)["ticket"])


@dataclass(frozen=True, slots=True)
class World:
    """The federation after its run."""

    federation: Federation
    scenes: tuple[Scene, ...]
    deliveries: tuple[bytes, ...]
    answers: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    notes: tuple[bytes, ...]
    bundle: bytes
    manifests: tuple[bytes, ...]


def folder() -> Path:
    """Return a new folder that goes when the process does."""
    path = Path(tempfile.mkdtemp(prefix="counterseal-fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def vectors(name: str) -> Any:
    """Return a JSON file of tests/vectors."""
    return json.loads((VECTORS / name).read_text())


def payload_of(raw: bytes) -> bytes:
    """Return the payload of an envelope."""
    return read(raw).payload


@cache
def world() -> World:
    """Play the run once in this process."""
    logging.getLogger("counterseal").setLevel(logging.CRITICAL)
    root = folder()
    federation = Federation.make(root / "federation", auditor=True)
    sites: dict[str, Site] = {name: federation.site(name) for name in federation.sites}
    scenes: list[Scene] = []
    answers: list[bytes] = []

    def before(site: str, delivery: bytes) -> bytes:
        if site == ME:
            state = root / f"state-{len(scenes)}"
            shutil.copytree(federation.folder / ME, state)
            scenes.append(Scene(state, delivery))
        return delivery

    def after(_site: str, answer: bytes) -> bytes:
        answers.append(answer)
        return answer

    transport = DirectTransport(sites, meddle=before, answers=after)
    config = run_config(rounds=2)
    with federation.server(transport) as server:
        server.run(config, federation.first_parameters(config))
    for site in sites.values():
        site.close()
    return _read(federation, tuple(scenes), tuple(one[2] for one in transport.seen), tuple(answers))


def _read(
    federation: Federation, scenes: tuple[Scene, ...], deliveries: tuple[bytes, ...], answers: tuple[bytes, ...]
) -> World:
    signer = federation.keys[SERVER].checkpoint
    if signer is None:
        raise AssertionError("the server's keys have the log's")
    with Log.open(federation.log_folder, federation.charter.charter.log_origin, signer) as log:
        leaves = tuple(log.entry(index) for index in range(log.size))
        notes = tuple(log.cosigned_at(size) for size in log.published_sizes)
    bundles = sorted((federation.log_folder / "tile" / "entries").rglob("*"))
    manifests = tuple(json.loads(one)["manifest"] for one in answers if json.loads(one)["manifest"])
    return World(
        federation,
        scenes,
        deliveries,
        answers,
        leaves,
        notes,
        next(path.read_bytes() for path in reversed(bundles) if path.is_file()),
        tuple(one.encode() for one in manifests),
    )
