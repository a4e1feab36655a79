"""Signing keys that never leave a PKCS#11 token: a smart card, an HSM, SoftHSM2.

A `TokenSigner` signs like any `Signer`; the private key is made on the token, or found there, and is *sensitive* and
*not extractable*: the token refuses to hand it out, and a key that could be handed out is refused here. Ed25519 uses
``CKM_EDDSA``; the NIST curves use ``CKM_ECDSA`` over a digest computed here, and the token's ``r || s`` (PKCS#11 v3.0
section 2.3.1) is rewritten as the DER that `VerifyingKey` takes.

The module is a shared library that this process loads, with all that means: its path comes from the owner's own
configuration, never from a peer. A PKCS#11 login belongs to a process, so each (module, token) is opened once and kept
until the process ends; calls are serialised. A process that forks must not use the parent's tokens: spawn instead.

Needs ``pip install "counterseal[pkcs11]"``. Not handled: sealing (KEM) keys, which tokens cannot hold today; creating
or initialising a token, which is its vendor's tool's work.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ..errors import CustodyError
from .passphrase import Passphrase
from .signing import SignatureAlgorithm, VerifyingKey

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Token", "TokenSigner"]

# CKA_EC_PARAMS: a curve's object identifier, or the printable name that PKCS#11 v3.0 section 2.3.5 gives edwards25519.
_PARAMS: Final[dict[SignatureAlgorithm, bytes]] = {
    "ed25519": b"\x13\x0cedwards25519",
    "p384": bytes.fromhex("06052b81040022"),
    "p256": bytes.fromhex("06082a8648ce3d030107"),
}
_ED25519_OID = bytes.fromhex("06032b6570")  # RFC 8410: the other spelling that tokens use
_RAW_LENGTH: Final[dict[SignatureAlgorithm, int]] = {"ed25519": 32, "p384": 97, "p256": 65}
_LOCK = threading.RLock()
_OPENED: dict[tuple[str, str], Token] = {}


@dataclass(frozen=True, slots=True)
class _Login:
    """Proof that a later caller knows the PIN too, without keeping it."""

    salt: bytes
    digest: bytes
    process: int

    @classmethod
    def of(cls, pin: bytes) -> _Login:
        salt = os.urandom(16)
        return cls(salt, hashlib.sha256(salt + pin).digest(), os.getpid())

    def matches(self, pin: bytes) -> bool:
        return hmac.compare_digest(hashlib.sha256(self.salt + pin).digest(), self.digest)


class Token:
    """A logged-in token."""

    __slots__ = ("_login", "_session", "label", "module", "pin_source")

    def __init__(self, module: Path, label: str, pin: Passphrase, session: Any) -> None:
        """Use `open`."""
        self.module = module
        self.label = label
        self.pin_source = pin.source
        self._session = session
        self._login = _Login.of(pin.reveal())

    @classmethod
    def open(cls, module: Path, label: str, pin: Passphrase) -> Token:
        """Return the token ``label`` of the PKCS#11 library ``module``, logged in.

        Raises:
            CustodyError: python-pkcs11 is not installed, no such library or token, a wrong PIN.
        """
        with _LOCK:
            held = _OPENED.get((str(module), label))
            if held is None:
                held = cls(module, label, pin, _open_session(module, label, pin))
                _OPENED[str(module), label] = held
            if held._login.process != os.getpid():
                raise CustodyError("opened before this process was forked", where=_where(label), remedy="Use spawn.")
            if not held._login.matches(pin.reveal()):
                raise CustodyError("the token refused the login", where=_where(label), remedy="Check the PIN's source.")
            return held

    def make(self, key_label: str, algorithm: SignatureAlgorithm) -> TokenSigner:
        """Make a key on the token that cannot leave it.

        Raises:
            CustodyError: the label is taken, or the token does not make such keys.
        """
        pkcs11 = _pkcs11()
        kind = pkcs11.KeyType.EC_EDWARDS if algorithm == "ed25519" else pkcs11.KeyType.EC
        kept = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
        with _asking(self.label):
            if list(self._session.get_objects({pkcs11.Attribute.LABEL: key_label})):
                raise CustodyError(f"already holds a key {key_label!r}", where=_where(self.label))
            curve = self._session.create_domain_parameters(
                kind, {pkcs11.Attribute.EC_PARAMS: _PARAMS[algorithm]}, local=True
            )
            curve.generate_keypair(
                store=True, label=key_label, id=os.urandom(8), capabilities=_sign_only(), private_template=kept
            )
        return self.find(key_label)

    def find(self, key_label: str) -> TokenSigner:
        """Return the signer for the key pair named ``key_label``.

        Raises:
            CustodyError: no such pair or several, a curve that is not ours, or a private key that could be exported.
        """
        pkcs11 = _pkcs11()
        with _asking(self.label):
            private = self._session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=key_label)
            public = self._session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, label=key_label)
            params, point = bytes(public[pkcs11.Attribute.EC_PARAMS]), bytes(public[pkcs11.Attribute.EC_POINT])
            locked = private[pkcs11.Attribute.SENSITIVE] and not private[pkcs11.Attribute.EXTRACTABLE]
        if not locked:
            raise CustodyError(
                f"the private key {key_label!r} could be exported",
                where=_where(self.label),
                remedy="Make a new one: its private key must be sensitive and not extractable.",
            )
        algorithm = _algorithm(params, self.label)
        return TokenSigner(self, key_label, private, VerifyingKey(algorithm, _raw_point(point, algorithm)))

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Hold the token's one session, for objects that are not keys; its refusals become `CustodyError`."""
        with _asking(self.label):
            yield self._session

    def __repr__(self) -> str:
        return f"Token({self.label!r}, {self.module})"

    def __reduce__(self) -> str:
        raise TypeError("a token's login is never pickled")


