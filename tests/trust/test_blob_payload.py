"""The payload: stock Tink as oracle in both directions, and every mutilation of segments."""

from __future__ import annotations

import io
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.tests.trust.blob_tink import stock_tink
from counterseal.tests.trust.blob_world import encrypt
from counterseal.trust.blob import part_size
from counterseal.trust.blob.keys import BlobKeys
from counterseal.trust.blob.payload import (
    HEADER,
    SEGMENT,
    Geometry,
    PayloadDecryptor,
    PayloadEncryptor,
    ciphertext_length,
)
from counterseal.trust.errors import CommitmentError, PayloadError

SIZES = [0, 1, SEGMENT - 57, SEGMENT - 56, SEGMENT - 55, SEGMENT + 1, 5 * SEGMENT + 3]
AAD = b"associated data"


@pytest.fixture(scope="module")
def tink_key() -> bytes:
    return BlobKeys(b"r" * 32).tink


def decrypt(key: bytes, aad: bytes, length: int, payload: bytes) -> bytes:
    """Decrypt as a reader does who was told ``length``."""
    geometry, out = Geometry(length), bytearray(length)
    decryptor = PayloadDecryptor(key, aad, length, payload[:HEADER])
    for index in range(geometry.segments):
        (begin, end), (start, stop) = geometry.plain(index), geometry.cipher(index)
        decryptor.decrypt_into(index, memoryview(payload)[start:stop], memoryview(out)[begin:end])
    return bytes(out)


@pytest.mark.parametrize("size", SIZES)
def test_stock_tink_opens_what_we_encrypt(tink_key: bytes, size: int) -> None:
    plaintext = os.urandom(size)
    payload = encrypt(tink_key, AAD, plaintext)
    assert len(payload) == ciphertext_length(size)
    with stock_tink(tink_key).new_decrypting_stream(io.BytesIO(payload), AAD) as stream:
        assert stream.read() == plaintext


@pytest.mark.parametrize("size", SIZES)
def test_we_open_what_stock_tink_encrypts(tink_key: bytes, size: int) -> None:
    plaintext, out = os.urandom(size), io.BytesIO()
    out.close = lambda: None  # type: ignore[method-assign]  # Tink closes its destination
    with stock_tink(tink_key).new_encrypting_stream(out, AAD) as stream:
        stream.write(plaintext)
    assert len(out.getvalue()) == ciphertext_length(size)
    assert decrypt(tink_key, AAD, size, out.getvalue()) == plaintext


@given(st.integers(0, 2**44))
def test_geometry_covers_every_byte_once(length: int) -> None:
    geometry = Geometry(length)
    last = geometry.segments - 1
    edges = sorted({index for index in (0, 1, last // 2, last - 1, last) if 0 <= index <= last})
    assert geometry.plain(0)[0] == 0
    assert geometry.cipher(0)[0] == HEADER
    for index in edges:
        (begin, end), (start, stop) = geometry.plain(index), geometry.cipher(index)
        assert stop - start == end - begin + 16
        if index < last:
            assert (geometry.plain(index + 1)[0], geometry.cipher(index + 1)[0]) == (end, stop)
            assert stop == (index + 1) * SEGMENT
    assert geometry.plain(last)[1] == length
    assert geometry.cipher(last)[1] == geometry.ciphertext_length


@given(st.integers(56, 2**44))
def test_parts_are_whole_segments_and_at_most_256(length: int) -> None:
    size = part_size(length)
    assert size % SEGMENT == 0
    assert size >= 16 << 20
    assert -(-length // size) <= 256
    assert size == 16 << 20 or size - SEGMENT < -(-length // 256)


PLAINTEXT = bytes(range(256)) * 12_000  # three segments


def cut(payload: bytes) -> list[bytes]:
    """Return the header and the segments without it."""
    edges = [0, HEADER, *range(SEGMENT, len(payload), SEGMENT), len(payload)]
    return [payload[one:two] for one, two in pairwise(edges)]


@pytest.fixture(scope="module")
def payload(tink_key: bytes) -> bytes:
    return encrypt(tink_key, AAD, PLAINTEXT)


def test_the_untouched_payload_opens(tink_key: bytes, payload: bytes) -> None:
    assert decrypt(tink_key, AAD, len(PLAINTEXT), payload) == PLAINTEXT


@given(st.data())
def test_a_flipped_bit_never_opens(tink_key: bytes, payload: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 8 * len(payload) - 1))
    damaged = bytearray(payload)
    damaged[at // 8] ^= 1 << at % 8
    with pytest.raises(PayloadError):
        decrypt(tink_key, AAD, len(PLAINTEXT), bytes(damaged))


def test_segments_cannot_be_moved_dropped_repeated_or_appended(tink_key: bytes, payload: bytes) -> None:
    head, one, two, last = cut(payload)
    length, shorter = len(PLAINTEXT), Geometry(len(PLAINTEXT)).plain(1)[1]
    attacks = {
        "swapped": (head + two[: len(one)] + one + two[len(one) :] + last, length),
        "repeated": (head + one + two + two, Geometry(length).plain(1)[1] + len(two) - 16),
        "last dropped": (head + one + two, shorter),
        "truncated": (payload[:-1], length),
        "truncated and told so": (payload[:-1], length - 1),
        "extended and told so": (payload + bytes(1), length + 1),
        "extended by a segment": (payload.ljust(3 * SEGMENT, b"\0") + last, length + 3 * SEGMENT - len(payload)),
        "another header byte": (b"\x29" + payload[1:], length),
        "no header": (payload[HEADER:], length),
        "empty": (b"", length),
    }
    for name, (stored, told) in attacks.items():
        with pytest.raises(PayloadError):
            pytest.fail(f"{name}: {len(decrypt(tink_key, AAD, told, stored))} bytes opened")


def test_another_key_or_associated_data_does_not_open(tink_key: bytes, payload: bytes) -> None:
    for key, aad in ((bytes(32), AAD), (tink_key, AAD + b"!"), (tink_key, b"")):
        with pytest.raises(PayloadError):
            decrypt(key, aad, len(PLAINTEXT), payload)


def test_an_encryptor_takes_each_segment_once_and_whole() -> None:
    encryptor = PayloadEncryptor(bytes(32), AAD, 3)
    out = memoryview(bytearray(19))
    with pytest.raises(PayloadError):
        encryptor.encrypt_into(memoryview(b"four"), out)
    encryptor.encrypt_into(memoryview(b"abc"), out)
    with pytest.raises(PayloadError):
        encryptor.encrypt_into(memoryview(b"abc"), out)


def test_a_decryptor_refuses_segments_that_are_not_there(tink_key: bytes) -> None:
    payload = memoryview(encrypt(tink_key, AAD, b"abc"))
    decryptor = PayloadDecryptor(tink_key, AAD, 3, bytes(payload[:HEADER]))
    for index in (-1, 1, 2**32):
        with pytest.raises(PayloadError):
            decryptor.decrypt_into(index, payload[HEADER:], memoryview(bytearray(3)))


def test_roots_have_one_length_and_one_commitment() -> None:
    keys = BlobKeys(b"r" * 32)
    assert len({keys.root, keys.tink, keys.commitment}) == 3
    keys.require(keys.commitment.hex())
    with pytest.raises(CommitmentError):
        BlobKeys(b"s" * 32).require(keys.commitment.hex())
    for root in (b"", b"r" * 31, b"r" * 33):
        with pytest.raises(CommitmentError):
            BlobKeys(root)
    assert BlobKeys.generate().root != BlobKeys.generate().root
    assert "r" * 8 not in repr(keys)
    with pytest.raises(TypeError):
        keys.__reduce__()
