"""Stores that lie, senders that lie, producers that fail: nothing is accepted, and nothing is left behind."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.errors import CountersealError, ParametersError
from counterseal.parameters import HeaderError, Schema, TensorSpec, encode
from counterseal.tests.trust.blob_world import LATER, NOW, World, flat_model, small_model
from counterseal.trust.blob import BytesSource, FileSource, Opened, Sealed, open_blob, read_manifest, seal
from counterseal.trust.blob.payload import SEGMENT
from counterseal.trust.blob.slabs import Lane, PartDigests, Slab
from counterseal.trust.errors import BlobError, PartDigestError, PayloadError, RecipientError
from counterseal.trust.keys.sealing import OpeningKey

PART = 16 << 20
BIG = flat_model(2 * PART + 3 * SEGMENT + 77)  # three parts
BIG_SCHEMA = Schema.of(BIG)
SMALL = small_model()
SMALL_SCHEMA = Schema.of(SMALL)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def big(world: World, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return world.seal(BIG, tmp_path_factory.mktemp("big") / "blob", workers=2)


@pytest.fixture(scope="module")
def small(world: World, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return world.seal(SMALL, tmp_path_factory.mktemp("small") / "blob")


def opened(world: World, sealed: Sealed, payload: bytes, workers: int = 1) -> Opened:
    schema = BIG_SCHEMA if len(sealed.manifest.document.parts) > 1 else SMALL_SCHEMA
    return open_blob(sealed.manifest, BytesSource(payload), world.openers["server"], schema, workers=workers)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_parts_segments_and_digest_agree_for_any_workers(world: World, big: Sealed, workers: int) -> None:
    with FileSource(big.path) as source:
        blob = open_blob(big.manifest, source, world.openers["server"], BIG_SCHEMA, workers=workers)
        whole = blob.read()
        assert hashlib.sha256(whole).hexdigest() == big.plaintext_digest
        assert whole[len(BIG_SCHEMA.header()) :] == BIG["flat"].tobytes()
        with blob.stream(digest=True) as stream:
            pieces, sizes = bytearray(), iter([1, 7, SEGMENT, 3 * SEGMENT + 5, 0, *[5 * SEGMENT] * 9])
            for size in sizes:
                view = memoryview(bytearray(size))
                pieces += view[: stream.readinto(view)]
            assert pieces == BIG["flat"].tobytes()
            with pytest.raises(BlobError):
                assert stream.digest
            stream.finish()
            assert stream.digest == big.plaintext_digest


def test_buffers_are_reused_only_when_they_are_free(world: World, tmp_path: Path) -> None:
    """Six parts in three buffers, from a store that answers late: no part is overwritten before it was decrypted."""

    class Slow(FileSource):
        def read_into(self, offset: int, view: memoryview) -> None:
            super().read_into(offset, view[: len(view) // 2])
            time.sleep(0.01)
            super().read_into(offset + len(view) // 2, view[len(view) // 2 :])

    arrays = {"flat": np.arange(5 * PART // 4 + 999, dtype=np.int32)}
    sealed = world.seal(arrays, tmp_path / "blob", workers=2)
    with Slow(sealed.path) as source:
        blob = open_blob(sealed.manifest, source, world.openers["server"], Schema.of(arrays), workers=2)
        assert hashlib.sha256(blob.read()).hexdigest() == sealed.plaintext_digest


@given(st.integers(1, 50), st.lists(st.binary(max_size=70), max_size=8))
def test_part_digests_do_not_depend_on_how_the_bytes_arrive(size: int, pieces: list[bytes]) -> None:
    parts, whole = PartDigests(size), b"".join(pieces)
    for piece in pieces:
        parts.update(memoryview(piece))
    expected = [hashlib.sha256(whole[at : at + size]).hexdigest() for at in range(0, len(whole), size)]
    assert list(parts.digests()) == expected


def test_a_slab_waits_for_its_readers() -> None:
    slab, started, go, order = Slab(8), threading.Event(), threading.Event(), []

    def slow(view: memoryview) -> None:
        started.set()
        go.wait(10)
        order.append("hashed")

    with Lane(threaded=True) as lane:
        slab.busy = [lane.submit(slow, slab.plain)]
        started.wait(10)
        threading.Timer(0.05, go.set).start()
        slab.wait()
        order.append("free")
    assert order == ["hashed", "free"]
    slab.busy = [Future()]
    slab.busy[0].set_exception(BrokenStore())
    with pytest.raises(BrokenStore):
        slab.wait()


def test_sealing_gives_the_same_digests_with_and_without_threads(world: World, big: Sealed, tmp_path: Path) -> None:
    again = world.seal(BIG, tmp_path / "blob", workers=1)
    assert again.plaintext_digest == big.plaintext_digest
    assert again.path.read_bytes() != big.path.read_bytes()
    for one in (again, big):
        data = one.path.read_bytes()
        parts = [hashlib.sha256(data[at : at + PART]).hexdigest() for at in range(0, len(data), PART)]
        assert list(one.manifest.document.parts) == parts


def test_finishing_verifies_what_was_not_read(world: World, big: Sealed) -> None:
    payload = bytearray(big.path.read_bytes())
    payload[-1] ^= 1
    with opened(world, big, bytes(payload)).stream() as stream:
        assert stream.readinto(memoryview(bytearray(9))) == 9  # provisional: the damage is in the last part
        for _ in range(2):
            with pytest.raises((PartDigestError, PayloadError)):
                stream.finish()
        with pytest.raises(PayloadError):
            stream.readinto(memoryview(bytearray(len(payload))))


def test_a_closed_stream_never_finishes(world: World, big: Sealed) -> None:
    stream = opened(world, big, big.path.read_bytes(), workers=2).stream(digest=True)
    stream.close()
    with pytest.raises(PayloadError):
        stream.finish()
    with pytest.raises(BlobError):
        assert stream.digest


@given(st.data())
def test_no_flipped_bit_of_a_payload_is_accepted(world: World, small: Sealed, data: st.DataObject) -> None:
    payload = bytearray(small.path.read_bytes())
    at = data.draw(st.integers(0, 8 * len(payload) - 1))
    payload[at // 8] ^= 1 << at % 8
    with pytest.raises(PartDigestError):
        opened(world, small, bytes(payload)).read()


@given(st.data())
def test_no_changed_byte_of_a_manifest_is_accepted(world: World, small: Sealed, data: st.DataObject) -> None:
    raw = bytearray(small.manifest.raw)
    at, value = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    raw[at] ^= value
    place, alice = world.place(SMALL_SCHEMA), world.signers["alice"].public
    with pytest.raises(CountersealError):
        read_manifest(bytes(raw), place=place, sender=alice, now=NOW)


def swapped(data: bytes, size: int, one: int, two: int) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    pieces[one], pieces[two] = pieces[two], pieces[one]
    return b"".join(pieces)


@pytest.mark.parametrize("workers", [1, 2])
def test_stored_bytes_cannot_be_moved_cut_or_extended(world: World, big: Sealed, workers: int) -> None:
    data = big.path.read_bytes()
    attacks: dict[str, tuple[bytes, type[CountersealError]]] = {
        "truncated": (data[:-1], PayloadError),
        "last segment cut": (data[: 2 * PART + 3 * SEGMENT], PayloadError),
        "last part cut": (data[: 2 * PART], PayloadError),
        "empty": (b"", PayloadError),
        "extended": (data + b"\0", PayloadError),
        "extended by a segment": (data + data[-SEGMENT:], PayloadError),
        "parts swapped": (swapped(data, PART, 0, 1), PartDigestError),
        "segments swapped in a part": (swapped(data, SEGMENT, 3, 4), PartDigestError),
        "segments swapped over parts": (swapped(data, SEGMENT, 3, 20), PartDigestError),
        "segment repeated": (
            data[: 5 * SEGMENT] + data[4 * SEGMENT : 5 * SEGMENT] + data[6 * SEGMENT :],
            PartDigestError,
        ),
        "part repeated": (data[:PART] + data[:PART] + data[2 * PART :], PartDigestError),
    }
    for name, (payload, expected) in attacks.items():
        with pytest.raises(expected):
            pytest.fail(f"{name}: {opened(world, big, payload, workers).read().nbytes} bytes opened")


def test_a_part_of_another_blob_of_the_same_sender_is_refused(world: World, big: Sealed, tmp_path: Path) -> None:
    other = world.seal(BIG, tmp_path / "blob").path.read_bytes()
    mine = big.path.read_bytes()
    with pytest.raises(PartDigestError, match="part 1 "):
        opened(world, big, mine[:PART] + other[PART : 2 * PART] + mine[2 * PART :]).read()


def test_a_sender_who_signs_reordered_segments_is_still_refused(world: World, big: Sealed) -> None:
    """Part digests are the sender's word; the order of segments is held by their nonces."""
    document = big.manifest.document
    for one, two in ((3, 4), (3, 20)):
        data = swapped(big.path.read_bytes(), SEGMENT, one, two)
        parts = tuple(hashlib.sha256(data[at : at + PART]).hexdigest() for at in range(0, len(data), PART))
        lie = world.sign(document.model_copy(update={"parts": parts}), "alice")
        blob = open_blob(lie, BytesSource(data), world.openers["server"], BIG_SCHEMA)
        with pytest.raises(PayloadError, match="segment 3 does not decrypt"):
            blob.read()


