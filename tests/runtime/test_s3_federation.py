"""Whole federations on a real S3 server: grants that end too early, and a store, a network and disks that fail.

Each fault goes through a run to its end: nothing is lost, nothing is done twice, every decision is in the log, and the run
completes, or stops with a typed error and is completed by going on.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, ReceiptFile, RoundAbort, TicketExpire, UpdateReject, peek_event
from counterseal.audit.tlog.tiles import decode_bundle, entry_bundles
from counterseal.audit.verify import verify
from counterseal.runtime.errors import StoreError, StoreSetupError, StoreUnavailableError
from counterseal.runtime.places import update_payload_key
from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.trust.dsse import read
from counterseal.trust.identifiers import sha256

from .fault_proxy import (
    FaultProxy,
    Harm,
    Passing,
    cutting,
    falsifying,
    fault_proxy,
    losing,
    refusing,
    slowing,
)
from .s3_federation import scene_on
from .s3_world import boto

pytestmark = pytest.mark.processes

BUCKET = "federations"
ME = "site-a@fed.example"


@pytest.fixture(scope="module")
def admin(local_s3: LocalS3) -> Iterator[Any]:
    client = boto(local_s3)
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()


@pytest.fixture
def prefix(admin: Any) -> str:
    return f"p{os.urandom(6).hex()}"


@pytest.fixture(scope="module")
def proxy(local_s3: LocalS3) -> Iterator[FaultProxy]:
    with fault_proxy(local_s3) as made:
        yield made


@pytest.fixture(autouse=True)
def _calm(proxy: FaultProxy) -> Iterator[None]:
    yield
    proxy.rules.clear()
    proxy.seen.clear()


@pytest.fixture(scope="module")
def undisturbed(local_s3: LocalS3, admin: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of a run that nothing disturbs."""
    scene = scene_on(tmp_path_factory.mktemp("calm"), local_s3, local_s3.place(BUCKET, "calm"))
    result = scene.play()
    assert result.outcome == "completed"
    scene.require_whole()
    return result.model


def kind_of(delivery: bytes) -> str:
    return str(json.loads(read(json.loads(delivery)["ticket"].encode()).payload)["kind"])


def ticket_of(delivery: bytes) -> str:
    return sha256(read(json.loads(delivery)["ticket"].encode()).payload)


