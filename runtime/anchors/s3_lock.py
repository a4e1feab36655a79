"""An anchor in an S3 bucket: a row of objects, each put once, and nobody can take one away before its time.

The mark moves by putting the next object of the row, ``anchor/000000000001``, ``...2``, with ``If-None-Match: *``. Two ledgers
that start from the same mark want the same key, so one of them gets 412 and is refused. (Numbering by the ledger's own counter
would not do: two copies that are ahead by a different number of entries would take different keys.) The row has no gaps; reading
lists it and takes the last.

Where the bucket has Object Lock, each object is locked in compliance mode for ``retention_days``: not even the account's root
user can remove it. Object Lock implies versions, and a version *can* be put over a locked object, or a delete marker: so every
version counts. Two versions of the last key with other bytes are two heads at one place, and are refused; delete markers are
ignored.

Without Object Lock whoever may write to the bucket can remove the last object, and `place` says so. Not handled: a service that
does not do what its answers say; pruning (an object has some 250 bytes).
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from ...privacy.errors import AnchorError, RollbackError
from ...privacy.ledger.anchor import LIMIT, Mark, moved
from ..stores.s3 import connect
from ..stores.s3_http import Patience
from ..stores.s3_place import S3Place

__all__ = ["S3LockAnchor"]

T = TypeVar("T")
_FOLDER = "anchor/"
_NUMBER = re.compile(r"[0-9]{12}")
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})


class S3LockAnchor:
    """The anchor at ``place``, which belongs to one ledger.

    Args:
        place: bucket, prefix, endpoint: the institution's own, not the federation's.
        retention_days: for how long an object cannot be removed, where the bucket has Object Lock.
        access_key, secret_key: explicit credentials; without them boto3's default chain decides.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        place: S3Place,
        *,
        retention_days: int = 3_650,
        access_key: str | None = None,
        secret_key: str | None = None,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._s3_place = place
        self._retention = timedelta(days=retention_days)
        self._clock = clock
        keys = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key, "aws_session_token": None}
        self._s3: Any = connect(place, keys, patience or Patience(), None)
        self._locked: bool | None = None
        self._last = 0

    @property
    def place(self) -> str:
        """The bucket, and whether it locks."""
        where = f"s3 {self._s3_place.bucket}/{self._s3_place.prefix}".rstrip("/")
        return where if self.locked else f"{where} (no Object Lock: whoever may write there can take the anchor back)"

    @property
    def locked(self) -> bool:
        """Whether the bucket has Object Lock."""
        if self._locked is None:
            answer = self._call(
                lambda: self._s3.get_object_lock_configuration(Bucket=self._s3_place.bucket),
                {"ObjectLockConfigurationNotFoundError", "NotImplemented", "MethodNotAllowed"},
            )
            told = {} if answer is None else answer.get("ObjectLockConfiguration", {})
            self._locked = told.get("ObjectLockEnabled") == "Enabled"
        return self._locked

    def read(self) -> Mark | None:
        """See `Anchor.read`."""
        self._last, mark = self._newest()
        return mark

    def advance(self, mark: Mark, previous: Mark | None) -> None:
        """See `Anchor.advance`."""
        number, newest = self._newest()
        if newest != previous:
            raise moved(self.place)
        raw = mark.to_bytes()
        self._put(number + 1, raw)  # a taken key may be this very put, whose answer was lost: what lies there decides
        if self._stored(number + 1) != {raw}:
            raise moved(self.place)
        self._last = number + 1

    def _newest(self) -> tuple[int, Mark | None]:
        numbers = self._numbers()
        last = max(numbers, default=0)
        if last < self._last or numbers != set(range(max(1, self._last), last + 1)):
            raise RollbackError(
                "anchors that were there are gone",
                where=self.place,
                remedy="Find out who removed them. Object Lock would have prevented it.",
            )
        if not last:
            return 0, None
        marks = {Mark.parse(raw, self.place) for raw in self._stored(last)}
        if len(marks) != 1:
            raise RollbackError(
                "two heads at one place: somebody wrote over the newest anchor",
                where=self.place,
                remedy="Find out who wrote there, and give the ledger a new anchor (`counterseal ledger recover --new-anchor`).",
            )
        return last, marks.pop()

    def _numbers(self) -> set[int]:
        """Return the numbers of the row, from the last that this process has seen on."""
        folder = self._s3_place.full_key(_FOLDER.rstrip("/")) + "/"
        after = folder + f"{self._last - 1:012d}" if self._last > 1 else ""
        found: set[int] = set()
        for entry in self._versions(folder, after):
            name = str(entry["Key"]).removeprefix(folder)
            if not _NUMBER.fullmatch(name):
                raise AnchorError("something else lies in the anchor's folder", where=self.place)
            found.add(int(name))
        return found

    def _stored(self, number: int) -> set[bytes]:
        """Return the bytes of every version of one object."""
        key = self._key(number)
        versions = [entry["VersionId"] for entry in self._versions(key, "") if entry["Key"] == key]
        return {self._get(key, version) for version in versions}

    def _versions(self, prefix: str, after: str) -> list[Any]:
        found: list[Any] = []
        marker: dict[str, Any] = {"KeyMarker": after} if after else {}
        while True:
            page = self._call(
                lambda: self._s3.list_object_versions(Bucket=self._s3_place.bucket, Prefix=prefix, **marker)  # noqa: B023
            )
            found += page.get("Versions", [])
            if not page.get("IsTruncated"):
                return found
            marker = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextVersionIdMarker"):
                marker["VersionIdMarker"] = page["NextVersionIdMarker"]

    def _get(self, key: str, version: str) -> bytes:
        named = {} if version == "null" else {"VersionId": version}
        answer = self._call(lambda: self._s3.get_object(Bucket=self._s3_place.bucket, Key=key, **named))
        with answer["Body"] as body:
            return bytes(self._call(lambda: body.read(LIMIT + 1)))

    def _put(self, number: int, raw: bytes) -> None:
        lock: dict[str, Any] = {}
        if self.locked:
            until = datetime.fromtimestamp(self._clock(), UTC) + self._retention
            lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
        digest = base64.b64encode(hashlib.sha256(raw).digest()).decode("ascii")
        self._call(
            lambda: self._s3.put_object(
                Bucket=self._s3_place.bucket,
                Key=self._key(number),
                Body=raw,
                IfNoneMatch="*",
                ChecksumSHA256=digest,
                **lock,
            ),
            _TAKEN,
        )

    def _key(self, number: int) -> str:
        return self._s3_place.full_key(f"{_FOLDER}{number:012d}")

    def _call(self, call: Callable[[], T], expected: frozenset[str] | set[str] = frozenset()) -> Any:
        """Call boto3 and turn its errors into ours, without its texts; None for an ``expected`` answer."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"s3 {self._s3_place.bucket}"
        try:
            return call()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))[:64]
            if code in expected:
                return None
            told = code if code.isalnum() else "an error"
            raise AnchorError(
                f"the bucket answered {told}",
                where=where,
                remedy="Check the bucket, and what these credentials may do there.",
            ) from None
        except BotoCoreError as error:
            raise AnchorError(
                f"no answer from the bucket ({type(error).__name__})",
                where=where,
                remedy="Nothing is released before the anchor answers.",
            ) from None