class WatchedSource:
    """Remembers what was read."""

    def __init__(self, data: bytes) -> None:
        self._inner = BytesSource(data)
        self.length = len(data)
        self.seen: list[tuple[int, int]] = []

    def read_into(self, offset: int, view: memoryview) -> None:
        self._inner.read_into(offset, view)
        self.seen.append((offset, offset + len(view)))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_byte_is_fetched_once(world: World, big: Sealed, workers: int) -> None:
    """No second read, so nothing can change between hashing and decrypting."""
    source = WatchedSource(big.path.read_bytes())
    open_blob(big.manifest, source, world.openers["server"], BIG_SCHEMA, workers=workers).read()
    assert sorted(source.seen) == [(0, PART), (PART, 2 * PART), (2 * PART, source.length)]


def test_nothing_is_fetched_for_a_reader_who_cannot_open(world: World, small: Sealed) -> None:
    source = WatchedSource(small.path.read_bytes())
    for key in (world.openers["outsider"], OpeningKey.generate("P384")):
        with pytest.raises(RecipientError):
            open_blob(small.manifest, source, key, SMALL_SCHEMA)
    assert source.seen == []


class BrokenStore(Exception):
    """A store's own error."""


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_store_reaches_the_caller(world: World, big: Sealed, workers: int) -> None:
    class Broken(WatchedSource):
        def read_into(self, offset: int, view: memoryview) -> None:
            if offset:
                raise BrokenStore
            super().read_into(offset, view)

    source = Broken(big.path.read_bytes())
    blob = open_blob(big.manifest, source, world.openers["server"], BIG_SCHEMA, workers=workers)
    with pytest.raises(BrokenStore):
        blob.read()


