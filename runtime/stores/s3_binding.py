"""What a put to S3 carries besides its bytes: the one list that the server signs and the site admits.

Signature V4 covers these headers, so whoever holds a grant sends exactly them or is refused by the store:

    content-length                          always: the exact length
    if-none-match: *                        an object in one piece: put once (of several parts the completion carries it)
    x-amz-checksum-sha256                   where the digest is known beforehand
    x-amz-server-side-encryption            where the server's configuration says `sse`, and for `aws:kms` with `sse_key`
    x-amz-server-side-encryption-aws-kms-key-id
    x-amz-object-lock-mode: COMPLIANCE      evidence (`places.is_evidence`), where it says `retention_days`, with
    x-amz-object-lock-retain-until-date     the second to which nobody can delete it

Encryption and lock of an object in several parts are settled when the server creates the upload; the parts carry neither.

S3 takes a lock only with a digest of the body. Where the grant binds none (a site's answer is not known beforehand) the
site adds ``content-md5``, which needs no signature: it is not one of S3's own headers. It binds nothing; readers verify.

A site admits a lock on evidence only. A lock on a payload would keep a ciphertext beyond the dispute window, against the
site's will, and no part of this program asks for one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from ..errors import GrantError
from ..places import is_evidence
from .grants import Grant, GrantPart

__all__ = ["Protection", "bound", "checked", "check_headers", "checksum"]

_DAY = 86_400
_HEADERS: Final = {
    "ContentLength": "content-length",
    "IfNoneMatch": "if-none-match",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ObjectLockMode": "x-amz-object-lock-mode",
    "ObjectLockRetainUntilDate": "x-amz-object-lock-retain-until-date",
}
_KMS_KEY: Final = "x-amz-server-side-encryption-aws-kms-key-id"
_ENCRYPTED: Final = {
    "x-amz-server-side-encryption": re.compile(r"AES256|aws:kms"),
    _KMS_KEY: re.compile(r"[A-Za-z0-9][A-Za-z0-9:/_-]{0,500}"),
}
_LOCKED: Final = {
    "x-amz-object-lock-mode": re.compile(r"COMPLIANCE"),
    "x-amz-object-lock-retain-until-date": re.compile(
        r"2[0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z"
    ),
}


@dataclass(frozen=True, slots=True)
class Protection:
    """What the server's configuration asks the store for, object by object.

    Attributes:
        sse: encryption at rest, under the store's own key (`AES256`) or one of its key service (`aws:kms`).
        retention_days: how long evidence is locked, in compliance mode.
        sse_key: which key of the key service; its default where none is named.
    """

    sse: Literal["AES256", "aws:kms"] | None = None
    retention_days: int | None = None
    sse_key: str | None = None

    def asked(self, key: str, now: float) -> dict[str, Any]:
        """Return the parameters of the request that creates ``key``: a put, or the begin of an upload in parts."""
        found: dict[str, Any] = {} if self.sse is None else {"ServerSideEncryption": self.sse}
        if self.sse == "aws:kms" and self.sse_key is not None:
            found["SSEKMSKeyId"] = self.sse_key
        if self.locks(key) and self.retention_days is not None:
            until = datetime.fromtimestamp(int(now) + self.retention_days * _DAY, UTC)
            found |= {
                "ObjectLockMode": "COMPLIANCE",
                "ObjectLockRetainUntilDate": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        return found

    def locks(self, key: str) -> bool:
        """Tell whether ``key`` is put with a lock."""
        return self.retention_days is not None and is_evidence(key)


def bound(part: GrantPart, *, parted: bool, asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a part's request is signed with: the parameters for boto3, and the headers as a site sends them."""
    parameters: dict[str, Any] = {"ContentLength": part.length}
    if part.sha256 is not None:
        parameters["ChecksumSHA256"] = checksum(part.sha256)
    if not parted:
        parameters |= {"IfNoneMatch": "*", **asked}
    return parameters, {_HEADERS[name]: str(value) for name, value in parameters.items()}


def checksum(sha256: str) -> str:
    """Return a digest as S3 writes it."""
    return base64.b64encode(bytes.fromhex(sha256)).decode("ascii")


def check_headers(grant: Grant, part: GrantPart, headers: Mapping[str, str]) -> None:
    """Return if ``headers`` (lower-case names) bind what the grant says, and ask for nothing but what a server may ask.

    Raises:
        GrantError: a header more, less, twice or with another value.
    """
    expected = {"content-length": str(part.length)}
    if not grant.upload:
        expected["if-none-match"] = "*"
    if part.sha256 is not None:
        expected["x-amz-checksum-sha256"] = checksum(part.sha256)
    free = {} if grant.upload else {**_ENCRYPTED, **(_LOCKED if is_evidence(grant.key) else {})}
    for name, value in headers.items():
        pattern = free.get(name)
        if value != expected.get(name) and not (pattern and pattern.fullmatch(value)):
            raise GrantError(f"the header {name[:40]!r} does not follow from the grant", where=grant.key)
    if _KMS_KEY in headers and headers.get("x-amz-server-side-encryption") != "aws:kms":
        raise GrantError("a key without encryption by the key service", where=grant.key)
    locks = _LOCKED.keys() & headers.keys()
    if expected.keys() - headers.keys() or len(headers) != len(part.headers) or len(locks) == 1:
        raise GrantError("the headers do not bind what the grant says", where=grant.key)


def checked(headers: dict[str, str], body: memoryview) -> dict[str, str]:
    """Return ``headers`` with a digest of ``body`` where S3 demands one and the grant binds none."""
    if "x-amz-object-lock-mode" not in headers or "x-amz-checksum-sha256" in headers:
        return headers
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    return {**headers, "content-md5": base64.b64encode(digest).decode("ascii")}
