"""Who reads what was not meant for it: the cloud, the wire, a stolen disk, a stolen key, a stolen grant."""

from __future__ import annotations

import base64
import json
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from counterseal.audit.events import RunStart, peek_event
from counterseal.errors import CountersealError
from counterseal.parameters import Schema, decode
from counterseal.runtime.server.start import forget_run_key, start_run
from counterseal.runtime.stores.directory import DirectoryGrantClient, DirectoryStore
from counterseal.runtime.stores.seam import RangedSource
from counterseal.trust.blob.manifest import Manifest
from counterseal.trust.blob.open import open_blob
from counterseal.trust.documents import Signed, parse_document
from counterseal.trust.dsse import read
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.sealing import OpeningKey

from ..federation import trainer_of
from .rows_group import status
from .table import Row
from .world import CONFIG, ME, OTHER, SERVER, Wire, World, worlds

__all__ = ["SECRECY"]

WINDOW = 12


def secrets(world: World) -> set[bytes]:
    """Return pieces of every plaintext of the run: the final model, and what each site trained from version 0."""
    schema = Schema.of(world.federation.first_parameters(CONFIG))
    first = world.federation.first_parameters(CONFIG)
    plain: list[bytes] = []
    for name in world.federation.sites:
        kept = (world.folder / name / "models" / "run-1.safetensors").read_bytes()
        plain += [array.tobytes() for array in decode(schema, kept).values()]
        after = trainer_of(CONFIG, name).train(first, seed=CONFIG.seed, round_number=0).parameters
        plain += [(after[key] - first[key]).tobytes() for key in first]
    pieces = {data[i : i + WINDOW] for data in plain for i in range(0, len(data) - WINDOW + 1, 4)}
    return {piece for piece in pieces if len(set(piece)) > 4}


def found_in(data: bytes, pieces: set[bytes]) -> bool:
    """Return whether a piece lies in ``data``, in binary, base64 or hexadecimal."""
    texts = [data]
    return any(piece in text for text in texts for piece in pieces) or any(
        piece.hex().encode() in data for piece in pieces
    )


def search(*places: str) -> Callable[[], str]:
    """Return a play that searches the files under these folders for plaintext."""

    def play() -> str:
        with worlds("ended") as world:
            pieces = secrets(world)
            assert len(pieces) > 50
            control = (world.folder / ME / "models" / "run-1.safetensors").read_bytes()
            assert found_in(control, pieces)  # the search finds what is there
            searched = 0
            for place in places:
                for path in (world.folder / place).rglob("*"):
                    if path.is_file() and path.parent.name != "models":
                        searched += 1
                        assert not found_in(path.read_bytes(), pieces), path
            assert searched > 2
            return "nothing found"

    return play


def wire() -> str:
    """Listen to everything that the transport carries."""
    with worlds("ended") as world:
        pieces = secrets(world)
        assert len(world.past) >= 20
        assert not any(found_in(raw, pieces) for _, _, raw in world.past)
    heard: list[bytes] = []
    with worlds() as world:

        def answers(site: str, answer: bytes) -> bytes:
            heard.append(answer)
            return answer

        world.finish(answers=answers)
        assert len(heard) >= 8
        assert not any(found_in(raw, pieces) for raw in heard)
    return "nothing found"


def leaves() -> str:
    """Read the log: no norm, no coefficient, no metric of anybody stands in it in clear."""
    with worlds("ended") as world:
        with closing(sqlite3.connect(world.folder / "server" / "server.sqlite")) as table:
            facts = {key: json.loads(value) for key, value in table.execute("SELECT key, value FROM facts")}
            openings = [value["value"] for key, value in facts.items() if key.startswith("coefficient/")]
            statistics = [value["value"] for key, value in facts.items() if key.startswith("statistics/")]
            events = [
                read(json.loads(value).encode()).payload
                for key, value in table.execute("SELECT key, value FROM facts WHERE key LIKE 'leaf/%'")
            ]
        log = b"".join(event for event in events if b'"run.start"' not in event)  # which metrics there are is no secret
        assert len(log) > 10_000
        assert len(openings) == 12
        assert len(statistics) == 12
        values = [*openings, *(str(one["norm"]) for one in statistics)]
        values += [struct.pack(">f", one["norm"]).hex() for one in statistics]
        assert not [value for value in values if value.encode() in log]
        assert b'"accuracy"' not in log
        return "nothing found"


