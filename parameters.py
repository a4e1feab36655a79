"""Schema, planes and canonical safetensors: what model parameters look like as bytes.

A `Schema` fixes the name, dtype and shape of every tensor, so it fixes one header and one length: for each schema there
is exactly one *canonical* safetensors header, and parameters are the header followed by the tensors in name order.

    N (8 bytes, little-endian) | {"a.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},...} SP* | data

Names are sorted, members stand in the order dtype, shape, data_offsets, there is no ``__metadata__`` and no optional
space, the JSON is padded with spaces to a multiple of 8 bytes, and offsets are contiguous from 0. Little-endian, C order.

Guarantee: a reader compares the header with the expected one **byte for byte** (`check_header`), so no parser, ours or the
library's, decides what a peer's header means, and two readers cannot disagree about it. Only to explain an inequality
is it parsed: never more than the limit (1 MiB), strictly, and before a library sees it.

Not handled here: values. NaN and infinity pass (screening decides), BF16 travels as its 16-bit pattern in uint16 arrays.
Tensors start wherever the one before ended, so a view may be unaligned (numpy copes; copy before handing it to C).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, Final, Literal, NoReturn, Self

import numpy as np
import numpy.typing as npt

from .errors import ParametersError

__all__ = ["HEADER_LIMIT", "HeaderError", "Plane", "Schema", "Span", "TensorSpec", "check_header", "decode", "encode"]

Plane = Literal["delta", "primal", "dual", "control", "buffer"]
"""What an array of parameters stands for; an aggregation rule says which planes it reads."""

Buffer = bytes | bytearray | memoryview

HEADER_LIMIT: Final = 1 << 20
"""Bytes of the longest foreign header that is parsed in order to explain it."""

_MAX_TENSORS: Final = 100_000
_MAX_NAME: Final = 256
_MAX_RANK: Final = 8
_MAX_BYTES: Final = 1 << 44
_FORMAT: Final = "counterseal-schema/v1"

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})

# One spelling per name in every JSON writer, and one order in every sort: printable ASCII without quote and backslash.
_NAME_CHARACTERS: Final = frozenset(map(chr, range(0x21, 0x7F))) - {'"', "\\"}

_Structure = Literal["truncated", "oversized", "malformed", "duplicate", "metadata", "non_canonical"]
_Tensor = Literal["unknown", "missing", "order", "dtype", "shape", "gap", "overlap"]
HeaderFault = _Structure | _Tensor


class HeaderError(ParametersError):
    """A header that is not the canonical one of the schema; ``reason`` names the first difference."""

    def __init__(self, reason: HeaderFault, what: str) -> None:
        super().__init__(what, where="safetensors header", remedy="Write parameters with `parameters.encode`.")
        self.reason: HeaderFault = reason


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        name = self.name
        if not 0 < len(name) <= _MAX_NAME or not _NAME_CHARACTERS.issuperset(name):
            _refuse(f"tensor name {ascii(name)[:80]} is not 1 to {_MAX_NAME} printable ASCII characters")
        if ".." in name or name.startswith("/") or name == "__metadata__":
            _refuse(f"tensor name {name[:80]!r} could be taken for a path or for metadata")
        if self.dtype not in _DTYPES:
            _refuse(f"{name}: dtype {ascii(self.dtype)[:20]} is not one of {', '.join(_DTYPES)}")
        if len(self.shape) > _MAX_RANK or any(not 0 <= size <= _MAX_BYTES for size in self.shape):
            _refuse(f"{name}: shape has more than {_MAX_RANK} dimensions or one outside 0 to 2^44")
        if self.nbytes > _MAX_BYTES:
            _refuse(f"{name}: more than 2^44 bytes")

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The little-endian numpy dtype; uint16 bit patterns for BF16."""
        return _DTYPES[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether the tensor is trained and averaged; the others are buffers that are carried."""
        return self.dtype in _FLOATS

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.size * self.numpy_dtype.itemsize


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tensors of one dtype: ``count`` elements from byte ``offset`` of the data, tensors first to stop - 1."""

    dtype: str
    offset: int
    count: int
    first: int
    stop: int

    @property
    def is_float(self) -> bool:
        """Whether arithmetic applies."""
        return self.dtype in _FLOATS

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.count * _DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Schema:
    """The tensors of a model, strictly sorted by name."""

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        if len(self.tensors) > _MAX_TENSORS:
            _refuse(f"{len(self.tensors)} tensors are over the limit of {_MAX_TENSORS}")
        names = [spec.name for spec in self.tensors]
        for one, two in pairwise(names):
            if one >= two:
                _refuse(f"tensor names are not strictly sorted: {two[:80]!r} after {one[:80]!r}")
        if self.data_bytes > _MAX_BYTES:
            _refuse("more than 2^44 bytes of parameters")

    @classmethod
    def of(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Return the schema of arrays, in any order; uint16 arrays are BF16 bit patterns."""
        specs = [TensorSpec(name, _dtype_of(name, array), array.shape) for name, array in sorted(tensors.items())]
        return cls(tuple(specs))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of `to_json`."""
        # All names are ASCII and all numbers below 2^53, where this is RFC 8785; a test holds it to the library.
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Byte offset of every tensor in the data, and the end of the last."""
        found = [0]
        for spec in self.tensors:
            found.append(found[-1] + spec.nbytes)
        return tuple(found)

    @property
    def data_bytes(self) -> int:
        """Length of the tensors in bytes."""
        return self.offsets[-1]

    @property
    def total_bytes(self) -> int:
        """Length of header and tensors in bytes."""
        return len(self._header) + self.data_bytes

    def header(self) -> bytes:
        """Return the canonical safetensors header with its 8 bytes of length."""
        return self._header

    @cached_property
    def _header(self) -> bytes:
        members = {
            spec.name: {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": list(span)}
            for spec, span in zip(self.tensors, pairwise(self.offsets), strict=True)
        }
        text = json.dumps(members, separators=(",", ":")).encode("ascii")
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def spans(self) -> tuple[Span, ...]:
        """Return the maximal runs of consecutive tensors of one dtype, in order, covering all data."""
        found, first = [], 0
        for dtype, group in groupby(self.tensors, key=lambda spec: spec.dtype):
            run = list(group)
            stop = first + len(run)
            found.append(Span(dtype, self.offsets[first], sum(spec.size for spec in run), first, stop))
            first = stop
        return tuple(found)

    def floats(self) -> Schema:
        """Return the schema of the floating tensors: what an update carries."""
        return Schema(tuple(spec for spec in self.tensors if spec.is_float))

    def to_json(self) -> dict[str, Any]:
        """Return the schema as a JSON value."""
        tensors = [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in self.tensors]
        return {"format": _FORMAT, "tensors": tensors}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the schema that a parsed JSON value describes.

        Raises:
            ParametersError: not exactly such a value, or over a limit.
        """
        if not isinstance(value, dict) or set(value) != {"format", "tensors"} or value["format"] != _FORMAT:
            _refuse(f"a schema has format {_FORMAT!r} and tensors, and nothing else")
        tensors = value["tensors"]
        if not isinstance(tensors, list) or len(tensors) > _MAX_TENSORS:
            _refuse(f"tensors is not a list of at most {_MAX_TENSORS}")
        return cls(tuple(_spec(item) for item in tensors))


def check_header(schema: Schema, prefix: Buffer, *, limit: int = HEADER_LIMIT) -> None:
    """Return if ``prefix``, the first bytes of some parameters, starts with the canonical header of ``schema``.

    Raises:
        HeaderError: it does not; ``reason`` and message name the first difference, found in at most ``limit`` bytes.
    """
    expected = schema.header()
    head = memoryview(prefix)
    if head[: len(expected)] == expected:
        return
    if len(head) < 8:
        raise HeaderError("truncated", f"{len(head)} bytes are too short for a header")
    length = int.from_bytes(head[:8], "little")
    if length > max(limit, len(expected) - 8):
        raise HeaderError("oversized", f"a header of {length} bytes where {len(expected) - 8} are expected")
    if len(head) < 8 + length:
        raise HeaderError("truncated", f"a header of {length} bytes of which {len(head) - 8} are here")
    _compare(schema, _parse(bytes(head[8 : 8 + length])))
    raise HeaderError("non_canonical", "the right tensors in another spelling (spaces, escapes, padding or order)")


def encode(schema: Schema, tensors: Mapping[str, npt.NDArray[Any]]) -> Iterator[memoryview]:
    """Yield the canonical bytes of ``tensors``: the header, then each non-empty tensor, without copying C-ordered arrays.

    The arrays are read when they are yielded; they must not change until the bytes have been used.

    Raises:
        ParametersError: names, shapes or dtypes are not those of ``schema`` (checked before the first byte).
    """
    if unequal := tensors.keys() ^ {spec.name for spec in schema.tensors}:
        _refuse(f"tensor {min(unequal)[:80]!r} is missing or unknown")
    for spec in schema.tensors:
        array = tensors[spec.name]
        if array.shape != spec.shape or array.dtype.newbyteorder("<") != spec.numpy_dtype:
            _refuse(f"{spec.name} is {array.dtype}{list(array.shape)} where {spec.dtype}{list(spec.shape)} belongs")
    return _pieces(schema, tensors)


def decode(schema: Schema, data: Buffer) -> dict[str, npt.NDArray[Any]]:
    """Return read-only views into ``data``, the canonical bytes of parameters, by tensor name.

    Raises:
        HeaderError: the header is not the canonical one of ``schema``.
        ParametersError: another length, or a boolean that is neither 0 nor 1.
    """
    check_header(schema, data)
    if len(data) != schema.total_bytes:
        _refuse(f"{len(data)} bytes where the schema has {schema.total_bytes}")
    base = len(schema.header())
    return {
        spec.name: _view(spec, data, base + offset)
        for spec, offset in zip(schema.tensors, schema.offsets, strict=False)
    }


def _refuse(what: str) -> NoReturn:
    raise ParametersError(what, where="parameters")


def _dtype_of(name: str, array: npt.NDArray[Any]) -> str:
    for dtype, known in _DTYPES.items():
        if array.dtype.newbyteorder("<") == known:
            return dtype
    _refuse(f"{name[:80]}: numpy dtype {array.dtype} has no place in a schema")


def _spec(item: object) -> TensorSpec:
    if not isinstance(item, dict) or set(item) != {"name", "dtype", "shape"}:
        _refuse("a tensor has name, dtype and shape, and nothing else")
    name, dtype, shape = item["name"], item["dtype"], item["shape"]
    if not isinstance(name, str) or not isinstance(dtype, str) or not isinstance(shape, list):
        _refuse("a tensor's name and dtype are strings and its shape is a list")
    if len(shape) > _MAX_RANK or any(type(size) is not int for size in shape):
        _refuse(f"{ascii(name)[:80]}: a shape is a list of at most {_MAX_RANK} integers")
    return TensorSpec(name, dtype, tuple(shape))


def _pieces(schema: Schema, tensors: Mapping[str, npt.NDArray[Any]]) -> Iterator[memoryview]:
    yield memoryview(schema.header())
    for spec in schema.tensors:
        if spec.nbytes:
            array = np.ascontiguousarray(tensors[spec.name], dtype=spec.numpy_dtype)
            yield array.reshape(-1).view(np.uint8).data


def _view(spec: TensorSpec, data: Buffer, offset: int) -> npt.NDArray[Any]:
    if spec.size == 0:
        array = np.zeros(spec.shape, spec.numpy_dtype)
    else:
        array = np.frombuffer(data, spec.numpy_dtype, spec.size, offset).reshape(spec.shape)
    if spec.dtype == "BOOL" and spec.size and int(array.view(np.uint8).max()) > 1:
        _refuse(f"{spec.name}: a boolean that is neither 0 nor 1")
    array.flags.writeable = False
    return array


def _parse(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(
            text.decode("ascii"), object_pairs_hook=_object, parse_int=_integer, parse_float=_no, parse_constant=_no
        )
    except (ValueError, RecursionError):
        raise HeaderError("malformed", "the header is not strict JSON in ASCII without fractions") from None
    if not isinstance(found, dict):
        raise HeaderError("malformed", "the header is not a JSON object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise HeaderError("duplicate", f"{ascii(twice)[:80]} stands twice")
    return found


def _integer(text: str) -> int:
    return int(text) if len(text) <= 17 else _no(text)


def _no(text: str) -> NoReturn:
    raise ValueError(f"not allowed here: {text[:20]}")


def _compare(schema: Schema, found: dict[str, Any]) -> None:
    if "__metadata__" in found:
        raise HeaderError("metadata", "the header has __metadata__")
    known = {spec.name for spec in schema.tensors}
    if unknown := [name for name in found if name not in known]:
        raise HeaderError("unknown", f"tensor {ascii(unknown[0])[:80]} is not in the schema")
    if missing := [spec.name for spec in schema.tensors if spec.name not in found]:
        raise HeaderError("missing", f"tensor {missing[0][:80]!r} of the schema is missing")
    for spec in schema.tensors:
        _compare_form(spec, found[spec.name])
    if list(found) != [spec.name for spec in schema.tensors]:
        raise HeaderError("order", "the tensors are not sorted by name")
    for spec, span in zip(schema.tensors, pairwise(schema.offsets), strict=True):
        _compare_place(spec, span, found[spec.name]["data_offsets"])


def _compare_form(spec: TensorSpec, item: object) -> None:
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError("malformed", f"{spec.name}: a tensor has dtype, shape and data_offsets, and nothing else")
    if item["dtype"] != spec.dtype:
        raise HeaderError("dtype", f"{spec.name}: {ascii(item['dtype'])[:20]} where {spec.dtype} belongs")
    if item["shape"] != list(spec.shape):
        raise HeaderError("shape", f"{spec.name}: {ascii(item['shape'])[:80]} where {list(spec.shape)} belongs")


def _compare_place(spec: TensorSpec, span: tuple[int, int], offsets: object) -> None:
    if not isinstance(offsets, list) or [type(one) for one in offsets] != [int, int]:
        raise HeaderError("malformed", f"{spec.name}: data_offsets are two integers")
    if tuple(offsets) != span:
        fault: HeaderFault = "gap" if offsets[0] > span[0] or offsets[1] > span[1] else "overlap"
        raise HeaderError(fault, f"{spec.name}: data_offsets {offsets} where {list(span)} belong")
