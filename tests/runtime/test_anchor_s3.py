"""Anchors in a bucket, on a real server: put once, under Object Lock, and every version counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from counterseal.privacy.errors import AnchorError, RollbackError
from counterseal.privacy.ledger.anchor import Mark
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.runtime.anchors.s3_lock import S3LockAnchor
from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3 import connect
from counterseal.tests.privacy.ledger_world import Place, order, quick_folder, ticket
from counterseal.tests.seaweed import QUICK

pytestmark = pytest.mark.processes

LOCKED, PLAIN = "anchors-locked", "anchors-plain"
MARKS = [Mark("a" * 64, number, f"{number:064x}") for number in range(5)]


@pytest.fixture(scope="module")
def client(local_s3: LocalS3) -> Iterator[Any]:
    """The bucket's administrator."""
    keys = {"aws_access_key_id": local_s3.access_key, "aws_secret_access_key": local_s3.secret_key}
    made = connect(local_s3.place(LOCKED), {**keys, "aws_session_token": None}, QUICK, None)
    made.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
    made.create_bucket(Bucket=PLAIN)
    yield made
    made.close()


@pytest.fixture
def prefix() -> str:
    return f"ledgers/{os.urandom(6).hex()}"


def anchor(server: LocalS3, prefix: str, bucket: str = LOCKED) -> S3LockAnchor:
    """A process's own view of an anchor."""
    place = server.place(bucket, prefix)
    return S3LockAnchor(place, access_key=server.access_key, secret_key=server.secret_key, patience=QUICK)


@pytest.mark.parametrize("bucket", [LOCKED, PLAIN])
def test_the_mark_moves_from_where_it_was_and_nowhere_else(
    local_s3: LocalS3, client: Any, prefix: str, bucket: str
) -> None:
    first, second = anchor(local_s3, prefix, bucket), anchor(local_s3, prefix, bucket)
    assert first.read() is None
    first.advance(MARKS[1], None)
    assert first.read() == second.read() == MARKS[1]
    second.advance(MARKS[2], MARKS[1])
    for previous in (None, MARKS[1], MARKS[3]):
        with pytest.raises(RollbackError, match="has moved"):
            first.advance(MARKS[4], previous)
    assert first.read() == MARKS[2]
    first.advance(MARKS[4], MARKS[2])  # the ledger had come two entries further
    assert second.read() == MARKS[4]


def test_a_racing_clone_meets_a_taken_key(local_s3: LocalS3, client: Any, prefix: str) -> None:
    """Both looked before either put; they are not even at the same counter."""
    first, second = anchor(local_s3, prefix), anchor(local_s3, prefix)
    first.advance(MARKS[1], None)
    looked = second._newest()
    first.advance(MARKS[2], MARKS[1])
    second._newest = lambda: looked  # type: ignore[method-assign]
    with pytest.raises(RollbackError, match="has moved"):
        second.advance(MARKS[3], MARKS[1])
    assert anchor(local_s3, prefix).read() == MARKS[2]


def test_a_put_whose_answer_was_lost_counts(local_s3: LocalS3, client: Any, prefix: str) -> None:
    first, second = anchor(local_s3, prefix), anchor(local_s3, prefix)
    looked = second._newest()
    first.advance(MARKS[1], None)
    second._newest = lambda: looked  # type: ignore[method-assign]
    second.advance(MARKS[1], None)  # the same mark again: put once, answered twice


def test_a_locked_anchor_stays(local_s3: LocalS3, client: Any, prefix: str) -> None:
    from botocore.exceptions import ClientError

    one = anchor(local_s3, prefix)
    one.advance(MARKS[1], None)
    one.advance(MARKS[2], MARKS[1])
    assert one.locked and "no Object Lock" not in one.place
    key = f"{prefix}/anchor/{2:012d}"
    (version,) = client.list_object_versions(Bucket=LOCKED, Prefix=key)["Versions"]
    head = client.head_object(Bucket=LOCKED, Key=key, VersionId=version["VersionId"])
    assert head["ObjectLockMode"] == "COMPLIANCE"
    assert 3_649 <= (head["ObjectLockRetainUntilDate"] - head["LastModified"]).days <= 3_650
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=LOCKED, Key=key, VersionId=version["VersionId"])
    client.delete_object(Bucket=LOCKED, Key=key)  # leaves a delete marker, which counts for nothing
    assert anchor(local_s3, prefix).read() == MARKS[2] == one.read()


