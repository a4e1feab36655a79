"""Whatever bytes anybody sends: every reader meets every poison, in a child with little memory and little time.

A row is one reader. It passes if each poison meets a typed error within its time, whose text a terminal or a log file can show
safely, and if nothing was written, above all not the canary that the pickled and the YAML poisons try to create.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import signal
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counterseal.audit.events import open_event, peek_event
from counterseal.audit.tlog.checkpoint import open_checkpoint
from counterseal.audit.tlog.cosignature import CosignedCheckpoint
from counterseal.audit.tlog.note import Note
from counterseal.audit.tlog.policy import Policy
from counterseal.audit.tlog.proof import LogProof
from counterseal.audit.tlog.tiles import decode_bundle
from counterseal.audit.tlog.witness import WitnessState
from counterseal.errors import CountersealError
from counterseal.parameters import Schema, check_header, decode
from counterseal.runtime.config import load_run, load_server, load_site
from counterseal.runtime.delivery import Answer, Delivery
from counterseal.runtime.founding.charter_folder import read_charter_folder
from counterseal.runtime.server.correspondence.receipts import read_answer
from counterseal.runtime.stores.grants import Grant
from counterseal.runtime.transports.frames import read_frame
from counterseal.trust.blob.manifest import Place, read_manifest
from counterseal.trust.canonical import canonical, parse
from counterseal.trust.charter.signing import read_charter, verify_charter
from counterseal.trust.charter.yaml_file import load_charter_draft
from counterseal.trust.dsse import read
from counterseal.trust.group import load_roster
from counterseal.trust.keys.custody import create_folder, load_folder
from counterseal.trust.keys.passphrase import Passphrase
from counterseal.trust.keys.statement import verify_statement
from counterseal.trust.mailbox import read_message
from counterseal.trust.tickets import open_ticket

from .table import Row
from .world import CONFIG, ME, SERVER, World, worlds

__all__ = ["INPUT"]

Reader = Callable[[World, bytes], Any]

MEMORY = 1 << 30
"""Bytes of address space that a child may take beyond what it was born with."""
SECONDS = 5

ODD = "\u202e\x1b[31m\nWARNING forged line\r\x07"


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def poisons(canary: Path, many: int = 50_000) -> dict[str, bytes]:
    """Return what is fed to every reader; ``many`` is how many entries the long ones have."""
    odd = json.dumps(ODD)
    return {
        "nothing": b"",
        "a zero byte": b"\0",
        "a pickle": pickle.dumps(_Canary(canary)),
        "an old pickle": pickle.dumps(_Canary(canary), 0),
        "a YAML constructor": f"!!python/object/apply:os.system ['touch {canary}']\n".encode(),
        "a YAML bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 110)),
        "ten megabytes of brackets": b"[" * 10_000_000,
        "a deep list": b"[" * 100_000 + b"]" * 100_000,
        "a deep mapping": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        "a deep YAML list": b"- " * 20_000,
        "not UTF-8": b"\xff\xfe\xfd\x80",
        "UTF-16": "{}".encode("utf-16"),
        "a name twice": b'{"ticket":null,"ticket":null}',
        "not a number": b'{"ticket":NaN}',
        "infinity": b'{"ticket":1e999}',
        "a huge integer": b'{"ticket":' + b"9" * 400_000 + b"}",
        "half a surrogate pair": b'{"ticket":"\\ud800"}',
        "many entries": b"{" + b",".join(b'"k%d":0' % i for i in range(many)) + b"}",
        "many list entries": b"[" + b"0," * many + b"0]",
        "a name that a terminal obeys": f"{{{odd}: 1}}".encode(),
        "a value that a terminal obeys": f'{{"ticket": {odd}, "federation": {odd}}}'.encode(),
        "the same in clear": ODD.encode(),
        "a header of an exabyte": (1 << 60).to_bytes(8, "little") + b"{}",
        "a header of 50 MB": (50_000_000).to_bytes(8, "little") + b"{" * 100,
        "a huge frame": b"99999999999999\n",
        "a null": b"null",
        "a number": b"1e400",
        "line feeds": b"\n" * 5 * many,
    }


def through_file(name: str, reader: Callable[[World, Path], Any]) -> Reader:
    """Return a reader of a file."""

    def apply(world: World, data: bytes) -> Any:
        path = world.folder.parent / name
        path.write_bytes(data)
        path.chmod(0o600)
        try:
            return reader(world, path)
        finally:
            path.unlink()

    return apply


def key(world: World) -> Any:
    return world.federation.keys[SERVER].signer.public


def delivery(world: World, data: bytes) -> None:
    """A site answers everything; what it answers must be a typed fault."""
    with world.federation.site(ME) as site:
        answer = Answer.from_json(parse(site.handle(data)))
    assert answer.fault is not None
    assert answer.fault.code != "site_failed"
    raise CountersealError(answer.fault.code)


def inside_delivery(field: str) -> Reader:
    """Return a site as a reader of a member of a delivery that is else as it should be."""

    def apply(world: World, data: bytes) -> None:
        text = data.decode("utf-8", "replace")[:300_000]
        value = world.json()
        if field == "leaf":
            value["leaves"][0]["leaf"] = text
        elif field == "note":
            value["witnessed"]["note"] = text
        else:
            value[field] = [text] if field == "objects" else text
        delivery(world, canonical(value))

    return apply


def passphrase() -> Passphrase:
    return Passphrase(b"correct horse battery")


def key_file(name: str) -> Reader:
    """Return a reader of a key folder in which one file is poisoned."""

    def apply(world: World, data: bytes) -> Any:
        path = world.folder.parent / "keys" / name
        true = path.read_bytes()
        path.write_bytes(data)
        try:
            return load_folder(path.parent, passphrase())
        finally:
            path.write_bytes(true)

    return apply


def charter_file(world: World, data: bytes) -> Any:
    folder = world.folder.parent / "charter"
    folder.mkdir()
    (folder / "charter.json").write_bytes(data)
    try:
        return read_charter_folder(folder, now=world.clock())
    finally:
        (folder / "charter.json").unlink()
        folder.rmdir()


def manifest(world: World, data: bytes) -> Any:
    charter = world.federation.charter
    place = Place(
        suite=charter.charter.suite, federation="test-federation", charter=charter.digest, run="run-1", version=2,
        ticket=None, kind="global", sender=SERVER, parent=None, schema_digest="0" * 64,
    )  # fmt: skip
    return read_manifest(data, place=place, sender=key(world), now=None)


def schema(world: World) -> Schema:
    return Schema.of(world.federation.first_parameters(CONFIG))


def statement(world: World, data: bytes) -> Any:
    return verify_statement(data, federation="test-federation", log_origin="fed.example/log", now=world.clock())


def message(world: World, path: Path) -> Any:
    return read_message(path, lambda identity, key_id: key(world), federation="test-federation", now=world.clock())


def log_key(world: World) -> Any:
    found = world.federation.keys[SERVER].checkpoint
    assert found is not None
    return found.public


def ticket(world: World, data: bytes) -> Any:
    digest = world.federation.charter.digest
    return open_ticket(data, key(world), federation="test-federation", charter=digest, site=ME, now=0)


def signature(world: World, data: bytes) -> Any:
    charter = world.federation.charter
    return verify_charter(charter.raw, [data], now=world.clock())


def attempt(world: World, reader: Reader, data: bytes) -> str:
    """Return the code that the poison met, or what was wrong."""
    begun = time.monotonic()
    signal.alarm(SECONDS)
    try:
        reader(world, data)
    except CountersealError as error:
        shown = f"{error} {error!r}"
        bad = [c for c in str(error) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"]
        if bad or "forged line\n" in shown or "\nWARNING" in str(error):
            return f"!unsafe text {ascii(str(error))[:200]}"
        return error.code if error.code != "error" else error.what
    except BaseException as error:  # noqa: BLE001 - that is the question
        return f"!{type(error).__name__}: {ascii(str(error))[:200]}"
    finally:
        signal.alarm(0)
        if time.monotonic() - begun > SECONDS:
            os._exit(9)
    return "!accepted"


_ALL = len(poisons(Path("canary"), 1))
_FEW = ("nothing", "a pickle", "an old pickle", "not UTF-8", "the same in clear")


def fed(id_: str, what: str, expected: str, reader: Reader, *, many: int = 50_000, few: bool = False) -> Row:
    """Return the row of one reader; a slow one (its key derivation is meant to be) is fed ``few``."""

    def play() -> str:
        with worlds() as world:
            canary = world.folder.parent / "canary"
            create_folder(world.folder.parent / "keys", world.federation.keys[ME], passphrase())
            before = world.files()
            fare = {name: data for name, data in poisons(canary, many).items() if not few or name in _FEW}
            found = in_child(lambda: {name: attempt(world, reader, data) for name, data in fare.items()})
            assert not canary.exists()
            assert world.files() == before
            assert sorted(path.name for path in world.folder.parent.iterdir()) == ["fed", "keys"]
            wrong = {name: code for name, code in found.items() if code.startswith("!")}
            assert not wrong, wrong
            return " ".join(sorted(set(found.values())))

    return Row(id_, "everybody", "peer", f"{len(_FEW) if few else _ALL} poisons as {what}", expected, play)


def in_child(work: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Return what ``work`` returns in a child with little memory; a child that dies is a failure."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            with os.fdopen(writing, "w") as pipe:
                json.dump(work(), pipe)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - the parent is told by the status
            os.write(2, ascii(error).encode())
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}"
    found: dict[str, str] = json.loads(text)
    return found


INPUT: tuple[Row, ...] = (
    fed("P10-001", "a delivery", "malformed", delivery),
    fed("P10-002", "the ticket in a delivery", "malformed", inside_delivery("ticket")),
    fed("P10-003", "the checkpoint in a delivery", "checkpoint", inside_delivery("checkpoint")),
    fed("P10-004", "a leaf in a delivery", "proof", inside_delivery("leaf")),
    fed("P10-005", "the cosigned checkpoint in a delivery", "checkpoint", inside_delivery("note")),
    fed("P10-006", "the schema in a delivery", "blob_place", inside_delivery("objects")),
    fed("P10-007", "an answer", "malformed", lambda world, data: read_answer(data)),
    fed("P10-008", "a ticket", "malformed", ticket),
    fed("P10-009", "a receipt or another leaf", "malformed", lambda world, data: open_event(data, key(world))),
    fed("P10-010", "a leaf before its signature is checked", "malformed", lambda world, data: peek_event(data)),
    fed("P10-011", "a manifest", "malformed", manifest),
    fed(
        "P10-012",
        "a checkpoint",
        "checkpoint",
        lambda world, data: open_checkpoint(data, "fed.example/log", log_key(world)),
    ),
    fed(
        "P10-013",
        "a cosigned checkpoint",
        "checkpoint",
        lambda world, data: CosignedCheckpoint.open(data, "fed.example/log", log_key(world)),
    ),
    fed("P10-014", "a signed note", "note", lambda world, data: Note.parse(data)),
    fed("P10-015", "a proof of inclusion (tlog-proof)", "proof", lambda world, data: LogProof.parse(data)),
    fed("P10-016", "a bundle of leaves", "proof", lambda world, data: decode_bundle(data, 3)),
    fed("P10-017", "a witness's state", "malformed", lambda world, data: WitnessState.from_bytes(data, log_key(world))),
    fed(
        "P10-018", "a witness policy", "policy", lambda world, data: Policy.parse(data.decode("utf-8", "replace") + "?")
    ),
    fed("P10-019", "a DSSE envelope", "malformed", lambda world, data: read(data)),
    fed(
        "P10-020",
        "the configuration of a run",
        "config",
        through_file("run.yaml", lambda world, path: load_run(path)),
        many=5_000,
    ),
    fed(
        "P10-021",
        "the configuration of a site",
        "config",
        through_file("site.yaml", lambda world, path: load_site(path)),
        many=5_000,
    ),
    fed(
        "P10-022",
        "the configuration of a server",
        "config",
        through_file("server.yaml", lambda world, path: load_server(path)),
        many=5_000,
    ),
    fed("P10-023", "a charter", "charter", lambda world, data: read_charter(data), many=5_000),
    fed(
        "P10-024",
        "a draft of a charter",
        "charter",
        through_file("charter.yaml", lambda world, path: load_charter_draft(path, now=world.clock())),
        many=5_000,
    ),
    fed("P10-025", "a charter's folder", "charter", charter_file),
    fed("P10-026", "a signature under a charter", "charter", signature),
    fed("P10-027", "a roster", "malformed", lambda world, data: load_roster(data, file="roster.yaml"), many=5_000),
    fed("P10-028", "a mailbox file", "malformed", through_file("revocation.counterseal.json", message)),
    fed("P10-029", "a key statement", "malformed", statement),
    fed("P10-030", "the index of a key folder", "custody", key_file("custody.json")),
    fed("P10-031", "an encrypted key", "custody", key_file("sign.pem"), few=True),
    fed(
        "P10-032",
        "the header of parameters (safetensors)",
        "schema",
        lambda world, data: check_header(schema(world), data),
    ),
    fed("P10-033", "parameters (safetensors)", "schema", lambda world, data: decode(schema(world), data)),
    fed("P10-034", "a schema", "malformed schema", lambda world, data: Schema.from_json(parse(data))),
    fed("P10-035", "a grant", "malformed", lambda world, data: Grant.from_json(parse(data))),
    fed(
        "P10-036",
        "a frame on a pipe",
        "transport",
        lambda world, data: read_frame(io.BytesIO(data + b"x")) and Delivery.from_json(parse(b"")),
    ),
)
