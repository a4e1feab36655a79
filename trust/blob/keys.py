"""The keys of one blob: a fresh root, and what is derived from it under distinct labels.

    tink key   = HKDF-SHA256(root, no salt, "counterseal-blob/v1 tink")        encrypts the payload
    commitment = HKDF-SHA256(root, no salt, "counterseal-blob/v1 commit")      public, in the manifest

AES-GCM commits to nothing: one ciphertext can be built that decrypts under two keys to two plaintexts, and each of two
recipients, wrapped another root, would believe their own. The commitment closes that: all roots have 32 bytes, so two
roots with one commitment are a collision of HMAC-SHA256 keys, that is, of SHA-256. It is checked in constant time before
the first byte is decrypted, and it tells nothing about the tink key, which comes from an independent HKDF output.

The root is never written anywhere but into HPKE wraps. Python cannot promise to wipe memory; the repr shows nothing.
"""

from __future__ import annotations

import hmac
import os
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import CommitmentError

__all__ = ["ROOT", "BlobKeys"]

ROOT: Final = 32
"""Bytes of a root."""


class BlobKeys:
    """A root and the keys under it."""

    __slots__ = ("_root", "commitment", "tink")

    def __init__(self, root: bytes) -> None:
        if len(root) != ROOT:
            raise CommitmentError(f"a blob root has {ROOT} bytes, not {len(root)}", where="manifest")
        self._root = root
        self.tink = _derive(root, b"counterseal-blob/v1 tink")
        self.commitment = _derive(root, b"counterseal-blob/v1 commit")

    @classmethod
    def generate(cls) -> BlobKeys:
        """Make a fresh root from the operating system's generator."""
        return cls(os.urandom(ROOT))

    @property
    def root(self) -> bytes:
        """The root, for wrapping alone."""
        return self._root

    def require(self, commitment: str) -> None:
        """Return if the manifest's ``commitment`` (hexadecimal) is this root's.

        Raises:
            CommitmentError: it is not: the sender wrapped another root for this recipient.
        """
        if not hmac.compare_digest(self.commitment, bytes.fromhex(commitment)):
            raise CommitmentError(
                "the wrapped root is not the one that the manifest commits to",
                where="manifest",
                remedy="Keep the manifest as evidence: its sender may have sealed different models under one signature.",
            )

    def __repr__(self) -> str:
        return "BlobKeys(...)"

    def __reduce__(self) -> str:
        raise TypeError("a blob's root is never pickled")


def _derive(root: bytes, label: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, None, label).derive(root)
