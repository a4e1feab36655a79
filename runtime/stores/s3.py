"""The server's end of S3: it holds the credentials, presigns grants, and finishes multipart uploads.

Bytes go the same way as a site's: the store presigns a request and sends it with `S3GrantClient`, so one path is tested,
the body is hashed once at most, and put-once holds for the server too. boto3 signs and does what has no presigned form.

What a put grant binds is in `s3_binding`. Of a multipart upload the parts are bound one by one; the completion is the
server's and carries ``If-None-Match: *``. A signature binds the *header*; only a store that checks
``x-amz-checksum-sha256`` binds the body: readers verify.

A grant lasts as long as its ticket, but at most `grant_seconds`, and at most the seven days of Signature V4. When it has
expired, the next delivery renews it: an upload that is still open is granted again, with fresh signatures for the same
parts, so that nothing is uploaded beside it and an answer about the earlier delivery still completes.

Completing twice is harmless. Before the completion every part's size is compared with the grant; after a crash an upload
that no longer exists was completed (or aborted), and the object's own length decides. The uploads of crashed servers cost
space until the bucket's lifecycle rule (AbortIncompleteMultipartUpload) removes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import (
    GrantError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectTooLargeError,
    StoreError,
    StoreSetupError,
    StoreUnavailableError,
    WrongDigestError,
    WrongLengthError,
)
from .grants import MULTIPART_ABOVE, PARTS, Grant, GrantPart, check_key, check_prefix, split
from .s3_binding import Protection, bound, checksum
from .s3_client import S3GrantClient, S3Source
from .s3_http import Answer, Patience, check_answer, quieten
from .s3_place import S3Place
from .sources import holds_parts, same_bytes, source_length, viewed

__all__ = ["S3Store", "connect"]

T = TypeVar("T")
_MD5 = re.compile(r"[0-9a-f]{32}")
_WEEK = 7 * 24 * 3600  # the longest that Signature V4 allows
_SOON = 900
_CREDENTIALS = frozenset(
    {
        "AccessDenied",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"})
_PAGE = 1000  # the most that S3 lists at once


class S3Store:
    """A bucket.

    Args:
        place: bucket, prefix, endpoint.
        access_key, secret_key, session_token: explicit credentials; without them boto3's default chain decides.
        protection: encryption and locks to ask for.
        grant_seconds: how long a grant lasts at most; None for as long as it is asked for, within seven days.
        patience: timeouts and retries.
        ca_file: certificate authorities for the endpoint, instead of the system's.
        proxy: ``http://host:port`` through which https goes.

    Raises:
        StoreSetupError: boto3 is missing, or there are no credentials.
    """

    def __init__(
        self,
        place: S3Place,
        *,
        access_key: str | None = None,
        secret_key: str | None = None,
        session_token: str | None = None,
        protection: Protection = Protection(),  # noqa: B008 - frozen
        grant_seconds: int | None = None,
        patience: Patience | None = None,
        ca_file: str | None = None,
        proxy: str | None = None,
    ) -> None:
        self.place = place
        self.protection = protection
        self._longest = min(_WEEK, grant_seconds or _WEEK)
        self._patience = patience or Patience()
        credentials = {
            "aws_access_key_id": access_key,
            "aws_secret_access_key": secret_key,
            "aws_session_token": session_token,
        }
        self._s3: Any = connect(place, credentials, self._patience, ca_file, proxy)
        self._client = S3GrantClient(place, patience=self._patience, ca_file=ca_file, proxy=proxy, expecting=False)

    def __repr__(self) -> str:
        return f"S3Store({self.place!r})"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._s3.close()

    def create_bucket(self) -> None:
        """Create the bucket where it is missing: for a private server; institutions create theirs with policies."""
        try:
            self._call("bucket", lambda: self._s3.create_bucket(Bucket=self.place.bucket))
        except StoreError:
            self._call("bucket", lambda: self._s3.head_bucket(Bucket=self.place.bucket))

    def put(self, key: str, source: bytes | Path, *, sha256: str | None = None) -> None:
        """Store ``source`` under ``key``, once: the same bytes again succeed. See `ObjectStore.put`."""
        try:
            length = source_length(source)
            size = max(MULTIPART_ABOVE, -(-length // PARTS))
            digests = _digests(source, length, size)
            whole = digests[0] if len(digests) == 1 else None
            if sha256 is not None and sha256 != (whole or _digests(source, length, max(1, length))[0]):
                raise WrongDigestError("the source does not have the digest it is put under", where=key)
        except OSError as error:
            raise StoreUnavailableError(f"the source cannot be read ({error.strerror})", where=key) from None
        expires = int(time.time()) + _SOON + int(length / self._patience.rate)
        compare = self.grant_get(key, expires=expires)
        if len(digests) > 1 and self._same(compare, source):
            return
        grant = self.grant_put(key, length=length, sha256=sha256, part_size=size, part_sha256=digests, expires=expires)
        try:
            etags = self._client.upload(grant, source, compare=compare)
            self.complete(grant, etags if any(etags) else ())
        except ObjectExistsError:
            self._forget(grant)
            if not grant.upload or not self._same(compare, source):
                raise
        except GrantError as error:
            self._forget(grant)
            raise self._refused(error) from None
        except BaseException:
            self._forget(grant)
            raise

    def get(self, key: str, *, limit: int) -> bytes:
        """Return the object if it has at most ``limit`` bytes."""
        with self._open(key, expecting=False) as stored:
            if stored.length > limit:
                raise ObjectTooLargeError(f"{stored.length} bytes are over the limit of {limit}", where=key)
            data = bytearray(stored.length)
            stored.read_into(0, memoryview(data))
            return bytes(data)

    def length(self, key: str) -> int | None:
        """Return the bytes of the object, or None where there is none."""
        name = self.place.full_key(key)
        try:
            return int(
                self._call(key, lambda: self._s3.head_object(Bucket=self.place.bucket, Key=name))["ContentLength"]
            )
        except ObjectMissingError:
            return None

    def open(self, key: str) -> S3Source:
        """Return the object, which must be there, for reading by range, for a day at most."""
        return self._open(key, expecting=True)

    def _open(self, key: str, *, expecting: bool) -> S3Source:
        expires = int(time.time()) + 24 * 3600
        url = self._presign("get_object", check_key(key), {}, expires)
        part = GrantPart(number=1, url=url)
        grant = Grant(store="s3", method="get", key=key, expires=expires, parts=(part,))
        try:
            return self._client.open(grant, expecting=expecting)
        except GrantError as error:
            raise self._refused(error) from None

    def _refused(self, error: GrantError) -> StoreSetupError:
        """Return what a refusal means to the server: it signs for itself, so it is its credentials or the bucket."""
        return StoreSetupError(
            f"{error.what}: the server's own request",
            where=error.where,
            remedy="Check credentials, bucket policy and Object Lock: counterseal store doctor.",
        )

    def grant_get(self, key: str, *, expires: int) -> Grant:
        """Return leave to read ``key`` until ``expires`` at most."""
        expires = self._until(expires)
        url = self._presign("get_object", check_key(key), {}, expires)
        return Grant(store="s3", method="get", key=key, expires=expires, parts=(GrantPart(number=1, url=url),))

    def grant_put(
        self,
        key: str,
        *,
        length: int,
        sha256: str | None = None,
        part_size: int = 0,
        part_sha256: Sequence[str] = (),
        expires: int,
        upload: str = "",
    ) -> Grant:
        """Return leave to put exactly ``length`` bytes under ``key``, once. See `ObjectStore.grant_put`."""
        expires, asked = self._until(expires), self.protection.asked(check_key(key), time.time())
        parts = split(length, part_size, tuple(part_sha256))
        if len(parts) == 1 and not part_sha256 and sha256 is not None:
            parts = split(length, part_size, (sha256,))
        if len(parts) == 1:
            upload = ""
        elif not upload or self._uploaded(key, upload) is None:
            upload = self._begin(key, asked, digests=parts[0].sha256 is not None)
        signed = tuple(self._signed(key, part, upload, expires, asked) for part in parts)
        return Grant(
            store="s3",
            method="put",
            key=key,
            length=length,
            sha256=sha256,
            expires=expires,
            upload=upload,
            parts=signed,
        )

    def complete(self, grant: Grant, etags: Sequence[str] = ()) -> None:
        """Finish a multipart upload; make sure that the object is there with its length. See `ObjectStore.complete`."""
        if grant.upload:
            listed = self._uploaded(grant.key, grant.upload)
            if listed is not None:
                self._finish(grant, self._check_parts(grant, listed, etags))
        self._see(grant)

    def abort(self, grant: Grant) -> None:
        """Forget a multipart upload that was not completed."""
        if not grant.upload:
            return
        name = self.place.full_key(grant.key)
        try:
            self._call(
                grant.key,
                lambda: self._s3.abort_multipart_upload(Bucket=self.place.bucket, Key=name, UploadId=grant.upload),
            )
        except (ObjectMissingError, GrantError):
            return

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, in no promised order."""
        above = f"{self.place.prefix}/" if self.place.prefix else ""
        wanted = above + check_prefix(prefix)
        token: dict[str, Any] = {}
        while True:
            page = self._call(
                prefix,
                lambda: self._s3.list_objects_v2(Bucket=self.place.bucket, Prefix=wanted, MaxKeys=_PAGE, **token),  # noqa: B023
            )
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(above)
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        """Remove the object, present or not."""
        name = self.place.full_key(key)
        self._call(key, lambda: self._s3.delete_object(Bucket=self.place.bucket, Key=name))

    def ask(self, operation: str, **parameters: Any) -> Any:
        """Do ``operation`` (a method of boto3's client) on the bucket, with errors of ours: for `counterseal store doctor`."""
        call = getattr(self._s3, operation)
        return self._call(self.place.bucket, lambda: call(Bucket=self.place.bucket, **parameters))

    def _forget(self, grant: Grant) -> None:
        with contextlib.suppress(StoreError):  # the error that brought us here is the one to tell
            self.abort(grant)

    def _same(self, compare: Grant, source: bytes | Path) -> bool:
        """Tell whether the key holds ``source``; raise if it holds something else."""
        try:
            with self._client.open(compare, expecting=False) as stored:
                if not same_bytes(source, stored):
                    raise ObjectExistsError("the key holds other bytes", where=compare.key)
        except ObjectMissingError:
            return False
        except GrantError as error:
            raise self._refused(error) from None
        return True

    def _begin(self, key: str, asked: dict[str, Any], *, digests: bool) -> str:
        """Create an upload; Amazon takes parts with digests only where that was said then, and wants them again at the end."""
        name, said = self.place.full_key(key), {"ChecksumAlgorithm": "SHA256"} if digests else {}
        made = self._call(
            key, lambda: self._s3.create_multipart_upload(Bucket=self.place.bucket, Key=name, **asked, **said)
        )
        return str(made["UploadId"])

    def _signed(self, key: str, part: GrantPart, upload: str, expires: int, asked: dict[str, Any]) -> GrantPart:
        parameters, headers = bound(part, parted=bool(upload), asked=asked)
        operation = "upload_part" if upload else "put_object"
        if upload:
            parameters |= {"UploadId": upload, "PartNumber": part.number}
        url = self._presign(operation, key, parameters, expires)
        return part.model_copy(update={"url": url, "headers": tuple(headers.items())})

    def _until(self, expires: int) -> int:
        """Return when a grant that is asked for until ``expires`` ends."""
        return min(expires, int(time.time()) + self._longest)

    def _presign(self, operation: str, key: str, parameters: dict[str, Any], expires: int) -> str:
        seconds = expires - int(time.time())
        if not 0 < seconds <= _WEEK:
            raise GrantError(f"a grant of {seconds} seconds cannot be signed", where=key, remedy="At most seven days.")
        named = {"Bucket": self.place.bucket, "Key": self.place.full_key(key), **parameters}
        return str(self._call(key, lambda: self._s3.generate_presigned_url(operation, Params=named, ExpiresIn=seconds)))

    def _uploaded(self, key: str, upload: str) -> dict[int, tuple[int, str]] | None:
        """Return size and ETag of each uploaded part, or None if the upload is no longer open."""
        name, found, marker = self.place.full_key(key), dict[int, tuple[int, str]](), 0
        while True:
            try:
                page = self._call(
                    key,
                    lambda: self._s3.list_parts(
                        Bucket=self.place.bucket,
                        Key=name,
                        UploadId=upload,
                        PartNumberMarker=marker,  # noqa: B023
                        MaxParts=_PAGE,
                    ),
                )
            except (ObjectMissingError, GrantError):
                return None
            for part in page.get("Parts", []):
                found[part["PartNumber"]] = (part["Size"], part["ETag"])
            if not page.get("IsTruncated"):
                return found
            marker = page["NextPartNumberMarker"]

    def _check_parts(self, grant: Grant, listed: dict[int, tuple[int, str]], etags: Sequence[str]) -> tuple[Any, ...]:
        if etags and len(etags) != len(grant.parts):
            raise GrantError(f"{len(etags)} ETags for {len(grant.parts)} parts", where=grant.key)
        for index, part in enumerate(grant.parts):
            if part.number not in listed:
                raise ObjectMissingError(f"part {part.number} has not been uploaded", where=grant.key)
            size, etag = listed[part.number]
            if size != part.length:
                raise WrongLengthError(f"part {part.number} has {size} bytes, not {part.length}", where=grant.key)
            if etags and etags[index].strip('"') != etag.strip('"'):
                raise GrantError(f"part {part.number} is not the one that the site reported", where=grant.key)
        return tuple(_completed(part, listed[part.number][1]) for part in grant.parts)

    def _finish(self, grant: Grant, parts: Sequence[Any]) -> None:
        name = self.place.full_key(grant.key)
        try:
            self._call(
                grant.key,
                lambda: self._s3.complete_multipart_upload(
                    Bucket=self.place.bucket,
                    Key=name,
                    UploadId=grant.upload,
                    MultipartUpload={"Parts": [*parts]},
                    IfNoneMatch="*",
                ),
            )
        except (ObjectExistsError, ObjectMissingError, GrantError) as error:
            if self._uploaded(grant.key, grant.upload) is None:
                return  # a completion of ours whose answer was lost leaves no open upload
            if not isinstance(error, ObjectExistsError) or not self._settled(grant, parts):
                raise
            self.abort(grant)

    def _settled(self, grant: Grant, parts: Sequence[Any]) -> bool:
        """Tell whether a taken key holds the bytes of this upload, stored under an earlier grant.

        By the bound digests of the parts; without them by S3's own ETag (MD5 over the parts' MD5s), which is enough
        here: the first object stays in any case, and its readers verify it.
        """
        if all(part.sha256 for part in grant.parts):
            with self.open(grant.key) as stored:
                return holds_parts(grant, stored)
        tags = [str(part["ETag"]).strip('"') for part in parts]
        if not all(_MD5.fullmatch(tag) for tag in tags):
            return False
        whole = hashlib.md5(b"".join(bytes.fromhex(tag) for tag in tags), usedforsecurity=False).hexdigest()
        name = self.place.full_key(grant.key)
        head = self._call(grant.key, lambda: self._s3.head_object(Bucket=self.place.bucket, Key=name))
        return str(head["ETag"]).strip('"') == f"{whole}-{len(tags)}"

    def _see(self, grant: Grant) -> None:
        found = self._client.shown(lambda: self._measured(grant.key))
        if found != grant.length:
            raise WrongLengthError(f"{found} bytes where {grant.length} were granted", where=grant.key)

    def _measured(self, key: str) -> int:
        found = self.length(key)
        if found is None:
            raise ObjectMissingError("nothing has been uploaded", where=key)
        return found

    def _call(self, key: str, call: Callable[[], T]) -> T:
        """Call boto3 and turn its errors into ours, without its texts."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            return call()
        except ClientError as error:
            answer = _answer(error.response)
        except (NoCredentialsError, PartialCredentialsError):
            raise StoreSetupError(
                "no S3 credentials", where="store", remedy="Set them as boto3 expects them."
            ) from None
        except BotoCoreError as error:
            kind = type(error).__name__
            raise StoreUnavailableError(f"no answer from the store ({kind})", where=key) from None
        if answer.code in _CREDENTIALS or answer.status in (401, 403):  # an answer to HEAD has no code
            raise StoreSetupError(
                f"the store refused the server's credentials ({answer.code or answer.status})", where=key
            )
        if answer.code in _ELSEWHERE:
            raise StoreSetupError(f"the bucket is in another region ({answer.code})", where="store.region")
        check_answer(answer, key)
        raise StoreError(f"the store answered HTTP {answer.status}", where=key)


def _completed(part: GrantPart, etag: str) -> dict[str, Any]:
    digest = {} if part.sha256 is None else {"ChecksumSHA256": checksum(part.sha256)}
    return {"PartNumber": part.number, "ETag": etag, **digest}


def _answer(response: Any) -> Answer:
    code = str(response.get("Error", {}).get("Code", ""))[:64]
    return Answer(
        int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)), code if code.isalnum() else "", {}
    )


def _digests(source: bytes | Path, length: int, size: int) -> tuple[str, ...]:
    """Return the SHA-256 of each part of ``source``."""
    step = max(1, length) if length <= MULTIPART_ABOVE else size
    digests = []
    with viewed(source) as view:
        for start in range(0, max(1, length), step):
            with view[start : start + step] as piece:
                digests.append(hashlib.sha256(piece).hexdigest())
    return tuple(digests)


def connect(
    place: S3Place,
    credentials: dict[str, str | None],
    patience: Patience,
    ca_file: str | None,
    proxy: str | None = None,
) -> Any:
    """Return boto3's client for ``place``; of proxies it knows ``proxy`` and not what the environment says.

    Raises:
        StoreSetupError: boto3 is missing, or does not take the configuration.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise StoreSetupError(
            "S3 needs the package boto3", where="store", remedy="pip install 'counterseal[s3]'."
        ) from None
    quieten()
    config = Config(
        signature_version="s3v4",
        connect_timeout=patience.connect,
        read_timeout=patience.silence,
        proxies={} if proxy is None else {"https": proxy},
        retries={"total_max_attempts": patience.attempts, "mode": "standard"},
        request_checksum_calculation="when_required",  # the default wraps bodies in aws-chunked trailers
        response_checksum_validation="when_required",
        s3={"addressing_style": "virtual" if place.virtual else "path"},
    )
    session: Any = boto3.session.Session()
    try:
        return session.client(
            "s3", endpoint_url=place.service, region_name=place.region, config=config, verify=ca_file, **credentials
        )
    except (BotoCoreError, ValueError) as error:
        raise StoreSetupError(
            f"boto3 does not take this configuration ({type(error).__name__})", where="store"
        ) from None
