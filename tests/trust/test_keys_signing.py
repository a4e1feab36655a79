"""Signing keys: small orders are refused, bad signatures do not hold, private keys stay private."""

from __future__ import annotations

import copy
import pickle

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from counterseal.trust.errors import SignatureError, WeakKeyError
from counterseal.trust.keys.signing import SignatureAlgorithm, SoftwareSigner, VerifyingKey

# The fourteen encodings under low_order_A in C2SP's CCTV ed25519 vectors, written out again here.
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]
ORDER = 2**252 + 27742317777372353535851937790883648493
ALGORITHMS: tuple[SignatureAlgorithm, ...] = ("ed25519", "p384", "p256")


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_small_order_keys_are_refused(encoded: str) -> None:
    with pytest.raises(WeakKeyError, match="small order"):
        VerifyingKey("ed25519", bytes.fromhex(encoded))


def test_the_attack_that_the_list_stops_is_real() -> None:
    identity = bytes.fromhex(SMALL_ORDER[2])
    forged = identity + bytes(32)  # R = the identity, s = 0: holds for every message under the library alone
    for message in (b"", b"I owe you", b"I owe you nothing"):
        Ed25519PublicKey.from_public_bytes(identity).verify(forged, message)


@pytest.mark.parametrize(
    ("algorithm", "public"),
    [("ed25519", bytes(31)), ("ed25519", bytes(33)), ("ed25519", b""), ("p384", bytes(97)), ("p384", b"\x04" + bytes(96)),
     ("p256", b""), ("p256", b"\x04" + b"\xff" * 64), ("rsa", bytes(32)), ("", b"")],
)  # fmt: skip
def test_malformed_keys_are_refused(algorithm: SignatureAlgorithm, public: bytes) -> None:
    with pytest.raises(WeakKeyError):
        VerifyingKey(algorithm, public)


def test_rfc_8032_test_1() -> None:
    key = SoftwareSigner(
        Ed25519PrivateKey.from_private_bytes(
            bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
        )
    )
    assert key.public.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b"
    )


def test_ed25519_signatures_that_must_not_hold() -> None:
    signer, message = SoftwareSigner.generate(), b"message"
    good = signer.sign(message)
    r, s = good[:32], int.from_bytes(good[32:], "little")
    bad = {
        "empty": b"",
        "truncated": good[:-1],
        "lengthened": good + b"\0",
        "s + order (malleable)": r + (s + ORDER).to_bytes(32, "little"),
        "order - s": r + (ORDER - s).to_bytes(32, "little"),
        "s = 0": r + bytes(32),
        "s = order": r + ORDER.to_bytes(32, "little"),
        "s all ones": r + b"\xff" * 32,
        "R = identity": bytes.fromhex(SMALL_ORDER[2]) + good[32:],
        "R of other sign": r[:31] + bytes([r[31] ^ 0x80]) + good[32:],
        "R not a point": b"\x02" + bytes(31) + good[32:],
        "R and s swapped": good[32:] + r,
        "all zero": bytes(64),
    }
    signer.public.verify(good, message)
    for name, signature in bad.items():
        with pytest.raises(SignatureError):
            signer.public.verify(signature, message)
            pytest.fail(name)
    with pytest.raises(SignatureError):
        signer.public.verify(good, message + b"!")


@pytest.mark.parametrize("algorithm", ["p384", "p256"])
def test_ecdsa_signatures_that_must_not_hold(algorithm: SignatureAlgorithm) -> None:
    signer, message = SoftwareSigner.generate(algorithm), b"message"
    good = signer.sign(message)
    signer.public.verify(good, message)
    zero = bytes.fromhex("3006020100020100")
    one = bytes.fromhex("3006020101020101")
    for bad in (b"", good[:-1], good + b"\0", zero, one, b"\x30\x80" + good[2:] + b"\0\0", bytes(96)):
        with pytest.raises(SignatureError):
            signer.public.verify(bad, message)
    with pytest.raises(SignatureError):
        SoftwareSigner.generate(algorithm).public.verify(good, message)


@given(message=st.binary(max_size=200), place=st.integers(0, 63), bit=st.integers(0, 7))
def test_every_flipped_bit_breaks_an_ed25519_signature(message: bytes, place: int, bit: int) -> None:
    signer = SoftwareSigner.generate()
    signature = bytearray(signer.sign(message))
    signer.public.verify(bytes(signature), message)
    signature[place] ^= 1 << bit
    with pytest.raises(SignatureError):
        signer.public.verify(bytes(signature), message)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_private_keys_do_not_leak(algorithm: SignatureAlgorithm) -> None:
    signer = SoftwareSigner.generate(algorithm)
    raw = signer.private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert raw.hex()[-40:] not in repr(signer) and signer.public.key_id[:16] in repr(signer)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(signer)
    with pytest.raises(TypeError, match="never pickled"):
        copy.copy(signer)
