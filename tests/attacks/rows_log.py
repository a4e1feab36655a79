"""What the holder of a log can do to it, and what a server can write into it, before a verifier looks (`audit.verify`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import (
    AggregateCommit,
    Event,
    KeyRotate,
    MemberAdd,
    MemberRemove,
    ModelRelease,
    ReceiptFile,
    RoundOpen,
    RunEnd,
    TicketIssue,
    UpdateAdmit,
)
from counterseal.audit.tlog.checkpoint import Checkpoint, sign_checkpoint
from counterseal.audit.verify import verify
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.statement import make_statement

from .forge import Forger
from .rows_storage import flipped
from .table import Row
from .world import ME, OTHER, SERVER, World, worlds

__all__ = ["LOG"]

FORGED = "f" * 64


def failures(world: World, folder: Path) -> str:
    """Return the obligations that fail for the copy in ``folder``."""
    source = FolderSource(folder)
    findings = verify(source, Trust(world.federation.charter, objects=source.objects()))
    assert all(row.status is not Status.PASS or row.id for row in findings.rows)
    return " ".join(row.id for row in findings.rows if row.status is Status.FAIL)


def copied(id_: str, attack: str, expected: str, edit: Callable[[World, Path], Any]) -> Row:
    """Return a row in which somebody edits a copy of the log's folder."""

    def play() -> str:
        with worlds("ended") as world:
            assert failures(world, world.federation.log_folder) == ""
            copy = world.folder.parent / "copy"
            shutil.copytree(world.federation.log_folder, copy)
            edit(world, copy)
            return failures(world, copy)

    return Row(id_, "verifier", "log holder", attack, f"obligation {expected}", lambda: f"obligation {play()}")


def told(
    id_: str,
    attack: str,
    expected: str,
    change: Callable[[World, Event], Any],
    more: Callable[[World], Any] = lambda w: (),
) -> Row:
    """Return a row in which the server, with its real keys, wrote the log otherwise from version 2 on (or added to its end)."""

    def play() -> str:
        with worlds("ended") as world:
            forged = Forger(world, lambda event: change(world, event), more(world), seen=44)
            forged.log.close()
            return failures(world, forged.folder)

    return Row(id_, "verifier", "server", attack, f"obligation {expected}", lambda: f"obligation {play()}")


def latest(folder: Path, pattern: str) -> Path:
    """Return the file of the largest tree."""
    return max(folder.glob(pattern), key=lambda path: int(path.name))


