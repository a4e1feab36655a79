"""Sealing: a stream of plaintext becomes a ciphertext file and a signed manifest.

    chunks -> slab of 4 segments -> AES-GCM -> spool file        two hash lanes follow behind, each on a thread of its own:
                  \\-> SHA-256 of the plaintext   \\-> SHA-256 of each part

Guarantees:

- Memory is four slabs (32 MiB) at any size. Each slab is copied from the chunk once, so the bytes that are hashed are the
  bytes that are encrypted even if the producer reuses its buffer.
- The plaintext starts with the schema's canonical header and has exactly its length, or nothing is made.
- The root lives in this call's memory only. The spool holds ciphertext, mode 0600, fsynced before it gets its name, and the
  name must be free: a blob that a journal knows is never overwritten. A failed seal leaves no file; a killed one may leave
  a hidden ``.draft``, which nobody can open, because the root died with the process.

Not handled here: the journal (who calls this writes manifest and path down before anything is uploaded), policy, budget.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ...durable import Probe, silent, sync_folder
from ...errors import ParametersError
from ...parameters import Schema
from ..documents import Signed, sign
from ..errors import BlobError
from ..keys.sealing import SealingKey
from ..keys.signing import Signer
from .keys import BlobKeys
from .manifest import Context, Manifest, Place, part_size
from .payload import SEGMENT, PayloadEncryptor
from .wraps import recipient_names, wrap_root

__all__ = ["Sealed", "seal"]

_SLAB: Final = 4
"""Segments that are encrypted and hashed in one go."""

_SLABS: Final = 4


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed blob: its signed manifest, its ciphertext file, and the SHA-256 of its plaintext (for its maker only)."""

    manifest: Signed[Manifest]
    path: Path
    plaintext_digest: str


def seal(
    chunks: Iterable[bytes | bytearray | memoryview],
    *,
    schema: Schema,
    place: Place,
    recipients: Sequence[SealingKey],
    signer: Signer,
    spool: Path,
    expires: int,
    ledger_head: str | None = None,
    workers: int = 2,
    probe: Probe = silent,
) -> Sealed:
    """Seal ``chunks``, the canonical bytes of parameters of ``schema`` (see `parameters.encode`), into the file ``spool``.

    ``workers`` of 1 does everything on the calling thread; more move the two hash passes to threads of their own. The
    steps announced to ``probe`` are blob.write, blob.publish, blob.done.

    Raises:
        ParametersError: the chunks are not the canonical bytes of ``schema``, or ``place`` names another schema.
        RecipientError: no recipient, one twice, or one with a key of another suite.
        BlobError: ``spool`` exists.
    """
    if schema.digest != place.schema_digest:
        raise ParametersError("the place names another schema than the one given", where="seal")
    context = Context(
        **place.model_dump(),
        format="counterseal-blob/v1",
        sender_key=signer.public.key_id,
        recipients=recipient_names(recipients, place.suite),
        plaintext_length=schema.total_bytes,
        ledger_head=ledger_head,
    )
    keys = BlobKeys.generate()
    encryptor = PayloadEncryptor(keys.tink, context.binding, schema.total_bytes)
    with _draft(spool, probe) as (descriptor, publish):
        parts, digest = _write(chunks, schema.header(), encryptor, descriptor, workers)
        manifest = Manifest(
            context=context,
            wraps=wrap_root(keys, context, recipients),
            commitment=keys.commitment.hex(),
            part_size=part_size(encryptor.geometry.ciphertext_length),
            parts=parts,
            expires=expires,
            rewraps=None,
        )
        signed = sign(manifest, signer)
        publish()
    return Sealed(signed, spool, digest)


@contextmanager
def _draft(spool: Path, probe: Probe) -> Iterator[tuple[int, Callable[[], None]]]:
    draft = spool.with_name(f".{spool.name}.{os.getpid()}.{os.urandom(4).hex()}.draft")

    def publish() -> None:
        os.fsync(descriptor)
        probe("blob.publish")
        try:
            os.link(draft, spool)  # fails if the name is taken, even against a racing writer
        except FileExistsError:
            raise BlobError(
                "the spool file exists", where=spool.name, remedy="Remove it if no journal names it, and seal again."
            ) from None

    probe("blob.write")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor, publish
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
    sync_folder(spool.parent)
    probe("blob.done")


