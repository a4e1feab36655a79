"""`counterseal store`: the doctor on a good server and on bad ones, and the documents for the administrator."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterseal.runtime.cli.doctor_check import Check
from counterseal.runtime.cli.store_doctor import StoreDoctor
from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3 import S3Store
from counterseal.runtime.stores.s3_binding import Protection
from counterseal.runtime.stores.s3_http import Connection, Patience
from counterseal.runtime.stores.s3_place import S3Place
from counterseal.tests.runtime.careless_server import careless_server
from counterseal.tests.runtime.cli_world import World, call, document
from counterseal.tests.runtime.s3_world import boto, point_to

pytestmark = pytest.mark.processes

NAMES = (
    "bucket",
    "absent objects",
    "put and get",
    "encryption in transit",
    "clock",
    "put once",
    "exact length",
    "checksum",
    "signature",
    "expired grant",
    "without a signature",
    "ranges",
    "parts",
    "put once in parts",
    "listing",
    "encryption at rest",
    "Object Lock",
    "abandoned uploads",
    "lifecycle",
    "clean-up",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def buckets(local_s3: LocalS3) -> Iterator[Any]:
    client = boto(local_s3)
    client.create_bucket(Bucket="doctor-locked", ObjectLockEnabledForBucket=True)
    client.create_bucket(Bucket="doctor-plain")
    yield client
    client.close()


@pytest.fixture(autouse=True)
def credentials(local_s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", local_s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", local_s3.secret_key)


def config_of(world: World, tmp_path: Path, *arguments: Any, **store: Any) -> Path:
    """A copy of the server's configuration beside the original, so that its relative paths hold."""
    path = world.server.with_name(f"server-{os.urandom(4).hex()}.yaml")
    path.write_text(world.server.read_text())
    return point_to(path, *arguments, **store)


def test_a_good_bucket(world: World, buckets: Any, local_s3: LocalS3, tmp_path: Path) -> None:
    config = config_of(
        world, tmp_path, local_s3.endpoint_url, "doctor-locked", prefix="fed", sse="AES256", retention_days=1
    )
    lifecycle = document(call("store", "policy", "--config", config, "--kind", "lifecycle", "--json"))
    buckets.put_bucket_lifecycle_configuration(Bucket="doctor-locked", LifecycleConfiguration=lifecycle)
    result = call("store", "doctor", "--config", config)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert tuple(line[6:].partition(":")[0] for line in lines) == NAMES
    assert [line for line in lines if not line.startswith("OK")] == [
        "??    encryption in transit: plain HTTP to this machine itself: for tests and demonstrations only"
    ]
    assert not buckets.list_object_versions(Bucket="doctor-locked").get("Versions")
    assert not buckets.list_multipart_uploads(Bucket="doctor-locked").get("Uploads")


def test_a_bucket_without_what_is_configured(world: World, buckets: Any, local_s3: LocalS3, tmp_path: Path) -> None:
    config = config_of(world, tmp_path, local_s3.endpoint_url, "doctor-plain", retention_days=30)
    buckets.put_bucket_lifecycle_configuration(
        Bucket="doctor-plain",
        LifecycleConfiguration={
            "Rules": [{"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}]
        },
    )
    result = call("store", "doctor", "--config", config, "--json")
    assert result.exit_code == 1
    found = {one["name"]: one for one in document(result)["checks"]}
    failed = {name: one["what"] for name, one in found.items() if one["ok"] is False}
    assert set(failed) == {"Object Lock", "lifecycle"}
    assert "no Object Lock" in failed["Object Lock"] and "'tidy' removes evidence" in failed["lifecycle"]
    assert not buckets.list_objects_v2(Bucket="doctor-plain").get("Contents")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"bucket": "no-such-bucket"}, "no such bucket"),
        ({"key": "AKIANOBODY"}, "InvalidAccessKeyId"),
        ({"secret": "wrong"}, "SignatureDoesNotMatch"),
        ({"endpoint": "http://127.0.0.1:9"}, "no answer"),
    ],
)
def test_a_bucket_that_cannot_be_used(
    world: World,
    buckets: Any,
    local_s3: LocalS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    what: str,
) -> None:
    if "key" in change:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", change["key"])
    if "secret" in change:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", change["secret"])
    monkeypatch.setattr("counterseal.runtime.stores.s3_http.Patience.pause", lambda self, attempt: 0.0)
    config = config_of(
        world, tmp_path, change.get("endpoint", local_s3.endpoint_url), change.get("bucket", "doctor-plain")
    )
    result = call("store", "doctor", "--config", config, "--json")
    assert result.exit_code == 1
    first, *rest = document(result)["checks"]
    assert first["ok"] is False and what in first["what"]
    assert {one["name"] for one in rest if one["ok"] is None} >= {"put once", "lifecycle"}  # and is not tried


