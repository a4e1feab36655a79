"""One public key in a key statement: its use, its algorithm, its proof of possession.

An entry is checked when it is built: strict base64, a key of its algorithm that is not weak, signing algorithms for the
signing uses and a sealing suite for ``seal``, a proof for every signing key and none for the sealing key. Which
algorithm belongs to which use, and whether the proof holds, is judged by `trust.keys.statement`, which knows the rest.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal, Self

from pydantic import StringConstraints, model_validator

from ..documents import Model
from ..errors import WeakKeyError
from .sealing import SealingKey, SealSuite
from .signing import SignatureAlgorithm, VerifyingKey

__all__ = ["KeyAlgorithm", "KeyEntry", "KeyUse", "decode", "encode"]

KeyUse = Literal["sign", "cosign", "checkpoint", "seal", "release"]

KeyAlgorithm = SignatureAlgorithm | SealSuite


class KeyEntry(Model):
    """One public key and its use; ``public`` and ``possession`` are standard base64."""

    use: KeyUse
    algorithm: KeyAlgorithm
    public: Annotated[str, StringConstraints(max_length=4096)]
    possession: Annotated[str, StringConstraints(max_length=256)] | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.key  # noqa: B018  (building the key is the check)
        if (self.possession is None) != (self.use == "seal"):
            raise ValueError("every signing key carries a proof of possession, and the sealing key none")
        if self.possession is not None:
            decode(self.possession)
        return self

    @property
    def key(self) -> VerifyingKey | SealingKey:
        """The key itself, checked."""
        public, algorithm = decode(self.public), self.algorithm
        if algorithm == "ed25519" or algorithm == "p384" or algorithm == "p256":
            if self.use == "seal":
                raise WeakKeyError(f"a {algorithm} key cannot be used for seal")
            return VerifyingKey(algorithm, public)
        if self.use != "seal":
            raise WeakKeyError(f"a {algorithm} key cannot be used for {self.use}")
        return SealingKey(algorithm, public)


def encode(data: bytes) -> str:
    """Return ``data`` in standard base64."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """Return what strict base64 spells; one value has one spelling.

    Raises:
        ValueError: anything else.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not strict base64") from None
    if encode(data) != text:
        raise ValueError("base64 with stray trailing bits")
    return data
