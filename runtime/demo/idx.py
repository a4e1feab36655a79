"""IDX files (the format of MNIST and its relatives), plain or gzip.

The header is checked before anything is allocated: magic number, unsigned bytes, the expected number of dimensions, at
least one of everything, at most 1 GiB, and exactly as many bytes as it promises, no more and no fewer.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

__all__ = ["read_idx"]

_LIMIT = 1 << 30
_BLOCK = 1 << 20
_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """Return the bytes in ``path``, or in ``path.gz`` if there is no such file, as uint8 of ``dimensions`` dimensions.

    Raises:
        ConfigError: no such file, or not such a file.
    """
    zipped = path.with_name(path.name + ".gz")
    found = path if path.exists() else zipped
    try:
        with gzip.open(found) if found == zipped else found.open("rb") as file:
            return _read(cast(BinaryIO, file), dimensions, str(found))
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"cannot be read ({type(error).__name__})", where=str(found)) from None


def _read(file: BinaryIO, dimensions: int, where: str) -> npt.NDArray[np.uint8]:
    header = file.read(4 + 4 * dimensions)
    if len(header) != 4 + 4 * dimensions or header[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or header[3] != dimensions:
        raise ConfigError(f"not an IDX file of unsigned bytes in {dimensions} dimensions", where=where)
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = math.prod(shape)
    if not 0 < size <= _LIMIT:
        raise ConfigError(f"the header promises {size} bytes; 1 to {_LIMIT} are read", where=where)
    data = bytearray()
    while block := file.read(min(_BLOCK, size + 1 - len(data))):  # memory follows what is there, not what is promised
        data += block
    if len(data) != size:
        raise ConfigError("the file is not as long as its header says", where=where)
    found = np.frombuffer(data, np.uint8).reshape(shape)
    found.flags.writeable = False
    return found
