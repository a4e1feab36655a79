"""The keystream against published vectors, and that nobody gets the same words twice."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from counterseal.privacy.errors import NoiseError
from counterseal.privacy.noise import Bernoulli, DiscreteGaussian, Keystream
from counterseal.privacy.noise import keystream as module
from counterseal.privacy.noise.keystream import Words

# NIST SP 800-38A, F.5.5: CTR-AES256.Encrypt
NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
NIST_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
NIST_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHER = bytes.fromhex(
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def blocks(key: bytes, start: int, count: int) -> bytes:
    """Counter mode without the library's counter mode: single blocks of AES."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return b"".join(encryptor.update(((start + i) % 2**128).to_bytes(16, "big")) for i in range(count))


def test_the_oracle_reproduces_the_published_vector() -> None:
    stream = blocks(NIST_KEY, int.from_bytes(NIST_COUNTER, "big"), 4)
    assert bytes(a ^ b for a, b in zip(stream, NIST_PLAIN, strict=True)) == NIST_CIPHER


def test_the_first_block_of_the_zero_key_is_the_published_one() -> None:
    # NIST AESAVS, appendix: AES-256 of the zero block under the zero key
    assert Keystream(bytes(32)).bytes(16).hex() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1 << 17, (1 << 17) + 5, 300_001])
def test_bytes_are_counter_mode_from_zero(count: int) -> None:
    assert Keystream(NIST_KEY).bytes(count) == blocks(NIST_KEY, 0, count // 16 + 1)[:count]


def test_words_are_the_same_bytes_however_they_are_asked_for() -> None:
    whole = Keystream(NIST_KEY).bytes(8 * 100_000)
    stream, parts = Keystream(NIST_KEY), []
    for count in (3, 0, 29_997, 70_000):
        parts.append(stream.words(count).tobytes())
    assert b"".join(parts) == whole
    stream, out = Keystream(NIST_KEY), np.empty((7, 11), dtype="<u2")
    stream.fill(out)
    assert out.tobytes() == whole[:154]
    assert stream.bytes(6) == whole[154:160]


def test_two_streams_have_two_keys() -> None:
    assert len({Keystream().bytes(32) for _ in range(64)}) == 64


def test_a_forked_child_is_refused_and_the_parent_goes_on() -> None:
    stream = Keystream()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  another process
        try:
            Bernoulli(0.5).mask(8, stream)
            os.write(writer, b"drew")
        except NoiseError:
            os.write(writer, b"refused " + Keystream().bytes(4).hex().encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    answer = os.read(reader, 100)
    os.close(reader)
    assert answer.startswith(b"refused ") and len(answer) == 16
    assert len(stream.bytes(5)) == 5


@pytest.mark.parametrize("owner", [(os.getpid() + 1, 0), (os.getpid(), -1)])
def test_another_process_number_or_one_fork_more_is_another_process(owner: tuple[int, int]) -> None:
    stream = Keystream()
    stream._owner = owner
    with pytest.raises(NoiseError, match="forked"):
        stream.words(1)


def test_other_processes_and_restarts_draw_other_noise() -> None:
    code = (
        "from counterseal.privacy.noise import DiscreteGaussian, Keystream\n"
        "print(DiscreteGaussian(1e5).sample(8, Keystream()).tolist())"
    )
    run = [sys.executable, "-c", code]
    alive = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    drawn = [process.communicate()[0] for process in alive]
    drawn.append(
        subprocess.run(run, capture_output=True, text=True, check=True).stdout
    )  # started when the others had ended
    drawn.append(str(DiscreteGaussian(1e5).sample(8, Keystream()).tolist()) + "\n")
    assert len(set(drawn)) == 4 and all(one.startswith("[") for one in drawn)


def test_calls_go_on_and_never_start_again() -> None:
    stream, noise = Keystream(NIST_KEY), DiscreteGaussian(1000.0)
    first, second = noise.sample(100_000, stream), noise.sample(100_000, stream)
    assert not np.array_equal(first, second)
    correlation = float(np.corrcoef(first, second)[0, 1])
    assert abs(correlation) < 5.4 / 100_000**0.5  # a false alarm once in 10^7 keys, and this key is fixed


def test_a_closed_stream_gives_nothing() -> None:
    with Keystream() as stream:
        stream.bytes(1)
    stream.close()
    for ask in (stream.bytes, stream.words):
        with pytest.raises(NoiseError, match="closed"):
            ask(1)


def test_a_stream_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 64)
    stream = Keystream()
    assert len(stream.words(8)) == 8
    with pytest.raises(NoiseError, match="0 left"):
        stream.bytes(1)


def test_it_is_not_copied_stored_or_shown() -> None:
    key = bytes(range(32))
    stream = Keystream(key)
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(NoiseError, match="never copied"):
            act(stream)
    assert repr(stream) == "<Keystream, open>"
    with pytest.raises(NoiseError) as caught:
        Keystream(key[:31])
    assert key[:4].hex() not in str(caught.value)


@pytest.mark.parametrize("count", [-1, module.LIMIT + 1])
def test_a_count_that_makes_no_sense_is_refused(count: int) -> None:
    with pytest.raises(NoiseError, match="asked for"):
        Keystream().bytes(count)


# ---- the sampling mask


@pytest.mark.parametrize("rate", [1e-300, 2.0**-64, 1 / 3, 0.5, 1 - 2.0**-53, 1.0])
def test_the_probability_of_a_yes_is_the_rate_rounded_down(rate: float) -> None:
    probability = Fraction(Bernoulli(rate).threshold, 2**64)
    assert probability <= Fraction(rate) < probability + Fraction(1, 2**64)


@pytest.mark.parametrize("rate", [1e-300, 0.01, 0.5, 1.0])
def test_the_mask_compares_words_with_the_threshold(rate: float) -> None:
    words = Keystream(NIST_KEY).words(100_000)
    stream = Keystream(NIST_KEY)
    mask = Bernoulli(rate).mask(100_000, stream)
    assert mask.tolist() == [word < Bernoulli(rate).threshold for word in words.tolist()]
    assert stream.words(1)[0] == Keystream(NIST_KEY).words(100_001)[-1]  # it takes as much for every rate
    assert abs(mask.mean() - rate) < 5.4 * (rate * (1 - rate) / 100_000) ** 0.5 + 1e-12


def test_the_word_at_the_threshold_is_a_no() -> None:
    mask = Bernoulli(0.3)
    below, at = np.uint64(mask.threshold - 1), np.uint64(mask.threshold)

    class Stream:
        def words(self, count: int) -> Words:
            return np.array([below, at, below, at], dtype=np.uint64)

    stream: Any = Stream()
    assert mask.mask(4, stream).tolist() == [True, False, True, False]


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0000001, float("nan")])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(NoiseError, match="sampling rate"):
        Bernoulli(rate)