def other_headers() -> Iterator[tuple[str, bytes, str]]:
    good = SMALL_SCHEMA.header()
    yield "dtype", good.replace(b'"F32"', b'"I32"'), "dtype"
    yield "name", good.replace(b"head.bias", b"head.BIAS"), "unknown"
    yield "path", good.replace(b"head.bias", b"../../ssh"), "unknown"
    yield "shape", good.replace(b"[7,11]", b"[11,7]"), "shape"
    yield "twice", good.replace(b"head.weight", b"head.bias\\u").replace(b"\\u", b"  "), "unknown"
    yield "oversized", b"\xff" * 7 + b"\0" + good[8:], "oversized"
    yield "not JSON", good[:8] + b"[" + good[9:], "malformed"


@pytest.mark.parametrize(("name", "header", "reason"), list(other_headers()))
def test_an_honestly_sealed_foreign_header_reaches_no_library(
    world: World, name: str, header: bytes, reason: str
) -> None:
    assert len(header) == len(SMALL_SCHEMA.header())
    body = b"".join(encode(SMALL_SCHEMA, SMALL))[len(header) :]
    manifest, payload = world.forge(header + body, SMALL_SCHEMA)
    blob = open_blob(manifest, BytesSource(payload), world.openers["server"], SMALL_SCHEMA)
    for read in (blob.read, blob.stream):
        with pytest.raises(HeaderError) as caught:
            read()
        assert caught.value.reason == reason


