"""What whoever runs the store can do to the objects in it: met by the site that reads them, or by the server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from .play import at_server, at_site
from .table import Row
from .world import ME, OTHER, World, worlds

__all__ = ["STORAGE"]

Arrange = Callable[[World], Callable[[], None]]


def version(world: World, number: int, name: str) -> Path:
    """Return where an object of a version of the model lies."""
    return world.store / "objects" / top(name) / "run-1" / "versions" / f"{number:06d}" / name


def update(world: World, name: str, ticket: str | None = None) -> Path:
    """Return where an object of site-a's update lies."""
    return world.store / "objects" / top(name) / "run-1" / "updates" / (ticket or world.ticket) / name


def top(name: str) -> str:
    """Return the first folder of an object: payloads lie apart, because they may expire."""
    return "payloads" if name == "payload" else "runs"


def rewritten(name: str, edit: Callable[[World, bytes], bytes | None]) -> Arrange:
    """Return an arrangement in which an object of the current model reads otherwise until it is put right again."""

    def arrange(world: World) -> Callable[[], None]:
        path = version(world, 2, name)
        true = path.read_bytes()
        found = edit(world, true)
        path.unlink()
        if found is not None:
            path.write_bytes(found)

        def undo() -> None:
            path.unlink(missing_ok=True)
            path.write_bytes(true)

        return undo

    return arrange


def model(id_: str, attack: str, expected: str, name: str, edit: Callable[[World, bytes], bytes | None]) -> Row:
    """Return a row in which site-a reads the model from a store that lies; it refuses under its signature."""
    return at_site(
        id_, "storage", attack, expected, lambda world: world.delivery, arrange=rewritten(name, edit), model="alone"
    )


def flipped(data: bytes, index: int = -1) -> bytes:
    """Return ``data`` with one bit flipped."""
    index %= len(data)
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def uploaded(edit: Callable[[World, Path], None]) -> Callable[[World, str, bytes], bytes]:
    """Return a hook that changes site-a's upload between site and server."""

    def apply(world: World, site: str, answer: bytes) -> bytes:
        if site == ME and json.loads(answer)["ticket"] == world.ticket:
            edit(world, update(world, "payload"))
        return answer

    return apply


def replace_by(data: Callable[[World, bytes], bytes]) -> Callable[[World, Path], None]:
    def edit(world: World, path: Path) -> None:
        path.write_bytes(data(world, path.read_bytes()))

    return edit


def earlier_update(world: World) -> bytes:
    """Return the ciphertext of site-a's update of the version before."""
    mine = [
        key.removeprefix("ticket/")
        for key, value in world.facts().items()
        if key.startswith("ticket/") and (value["kind"], value["version"]) == ("train", 1)
    ]
    return update(world, "payload", mine[0]).read_bytes()


def prefilled(world: World) -> None:
    """Put other bytes of the right length in the place of the update before the site does."""
    path = update(world, "payload")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 284)


def stored_answer(data: Callable[[World], bytes]) -> Callable[[World], None]:
    """Return an arrangement that puts an answer into the store before the site ever answered."""

    def arrange(world: World) -> None:
        path = update(world, "answer")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data(world))

    return arrange


def others_answer(world: World) -> bytes:
    theirs = next(value["digest"] for key, value in world.facts(OTHER).items() if key.startswith("open/"))
    return update(world, "answer", theirs).read_bytes()


