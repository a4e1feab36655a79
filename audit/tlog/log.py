"""The log's writer: a folder that is the authority on what happened.

    <folder>/origin                  whose log this is: origin and vkey (a guard against a wrong path, not a trust root)
    <folder>/journal                 leaves acknowledged since the last checkpoint (`audit.tlog.journal`)
    <folder>/tile/...                tiles and entry bundles (`audit.tlog.tiles`)
    <folder>/checkpoints/<size>      every checkpoint ever signed, written once
    <folder>/cosignatures/<size>     the witnesses' lines for it
    <folder>/checkpoint              the latest, for tools that read tlog-tiles
    <folder>/mirrored                the last checkpoint whose objects the store has
    <folder>/lock                    held (flock) by the one writer

What it guarantees, and why:

1. When `Log.append` returns, its leaves survive a power cut at their indices: the journal is synced first.
2. A checkpoint is published after everything that proves it: entries, then tiles, then ``checkpoints/<size>``, then
   ``checkpoint``, each file and its folder synced before the next. So a reader who has a checkpoint has its tiles.
3. No two checkpoints of this folder contradict each other: opening re-hashes every leaf, compares the root at *every*
   size ever signed, and refuses (`LogCorruptError`) to go on from anything else; signing checks the last one again.
4. The bytes for a size never change: the note is signed once and stored; cosignatures lie beside it.
5. Opening is idempotent: a torn journal tail is cut off, tiles are derived again from the entries, and a process killed
   between any two steps finds the leaves it was promised (`Log.index_of` tells a restarted caller which).

After an exception inside a write the file's state is unknown, and a failed fsync must not be retried; the log then
refuses further writes (`LogClosedError`) until it is opened anew.

What it does NOT handle: a restored older copy of the whole folder is consistent with itself, and only witnesses notice
it; what a leaf says is not looked at (`audit.verify`); threads: one at a time. Memory is 64 bytes and an index entry per
leaf, about 0.2 KB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from ...durable import Probe, silent
from ...trust.keys.signing import Signer
from ..errors import CheckpointError, LogClosedError, LogCorruptError, ProofError
from .checkpoint import Checkpoint, log_key, open_checkpoint, sign_checkpoint
from .folder import RESTORE, LogFolder
from .journal import Batch, Journal
from .merkle import leaf_hash
from .note import NoteSignature
from .tiles import WIDTH, Tile, encode_bundle, entry_bundles, hash_tiles, require_leaf
from .tree import Tree

__all__ = ["Log"]

_JOURNAL_LIMIT = 8 << 20


class Log:
    """The open log of one origin; make it with `Log.open`."""

    def __init__(self, folder: LogFolder, origin: str, signer: Signer) -> None:
        self._folder = folder
        self._origin = origin
        self._signer = signer
        self._journal: Journal | None = None
        self._closed = False
        self._tree = Tree()
        self._index: dict[bytes, int] = {}
        # Leaves from the last multiple of 256 under the published checkpoint on; the rest is read from full bundles.
        self._recent: list[bytes] = []
        self._recent_start = 0
        self._bundle: tuple[int, tuple[bytes, ...]] = (-1, ())
        self._notes: dict[int, bytes] = {}
        self._cosignatures: dict[int, tuple[str, ...]] = {}
        self._published: Checkpoint | None = None
        self._mirrored = -1

    @classmethod
    def open(cls, folder: Path, origin: str, signer: Signer, *, probe: Probe = silent) -> Log:
        """Create or recover the log ``origin`` in ``folder``; ``signer`` holds its Ed25519 checkpoint key.

        Raises:
            LogBusyError: another process has it open.
            LogCorruptError: the folder is another log's, contradicts itself, or contradicts a published checkpoint.
            NoteError: an origin that cannot name a key, or a key that is not Ed25519.
        """
        identity = f"{origin}\n{log_key(origin, signer.public).vkey()}\n".encode()  # refuses a bad name or key
        log = cls(LogFolder(folder, probe), origin, signer)
        try:
            log._folder.identify(identity)
            log._load_published()
            log._journal, batches = Journal.open(folder / "journal", probe=probe)
            log._replay(batches)
            log._repair()
        except BaseException:
            log.close()
            raise
        return log

    def close(self) -> None:
        """Release the lock. Nothing is pending: every call has synced what it promised."""
        self._closed = True
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._folder.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Reading

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._origin

    @property
    def size(self) -> int:
        """How many leaves were appended, under a checkpoint or not."""
        return self._tree.size

    @property
    def published(self) -> Checkpoint | None:
        """The latest checkpoint."""
        return self._published

    @property
    def published_sizes(self) -> tuple[int, ...]:
        """The size of every checkpoint, rising."""
        return tuple(sorted(self._notes))

    def root(self, size: int) -> bytes:
        """Return the root of the first ``size`` leaves: bytes[32]; `ProofError` if there are fewer."""
        return self._tree.root(size)

    def index_of(self, leaf: bytes) -> int | None:
        """Return the index at which ``leaf`` was first appended, or None: how a restarted caller avoids doing it twice."""
        return self._index.get(leaf_hash(leaf))

    def entry(self, index: int) -> bytes:
        """Return a leaf, its hash checked.

        Raises:
            ProofError: there is no such leaf.
            LogCorruptError: its bundle was damaged since the log was opened.
        """
        if not 0 <= index < self.size:
            raise ProofError(f"no leaf {index} in a log of {self.size}")
        if index >= self._recent_start:
            return self._recent[index - self._recent_start]
        if self._bundle[0] != index // WIDTH:
            self._bundle = (index // WIDTH, self._folder.bundle(Tile(0, index // WIDTH)))
        leaf = self._bundle[1][index % WIDTH]
        if leaf_hash(leaf) != self._tree.node(0, index):
            raise LogCorruptError(f"leaf {index} has changed on disk", where=str(self._folder.path), remedy=RESTORE)
        return leaf

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the proof that leaf ``index`` is in the tree of the first ``size`` leaves; `ProofError` if it is not."""
        return self._tree.inclusion(index, size)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that ``new`` leaves begin with the ``old`` ones; `ProofError` if old > new or new > size."""
        return self._tree.consistency(old, new)

    def checkpoint_at(self, size: int) -> bytes:
        """Return the signed note published for ``size``, without cosignatures.

        Raises:
            CheckpointError: none was published for this size.
        """
        if size not in self._notes:
            raise CheckpointError(f"no checkpoint was published at {size} leaves", where=self._origin)
        return self._notes[size]

    def cosignatures_at(self, size: int) -> tuple[str, ...]:
        """Return the witnesses' lines stored for the checkpoint of ``size``, in order of arrival."""
        self.checkpoint_at(size)
        return self._cosignatures.get(size, ())

    def cosigned_at(self, size: int) -> bytes:
        """Return the note published for ``size`` with every cosignature stored; `CheckpointError` if there is none."""
        return self.checkpoint_at(size) + "".join(self.cosignatures_at(size)).encode()

    # Writing

    def append(self, leaves: Sequence[bytes]) -> range:
        """Append ``leaves`` (each at most 65,535 bytes) as one batch and return their indices, all durable.

        Raises:
            LeafError: a leaf is too long; none was appended.
            LogClosedError: an earlier write failed.
        """
        for leaf in leaves:
            require_leaf(leaf)
        first = self.size
        if leaves:
            with self._writing() as journal:
                journal.append(first, leaves)
            self._absorb(leaves)
        return range(first, self.size)

    def checkpoint(self) -> bytes:
        """Publish and return the signed note for the present size; the same size has the same bytes for ever.

        Raises:
            LogCorruptError: the tree no longer holds the last published root, or a put-once file holds other bytes.
            LogClosedError: an earlier write failed.
        """
        size = self.size
        if size in self._notes:
            return self._notes[size]
        since = self._published.size if self._published else 0
        with self._writing() as journal:
            self._require_same_tree()
            for tile in entry_bundles(size, since=since):
                self._folder.place(tile.entries_path(), encode_bundle(self._leaves(tile)), "log.entries")
            for tile in hash_tiles(size, since=since):
                self._folder.place(tile.path(), self._tree.tile(tile), "log.tile")
            checkpoint = Checkpoint(self._origin, size, self._tree.root(size))
            note = sign_checkpoint(checkpoint, self._signer)
            self._folder.place(f"checkpoints/{size}", note, "log.checkpoint")
            self._folder.replace("checkpoint", note, "log.latest")
            if journal.length > _JOURNAL_LIMIT:
                journal.reset()
        self._notes[size] = note
        self._published = checkpoint
        self._forget_before(size - size % WIDTH)
        return note

    def add_cosignatures(self, size: int, lines: Iterable[str]) -> None:
        """Store witnesses' ``lines`` with the checkpoint of ``size``; a key's second line is ignored.

        The caller has verified them (`audit.tlog.cosignature.require_cosignature`): a line that does not hold would make
        every verifier who knows the key reject the whole note.

        Raises:
            CheckpointError: no checkpoint of this size.
            NoteError: not a signature line.
            LogClosedError: an earlier write failed.
        """
        stored = self.cosignatures_at(size)
        merged = {(one.name, one.id): one.line() for one in map(NoteSignature.from_line, stored)}
        for one in map(NoteSignature.from_line, lines):
            merged.setdefault((one.name, one.id), one.line())
        if len(merged) == len(stored):
            return
        with self._writing():
            self._folder.replace(f"cosignatures/{size}", "".join(merged.values()).encode(), "log.cosignatures")
        self._cosignatures[size] = tuple(merged.values())

    def mirror(self) -> Iterator[tuple[str, bytes]]:
        """Yield (object key, bytes) of everything published that the store does not have yet, each to be put once.

        Asking for the next object says that the last one is stored; a checkpoint's objects count as mirrored when the
        iteration goes on past its note. An interrupted mirror yields some objects again, with the same bytes.
        """
        for size in self.published_sizes:
            if size <= self._mirrored:
                continue
            since = max(self._mirrored, 0)
            for tile in entry_bundles(size, since=since):
                yield tile.entries_path(), encode_bundle(self._leaves(tile))
            for tile in hash_tiles(size, since=since):
                yield tile.path(), self._tree.tile(tile)
            yield f"checkpoint/{size}", self._notes[size]
            with self._writing():
                self._folder.replace("mirrored", b"%d\n" % size, "log.mirror")
            self._mirrored = size

    @contextmanager
    def _writing(self) -> Iterator[Journal]:
        journal = self._journal
        if self._closed or journal is None:
            raise LogClosedError(
                "the log was closed, or an earlier write failed half-way", where=self._origin, remedy="Open it again."
            )
        self._closed = True  # stays so if the body raises
        yield journal
        self._closed = False

    def _require_same_tree(self) -> None:
        last = self._published
        if last is not None and self._tree.root(last.size) != last.root:
            raise LogCorruptError(
                f"the tree no longer has the root published at {last.size}", where=self._origin, remedy=RESTORE
            )

    def _leaves(self, tile: Tile) -> list[bytes]:
        start = tile.index * WIDTH
        return [self.entry(index) for index in range(start, start + tile.width)]

    def _absorb(self, leaves: Sequence[bytes]) -> None:
        hashes = [leaf_hash(leaf) for leaf in leaves]
        for index, found in enumerate(hashes, self.size):
            self._index.setdefault(found, index)
        self._tree.extend(hashes)
        self._recent += leaves

    def _forget_before(self, index: int) -> None:
        del self._recent[: index - self._recent_start]
        self._recent_start = index

    # Recovery

    def _load_published(self) -> None:
        self._notes = self._folder.numbered("checkpoints")
        if not self._notes:
            return
        size = max(self._notes)
        for tile in entry_bundles(size):
            self._absorb(self._folder.bundle(tile))
            self._forget_before(self.size - self.size % WIDTH)
        for at in sorted(self._notes):
            self._published = self._require_published(at, self._notes[at])
        for at, lines in self._folder.numbered("cosignatures").items():
            self._cosignatures[at] = tuple(lines.decode("utf-8", "replace").splitlines(keepends=True))
        done = (self._folder.read("mirrored") or b"").strip()
        self._mirrored = int(done) if done.isdigit() else -1  # mirroring again is harmless

    def _require_published(self, size: int, note: bytes) -> Checkpoint:
        where = str(self._folder.path / f"checkpoints/{size}")
        try:
            found = open_checkpoint(note, self._origin, self._signer.public)
        except CheckpointError as error:
            raise LogCorruptError(error.what, where=where, remedy=RESTORE) from None
        if found.size != size or found.root != self._tree.root(size):
            raise LogCorruptError("the entries do not hash to this checkpoint", where=where, remedy=RESTORE)
        return found

    def _replay(self, batches: list[Batch]) -> None:
        where = str(self._folder.path / "journal")
        for batch in batches:
            known = max(0, min(len(batch.leaves), self.size - batch.first))
            for index, leaf in enumerate(batch.leaves[:known], batch.first):
                if leaf_hash(leaf) != self._tree.node(0, index):
                    raise LogCorruptError(f"leaf {index} differs from the published one", where=where, remedy=RESTORE)
            if batch.first > self.size:
                raise LogCorruptError(f"no leaf {self.size}", where=where, remedy=RESTORE)
            self._absorb(batch.leaves[known:])

    def _repair(self) -> None:
        if self._published is None:
            return
        for tile in hash_tiles(self._published.size):
            self._folder.derive(tile.path(), self._tree.tile(tile), "log.repair")
        self._folder.derive("checkpoint", self._notes[self._published.size], "log.latest")
