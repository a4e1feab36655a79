"""Grants: leave to read or write one object, for one holder, for a while.

A grant is a bearer capability in JSON: the server makes it, a delivery carries it, a site spends it. Whoever has it can
use it until `expires`, so its URLs and headers never show in `repr`, errors or logs, and `redact` cleans any text that
could carry one. What a holder can do with a stolen grant is small by construction: read one ciphertext, or
write the one object it was made for, once.

The model checks shape only. A site trusts none of it: `DirectoryGrantClient` takes nothing but the key from it, and
`S3GrantClient` compares each URL with the one that its own configuration spells.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from ...trust.documents import Model
from ...trust.identifiers import Digest, ObjectKey, Time
from ..errors import ObjectKeyError

__all__ = ["MULTIPART_ABOVE", "PARTS", "Grant", "GrantPart", "check_key", "check_prefix", "redact", "split"]

MULTIPART_ABOVE = 16 << 20
"""Bytes of the longest object that is put in one piece."""

PARTS = 256
"""Most parts of one object."""

_LENGTH = 1 << 46  # 64 TiB, far above any store's limit: keeps arithmetic on a peer's number small
_KEY = re.compile(r"[a-z0-9][a-z0-9_.-]*(?:/[a-z0-9][a-z0-9_.-]*)*")
_NAME = 200  # a folder store adds nothing to a name, and file systems stop at 255

_Header = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[!-~]([ -~]*[!-~])?$")]


class GrantPart(Model):
    """One request that the grant allows: a part of a put, or the whole of a get."""

    number: Annotated[int, Field(ge=1, le=PARTS)]
    offset: Annotated[int, Field(ge=0, le=_LENGTH)] = 0
    length: Annotated[int, Field(ge=0, le=_LENGTH)] = 0
    sha256: Digest | None = None
    url: Annotated[str, StringConstraints(max_length=8192, pattern=r"^[!-~]*$")] = ""
    headers: Annotated[tuple[tuple[_Header, _Header], ...], Field(max_length=16)] = ()

    def __repr__(self) -> str:
        return f"GrantPart(number={self.number}, offset={self.offset}, length={self.length})"

    __str__ = __repr__


class Grant(Model):
    """Leave to put or get the object ``key`` until ``expires``.

    Attributes:
        store: which kind of store made it.
        length: exact bytes of a put; None for a get, whose reader learns the length from the store.
        sha256: of the whole object, bound when known.
        upload: names the multipart upload that `ObjectStore.complete` finishes; empty for one piece.
        parts: what may be sent; a get has one part of length 0.
    """

    store: Literal["directory", "s3"]
    method: Literal["get", "put"]
    key: ObjectKey
    length: Annotated[int, Field(ge=0, le=_LENGTH)] | None = None
    sha256: Digest | None = None
    expires: Time
    upload: Annotated[str, StringConstraints(max_length=1024, pattern=r"^[!-~]*$")] = ""
    parts: Annotated[tuple[GrantPart, ...], Field(min_length=1, max_length=PARTS)]

    @model_validator(mode="after")
    def _contiguous(self) -> Self:
        if (self.length is None) != (self.method == "get"):
            raise ValueError("a put has a length, a get has none")
        end = 0
        for number, part in enumerate(self.parts, start=1):
            if part.number != number or part.offset != end or (part.length == 0 and len(self.parts) > 1):
                raise ValueError(f"part {number} does not follow the one before")
            end += part.length
        if end != (self.length or 0) or (len(self.parts) > 1 and not self.upload):
            raise ValueError("the parts do not make the object")
        return self

    def bare(self) -> Grant:
        """Return this grant without URLs and headers: enough to complete or abort it, and safe to keep in a journal."""
        parts = tuple(part.model_copy(update={"url": "", "headers": ()}) for part in self.parts)
        return self.model_copy(update={"parts": parts})

    def __repr__(self) -> str:
        return (
            f"Grant({self.method} {self.key!r} in {self.store}, length={self.length}, sha256={self.sha256}, "
            f"expires={self.expires}, parts={len(self.parts)}, urls hidden)"
        )

    __str__ = __repr__


def split(length: int, part_size: int, digests: tuple[str, ...] = ()) -> tuple[GrantPart, ...]:
    """Return the bare parts of an object of ``length`` bytes: one up to `MULTIPART_ABOVE`, else by ``part_size``.

    ``part_size`` is the manifest's, so that the part digests of the manifest are those of the parts stored.

    Raises:
        ValueError: the numbers do not fit together: a bug of the caller.
    """
    size = max(length, 1) if length <= MULTIPART_ABOVE else part_size
    if not 0 <= length <= _LENGTH or size < 1 or (length > MULTIPART_ABOVE and size < MULTIPART_ABOVE):
        raise ValueError(
            f"{length} bytes in parts of {part_size} is not a put: parts have at least {MULTIPART_ABOVE} bytes"
        )
    count = max(1, -(-length // size))
    if count > PARTS or (digests and len(digests) != count):
        raise ValueError(f"{count} parts (at most {PARTS}) with {len(digests)} digests")
    return tuple(
        GrantPart(
            number=index + 1,
            offset=index * size,
            length=min(size, length - index * size),
            sha256=digests[index] if digests else None,
        )
        for index in range(count)
    )


def check_key(key: str) -> str:
    """Return ``key`` if it is an object key of ours.

    Raises:
        ObjectKeyError: anything else: `..`, an absolute path, a NUL, a newline at the end, upper case, over 512 characters.
    """
    if len(key) > 512 or not _KEY.fullmatch(key):
        raise ObjectKeyError("not an object key", where=repr(key)[:80], remedy="Keys are made by the server only.")
    if any(len(name) > _NAME for name in key.split("/")):
        raise ObjectKeyError(f"a name in the key is longer than {_NAME} characters", where=repr(key)[:80])
    return key


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if keys of ours can start with it: empty, a key, or a key and a slash."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


_QUERY = re.compile(r"\?[^\s\"'<>]*")
_SECRET = re.compile(
    r"(?i)\b(x-amz-[a-z0-9-]+|authorization|uploadid|awsaccesskeyid|signature)(\s*[=:]\s*|%3d)[^\s\"'<>&]+"
)


def redact(text: str) -> str:
    """Return ``text`` without the query of any URL and without any signature, credential or token of S3.

    >>> redact("PUT https://s3.example/b/k?X-Amz-Signature=00ff failed")
    'PUT https://s3.example/b/k?[hidden] failed'
    """
    return _SECRET.sub(r"\1=[hidden]", _QUERY.sub("?[hidden]", text))
