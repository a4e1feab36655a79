"""Retention, encryption and least privilege on a real S3 server: what binds, who is let in, and who is not."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from counterseal.runtime.cli.store_doctor import StoreDoctor
from counterseal.runtime.errors import StoreSetupError
from counterseal.runtime.places import is_evidence
from counterseal.runtime.stores.grants import Grant
from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.policy_documents import DOCTOR_OPERATIONS, OPERATIONS, Bucket, documents
from counterseal.runtime.stores.s3 import S3Store
from counterseal.runtime.stores.s3_binding import Protection
from counterseal.runtime.stores.s3_client import S3GrantClient
from counterseal.runtime.stores.s3_http import Connection

from ..seaweed import QUICK
from .s3_federation import Scene, scene_on
from .s3_world import FEDERATION, PRINCIPAL, STRANGER, SharedS3, boto

pytestmark = pytest.mark.processes

LOCKED, RULED = "locked", "ruled"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedS3]:
    with SharedS3(tmp_path_factory.mktemp("shared") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def admin(service: SharedS3) -> Iterator[Any]:
    client = boto(service)
    client.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
    client.create_bucket(Bucket=RULED, ObjectLockEnabledForBucket=True)
    yield client
    client.close()


def refused(call: Any, *codes: str) -> bool:
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"]) in (*codes, "AccessDenied", "403")
    return False


def about(prefix: str, **changes: Any) -> Bucket:
    values: dict[str, Any] = {
        "name": RULED,
        "prefix": prefix,
        "amazon": False,
        "region": "us-east-1",
        "payload_days": 30,
        "principal": PRINCIPAL,
        "locks": True,
    }
    return Bucket(**{**values, **changes})


# Retention and encryption


@pytest.mark.parametrize(("sse", "key"), [("AES256", None), ("aws:kms", "test-key")])
def test_evidence_is_locked_and_everything_encrypted(
    service: SharedS3, admin: Any, tmp_path: Path, sse: Any, key: str | None
) -> None:
    prefix = f"p{os.urandom(4).hex()}"
    options = {"protection": Protection(sse=sse, retention_days=2, sse_key=key)}
    scene = scene_on(tmp_path, service, service.place(LOCKED, prefix), options=options)
    assert scene.play().outcome == "completed"
    scene.require_whole()
    keys = [entry["Key"] for entry in admin.list_objects_v2(Bucket=LOCKED, Prefix=f"{prefix}/")["Contents"]]
    evidence = {key for key in keys if is_evidence(key.removeprefix(f"{prefix}/"))}
    assert {key.split("/")[1] for key in keys} == {"log", "runs", "payloads"}
    assert any(key.endswith("/answer") for key in evidence) and any(key.endswith("/manifest") for key in evidence)
    for name in keys:
        head = admin.head_object(Bucket=LOCKED, Key=name)
        assert head["ServerSideEncryption"] == sse, name
        assert (head.get("ObjectLockMode") == "COMPLIANCE") == (name in evidence), name
    version = admin.head_object(Bucket=LOCKED, Key=min(evidence))["VersionId"]
    assert refused(lambda: admin.delete_object(Bucket=LOCKED, Key=min(evidence), VersionId=version))


def test_a_lock_on_a_bucket_that_has_none_stops_the_server(service: SharedS3, admin: Any, tmp_path: Path) -> None:
    admin.create_bucket(Bucket="unlocked")
    options = {"protection": Protection(retention_days=2)}
    scene = scene_on(tmp_path, service, service.place("unlocked"), options=options)
    with pytest.raises(StoreSetupError, match="refused") as caught:
        scene.play()
    assert "store doctor" in caught.value.remedy


def test_a_lock_goes_with_a_digest_of_the_body(service: SharedS3, admin: Any) -> None:
    """S3 demands one; a wrong one is refused by this server."""
    store = S3Store(
        service.place(LOCKED, f"p{os.urandom(4).hex()}"),
        access_key=service.access_key,
        secret_key=service.secret_key,
        protection=Protection(retention_days=1),
        patience=QUICK,
    )
    sent: list[dict[str, str]] = []
    with S3GrantClient(store.place, patience=QUICK) as client:
        send = client._connection.send

        def watch(method: str, target: str, headers: Any, body: Any, key: str) -> Any:
            sent.append(dict(headers))
            return send(method, target, headers, body, key)

        client._connection.send = watch  # type: ignore[method-assign]
        client.upload(granted(store, "runs/r/answer"), b"x" * 10)
        client.upload(granted(store, "payloads/r/payload"), b"x" * 10)
    assert "content-md5" in sent[0] and "content-md5" not in sent[1]
    assert "x-amz-object-lock-mode" in sent[0] and "x-amz-object-lock-mode" not in sent[1]
    store.close()


def granted(store: S3Store, key: str) -> Grant:
    return store.grant_put(key, length=10, expires=int(time.time()) + 60)


# Least privilege


def watched(store: S3Store, seen: set[str]) -> None:
    """Note every operation that the server's library sends or signs."""

    def note(model: Any, **more: Any) -> None:
        seen.add(model.name)

    store._s3.meta.events.register("provide-client-params.s3", note)