def rewrite(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.write_bytes(edit(path.read_bytes()))


def swap(folder: Path) -> None:
    path = latest(folder, "tile/entries/*.p/*")
    data = path.read_bytes()
    first, second = (data[2 : 2 + int.from_bytes(data[:2], "big")], b"")
    rest = data[2 + len(first) :]
    second = rest[2 : 2 + int.from_bytes(rest[:2], "big")]
    head = b"".join(len(one).to_bytes(2, "big") + one for one in (second, first))
    path.write_bytes(head + data[len(head) :])


def forked(world: World, folder: Path) -> None:
    """Sign, with the log's own key, another root for a size in the middle."""
    keys = world.federation.keys[SERVER]
    assert keys.checkpoint is not None
    origin = world.federation.charter.charter.log_origin
    note = sign_checkpoint(Checkpoint(origin, 12, b"\x01" * 32), keys.checkpoint)
    (folder / "checkpoints" / "12").write_bytes(note)


def foreign(world: World, folder: Path) -> None:
    keys = world.federation.keys[ME]
    path = latest(folder, "checkpoints/*")
    size, root = path.read_text().split("\n")[1:3]
    import base64

    checkpoint = Checkpoint(world.federation.charter.charter.log_origin, int(size), base64.b64decode(root))
    path.write_bytes(sign_checkpoint(checkpoint, keys.signer))


def on(kind: type[Event], edit: Callable[[Any], Any], /, **fields: Any) -> Callable[[World, Event], Any]:
    """Return a rewriting of the events of ``kind`` with these fields."""

    def change(world: World, event: Event) -> Any:
        wanted = isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        return edit(event) if wanted else event

    return change


def same(world: World, event: Event) -> Event:
    return event


def now(world: World) -> dict[str, Any]:
    return {"federation": "test-federation", "actor": SERVER, "time": world.clock()}


def rotated() -> str:
    """Log a key statement in a member's name, made with keys of the server's own, and put it beside the log."""
    with worlds("ended") as world:
        charter = world.federation.charter.charter
        statement = make_statement(
            MemberKeys.generate(charter.suite),
            federation=charter.federation,
            identity=OTHER,
            log_origin=charter.log_origin,
            not_before=world.clock() - 10,
            not_after=world.clock() + 1000,
        )
        forged = Forger(world, more=[KeyRotate(**now(world), identity=OTHER, statement=statement.digest)], seen=44)
        forged.log.close()
        (forged.folder / "objects").mkdir(exist_ok=True)
        (forged.folder / "objects" / f"{sha256(statement.raw)}.json").write_bytes(statement.raw)
        return f"obligation {failures(world, forged.folder)}"


def first_input(**values: Any) -> Callable[[Any], Any]:
    return lambda commit: commit.model_copy(
        update={"inputs": (commit.inputs[0].model_copy(update=values), *commit.inputs[1:])}
    )


LOG: tuple[Row, ...] = (
    copied(
        "P7-080",
        "a bit of the last checkpoint flipped",
        "1",
        lambda w, f: rewrite(latest(f, "checkpoints/*"), lambda data: flipped(data, -20)),
    ),
    copied(
        "P7-081",
        "an older checkpoint under a larger size",
        "1",
        lambda w, f: shutil.copy(f / "checkpoints" / "12", latest(f, "checkpoints/*")),
    ),
    copied("P7-082", "the last checkpoint signed with a member's own key", "1", foreign),
    copied(
        "P7-083",
        "a byte of a leaf changed",
        "2 3 4 6 7 13",
        lambda w, f: rewrite(latest(f, "tile/entries/*.p/*"), lambda data: flipped(data, 100)),
    ),
    copied(
        "P7-084",
        "the leaves cut off",
        "2 7",
        lambda w, f: rewrite(latest(f, "tile/entries/*.p/*"), lambda data: data[:-100]),
    ),
    copied("P7-085", "the leaves deleted", "2 7", lambda w, f: latest(f, "tile/entries/*.p/*").unlink()),
    copied("P7-086", "two leaves exchanged", "2 3 4 7 13", lambda w, f: swap(f)),
    copied("P7-087", "another root signed by the log for a size in the middle (fork)", "3 5", forked),
    copied(
        "P7-088",
        "a hash of a tile changed",
        "4",
        lambda w, f: rewrite(latest(f, "tile/0/*.p/*"), lambda data: flipped(data, 40)),
    ),
    copied("P7-089", "all checkpoints deleted", "1 7", lambda w, f: shutil.rmtree(f / "checkpoints")),
    told(
        "P7-100",
        "the last commit with another weight",
        "10 13",
        on(AggregateCommit, first_input(weight=7.5), version=2),
    ),
    told(
        "P7-101",
        "the last commit with a manifest that was not admitted",
        "10 13",
        on(AggregateCommit, first_input(manifest=FORGED), version=2),
    ),
    told(
        "P7-102",
        "an admitted update left out of the last commit",
        "10 13",
        on(AggregateCommit, lambda e: e.model_copy(update={"inputs": e.inputs[1:]}), version=2),
    ),
    told(
        "P7-103",
        "an update counted twice",
        "10 13",
        on(AggregateCommit, lambda e: e.model_copy(update={"inputs": (*e.inputs, e.inputs[0])}), version=2),
    ),
    told("P7-104", "a receipt dropped", "9 10 13", on(ReceiptFile, lambda e: None, actor=ME, version=2, kind="train")),
    told("P7-105", "a verdict dropped", "10 13", on(UpdateAdmit, lambda e: None, site=ME, version=2)),
    told(
        "P7-106",
        "a ticket that was never issued",
        "9 10 13",
        on(TicketIssue, lambda e: None, site=ME, version=2, kind="train"),
    ),
    told("P7-107", "the round never opened", "8 10 13", on(RoundOpen, lambda e: None, version=2)),
    told(
        "P7-108",
        "a commit on another model",
        "11 13",
        on(AggregateCommit, lambda e: e.model_copy(update={"parent": FORGED}), version=2),
    ),
    told(
        "P7-109",
        "the release of another model than the last commit made",
        "11 13",
        on(ModelRelease, lambda e: e.model_copy(update={"model": FORGED})),
    ),
    told(
        "P7-110",
        "a site counted without the group's word",
        "12 13",
        on(AggregateCommit, lambda e: e.model_copy(update={"decisions": e.decisions[:1]}), version=2),
    ),
    told(
        "P7-111",
        "a removed member counted",
        "6 9 10 13",
        on(
            RoundOpen,
            lambda e: (MemberRemove(federation=e.federation, actor=SERVER, time=e.time, identity=ME, reason="left"), e),
            version=2,
        ),
    ),
    told(
        "P7-112",
        "a member added with other keys than the charter's",
        "7",
        same,
        lambda w: [MemberAdd(**now(w), identity=ME, roles=("site",), statement=FORGED)],
    ),
    Row(
        "P7-113",
        "verifier",
        "server",
        "a member's keys rotated to keys that its previous key did not sign",
        "obligation 6",
        rotated,
    ),
    told(
        "P7-114",
        "a second end of the run",
        "8 11",
        same,
        lambda w: [RunEnd(**now(w), run="run-1", version=3, model=FORGED, outcome="completed", witnessed=True)],
    ),
)
