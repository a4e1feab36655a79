"""S3 on a real server: what the store itself enforces, whatever a site's client does or leaves out."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from counterseal.runtime.errors import (
    GrantError,
    ObjectMissingError,
    StoreSetupError,
    StoreUnavailableError,
    WrongLengthError,
)
from counterseal.runtime.stores import s3 as s3_module
from counterseal.runtime.stores.grants import Grant
from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3 import S3Store
from counterseal.runtime.stores.s3_binding import Protection
from counterseal.runtime.stores.s3_client import S3GrantClient
from counterseal.runtime.stores.s3_place import S3Place
from counterseal.tests.seaweed import QUICK, store_on

MIB = 1 << 20
PART = 16 * MIB


def soon() -> int:
    return int(time.time()) + 120


def b64(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@pytest.fixture(scope="module")
def shared(local_s3: LocalS3) -> Iterator[S3Store]:
    store = store_on(local_s3, "enforced", f"p{os.urandom(6).hex()}")
    yield store
    store.close()


@pytest.fixture
def key() -> str:
    return f"k{os.urandom(6).hex()}"


def raw(method: str, url: str, body: bytes | None = None, headers: Any = ()) -> int:
    """A hostile site: it sends what it likes."""
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        return pool.request(method, url, body=body, headers=dict(headers), redirect=False).status


pytestmark = pytest.mark.processes


def test_the_store_keeps_grants_by_itself(shared: S3Store, key: str) -> None:
    data = b"update"
    grant = shared.grant_put(key, length=6, sha256=hashlib.sha256(data).hexdigest(), expires=soon())
    url, headers = grant.parts[0].url, dict(grant.parts[0].headers)
    other = url.replace(key, "k000000000000")
    signature = url.partition("X-Amz-Signature=")[2]
    flipped = url.replace(signature, ("1" if signature[0] == "0" else "0") + signature[1:])
    refused: dict[str, tuple[str, str, bytes | None, dict[str, str]]] = {
        "one byte longer": ("PUT", url, data + b"!", headers | {"content-length": "7"}),
        "one byte shorter": ("PUT", url, data[:-1], headers | {"content-length": "5"}),
        "another body under the digest": ("PUT", url, b"UPDATE", headers),
        "another body and its digest": ("PUT", url, b"UPDATE", headers | {"x-amz-checksum-sha256": b64(b"UPDATE")}),
        "no digest": ("PUT", url, data, {k: v for k, v in headers.items() if "checksum" not in k}),
        "no put-once": ("PUT", url, data, {k: v for k, v in headers.items() if k != "if-none-match"}),
        "another put-once": ("PUT", url, data, headers | {"if-none-match": '"x"'}),
        "another key": ("PUT", other, data, headers),
        "tampered signature": ("PUT", flipped, data, headers),
        "tampered expiry": ("PUT", url.replace("X-Amz-Expires=1", "X-Amz-Expires=9"), data, headers),
        "no signature": ("PUT", url.partition("?")[0], data, headers),
        "to read": ("GET", url, None, {}),
        "to delete": ("DELETE", url, None, {}),
    }
    for name, request in refused.items():
        assert raw(*request) in (400, 403), name
        assert shared.length(key) is None and shared.length("k000000000000") is None, name
    assert raw("PUT", url, data, headers) == 200
    assert raw("PUT", url, data, headers) == 412
    assert shared.get(key, limit=6) == data


def test_leave_to_read_is_not_leave_to_write(shared: S3Store, key: str) -> None:
    shared.put(key, b"x")
    url = shared.grant_get(key, expires=soon()).parts[0].url
    assert raw("GET", url) == 200
    assert raw("PUT", url, b"y") == 403
    assert raw("DELETE", url) == 403
    assert raw("GET", url.replace(key, "k000000000000")) == 403
    assert shared.get(key, limit=1) == b"x"


def test_a_part_is_bound_like_an_object(shared: S3Store, key: str) -> None:
    data = os.urandom(20 * MIB)
    digests = [hashlib.sha256(piece).hexdigest() for piece in (data[:PART], data[PART:])]
    grant = shared.grant_put(key, length=len(data), part_size=PART, part_sha256=digests, expires=soon())
    second = grant.parts[1]
    headers = dict(second.headers)
    assert raw("PUT", second.url, data[PART:] + b"!", headers | {"content-length": str(second.length + 1)}) in (
        400,
        403,
    )
    assert raw("PUT", second.url, bytes(second.length), headers) in (400, 403)
    assert raw("PUT", grant.parts[0].url, data[PART:], headers) in (400, 403)
    assert raw("PUT", second.url, data[PART:], headers) == 200
    with pytest.raises(ObjectMissingError, match="part 1"):
        shared.complete(grant.bare())
    assert raw("PUT", grant.parts[0].url, data[:PART], dict(grant.parts[0].headers)) == 200
    shared.complete(grant.bare())
    assert shared.length(key) == len(data)


@pytest.mark.parametrize("digests", [True, False])
def test_an_upload_says_from_the_start_whether_its_parts_have_digests(shared: S3Store, key: str, digests: bool) -> None:
    """Amazon refuses a part with a digest if that was not said at the start, and a completion without the digests if it was."""
    said: dict[str, Any] = {}
    events = shared._s3.meta.events

    def note(params: Any, model: Any, **more: Any) -> None:
        said[model.name] = params

    events.register("provide-client-params.s3", note)
    data = os.urandom(17 * MIB)
    parts = [hashlib.sha256(piece).hexdigest() for piece in (data[:PART], data[PART:])] if digests else []
    grant = shared.grant_put(key, length=len(data), part_size=PART, part_sha256=parts, expires=soon())
    with S3GrantClient(shared.place, patience=QUICK) as client:
        client.upload(grant, data)
    shared.complete(grant.bare())
    events.unregister("provide-client-params.s3", note)
    assert said["CreateMultipartUpload"].get("ChecksumAlgorithm") == ("SHA256" if digests else None)
    completed = said["CompleteMultipartUpload"]["MultipartUpload"]["Parts"]
    expected = [b64(data[:PART]), b64(data[PART:])] if digests else [None, None]
    assert [part.get("ChecksumSHA256") for part in completed] == expected


def test_reported_etags_are_compared(shared: S3Store, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(20 * MIB)
    grant = shared.grant_put(key, length=len(data), part_size=PART, expires=soon())
    with S3GrantClient(shared.place, patience=QUICK) as client:
        etags = client.upload(grant, data)
    monkeypatch.setattr(s3_module, "_PAGE", 1)  # S3 lists a page at a time
    for wrong in ((etags[0],), (etags[1], etags[0]), (*etags, ""), ("", "")):
        with pytest.raises(GrantError):
            shared.complete(grant.bare(), wrong)
        assert shared.length(key) is None
    shared.complete(grant.bare(), etags)
    assert shared.get(key, limit=len(data)) == data


def test_a_granted_length_is_checked_at_completion(shared: S3Store, key: str) -> None:
    shared.put(key, b"12345")
    with pytest.raises(WrongLengthError):
        shared.complete(shared.grant_put(key, length=6, expires=soon()))


def test_grants_of_a_server_with_the_wrong_secret(local_s3: LocalS3, key: str) -> None:
    store = S3Store(local_s3.place("enforced"), access_key=local_s3.access_key, secret_key="wrong", patience=QUICK)
    with S3GrantClient(store.place, patience=QUICK) as client:
        with pytest.raises(GrantError):
            client.upload(store.grant_put(key, length=1, expires=soon()), b"x")
        with pytest.raises(GrantError):
            client.open(store.grant_get(key, expires=soon()))
    for call in (lambda: list(store.list("")), lambda: store.delete(key), lambda: store.length(key)):
        with pytest.raises((StoreSetupError, GrantError)) as caught:
            call()
        assert "wrong" not in str(caught.value)
    store.close()


def test_an_unknown_access_key(local_s3: LocalS3, key: str) -> None:
    store = S3Store(local_s3.place("enforced"), access_key="AKIANOBODY", secret_key="x" * 40, patience=QUICK)
    with pytest.raises(StoreSetupError):
        list(store.list(""))
    store.close()


def test_a_site_of_another_prefix_refuses(shared: S3Store, local_s3: LocalS3, key: str) -> None:
    shared.put(key, b"x")
    grant = shared.grant_get(key, expires=soon())
    for place in (local_s3.place("enforced", "other"), local_s3.place("other", shared.place.prefix)):
        with S3GrantClient(place) as client, pytest.raises(GrantError):
            client.open(grant)


def test_a_missing_bucket(local_s3: LocalS3) -> None:
    store = S3Store(
        local_s3.place("no-such-bucket"),
        access_key=local_s3.access_key,
        secret_key=local_s3.secret_key,
        patience=QUICK,
    )
    with pytest.raises(StoreSetupError):
        list(store.list(""))
    store.close()


def test_listing_goes_page_by_page(shared: S3Store, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_PAGE", 2)
    names = sorted(f"{key}/{number}" for number in range(7))
    for name in names:
        shared.put(name, b"x")
    assert sorted(shared.list(f"{key}/")) == names


def test_encryption_at_rest_is_asked_for(local_s3: LocalS3, key: str) -> None:
    store = S3Store(
        local_s3.place("enforced"),
        access_key=local_s3.access_key,
        secret_key=local_s3.secret_key,
        protection=Protection(sse="AES256"),
        patience=QUICK,
    )
    data = os.urandom(17 * MIB)
    for name, body in ((key, b"small"), (f"{key}.large", data)):
        store.put(name, body)
        assert store.get(name, limit=len(body)) == body
        head = store._s3.head_object(Bucket="enforced", Key=name)
        assert head["ServerSideEncryption"] == "AES256"
    store.close()


@pytest.mark.parametrize("seconds", [0, -5])
def test_times_that_cannot_be_granted(shared: S3Store, key: str, seconds: int) -> None:
    with pytest.raises(GrantError):
        shared.grant_get(key, expires=int(time.time()) + seconds)


def test_a_server_that_is_gone() -> None:
    place = S3Place("models", endpoint_url="http://127.0.0.1:1", insecure_loopback=True)
    store = S3Store(place, access_key="A", secret_key="B", patience=QUICK)
    for call in (lambda: store.length("k"), lambda: store.get("k", limit=1), lambda: store.put("k", b"x")):
        with pytest.raises(StoreUnavailableError):
            call()
    store.close()


def test_completing_from_the_journal(shared: S3Store, key: str) -> None:
    """A bare grant, through JSON, is enough after a restart."""
    data = os.urandom(17 * MIB)
    grant = shared.grant_put(key, length=len(data), part_size=PART, expires=soon())
    with S3GrantClient(shared.place, patience=QUICK) as client:
        client.upload(grant, data)
    kept = grant.bare().model_dump_json()
    assert "X-Amz" not in kept and "http" not in kept
    shared.complete(Grant.model_validate_json(kept))
    assert shared.get(key, limit=len(data)) == data


@pytest.mark.parametrize("missing", ["boto3", "urllib3"])
def test_a_missing_library_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(StoreSetupError, match=r"counterseal\[s3\]"):
        S3Store(S3Place("models"), access_key="A", secret_key="B")


def test_importing_the_stores_loads_neither_boto3_nor_urllib3() -> None:
    code = (
        "import sys, counterseal.runtime.stores.s3, counterseal.runtime.stores.s3_client, "
        "counterseal.runtime.stores.directory, counterseal.runtime.stores.local_s3\n"
        "sys.exit(', '.join({'boto3', 'botocore', 'urllib3'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
