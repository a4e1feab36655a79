"""What every store promises, run against each: the folder, and S3 on SeaweedFS."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterseal.runtime.errors import (
    GrantError,
    ObjectExistsError,
    ObjectKeyError,
    ObjectMissingError,
    ObjectTooLargeError,
    StoreError,
    WrongDigestError,
    WrongLengthError,
)
from counterseal.runtime.stores.directory import DirectoryGrantClient, DirectoryStore
from counterseal.runtime.stores.grants import Grant
from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3_client import S3GrantClient
from counterseal.runtime.stores.seam import GrantClient, ObjectStore
from counterseal.tests.seaweed import QUICK, store_on

MIB = 1 << 20
PART = 16 * MIB


def soon() -> int:
    return int(time.time()) + 120


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sent(grant: Grant) -> Grant:
    """A grant as it arrives at the site: through JSON."""
    return Grant.from_json(grant.model_dump(mode="json"))


@pytest.fixture(scope="module")
def large() -> bytes:
    return os.urandom(40 * MIB)


ATTACKS = {
    "empty": "",
    "parent": "..",
    "parent inside": "a/../b",
    "parent at the end": "a/..",
    "dot": "a/./b",
    "hidden": ".drafts/x",
    "absolute": "/etc/passwd",
    "double slash": "a//b",
    "slash at the end": "a/",
    "NUL": "a\0b",
    "backslash": "a\\b",
    "newline": "a\nb",
    "newline at the end": "a\n",
    "upper case": "Blobs/x",
    "percent": "a%2e%2e/b",
    "question mark": "a?acl",
    "hash": "a#b",
    "colon": "c:x",
    "space": "a b",
    "full-width stop": "a/\uff0e\uff0e/b",
    "homoglyph": "\u0430",
    "600 characters": "/".join(["a" * 99] * 6),
    "a name over the file system's limit": "a" * 300,
}


class Contract:
    """The promises; a subclass gives ``store`` and ``client`` over the same objects."""

    def test_round_trip(self, store: ObjectStore, tmp_path: Path) -> None:
        path = tmp_path / "source"
        path.write_bytes(b"from a file")
        store.put("run/one", b"bytes", sha256=digest(b"bytes"))
        store.put("run/two", path, sha256=digest(b"from a file"))
        store.put("run/three", b"")
        assert store.get("run/one", limit=5) == b"bytes"
        assert store.get("run/two", limit=100) == b"from a file"
        assert store.get("run/three", limit=0) == b""
        assert [store.length(f"run/{name}") for name in ("one", "two", "three", "four")] == [5, 11, 0, None]

    def test_the_same_bytes_again_succeed_and_others_do_not(self, store: ObjectStore) -> None:
        store.put("k", b"first")
        store.put("k", b"first")
        for other in (b"other", b"firs", b"first!", b""):
            with pytest.raises(ObjectExistsError):
                store.put("k", other)
        assert store.get("k", limit=9) == b"first"

    def test_a_put_checks_its_digest(self, store: ObjectStore) -> None:
        with pytest.raises(WrongDigestError):
            store.put("k", b"data", sha256=digest(b"other"))
        assert store.length("k") is None

    def test_of_16_racing_writers_one_wins(self, store: ObjectStore) -> None:
        outcomes: list[str] = []
        barrier = threading.Barrier(16)

        def write(number: int) -> None:
            barrier.wait()
            try:
                store.put("race", b"%02d" % number * 1000)
                outcomes.append(f"{number:02d}")
            except ObjectExistsError:
                outcomes.append("refused")
            except StoreError as error:
                outcomes.append(repr(error))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [outcome for outcome in outcomes if outcome != "refused"]
        assert len(outcomes) == 16 and len(winners) == 1, outcomes
        assert store.get("race", limit=2000) == winners[0].encode() * 1000

    def test_racing_writers_of_the_same_bytes_all_succeed(self, store: ObjectStore) -> None:
        failures: list[BaseException] = []

        def write() -> None:
            try:
                store.put("race", b"same" * 1000)
            except StoreError as error:
                failures.append(error)

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    def test_get_stops_at_its_limit(self, store: ObjectStore) -> None:
        store.put("k", b"x" * 1001)
        with pytest.raises(ObjectTooLargeError):
            store.get("k", limit=1000)

    def test_missing_objects(self, store: ObjectStore, client: GrantClient) -> None:
        for call in (
            lambda: store.get("no", limit=1),
            lambda: store.open("no"),
            lambda: store.open("no/such/folder"),
            lambda: client.open(sent(store.grant_get("no", expires=soon()))),
            lambda: store.complete(store.grant_put("no", length=4, expires=soon())),
        ):
            with pytest.raises(ObjectMissingError):
                call()
        store.delete("no")

    def test_a_deleted_object_is_gone(self, store: ObjectStore) -> None:
        store.put("k", b"x")
        store.delete("k")
        assert store.length("k") is None

    def test_ranges(self, store: ObjectStore, client: GrantClient) -> None:
        data = os.urandom(3 * MIB + 17)
        store.put("k", data)
        for opened in (store.open("k"), client.open(sent(store.grant_get("k", expires=soon())))):
            with opened as source:
                assert source.length == len(data)
                for start, size in ((0, 1), (5, 100), (MIB - 1, 2 * MIB), (len(data) - 1, 1), (0, len(data)), (7, 0)):
                    target = bytearray(size)
                    source.read_into(start, memoryview(target))
                    assert target == data[start : start + size]
                for start, size in ((len(data), 1), (len(data) - 1, 2), (-1, 1), (0, len(data) + 1)):
                    with pytest.raises(WrongLengthError):
                        source.read_into(start, memoryview(bytearray(size)))

    def test_listing(self, store: ObjectStore) -> None:
        for key in ("runs/a/x", "runs/a/y", "runs/ab", "runs/b", "tile/0", "runs/a.b"):
            store.put(key, b"x")
        assert sorted(store.list("runs/")) == ["runs/a.b", "runs/a/x", "runs/a/y", "runs/ab", "runs/b"]
        assert sorted(store.list("runs/a")) == ["runs/a.b", "runs/a/x", "runs/a/y", "runs/ab"]
        assert sorted(store.list("runs/a/")) == ["runs/a/x", "runs/a/y"]
        assert list(store.list("none/")) == []
        assert len(list(store.list(""))) == 6
        with pytest.raises(ObjectKeyError):
            list(store.list("../"))

    @pytest.mark.parametrize("key", ATTACKS.values(), ids=ATTACKS.keys())
    def test_keys_that_are_not_ours(self, store: ObjectStore, client: GrantClient, key: str) -> None:
        good = store.grant_put("good", length=1, expires=soon())
        read = store.grant_get("good", expires=soon())
        calls: tuple[Any, ...] = (
            lambda: store.put(key, b"x"),
            lambda: store.get(key, limit=9),
            lambda: store.length(key),
            lambda: store.open(key),
            lambda: store.delete(key),
            lambda: store.grant_get(key, expires=soon()),
            lambda: store.grant_put(key, length=1, expires=soon()),
            lambda: store.complete(good.model_copy(update={"key": key})),
            lambda: client.upload(good.model_copy(update={"key": key}), b"x"),
            lambda: client.open(read.model_copy(update={"key": key})),
        )
        for call in calls:
            with pytest.raises(ObjectKeyError) as caught:
                call()
            assert len(str(caught.value)) < 300 and "\n" not in str(caught.value) and "\0" not in str(caught.value)
        assert list(store.list("")) == []

    def test_a_grant_writes_its_object_once(self, store: ObjectStore, client: GrantClient, tmp_path: Path) -> None:
        path = tmp_path / "spool"
        path.write_bytes(b"update")
        grant = store.grant_put("blobs/r/t/update", length=6, expires=soon())
        etags = client.upload(sent(grant), path)
        store.complete(grant.bare(), etags)
        store.complete(grant.bare())
        assert store.get("blobs/r/t/update", limit=6) == b"update"
        read = store.grant_get("blobs/r/t/update", expires=soon())
        assert len(client.upload(sent(grant), b"update", compare=read)) == 1  # a repeated delivery
        for compare in (None, read):
            with pytest.raises(ObjectExistsError):
                client.upload(sent(grant), b"UPDATE", compare=compare)
        assert store.get("blobs/r/t/update", limit=6) == b"update"

    @pytest.mark.parametrize("length", [5, 7, 0])
    def test_a_grant_is_for_an_exact_length(self, store: ObjectStore, client: GrantClient, length: int) -> None:
        grant = store.grant_put("k", length=6, expires=soon())
        with pytest.raises(WrongLengthError):
            client.upload(sent(grant), b"x" * length)
        assert store.length("k") is None

    def test_a_bound_digest_refuses_other_bytes(self, store: ObjectStore, client: GrantClient) -> None:
        grant = store.grant_put("k", length=6, sha256=digest(b"update"), expires=soon())
        with pytest.raises(WrongDigestError):
            client.upload(sent(grant), b"UPDATE")
        assert store.length("k") is None
        client.upload(sent(grant), b"update")
        assert store.get("k", limit=6) == b"update"

    def test_an_expired_grant(self, store: ObjectStore, client: GrantClient) -> None:
        store.put("there", b"x")
        grants = [store.grant_put("k", length=1, expires=int(time.time()) + 1)]
        grants.append(store.grant_get("there", expires=int(time.time()) + 1))
        time.sleep(2.1)
        with pytest.raises(GrantError):
            client.upload(sent(grants[0]), b"x")
        with pytest.raises(GrantError):
            client.open(sent(grants[1]))
        assert store.length("k") is None

    def test_a_grant_does_only_its_method(self, store: ObjectStore, client: GrantClient) -> None:
        store.put("k", b"x")
        with pytest.raises(GrantError):
            client.upload(sent(store.grant_get("k", expires=soon())), b"x")
        with pytest.raises(GrantError):
            client.open(sent(store.grant_put("k", length=1, expires=soon())))
        other = "s3" if store.grant_get("k", expires=soon()).store == "directory" else "directory"
        with pytest.raises(GrantError):
            client.open(store.grant_get("k", expires=soon()).model_copy(update={"store": other}))

    def test_multipart(self, store: ObjectStore, client: GrantClient, large: bytes, tmp_path: Path) -> None:
        path = tmp_path / "spool"
        path.write_bytes(large)
        digests = [digest(large[start : start + PART]) for start in range(0, len(large), PART)]
        grant = store.grant_put("big", length=len(large), part_size=PART, part_sha256=digests, expires=soon())
        assert [part.length for part in grant.parts] == [PART, PART, 8 * MIB]
        assert store.length("big") is None
        with pytest.raises(ObjectMissingError):
            store.complete(grant.bare())  # nothing uploaded yet
        with pytest.raises(WrongDigestError):
            client.upload(sent(grant), large[:-1] + bytes([large[-1] ^ 1]))
        etags = client.upload(sent(grant), path)
        assert store.length("big") is None  # not an object before the server says so
        store.complete(grant.bare(), etags)
        store.complete(grant.bare(), etags)  # the server crashed before it wrote that down
        store.complete(grant.bare())
        assert digest(store.get("big", limit=len(large))) == digest(large)
        read = store.grant_get("big", expires=soon())
        assert len(client.upload(sent(grant), path, compare=read)) == 3  # a repeated delivery

    def test_multipart_completes_once(self, store: ObjectStore, client: GrantClient, large: bytes) -> None:
        first = store.grant_put("big", length=len(large), part_size=PART, expires=soon())
        second = store.grant_put("big", length=len(large), part_size=PART, expires=soon())
        other = bytes([large[0] ^ 1]) + large[1:]
        etags = [client.upload(sent(first), large), client.upload(sent(second), other)]
        store.complete(first.bare(), etags[0])
        with pytest.raises(ObjectExistsError):
            store.complete(second.bare(), etags[1])
        store.abort(second.bare())
        store.abort(second.bare())
        assert digest(store.get("big", limit=len(large))) == digest(large)

    @pytest.mark.parametrize("bound", [False, True])
    def test_the_same_bytes_under_a_later_grant(
        self, store: ObjectStore, client: GrantClient, large: bytes, bound: bool
    ) -> None:
        """The object was complete when the server crashed; it made a second delivery, and the site sent again."""
        digests = [digest(large[start : start + PART]) for start in range(0, len(large), PART)] if bound else []
        for _ in range(2):
            grant = store.grant_put("big", length=len(large), part_size=PART, part_sha256=digests, expires=soon())
            store.complete(grant.bare(), client.upload(sent(grant), large))
        assert digest(store.get("big", limit=len(large))) == digest(large)

    def test_an_aborted_upload_is_over(self, store: ObjectStore, client: GrantClient, large: bytes) -> None:
        grant = store.grant_put("big", length=len(large), part_size=PART, expires=soon())
        store.abort(grant.bare())
        with pytest.raises(GrantError):
            client.upload(sent(grant), large)
        with pytest.raises(ObjectMissingError):
            store.complete(grant.bare())

    def test_a_large_put_of_the_server(self, store: ObjectStore, large: bytes, tmp_path: Path) -> None:
        path = tmp_path / "model"
        path.write_bytes(large)
        store.put("big", path, sha256=digest(large))
        store.put("big", large)
        with pytest.raises(ObjectExistsError):
            store.put("big", large[:-1] + b"?" if large[-1:] != b"?" else large[:-1] + b"!")
        assert digest(store.get("big", limit=len(large))) == digest(large)


class TestDirectory(Contract):
    """The folder."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        store = DirectoryStore(tmp_path / "store")
        yield store
        store.close()

    @pytest.fixture
    def client(self, store: ObjectStore, tmp_path: Path) -> Iterator[GrantClient]:
        client = DirectoryGrantClient(tmp_path / "store")
        yield client
        client.close()


@pytest.mark.processes
class TestS3(Contract):
    """S3, on SeaweedFS."""

    @pytest.fixture
    def store(self, local_s3: LocalS3) -> Iterator[ObjectStore]:
        store = store_on(local_s3, "contract", f"p{os.urandom(6).hex()}/q")
        yield store
        store.close()

    @pytest.fixture
    def client(self, store: ObjectStore) -> Iterator[GrantClient]:
        assert hasattr(store, "place")
        with S3GrantClient(store.place, patience=QUICK) as client:
            yield client