def after_admission() -> str:
    """Change an update after it was admitted: the commit stops before it logs anything, and goes on when the store is right."""
    import pytest

    from counterseal.trust.errors import BlobError

    with worlds() as world:
        true = world.folder.parent / "kept"

        def answers(site: str, answer: bytes) -> bytes:
            if site == world.federation.sites[-1] and not true.exists():
                path = update(world, "payload")
                shutil.copy(path, true)
                waiting.append(path)
            return answer

        waiting: list[Path] = []

        class Authorizer:
            """The group: asked about site-a for the last time just before the commit."""

            def __init__(self) -> None:
                from counterseal.trust.group import RosterAuthorizer

                self.inner = RosterAuthorizer(world.federation.roster_path, world.clock)
                self.count = 0

            def check(self, identities: frozenset[str], role: str) -> object:
                self.count += identities == frozenset({ME}) and role == "site"
                if self.count == 2 and waiting:
                    waiting[0].write_bytes(flipped(waiting[0].read_bytes()))
                    waiting.clear()
                return self.inner.check(identities, role)  # type: ignore[arg-type]

        with pytest.raises(BlobError) as caught:
            world.finish(answers=answers, authorizer=Authorizer())
        shutil.copy(true, update(world, "payload"))
        ended = world.finish()
        assert (ended.outcome, ended.model, ended.halted) == ("completed", world.model, ())
        assert world.verify() == []
        return caught.value.code


STORAGE: tuple[Row, ...] = (
    model("P2-110", "a bit of the sealed model flipped", "blob_part", "payload", lambda w, data: flipped(data)),
    model("P2-111", "the sealed model truncated", "blob_payload", "payload", lambda w, data: data[:-16]),
    model("P2-112", "the sealed model extended", "blob_payload", "payload", lambda w, data: data + b"\0" * 16),
    model("P2-113", "the sealed model deleted", "missing", "payload", lambda w, data: None),
    model(
        "P2-114",
        "the sealed model of the version before in its place",
        "blob_part",
        "payload",
        lambda w, data: version(w, 1, "payload").read_bytes(),
    ),
    model(
        "P2-115", "a bit of the model's manifest flipped", "signature", "manifest", lambda w, data: flipped(data, 30)
    ),
    model(
        "P2-116",
        "the manifest of the version before",
        "blob_place",
        "manifest",
        lambda w, data: version(w, 1, "manifest").read_bytes(),
    ),
    model("P2-117", "a manifest of two megabytes", "too_large", "manifest", lambda w, data: data + b" " * (2 << 20)),
    model("P2-118", "an empty manifest", "malformed", "manifest", lambda w, data: b""),
    model(
        "P2-119", "a site's answer in place of the manifest", "malformed", "manifest", lambda w, data: others_answer(w)
    ),
    at_server(
        "P2-120",
        "storage",
        "a bit of the uploaded update flipped",
        "blob_part",
        answers=uploaded(replace_by(lambda world, data: flipped(data))),
    ),
    at_server(
        "P2-121",
        "storage",
        "the uploaded update truncated",
        "wrong_length",
        answers=uploaded(replace_by(lambda world, data: data[:-1])),
    ),
    at_server(
        "P2-122",
        "storage",
        "the uploaded update extended",
        "wrong_length",
        answers=uploaded(replace_by(lambda world, data: data + b"\0")),
    ),
    at_server(
        "P2-123",
        "storage",
        "the uploaded update deleted",
        "missing",
        answers=uploaded(lambda world, path: path.unlink()),
    ),
    at_server(
        "P2-124",
        "storage",
        "the same site's update of an earlier version in its place",
        "blob_part",
        answers=uploaded(replace_by(lambda world, data: earlier_update(world))),
    ),
    at_server(
        "P2-125", "storage", "the place of the update filled before the site came", "blob_part", arrange=prefilled
    ),
    at_server(
        "P2-126",
        "storage",
        "garbage of the right length where the site's answer will be",
        "malformed",
        arrange=stored_answer(lambda world: b"\x80\x04" * (1 << 14)),
    ),
    at_server(
        "P2-127",
        "storage",
        "an answer object of a megabyte: as good as none",
        "counted",
        arrange=stored_answer(lambda world: b"[" * (1 << 20)),
        model="same",
    ),
    at_server(
        "P2-128",
        "storage",
        "another site's stored answer in place of the site's",
        "unknown_key",
        arrange=stored_answer(others_answer),
    ),
    Row("P2-129", "server", "storage", "an admitted update changed before the commit", "blob_part", after_admission),
)
