"""The log's writer: what it keeps, what it gives back, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.audit.errors import (
    AuditError,
    CheckpointError,
    LeafError,
    LogBusyError,
    LogClosedError,
    LogCorruptError,
    NoteError,
    ProofError,
)
from counterseal.audit.tlog.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from counterseal.audit.tlog.cosignature import cosign
from counterseal.audit.tlog.journal import Journal
from counterseal.audit.tlog.log import Log
from counterseal.audit.tlog.merkle import leaf_hash, require_consistency, require_inclusion, root_of
from counterseal.audit.tlog.tiles import decode_bundle
from counterseal.trust.keys.signing import SoftwareSigner

ORIGIN = "counterseal.example/f7"
Opener = Callable[..., Log]


def numbered(start: int, end: int) -> list[bytes]:
    return [b"leaf %d" % index for index in range(start, end)]


def fill(log: Log, *sizes: int) -> None:
    """Append and publish up to each of ``sizes``."""
    for size in sizes:
        log.append(numbered(log.size, size))
        log.checkpoint()


def test_leaves_keep_their_indices_over_restarts(open_log: Opener) -> None:
    log = open_log()
    assert log.append(numbered(0, 3)) == range(0, 3)
    assert log.append([]) == range(3, 3)
    log.checkpoint()
    assert log.append(numbered(3, 600)) == range(3, 600)
    for again in (log, open_log(), open_log()):
        assert again.size == 600
        assert [again.entry(index) for index in range(600)] == numbered(0, 600)
        assert again.root(600) == root_of(numbered(0, 600))
        assert again.index_of(b"leaf 599") == 599
        assert again.index_of(b"leaf 600") is None


def test_a_leaf_appended_twice_is_found_at_its_first_place(open_log: Opener) -> None:
    log = open_log()
    log.append([b"a", b"b", b"a"])
    assert log.index_of(b"a") == 0
    assert open_log().index_of(b"a") == 0


def test_a_checkpoint_has_the_same_bytes_for_ever(open_log: Opener, signer: SoftwareSigner) -> None:
    log = open_log()
    notes = []
    for size in (0, 1, 255, 256, 257, 700):
        fill(log, size)
        notes.append(log.checkpoint())
    again = open_log()
    assert again.published_sizes == (0, 1, 255, 256, 257, 700)
    assert [again.checkpoint_at(size) for size in again.published_sizes] == notes
    assert again.checkpoint() == notes[-1]
    assert again.published == open_checkpoint(notes[-1], ORIGIN, signer.public)


def test_proofs_over_published_checkpoints(open_log: Opener, signer: SoftwareSigner) -> None:
    log = open_log()
    fill(log, 5, 256, 300)
    log = open_log()
    for old, new in ((5, 256), (5, 300), (256, 300), (300, 300)):
        a, b = (open_checkpoint(log.checkpoint_at(size), ORIGIN, signer.public) for size in (old, new))
        require_consistency(old, a.root, new, b.root, log.consistency(old, new))
        for index in (0, old - 1):
            require_inclusion(leaf_hash(log.entry(index)), index, new, log.inclusion(index, new), b.root)


def test_the_folder_is_a_tlog_tiles_folder(open_log: Opener, tmp_path: Path, signer: SoftwareSigner) -> None:
    log = open_log()
    fill(log, 7, 600)
    folder = tmp_path / "log"
    assert (folder / "checkpoint").read_bytes() == log.checkpoint_at(600)
    assert decode_bundle((folder / "tile/entries/001").read_bytes(), 256) == tuple(numbered(256, 512))
    assert decode_bundle((folder / "tile/entries/000.p/7").read_bytes(), 7) == tuple(numbered(0, 7))
    assert (folder / "tile/0/002.p/88").read_bytes() == b"".join(map(leaf_hash, numbered(512, 600)))
    assert (folder / "tile/1/000.p/2").read_bytes() == root_of(numbered(0, 256)) + root_of(numbered(256, 512))


@pytest.mark.parametrize("call", ["entry", "inclusion", "consistency", "root", "checkpoint_at", "cosignatures"])
def test_what_is_not_there(call: str, open_log: Opener) -> None:
    log = open_log()
    fill(log, 3)
    calls: dict[str, Callable[[], object]] = {
        "entry": lambda: log.entry(3),
        "inclusion": lambda: log.inclusion(0, 4),
        "consistency": lambda: log.consistency(3, 4),
        "root": lambda: log.root(4),
        "checkpoint_at": lambda: log.checkpoint_at(2),
        "cosignatures": lambda: log.add_cosignatures(2, []),
    }
    with pytest.raises((ProofError, CheckpointError)):
        calls[call]()


def test_a_leaf_too_long_appends_nothing(open_log: Opener) -> None:
    log = open_log()
    with pytest.raises(LeafError):
        log.append([b"fine", bytes(65_536)])
    assert log.size == 0
    assert log.append([bytes(65_535)]) == range(0, 1)
    assert open_log().entry(0) == bytes(65_535)


# Cosignatures and the mirror


def test_cosignatures_are_kept_beside_the_note(open_log: Opener, signer: SoftwareSigner) -> None:
    log = open_log()
    fill(log, 3)
    assert log.published is not None
    bare = log.checkpoint_at(3)
    sites = [SoftwareSigner.generate() for _ in range(3)]
    lines = [cosign(log.published, site, "site.example", 5) for site in sites]
    log.add_cosignatures(3, lines[:2])
    log.add_cosignatures(3, [lines[1], lines[2], cosign(log.published, sites[0], "site.example", 9)])
    for again in (log, open_log()):
        assert again.checkpoint_at(3) == bare
        assert again.cosignatures_at(3) == tuple(lines)
        assert again.cosigned_at(3) == bare + "".join(lines).encode()


@pytest.mark.parametrize("line", ["", "\n", "hello", "\u2014 a AAAAAAAA\n\n\u2014 b AAAAAAAA", "\u2014 a\nb AAAAAAAA"])
def test_a_line_that_is_none_is_not_stored(line: str, open_log: Opener) -> None:
    log = open_log()
    fill(log, 3)
    with pytest.raises(NoteError):
        log.add_cosignatures(3, [line])
    assert open_log().cosignatures_at(3) == ()


def test_the_mirror_gets_every_object_once(open_log: Opener, tmp_path: Path) -> None:
    log = open_log()
    store: dict[str, bytes] = {}
    for size in (0, 5, 256, 300, 600):
        fill(log, size)
        for key, data in log.mirror():
            assert key not in store
            store[key] = data
    assert list(open_log().mirror()) == []
    tiles = {
        str(p.relative_to(tmp_path / "log")): p.read_bytes() for p in (tmp_path / "log/tile").rglob("*") if p.is_file()
    }
    checkpoints = {f"checkpoint/{size}": log.checkpoint_at(size) for size in log.published_sizes}
    assert store == tiles | checkpoints


def test_an_interrupted_mirror_goes_on_with_the_same_bytes(open_log: Opener) -> None:
    log = open_log()
    fill(log, 5, 300)
    objects = list(log.mirror())
    for stop in range(len(objects)):
        log = open_log(folder=f"other{stop}")
        fill(log, 5, 300)
        store = {}
        for _, (key, data) in zip(range(stop), log.mirror(), strict=False):
            store[key] = data
        for key, data in open_log(folder=f"other{stop}").mirror():
            assert store.setdefault(key, data) == data
        assert store == dict(objects)


# Refusals


def test_one_writer(open_log: Opener, tmp_path: Path, signer: SoftwareSigner) -> None:
    open_log()
    with pytest.raises(LogBusyError):
        Log.open(tmp_path / "log", ORIGIN, signer)
    Log.open(tmp_path / "another", ORIGIN, signer).close()


def test_a_closed_log_writes_nothing(open_log: Opener) -> None:
    log = open_log()
    log.close()
    for call in (lambda: log.append([b"x"]), log.checkpoint):
        with pytest.raises(LogClosedError):
            call()


def test_the_folder_belongs_to_one_origin_and_key(open_log: Opener, signer: SoftwareSigner) -> None:
    open_log()
    with pytest.raises(LogCorruptError, match="another origin or key"):
        open_log(origin="other.example")
    with pytest.raises(LogCorruptError, match="another origin or key"):
        open_log(signer=SoftwareSigner.generate())
    with pytest.raises(NoteError):
        open_log(folder="bad", origin="a\nb")


Attack = Callable[[Path], object]


def _rewrite(name: str, change: Callable[[bytes], bytes]) -> Attack:
    def attack(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return attack


def _flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _resign(folder: Path) -> None:
    # The operator signs another tree at a size that was published: the key is right, the entries are not.
    key = fixed_key()
    (folder / "checkpoints/7").write_bytes(sign_checkpoint(Checkpoint(ORIGIN, 7, bytes(32)), key))


def fixed_key() -> SoftwareSigner:
    return SoftwareSigner(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))


ATTACKS: dict[str, Attack] = {
    "a leaf changed in a full bundle": _rewrite("tile/entries/000", _flip(100)),
    "a leaf changed in the last bundle": _rewrite("tile/entries/001.p/44", _flip(100)),
    "two leaves swapped": _rewrite("tile/entries/000", lambda d: d[8:16] + d[:8] + d[16:]),
    "a bundle truncated": _rewrite("tile/entries/000", lambda d: d[:-1]),
    "a bundle lengthened": _rewrite("tile/entries/000", lambda d: d + b"\0\0"),
    "a bundle missing": lambda folder: (folder / "tile/entries/000").unlink(),
    "the last bundle missing": lambda folder: (folder / "tile/entries/001.p/44").unlink(),
    "bundles swapped": lambda folder: shutil.copy(folder / "tile/entries/000.p/7", folder / "tile/entries/000"),
    "the checkpoint's size": _rewrite("checkpoints/300", lambda d: d.replace(b"\n300\n", b"\n299\n")),
    "the checkpoint's signature": _rewrite("checkpoints/300", lambda d: d[:-8] + b"AAAAAA=\n"),
    "an old checkpoint": _rewrite("checkpoints/7", _flip(30)),
    "an old checkpoint signed anew over another tree": _resign,
    "a checkpoint under another size": lambda folder: shutil.copy(folder / "checkpoints/7", folder / "checkpoints/8"),
    "a checkpoint larger than the entries": lambda folder: shutil.copy(
        folder / "checkpoints/300", folder / "checkpoints/301"
    ),
    "checkpoint emptied": _rewrite("checkpoints/300", lambda d: b""),
    "the journal gone": lambda folder: (folder / "journal").unlink(),
    "the origin gone": lambda folder: (folder / "origin").unlink(),
    "the first journal batch changed": _rewrite("journal", _flip(100)),
    "the first journal header changed": _rewrite("journal", _flip(20)),
    "a journal of another log": lambda folder: shutil.copy(folder.parent / "other/journal", folder / "journal"),
    "a journal with a batch cut out": _rewrite("journal", lambda d: d[_batch_end(d) :]),
}


def _batch_end(data: bytes) -> int:
    return data.index(b"CSLJRNL1", 1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_damaged_folder_is_never_signed_over(attack: str, open_log: Opener, tmp_path: Path) -> None:
    other = open_log(folder="other")
    other.append([b"foreign %d" % index for index in range(4)])
    log = open_log()
    fill(log, 7, 300)
    log.append(numbered(300, 310))
    log.close()
    ATTACKS[attack](tmp_path / "log")
    with pytest.raises(LogCorruptError):
        open_log()


def test_a_journal_that_skips_a_leaf(open_log: Opener, tmp_path: Path) -> None:
    open_log().close()
    journal, _ = Journal.open(tmp_path / "log/journal")
    journal.append(0, [b"leaf 0"])
    journal.append(2, [b"leaf 2"])
    journal.close()
    with pytest.raises(LogCorruptError, match="no leaf 1"):
        open_log()


@pytest.mark.parametrize("name", ["tile/entries/000.p/3", "tile/0/000.p/3", "checkpoints/3"])
def test_a_put_once_file_that_somebody_else_put(name: str, open_log: Opener, tmp_path: Path) -> None:
    log = open_log()
    log.append(numbered(0, 3))
    path = tmp_path / "log" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(LogCorruptError, match="other bytes"):
        log.checkpoint()
    with pytest.raises(LogClosedError):
        log.checkpoint()
    assert path.read_bytes() == b"something else"


def test_a_tree_that_went_wrong_in_memory_is_not_signed(open_log: Opener) -> None:
    log = open_log()
    fill(log, 3)
    log.append(numbered(3, 5))
    log._tree._levels[0][2 * 32] ^= 1
    with pytest.raises(LogCorruptError, match="no longer has the root"):
        log.checkpoint()
    assert open_log().root(5) == root_of(numbered(0, 5))


@pytest.mark.parametrize("name", ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "checkpoint"])
@pytest.mark.parametrize("damage", ["gone", "changed", "emptied"])
def test_derived_files_are_derived_again(name: str, damage: str, open_log: Opener, tmp_path: Path) -> None:
    log = open_log()
    fill(log, 7, 300)
    log.close()
    path = tmp_path / "log" / name
    good = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(_flip(5)(good) if damage == "changed" else b"")
    open_log()
    assert path.read_bytes() == good


def test_a_bundle_changed_while_the_log_is_open(open_log: Opener, tmp_path: Path) -> None:
    log = open_log()
    fill(log, 300)
    path = tmp_path / "log/tile/entries/000"
    path.write_bytes(_flip(3)(path.read_bytes()))
    with pytest.raises(LogCorruptError, match="leaf 0 has changed"):
        log.entry(0)
    path.write_bytes(b"")
    log.entry(299)
    with pytest.raises(LogCorruptError):
        open_log()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damaged_byte_goes_unnoticed_or_changes_history(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    signer = fixed_key()
    with Log.open(folder, ORIGIN, signer) as log:
        fill(log, 5, 9)
        log.append(numbered(9, 12))
        note = log.checkpoint_at(9)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(raw))
    try:
        with Log.open(folder, ORIGIN, signer) as log:
            assert log.checkpoint_at(9) == note
            assert [log.entry(index) for index in range(9)] == numbered(0, 9)
    except AuditError:
        pass
