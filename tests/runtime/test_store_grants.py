"""Grants: their shape, what they show, and what leaves in a text that carried one."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.runtime.errors import ObjectKeyError
from counterseal.runtime.stores.grants import (
    MULTIPART_ABOVE,
    PARTS,
    Grant,
    GrantPart,
    check_key,
    check_prefix,
    redact,
    split,
)
from counterseal.trust.errors import MalformedError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "store" / "grants.json").read_text())
SECRET = "0123456789abcdef" * 4
URL = f"https://s3.example/bucket/a/b?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={SECRET}&uploadId=u1"


def grant(**changes: Any) -> Grant:
    part = GrantPart(number=1, length=3, url=URL, headers=(("content-length", "3"), ("x-secret", SECRET)))
    fields: dict[str, Any] = {"store": "s3", "method": "put", "key": "a/b", "length": 3, "expires": 5, "parts": (part,)}
    return Grant(**(fields | changes))


@pytest.mark.parametrize("case", VECTORS["good"], ids=lambda case: case["name"])
def test_good_vectors(case: dict[str, Any]) -> None:
    value = Grant.from_json(case["grant"])
    assert value.model_dump(mode="json", exclude_defaults=True) == case["grant"]
    assert Grant.from_json(value.model_dump(mode="json")) == value


@pytest.mark.parametrize("case", VECTORS["bad"], ids=lambda case: case["name"])
def test_bad_vectors(case: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        Grant.from_json(case["grant"])


def test_a_grant_has_at_most_256_parts() -> None:
    parts = tuple(GrantPart(number=min(index + 1, PARTS), offset=index, length=1) for index in range(PARTS + 1))
    with pytest.raises(ValueError, match="at most 256"):
        grant(length=PARTS + 1, parts=parts, upload="u")
    assert len(grant(length=PARTS, parts=parts[:PARTS], upload="u").parts) == PARTS


@pytest.mark.parametrize(
    "show", [repr, str, lambda value: f"{value}", lambda value: repr(value.parts), lambda value: repr([value])]
)
def test_no_text_of_a_grant_shows_its_urls(show: Any) -> None:
    text = show(grant())
    assert SECRET not in text and "http" not in text and "x-secret" not in text


def test_a_bare_grant_has_nothing_to_hide() -> None:
    bare = grant().bare()
    assert SECRET not in bare.model_dump_json() and "http" not in bare.model_dump_json()
    assert (bare.key, bare.length, bare.parts[0].length) == ("a/b", 3, 3)


@pytest.mark.parametrize(
    "text",
    [
        URL,
        f"PUT {URL} failed",
        f"HTTPConnectionPool(host='s3', port=1): Max retries exceeded with url: /b/k?X-Amz-Signature={SECRET} (Caused",
        f'"PUT /b/k?uploadId={SECRET}&partNumber=1 HTTP/1.1" 200',
        f"X-Amz-Signature={SECRET}",
        f"x-amz-security-token: {SECRET}",
        f"Authorization: AWS4-HMAC-SHA256-{SECRET}",
        f"authorization={SECRET}; more",
        f"url=https%3A//x/y?a={SECRET}",
        f"X-Amz-Signature%3D{SECRET}",
        f"two {URL} and {URL}",
    ],
)
def test_redact(text: str) -> None:
    assert SECRET in text
    assert SECRET not in redact(text)


def test_redact_keeps_what_is_no_secret() -> None:
    assert redact("part 3 of blobs/run/x has 5 bytes, HTTP 503") == "part 3 of blobs/run/x has 5 bytes, HTTP 503"


@given(length=st.integers(0, 1 << 40), digests=st.booleans())
def test_parts_make_the_object(length: int, digests: bool) -> None:
    size = max(MULTIPART_ABOVE, -(-length // PARTS))
    count = len(split(length, size))
    parts = split(length, size, ("0" * 64,) * count if digests else ())
    assert sum(part.length for part in parts) == length and 1 <= len(parts) <= PARTS
    assert [part.number for part in parts] == list(range(1, count + 1))
    assert all(part.length == size for part in parts[:-1]) and (len(parts) > 1) == (length > MULTIPART_ABOVE)
    assert all(part.offset == index * size for index, part in enumerate(parts))


@pytest.mark.parametrize(
    ("length", "size", "digests"),
    [(-1, 1 << 24, 0), (1 << 25, 1 << 20, 0), (1 << 25, 0, 0), (1 << 40, 1 << 24, 0), (5, 0, 2), (1 << 25, 1 << 24, 1)],
)
def test_parts_that_do_not_fit(length: int, size: int, digests: int) -> None:
    with pytest.raises(ValueError):
        split(length, size, ("0" * 64,) * digests)


@given(st.text(alphabet=string.ascii_lowercase + string.digits + "._-/A\n\0\\ ", max_size=40))
def test_an_accepted_key_stays_below_its_root(key: str) -> None:
    try:
        check_key(key)
    except ObjectKeyError:
        return
    names = key.split("/")
    assert all(name and name.strip(".") and not name.startswith(".") for name in names)
    assert not set(key) & set("A\n\0\\ ")
    assert Path("/root", key).is_relative_to("/root") and Path("/root", key).parts[2:] == tuple(names)


@pytest.mark.parametrize("prefix", ["/", "a//", "../", "a/../", "A", "a\n", "\0"])
def test_prefixes_that_are_not_ours(prefix: str) -> None:
    with pytest.raises(ObjectKeyError):
        check_prefix(prefix)
