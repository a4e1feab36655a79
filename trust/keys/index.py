"""The index of a key folder: what the passphrase costs, and which keys the folder holds, under a MAC.

The MAC's key comes from the passphrase, so nobody without it can change the index; the cost parameters, which must be
believed before the MAC can be checked, are bounded on both sides. Used by `trust.keys.custody`.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field, StringConstraints

from ..canonical import canonical
from ..documents import Model
from ..errors import MalformedError
from ..identifiers import Digest, KeyId
from .sealing import SealSuite

__all__ = ["INDEX", "FolderIndex", "HeldKey", "Pbkdf2Cost", "ScryptCost", "SigningUse", "file_key"]

INDEX: Final = "custody.json"

_LABEL = b"counterseal-custody-v1 "

SigningUse = Literal["sign", "cosign", "release", "checkpoint"]
_Salt = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ScryptCost(Model):
    """RFC 7914 with r = 8: 2^17 takes 128 MiB and about 0.3 s; at most 512 MiB on read."""

    name: Literal["scrypt"] = "scrypt"
    salt: _Salt
    log2_n: Annotated[int, Field(ge=15, le=19)] = 17
    p: Annotated[int, Field(ge=1, le=4)] = 1

    def derive(self, passphrase: bytes) -> bytes:
        """Return the 32-byte folder key."""
        return Scrypt(salt=bytes.fromhex(self.salt), length=32, n=1 << self.log2_n, r=8, p=self.p).derive(passphrase)


class Pbkdf2Cost(Model):
    """NIST SP 800-132 with HMAC-SHA256."""

    name: Literal["pbkdf2-sha256"] = "pbkdf2-sha256"
    salt: _Salt
    iterations: Annotated[int, Field(ge=600_000, le=20_000_000)] = 1_500_000

    def derive(self, passphrase: bytes) -> bytes:
        """Return the 32-byte folder key."""
        return PBKDF2HMAC(hashes.SHA256(), 32, bytes.fromhex(self.salt), self.iterations).derive(passphrase)


class HeldKey(Model):
    """One key: its use, the way in which it is stored, and the public name that it must turn out to have."""

    use: Literal["sign", "cosign", "release", "checkpoint", "seal"]
    store: Literal["pkcs8", "aead", "pkcs11"]
    key_id: KeyId


class FolderIndex(Model):
    """The content of `INDEX`."""

    format: Literal["counterseal-custody-v1"] = "counterseal-custody-v1"
    suite: SealSuite
    kdf: Annotated[ScryptCost | Pbkdf2Cost, Field(discriminator="name")]
    keys: Annotated[tuple[HeldKey, ...], Field(min_length=4, max_length=5)]
    mac: Digest

    def tag(self, folder_key: bytes) -> str:
        """Return the MAC of everything but ``mac`` (HMAC-SHA256 over canonical JSON)."""
        body = canonical(self.model_dump(mode="json", exclude={"mac"}))
        return hmac.new(file_key(folder_key, INDEX), body, sha256).hexdigest()

    def held(self) -> dict[str, HeldKey]:
        """Return the keys by use.

        Raises:
            MalformedError: not one key for each use, or stored in a way that its use does not allow.
        """
        found: dict[str, HeldKey] = {one.use: one for one in self.keys}
        wanted = {"sign", "cosign", "release", "seal"}
        if len(found) != len(self.keys) or set(found) - {"checkpoint"} != wanted:
            raise MalformedError("the index does not name one key for each use", where=INDEX)
        if any((one.store == "aead") != (one.use == "seal") for one in self.keys):
            raise MalformedError("a key is stored in a way that its use does not allow", where=INDEX)
        return found


def file_key(folder_key: bytes, name: str) -> bytes:
    """Return the 32-byte key of the file ``name`` (HKDF-SHA256, RFC 5869): no two files share one."""
    return HKDF(hashes.SHA256(), 32, salt=None, info=_LABEL + name.encode()).derive(folder_key)