def test_the_policy_lists_what_a_federation_does_and_no_more(
    service: SharedS3, admin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    made = Scene.store

    def store(self: Scene) -> S3Store:
        one = made(self)
        watched(one, seen)
        return one

    monkeypatch.setattr(Scene, "store", store)
    scene = scene_on(tmp_path, service, service.place(LOCKED, f"p{os.urandom(4).hex()}"), large=True, sites=2)
    spoiled: list[str] = []

    def spoil(site: str, answer: bytes) -> bytes | None:
        """One answer is lost after its upload, so an open upload is withdrawn at the end of the round."""
        if json.loads(answer).get("uploaded") and not spoiled:
            spoiled.append(site)
            return json.dumps({**json.loads(answer), "receipt": None}).encode()
        return answer

    scene.answers = spoil
    assert scene.play().outcome == "completed" and spoiled
    list(scene.store().list("log/"))  # an auditor's download, and the demonstration
    assert seen == set(OPERATIONS)


def test_the_doctor_does_what_its_part_of_the_policy_lists(service: SharedS3, admin: Any) -> None:
    seen: set[str] = set()
    store, wire = ends(service, FEDERATION, f"p{os.urandom(4).hex()}")
    apply(admin, store.place.prefix)
    watched(store, seen)
    found = {one.name: one for one in StoreDoctor(store, wire).each()}
    assert seen == set(DOCTOR_OPERATIONS) | set(OPERATIONS)
    assert {name: one.what for name, one in found.items() if one.ok is False} == {}
    wire.close()
    store.close()


def ends(service: SharedS3, keys: tuple[str, str], prefix: str) -> tuple[S3Store, Connection]:
    place = service.place(RULED, prefix)
    protection = Protection(sse="AES256", retention_days=1)
    store = S3Store(place, access_key=keys[0], secret_key=keys[1], protection=protection, patience=QUICK)
    return store, Connection(place, patience=QUICK)


def apply(admin: Any, prefix: str) -> dict[Any, Any]:
    """Put the documents on the bucket, but for the one statement that a server without TLS cannot keep."""
    found = documents(about(prefix))
    policy = found["bucket"]
    policy["Statement"] = [one for one in policy["Statement"] if one["Sid"] != "NoPlainHttp"]
    admin.put_bucket_policy(Bucket=RULED, Policy=json.dumps(policy))
    admin.put_bucket_lifecycle_configuration(Bucket=RULED, LifecycleConfiguration=found["lifecycle"])
    return dict(found)


@pytest.mark.parametrize("large", [False, True])
def test_a_federation_works_under_the_documents_and_others_are_refused(
    service: SharedS3, admin: Any, tmp_path: Path, large: bool
) -> None:
    """The principal has no permission but the bucket policy's; the stranger may do everything else on this server."""
    prefix = f"p{os.urandom(4).hex()}"
    stranger, federation = boto(service, STRANGER), boto(service, FEDERATION)
    assert refused(lambda: federation.put_object(Bucket=RULED, Key=f"{prefix}/x", Body=b"x"))
    apply(admin, prefix)
    options = {"protection": Protection(sse="AES256", retention_days=1)}
    scene = scene_on(tmp_path, service, service.place(RULED, prefix), options=options, keys=FEDERATION, large=large)
    result = scene.play()
    assert result.outcome == "completed" and scene.counted(0) == set(scene.federation.sites)
    scene.require_whole()
    keys = [entry["Key"] for entry in admin.list_objects_v2(Bucket=RULED, Prefix=f"{prefix}/")["Contents"]]
    for who in (stranger, federation):
        for key in keys:
            if "/payloads/" not in key or who is stranger:
                assert refused(partial(who.delete_object, Bucket=RULED, Key=key)), key
    payload = next(key for key in keys if "/payloads/" in key)
    for name, call in {
        "read": lambda: stranger.get_object(Bucket=RULED, Key=payload),
        "put": lambda: stranger.put_object(Bucket=RULED, Key=f"{prefix}/payloads/new", Body=b"x"),
        "put beside": lambda: federation.put_object(Bucket=RULED, Key="elsewhere/x", Body=b"x"),
        "list beside": lambda: federation.list_objects_v2(Bucket=RULED, Prefix="elsewhere/"),
        "delete a payload": lambda: federation.delete_object(Bucket=RULED, Key=payload),
        "loosen the policy": lambda: federation.delete_bucket_policy(Bucket=RULED),
    }.items():
        assert refused(call), name


def test_plain_http_is_refused_by_the_whole_policy(service: SharedS3, admin: Any) -> None:
    """This server speaks nothing else, so the statement that the other tests leave out refuses everybody, for good."""
    federation, name = boto(service, FEDERATION), "plainly"
    admin.create_bucket(Bucket=name)
    found = documents(about("fed", name=name))["bucket"]
    without = {**found, "Statement": [one for one in found["Statement"] if one["Sid"] != "NoPlainHttp"]}
    admin.put_bucket_policy(Bucket=name, Policy=json.dumps(without))
    federation.put_object(Bucket=name, Key="fed/payloads/x", Body=b"x")
    admin.put_bucket_policy(Bucket=name, Policy=json.dumps(found))
    assert refused(lambda: federation.put_object(Bucket=name, Key="fed/payloads/y", Body=b"x"))
    assert refused(lambda: federation.get_object(Bucket=name, Key="fed/payloads/x"))
    assert refused(lambda: admin.delete_bucket_policy(Bucket=name))


# The documents as documents


def test_amazons_documents() -> None:
    found = documents(about("fed", amazon=True, kms=True, readers=("arn:aws:iam::2:role/auditor",), grant_seconds=3600))
    statements = {one["Sid"]: one for one in found["bucket"]["Statement"]}
    assert statements["PutOnce"]["Condition"] == {
        "Null": {"s3:if-none-match": "true"},
        "Bool": {"s3:ObjectCreationOperation": "true"},
    }
    assert statements["NoOldGrants"]["Condition"]["NumericGreaterThan"]["s3:signatureAge"] == "86400000"
    assert statements["NoPlainHttp"]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statements["EvidenceStays"]["Resource"] == [f"arn:aws:s3:::{RULED}/fed/{one}/*" for one in ("log", "runs")]
    assert (
        "arn:aws:iam::2:role/auditor" in statements["NobodyElseReads"]["Condition"]["ArnNotEquals"]["aws:PrincipalArn"]
    )
    assert "arn:aws:iam::2:role/auditor" not in str(statements["NobodyElse"])
    actions = {action for one in found["iam"]["Statement"] for action in one["Action"]}
    assert not any("*" in action for action in actions) and "s3:PutBucketPolicy" not in actions
    deleting = [one for one in found["iam"]["Statement"] if "s3:DeleteObject" in one["Action"]]
    assert [one["Resource"] for one in deleting] == [[f"arn:aws:s3:::{RULED}/fed/doctor/*"]]


def test_no_rule_of_the_lifecycle_touches_evidence() -> None:
    for prefix in ("", "fed", "a/b"):
        rules = documents(about(prefix))["lifecycle"]["Rules"]
        above = f"{prefix}/" if prefix else ""
        for rule in rules:
            if "Expiration" in rule:
                for evidence in ("log/checkpoint/3", "runs/r/updates/t/answer"):
                    assert not f"{above}{evidence}".startswith(rule["Filter"]["Prefix"]), rule
        assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)


def test_without_a_principal_there_is_no_bucket_policy() -> None:
    assert "bucket" not in documents(about("fed", principal=None))


def test_a_local_server_is_private(local_s3: LocalS3) -> None:
    """The fixture of the other tests has one identity and no policy: the documents are not what protects it."""
    with pytest.raises(ClientError):
        boto(local_s3, STRANGER).list_buckets()