def test_a_header_of_several_segments_is_checked_and_skipped(world: World) -> None:
    schema = Schema(tuple(TensorSpec(f"tensor.{index:06}", "U8", (1,)) for index in range(40_000)))
    assert len(schema.header()) > 2 * SEGMENT
    body = os.urandom(40_000)
    manifest, payload = world.forge(schema.header() + body, schema)
    blob = open_blob(manifest, BytesSource(payload), world.openers["server"], schema)
    with blob.stream() as stream:
        view = memoryview(bytearray(50_000))
        assert stream.readinto(view) == 40_000
        assert view[:40_000] == body
        stream.finish()
    damaged = bytearray(schema.header())
    damaged[-100] ^= 1
    manifest, payload = world.forge(bytes(damaged) + body, schema)
    with pytest.raises(HeaderError):
        open_blob(manifest, BytesSource(payload), world.openers["server"], schema).stream()


def test_a_length_other_than_the_schemas_is_refused_before_anything_is_read(world: World) -> None:
    plaintext = b"".join(encode(SMALL_SCHEMA, SMALL))
    manifest, payload = world.forge(plaintext + b"\0", SMALL_SCHEMA)
    with pytest.raises(BlobError, match="length"):
        open_blob(manifest, BytesSource(payload), world.openers["server"], SMALL_SCHEMA)


def seal_chunks(world: World, chunks: Any, spool: Path, **changes: Any) -> Sealed:
    fields: dict[str, Any] = {
        "schema": SMALL_SCHEMA,
        "place": world.place(SMALL_SCHEMA),
        "recipients": [world.openers["server"].public],
        "signer": world.signers["alice"],
        "expires": LATER,
    }
    return seal(chunks, spool=spool, **{**fields, **changes})


class Unplugged(Exception):
    """A producer's own error."""


def failing() -> Iterator[bytes]:
    yield SMALL_SCHEMA.header()
    raise Unplugged


GOOD = b"".join(encode(SMALL_SCHEMA, SMALL))
HEADER = len(SMALL_SCHEMA.header())


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], ParametersError),
        ([GOOD[:-1]], ParametersError),
        ([GOOD, b"\0"], ParametersError),
        ([GOOD, b"", b"\0"], ParametersError),
        ([GOOD[HEADER:], GOOD[:HEADER]], ParametersError),
        ([b"\1" + GOOD[1:]], ParametersError),
        (None, Unplugged),
    ],
)
def test_a_failed_seal_leaves_no_file(
    world: World, tmp_path: Path, chunks: Any, expected: type[Exception], workers: int
) -> None:
    with pytest.raises(expected):
        seal_chunks(world, failing() if chunks is None else iter(chunks), tmp_path / "blob", workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_a_signer_that_fails_leaves_no_file(world: World, tmp_path: Path) -> None:
    class Broken:
        public = world.signers["alice"].public

        def sign(self, message: bytes) -> bytes:
            raise Unplugged

    with pytest.raises(Unplugged):
        seal_chunks(world, [GOOD], tmp_path / "blob", signer=Broken())
    assert list(tmp_path.iterdir()) == []


def test_a_seal_never_overwrites(world: World, tmp_path: Path) -> None:
    first = seal_chunks(world, [GOOD], tmp_path / "blob").path.read_bytes()
    with pytest.raises(BlobError, match="exists"):
        seal_chunks(world, [GOOD], tmp_path / "blob")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("blob", first)]


