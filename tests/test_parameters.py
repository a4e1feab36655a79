"""Canonical parameters: the safetensors library as oracle in both directions, and a museum of headers."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.errors import ParametersError
from counterseal.parameters import HeaderError, Schema, TensorSpec, check_header, decode, encode

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

names = st.text(st.sampled_from("abz._-09A:"), min_size=1, max_size=12).filter(lambda name: ".." not in name)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
schemas = st.dictionaries(names, st.tuples(st.sampled_from(sorted(DTYPES)), shapes), max_size=6).map(
    lambda found: Schema(tuple(TensorSpec(name, *found[name]) for name in sorted(found)))
)


def arrays_of(schema: Schema, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    found = {}
    for spec in schema.tensors:
        data = generator.integers(0, 2 if spec.dtype == "BOOL" else 256, spec.nbytes, np.uint8)
        found[spec.name] = data.view(spec.numpy_dtype).reshape(spec.shape)
    return found


def raw_of(schema: Schema) -> bytes:
    return b"".join(encode(schema, arrays_of(schema)))


@given(schemas)
def test_the_library_reads_what_we_write(schema: Schema) -> None:
    arrays, raw = arrays_of(schema), raw_of(schema)
    assert len(raw) == schema.total_bytes
    found = dict(safetensors.deserialize(raw))  # type: ignore[no-untyped-call]
    assert found.keys() == {spec.name for spec in schema.tensors}
    for spec in schema.tensors:
        assert found[spec.name]["dtype"] == spec.dtype
        assert tuple(found[spec.name]["shape"]) == spec.shape
        assert bytes(found[spec.name]["data"]) == arrays[spec.name].tobytes()


@given(schemas)
def test_we_read_what_the_library_writes_exactly_when_it_is_canonical(schema: Schema) -> None:
    arrays = arrays_of(schema)
    raw = safetensors.serialize(
        {
            spec.name: safetensors.TensorSpec(
                dtype=DTYPES[spec.dtype], shape=spec.shape, data_ptr=array.ctypes.data, data_len=array.nbytes
            )
            for spec in schema.tensors
            for array in [arrays[spec.name]]
        }
    )
    if len({spec.dtype for spec in schema.tensors}) <= 1:  # the library sorts by dtype first
        assert raw == raw_of(schema)
    if raw[: len(schema.header())] == schema.header():
        for name, array in decode(schema, raw).items():
            assert array.tobytes() == arrays[name].tobytes()
    else:
        with pytest.raises(HeaderError) as caught:
            decode(schema, raw)
        assert caught.value.reason == "order"


@given(schemas)
def test_decoding_undoes_encoding(schema: Schema) -> None:
    arrays = arrays_of(schema)
    for name, array in decode(schema, bytearray(raw_of(schema))).items():
        assert array.dtype == arrays[name].dtype
        assert array.shape == arrays[name].shape
        assert array.tobytes() == arrays[name].tobytes()
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@given(schemas)
def test_the_digest_is_that_of_rfc_8785(schema: Schema) -> None:
    text = rfc8785.dumps(schema.to_json())
    assert schema.digest == hashlib.sha256(text).hexdigest()
    assert Schema.from_json(json.loads(text)) == schema


@given(schemas)
def test_spans_cover_the_data_in_runs_of_one_dtype(schema: Schema) -> None:
    spans = schema.spans()
    offset = stop = 0
    for span in spans:
        assert (span.offset, span.first) == (offset, stop)
        assert {spec.dtype for spec in schema.tensors[span.first : span.stop]} == {span.dtype}
        assert span.nbytes == sum(spec.nbytes for spec in schema.tensors[span.first : span.stop])
        offset, stop = offset + span.nbytes, span.stop
    assert (offset, stop) == (schema.data_bytes, len(schema.tensors))
    assert all(one.dtype != two.dtype for one, two in pairwise(spans))


@given(schemas)
def test_floats_leaves_the_buffers_out(schema: Schema) -> None:
    floats = schema.floats()
    assert set(floats.tensors) == {spec for spec in schema.tensors if spec.dtype in {"F64", "F32", "F16", "BF16"}}
    assert all(span.is_float for span in floats.spans())


@settings(max_examples=300)
@given(schemas.filter(lambda schema: schema.tensors), st.data())
def test_a_flipped_header_bit_is_a_header_error(schema: Schema, data: st.DataObject) -> None:
    raw = bytearray(raw_of(schema))
    at = data.draw(st.integers(0, 8 * len(schema.header()) - 1))
    raw[at // 8] ^= 1 << at % 8
    with pytest.raises(HeaderError):
        decode(schema, raw)


SCHEMA = Schema((TensorSpec("a", "F32", (2, 3)), TensorSpec("b", "F32", (4,)), TensorSpec("c", "I64", ())))
A = '"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'
B = '"b":{"dtype":"F32","shape":[4],"data_offsets":[24,40]}'
C = '"c":{"dtype":"I64","shape":[],"data_offsets":[40,48]}'


def header(text: str | bytes, length: int | None = None) -> bytes:
    body = text.encode() if isinstance(text, str) else text
    return (len(body) if length is None else length).to_bytes(8, "little") + body


def zeros(count: int) -> str:
    return "{" + ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(count)) + "}"


MUSEUM: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "truncated"),
    "seven bytes": (b"\0" * 7, "truncated"),
    "empty header": (header(""), "malformed"),
    "cut": (SCHEMA.header()[:-1], "truncated"),
    "2^64 - 1 bytes": (b"\xff" * 8, "oversized"),
    "90 MB": (header(b" " * 90_000_000), "oversized"),
    "200,000 tensors of size zero": (header(zeros(200_000)), "oversized"),
    "10,000 tensors of size zero": (header(zeros(10_000)), "unknown"),
    "deep": (header("[" * 1_000_000), "malformed"),
    "a million digits": (header('{"a":' + "9" * 1_000_000 + "}"), "malformed"),
    "not UTF-8": (header(b'{"\xff":0}'), "malformed"),
    "fraction": (header("{" + A.replace("24", "24.0") + "," + B + "," + C + "}"), "malformed"),
    "infinity": (header("{" + A.replace("24", "Infinity") + "," + B + "," + C + "}"), "malformed"),
    "list": (header("[" + "]"), "malformed"),
    "member too many": (header("{" + A.replace('"shape"', '"x":0,"shape"') + "," + B + "," + C + "}"), "malformed"),
    "offsets of booleans": (header("{" + A.replace("[0,24]", "[false,24]") + "," + B + "," + C + "}"), "malformed"),
    "tensor twice": (header("{" + A + "," + A + "," + B + "," + C + "}"), "duplicate"),
    "member twice": (
        header("{" + A.replace('"shape"', '"dtype":"F32","shape"') + "," + B + "," + C + "}"),
        "duplicate",
    ),
    "metadata": (header('{"__metadata__":{},' + A + "," + B + "," + C + "}"), "metadata"),
    "metadata twice": (header('{"__metadata__":{},"__metadata__":{},' + A + "," + B + "," + C + "}"), "duplicate"),
    "unknown": (header("{" + A + "," + B + "," + C + ',"../../etc":' + C[4:] + "}"), "unknown"),
    "newline in a name": (header("{" + A + "," + B + "," + C.replace('"c"', '"c\\n"') + "}"), "unknown"),
    "missing": (header("{" + A + "," + C + "}"), "missing"),
    "order": (header("{" + B + "," + A + "," + C + "}"), "order"),
    "dtype": (header("{" + A + "," + B.replace("F32", "I32") + "," + C + "}"), "dtype"),
    "shape": (header("{" + A.replace("[2,3]", "[3,2]") + "," + B + "," + C + "}"), "shape"),
    "shape overflow": (header("{" + A.replace("[2,3]", f"[{2**53},{2**53}]") + "," + B + "," + C + "}"), "shape"),
    "gap": (
        header("{" + A + "," + B.replace("[24,40]", "[28,44]") + "," + C.replace("[40,48]", "[44,52]") + "}"),
        "gap",
    ),
    "overlap": (header("{" + A + "," + B.replace("[24,40]", "[20,36]") + "," + C + "}"), "overlap"),
    "reversed": (header("{" + A.replace("[0,24]", "[24,0]") + "," + B + "," + C + "}"), "gap"),
    "space": (header("{ " + A + "," + B + "," + C + "}"), "non_canonical"),
    "leading space": (header(" {" + A + "," + B + "," + C + "}"), "non_canonical"),
    "no padding": (header("{" + A + "," + B + "," + C + "}"), "non_canonical"),
    "escaped name": (header("{" + A.replace('"a"', '"\\u0061"') + "," + B + "," + C + "}"), "non_canonical"),
}


@pytest.mark.parametrize("name", MUSEUM)
def test_the_museum_of_headers(name: str) -> None:
    prefix, reason = MUSEUM[name]
    tracemalloc.start()
    try:
        with pytest.raises(HeaderError) as caught:
            check_header(SCHEMA, prefix)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.reason == reason
    assert caught.value.code == "schema"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_the_canonical_header_and_a_prefix_of_it_with_data_pass() -> None:
    padded = ("{" + A + "," + B + "," + C + "}").ljust(len(SCHEMA.header()) - 8)
    assert SCHEMA.header() == header(padded)
    assert len(SCHEMA.header()) % 8 == 0
    check_header(SCHEMA, SCHEMA.header())
    check_header(SCHEMA, raw_of(SCHEMA)[:-3])


@pytest.mark.parametrize(
    "name", ["", "a" * 257, "a\n", "a\u202e", "é", 'a"', "a\\", "a b", "../a", "a..b", "/a", "__metadata__", "\x7f"]
)
def test_names_that_no_schema_has(name: str) -> None:
    with pytest.raises(ParametersError):
        TensorSpec(name, "F32", (1,))


@pytest.mark.parametrize(
    ("dtype", "shape"), [("F8_E4M3", (1,)), ("f32", (1,)), ("F32", (-1,)), ("F32", (1,) * 9), ("F64", (2**43,))]
)
def test_tensors_that_no_schema_has(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ParametersError):
        TensorSpec("a", dtype, shape)


def test_a_schema_is_sorted_unique_and_bounded() -> None:
    a, b = TensorSpec("a", "F32", (1,)), TensorSpec("b", "F32", (1,))
    for tensors in ((b, a), (a, a), (a,) * 100_001, (TensorSpec("a", "U8", (2**44,)), b)):
        with pytest.raises(ParametersError):
            Schema(tensors)


GOOD = {"format": "counterseal-schema/v1", "tensors": [{"name": "a", "dtype": "F32", "shape": [1]}]}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**GOOD, "more": 1},
        {**GOOD, "format": "counterseal-schema/v2"},
        {**GOOD, "tensors": {}},
        {**GOOD, "tensors": [None]},
        {**GOOD, "tensors": [{"name": "a", "dtype": "F32"}]},
        {**GOOD, "tensors": [{"name": "a", "dtype": "F32", "shape": [True]}]},
        {**GOOD, "tensors": [{"name": "a", "dtype": "F32", "shape": [1.0]}]},
        {**GOOD, "tensors": [{"name": "a", "dtype": "F32", "shape": 1}]},
        {**GOOD, "tensors": [{"name": 1, "dtype": "F32", "shape": [1]}]},
        {**GOOD, "tensors": [{"name": "a", "dtype": ["F32"], "shape": [1]}]},
    ],
)
def test_schemas_that_are_not_read(value: object) -> None:
    assert Schema.from_json(GOOD).tensors == (TensorSpec("a", "F32", (1,)),)
    with pytest.raises(ParametersError):
        Schema.from_json(value)


def test_encoding_refuses_what_is_not_of_the_schema() -> None:
    arrays = arrays_of(SCHEMA)
    for wrong in (
        {"a": arrays["a"]},
        {**arrays, "d": arrays["a"]},
        {**arrays, "a": arrays["a"].T},
        {**arrays, "a": arrays["a"].astype(np.float64)},
        {**arrays, "a": arrays["a"].view(np.int32)},
    ):
        with pytest.raises(ParametersError):
            encode(SCHEMA, wrong)


def test_byte_order_and_strides_do_not_show() -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    schema = Schema.of(arrays)
    expected = b"".join(encode(schema, arrays))
    for other in (arrays["a"].astype(">f4"), np.asfortranarray(arrays["a"]), np.repeat(arrays["a"], 2, axis=1)[:, ::2]):
        assert Schema.of({"a": other}) == schema
        assert b"".join(encode(schema, {"a": other})) == expected


def test_values_are_not_judged_but_booleans_are() -> None:
    arrays = {"a": np.array([np.nan, np.inf], np.float32), "b": np.array([True, False])}
    schema = Schema.of(arrays)
    raw = bytearray(b"".join(encode(schema, arrays)))
    assert np.isnan(decode(schema, raw)["a"][0])
    raw[-1] = 2
    with pytest.raises(ParametersError, match="neither 0 nor 1"):
        decode(schema, raw)


@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_refused(change: int) -> None:
    raw = raw_of(SCHEMA)
    with pytest.raises(ParametersError):
        decode(SCHEMA, raw[:change] if change < 0 else raw + b"\0")


def test_dtypes_without_a_place_are_refused() -> None:
    for array in (np.array(["x"]), np.zeros(1, np.complex64), np.zeros(1, np.uint32), np.zeros(1, object)):
        with pytest.raises(ParametersError):
            Schema.of({"a": array})


def test_a_hundred_thousand_tensors_are_one_schema() -> None:
    schema = Schema(tuple(TensorSpec(f"t{index:06}", "F32", (1,)) for index in range(100_000)))
    assert len(schema.header()) > 1 << 20
    check_header(schema, schema.header())
    damaged = bytearray(schema.header())
    damaged[20] ^= 1
    with pytest.raises(HeaderError):
        check_header(schema, damaged)


VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "parameters" / "vectors.json").read_text())


def test_the_good_vector_is_written_and_read() -> None:
    schema, good = Schema.from_json(VECTORS["schema"]), bytes.fromhex(VECTORS["good"])
    assert schema.digest == VECTORS["schema_sha256"]
    found = decode(schema, good)
    assert {name: array.tolist() for name, array in found.items()} == VECTORS["values"]
    assert b"".join(encode(schema, found)) == good


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["name"])
def test_the_bad_vectors_are_refused(vector: dict[str, str]) -> None:
    with pytest.raises(HeaderError) as caught:
        check_header(Schema.from_json(VECTORS["schema"]), bytes.fromhex(vector["prefix"]))
    assert caught.value.reason == vector["reason"]