class TokenSigner:
    """One private key on a token."""

    __slots__ = ("_key", "_public", "key_label", "token")

    def __init__(self, token: Token, key_label: str, key: Any, public: VerifyingKey) -> None:
        """Use `Token.make` or `Token.find`."""
        self.token = token
        self.key_label = key_label
        self._key = key
        self._public = public

    @property
    def public(self) -> VerifyingKey:
        """The key under which the signatures verify."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Return the token's signature over ``message``.

        Raises:
            CustodyError: the token was removed, locked, or refuses.
        """
        mechanism = _pkcs11().Mechanism
        with _asking(self.token.label):
            if self._public.algorithm == "ed25519":
                return bytes(self._key.sign(message, mechanism=mechanism.EDDSA))
            hashed = (hashlib.sha384 if self._public.algorithm == "p384" else hashlib.sha256)(message).digest()
            pair = bytes(self._key.sign(hashed, mechanism=mechanism.ECDSA))
        half = len(pair) // 2
        return encode_dss_signature(int.from_bytes(pair[:half], "big"), int.from_bytes(pair[half:], "big"))

    def __repr__(self) -> str:
        return f"TokenSigner({self._public.algorithm}, {self._public.key_id[:16]}, on {self.token.label!r})"

    def __reduce__(self) -> str:
        raise TypeError("a private key is never pickled")


def _pkcs11() -> Any:
    try:
        import pkcs11
    except ImportError:
        raise CustodyError(
            "keys on tokens need python-pkcs11", remedy='Run: pip install "counterseal[pkcs11]"'
        ) from None
    return pkcs11


def _open_session(module: Path, label: str, pin: Passphrase) -> Any:
    pkcs11 = _pkcs11()
    if not module.is_file():
        raise CustodyError("no such PKCS#11 module", where=str(module), remedy="Install the token's library.")
    try:
        text = pin.reveal().decode()
    except UnicodeDecodeError:
        raise CustodyError("a PIN is UTF-8 text", where=_where(label)) from None
    with _asking(label):
        return pkcs11.lib(str(module)).get_token(token_label=label).open(rw=True, user_pin=text)


def _sign_only() -> Any:
    flags = _pkcs11().MechanismFlag
    return flags.SIGN | flags.VERIFY


@contextmanager
def _asking(label: str) -> Iterator[None]:
    """Hold the lock, and turn the token's refusals into ours (their texts hold no secret, but say little)."""
    pkcs11 = _pkcs11()
    with _LOCK:
        try:
            yield
        except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
            raise CustodyError(
                "the token refused the login", where=_where(label), remedy="Check the PIN's source."
            ) from None
        except pkcs11.PKCS11Error as error:
            raise CustodyError(f"the token answered {type(error).__name__}", where=_where(label)) from None


def _algorithm(params: bytes, label: str) -> SignatureAlgorithm:
    if params == _ED25519_OID:
        return "ed25519"
    for name, known in _PARAMS.items():
        if params == known:
            return name
    raise CustodyError("a key on a curve that counterseal does not use", where=_where(label))


def _raw_point(point: bytes, algorithm: SignatureAlgorithm) -> bytes:
    # CKA_EC_POINT is an OCTET STRING around the raw bytes (PKCS#11 v3.0 section 2.3.4); some tokens leave it out.
    length = _RAW_LENGTH[algorithm]
    return point[2:] if len(point) == length + 2 and point[:2] == bytes([0x04, length]) else point


def _where(label: str) -> str:
    return f"token {label!r}"
