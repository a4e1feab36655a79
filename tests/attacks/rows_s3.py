"""What a thief of an S3 grant, and a server that writes one, can try: against a real S3 server and the site's own client.

The thief does not use our client: the raw request decides, and the code is what S3 itself said. The server's smuggled headers
meet the site's client, before anything is sent.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from counterseal.errors import CountersealError
from counterseal.runtime.stores.grants import Grant
from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3 import S3Store
from counterseal.runtime.stores.s3_binding import Protection
from counterseal.runtime.stores.s3_client import S3GrantClient
from counterseal.runtime.stores.s3_http import Connection

from ..seaweed import QUICK
from .table import Row

__all__ = ["S3"]

BODY = b"sealed update"
UPDATE = "payloads/run-1/updates/t/payload"
ANSWER = "runs/run-1/updates/t/answer"


@dataclass(frozen=True)
class Shop:
    """A bucket with Object Lock; every attack gets a prefix of its own."""

    server: LocalS3

    def store(self, **options: Any) -> S3Store:
        place = self.server.place("attacked", f"p{os.urandom(6).hex()}")
        made = {"access_key": self.server.access_key, "secret_key": self.server.secret_key, **options}
        return S3Store(place, patience=QUICK, **made)


@cache
def shop() -> Shop:
    """Return the one server of this process; it ends with it."""
    room = TemporaryDirectory(prefix="attacks-s3-")
    server = LocalS3(Path(room.name) / "server").__enter__()
    atexit.register(room.cleanup)
    atexit.register(server.__exit__, None, None, None)
    made = Shop(server)
    store = made.store()
    store.ask("create_bucket", ObjectLockEnabledForBucket=True)
    store.close()
    return made


def granted(store: S3Store, key: str = UPDATE, *, seconds: int = 60, bound: bool = True, length: int = 0) -> Grant:
    """Return leave to put `BODY` (or ``length`` unknown bytes)."""
    digest = hashlib.sha256(BODY).hexdigest() if bound else None
    return store.grant_put(key, length=length or len(BODY), sha256=digest, expires=int(time.time()) + seconds)


def thief(
    id_: str,
    attack: str,
    expected: str,
    change: Callable[[Grant, str, dict[str, str]], tuple[str, str, dict[str, str], bytes]],
    *,
    seconds: int = 60,
    wait: float = 0.0,
    protection: Protection | None = None,
    key: str = UPDATE,
) -> Row:
    """Return a row in which a stolen grant is spent as ``change`` says: method, target, headers, body."""

    def play() -> str:
        store = shop().store(protection=protection or Protection())
        wire = Connection(store.place, patience=QUICK)
        try:
            grant = granted(store, key, seconds=seconds)
            part = grant.parts[0]
            target = part.url.removeprefix(store.place.origin)
            method, target, headers, body = change(grant, target, dict(part.headers))
            time.sleep(wait)
            try:
                wire.send(method, target, headers, memoryview(body), key)
            except CountersealError as error:
                assert list(store.list("")) == [], "something was written"
                return error.code
            return "accepted"
        finally:
            wire.close()
            store.close()

    return Row(id_, "everybody", "thief", attack, expected, play, served=True)


def other_header(name: str, value: str) -> Callable[[Grant, str, dict[str, str]], Any]:
    return lambda grant, target, headers: ("PUT", target, {**headers, name: value}, BODY)


def smuggled(id_: str, attack: str, key: str, headers: Mapping[str, str], *, drop: str = "") -> Row:
    """Return a row in which a server puts headers into a grant that do not belong there: the site's client sends nothing."""

    def play() -> str:
        store = shop().store()
        try:
            grant = granted(store, key)
            part = grant.parts[0]
            changed = {**dict(part.headers), **headers}
            changed.pop(drop, None)
            part = part.model_copy(update={"headers": tuple(changed.items())})
            with S3GrantClient(store.place, patience=QUICK) as client:
                try:
                    client.upload(grant.model_copy(update={"parts": (part,)}), BODY)
                except CountersealError as error:
                    assert "refused" not in error.what and list(store.list("")) == [], "it was sent"
                    return error.code
            return "accepted"
        finally:
            store.close()

    return Row(id_, "site", "server", attack, "grant", play, served=True)


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


