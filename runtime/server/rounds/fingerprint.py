"""Fingerprints: telling whether two updates are the same bytes, at the speed of AES-GCM instead of SHA-256.

A fingerprint is the GMAC tag (NIST SP 800-38D, AES-256) of an update's tensor bytes under a key of the run that only the
server has, with a fixed nonce. Equal bytes have equal tags; two different updates chosen without the key have equal tags
with probability below 2^-90 at any size we take (a universal hash: number of blocks x 2^-128), so nobody can make its
update collide with another's to have both refused. A fixed nonce is no fault here: a tag authenticates nothing and never
leaves the server (the log holds a salted commitment). A thief of the server's journal learns whether two updates were equal,
and nothing else about them.

Not a digest that others could recompute: who wants that asks the auditor, who opens the blob.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ....trust.keys.sealing import OpeningKey

__all__ = ["Fingerprint", "fingerprint_key"]

_LABEL = b"counterseal-fingerprint-v1"


def fingerprint_key(run: OpeningKey) -> bytes:
    """Return the run's fingerprint key, 32 bytes: it follows from the run's private key and dies with it."""
    return HKDF(hashes.SHA256(), 32, None, _LABEL).derive(run.to_private_bytes())


class Fingerprint:
    """The running tag of one update."""

    def __init__(self, key: bytes) -> None:
        self._tag = Cipher(AES256(key), GCM(bytes(12))).encryptor()

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        self._tag.authenticate_additional_data(data)

    def hexdigest(self) -> str:
        """Return the tag: 32 hexadecimal digits."""
        self._tag.finalize()
        return self._tag.tag.hex()
