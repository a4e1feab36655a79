"""A hospital's way out: TLS under an authority of its own, through a proxy that connects and sees nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from counterseal.runtime.assembly import open_s3, open_store
from counterseal.runtime.config import S3StoreConfig
from counterseal.runtime.errors import StoreSetupError, StoreUnavailableError
from counterseal.runtime.stores.s3 import S3Store
from counterseal.runtime.stores.s3_client import S3GrantClient
from counterseal.runtime.stores.s3_http import Patience
from counterseal.runtime.stores.s3_place import S3Place
from counterseal.trust.errors import MalformedError

from ..federation import Clock, DirectTransport, Federation, run_config
from .tls_world import ConnectProxy, SecureS3, connect_proxy, make_authority

pytestmark = pytest.mark.processes

QUICK = Patience(attempts=2, connect=5, silence=20, base=0.01, most=0.05)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureS3]:
    folder = tmp_path_factory.mktemp("tls") / "server"
    make_authority(folder)
    with SecureS3(folder) as server:
        store = store_of(server)
        store.create_bucket()
        store.close()
        yield server


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with connect_proxy() as made:
        yield made


def store_of(server: SecureS3, proxy: str | None = None) -> S3Store:
    return S3Store(
        server.place("federation", "fed"),
        access_key=server.access_key,
        secret_key=server.secret_key,
        patience=QUICK,
        ca_file=str(server.folder / "ca.pem"),
        proxy=proxy,
    )


def test_a_federation_through_a_proxy(service: SecureS3, proxy: ConnectProxy, tmp_path: Path) -> None:
    """Both ends go through it; it learns where they go, and no key, no header, no signature and no byte of theirs."""
    federation = Federation.make(tmp_path / "fed", 2, clock=Clock(int(time.time())))
    config = run_config(rounds=1)
    store = store_of(service, proxy.url)
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        sites = {}
        for name in federation.sites:
            client = S3GrantClient(store.place, patience=QUICK, ca_file=str(service.folder / "ca.pem"), proxy=proxy.url)
            stack.callback(client.close)
            sites[name] = stack.enter_context(federation.site(name, store=client))
        transport = DirectTransport(sites)
        server = stack.enter_context(federation.server(transport, store=store))
        result = server.run(config, federation.first_parameters(config))
    assert result.outcome == "completed"
    assert set(proxy.asked) == {f"CONNECT 127.0.0.1:{service.port} HTTP/1.0"} or set(proxy.asked) == {
        f"CONNECT 127.0.0.1:{service.port} HTTP/1.1"
    }
    heard = bytes(proxy.heard)
    assert len(heard) > 50_000
    for secret in (b"X-Amz-Signature", b"payloads/", b"runs/run-1", b"federation/", service.access_key.encode()):
        assert secret not in heard


def test_the_proxy_is_the_only_way(service: SecureS3, proxy: ConnectProxy) -> None:
    """A proxy that refuses is not gone round, by neither of the two libraries."""
    proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
    store = store_of(service, proxy.url)
    grant = store.grant_get("k", expires=int(time.time()) + 60)
    with S3GrantClient(store.place, patience=QUICK, ca_file=str(service.folder / "ca.pem"), proxy=proxy.url) as client:
        with pytest.raises(StoreUnavailableError) as caught:
            client.open(grant)
        assert "store.proxy" in caught.value.remedy and "X-Amz" not in str(caught.value)
    with pytest.raises(StoreUnavailableError):
        store.length("k")
    assert len(proxy.asked) >= 2
    store.close()


def test_the_environment_names_no_proxy(
    service: SecureS3, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets a job's environment could otherwise lead the server's requests anywhere."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    store = store_of(service)
    assert store.length("nothing") is None
    store.put("something", b"x")
    assert proxy.asked == []
    store.close()


def test_an_authority_that_is_not_ours(service: SecureS3, proxy: ConnectProxy, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other")
    grant = store_of(service).grant_get("k", expires=int(time.time()) + 60)
    for way in (None, proxy.url):
        for ca_file in (str(other), None):
            with S3GrantClient(
                service.place("federation", "fed"), patience=QUICK, ca_file=ca_file, proxy=way
            ) as client:
                with pytest.raises(StoreSetupError, match="not trusted") as caught:
                    client.open(grant)
                assert "ca_file" in caught.value.remedy
    store = S3Store(
        service.place("federation"), access_key="A", secret_key="B", patience=QUICK, ca_file=str(other), proxy=proxy.url
    )
    with pytest.raises(StoreUnavailableError, match=r"SSLError|ProxyConnectionError"):
        store.length("k")
    store.close()


def test_the_fields_of_the_configuration_arrive(
    service: SecureS3, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", service.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", service.secret_key)
    config = S3StoreConfig(
        kind="s3",
        bucket="federation",
        prefix="configured",
        endpoint_url=service.endpoint_url,
        ca_file=service.folder / "ca.pem",
        proxy=proxy.url,
        sse="AES256",
        grant_seconds=60,
    )
    store = open_store(config)
    store.put("k", b"x")
    assert store.get("k", limit=1) == b"x" and proxy.asked
    assert store.grant_get("k", expires=int(time.time()) + 3600).expires <= int(time.time()) + 60
    again, wire = open_s3(config)
    assert again.ask("head_object", Key="configured/k")["ServerSideEncryption"] == "AES256"
    wire.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"proxy": "http://user:secret@proxy:3128"},
        {"proxy": "https://proxy:3128"},
        {"proxy": "http://proxy"},
        {"proxy": "http://proxy:3128/path"},
        {"proxy": "socks5://proxy:1080"},
        {"proxy": "http://proxy:3128", "endpoint_url": "http://127.0.0.1:1", "insecure_loopback": True},
        {"sse_key": "k"},
        {"sse": "AES256", "sse_key": "k"},
        {"grant_seconds": 59},
        {"retention_days": 0},
    ],
)
def test_fields_that_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedError) as caught:
        S3StoreConfig.from_json({"kind": "s3", "bucket": "models", **fields})
    assert "secret" not in str(caught.value)


def test_a_proxy_without_tls_is_no_proxy() -> None:
    place = S3Place("models", endpoint_url="http://127.0.0.1:1", insecure_loopback=True)
    with pytest.raises(StoreSetupError, match="see the grants"):
        S3GrantClient(place, proxy="http://127.0.0.1:2")
