"""Sealing keys: the public KEM keys to which blob roots are wrapped, and the private ones that open them.

A wrap is one HPKE message in base mode (RFC 9180 section 6.1, single shot): ``enc || ciphertext``. The KEMs and the
order in which hybrid keys are written down:

| suite             | KEM, KDF, AEAD                             | public bytes                    | private bytes         |
|-------------------|--------------------------------------------|---------------------------------|-----------------------|
| `MLKEM768_X25519` | hybrid (X-Wing), HKDF-SHA256, AES-256-GCM  | ML-KEM 1184 + X25519 32         | seed 64 + scalar 32   |
| `P384`            | DHKEM(P-384), HKDF-SHA384, AES-256-GCM     | SEC 1 uncompressed point 97     | scalar 48, big-endian |
| `MLKEM1024_P384`  | hybrid, HKDF-SHA384, AES-256-GCM           | ML-KEM 1568 + point 97          | seed 64 + scalar 48   |

There is one suite per charter and no fallback: a key carries its suite, the suite enters the key's name, and a wrap
made under one suite fails under every other. A public key is checked when it enters: length, the ML-KEM modulus check
(FIPS 203 section 7.2), the point. X25519 halves of small order, which would make the shared secret public, are refused
by doing one exchange with them: every such encoding yields the all-zero secret (RFC 7748 section 6.1). Halves that are
not reduced modulo 2^255 - 19 are refused too, for they would give one key two names.

Base mode says nothing about the sender. Whoever wraps must sign, and put everything that the secret belongs to into
``info``: HPKE binds the two, so that a wrap moved to another place does not open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519

from ..errors import RecipientError, WeakKeyError
from .signing import key_id

__all__ = ["DEFAULT_SUITE", "OpeningKey", "SealSuite", "SealingKey", "WRAP_OVERHEAD"]

SealSuite = Literal["MLKEM768_X25519", "P384", "MLKEM1024_P384"]

DEFAULT_SUITE: Final[SealSuite] = "MLKEM768_X25519"

WRAP_OVERHEAD: Final[dict[SealSuite, int]] = {"MLKEM768_X25519": 1136, "P384": 113, "MLKEM1024_P384": 1681}
"""Bytes by which a wrap is longer than what it wraps: the encapsulation and a 16-byte tag."""

_Public: TypeAlias = hpke.MLKEM768X25519PublicKey | hpke.MLKEM1024P384PublicKey | ec.EllipticCurvePublicKey
_Private: TypeAlias = hpke.MLKEM768X25519PrivateKey | hpke.MLKEM1024P384PrivateKey | ec.EllipticCurvePrivateKey

_HPKE: Final[dict[SealSuite, hpke.Suite]] = {
    "MLKEM768_X25519": hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
    "P384": hpke.Suite(hpke.KEM.P384, hpke.KDF.HKDF_SHA384, hpke.AEAD.AES_256_GCM),
    "MLKEM1024_P384": hpke.Suite(hpke.KEM.MLKEM1024_P384, hpke.KDF.HKDF_SHA384, hpke.AEAD.AES_256_GCM),
}
_PUBLIC_LENGTH: Final[dict[SealSuite, int]] = {"MLKEM768_X25519": 1184 + 32, "P384": 97, "MLKEM1024_P384": 1568 + 97}
_PRIVATE_LENGTH: Final[dict[SealSuite, int]] = {"MLKEM768_X25519": 96, "P384": 48, "MLKEM1024_P384": 112}

_SEED = 64
_P25519 = 2**255 - 19


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A public KEM key, checked when it enters.

    Raises:
        WeakKeyError: unknown suite, wrong length, not a point, or of small order.
    """

    suite: SealSuite
    public: bytes

    def __post_init__(self) -> None:
        if self.suite not in get_args(SealSuite):
            raise WeakKeyError(f"unknown sealing suite {str(self.suite)[:40]!r}")
        if len(self.public) != _PUBLIC_LENGTH[self.suite]:
            wanted = _PUBLIC_LENGTH[self.suite]
            raise WeakKeyError(f"a {self.suite} public key has {wanted} bytes, not {len(self.public)}")
        self._build()

    @property
    def key_id(self) -> str:
        """The key's name: 64 hexadecimal digits."""
        return key_id(self.suite, self.public)

    def wrap(self, secret: bytes, info: bytes) -> bytes:
        """Return ``secret`` sealed to this key and bound to ``info``: `WRAP_OVERHEAD` bytes longer, fresh every time."""
        return _HPKE[self.suite].encrypt(secret, self._build(), info)

    def _build(self) -> _Public:
        try:
            return _PUBLIC[self.suite](self.public)
        except ValueError:
            raise WeakKeyError(f"not a public key of {self.suite}") from None

    def __repr__(self) -> str:
        return f"SealingKey({self.suite}, {self.key_id[:16]})"