MODE, UNTIL = "x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date"
SSE, KEY = "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"
LOCK = {MODE: "COMPLIANCE", UNTIL: "2030-01-01T00:00:00Z"}
OTHER = bytes(len(BODY))

S3: tuple[Row, ...] = (
    thief(
        "P3-030",
        "a stolen S3 grant to write, after it expired",
        "grant",
        lambda grant, target, headers: ("PUT", target, headers, BODY),
        seconds=2,
        wait=3.5,
    ),
    thief(
        "P3-031",
        "a stolen S3 grant, other bytes under the granted digest",
        "wrong_digest",
        lambda grant, target, headers: ("PUT", target, headers, OTHER),
    ),
    thief(
        "P3-032",
        "a stolen S3 grant, other bytes and their digest",
        "grant",
        lambda grant, target, headers: (
            "PUT",
            target,
            {**headers, "x-amz-checksum-sha256": _checksum(OTHER)},
            OTHER,
        ),
    ),
    thief(
        "P3-033",
        "a stolen S3 grant, a byte more",
        "grant",
        lambda grant, target, headers: ("PUT", target, {**headers, "content-length": str(len(BODY) + 1)}, BODY + b"!"),
    ),
    thief(
        "P3-034",
        "a stolen S3 grant, for another key",
        "grant",
        lambda grant, target, headers: ("PUT", target.replace("/t/payload?", "/u/payload?"), headers, BODY),
    ),
    thief(
        "P3-035",
        "a stolen S3 grant to write, used to delete",
        "grant",
        lambda grant, target, headers: ("DELETE", target, {}, b""),
    ),
    thief(
        "P3-036",
        "a stolen S3 grant, without put-once",
        "grant",
        lambda grant, target, headers: (
            "PUT",
            target,
            {name: value for name, value in headers.items() if name != "if-none-match"},
            BODY,
        ),
    ),
    thief(
        "P3-037",
        "a stolen S3 grant, its time made longer",
        "grant",
        lambda grant, target, headers: ("PUT", target.replace("X-Amz-Expires=", "X-Amz-Expires=9"), headers, BODY),
    ),
    thief(
        "P3-038",
        "a stolen S3 grant for evidence, without its lock",
        "grant",
        lambda grant, target, headers: (
            "PUT",
            target,
            {name: value for name, value in headers.items() if "object-lock" not in name},
            BODY,
        ),
        protection=Protection(retention_days=1),
        key=ANSWER,
    ),
    thief(
        "P3-039",
        "a stolen S3 grant for evidence, with an earlier end of its lock",
        "grant",
        other_header(UNTIL, "2026-01-01T00:00:00Z"),
        protection=Protection(retention_days=1),
        key=ANSWER,
    ),
    thief(
        "P3-040",
        "a stolen S3 grant, without the encryption that it binds",
        "grant",
        lambda grant, target, headers: (
            "PUT",
            target,
            {name: value for name, value in headers.items() if name != SSE},
            BODY,
        ),
        protection=Protection(sse="AES256"),
    ),
    smuggled("P3-041", "a grant that would lock a site's sealed update against deletion", UPDATE, LOCK),
    smuggled("P3-042", "a grant with a lock that an administrator could lift", ANSWER, {**LOCK, MODE: "GOVERNANCE"}),
    smuggled("P3-043", "a grant with half a lock", ANSWER, LOCK, drop=UNTIL),
    smuggled("P3-044", "a grant whose lock has no readable end", ANSWER, {**LOCK, UNTIL: "for ever"}),
    smuggled("P3-045", "a grant with a legal hold", ANSWER, {"x-amz-object-lock-legal-hold": "ON"}),
    smuggled("P3-046", "a grant with another encryption than S3 has", UPDATE, {SSE: "none"}),
    smuggled(
        "P3-047",
        "a grant with a key of the server's choice under the store's own encryption",
        UPDATE,
        {SSE: "AES256", KEY: "k"},
    ),
    smuggled(
        "P3-048",
        "a grant with encryption under a key in the request",
        UPDATE,
        {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
    ),
    smuggled("P3-049", "a grant that would make the object public", UPDATE, {"x-amz-acl": "public-read"}),
    smuggled("P3-050", "a grant that would copy another object", UPDATE, {"x-amz-copy-source": "/attacked/x"}),
    smuggled(
        "P3-051", "a grant with a header that redirects readers", UPDATE, {"x-amz-website-redirect-location": "/x"}
    ),
)
