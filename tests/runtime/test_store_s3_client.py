"""A site's end of S3 against a server that lies, breaks off and redirects, and grants that point elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import io
import ipaddress
import logging
import os
import ssl
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from counterseal.runtime.errors import (
    GrantError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    StoreSetupError,
    StoreUnavailableError,
    WrongDigestError,
    WrongLengthError,
)
from counterseal.runtime.stores import s3_http
from counterseal.runtime.stores.grants import Grant
from counterseal.runtime.stores.s3 import S3Store
from counterseal.runtime.stores.s3_binding import Protection
from counterseal.runtime.stores.s3_client import S3GrantClient, admitted
from counterseal.runtime.stores.s3_http import Patience
from counterseal.runtime.stores.s3_place import S3Place
from counterseal.tests.runtime.fault_server import (
    Act,
    FaultServer,
    drip,
    fault_server,
    garbage,
    half,
    hang_up,
    reply,
    sleepy,
    status,
)

QUICK = Patience(attempts=3, connect=2, silence=2, rate=1 << 20, base=0.001, most=0.002)
MIB = 1 << 20


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture
def server(running: FaultServer) -> FaultServer:
    running.data = b""
    running.acts.clear()
    running.seen.clear()
    return running


def signer(place: S3Place, **options: Any) -> S3Store:
    return S3Store(place, access_key="AKIAEXAMPLE", secret_key="not-a-secret", patience=QUICK, **options)


@pytest.fixture(scope="module")
def place(running: FaultServer) -> S3Place:
    return S3Place("models", "fed", endpoint_url=running.origin, insecure_loopback=True)


@pytest.fixture(scope="module")
def store(place: S3Place) -> Iterator[S3Store]:
    store = signer(place)
    yield store
    store.close()


@pytest.fixture
def client(place: S3Place) -> Iterator[S3GrantClient]:
    with S3GrantClient(place, patience=QUICK) as client:
        yield client


def soon() -> int:
    return int(time.time()) + 60


def put_grant(store: S3Store, data: bytes = b"update", **options: Any) -> Grant:
    return store.grant_put("blobs/r/t", length=len(data), expires=soon(), **options)


def parted(store: S3Store, server: FaultServer, length: int) -> Grant:
    """A multipart grant: the server plays S3 for the creation."""

    def created(request: Any, received: Any) -> None:
        reply(request, 200, b"<InitiateMultipartUploadResult><UploadId>up1</UploadId></InitiateMultipartUploadResult>")

    server.acts.append(created)
    grant = store.grant_put("blobs/r/t", length=length, part_size=16 * MIB, expires=soon())
    server.seen.clear()
    return grant


def with_url(grant: Grant, url: str) -> Grant:
    return grant.model_copy(update={"parts": (grant.parts[0].model_copy(update={"url": url}),)})


def with_headers(grant: Grant, headers: tuple[tuple[str, str], ...]) -> Grant:
    return grant.model_copy(update={"parts": (grant.parts[0].model_copy(update={"headers": headers}),)})


URL_ATTACKS = {
    "empty": lambda o, q: "",
    "file": lambda o, q: f"file:///etc/passwd?{q}",
    "metadata service": lambda o, q: f"http://169.254.169.254/latest/meta-data/?{q}",
    "other scheme": lambda o, q: f"{o.replace('http', 'https')}/models/fed/blobs/r/t?{q}",
    "gopher": lambda o, q: f"{o.replace('http', 'gopher')}/models/fed/blobs/r/t?{q}",
    "upper-case scheme": lambda o, q: f"{o.replace('http', 'HTTP')}/models/fed/blobs/r/t?{q}",
    "other host": lambda o, q: f"http://evil.example/models/fed/blobs/r/t?{q}",
    "host as user part": lambda o, q: f"{o}@evil.example/models/fed/blobs/r/t?{q}",
    "user part": lambda o, q: f"{o.replace('//', '//user:pass@')}/models/fed/blobs/r/t?{q}",
    "backslash host": lambda o, q: f"{o}\\@evil.example/models/fed/blobs/r/t?{q}",
    "other spelling of the host": lambda o, q: f"{o.replace('127.0.0.1', 'localhost')}/models/fed/blobs/r/t?{q}",
    "decimal host": lambda o, q: f"{o.replace('127.0.0.1', '2130706433')}/models/fed/blobs/r/t?{q}",
    "other port": lambda o, q: f"{o}0/models/fed/blobs/r/t?{q}",
    "no port": lambda o, q: f"http://127.0.0.1/models/fed/blobs/r/t?{q}",
    "other bucket": lambda o, q: f"{o}/other/fed/blobs/r/t?{q}",
    "other prefix": lambda o, q: f"{o}/models/other/blobs/r/t?{q}",
    "no prefix": lambda o, q: f"{o}/models/blobs/r/t?{q}",
    "other key": lambda o, q: f"{o}/models/fed/blobs/r/u?{q}",
    "longer key": lambda o, q: f"{o}/models/fed/blobs/r/t/x?{q}",
    "parent": lambda o, q: f"{o}/models/fed/../fed/blobs/r/t?{q}",
    "escaped": lambda o, q: f"{o}/models/fed/blobs/r/%74?{q}",
    "escaped parent": lambda o, q: f"{o}/models/fed/blobs/r/t/%2e%2e/t?{q}",
    "double slash": lambda o, q: f"{o}//models/fed/blobs/r/t?{q}",
    "fragment": lambda o, q: f"{o}/models/fed/blobs/r/t#?{q}",
    "leading space": lambda o, q: f" {o}/models/fed/blobs/r/t?{q}",
    "no query": lambda o, q: f"{o}/models/fed/blobs/r/t",
    "no signature": lambda o, q: f"{o}/models/fed/blobs/r/t?{q.partition('&X-Amz-Signature')[0]}",
    "signature twice": lambda o, q: f"{o}/models/fed/blobs/r/t?{q}&X-Amz-Signature=00",
    "subresource": lambda o, q: f"{o}/models/fed/blobs/r/t?acl&{q}",
    "tagging": lambda o, q: f"{o}/models/fed/blobs/r/t?{q}&tagging",
    "upload of another": lambda o, q: f"{o}/models/fed/blobs/r/t?{q}&uploadId=u&partNumber=1",
    "answer's type": lambda o, q: f"{o}/models/fed/blobs/r/t?{q}&response-content-type=text/html",
    "fragment in the query": lambda o, q: f"{o}/models/fed/blobs/r/t?{q}#x",
    "new line in the query": lambda o, q: f"{o}/models/fed/blobs/r/t?{q} HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "new line at the end": lambda o, q: f"{o}/models/fed/blobs/r/t?{q}\n",
    "second question mark": lambda o, q: f"{o}/models/fed/blobs/r/t?{q}?x",
}


@pytest.mark.parametrize("attack", URL_ATTACKS.values(), ids=URL_ATTACKS.keys())
@pytest.mark.parametrize("method", ["put", "get"])
def test_a_grant_that_points_elsewhere(
    server: FaultServer, store: S3Store, client: S3GrantClient, attack: Any, method: str
) -> None:
    grant = put_grant(store) if method == "put" else store.grant_get("blobs/r/t", expires=soon())
    evil = with_url(grant, attack(server.origin, grant.parts[0].url.partition("?")[2]))
    with pytest.raises(GrantError) as caught:
        client.upload(evil, b"update") if method == "put" else client.open(evil)
    assert server.seen == []
    assert "evil" not in str(caught.value) and "169.254" not in str(caught.value)


HEADER_ATTACKS: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (),
    "no put-once": (("content-length", "6"),),
    "no length": (("if-none-match", "*"),),
    "other length": (("content-length", "7"), ("if-none-match", "*")),
    "put-once of one tag": (("content-length", "6"), ("if-none-match", '"x"')),
    "host": (("content-length", "6"), ("if-none-match", "*"), ("host", "evil.example")),
    "chunked": (("content-length", "6"), ("if-none-match", "*"), ("transfer-encoding", "chunked")),
    "authorization": (("content-length", "6"), ("if-none-match", "*"), ("authorization", "Basic eA==")),
    "cookie": (("content-length", "6"), ("if-none-match", "*"), ("cookie", "a=b")),
    "copy": (("content-length", "6"), ("if-none-match", "*"), ("x-amz-copy-source", "/models/secret")),
    "public": (("content-length", "6"), ("if-none-match", "*"), ("x-amz-acl", "public-read")),
    "length twice": (("content-length", "6"), ("if-none-match", "*"), ("Content-Length", "6")),
    "a digest that the grant does not name": (
        ("content-length", "6"),
        ("if-none-match", "*"),
        ("x-amz-checksum-sha256", "AAAA"),
    ),
    "smuggled line": (
        ("content-length", "6"),
        ("if-none-match", "*"),
        ("x-amz-server-side-encryption", "AES256\r\na: b"),
    ),
}


@pytest.mark.parametrize("headers", HEADER_ATTACKS.values(), ids=HEADER_ATTACKS.keys())
def test_a_grant_with_other_headers(
    server: FaultServer, store: S3Store, client: S3GrantClient, headers: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(GrantError):
        client.upload(with_headers(put_grant(store), headers), b"update")
    with pytest.raises(GrantError):
        client.open(with_headers(store.grant_get("k", expires=soon()), headers or (("x", "y"),)))
    assert server.seen == []


def test_a_part_of_another_number(server: FaultServer, store: S3Store, place: S3Place) -> None:
    grant = parted(store, server, 20 * MIB)
    for part in grant.parts:
        target, headers = admitted(grant, part, place)
        assert f"partNumber={part.number}" in target and headers == {"content-length": str(part.length)}
    with pytest.raises(GrantError):
        admitted(grant, grant.parts[0].model_copy(update={"url": grant.parts[1].url}), place)
    with pytest.raises(GrantError):
        admitted(grant, grant.parts[0].model_copy(update={"url": put_grant(store).parts[0].url}), place)


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint_url": "http://s3.example.org"},
        {"endpoint_url": "http://s3.example.org", "insecure_loopback": True},
        {"endpoint_url": "http://127.0.0.1:9"},
        {"endpoint_url": "http://127.0.0.1.evil.example", "insecure_loopback": True},
        {"endpoint_url": "http://0.0.0.0:9", "insecure_loopback": True},
        {"endpoint_url": "ftp://s3.example.org"},
        {"endpoint_url": "https://user:pass@s3.example.org"},
        {"endpoint_url": "https://s3.example.org/path"},
        {"endpoint_url": "https://s3.example.org/"},
        {"endpoint_url": "https://s3.example.org\n"},
        {"endpoint_url": "https://s3.example.org:port"},
        {"endpoint_url": "s3.example.org"},
        {"endpoint_url": ""},
        {"bucket": "Models"},
        {"bucket": "a/b"},
        {"bucket": ".."},
        {"bucket": "evil.example/x?"},
        {"region": "evil.example/"},
        {"prefix": "../x"},
        {"prefix": "x/"},
    ],
    ids=str,
)
def test_places_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(StoreError):
        S3Place(**({"bucket": "models"} | options))


@pytest.mark.parametrize(
    ("place", "start"),
    [
        (S3Place("models"), "https://models.s3.us-east-1.amazonaws.com/a/b?"),
        (S3Place("models", "fed", region="eu-west-1"), "https://models.s3.eu-west-1.amazonaws.com/fed/a/b?"),
        (S3Place("mo.dels", region="eu-west-1"), "https://s3.eu-west-1.amazonaws.com/mo.dels/a/b?"),
        (S3Place("models", endpoint_url="https://s3.example.org"), "https://s3.example.org/models/a/b?"),
        (S3Place("models", endpoint_url="https://s3.example.org:9000"), "https://s3.example.org:9000/models/a/b?"),
        (S3Place("models", endpoint_url="http://[::1]:9", insecure_loopback=True), "http://[::1]:9/models/a/b?"),
    ],
    ids=str,
)
def test_server_and_site_spell_the_same_address(place: S3Place, start: str) -> None:
    store = signer(place, protection=Protection(sse="AES256"))
    for grant in (
        store.grant_get("a/b", expires=soon()),
        store.grant_put("a/b", length=4, expires=soon()),
        store.grant_put("a/b", length=4, sha256="00" * 32, expires=soon()),
    ):
        assert grant.parts[0].url.startswith(start)
        target, headers = admitted(grant, grant.parts[0], place)
        assert place.origin + target == grant.parts[0].url
        signed = grant.parts[0].url.partition("SignedHeaders=")[2].partition("&")[0].split("%3B")
        assert set(signed) - {"host"} == set(headers)  # all that we send is signed, all that is signed is sent
    store.close()


AGAIN: dict[str, Act] = {
    "500": status(500, "InternalError"),
    "503": status(503, "SlowDown"),
    "429": status(429),
    "409": status(409, "ConditionalRequestConflict"),
    "400 RequestTimeout": status(400, "RequestTimeout"),
    "hang up": hang_up,
    "garbage": garbage,
}


@pytest.mark.parametrize("act", AGAIN.values(), ids=AGAIN.keys())
def test_an_upload_is_sent_again_byte_for_byte(
    server: FaultServer, store: S3Store, client: S3GrantClient, act: Act, tmp_path: Path
) -> None:
    data = os.urandom(300_000)
    path = tmp_path / "spool"
    path.write_bytes(data)
    server.acts += [act, act]
    assert client.upload(put_grant(store, data), path) == ('"stored"',)
    assert [request.body == data for request in server.seen] == [True] * 3
    assert len({request.target for request in server.seen}) == 1
    assert len({tuple(sorted(request.headers.items())) for request in server.seen}) == 1
    assert server.seen[0].headers["if-none-match"] == "*"


@pytest.mark.parametrize("act", AGAIN.values(), ids=AGAIN.keys())
def test_retries_are_bounded(server: FaultServer, store: S3Store, client: S3GrantClient, act: Act) -> None:
    server.acts += [act] * 10
    with pytest.raises(StoreUnavailableError) as caught:
        client.upload(put_grant(store), b"update")
    assert caught.value.retryable and len(server.seen) == QUICK.attempts


ANSWERS: list[tuple[Act, type[StoreError]]] = [
    (status(412, "PreconditionFailed"), ObjectExistsError),
    (status(403, "AccessDenied"), GrantError),
    (status(403, "SignatureDoesNotMatch"), GrantError),
    (status(403), GrantError),
    (status(400, "BadDigest"), WrongDigestError),
    (status(400, "InvalidRequest"), GrantError),
    (status(404, "NoSuchBucket"), StoreSetupError),
    (status(404, "NoSuchKey"), ObjectMissingError),
    (status(404, "NoSuchUpload"), GrantError),
    (status(301, "PermanentRedirect", Location="http://169.254.169.254/"), GrantError),
    (status(307, "TemporaryRedirect", Location="http://127.0.0.1:1/"), GrantError),
    (status(304), GrantError),
    (status(418), GrantError),
]


@pytest.mark.parametrize(("act", "expected"), ANSWERS)
def test_answers_that_end_an_upload(
    server: FaultServer, store: S3Store, client: S3GrantClient, act: Act, expected: type[StoreError]
) -> None:
    server.acts.append(act)
    with pytest.raises(expected) as caught:
        client.upload(put_grant(store), b"update")
    assert type(caught.value) is expected and len(server.seen) == 1


def test_redirects_are_not_followed(server: FaultServer, store: S3Store, client: S3GrantClient) -> None:
    with fault_server() as other:
        for code in (301, 302, 303, 307, 308):
            server.acts += [status(code, Location=f"{other.origin}/models/fed/blobs/r/t")] * 2
            with pytest.raises(GrantError):
                client.upload(put_grant(store), b"update")
            with pytest.raises(GrantError):
                client.open(store.grant_get("blobs/r/t", expires=soon()))
        assert other.seen == [] and len(server.seen) == 10


def test_an_error_text_of_the_store_does_not_reach_ours(
    server: FaultServer, store: S3Store, client: S3GrantClient
) -> None:
    server.acts.append(status(403, "<b>\x1b[31mpwned"))
    with pytest.raises(GrantError) as caught:
        client.upload(put_grant(store), b"update")
    assert "pwned" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_huge_error_is_not_read(server: FaultServer, store: S3Store, client: S3GrantClient) -> None:
    server.acts.append(lambda request, received: reply(request, 403, b"x" * 1000, length=1 << 40))
    with pytest.raises(GrantError):
        client.upload(put_grant(store), b"update")


def test_a_taken_key_counts_only_with_the_same_bytes(
    server: FaultServer, store: S3Store, client: S3GrantClient
) -> None:
    read = store.grant_get("blobs/r/t", expires=soon())
    for stored, good in ((b"update", True), (b"UPDATE", False), (b"updat", False), (b"update!", False)):
        server.data = stored
        server.acts.append(status(412, "PreconditionFailed"))
        if good:
            assert client.upload(put_grant(store), b"update", compare=read) == ("",)
        else:
            with pytest.raises(ObjectExistsError):
                client.upload(put_grant(store), b"update", compare=read)
    with pytest.raises(GrantError):
        server.acts.append(status(412, "PreconditionFailed"))
        client.upload(put_grant(store), b"update", compare=store.grant_get("other", expires=soon()))


def test_a_stored_try_whose_answer_was_lost(server: FaultServer, store: S3Store, client: S3GrantClient) -> None:
    server.data = b"update"
    server.acts += [hang_up, status(412, "PreconditionFailed")]
    read = store.grant_get("blobs/r/t", expires=soon())
    assert client.upload(put_grant(store), b"update", compare=read) == ("",)


def test_parts_are_sent_again_one_by_one(server: FaultServer, store: S3Store, client: S3GrantClient) -> None:
    data = os.urandom(20 * MIB)
    grant = parted(store, server, len(data))
    server.acts += [status(503), status(500)]
    assert client.upload(grant, data) == ('"stored"', '"stored"')
    assert len(server.seen) == 4
    for request in server.seen:
        number = 1 if "partNumber=1&" in request.target + "&" else 2
        assert request.body == (data[: 16 * MIB] if number == 1 else data[16 * MIB :])
        assert "if-none-match" not in request.headers


def test_reading_goes_on_where_it_broke(server: FaultServer, store: S3Store, client: S3GrantClient) -> None:
    server.data = os.urandom(1_000_000)
    with client.open(store.grant_get("k", expires=soon())) as source:
        server.acts += [half(server), half(server), hang_up]
        with pytest.raises(StoreUnavailableError):
            source.read_into(0, memoryview(bytearray(1_000_000)))
        assert [server.range(request)[0] for request in server.seen[1:]] == [0, 500_000, 750_000]
        server.seen.clear()
        server.acts += [half(server), status(503)]
        target = bytearray(1_000_000)
        source.read_into(0, memoryview(target))
        assert target == server.data
        assert [server.range(request)[0] for request in server.seen] == [0, 500_000, 500_000]


def test_a_server_that_drips_is_left(server: FaultServer, store: S3Store, place: S3Place) -> None:
    server.data = os.urandom(4000)
    patience = Patience(attempts=2, connect=1, silence=0.4, rate=1 << 20, base=0.001, most=0.002)
    with S3GrantClient(place, patience=patience) as client, client.open(store.grant_get("k", expires=soon())) as source:
        server.acts += [drip(server, 0.02)] * 4
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            source.read_into(0, memoryview(bytearray(4000)))
        assert time.monotonic() - started < 8  # 80 s at its own pace


def test_an_answer_without_an_end_is_left(server: FaultServer, store: S3Store, place: S3Place) -> None:
    """What a store says after a put is worth nothing, however long it takes; of an error only the code is."""

    def endless(code: int, piece: bytes, pause: float) -> Act:
        def act(request: Any, received: Any) -> None:
            with contextlib.suppress(OSError):
                reply(request, code, piece, {"Content-Range": "bytes 0-0/6"}, length=1 << 40)
                for _ in range(10_000):
                    request.wfile.write(piece)
                    time.sleep(pause)

        return act

    patience = Patience(attempts=2, connect=1, silence=0.4, rate=1 << 20, base=0.001, most=0.002)
    with S3GrantClient(place, patience=patience) as client:
        for act in (endless(200, b"x" * 65_536, 0.001), endless(200, b"x", 0.02), endless(503, b"x", 0.02)):
            server.acts += [act, act]
            started = time.monotonic()
            with contextlib.suppress(StoreUnavailableError):
                client.upload(put_grant(store), b"update")
            assert time.monotonic() - started < 4
            server.acts.clear()
        server.acts.append(endless(206, b"u", 0.02))
        started = time.monotonic()
        with client.open(store.grant_get("k", expires=soon())) as source:
            assert source.length == 6 and time.monotonic() - started < 4


def test_a_silent_server_is_left(server: FaultServer, store: S3Store, place: S3Place) -> None:
    patience = Patience(attempts=2, connect=1, silence=0.3, base=0.001, most=0.002)
    with S3GrantClient(place, patience=patience) as client:
        server.acts += [sleepy(1.5)] * 4
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            client.upload(put_grant(store), b"update")
        assert time.monotonic() - started < 8


def test_nobody_listens(place: S3Place, store: S3Store, server: FaultServer) -> None:
    closed = S3Place("models", endpoint_url="http://127.0.0.1:1", insecure_loopback=True)
    with S3GrantClient(closed, patience=QUICK) as client, pytest.raises(StoreUnavailableError):
        client.upload(signer(closed).grant_put("k", length=1, expires=soon()), b"x")


LIES: dict[str, dict[str, str]] = {
    "no range": {},
    "another start": {"Content-Range": "bytes 1-1/100"},
    "another start only": {"Content-Range": "bytes 1-0/100"},
    "another end": {"Content-Range": "bytes 0-5/100"},
    "no total": {"Content-Range": "bytes 0-0/*"},
    "words": {"Content-Range": "bytes zero-one/two"},
    "huge": {"Content-Range": "bytes 0-0/" + "9" * 40},
    "negative": {"Content-Range": "bytes 0-0/-5"},
}


@pytest.mark.parametrize("headers", LIES.values(), ids=LIES.keys())
def test_answers_about_another_range(
    server: FaultServer, store: S3Store, client: S3GrantClient, headers: dict[str, str]
) -> None:
    server.acts += [lambda request, received: reply(request, 206, b"x", headers)] * 5
    with pytest.raises(StoreUnavailableError):
        client.open(store.grant_get("k", expires=soon()))


def test_a_store_that_ignores_ranges(server: FaultServer, store: S3Store, client: S3GrantClient) -> None:
    server.acts += [lambda request, received: reply(request, 200, b"x" * 100)] * 5
    with pytest.raises(StoreUnavailableError):
        client.open(store.grant_get("k", expires=soon()))


def test_an_object_that_changes_its_length(server: FaultServer, store: S3Store, client: S3GrantClient) -> None:
    server.data = b"x" * 100
    with client.open(store.grant_get("k", expires=soon())) as source:
        server.data = b"x" * 200
        with pytest.raises(WrongLengthError):
            source.read_into(0, memoryview(bytearray(100)))


def test_an_encoded_answer_is_not_decoded(server: FaultServer, store: S3Store, client: S3GrantClient) -> None:
    """A compression bomb in a Content-Encoding costs nothing: bytes are counted as sent."""
    server.data = b"\x1f\x8b" + b"x" * 98

    def gzipped(request: Any, received: Any) -> None:
        reply(request, 206, server.data, {"Content-Range": "bytes 0-99/100", "Content-Encoding": "gzip"})

    with client.open(store.grant_get("k", expires=soon())) as source:
        server.acts.append(gzipped)
        target = bytearray(100)
        source.read_into(0, memoryview(target))
        assert target == server.data


@pytest.fixture
def captured() -> Iterator[io.StringIO]:
    """Everything that anybody logs, at the lowest level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


