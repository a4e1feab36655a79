"""Signing keys: Ed25519, and ECDSA P-384 or P-256 for institutions bound to FIPS algorithms.

A public key is named by ``key_id`` = SHA-256 of ``counterseal-key-v1 LF algorithm LF raw public bytes``. Raw bytes are
32 bytes for Ed25519 (RFC 8032) and the uncompressed SEC 1 point for the NIST curves; signatures are 64 bytes, and DER
over SHA-384 or SHA-256.

Ed25519 keys of small order are refused wherever a key enters: under such a key one fixed signature holds for any
message, so its owner could deny everything and anybody could speak for it. The list is the one of C2SP's CCTV
``ed25519`` vectors: the eight points of small order in all fourteen encodings that libraries accept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..errors import SignatureError, WeakKeyError

__all__ = ["SignatureAlgorithm", "Signer", "SoftwareSigner", "VerifyingKey", "key_id", "require_strong_ed25519"]

SignatureAlgorithm = Literal["ed25519", "p384", "p256"]

_POINT = {"p384": 97, "p256": 65}
"""Bytes of an uncompressed point: the compressed and hybrid forms would give one key a second name."""

_CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "p384": (ec.SECP384R1(), hashes.SHA384()),
    "p256": (ec.SECP256R1(), hashes.SHA256()),
}

_Y = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03",
)
_SMALL_ORDER = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "00" * 31 + "80",
        "01" + "00" * 31,
        "01" + "00" * 30 + "80",
        _Y[0] + "05",
        _Y[0] + "85",
        _Y[1] + "7a",
        _Y[1] + "fa",
        "ec" + "ff" * 30 + "7f",
        "ec" + "ff" * 31,
        "ed" + "ff" * 30 + "7f",
        "ed" + "ff" * 31,
        "ee" + "ff" * 30 + "7f",
        "ee" + "ff" * 31,
    )
)


def key_id(algorithm: str, public: bytes) -> str:
    """Return the name of a public key: 64 hexadecimal digits."""
    return hashlib.sha256(b"counterseal-key-v1\n" + algorithm.encode() + b"\n" + public).hexdigest()


def require_strong_ed25519(public: bytes) -> None:
    """Raise `WeakKeyError` for the fourteen encodings of points of small order."""
    if public in _SMALL_ORDER:
        raise WeakKeyError(
            "an Ed25519 public key of small order: anybody could sign under it",
            remedy="Make a new key with `counterseal keys new`.",
        )


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public signing key, checked when it enters.

    Raises:
        WeakKeyError: small order, or not a point of the curve.
    """

    algorithm: SignatureAlgorithm
    public: bytes

    def __post_init__(self) -> None:
        if self.algorithm == "ed25519":
            if len(self.public) != 32:
                raise WeakKeyError(f"an Ed25519 public key has 32 bytes, not {len(self.public)}")
            require_strong_ed25519(self.public)
            return
        if self.algorithm not in _CURVES:
            raise WeakKeyError(f"unknown signature algorithm {self.algorithm!r}")
        if len(self.public) != _POINT[self.algorithm] or self.public[0] != 4:
            raise WeakKeyError(
                f"a {self.algorithm} public key is an uncompressed point of {_POINT[self.algorithm]} bytes"
            )
        self._point()

    @property
    def key_id(self) -> str:
        """The key's name: 64 hexadecimal digits."""
        return key_id(self.algorithm, self.public)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return if ``signature`` holds over ``message``.

        Raises:
            SignatureError: it does not.
        """
        try:
            if self.algorithm == "ed25519":
                Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
            else:
                self._point().verify(signature, message, ec.ECDSA(_CURVES[self.algorithm][1]))
        except (InvalidSignature, ValueError):
            raise SignatureError("the signature does not hold", where=f"key {self.key_id[:16]}") from None

    def _point(self) -> ec.EllipticCurvePublicKey:
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[self.algorithm][0], self.public)
        except ValueError:
            raise WeakKeyError(f"not a point of {self.algorithm}") from None


class Signer(Protocol):
    """Whatever can sign with one private key: a file, a token, a cloud's key service."""

    @property
    def public(self) -> VerifyingKey:
        """The key under which the signatures verify."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature over ``message``."""


class SoftwareSigner:
    """A private key in this process's memory; its repr shows the public name only."""

    __slots__ = ("_key", "_public")

    def __init__(self, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        if isinstance(key, Ed25519PrivateKey):
            self._public = VerifyingKey("ed25519", key.public_key().public_bytes_raw())
        else:
            name: SignatureAlgorithm = "p384" if key.curve.name == "secp384r1" else "p256"
            point = key.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            self._public = VerifyingKey(name, point)

    @classmethod
    def generate(cls, algorithm: SignatureAlgorithm = "ed25519") -> SoftwareSigner:
        """Make a fresh key from the operating system's generator."""
        if algorithm == "ed25519":
            return cls(Ed25519PrivateKey.generate())
        return cls(ec.generate_private_key(_CURVES[algorithm][0]))

    @property
    def public(self) -> VerifyingKey:
        """The key under which the signatures verify."""
        return self._public

    @property
    def private(self) -> Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
        """The private key, for custody alone."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        """Return the signature over ``message``: 64 bytes, or DER for the NIST curves."""
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, ec.ECDSA(_CURVES[self._public.algorithm][1]))

    def __repr__(self) -> str:
        return f"SoftwareSigner({self._public.algorithm}, {self._public.key_id[:16]})"

    def __reduce__(self) -> str:
        raise TypeError("a private key is never pickled")