def in_clear() -> str:
    """Search wire and store for the salts of what was opened to one party only: where a salt is, the value is beside it."""
    heard: list[bytes] = []
    with worlds() as world:

        def answers(site: str, answer: bytes) -> bytes:
            heard.append(answer)
            return answer

        world.finish(answers=answers)
        heard += [raw for _, _, raw in world.past]
        heard += [path.read_bytes() for path in (world.store / "objects").rglob("*") if path.is_file()]
        with closing(sqlite3.connect(world.folder / "server" / "server.sqlite")) as table:
            found = {key: json.loads(value) for key, value in table.execute("SELECT key, value FROM facts")}
        salts = [value["salt"] for key, value in found.items() if key.startswith(("coefficient/", "statistics/"))]
        for name in world.federation.sites:
            kept = [value for key, value in world.facts(name).items() if key.startswith("receipt/")]
            salts += [value["metrics"]["salt"] for value in kept if value["metrics"] is not None]
        assert len(salts) > 30
        assert not [salt for salt in salts for data in heard if salt.encode() in data]
    return "nothing found"


def update_of(world: World, site: str = OTHER) -> tuple[Signed[Manifest], RangedSource, Schema]:
    """Return the last sealed update of ``site``, as a thief of the store finds it."""
    kept = [value for key, value in world.facts(site).items() if key.startswith("receipt/") and value["manifest"]]
    raw = kept[-1]["manifest"].encode()
    manifest = parse_document(Manifest, read(raw).payload)
    source = DirectoryStore(world.store, clock=world.clock).open(
        f"payloads/run-1/updates/{manifest.context.ticket}/payload"
    )
    schema = Schema.of(world.federation.first_parameters(CONFIG)).floats()
    return Signed(manifest, sha256(read(raw).payload), "", raw), source, schema


def opened_with(key: Callable[[World], OpeningKey]) -> Callable[[], str]:
    """Return a play that tries to open a stored update with another key."""

    def play() -> str:
        with worlds("ended") as world:
            manifest, source, schema = update_of(world)
            with pytest.raises(CountersealError) as caught:
                open_blob(manifest, source, key(world), schema).read()
            return caught.value.code

    return play


def auditor_opens(world: World) -> None:
    manifest, source, schema = update_of(world)
    assert len(open_blob(manifest, source, world.federation.keys["auditor@fed.example"].opening, schema).read()) > 0


def removed_reader() -> str:
    """A member that was removed before the commit takes the next model from the store with its own key."""
    with worlds("train-1") as world:
        status(world, "removed")
        world.finish()
        store = DirectoryStore(world.store, clock=world.clock)
        manifest = parse_document(
            Manifest, read(store.get("runs/run-1/versions/000003/manifest", limit=1 << 20)).payload
        )
        source = store.open("payloads/run-1/versions/000003/payload")
        schema = Schema.of(world.federation.first_parameters(CONFIG))
        with pytest.raises(CountersealError) as caught:
            open_blob(Signed(manifest, "", "", b""), source, world.federation.keys[ME].opening, schema).read()
        theirs = open_blob(Signed(manifest, "", "", b""), source, world.federation.keys[OTHER].opening, schema).read()
        assert sha256(theirs) != world.model  # the others can; it is the model without the removed member
        return caught.value.code


def forgotten() -> str:
    """Steal the server's disk and its long-term key after the run's key was erased."""
    with worlds("ended") as world, world.federation.server(Wire({}, clock=world.clock)) as server:
        office = server._office
        wrapped = str(office.journal.get("run-1/key"))
        disk = (world.folder / "server").rglob("*")
        assert any(path.is_file() and wrapped[100:160].encode() in path.read_bytes() for path in disk)
        auditor_opens(world)
        forget_run_key(office, "run-1")
        parameters = world.federation.first_parameters(CONFIG)
        with pytest.raises(CountersealError) as caught:
            start_run(office, CONFIG, parameters, world.model)
        for path in (world.folder / "server").rglob("*"):
            assert not path.is_file() or wrapped[100:160].encode() not in path.read_bytes(), path.name
        return caught.value.code


