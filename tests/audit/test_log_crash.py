"""Kill the log at every step it announces, and cut every file where a power cut could: nothing promised is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from counterseal.audit.errors import LogClosedError, LogCorruptError
from counterseal.audit.tlog import log as log_module
from counterseal.audit.tlog.checkpoint import open_checkpoint
from counterseal.audit.tlog.cosignature import cosign
from counterseal.audit.tlog.journal import Journal
from counterseal.audit.tlog.log import Log
from counterseal.audit.tlog.merkle import require_consistency, root_of
from counterseal.trust.keys.signing import SoftwareSigner

ORIGIN = "counterseal.example/f7"
Opener = Callable[..., Log]


class Killed(BaseException):
    """The process ends here."""


class Probe:
    """Counts the steps; kills at the one it was told."""

    def __init__(self, deadly: int = -1) -> None:
        self.steps: list[str] = []
        self.deadly = deadly

    def __call__(self, step: str) -> None:
        self.steps.append(step)
        if len(self.steps) - 1 == self.deadly:
            raise Killed(step)


def batch(start: int, end: int) -> list[bytes]:
    return [b"leaf %d" % index for index in range(start, end)]


class Server:
    """A caller that keeps what it was promised and, after a restart, goes on where it stood."""

    SIZES = (3, 3, 260, 515)

    def __init__(self) -> None:
        self.acknowledged = 0
        self.notes: dict[int, bytes] = {}
        self.store: dict[str, bytes] = {}
        self.site = SoftwareSigner.generate()
        self.cosigned: set[int] = set()

    def work(self, log: Log) -> None:
        for size in self.SIZES:
            todo = [leaf for leaf in batch(self.acknowledged, size) if log.index_of(leaf) is None]
            log.append(todo)
            self.acknowledged = max(self.acknowledged, size)
            if size > max(log.published_sizes, default=0):
                self.notes[log.size] = log.checkpoint()
            checkpoint = log.published
            assert checkpoint is not None
            log.add_cosignatures(checkpoint.size, [cosign(checkpoint, self.site, "site.example", 7)])
            self.cosigned.add(checkpoint.size)
            for key, data in log.mirror():
                assert self.store.setdefault(key, data) == data

    def check(self, log: Log, signer: SoftwareSigner) -> None:
        """What was promised before the crash holds after it."""
        assert log.size >= self.acknowledged
        assert [log.entry(index) for index in range(self.acknowledged)] == batch(0, self.acknowledged)
        for size, note in self.notes.items():
            assert log.checkpoint_at(size) == note
            found = open_checkpoint(note, ORIGIN, signer.public)
            proof = log.consistency(size, log.size)
            require_consistency(size, found.root, log.size, log.root(log.size), proof)
        for size in self.cosigned:
            assert len(log.cosignatures_at(size)) == 1


@pytest.fixture(autouse=True)
def often_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_JOURNAL_LIMIT", 4_000)
    # Killing a process loses nothing that it wrote; what a power cut loses is played by cutting files, below.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_every_promise_is_synced_before_it_is_made(
    open_log: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def spy(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path / "log")
        synced.append(str(path.with_name(path.name.split(".")[1]) if path.name.endswith(".draft") else path))

    log = open_log()
    monkeypatch.setattr(os, "fsync", spy)
    log.append(batch(0, 3))
    assert synced == ["journal"]
    log.checkpoint()
    synced.clear()
    log.append(batch(3, 5))
    log.checkpoint()
    # Entries, tiles, the checkpoint, the pointer to it: each file, then the folder that names it.
    assert synced == [
        "journal",
        "tile/entries/000.p/5", "tile/entries/000.p",
        "tile/0/000.p/5", "tile/0/000.p",
        "checkpoints/5", "checkpoints",
        "checkpoint", ".",
    ]  # fmt: skip


def steps_of_one_life(open_log: Opener) -> list[str]:
    probe = Probe()
    Server().work(open_log(probe=probe, folder="rehearsal"))
    return probe.steps


def test_killed_at_every_step(open_log: Opener, signer: SoftwareSigner) -> None:
    steps = steps_of_one_life(open_log)
    kinds = {step.rsplit(".", 1)[0] for step in steps}
    assert kinds == {
        "log.journal.create", "log.origin", "log.journal", "log.journal.reset", "log.entries", "log.tile",
        "log.checkpoint", "log.latest", "log.cosignatures", "log.mirror",
    }  # fmt: skip
    for deadly in range(len(steps)):
        server, folder = Server(), f"run{deadly}"
        with pytest.raises(Killed):
            server.work(open_log(probe=Probe(deadly), folder=folder))
        server.check(log := open_log(folder=folder), signer)
        server.work(log)
        server.check(log := open_log(folder=folder), signer)
        assert log.size == 515, steps[deadly]
        assert log.root(515) == root_of(batch(0, 515))
        assert {key for key in server.store if key.startswith("tile/entries/")} >= {
            "tile/entries/000", "tile/entries/001", "tile/entries/002.p/3",
        }  # fmt: skip


def test_killed_twice_in_recovery(open_log: Opener, tmp_path: Path, signer: SoftwareSigner) -> None:
    server = Server()
    server.work(open_log())
    damaged = tmp_path / "log/tile/0/000"
    for deadly in range(20):
        for path in (damaged, tmp_path / "log/checkpoint"):
            path.write_bytes(b"torn")
        with (tmp_path / "log/journal").open("ab") as file:
            file.write(b"torn")
        probe = Probe(deadly)
        try:
            open_log(probe=probe)
        except Killed:
            server.check(open_log(), signer)
            continue
        assert deadly == len(probe.steps) > 5
        break


def test_after_a_failed_write_the_log_says_so_until_it_is_opened_again(open_log: Opener) -> None:
    probe = Probe()
    log = open_log(probe=probe)
    log.append(batch(0, 3))
    probe.deadly = len(probe.steps) + 1
    with pytest.raises(Killed):
        log.append(batch(3, 5))
    for call in (lambda: log.append([b"x"]), log.checkpoint):
        with pytest.raises(LogClosedError, match="failed half-way"):
            call()
    assert log.entry(2) == b"leaf 2"
    assert open_log().append([b"x"]).start in (3, 5)


def test_a_journal_cut_at_every_byte_of_its_last_batch(open_log: Opener, tmp_path: Path) -> None:
    log = open_log()
    log.append(batch(0, 3))
    journal = tmp_path / "log/journal"
    first = journal.stat().st_size
    log.append(batch(3, 6))
    log.close()
    whole = journal.read_bytes()
    for end in range(first, len(whole)):
        journal.write_bytes(whole[:end])
        log = open_log()
        assert log.size == 3
        assert journal.stat().st_size == first
        assert log.append(batch(3, 4)) == range(3, 4)
        assert open_log().size == 4


def test_pages_of_the_last_batch_lost_in_any_order(open_log: Opener, tmp_path: Path) -> None:
    log = open_log()
    log.append(batch(0, 3))
    journal = tmp_path / "log/journal"
    first = journal.stat().st_size
    log.append([os.urandom(30_000)])
    log.close()
    whole = journal.read_bytes()
    for page in range(first, len(whole), 4096):
        holed = bytearray(whole)
        holed[page : page + 4096] = bytes(len(holed[page : page + 4096]))
        journal.write_bytes(bytes(holed))
        log = open_log()
        assert log.size == 3
        assert [log.entry(index) for index in range(3)] == batch(0, 3)


def test_damage_before_the_last_batch_is_not_mistaken_for_a_torn_tail(open_log: Opener, tmp_path: Path) -> None:
    log = open_log()
    for start in range(0, 9, 3):
        log.append(batch(start, start + 3))
    log.close()
    journal = tmp_path / "log/journal"
    whole = journal.read_bytes()
    last = whole.rindex(b"CSLJRNL1")
    for at in range(last):
        journal.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(LogCorruptError):
            open_log()
    assert journal.read_bytes() != whole, "a refused journal is left as it was found"


def test_leaves_that_contain_headers_are_only_leaves(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal.create(path)
    journal, _ = Journal.open(path)
    journal.append(0, [b"x"])
    header = path.read_bytes()
    journal.append(1, [header, header * 2])
    journal.close()
    with path.open("r+b") as file:  # tear the last batch: the headers inside it claim another place
        file.truncate(path.stat().st_size - 1)
    journal, batches = Journal.open(path)
    journal.close()
    assert [one.leaves for one in batches] == [(b"x",)]
