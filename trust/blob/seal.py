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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
from .slabs import Feed, Lane, PartDigests, Slab
from .wraps import recipient_names, wrap_root

__all__ = ["Sealed", "seal"]

_SLAB: Final = 4
"""Segments that are encrypted and hashed in one go."""

_SLABS: Final = 4


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed blob: its signed manifest, and its ciphertext file."""

    manifest: Signed[Manifest]
    path: Path
    digest: str | None

    @property
    def plaintext_digest(self) -> str:
        """SHA-256 of the plaintext, for its maker only.

        Raises:
            BlobError: it was not asked for.
        """
        if self.digest is None:
            raise BlobError("sealed without a digest of the plaintext", where="seal")
        return self.digest


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
    digest: bool = True,
    workers: int = 2,
    probe: Probe = silent,
) -> Sealed:
    """Seal ``chunks``, the canonical bytes of parameters of ``schema`` (see `parameters.encode`), into the file ``spool``.

    ``digest`` also takes the SHA-256 of the plaintext, nearly half of the work: a new model needs it (it is the next
    version's parent), an update does not. ``workers`` of 1 does everything on the calling thread; more move the hash
    passes to threads of their own. The steps announced to ``probe`` are blob.write, blob.publish, blob.done.

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
        parts, whole = _write(chunks, schema.header(), encryptor, descriptor, digest=digest, workers=workers)
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
    return Sealed(signed, spool, whole)


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


def _write(
    chunks: Iterable[bytes | bytearray | memoryview],
    header: bytes,
    encryptor: PayloadEncryptor,
    descriptor: int,
    *,
    digest: bool,
    workers: int,
) -> tuple[tuple[str, ...], str | None]:
    geometry, feed = encryptor.geometry, Feed(chunks, header)
    parts, whole = PartDigests(part_size(geometry.ciphertext_length)), hashlib.sha256()
    slabs = [Slab(min(_SLAB, geometry.segments) * SEGMENT) for _ in range(_SLABS if workers > 1 else 1)]
    with ExitStack() as stack:
        # One thread each: a lane hashes its slabs in the order in which they were handed over.
        lanes = [stack.enter_context(Lane(threaded=workers > 1)) for _ in range(2)]
        for turn, first in enumerate(range(0, geometry.segments, _SLAB)):
            slab = slabs[turn % len(slabs)]
            slab.wait()
            plain, cipher = _encrypt(feed, encryptor, first, slab)
            slab.busy = [lanes[0].submit(parts.update, cipher)]
            if digest:
                slab.busy.append(lanes[1].submit(whole.update, plain))
            _write_all(descriptor, cipher)
        feed.finish()
        for slab in slabs:
            slab.wait()
    return parts.digests(), whole.hexdigest() if digest else None


def _encrypt(feed: Feed, encryptor: PayloadEncryptor, first: int, slab: Slab) -> tuple[memoryview, memoryview]:
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
