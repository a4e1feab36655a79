"""Opening: a trusted manifest, a store that may lie, a private key; out come parameters or an error.

Obligations, in this order:

 1. the schema is the one that the context names, and its length the one that the context signs;
 2. a rewrap comes with its original and agrees with it (`rewrap`), anything else comes alone;
 3. the store holds exactly the signed number of bytes;
 4. this key's wrap opens under the context, and the root fits the commitment, before a byte of payload is read;
 5. per part: read once into a private buffer, hash that buffer, compare, and only then decrypt from that same buffer, so
    a store that answers differently on a second read gains nothing;
 6. the safetensors header equals the schema's canonical one, byte for byte, before a tensor byte is given out.

`Opened.read` returns nothing before all of it holds. `Opened.stream` gives out plaintext that is **provisional** until
`PlaintextStream.finish` has returned: each byte was authenticated, but a later part may yet fail, so a consumer keeps and
publishes nothing before.

Memory: ``workers`` + 1 part buffers, but no more than 96 MiB of them (one, when parts are larger), and one segment. Parts
are 16 MiB up to a payload of 4 GiB. With several workers, parts are read and hashed ahead on that many threads while the
calling thread decrypts.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import numpy as np

from ...parameters import Schema, check_header
from ..documents import Signed
from ..errors import BlobError, PartDigestError, PayloadError, PlaceError
from ..keys.sealing import OpeningKey
from .keys import BlobKeys
from .manifest import Manifest
from .payload import HEADER, SEGMENT, Geometry, PayloadDecryptor
from .rewrap import require_original
from .source import RangedSource
from .wraps import unwrap_root

__all__ = ["Opened", "PlaintextStream", "open_blob"]

_BUDGET: Final = 96 << 20
"""Bytes of part buffers at most, unless a single part is larger."""


def open_blob(
    manifest: Signed[Manifest],
    source: RangedSource,
    key: OpeningKey,
    schema: Schema,
    *,
    original: Signed[Manifest] | None = None,
    workers: int = 1,
) -> Opened:
    """Open the blob that ``manifest`` (from `read_manifest`) describes, as far as its keys; `Opened` reads the payload.

    Raises:
        PlaceError: another schema, or ``original`` is not the manifest that is handed on.
        PayloadError: another number of bytes than signed.
        RecipientError: not sealed for ``key``.
        CommitmentError: sealed for ``key`` with another root than the one committed to.
    """
    document = manifest.document
    if document.context.schema_digest != schema.digest or document.context.plaintext_length != schema.total_bytes:
        raise PlaceError("sealed for another schema, or with another length than it has", where="manifest")
    first = require_original(manifest, original)
    if source.length != document.length:
        raise PayloadError(f"{source.length} bytes are stored where {document.length} are signed", where="payload")
    keys = unwrap_root(document, key)
    return Opened(document, source, schema, keys, first.context.binding, workers)


@dataclass(frozen=True)
class Opened:
    """A blob whose root this reader holds; its payload is still to be read."""

    manifest: Manifest
    source: RangedSource
    schema: Schema
    keys: BlobKeys = field(repr=False)
    binding: bytes
    workers: int = 1

    def read(self) -> memoryview:
        """Return the whole plaintext (header and tensors, read-only) after all of it was verified; see `parameters.decode`.

        Raises:
            PartDigestError: stored bytes differ from the manifest.
            PayloadError: a segment does not decrypt.
            HeaderError: the header is not the schema's canonical one.
        """
        whole = np.empty(self.manifest.context.plaintext_length, np.uint8)
        view = whole.data
        geometry, index = Geometry(len(whole)), 0
        for decryptor, base, part in self._decryptors():
            while index < geometry.segments and geometry.cipher(index)[0] < base + len(part):
                begin, end = geometry.plain(index)
                self._decrypt(decryptor, index, base, part, view[begin:end])
                index += 1
        check_header(self.schema, view)
        whole.flags.writeable = False
        return whole.data

    def stream(self, *, digest: bool = False) -> PlaintextStream:
        """Return the tensors' bytes as a stream that is provisional until finished; ``digest`` adds a SHA-256 pass."""
        return PlaintextStream(self, digest=digest)

    def segments(self) -> Generator[memoryview, None, None]:
        """Yield the plaintext of each segment, provisional, valid until the next one."""
        geometry = Geometry(self.manifest.context.plaintext_length)
        buffer = np.empty(SEGMENT, np.uint8).data
        index = 0
        for decryptor, base, part in self._decryptors():
            while index < geometry.segments and geometry.cipher(index)[0] < base + len(part):
                begin, end = geometry.plain(index)
                self._decrypt(decryptor, index, base, part, buffer[: end - begin])
                yield buffer[: end - begin]
                index += 1

    def _decrypt(self, decryptor: PayloadDecryptor, index: int, base: int, part: memoryview, out: memoryview) -> None:
        begin, end = decryptor.geometry.cipher(index)
        decryptor.decrypt_into(index, part[begin - base : end - base], out)

    def _decryptors(self) -> Generator[tuple[PayloadDecryptor, int, memoryview], None, None]:
        decryptor, base = None, 0
        for part in self._parts():
            if decryptor is None:
                length = self.manifest.context.plaintext_length
                decryptor = PayloadDecryptor(self.keys.tink, self.binding, length, bytes(part[:HEADER]))
            yield decryptor, base, part
            base += len(part)

    def _parts(self) -> Generator[memoryview, None, None]:
        """Yield every part, read and verified; a part is valid until the next one."""
        size, count = min(self.manifest.part_size, self.manifest.length), len(self.manifest.parts)
        depth = min(self.workers + 1, count, _BUDGET // size)
        if self.workers < 2 or depth < 2:
            buffer = np.empty(size, np.uint8).data
            for index in range(count):
                yield self._fetch(index, buffer)
            return
        free = deque(np.empty(size, np.uint8).data for _ in range(depth))
        ahead: deque[tuple[memoryview, Future[memoryview]]] = deque()
        pool, index = ThreadPoolExecutor(self.workers), 0
        try:
            while ahead or index < count:
                while free and index < count:
                    buffer = free.popleft()
                    ahead.append((buffer, pool.submit(self._fetch, index, buffer)))
                    index += 1
                buffer, future = ahead.popleft()
                yield future.result()
                free.append(buffer)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, index: int, buffer: memoryview) -> memoryview:
        begin, end = self.manifest.part(index)
        view = buffer[: end - begin]
        self.source.read_into(begin, view)
        if hashlib.sha256(view).hexdigest() != self.manifest.parts[index]:
            raise PartDigestError(
                f"part {index} differs from the manifest", where="payload", remedy="Fetch it again, or ask its sender."
            )
        return view