class OpeningKey:
    """A private KEM key in this process's memory; its repr shows the public name only, and it is never pickled."""

    __slots__ = ("_data", "_key", "_public")

    def __init__(self, suite: SealSuite, private: bytes) -> None:
        """Take the private bytes of the table above; use `generate` or `from_private_bytes`."""
        self._key, public = _PRIVATE[suite](private)
        self._data = private
        self._public = SealingKey(suite, public)

    @classmethod
    def generate(cls, suite: SealSuite = DEFAULT_SUITE) -> OpeningKey:
        """Make a fresh key from the operating system's generator."""
        return cls(suite, _FRESH[suite]())

    @classmethod
    def from_private_bytes(cls, suite: SealSuite, private: bytes) -> OpeningKey:
        """Return the key that custody kept.

        Raises:
            WeakKeyError: not a private key of ``suite``.
        """
        if suite not in get_args(SealSuite):
            raise WeakKeyError(f"unknown sealing suite {str(suite)[:40]!r}")
        if len(private) != _PRIVATE_LENGTH[suite]:
            raise WeakKeyError(f"not a private key of {suite}: wrong length")
        try:
            return cls(suite, private)
        except ValueError:
            raise WeakKeyError(f"not a private key of {suite}") from None

    @property
    def public(self) -> SealingKey:
        """The key to which others seal."""
        return self._public

    def to_private_bytes(self) -> bytes:
        """Return the private bytes, for custody alone."""
        return self._data

    def unwrap(self, wrapped: bytes, info: bytes) -> bytes:
        """Return the secret in ``wrapped``.

        Raises:
            RecipientError: sealed for another key, under another suite, with another ``info``, or damaged; HPKE does
                not say which, and neither do we.
        """
        try:
            return _HPKE[self._public.suite].decrypt(wrapped, self._key, info)
        except (InvalidTag, ValueError):
            raise RecipientError(
                "this wrap does not open here", where=f"sealing key {self._public.key_id[:16]}"
            ) from None

    def __repr__(self) -> str:
        return f"OpeningKey({self._public.suite}, {self._public.key_id[:16]})"

    def __reduce__(self) -> str:
        raise TypeError("a private key is never pickled")


def _x25519(half: bytes) -> x25519.X25519PublicKey:
    if int.from_bytes(half, "little") >= _P25519:
        raise WeakKeyError("an X25519 public key that is not reduced: one key would have two names")
    key = x25519.X25519PublicKey.from_public_bytes(half)
    try:
        x25519.X25519PrivateKey.generate().exchange(key)
    except ValueError:
        raise WeakKeyError("an X25519 public key of small order: anybody could open what is sealed to it") from None
    return key


def _point(data: bytes) -> ec.EllipticCurvePublicKey:
    # The length was checked, so this is the uncompressed form; the library checks that the point is on the curve.
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), data)


def _scalar(data: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(data, "big"), ec.SECP384R1())


def _encoded(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _hybrid_x25519_public(data: bytes) -> _Public:
    return hpke.MLKEM768X25519PublicKey(mlkem.MLKEM768PublicKey.from_public_bytes(data[:-32]), _x25519(data[-32:]))


def _hybrid_p384_public(data: bytes) -> _Public:
    return hpke.MLKEM1024P384PublicKey(mlkem.MLKEM1024PublicKey.from_public_bytes(data[:-97]), _point(data[-97:]))


def _hybrid_x25519_private(data: bytes) -> tuple[_Private, bytes]:
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(data[:_SEED])
    curve = x25519.X25519PrivateKey.from_private_bytes(data[_SEED:])
    public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(lattice, curve), public


def _p384_private(data: bytes) -> tuple[_Private, bytes]:
    key = _scalar(data)
    return key, _encoded(key)


def _hybrid_p384_private(data: bytes) -> tuple[_Private, bytes]:
    lattice, curve = mlkem.MLKEM1024PrivateKey.from_seed_bytes(data[:_SEED]), _scalar(data[_SEED:])
    return hpke.MLKEM1024P384PrivateKey(lattice, curve), lattice.public_key().public_bytes_raw() + _encoded(curve)


def _fresh_scalar() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_numbers().private_value.to_bytes(48, "big")


def _fresh_hybrid_x25519() -> bytes:
    curve = x25519.X25519PrivateKey.generate().private_bytes_raw()
    return mlkem.MLKEM768PrivateKey.generate().private_bytes_raw() + curve


def _fresh_hybrid_p384() -> bytes:
    return mlkem.MLKEM1024PrivateKey.generate().private_bytes_raw() + _fresh_scalar()


_PUBLIC: Final[dict[SealSuite, Callable[[bytes], _Public]]] = {
    "MLKEM768_X25519": _hybrid_x25519_public,
    "P384": _point,
    "MLKEM1024_P384": _hybrid_p384_public,
}
_PRIVATE: Final[dict[SealSuite, Callable[[bytes], tuple[_Private, bytes]]]] = {
    "MLKEM768_X25519": _hybrid_x25519_private,
    "P384": _p384_private,
    "MLKEM1024_P384": _hybrid_p384_private,
}
_FRESH: Final[dict[SealSuite, Callable[[], bytes]]] = {
    "MLKEM768_X25519": _fresh_hybrid_x25519,
    "P384": _fresh_scalar,
    "MLKEM1024_P384": _fresh_hybrid_p384,
}
