"""Sealing keys: what is wrapped opens in its place only, weak keys are refused, and two suites agree with the RFC."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.trust.errors import RecipientError, WeakKeyError
from counterseal.trust.keys.sealing import WRAP_OVERHEAD, OpeningKey, SealingKey, SealSuite
from counterseal.trust.keys.signing import key_id

SUITES: tuple[SealSuite, ...] = get_args(SealSuite)
KEYS: dict[SealSuite, OpeningKey] = {suite: OpeningKey.generate(suite) for suite in SUITES}
SECRET, INFO = bytes(range(32)), b"place"

# The points of small order of Curve25519 that RFC 7748 section 6.1 warns of, as listed at cr.yp.to/ecdh.html#validate.
LOW_ORDER_X25519 = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
]


@pytest.mark.parametrize("suite", SUITES)
def test_a_wrap_opens_for_its_key_and_place_only(suite: SealSuite) -> None:
    key = KEYS[suite]
    wrapped = key.public.wrap(SECRET, INFO)
    assert key.unwrap(wrapped, INFO) == SECRET
    assert len(wrapped) == len(SECRET) + WRAP_OVERHEAD[suite]
    assert wrapped != key.public.wrap(SECRET, INFO)
    with pytest.raises(RecipientError):
        key.unwrap(wrapped, b"another place")
    with pytest.raises(RecipientError):
        OpeningKey.generate(suite).unwrap(wrapped, INFO)


@pytest.mark.parametrize("made", SUITES)
@pytest.mark.parametrize("read", SUITES)
def test_no_suite_falls_back_to_another(made: SealSuite, read: SealSuite) -> None:
    wrapped = KEYS[made].public.wrap(SECRET, INFO)
    if made == read:
        assert KEYS[read].unwrap(wrapped, INFO) == SECRET
        return
    with pytest.raises(RecipientError):
        KEYS[read].unwrap(wrapped, INFO)
    with pytest.raises(WeakKeyError):
        SealingKey(read, KEYS[made].public.public)


@settings(max_examples=60, deadline=None)
@given(suite=st.sampled_from(SUITES), place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.integers(0, 200))
def test_damaged_wraps_do_not_open(suite: SealSuite, place: int, bit: int, cut: int) -> None:
    wrapped = bytearray(KEYS[suite].public.wrap(SECRET, INFO))
    for broken in (bytes(wrapped[: -1 - cut]), bytes(wrapped) + b"\0", bytes(len(wrapped)), bytes(cut)):
        with pytest.raises(RecipientError):
            KEYS[suite].unwrap(broken, INFO)
    wrapped[place % len(wrapped)] ^= 1 << bit
    with pytest.raises(RecipientError):
        KEYS[suite].unwrap(bytes(wrapped), INFO)


@pytest.mark.parametrize("suite", SUITES)
def test_custody_bytes_restore_the_same_key(suite: SealSuite) -> None:
    key = KEYS[suite]
    again = OpeningKey.from_private_bytes(suite, key.to_private_bytes())
    assert again.public == key.public
    assert again.unwrap(key.public.wrap(SECRET, INFO), INFO) == SECRET
    assert key.public.key_id == key_id(suite, key.public.public)
    for wrong in (b"", key.to_private_bytes()[:-1], key.to_private_bytes() + b"\0"):
        with pytest.raises(WeakKeyError):
            OpeningKey.from_private_bytes(suite, wrong)


@pytest.mark.parametrize("scalar", [bytes(48), b"\xff" * 48])
def test_scalars_outside_the_group_are_refused(scalar: bytes) -> None:
    with pytest.raises(WeakKeyError):
        OpeningKey.from_private_bytes("P384", scalar)
    with pytest.raises(WeakKeyError):
        OpeningKey.from_private_bytes("MLKEM1024_P384", bytes(64) + scalar)


@pytest.mark.parametrize("low", LOW_ORDER_X25519)
@pytest.mark.parametrize("top", [0x00, 0x80])
def test_x25519_halves_of_small_order_are_refused(low: str, top: int) -> None:
    half = bytearray.fromhex(low)
    half[31] |= top
    with pytest.raises(WeakKeyError):
        SealingKey("MLKEM768_X25519", KEYS["MLKEM768_X25519"].public.public[:-32] + bytes(half))


def test_an_x25519_half_has_one_spelling() -> None:
    good = KEYS["MLKEM768_X25519"].public.public
    second = good[:-1] + bytes([good[-1] | 0x80])  # X25519 ignores this bit: the same key under another name
    with pytest.raises(WeakKeyError, match="two names"):
        SealingKey("MLKEM768_X25519", second)
    nine = (9 + 2**255 - 19).to_bytes(32, "little")
    with pytest.raises(WeakKeyError, match="two names"):
        SealingKey("MLKEM768_X25519", good[:-32] + nine)


@pytest.mark.parametrize(
    ("suite", "public"),
    [
        ("MLKEM768_X25519", b"\xff" * 1184 + KEYS["MLKEM768_X25519"].public.public[-32:]),  # FIPS 203, 7.2: not reduced
        ("MLKEM1024_P384", b"\xff" * 1568 + KEYS["MLKEM1024_P384"].public.public[-97:]),
        ("MLKEM1024_P384", KEYS["MLKEM1024_P384"].public.public[:-97] + b"\x04" + bytes(96)),
        ("P384", b"\x04" + bytes(96)),
        ("P384", b"\x04" + b"\xff" * 96),
        ("P384", b"\x06" + KEYS["P384"].public.public[1:]),
        ("P384", b"\x00" * 97),
        ("P384", KEYS["P384"].public.public[:49]),
        ("P384", b""),
        ("X25519", bytes(32)),
    ],
)
def test_malformed_public_keys_are_refused(suite: SealSuite, public: bytes) -> None:
    with pytest.raises(WeakKeyError):
        SealingKey(suite, public)


@pytest.mark.parametrize("suite", SUITES)
def test_private_keys_do_not_leak(suite: SealSuite) -> None:
    key = KEYS[suite]
    private = key.to_private_bytes()
    for shown in (repr(key), str(key), f"{key}"):
        assert key.public.key_id[:16] in shown
        assert private.hex() not in shown and repr(private)[2:-1] not in shown
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="never pickled"):
        copy.deepcopy(key)


# An independent reader: HPKE base mode (RFC 9180 section 5.1) written out with HMAC, over the two KEMs.


def _expand(hash_: str, prk: bytes, info: bytes, length: int) -> bytes:
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([counter]), hash_).digest()
        out, counter = out + block, counter + 1
    return out[:length]


def _labeled_extract(hash_: str, suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.new(salt, b"HPKE-v1" + suite + label + ikm, hash_).digest()


def _labeled_expand(hash_: str, suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return _expand(hash_, prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def _open_base(hash_: str, ids: tuple[int, int, int], shared: bytes, info: bytes, ciphertext: bytes) -> bytes:
    suite = b"HPKE" + b"".join(one.to_bytes(2, "big") for one in ids)
    context = b"\0" + b"".join(
        _labeled_extract(hash_, suite, b"", label, value)
        for label, value in ((b"psk_id_hash", b""), (b"info_hash", info))
    )
    secret = _labeled_extract(hash_, suite, shared, b"secret", b"")
    key = _labeled_expand(hash_, suite, secret, b"key", context, 32)
    nonce = _labeled_expand(hash_, suite, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")


def test_the_default_suite_is_x_wing_in_hpke() -> None:
    key = KEYS["MLKEM768_X25519"]
    wrapped, private = key.public.wrap(SECRET, INFO), key.to_private_bytes()
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(private[:64])
    curve = x25519.X25519PrivateKey.from_private_bytes(private[64:])
    ct_m, ct_x = wrapped[:1088], wrapped[1088:1120]
    ss_m, ss_x = lattice.decapsulate(ct_m), curve.exchange(x25519.X25519PublicKey.from_public_bytes(ct_x))
    label = rb"\.//^" + b"\\"  # draft-connolly-cfrg-xwing-kem section 5.3: 5c2e2f2f5e5c
    shared = hashlib.sha3_256(ss_m + ss_x + ct_x + key.public.public[-32:] + label).digest()
    assert _open_base("sha256", (0x647A, 1, 2), shared, INFO, wrapped[1120:]) == SECRET


def test_the_p384_suite_is_dhkem_of_rfc_9180() -> None:
    key = KEYS["P384"]
    wrapped = key.public.wrap(SECRET, INFO)
    private = ec.derive_private_key(int.from_bytes(key.to_private_bytes(), "big"), ec.SECP384R1())
    enc = wrapped[:97]
    dh = private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), enc))
    suite = b"KEM" + (0x0011).to_bytes(2, "big")
    prk = _labeled_extract("sha384", suite, b"", b"eae_prk", dh)
    shared = _labeled_expand("sha384", suite, prk, b"shared_secret", enc + key.public.public, 48)
    assert _open_base("sha384", (0x0011, 2, 2), shared, INFO, wrapped[97:]) == SECRET