@pytest.mark.parametrize("deleted", [True, False])
def test_writing_over_an_anchor_is_seen(local_s3: LocalS3, client: Any, prefix: str, deleted: bool) -> None:
    one = anchor(local_s3, prefix)
    one.advance(MARKS[1], None)
    key = f"{prefix}/anchor/{1:012d}"
    if deleted:
        client.delete_object(Bucket=LOCKED, Key=key)
        with pytest.raises(RollbackError):  # a clone that puts once over the delete marker: S3 lets it
            clone = anchor(local_s3, prefix)
            clone._newest = lambda: (0, None)  # type: ignore[method-assign]
            clone.advance(MARKS[2], None)
    else:
        client.put_object(Bucket=LOCKED, Key=key, Body=MARKS[2].to_bytes())
    with pytest.raises(RollbackError, match="two heads"):
        one.read()


def test_without_object_lock_it_says_so_and_gaps_are_seen(local_s3: LocalS3, client: Any, prefix: str) -> None:
    one = anchor(local_s3, prefix, PLAIN)
    one.advance(MARKS[1], None)
    one.advance(MARKS[2], MARKS[1])
    one.advance(MARKS[3], MARKS[2])
    assert not one.locked and "no Object Lock" in one.place
    client.delete_object(Bucket=PLAIN, Key=f"{prefix}/anchor/{2:012d}")
    with pytest.raises(RollbackError, match="gone"):
        anchor(local_s3, prefix, PLAIN).read()
    client.delete_object(Bucket=PLAIN, Key=f"{prefix}/anchor/{3:012d}")
    with pytest.raises(RollbackError, match="gone"):
        one.read()
    assert anchor(local_s3, prefix, PLAIN).read() == MARKS[1], "nobody remembers: this is what Object Lock is for"


def test_other_things_in_its_folder(local_s3: LocalS3, client: Any, prefix: str) -> None:
    client.put_object(Bucket=PLAIN, Key=f"{prefix}/anchor/notes.txt", Body=b"hello")
    with pytest.raises(AnchorError, match="something else"):
        anchor(local_s3, prefix, PLAIN).read()
    client.delete_object(Bucket=PLAIN, Key=f"{prefix}/anchor/notes.txt")
    client.put_object(Bucket=PLAIN, Key=f"{prefix}/anchor/{1:012d}", Body=b"hello")
    with pytest.raises(AnchorError, match="not a mark"):
        anchor(local_s3, prefix, PLAIN).read()


def test_a_bucket_that_does_not_answer_or_refuses(local_s3: LocalS3, client: Any, prefix: str) -> None:
    with pytest.raises(AnchorError, match="NoSuchBucket"):
        anchor(local_s3, prefix, "nowhere-at-all").read()
    stranger = S3LockAnchor(local_s3.place(LOCKED, prefix), access_key="stranger", secret_key="x" * 20, patience=QUICK)
    with pytest.raises(AnchorError, match="the bucket answered") as caught:
        stranger.read()
    assert "x" * 20 not in str(caught.value)


def test_many_marks_are_read_from_where_they_were(
    local_s3: LocalS3, client: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, previous = anchor(local_s3, prefix, PLAIN), None
    for number in range(1, 8):
        mark = Mark("a" * 64, number, f"{number:064x}")
        one.advance(mark, previous)
        previous = mark
    seen: list[Any] = []
    listed = one._s3.list_object_versions

    def watched(**named: Any) -> Any:
        seen.append(listed(**named))
        return seen[-1]

    monkeypatch.setattr(one._s3, "list_object_versions", watched)
    assert one.read() == previous
    assert [len(page["Versions"]) for page in seen] == [1, 1]
    monkeypatch.undo()
    fresh = anchor(local_s3, prefix, PLAIN)
    whole = fresh._s3.list_object_versions
    monkeypatch.setattr(fresh._s3, "list_object_versions", lambda **named: whole(**named, MaxKeys=3))
    assert fresh.read() == previous, "page by page"


def test_a_ledger_with_its_anchor_in_a_bucket(local_s3: LocalS3, client: Any, prefix: str) -> None:
    with quick_folder() as folder:
        place = Place(folder)
        ledger = place.founded(anchor(local_s3, prefix))
        ledger.reserve_run(order())
        older = place.copy("older.sqlite")
        ledger.reserve(ticket(1))
        clone = Ledger.open(place.copy("clone.sqlite"), anchor(local_s3, prefix))
        clone.reserve(ticket(2))
        with pytest.raises(RollbackError, match="old copy"):
            ledger.reserve(ticket(2))
        place.restore(older)
        with pytest.raises(RollbackError, match="old copy"):
            place.open(anchor(local_s3, prefix))