def exercise(server: FaultServer, place: S3Place) -> tuple[list[str], str]:
    """Use grants in many ways; return the signatures in them and every text that came of it."""
    texts, grants = [], []
    with S3GrantClient(place, patience=QUICK) as client:
        store = signer(place)
        for act in [*AGAIN.values(), *(act for act, _ in ANSWERS)]:
            for method in ("put", "get"):
                server.acts[:] = [act] * QUICK.attempts
                grant = put_grant(store) if method == "put" else store.grant_get("blobs/r/t", expires=soon())
                grants.append(grant)
                try:
                    client.upload(grant, b"update") if method == "put" else client.open(grant)
                except StoreError as error:
                    texts += [str(error), repr(error), "".join(traceback.format_exception(error))]
                    texts += [repr(error.__cause__), repr(vars(error))]
                texts.append(repr(grant))
        server.acts[:] = [status(412)] * 9
        store.close()
        texts += [repr(store), repr(client), repr(place)]
    signatures = [grant.parts[0].url.partition("X-Amz-Signature=")[2] for grant in grants]
    assert all(len(signature) == 64 for signature in signatures)
    return signatures, "\n".join(texts)


def test_no_signature_in_errors_reprs_or_logs(server: FaultServer, place: S3Place, captured: io.StringIO) -> None:
    signatures, texts = exercise(server, place)
    logged = captured.getvalue()
    assert "HTTP/1.1" in logged  # the HTTP library did log its requests
    for signature in signatures:
        assert signature not in texts and signature not in logged
    for text in (texts, logged):
        assert "X-Amz-Signature=0" not in text and "AKIAEXAMPLE%2F" not in text and "not-a-secret" not in text


