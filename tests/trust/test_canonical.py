"""What canonical JSON promises: strict on the way in, one form on the way out, and the way back always open."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.trust.canonical import canonical, parse
from counterseal.trust.documents import Model
from counterseal.trust.errors import MalformedError
from counterseal.trust.strict_yaml import parse_yaml

numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(values)
def test_what_is_written_is_read_back(value: Any) -> None:
    written = canonical(value)
    assert parse(written) == value
    assert canonical(parse(written)) == written
    assert canonical(json.loads(written)) == written  # as an independent reader has it


@given(st.floats(min_value=2.0**53, max_value=1e22) | st.floats(min_value=-1e22, max_value=-(2.0**53)))
def test_large_doubles_survive_any_reader(value: float) -> None:
    """A site whose loss is 1e17 writes seventeen zeros; no reader may stumble over them, nor over what a model makes of them."""

    class Loose(Model):
        value: Any

    written = canonical({"value": value})
    assert parse(written) == {"value": value}
    model = Loose.from_json(parse(written))
    assert canonical(model.model_dump(mode="json")) == written


@pytest.mark.parametrize(
    "text",
    ["9007199254740993", "10000000000000001", "1" + "0" * 22, "-9007199254740993", "0100", "1e400", "NaN", "-Infinity",
     '{"a":1,"a":2}', '"\\ud800"', "[" * 65 + "]" * 65, "", "1 2", "\ufeff1", "'a'", "{a:1}", "[1,]", '"\t"', "9" * 5000],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse(text.encode())


def test_an_integer_that_no_double_is_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="9007199254740993"):
        canonical([9007199254740993])


@pytest.mark.parametrize("text", ['"\\UFFFFFFFF"', '"\\U00110000"', f"%YAML {'9' * 5000}.1\n--- a", '"\\uD800"'])
def test_yaml_lets_no_foreign_error_out(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_yaml(text.encode(), file="x.yaml")


def test_finite() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError):
            canonical(value)


@pytest.mark.parametrize("tail", [b"", b"[" * 70, b'"'])
def test_reading_takes_time_in_proportion(tail: bytes) -> None:
    """Unclosed strings full of escapes: a scan that began again at each quote would take hours."""
    with pytest.raises(MalformedError):
        parse(b'"\\' * 500_000 + tail, limit=2_000_000)
    with pytest.raises(MalformedError):
        parse(b'["\\"' * 250_000 + tail, limit=2_000_000)