def test_a_folder_has_no_doctor(world: World) -> None:
    result = call("store", "doctor", "--config", world.server)
    assert result.exit_code == 1 and "folder" in result.output


def examined(origin: str, **options: Any) -> dict[str, Check]:
    place = S3Place("models", "fed", endpoint_url=origin, insecure_loopback=True)
    patience = Patience(attempts=2, connect=2, silence=5, base=0.001, most=0.002)
    store = S3Store(place, access_key="A", secret_key="B", patience=patience, **options)
    wire = Connection(place, patience=patience)
    try:
        return {one.name: one for one in StoreDoctor(store, wire, sleep=lambda seconds: None).each()}
    finally:
        wire.close()
        store.close()


def test_a_server_that_takes_everything() -> None:
    """It ignores signatures, conditions, lengths and digests: the doctor says so, check by check."""
    with careless_server() as server:
        found = examined(server.origin, protection=Protection(sse="aws:kms", retention_days=1))
    assert {name for name, one in found.items() if one.ok is False} == {
        "put once",
        "exact length",
        "signature",
        "expired grant",
        "without a signature",
        "encryption at rest",
        "Object Lock",
    }
    assert {name for name, one in found.items() if one.ok is None} == {
        "encryption in transit",
        "checksum",
        "put once in parts",
        "lifecycle",
    }
    assert found["checksum"].what.endswith("so a wrong body is found later")


def test_each_promise_has_its_own_check() -> None:
    """A server that keeps all but one: only that one's check speaks."""
    for kept, check, ok in (
        ("conditions", "put once", False),
        ("digests", "checksum", None),
        ("expiry", "expired grant", False),
        ("strangers", "without a signature", False),
    ):
        with careless_server(keeps={"conditions", "digests", "expiry", "strangers", "signatures"} - {kept}) as server:
            found = examined(server.origin)
        assert found[check].ok is ok, (kept, found[check])
        others = {"put once", "checksum", "expired grant", "without a signature", "exact length", "signature"} - {check}
        assert all(found[name].ok is True for name in others), (kept, found)


def test_a_clock_that_is_wrong() -> None:
    with careless_server(skew=3600.0) as server:
        found = examined(server.origin)
    assert found["clock"].ok is False and "s from the store" in found["clock"].what


@pytest.mark.parametrize(
    ("endpoint", "amazon"),
    [
        ("https://s3.example.org", False),
        ("https://s3.eu-central-1.amazonaws.com", True),
        ("https://amazonaws.com.example.org", False),
        ("https://evilamazonaws.com", False),
    ],
)
def test_whose_dialect_the_documents_speak(world: World, tmp_path: Path, endpoint: str, amazon: bool) -> None:
    config = config_of(world, tmp_path, endpoint, "models", prefix="fed")
    found = document(call("store", "policy", "--config", config, "--principal", "arn:aws:iam::1:role/s", "--json"))
    assert ("s3:if-none-match" in json.dumps(found["bucket"])) is amazon


def test_documents_are_printed(world: World, tmp_path: Path) -> None:
    config = config_of(world, tmp_path, "https://s3.example.org", "models", prefix="fed")
    result = call("store", "policy", "--config", config, "--principal", "arn:aws:iam::1:role/server", "--json")
    assert result.exit_code == 0 and set(document(result)) == {"iam", "bucket", "lifecycle", "lock", "cors"}
    one = call("store", "policy", "--config", config, "--kind", "iam")
    assert json.loads(one.stdout)["Version"] == "2012-10-17" and "note:" in one.stderr
    without = document(call("store", "policy", "--config", config, "--json"))
    assert "bucket" not in without
    for wrong in (
        ["--kind", "bucket"],
        ["--kind", "acl"],
        ["--principal", "*"],
        ["--principal", "arn:aws:iam::1:user/*"],
    ):
        assert call("store", "policy", "--config", config, *wrong).exit_code == 2