def test_the_scan_above_would_notice(server: FaultServer, place: S3Place, captured: io.StringIO) -> None:
    """The same scan with our log filter taken away finds signatures."""
    for name in ("urllib3.connectionpool", "urllib3.connection"):
        logging.getLogger(name).removeFilter(s3_http._REDACTING)
    grant_client, quieten = S3GrantClient(place, patience=QUICK), s3_http.quieten
    try:
        for name in ("urllib3.connectionpool", "urllib3.connection"):
            logging.getLogger(name).removeFilter(s3_http._REDACTING)
        store = signer(place)
        logging.getLogger("urllib3.connectionpool").removeFilter(s3_http._REDACTING)
        grant = put_grant(store)
        grant_client.upload(grant, b"update")
        assert grant.parts[0].url.partition("X-Amz-Signature=")[2] in captured.getvalue()
        store.close()
    finally:
        grant_client.close()
        quieten()


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = (
        [x509.IPAddress(ipaddress.ip_address(name))] if name[0].isdigit() else [x509.DNSName(name)]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(("name", "trusted"), [("127.0.0.1", True), ("127.0.0.1", False), ("evil.example", True)])
def test_https_checks_who_answers(tmp_path: Path, name: str, trusted: bool) -> None:
    pem = certificate(tmp_path, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with fault_server(context) as server:
        place = S3Place("models", endpoint_url=f"https://127.0.0.1:{server.port}")
        store = signer(place)
        with S3GrantClient(place, patience=QUICK, ca_file=str(pem) if trusted else None) as client:
            if name == "127.0.0.1" and trusted:
                assert client.upload(put_grant(store), b"update") == ('"stored"',)
            else:
                with pytest.raises(StoreSetupError):
                    client.upload(put_grant(store), b"update")
                assert server.seen == []
        store.close()
