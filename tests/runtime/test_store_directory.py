"""The folder: crashes at every step, links planted in it, and what a site's end takes from a grant."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from counterseal.durable import silent
from counterseal.runtime.errors import (
    GrantError,
    ObjectExistsError,
    ObjectMissingError,
    StoreDamagedError,
    StoreError,
    StoreUnavailableError,
    WrongLengthError,
)
from counterseal.runtime.stores.directory import DirectoryGrantClient, DirectoryStore

MIB = 1 << 20
LONG = 17 * MIB


class Crash(BaseException):
    """The power goes: nothing of ours catches it."""


def soon() -> int:
    return int(time.time()) + 60


def crash_at(step: str) -> Callable[[str], None]:
    def probe(now: str) -> None:
        if now == step:
            raise Crash(step)

    return probe


def put_steps(root: Path, probe: Callable[[str], None], data: bytes) -> None:
    store = DirectoryStore(root, probe)
    try:
        store.put("run/blob", data)
    finally:
        store.close()


def multipart_steps(root: Path, probe: Callable[[str], None], data: bytes) -> None:
    store, client = DirectoryStore(root, probe), DirectoryGrantClient(root, probe)
    try:
        grant = store.grant_put("run/blob", length=len(data), part_size=16 * MIB, expires=soon())
        client.upload(grant, data)
        store.complete(grant.bare())
    finally:
        store.close()
        client.close()


CASES: list[tuple[Callable[[Path, Callable[[str], None], bytes], None], bytes]] = [
    (put_steps, b"whole" * 1000),
    (multipart_steps, os.urandom(LONG)),
]
STEPS: dict[Callable[..., None], tuple[str, ...]] = {
    put_steps: ("store.put.write", "store.put.publish", "store.put.sync", "store.put.done"),
    multipart_steps: (
        "store.put.write",
        "store.part.publish",
        "store.part.done",
        "store.complete.write",
        "store.complete.publish",
        "store.complete.sync",
        "store.complete.done",
    ),
}


@pytest.mark.parametrize(("run", "data"), CASES, ids=["put", "multipart"])
def test_every_step_is_announced(tmp_path: Path, run: Callable[..., None], data: bytes) -> None:
    seen: list[str] = []
    run(tmp_path, seen.append, data)
    assert tuple(seen) == STEPS[run]


@pytest.mark.parametrize(("run", "data", "step"), [(run, data, step) for run, data in CASES for step in STEPS[run]])
def test_a_crash_leaves_nothing_or_the_whole_object(
    tmp_path: Path, run: Callable[..., None], data: bytes, step: str
) -> None:
    with pytest.raises(Crash):
        run(tmp_path, crash_at(step), data)
    store = DirectoryStore(tmp_path)
    found = store.length("run/blob")
    assert found in (None, len(data))
    assert (found is not None) == step.endswith((".sync", "complete.done", "put.done"))
    run(tmp_path, silent, data)  # after the restart the same work succeeds
    assert store.get("run/blob", limit=LONG) == data
    store.close()


def _die_at(root: Path, step: str) -> None:
    def probe(now: str) -> None:
        if now == step:
            os._exit(9)

    put_steps(root, probe, b"whole" * 1000)


@pytest.mark.processes
@pytest.mark.parametrize("step", STEPS[put_steps])
def test_a_killed_process_leaves_nothing_or_the_whole_object(tmp_path: Path, step: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_at, args=(tmp_path, step))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    process.close()
    store = DirectoryStore(tmp_path)
    assert store.length("run/blob") == (None if step in ("store.put.write", "store.put.publish") else 5000)
    store.put("run/blob", b"whole" * 1000)
    left = list((tmp_path / "drafts").iterdir())
    assert store.sweep(time.time() + 60) == len(left)
    assert not list((tmp_path / "drafts").iterdir()) and store.length("run/blob") == 5000
    store.close()


def test_sweeping_spares_what_is_being_written(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    grant = store.grant_put("k", length=LONG, part_size=16 * MIB, expires=soon())
    assert store.sweep(time.time() - 3600) == 0
    store.abort(grant)
    assert not list((tmp_path / "drafts").iterdir())
    store.close()


def test_a_failed_write_leaves_no_draft(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    with pytest.raises(StoreError):
        store.put("k", tmp_path / "no such source")
    assert not list((tmp_path / "store" / "drafts").iterdir())
    store.close()


def test_complete_after_the_crash_between_link_and_tidying(tmp_path: Path) -> None:
    data = os.urandom(LONG)
    store, client = DirectoryStore(tmp_path), DirectoryGrantClient(tmp_path)
    grant = store.grant_put("k", length=LONG, part_size=16 * MIB, expires=soon())
    client.upload(grant, data)
    os.link(tmp_path / "drafts" / grant.upload, tmp_path / "objects" / "k")  # linked; the draft's name still there
    store.complete(grant.bare())
    assert store.get("k", limit=LONG) == data and not list((tmp_path / "drafts").iterdir())
    store.close()
    client.close()


def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(b"secret")
    return folder


@pytest.mark.parametrize("kind", ["file", "folder", "dangling", "fifo", "directory", "loop"])
def test_what_somebody_planted_is_neither_read_nor_written_through(tmp_path: Path, kind: str) -> None:
    target, root = outside(tmp_path), tmp_path / "store"
    store, client = DirectoryStore(root), DirectoryGrantClient(root)
    place = root / "objects" / "run"
    key = "run"
    if kind == "file":
        place.symlink_to(target / "secret")
    elif kind == "folder":
        place.symlink_to(target, target_is_directory=True)
        key = "run/secret"
    elif kind == "dangling":
        place.symlink_to(target / "created")
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    else:
        place.symlink_to(place)
        key = "run/x"
    for call in (
        lambda: store.open(key),
        lambda: store.get(key, limit=100),
        lambda: store.put(key, b"overwritten"),
        lambda: client.open(store.grant_get(key, expires=soon())),
        lambda: client.upload(store.grant_put(key, length=1, expires=soon()), b"x"),
    ):
        with pytest.raises(StoreDamagedError):
            call()
    assert [path.name for path in target.iterdir()] == ["secret"]
    assert (target / "secret").read_bytes() == b"secret"
    assert list(store.list("")) == []
    store.close()
    client.close()


def test_a_planted_draft_is_not_followed(tmp_path: Path) -> None:
    target, root = outside(tmp_path), tmp_path / "store"
    store, client = DirectoryStore(root), DirectoryGrantClient(root)
    grant = store.grant_put("k", length=LONG, part_size=16 * MIB, expires=soon())
    draft = root / "drafts" / grant.upload
    draft.unlink()
    draft.symlink_to(target / "secret")
    with pytest.raises(StoreDamagedError):
        client.upload(grant, b"x" * LONG)
    with pytest.raises(StoreDamagedError):
        store.complete(grant)
    assert (target / "secret").read_bytes() == b"secret"
    store.close()
    client.close()


@pytest.mark.parametrize(
    "upload", ["../objects/k", "/etc/passwd", "..", "0" * 31, "0" * 33, "A" * 32, "0" * 31 + "\n", "."]
)
def test_an_upload_that_is_no_draft_of_ours(tmp_path: Path, upload: str) -> None:
    store, client = DirectoryStore(tmp_path), DirectoryGrantClient(tmp_path)
    grant = store.grant_put("k", length=LONG, part_size=16 * MIB, expires=soon()).model_copy(update={"upload": upload})
    for call in (
        lambda: client.upload(grant, b"x" * LONG),
        lambda: store.complete(grant),
        lambda: store.abort(grant),
    ):
        with pytest.raises(GrantError):
            call()
    store.close()
    client.close()


def test_a_client_uses_its_own_root(tmp_path: Path) -> None:
    store, client = DirectoryStore(tmp_path / "server"), DirectoryGrantClient(tmp_path / "site")
    store.put("k", b"x")
    with pytest.raises(ObjectMissingError):
        client.open(store.grant_get("k", expires=soon()))
    client.upload(store.grant_put("mine", length=1, expires=soon()), b"y")
    assert store.length("mine") is None and (tmp_path / "site" / "objects" / "mine").read_bytes() == b"y"
    store.close()
    client.close()


def test_a_truncated_object_is_an_error_not_zeros(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("k", b"x" * 1000)
    with store.open("k") as source:
        os.truncate(tmp_path / "objects" / "k", 500)
        with pytest.raises(WrongLengthError):
            source.read_into(0, memoryview(bytearray(1000)))
    with pytest.raises(WrongLengthError):
        store.complete(store.grant_put("k", length=1000, expires=soon()))
    store.close()


def test_sharing_a_file_that_never_changes(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_bytes(os.urandom(LONG))
    store, client = DirectoryStore(tmp_path / "store"), DirectoryGrantClient(tmp_path / "store")
    store.put("small", path, unchanging=True)
    grant = store.grant_put("large", length=LONG, part_size=16 * MIB, expires=soon())
    client.upload(grant, path, unchanging=True)
    store.complete(grant)
    for key in ("small", "large"):
        assert (tmp_path / "store" / "objects" / key).samefile(path)
        assert store.get(key, limit=LONG) == path.read_bytes()
    store.put("copied", path)
    assert not (tmp_path / "store" / "objects" / "copied").samefile(path)
    assert not list((tmp_path / "store" / "drafts").iterdir())
    store.close()
    client.close()


def test_a_source_on_another_file_system_is_copied(tmp_path: Path) -> None:
    other = Path(f"/dev/shm/counterseal-{os.getpid()}-{os.urandom(4).hex()}")
    other.write_bytes(os.urandom(3 * MIB))
    try:
        store = DirectoryStore(tmp_path)
        store.put("k", other, unchanging=True)
        assert store.get("k", limit=4 * MIB) == other.read_bytes()
        store.close()
    finally:
        other.unlink()


def test_a_full_disk_is_an_error_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreUnavailableError) as caught:
        store.put("k", b"data")
    assert caught.value.retryable and store.length("k") is None
    assert not list((tmp_path / "drafts").iterdir())
    store.close()


def test_an_object_and_a_folder_of_one_name(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a/b", b"x")
    with pytest.raises(StoreDamagedError):
        store.put("a", b"x")
    with pytest.raises(StoreDamagedError):
        store.put("a/b/c", b"x")
    store.close()


def test_another_user_cannot_read(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.put("a/b", b"x")
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    store.close()


def test_the_loser_of_a_race_is_told(tmp_path: Path) -> None:
    """Another writer takes the key between our look and our link."""

    def probe(step: str) -> None:
        if step == "store.put.publish":
            (tmp_path / "objects" / "k").write_bytes(b"winner")

    store = DirectoryStore(tmp_path, probe)
    with pytest.raises(ObjectExistsError):
        store.put("k", b"loser")
    assert (tmp_path / "objects" / "k").read_bytes() == b"winner"
    assert not list((tmp_path / "drafts").iterdir())
    store.close()
