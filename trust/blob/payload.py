"""The payload: Google Tink's AES256_GCM_HKDF_1MB streaming encryption, segment by segment in the caller's buffers.

    header: 0x28 | salt (32) | nonce prefix (7)        key = HKDF-SHA256(ikm = tink key, salt, info = associated data)
    segment i: AES-256-GCM, nonce = prefix | i (4 bytes, big-endian) | 1 for the last segment, else 0; 16-byte tag

Segment i fills bytes i * 2^20 to (i + 1) * 2^20 of the ciphertext; the header stands inside segment 0, the last is shorter.
The nonce's counter and last-flag make this the STREAM construction: a dropped, repeated, moved or appended
segment fails to decrypt. How many segments there are and which is the last is computed from the plaintext length that
the manifest signs, never from where the stored bytes happen to end.

Nothing is allocated per segment but a nonce: `encrypt_into` and `decrypt_into` work between buffers that are reused. A
(key, nonce) pair never repeats, because the tink key is fresh for every blob and an encryptor takes each segment once.

Not handled here: who may have written it (the manifest), and commitment of the ciphertext to one key (`keys`): GCM alone
has none.

Source: tink-crypto wire format "Streaming AEAD, AES-GCM-HKDF"; Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO 2015 (STREAM).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import PayloadError

__all__ = ["HEADER", "SEGMENT", "TAG", "Geometry", "PayloadDecryptor", "PayloadEncryptor", "ciphertext_length"]

SEGMENT: Final = 1 << 20
"""Bytes of a ciphertext segment."""

HEADER: Final = 40
"""Bytes of the header, which is also the value of its first byte."""

TAG: Final = 16

_SALT = 32
_PREFIX = 7


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the segments of a plaintext of ``plaintext_length`` bytes lie."""

    plaintext_length: int

    @property
    def segments(self) -> int:
        """Number of segments, at least one."""
        rest = self.plaintext_length - (SEGMENT - HEADER - TAG)
        return 1 if rest <= 0 else 1 + -(-rest // (SEGMENT - TAG))

    @property
    def ciphertext_length(self) -> int:
        """Bytes of the whole payload."""
        return HEADER + self.plaintext_length + self.segments * TAG

    def plain(self, index: int) -> tuple[int, int]:
        """Return the first byte and the end of segment ``index`` in the plaintext."""
        begin = max(0, index * (SEGMENT - TAG) - HEADER)
        return begin, min(self.plaintext_length, (index + 1) * (SEGMENT - TAG) - HEADER)

    def cipher(self, index: int) -> tuple[int, int]:
        """Return the first byte and the end of segment ``index`` in the payload; the header is not part of segment 0."""
        return max(HEADER, index * SEGMENT), min(self.ciphertext_length, (index + 1) * SEGMENT)


def ciphertext_length(plaintext_length: int) -> int:
    """Return the bytes of the payload that holds ``plaintext_length`` bytes."""
    return Geometry(plaintext_length).ciphertext_length


def _cipher(tink_key: bytes, salt: bytes, associated_data: bytes) -> AESGCM:
    return AESGCM(HKDF(hashes.SHA256(), 32, salt, associated_data).derive(tink_key))


def _nonce(prefix: bytes, index: int, segments: int) -> bytes:
    return prefix + index.to_bytes(4, "big") + (b"\x01" if index == segments - 1 else b"\x00")


class PayloadEncryptor:
    """Encrypts the segments of one plaintext, each once and in order."""

    def __init__(self, tink_key: bytes, associated_data: bytes, plaintext_length: int) -> None:
        salt, self._prefix = os.urandom(_SALT), os.urandom(_PREFIX)
        self._gcm = _cipher(tink_key, salt, associated_data)
        self._next = 0
        self.geometry = Geometry(plaintext_length)
        self.header = bytes([HEADER]) + salt + self._prefix

    def encrypt_into(self, plain: memoryview, out: memoryview) -> None:
        """Encrypt the next segment from ``plain`` into ``out``, which is 16 bytes longer.

        Raises:
            PayloadError: not the length of the next segment, or there is none.
        """
        begin, end = self.geometry.plain(self._next)
        if self._next >= self.geometry.segments or len(plain) != end - begin:
            raise PayloadError(f"segment {self._next} cannot hold {len(plain)} bytes", where="payload")
        nonce = _nonce(self._prefix, self._next, self.geometry.segments)
        self._next += 1  # before the cipher runs: a nonce is spent even if it fails
        self._gcm.encrypt_into(nonce, plain, None, out)


class PayloadDecryptor:
    """Decrypts any segment of one payload, given its header."""

    def __init__(self, tink_key: bytes, associated_data: bytes, plaintext_length: int, header: bytes) -> None:
        if len(header) != HEADER or header[0] != HEADER:
            raise PayloadError("not a payload header of AES256_GCM_HKDF_1MB", where="payload")
        self._prefix = header[1 + _SALT :]
        self._gcm = _cipher(tink_key, header[1 : 1 + _SALT], associated_data)
        self.geometry = Geometry(plaintext_length)

    def decrypt_into(self, index: int, cipher: memoryview, out: memoryview) -> None:
        """Decrypt segment ``index`` from ``cipher`` into ``out``, which is 16 bytes shorter.

        Raises:
            PayloadError: another length, or the tag does not hold; ``out`` is then worthless.
        """
        begin, end = self.geometry.cipher(index)
        if not 0 <= index < self.geometry.segments or len(cipher) != end - begin:
            raise PayloadError(f"segment {index} is not {len(cipher)} bytes long", where="payload")
        try:
            self._gcm.decrypt_into(_nonce(self._prefix, index, self.geometry.segments), cipher, None, out)
        except InvalidTag:
            raise PayloadError(f"segment {index} does not decrypt", where="payload") from None
