"""The two ends of a store: the server's, with credentials, and a site's, with grants only.

Both ends read through a `RangedSource`, so that code that opens a sealed blob does not know where it lies. Every method
raises a `StoreError` and nothing else for what peers and the world do wrong; `StoreUnavailableError` is the one to try again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

from .grants import Grant

__all__ = ["GrantClient", "ObjectStore", "RangedSource"]


class RangedSource(Protocol):
    """A stored object, read by range, from any thread."""

    @property
    def length(self) -> int:
        """Bytes of the object, as the store says: a reader compares it with the signed length."""

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``offset`` on.

        Raises:
            WrongLengthError: the range does not lie inside the object, or the object became shorter.
            StoreUnavailableError: the store stopped answering.
        """

    def close(self) -> None:
        """Let go of the file or connections."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class ObjectStore(Protocol):
    """The server's end."""

    def put(self, key: str, source: bytes | Path, *, sha256: str | None = None) -> None:
        """Store ``source`` under ``key``, once: the same bytes again succeed.

        Raises:
            ObjectExistsError: the key holds other bytes.
            WrongDigestError: ``source`` does not have the digest ``sha256``.
        """

    def get(self, key: str, *, limit: int) -> bytes:
        """Return the object if it has at most ``limit`` bytes.

        Raises:
            ObjectMissingError: no such object.
            ObjectTooLargeError: more than ``limit`` bytes.
        """

    def length(self, key: str) -> int | None:
        """Return the bytes of the object, or None where there is none."""

    def open(self, key: str) -> RangedSource:
        """Return the object for reading by range, or raise `ObjectMissingError`."""

    def grant_get(self, key: str, *, expires: int) -> Grant:
        """Return leave to read ``key`` until ``expires`` (seconds since 1970) at most."""

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
        """Return leave to put exactly ``length`` bytes under ``key``, once, until ``expires`` at most.

        A store may end a grant earlier; `Grant.expires` says when. ``upload`` is that of an earlier grant for the same
        object: if it is still open it is granted again, and what was uploaded to it stays.

        Above `MULTIPART_ABOVE` bytes the object goes in parts of ``part_size`` (the manifest's) and exists only after
        `complete`. ``sha256`` is bound by the store for one piece; of several parts the store binds ``part_sha256``.
        """

    def complete(self, grant: Grant, etags: Sequence[str] = ()) -> None:
        """Make sure that the object of a put grant is there with its length; finish a multipart upload.

        May be called again after a crash, with `Grant.bare`. ``etags`` as the site reported them are compared with the
        store's; without them the store's own stand.

        Raises:
            ObjectMissingError: nothing, or not every part, has been uploaded.
            WrongLengthError: the object or a part has another length.
            ObjectExistsError: the key was taken by another upload.
            GrantError: the ETags are not those of the stored parts.
        """

    def abort(self, grant: Grant) -> None:
        """Forget an upload that was not completed. What is complete stays."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, in no promised order."""

    def delete(self, key: str) -> None:
        """Remove the object, present or not: only for retention, after the dispute window."""


class GrantClient(Protocol):
    """A site's end: no credentials."""

    def upload(
        self, grant: Grant, source: bytes | Path, *, compare: Grant | None = None, unchanging: bool = False
    ) -> tuple[str, ...]:
        """Send ``source`` under a put grant and return an ETag for each part.

        Args:
            grant: the leave to put.
            source: exactly the granted bytes; the same bytes go out on every retry.
            compare: a get grant for the same key. With it, a key that is taken counts as success if it holds ``source``.
            unchanging: the file ``source`` will never be changed in place, so a store may share it instead of copying.

        Raises:
            ObjectExistsError: the key is taken (perhaps by an earlier try of this very upload).
            GrantError: expired, refused by the store, or not for this length, store or address.
            WrongDigestError: not the bytes that the grant binds.
            StoreUnavailableError: still no answer after the retries.
        """

    def open(self, grant: Grant) -> RangedSource:
        """Return the granted object for reading by range.

        Raises:
            ObjectMissingError: no such object yet.
            GrantError: expired, refused, or for another store or address.
        """