class _Feed:
    """Chunks of any size, handed out in any other sizes, their first bytes held to ``header``."""

    def __init__(self, chunks: Iterable[bytes | bytearray | memoryview], header: bytes) -> None:
        self._chunks = (view for chunk in chunks if (view := memoryview(chunk).cast("B")))
        self._rest = memoryview(b"")
        self._header = memoryview(header)

    def fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            self._rest = self._rest or next(self._chunks, memoryview(b""))
            if not self._rest:
                raise ParametersError(f"the chunks end {len(view) - done} or more bytes too early", where="seal")
            count = min(len(self._rest), len(view) - done)
            view[done : done + count] = self._rest[:count]
            self._rest, done = self._rest[count:], done + count
        head = self._header[: len(view)]
        if view[: len(head)] != head:
            raise ParametersError("the chunks do not start with the schema's canonical header", where="seal")
        self._header = self._header[len(head) :]

    def finish(self) -> None:
        if self._rest or next(self._chunks, None) is not None:
            raise ParametersError("the chunks are longer than the schema", where="seal")


class _Parts:
    """SHA-256 of each part of a stream."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._hash = hashlib.sha256()
        self._done: list[str] = []

    def update(self, view: memoryview) -> None:
        while view:
            piece, view = view[: self._left], view[self._left :]
            self._hash.update(piece)
            self._left -= len(piece)
            if self._left == 0:
                self._close()

    def _close(self) -> None:
        self._done.append(self._hash.hexdigest())
        self._hash, self._left = hashlib.sha256(), self._size

    def digests(self) -> tuple[str, ...]:
        if self._left < self._size:
            self._close()
        return tuple(self._done)


class _Slab:
    """Plaintext and ciphertext of some segments, and the hashing that must end before they are used again."""

    def __init__(self, size: int) -> None:
        self.plain = np.empty(size, np.uint8).data
        self.cipher = np.empty(size, np.uint8).data
        self.busy: list[Future[None]] = []

    def wait(self) -> None:
        for future in self.busy:
            future.result()
        self.busy = []


def _write(
    chunks: Iterable[bytes | bytearray | memoryview],
    header: bytes,
    encryptor: PayloadEncryptor,
    descriptor: int,
    workers: int,
) -> tuple[tuple[str, ...], str]:
    geometry, feed = encryptor.geometry, _Feed(chunks, header)
    parts, whole = _Parts(part_size(geometry.ciphertext_length)), hashlib.sha256()
    slabs = [_Slab(min(_SLAB, geometry.segments) * SEGMENT) for _ in range(_SLABS if workers > 1 else 1)]
    with ExitStack() as stack:
        # One thread each: a lane hashes its slabs in the order in which they were handed over.
        lanes = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2)] if workers > 1 else []
        for turn, first in enumerate(range(0, geometry.segments, _SLAB)):
            slab = slabs[turn % len(slabs)]
            slab.wait()
            plain, cipher = _encrypt(feed, encryptor, first, slab)
            if lanes:
                slab.busy = [lanes[0].submit(whole.update, plain), lanes[1].submit(parts.update, cipher)]
                _write_all(descriptor, cipher)
            else:
                _write_all(descriptor, cipher)
                whole.update(plain)
                parts.update(cipher)
        feed.finish()
        for slab in slabs:
            slab.wait()
    return parts.digests(), whole.hexdigest()


def _encrypt(feed: _Feed, encryptor: PayloadEncryptor, first: int, slab: _Slab) -> tuple[memoryview, memoryview]:
    geometry = encryptor.geometry
    stop = min(first + _SLAB, geometry.segments)
    base, origin = geometry.plain(first)[0], first * SEGMENT
    plain = slab.plain[: geometry.plain(stop - 1)[1] - base]
    feed.fill(plain)
    if first == 0:
        slab.cipher[: len(encryptor.header)] = encryptor.header
    for index in range(first, stop):
        (begin, end), (start, after) = geometry.plain(index), geometry.cipher(index)
        encryptor.encrypt_into(plain[begin - base : end - base], slab.cipher[start - origin : after - origin])
    return plain, slab.cipher[: geometry.cipher(stop - 1)[1] - origin]


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]
