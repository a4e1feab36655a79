"""AES-256-CTR as the one source of randomness of a release.

The key is 32 bytes of the operating system (`os.urandom`: getrandom, which waits until the pool is seeded) and is used for one
release: nothing is ever seeded, stored, logged or continued, so no two releases share a word and no restored checkpoint can
repeat one (the same noise on two batches would cancel). The counter starts at zero: no two streams share a key.

Guaranteed here:

- Whoever does not know the key cannot tell n blocks from independent uniform bits with an advantage above n^2 / 2^129 plus what
  AES-256 itself gives away (the switching lemma: Bellare, Desai, Jokipii, Rogaway 1997, section 4; counter mode: NIST SP
  800-38A, 6.5). A stream ends after 2^40 bytes: n^2 / 2^129 <= 2^-57. Everything else in `privacy` is stated for uniform words.
- A forked process cannot use the stream of its parent (both would draw the same noise), nor can a stream be copied or pickled.
- The key is in no repr and no error.

Not handled here: erasing the key from memory (Python and OpenSSL keep copies; `close` drops the references), and a virtual
machine that is resumed twice from one snapshot in the middle of a release, which no process can see.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ..errors import NoiseError

__all__ = ["LIMIT", "Keystream", "Words"]

Words = npt.NDArray[np.uint64]

LIMIT: Final = 1 << 40
"""Bytes of one stream."""

_KEY_BYTES: Final = 32
_ZEROS: Final = bytes(1 << 17)  # what is encrypted; stays in a core's cache

# Counts forks above this process. A process number alone can come back, in another process namespace for one.
_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class Keystream:
    """The random bytes of one release. Not for two threads at once."""

    __slots__ = ("_encryptor", "_left", "_owner")

    def __init__(self, key: bytes | None = None) -> None:
        """Take a fresh key from the operating system. ``key`` is for tests: a stream that somebody can repeat is no noise."""
        if key is not None and len(key) != _KEY_BYTES:
            raise NoiseError(f"a key of {len(key)} bytes", where="keystream", remedy="Give none: one is drawn.")
        cipher = Cipher(algorithms.AES(os.urandom(_KEY_BYTES) if key is None else key), modes.CTR(bytes(16)))
        self._encryptor: Any = cipher.encryptor()
        self._owner = (os.getpid(), _forks)
        self._left = LIMIT

    def bytes(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        out = bytearray(self._checked(count))
        self._write(memoryview(out))
        return bytes(out)

    def words(self, count: int) -> Words:
        """Return the next 8 * ``count`` bytes as uint64[count], little-endian."""
        out = np.empty(self._checked(8 * count) // 8, dtype="<u8")
        self.fill(out)
        return out

    def fill(self, out: npt.NDArray[Any]) -> None:
        """Overwrite ``out``, a contiguous array of unsigned integers, with the next bytes: as `words`, without allocating.

        Raises:
            NoiseError: the stream is closed, spent, or belongs to another process; also of `bytes` and `words`.
        """
        self._checked(out.nbytes)
        self._write(out.data.cast("B"))

    def close(self) -> None:
        """Drop the cipher; the stream gives nothing more. Closing twice is nothing."""
        self._encryptor = None

    def _checked(self, count: int) -> int:
        if self._encryptor is None:
            raise NoiseError("this stream is closed", where="keystream", remedy="Open one for each release.")
        if self._owner != (os.getpid(), _forks):
            raise NoiseError(
                "this stream belongs to the process that this one was forked from: both would draw the same noise",
                where="keystream",
                remedy="Open the stream after the fork.",
            )
        if not 0 <= count <= self._left:
            raise NoiseError(f"{count} bytes asked for, {self._left} left", where="keystream")
        return count

    def _write(self, view: memoryview) -> None:
        self._left -= len(view)
        for start in range(0, len(view), len(_ZEROS)):
            part = view[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS if len(part) == len(_ZEROS) else _ZEROS[: len(part)], part)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Keystream, {'closed' if self._encryptor is None else 'open'}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise NoiseError("a keystream is never copied, pickled or stored", where="keystream")