@pytest.mark.parametrize("recipients", ["none", "twice", "other suite"])
def test_recipients_are_checked_before_sealing(world: World, tmp_path: Path, recipients: str) -> None:
    server = world.openers["server"].public
    wrong = {"none": [], "twice": [server, server], "other suite": [server, OpeningKey.generate("P384").public]}
    with pytest.raises(RecipientError):
        seal_chunks(world, [GOOD], tmp_path / "blob", recipients=wrong[recipients])
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_another_schema_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ParametersError):
        seal_chunks(world, [GOOD], tmp_path / "blob", place=world.place(BIG_SCHEMA))


@pytest.mark.parametrize("suite", ["MLKEM768_X25519", "P384", "MLKEM1024_P384"])
def test_every_suite_seals_and_opens(world: World, tmp_path: Path, suite: Any) -> None:
    key = OpeningKey.generate(suite)
    place = world.place(SMALL_SCHEMA, suite=suite)
    sealed = seal_chunks(world, [GOOD], tmp_path / "blob", place=place, recipients=[key.public], digest=False)
    assert open_blob(sealed.manifest, BytesSource(sealed.path.read_bytes()), key, SMALL_SCHEMA).read() == GOOD
    with pytest.raises(BlobError, match="without a digest"):
        assert sealed.plaintext_digest


def test_the_spool_is_private_and_every_step_is_announced(world: World, tmp_path: Path) -> None:
    steps: list[str] = []
    sealed = seal_chunks(world, [GOOD], tmp_path / "blob", probe=steps.append)
    assert steps == ["blob.write", "blob.publish", "blob.done"]
    assert stat.S_IMODE(sealed.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("step", ["blob.write", "blob.publish"])
def test_a_process_that_dies_at_a_step_leaves_no_named_blob(world: World, tmp_path: Path, step: str) -> None:
    def die(found: str) -> None:
        if found == step:
            os._exit(9)

    child = os.fork()
    if child == 0:
        try:
            seal_chunks(world, [GOOD], tmp_path / "blob", probe=die, workers=1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "blob").exists()
    seal_chunks(world, [GOOD], tmp_path / "blob")


def test_a_producer_may_reuse_its_buffer(world: World, tmp_path: Path) -> None:
    arrays = flat_model(9 * SEGMENT)
    schema = Schema.of(arrays)
    plaintext = b"".join(encode(schema, arrays))

    def reusing() -> Iterator[memoryview]:
        buffer = np.empty(100_003, np.uint8)
        for at in range(0, len(plaintext), len(buffer)):
            piece = np.frombuffer(plaintext, np.uint8, min(len(buffer), len(plaintext) - at), at)
            buffer[: len(piece)] = piece
            yield buffer[: len(piece)].data
            buffer[:] = 0xEE

    place = world.place(schema)
    sealed = seal_chunks(world, reusing(), tmp_path / "blob", schema=schema, place=place, workers=2)
    assert sealed.plaintext_digest == hashlib.sha256(plaintext).hexdigest()
    blob = open_blob(sealed.manifest, BytesSource(sealed.path.read_bytes()), world.openers["server"], schema)
    assert blob.read() == plaintext


def test_no_secret_is_in_file_manifest_or_repr(world: World, small: Sealed) -> None:
    blob = opened(world, small, small.path.read_bytes())
    stored = small.path.read_bytes() + small.manifest.raw + small.manifest.document.payload() + repr(blob).encode()
    for secret in (blob.keys.root, blob.keys.tink, GOOD[HEADER:][:32]):
        assert secret not in stored
        assert secret.hex().encode() not in stored
        assert repr(secret).encode() not in stored