def grants() -> Iterator[tuple[str, str, str]]:
    """Yield (id, attack, code) of what the holder of a stolen grant tries, with what it meets."""
    yield "P3-020", "a stolen grant to read, after it expired", "grant"
    yield "P3-021", "a stolen grant to read, used to write", "grant"
    yield "P3-022", "a stolen grant to write, for other bytes where some lie", "exists"
    yield "P3-023", "a stolen grant to write, for longer bytes", "wrong_length"
    yield "P3-024", "a stolen grant whose key was changed to a path outside the store", "malformed"


def stolen(id_: str) -> Callable[[], str]:
    def play() -> str:
        from counterseal.runtime.stores.grants import Grant

        with worlds() as world:
            value = world.json()["grants"]
            client = DirectoryGrantClient(world.store, clock=world.clock)
            before = world.files()
            with pytest.raises(CountersealError) as caught:
                if id_ == "P3-020":
                    world.clock.advance(1000)
                    client.open(Grant.from_json(value["payload"]))
                elif id_ == "P3-021":
                    client.upload(Grant.from_json(value["payload"]), b"")
                elif id_ == "P3-022":
                    grant = Grant.from_json(value["update"])
                    client.upload(grant, b"a" * (grant.length or 0))
                    before = world.files()
                    client.upload(grant, b"b" * (grant.length or 0))
                elif id_ == "P3-023":
                    grant = Grant.from_json(value["update"])
                    client.upload(grant, b"a" * ((grant.length or 0) + 1))
                else:
                    Grant.from_json(value["payload"] | {"key": "../../server/server.sqlite"})
            assert world.files() == before
            return caught.value.code

    return play


def readable_by_others() -> str:
    """Another account of the machine looks into the folders of keys and state."""
    with worlds("ended") as world:
        for name in (*world.federation.sites, "server"):
            folder = world.folder / name
            assert folder.stat().st_mode & 0o077 == 0, name
        return "closed folder"


def _site_key(world: World) -> OpeningKey:
    return world.federation.keys[ME].opening


def _server_key(world: World) -> OpeningKey:
    return world.federation.keys[SERVER].opening


def _run_key_of_another(world: World) -> OpeningKey:
    start = next(
        event
        for _, _, raw in world.past
        for leaf in json.loads(raw)["leaves"]
        if isinstance(event := peek_event(leaf["leaf"].encode()), RunStart)
    )
    assert base64.b64decode(start.seal_key)
    return OpeningKey.generate(start.suite)


SECRECY: tuple[Row, ...] = (
    Row(
        "P3-001",
        "everybody",
        "storage",
        "search every object of the store for plaintext",
        "nothing found",
        search("store"),
    ),
    Row("P3-002", "everybody", "network", "search all deliveries and answers for parameters", "nothing found", wire),
    Row("P3-003", "everybody", "thief", "search the server's disk for plaintext", "nothing found", search("server")),
    Row(
        "P3-004",
        "everybody",
        "thief",
        "search a site's spool and state for its update",
        "nothing found",
        search(ME, OTHER),
    ),
    Row(
        "P3-005",
        "everybody",
        "log holder",
        "search the log for norms, coefficients and metrics",
        "nothing found",
        leaves,
    ),
    Row(
        "P3-006",
        "everybody",
        "site",
        "open another site's update with one's own key",
        "blob_recipient",
        opened_with(_site_key),
    ),
    Row(
        "P3-007",
        "everybody",
        "thief",
        "open an update with the server's long-term key alone",
        "blob_recipient",
        opened_with(_server_key),
    ),
    Row(
        "P3-008",
        "everybody",
        "thief",
        "open an update with the key of another run",
        "blob_recipient",
        opened_with(_run_key_of_another),
    ),
    Row(
        "P3-009",
        "everybody",
        "member",
        "open a model that was made after one's removal",
        "blob_recipient",
        removed_reader,
    ),
    Row(
        "P3-010",
        "server",
        "thief",
        "the server's disk and long-term key, after the run's key was erased",
        "run",
        forgotten,
    ),
    Row("P3-011", "everybody", "thief", "another account reads the state folders", "closed folder", readable_by_others),
    Row(
        "P3-012",
        "everybody",
        "storage",
        "search deliveries, answers and store for metrics and coefficients",
        "nothing found",
        in_clear,
    ),
    *(Row(id_, "everybody", "thief", attack, code, stolen(id_)) for id_, attack, code in grants()),
)