def uploads(admin: Any, prefix: str) -> list[Any]:
    return list(admin.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{prefix}/").get("Uploads", []))


# Grants that end


def first_time(kind: str, act: Callable[[], None], site: str = ME) -> Callable[[str, bytes], bytes]:
    """Return a hook that does something before the first delivery of ``kind`` reaches ``site``."""
    met: list[bytes] = []

    def meddle(to: str, delivery: bytes) -> bytes:
        if to == site and kind_of(delivery) == kind and not met:
            met.append(delivery)
            act()
        return delivery

    return meddle


@pytest.mark.parametrize("kind", ["train", "witness", "receive"])
@pytest.mark.parametrize("two_steps", [False, True])
def test_a_delivery_that_waits_longer_than_its_grants(
    local_s3: LocalS3, prefix: str, tmp_path: Path, undisturbed: str, kind: str, two_steps: bool
) -> None:
    """A batch queue: the grants last two seconds, the queue four; no retry is allowed, and none is needed."""
    scene = scene_on(
        tmp_path, local_s3, local_s3.place(BUCKET, prefix), options={"grant_seconds": 2}, two_steps=two_steps
    )
    scene.meddle = first_time(kind, lambda: time.sleep(4))
    result = scene.play()
    assert (result.outcome, result.versions, result.model) == ("completed", 1, undisturbed)
    assert scene.counted(0) == set(scene.federation.sites)
    scene.require_whole()
    again = [ticket_of(delivery) for site, _, delivery in scene.sent if site == ME and kind_of(delivery) == kind]
    assert len(again) > len(set(again))


@pytest.mark.parametrize("two_steps", [False, True])
def test_grants_that_end_between_training_and_upload(
    local_s3: LocalS3, prefix: str, tmp_path: Path, undisturbed: str, two_steps: bool
) -> None:
    place = local_s3.place(BUCKET, prefix)
    scene = scene_on(tmp_path, local_s3, place, options={"grant_seconds": 2}, two_steps=two_steps)
    scene.meanwhile = lambda site: time.sleep(4 if site == ME else 0)
    result = scene.play()
    assert (result.outcome, result.model) == ("completed", undisturbed)
    assert scene.counted(0) == set(scene.federation.sites)
    scene.require_whole()
    assert sum(site == ME and kind_of(delivery) == "train" for site, _, delivery in scene.sent) >= 2


def test_a_large_update_under_renewed_grants(local_s3: LocalS3, admin: Any, prefix: str, tmp_path: Path) -> None:
    """Parts lie in one upload, however often it is granted; none is left over."""
    scene = scene_on(tmp_path, local_s3, local_s3.place(BUCKET, prefix), options={"grant_seconds": 3}, large=True)
    scene.meanwhile = lambda site: time.sleep(5 if site == ME else 0)
    result = scene.play()
    assert (result.outcome, result.versions) == ("completed", 1)
    assert scene.counted(0) == set(scene.federation.sites)
    scene.require_whole()
    granted = [
        json.loads(delivery)["grants"]["update"]["upload"]
        for site, _, delivery in scene.sent
        if site == ME and kind_of(delivery) == "train"
    ]
    assert len(granted) >= 2 and len(set(granted)) == 1 and granted[0]
    assert uploads(admin, prefix) == []


def test_the_parts_of_a_site_that_never_came_back_are_removed(
    local_s3: LocalS3, admin: Any, prefix: str, tmp_path: Path
) -> None:
    """It uploaded one part of two under its grant, and fell silent: the round ends without it, and its upload with the round."""
    import urllib3

    config = {"round_seconds": 8}
    scene = scene_on(tmp_path, local_s3, local_s3.place(BUCKET, prefix), large=True, config=config)
    begun: list[str] = []

    def half(site: str, delivery: bytes) -> bytes | None:
        if site != ME or kind_of(delivery) != "train":
            return delivery
        grant = json.loads(delivery)["grants"]["update"]
        part = grant["parts"][0]
        status = urllib3.PoolManager().request(
            "PUT", part["url"], body=bytes(part["length"]), headers=dict(part["headers"])
        )
        assert status.status == 200 and len(uploads(admin, prefix)) >= 1
        begun.append(grant["upload"])
        return None

    scene.meddle = half
    result = scene.play()
    assert result.outcome == "completed" and begun
    assert scene.counted(0) == set(scene.federation.sites) - {ME}
    assert uploads(admin, prefix) == []


def test_a_grant_that_is_refused_before_its_time_spends_a_retry(local_s3: LocalS3, prefix: str, tmp_path: Path) -> None:
    """Otherwise a store that refuses a site for ever would be asked for ever."""
    scene = scene_on(tmp_path, local_s3, local_s3.place(BUCKET, prefix), config={"retries": 1})

    def spoil(site: str, delivery: bytes) -> bytes:
        if site != ME or kind_of(delivery) != "train":
            return delivery
        value = json.loads(delivery)
        part = value["grants"]["payload"]["parts"][0]
        part["url"] = part["url"].replace("X-Amz-Signature=", "X-Amz-Signature=0")
        return json.dumps(value).encode()

    faults: list[str] = []

    def listen(site: str, answer: bytes) -> bytes:
        fault = json.loads(answer)["fault"]
        if site == ME and fault is not None and fault["code"] == "grant":
            faults.append(fault["code"])
        return answer

    scene.meddle, scene.answers = spoil, listen
    result = scene.play()
    assert result.outcome == "completed" and scene.counted(0) == set(scene.federation.sites) - {ME}
    assert faults == ["grant", "grant"]  # the first try, and the one retry
    expired = [one for one in scene.events() if isinstance(one, TicketExpire) and one.site == ME]
    assert [one.reason for one in expired] == ["grant"]


# A store that fails


def puts(passing: Passing) -> bool:
    return passing.method == "PUT"


def gets(passing: Passing) -> bool:
    return passing.method == "GET" and passing.by_site


def models(passing: Passing) -> bool:
    return gets(passing) and "/payloads/" in passing.path and "/versions/" in passing.path


def updates(passing: Passing) -> bool:
    return gets(passing) and "/payloads/" in passing.path and "/updates/" in passing.path


def looks(passing: Passing) -> bool:
    return passing.method == "HEAD"


def answers(passing: Passing) -> bool:
    return puts(passing) and passing.path.endswith("/answer")


PASSES: dict[str, tuple[Callable[[Passing], bool], Harm, int]] = {
    "500 to puts": (puts, refusing(500, "InternalError"), 3),
    "503 to puts": (puts, refusing(503, "SlowDown"), 3),
    "503 to gets": (gets, refusing(503, "SlowDown"), 3),
    "500 to looks": (looks, refusing(500, "InternalError"), 2),
    "slow bodies": (gets, slowing(0.3), 4),
    "cut bodies": (models, cutting, 3),
    "cut bodies at the server": (updates, cutting, 2),
    "answers to puts that are lost": (puts, losing, 3),
    "answers to the puts of answers that are lost": (answers, losing, 2),
    "models that show late": (models, refusing(404, "NoSuchKey"), 2),
    "updates that show late to the server": (updates, refusing(404, "NoSuchKey"), 2),
    "updates whose length shows late": (looks, refusing(404, "NoSuchKey"), 2),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_fault_that_passes(
    local_s3: LocalS3, proxy: FaultProxy, prefix: str, tmp_path: Path, undisturbed: str, name: str
) -> None:
    which, harm, times = PASSES[name]
    scene = scene_on(tmp_path, local_s3, proxy.place(BUCKET, prefix))
    rule = proxy.rule(which, harm, times)
    result = scene.play()
    assert rule.done == times, "the fault never came about"
    assert (result.outcome, result.model) == ("completed", undisturbed)
    assert scene.counted(0) == set(scene.federation.sites)
    scene.require_whole()


@pytest.mark.parametrize("which", [models, updates])
def test_a_wrong_body_of_the_right_length(
    local_s3: LocalS3, proxy: FaultProxy, prefix: str, tmp_path: Path, which: Callable[[Passing], bool]
) -> None:
    """Whoever reads it finds it; the code stands in the log, and the others go on."""
    scene = scene_on(tmp_path, local_s3, proxy.place(BUCKET, prefix))
    rule = proxy.rule(which, falsifying, 1, after=1)  # the first request only asks for the length
    result = scene.play()
    assert rule.done == 1 and result.outcome == "completed"
    log = scene.events()
    told = [one.reason for one in log if isinstance(one, ReceiptFile) and one.outcome == "failed"]
    told += [reason for one in log if isinstance(one, UpdateReject) for reason in one.reasons]
    assert told == ["blob_part"] and len(scene.counted(0)) == 1


def test_a_store_that_keeps_other_bytes_than_it_was_sent(
    local_s3: LocalS3, admin: Any, prefix: str, tmp_path: Path
) -> None:
    """What a server without checksums could do: the update that it shows is not the one that was signed."""
    scene = scene_on(tmp_path, local_s3, local_s3.place(BUCKET, prefix))

    def after(site: str, answer: bytes) -> bytes:
        value = json.loads(answer)
        if site == ME and value.get("uploaded"):
            key = f"{prefix}/{update_payload_key('run-1', value['ticket'])}"
            data = bytearray(admin.get_object(Bucket=BUCKET, Key=key)["Body"].read())
            data[len(data) // 2] ^= 1
            admin.put_object(Bucket=BUCKET, Key=key, Body=bytes(data))
        return answer

    scene.answers = after
    assert scene.play().outcome == "completed"
    rejected = [one for one in scene.events() if isinstance(one, UpdateReject)]
    assert [(one.site, one.reasons) for one in rejected] == [(ME, ("blob_part",))]
    assert scene.counted(0) == set(scene.federation.sites) - {ME}


STOPS: dict[str, tuple[int, str, type[StoreError]]] = {
    "credentials that were rotated": (403, "InvalidAccessKeyId", StoreSetupError),
    "a policy that was changed": (403, "AccessDenied", StoreSetupError),
    "a store that stays away": (503, "SlowDown", StoreUnavailableError),
}


@pytest.mark.parametrize(
    ("name", "after"),
    [(name, after) for name in STOPS for after in (0, 9, 14) if (name[2:7], after) != ("store", 14)],
)
def test_a_fault_that_stays_stops_the_server_and_costs_nothing(
    local_s3: LocalS3, proxy: FaultProxy, prefix: str, tmp_path: Path, undisturbed: str, name: str, after: int
) -> None:
    """The server's own requests fail from one moment on; when the store is back, the run goes on where it was."""
    code, text, error = STOPS[name]
    scene = scene_on(tmp_path, local_s3, proxy.place(BUCKET, prefix))
    rule = proxy.rule(of_server, refusing(code, text), 10_000, after)
    with pytest.raises(error):
        scene.play()
    assert rule.done
    proxy.rules.clear()
    result = scene.play()
    assert (result.outcome, result.model) == ("completed", undisturbed)
    scene.require_whole()


def of_server(passing: Passing) -> bool:
    site = passing.method == "PUT" and "/updates/" in passing.path
    return not site and not (passing.method == "GET" and "/versions/" in passing.path)


def test_an_outage_longer_than_the_round_ends_the_round(
    local_s3: LocalS3, proxy: FaultProxy, prefix: str, tmp_path: Path
) -> None:
    """What cannot be read by the deadline is not counted; the round is aborted, the run says why, and so does the log."""
    scene = scene_on(tmp_path, local_s3, proxy.place(BUCKET, prefix), config={"round_seconds": 6})
    proxy.rule(updates, refusing(503, "SlowDown"), 10_000)
    result = scene.play()
    assert (result.outcome, result.reason) == ("aborted", "deadline")
    assert [one.reason for one in scene.events() if isinstance(one, RoundAbort)] == ["deadline"]
    assert {one.site for one in scene.events() if isinstance(one, TicketExpire)} == set(scene.federation.sites)
    scene.require_whole()


def test_an_outage_at_the_admission_is_waited_out(
    local_s3: LocalS3, proxy: FaultProxy, prefix: str, tmp_path: Path, undisturbed: str
) -> None:
    """Longer than one request's patience: no site is asked again for it, and no retry is there to be spent."""
    scene = scene_on(tmp_path, local_s3, proxy.place(BUCKET, prefix))
    rule = proxy.rule(updates, refusing(503, "SlowDown"), 10)
    result = scene.play()
    assert rule.done == 10 and (result.outcome, result.model) == ("completed", undisturbed)
    assert scene.counted(0) == set(scene.federation.sites)
    assert sum(kind_of(delivery) == "train" for _, _, delivery in scene.sent) == len(scene.federation.sites)
    scene.require_whole()


# Full disks


def full(step: str, after: int = 0) -> Callable[[str], None]:
    """Return a probe that finds the disk full once, before the step ``step`` for the time number ``after`` + 1."""
    met: list[str] = []

    def probe(name: str) -> None:
        if name == step:
            met.append(name)
            if len(met) == after + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return probe


def test_a_full_disk_at_a_site(local_s3: LocalS3, prefix: str, tmp_path: Path) -> None:
    """It loses this round, which the log says; in the next it is back."""
    scene = scene_on(tmp_path, local_s3, local_s3.place(BUCKET, prefix), config={"rounds": 2})
    result = scene.play({ME: full("blob.write")})
    assert (result.outcome, result.versions) == ("completed", 2)
    assert scene.counted(0) == set(scene.federation.sites) - {ME}
    assert scene.counted(1) == set(scene.federation.sites)
    expired = [one for one in scene.events() if isinstance(one, TicketExpire) and one.site == ME]
    assert [one.reason for one in expired] == ["site_failed"]
    scene.require_whole(rounds=2)


@pytest.mark.parametrize(
    ("step", "after"),
    [("blob.write", 0), ("blob.write", 1), ("log.journal.write", 3), ("log.tile.publish", 1), ("journal.write", 20)],
)
def test_a_full_disk_at_the_server(
    local_s3: LocalS3, prefix: str, tmp_path: Path, undisturbed: str, step: str, after: int
) -> None:
    scene = scene_on(tmp_path, local_s3, local_s3.place(BUCKET, prefix))
    with pytest.raises(OSError, match="No space left"):
        scene.play({"server": full(step, after)})
    result = scene.play()
    assert (result.outcome, result.model) == ("completed", undisturbed)
    scene.require_whole()


# Places and the mirror


def test_two_federations_in_one_bucket_never_mix(local_s3: LocalS3, admin: Any, prefix: str, tmp_path: Path) -> None:
    scenes = [
        scene_on(tmp_path / name, local_s3, local_s3.place(BUCKET, f"{prefix}/{name}")) for name in ("one", "two")
    ]
    for scene in scenes:
        assert scene.play().outcome == "completed"
    keys = [entry["Key"] for entry in admin.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")["Contents"]]
    mine = {name: {key for key in keys if key.startswith(f"{prefix}/{name}/")} for name in ("one", "two")}
    assert mine["one"] | mine["two"] == set(keys) and mine["one"] and mine["two"]
    for scene, name in zip(scenes, ("one", "two"), strict=True):
        store = scene.store()
        assert {f"{prefix}/{name}/{key}" for key in store.list("")} == mine[name]
        store.close()
    admin.delete_object(Bucket=BUCKET, Key=f"{prefix}/one/runs/federation")
    admin.put_object(Bucket=BUCKET, Key=f"{prefix}/one/runs/federation", Body=b'{"federation":"another"}')
    with pytest.raises(StoreSetupError, match="another federation"):
        scenes[0].play()


def test_the_mirror_follows_every_round(local_s3: LocalS3, admin: Any, prefix: str, tmp_path: Path) -> None:
    """The server's machine is lost in the third round: two commits are in the store, cosigned, and verify from there."""
    scene = scene_on(tmp_path, local_s3, local_s3.place(BUCKET, prefix), config={"rounds": 3})

    class Lost(BaseException):
        pass

    def lose(site: str, delivery: bytes) -> bytes:
        if kind_of(delivery) == "train" and b'"version":2' in read(json.loads(delivery)["ticket"].encode()).payload:
            raise Lost
        return delivery

    scene.meddle = lose
    with pytest.raises(Lost):
        scene.play()
    store = scene.store()
    copy = tmp_path / "mirror"
    for key in store.list("log/"):
        path = copy / key.removeprefix("log/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(key, limit=1 << 24))
    store.close()
    source = FolderSource(copy)
    findings = verify(source, Trust(scene.federation.charter, objects=source.objects()))
    assert [row for row in findings.rows if row.status is Status.FAIL] == []
    leaves = [peek_event(leaf) for leaf in leaves_of(source)]
    assert [one.version for one in leaves if isinstance(one, AggregateCommit)] == [0, 1]
    cosigned = [size for size in source.sizes() if (source.checkpoint(size) or b"").count("\u2014".encode()) > 2]
    assert cosigned, "no checkpoint in the mirror carries cosignatures"
    scene.meddle = None
    assert scene.play().versions == 3
    scene.require_whole(rounds=3)


def leaves_of(source: FolderSource) -> list[bytes]:
    size = source.sizes()[-1]
    found: list[bytes] = []
    for tile in entry_bundles(size, since=0):
        found += decode_bundle(source.tile(tile.entries_path()) or b"", tile.width)
    return found
