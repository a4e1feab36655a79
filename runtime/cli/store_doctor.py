"""What a federation relies on in its bucket, tried one by one with the server's own credentials.

Probes lie under ``doctor/<random>`` in the federation's prefix and are removed at the end, versions and all. A check fails
where something that Counterseal promises would not hold; it is a doubt where only a second line of defence is missing
(readers verify every byte against a signed manifest) or where the answer depends on what the institution wants. Each attempt
at a refusal is a real request, signed like a grant and then changed the way an attacker would.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from ..errors import (
    GrantError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    WrongDigestError,
)
from ..places import is_evidence
from ..stores.grants import MULTIPART_ABOVE, Grant
from ..stores.s3 import S3Store
from ..stores.s3_client import S3GrantClient
from ..stores.s3_http import Answer, Connection
from .doctor import judged
from .doctor_check import Check, Doubt, Fault

__all__ = ["StoreDoctor"]

_SKEW = 60.0  # S3 refuses at 15 minutes; a grant of a minute is useless long before
_LOCKED = 6  # seconds for which the probe of Object Lock is locked
_STALE_DAYS = 7
_NO_TRY = "not tried: the store could not be used"


class StoreDoctor:
    """The checks of one store.

    Args:
        store: the server's end, as it is configured.
        wire: a connection to the same place, for requests that are not as signed.
    """

    def __init__(self, store: S3Store, wire: Connection, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store = store
        self._wire = wire
        self._sleep = sleep
        self._folder = f"doctor/{os.urandom(8).hex()}"
        self._first = os.urandom(1000)
        self._usable = False

    def each(self) -> Iterator[Check]:
        """Yield every check, as it is made; the probes are removed when the iteration ends, however it ends."""
        checks: tuple[tuple[str, Callable[[], str]], ...] = (
            ("bucket", self.bucket),
            ("absent objects", self.absent),
            ("put and get", self.put),
            ("encryption in transit", self.transit),
            ("clock", self.clock),
            ("put once", self.once),
            ("exact length", self.length),
            ("checksum", self.checksum),
            ("signature", self.signature),
            ("expired grant", self.expired),
            ("without a signature", self.anonymous),
            ("ranges", self.ranges),
            ("parts", self.parts),
            ("put once in parts", self.parts_once),
            ("listing", self.listing),
            ("encryption at rest", self.encryption),
            ("Object Lock", self.lock),
            ("abandoned uploads", self.abandoned),
            ("lifecycle", self.lifecycle),
        )
        try:
            for name, check in checks:
                yield judged(name, check if self._usable or name == "bucket" else _untried)
        finally:
            cleaned = judged("clean-up", self.clean)
        yield cleaned

    # The bucket

    def bucket(self) -> str:
        """Ask for a name, which needs credentials, region, bucket and the leave to list."""
        next(iter(self._store.list(f"{self._folder}/")), None)
        self._usable, place = True, self._store.place
        return f"{place.origin}, bucket {place.bucket}, prefix {place.prefix or '(none: the whole bucket)'}"

    def absent(self) -> str:
        """Look for what is not there."""
        if self._store.length(self._key("absent")) is not None:
            raise Fault("an object that nobody put is there", remedy="This is not a store: look at the endpoint.")
        with suppress(ObjectMissingError):
            self._store.get(self._key("absent"), limit=1)
        return "are reported as absent, not as forbidden"

    def put(self) -> str:
        """Put a probe, read it back."""
        self._usable = False
        self._store.put(self._key("first"), self._first)
        if self._store.get(self._key("first"), limit=1000) != self._first:
            raise Fault("what was read is not what was put", remedy="Use another store.")
        self._usable = True
        return "1000 bytes came back as they were put"

    def transit(self) -> str:
        """Say what protects grants on their way."""
        if not self._store.place.origin.startswith("https://"):
            raise Doubt("plain HTTP to this machine itself: for tests and demonstrations only")
        return "TLS, and the endpoint's certificate is trusted"

    def clock(self) -> str:
        """Compare this machine's clock with the store's."""
        told = self._read(self._store.grant_get(self._key("first"), expires=_soon())).headers.get("Date", "")
        try:
            skew = time.time() - parsedate_to_datetime(told).timestamp()
        except (TypeError, ValueError):
            raise Doubt("the store does not say what time it is") from None
        if abs(skew) > _SKEW:
            raise Fault(f"this machine is {skew:+.0f} s from the store", remedy="Set the clock, and keep it with NTP.")
        return f"{abs(skew):.0f} s from the store's"

    # What grants promise

    def once(self) -> str:
        """Put other bytes under a key that is taken."""
        grant = self._granted("first", b"x" * 1000)
        with suppress(ObjectExistsError):
            self._send(grant, b"x" * 1000)
            raise Fault("a taken key was written over", remedy="Use a store that keeps If-None-Match.")
        if self._store.get(self._key("first"), limit=2000) != self._first:
            raise Fault("refused, and written over all the same", remedy="Use another store.")
        return "a taken key stays (412)"

    def length(self) -> str:
        """Put a byte more than was granted."""
        grant = self._granted("length", b"12345")
        self._refused(lambda: self._send(grant, b"123456", {"content-length": "6"}), "a byte more than was granted")
        return "another length than the granted one is refused"

    def checksum(self) -> str:
        """Put other bytes under the digest of the granted ones."""
        grant = self._granted("checksum", b"12345")
        try:
            self._send(grant, b"54321")
        except (WrongDigestError, GrantError):
            return "other bytes than the granted ones are refused"
        raise Doubt("the store does not check digests: readers do, on every read, so a wrong body is found later")

    def signature(self) -> str:
        """Use a grant for another key, and one whose signature is wrong."""
        grant = self._granted("signature", b"12345")
        part = grant.parts[0]
        last = part.url[-1]
        flipped = part.url[:-1] + ("0" if last != "0" else "1")
        self._refused(lambda: self._send(_with(grant, flipped), b"12345"), "a wrong signature")
        target = self._target(part.url).replace("/signature?", "/another?")
        body = memoryview(b"12345")
        self._refused(
            lambda: self._wire.send("PUT", target, dict(part.headers), body, grant.key), "a grant for another key"
        )
        return "a wrong signature and another key are refused"

    def expired(self) -> str:
        """Use a grant of a second after three."""
        grant = self._store.grant_get(self._key("first"), expires=int(time.time()) + 2)
        self._sleep(4.0)
        self._refused(lambda: self._read(grant), "a grant that had expired")
        return "an expired grant is refused"

    def anonymous(self) -> str:
        """Read without any signature."""
        key = self._key("first")
        path = self._store.place.path(key)
        self._refused(lambda: self._wire.send("GET", path, {}, None, key), "a stranger")
        return "a stranger is refused"

    def ranges(self) -> str:
        """Read a piece from the middle."""
        piece = memoryview(bytearray(100))
        self._store.put(self._key("range"), self._first)
        with self._store.open(self._key("range")) as stored:
            stored.read_into(450, piece)
        if piece != self._first[450:550]:
            raise Fault("another range came than the one asked for", remedy="Use another store.")
        return "a piece from the middle comes alone"

    def parts(self) -> str:
        """Put an object in two parts."""
        self._put_parts(b"a")
        if self._store.length(self._key("parts")) != MULTIPART_ABOVE + 1:
            raise Fault("an object in parts has another length", remedy="Use another store.")
        return "an object in two parts is whole"

    def parts_once(self) -> str:
        """Complete another upload in parts to the same key."""
        with suppress(ObjectExistsError):
            self._put_parts(b"b")
            raise Doubt(
                "completing another upload writes over a taken key: only this server can complete one, and readers verify"
            )
        return "a completion does not write over a taken key"

    # What the bucket is set to

    def listing(self) -> str:
        """List the probes."""
        found = set(self._store.list(f"{self._folder}/"))
        expected = {self._key(name) for name in ("first", "range", "parts")}
        if not expected <= found:
            raise Fault(
                f"{len(expected - found)} probes are not listed", remedy="Use a store whose lists are complete."
            )
        return f"names the {len(found)} probes"

    def encryption(self) -> str:
        """Ask how a probe is encrypted at rest."""
        name = self._store.place.full_key(self._key("first"))
        head = self._store.ask("head_object", Key=name)
        found, wanted = head.get("ServerSideEncryption"), self._store.protection.sse
        if wanted is not None and found != wanted:
            raise Fault(
                f"sse: {wanted} is configured, and the store says {found}", remedy="Configure the store's keys."
            )
        return f"{found or 'none that the store tells of'}; the blobs are sealed in any case"

    def lock(self) -> str:
        """Ask for Object Lock, and try it on a probe for some seconds."""
        days = self._store.protection.retention_days
        told = self._setting("get_object_lock_configuration").get("ObjectLockConfiguration", {})
        on = told.get("ObjectLockEnabled") == "Enabled"
        if days is None:
            raise Doubt(
                f"retention_days is not configured: whoever may delete here can delete evidence (the bucket has "
                f"{'Object Lock' if on else 'no Object Lock'})"
            )
        if not on:
            raise Fault(
                f"retention_days is {days}, and the bucket has no Object Lock",
                remedy="Create a bucket with Object Lock; most stores cannot add it later.",
            )
        self._try_lock()
        if told.get("Rule"):
            raise Doubt("locks, but the bucket's default retention locks payloads too, which should expire")
        return f"evidence is locked for {days} days: a locked version could not be removed"

    def _try_lock(self) -> None:
        key, until = self._key("locked"), datetime.now(UTC) + timedelta(seconds=_LOCKED)
        name = self._store.place.full_key(key)
        lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until, "IfNoneMatch": "*"}
        digest = hashlib.sha256(b"locked").digest()
        made = self._store.ask(
            "put_object", Key=name, Body=b"locked", ChecksumSHA256=base64.b64encode(digest).decode(), **lock
        )
        try:
            self._store.ask("delete_object", Key=name, VersionId=made["VersionId"])
        except StoreError:
            return
        finally:
            self._sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 2.0)
        raise Fault("a locked version was removed", remedy="Use a store whose Object Lock holds in compliance mode.")

    def abandoned(self) -> str:
        """Look for uploads in parts that nobody finished."""
        prefix = self._store.place.full_key("doctor").removesuffix("doctor")
        found = self._store.ask("list_multipart_uploads", Prefix=prefix).get("Uploads", [])
        before = datetime.now(UTC) - timedelta(days=_STALE_DAYS)
        old = [one for one in found if one.get("Initiated") is not None and one["Initiated"] < before]
        if old:
            raise Doubt(
                f"{len(old)} uploads are older than {_STALE_DAYS} days and cost space: a lifecycle rule ends them"
            )
        return f"none older than {_STALE_DAYS} days ({len(found)} open)"

    def lifecycle(self) -> str:
        """Look at what the bucket removes by itself."""
        rules = self._setting("get_bucket_lifecycle_configuration").get("Rules", [])
        active = [rule for rule in rules if rule.get("Status") == "Enabled"]
        for rule in active:
            if "Expiration" in rule and "ExpiredObjectDeleteMarker" not in rule["Expiration"]:
                self._require_no_evidence(str(rule.get("ID", "")), _prefix(rule))
        whole = self._store.place.full_key("x").removesuffix("x")
        if not any("AbortIncompleteMultipartUpload" in rule and whole.startswith(_prefix(rule)) for rule in active):
            raise Doubt("no rule ends abandoned uploads: counterseal store policy --kind lifecycle")
        return "ends abandoned uploads and removes no evidence"

    def _require_no_evidence(self, name: str, prefix: str) -> None:
        for folder in ("log/x", "runs/x"):
            key = self._store.place.full_key(folder)
            if is_evidence(folder) and (key.startswith(prefix) or prefix.startswith(key[:-1])):
                raise Fault(f"the rule {name[:60]!r} removes evidence", remedy="Take it back: evidence stays.")

    def clean(self) -> str:
        """Remove the probes."""
        folder = self._store.place.full_key(self._folder)
        for upload in self._store.ask("list_multipart_uploads", Prefix=folder).get("Uploads", []):
            self._store.ask("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
        try:
            page = self._store.ask("list_object_versions", Prefix=folder)
            entries = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        except StoreError:
            entries = [{"Key": self._store.place.full_key(key)} for key in self._store.list(f"{self._folder}/")]
        for entry in entries:
            named = {"VersionId": entry["VersionId"]} if entry.get("VersionId", "null") != "null" else {}
            self._store.ask("delete_object", Key=entry["Key"], **named)
        left = list(self._store.list(f"{self._folder}/"))
        if left:
            raise Fault(f"{len(left)} probes are left under {folder}", remedy="Remove them by hand.")
        return "every probe was removed"

    # How

    def _key(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _granted(self, name: str, data: bytes) -> Grant:
        digest = hashlib.sha256(data).hexdigest()
        return self._store.grant_put(self._key(name), length=len(data), sha256=digest, expires=_soon())

    def _target(self, url: str) -> str:
        return url.removeprefix(self._store.place.origin)

    def _send(self, grant: Grant, body: bytes, changes: Mapping[str, str] | None = None) -> Answer:
        part = grant.parts[0]
        headers = {**dict(part.headers), **(changes or {})}
        return self._wire.send("PUT", self._target(part.url), headers, memoryview(body), grant.key)

    def _read(self, grant: Grant) -> Answer:
        return self._wire.send("GET", self._target(grant.parts[0].url), {}, None, grant.key)

    def _refused(self, attempt: Callable[[], Any], what: str) -> None:
        try:
            attempt()
        except (GrantError, WrongDigestError, ObjectMissingError):
            return
        raise Fault(f"{what} was accepted", remedy="Do not use this store: its grants bind nothing.")

    def _put_parts(self, letter: bytes) -> None:
        key, data = self._key("parts"), letter * (MULTIPART_ABOVE + 1)
        grant = self._store.grant_put(key, length=len(data), part_size=MULTIPART_ABOVE, expires=_soon())
        try:
            client = S3GrantClient.over(self._wire)
            self._store.complete(grant, client.upload(grant, data))
        finally:
            self._store.abort(grant)

    def _setting(self, operation: str) -> Any:
        try:
            return self._store.ask(operation)
        except ObjectMissingError:
            return {}
        except GrantError:
            raise Doubt("the store does not know this question") from None


def _untried() -> str:
    raise Doubt(_NO_TRY)


def _with(grant: Grant, url: str) -> Grant:
    return grant.model_copy(update={"parts": (grant.parts[0].model_copy(update={"url": url}),)})


def _prefix(rule: Mapping[str, Any]) -> str:
    found = rule.get("Filter") or {}
    return str(found.get("Prefix") or (found.get("And") or {}).get("Prefix") or rule.get("Prefix") or "")


def _soon() -> int:
    return int(time.time()) + 600