class PlaintextStream:
    """The tensors of an opened blob, in order and once; provisional until `finish` has returned. A context manager."""

    def __init__(self, opened: Opened, *, digest: bool) -> None:
        self._segments = opened.segments()
        self._hash = hashlib.sha256() if digest else None
        self._left = opened.manifest.context.plaintext_length
        self._rest = memoryview(b"")
        self._digest: str | None = None
        try:
            self._skip_header(opened.schema)
        except BaseException:
            self.close()
            raise

    @property
    def digest(self) -> str:
        """SHA-256 of the whole plaintext.

        Raises:
            BlobError: not asked for, or not finished.
        """
        if self._digest is None:
            raise BlobError("no digest: the stream is not finished, or none was asked for", where="payload")
        return self._digest

    def readinto(self, view: memoryview) -> int:
        """Fill ``view`` with the next bytes of the tensors and return how many: fewer than asked only at the end.

        Raises:
            PartDigestError: stored bytes differ from the manifest; everything given out before is void.
            PayloadError: a segment does not decrypt; everything given out before is void.
        """
        done = 0
        while done < len(view) and (self._rest or self._left):
            if not self._rest:
                self._advance()
            count = min(len(self._rest), len(view) - done)
            view[done : done + count] = self._rest[:count]
            self._rest, done = self._rest[count:], done + count
        return done

    def finish(self) -> None:
        """Verify whatever was not read; after this returns, everything given out may be kept.

        Raises:
            PartDigestError: stored bytes differ from the manifest; everything given out is void.
            PayloadError: a segment does not decrypt; everything given out is void.
        """
        while self._left:
            self._advance()
        self._rest = memoryview(b"")
        if self._hash is not None:
            self._digest = self._hash.hexdigest()

    def close(self) -> None:
        """Stop reading ahead and let the buffers go; without `finish`, everything given out is void."""
        self._segments.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _advance(self) -> None:
        segment = next(self._segments, None)
        if segment is None:  # closed, or ended by an error before this one: never to be mistaken for the end
            raise PayloadError("the payload was not verified to its end", where="payload")
        if self._hash is not None:
            self._hash.update(segment)
        self._rest = segment
        self._left -= len(segment)

    def _skip_header(self, schema: Schema) -> None:
        length = len(schema.header())
        self._advance()
        if length <= len(self._rest):
            check_header(schema, self._rest)  # the whole segment, so that a longer header can be explained
            self._rest = self._rest[length:]
            return
        head = bytearray(self._rest)
        while len(head) < length:
            self._advance()
            piece = self._rest[: length - len(head)]
            head += piece
            self._rest = self._rest[len(piece) :]
        check_header(schema, head)
