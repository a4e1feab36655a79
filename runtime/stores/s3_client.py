"""A site's end of S3: grants only, no credentials, and no address but its own.

A grant comes from the server, which a site does not have to believe. Before a request goes out, `Admission` has checked:

1. the URL up to its query equals, character by character, the URL that this site's own `S3Place` spells for the
   key: so no other scheme, host, port, bucket, prefix or key, no user part, no dots, no escapes;
2. the query holds only the names of a presigned request, each once, and ``partNumber`` and ``uploadId`` for a part;
3. the headers are only those that bind a put (`s3_binding`), with the values that follow from the grant itself: length,
   put-once, digest; and encryption and lock in the exact forms that a server asks for.

Then `s3_http.Connection` sends it to the place's own host. Redirects are errors.

Put once: the store refuses a taken key with 412. That may be our own bytes, stored by a try whose answer was lost, so
with a get grant to ``compare`` the stored bytes are read and compared; without one the caller is told `exists`.

Not handled: whether the store keeps what it accepted, or checks the digest it was sent (not every S3 does): readers verify.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from ..errors import (
    GrantError,
    ObjectExistsError,
    ObjectMissingError,
    StoreSetupError,
    StoreUnavailableError,
    WrongLengthError,
)
from .grants import Grant, GrantPart, check_key
from .s3_binding import check_headers, checked
from .s3_http import Answer, Connection, Patience
from .s3_place import S3Place
from .sources import check_source, same_bytes, viewed

__all__ = ["S3GrantClient", "S3Source", "admitted"]

T = TypeVar("T")
_QUERY = re.compile(r"[A-Za-z0-9%._~+/=-]*(?:&[A-Za-z0-9%._~+/=-]*)*")
_SIGNED: Final = frozenset(
    f"X-Amz-{name}" for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
)
_MAY: Final = _SIGNED | {"X-Amz-Security-Token", "x-id"}
_UPLOAD: Final = frozenset({"partNumber", "uploadId"})
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


def admitted(grant: Grant, part: GrantPart, place: S3Place) -> tuple[str, dict[str, str]]:
    """Return target (path and query) and headers of the request that ``part`` allows.

    Raises:
        GrantError: not a request to this place, for this key, that binds what the grant says.
    """
    address, _, query = part.url.partition("?")
    if address != place.origin + place.path(grant.key):
        raise GrantError("the address is not the one of this site's own store configuration", where=grant.key)
    names = [pair.partition("=")[0] for pair in query.split("&")]
    allowed = _MAY | _UPLOAD if grant.upload else _MAY
    needed = _SIGNED | _UPLOAD if grant.upload else _SIGNED
    if not _QUERY.fullmatch(query) or len(set(names)) != len(names) or not needed <= set(names) <= allowed:
        raise GrantError("the query is not that of a presigned request", where=grant.key)
    if grant.upload and f"partNumber={part.number}" not in query.split("&"):
        raise GrantError(f"the query is not for part {part.number}", where=grant.key)
    headers = {name.lower(): value for name, value in part.headers}
    if grant.method == "get" and headers:
        raise GrantError("a get takes no headers", where=grant.key)
    if grant.method == "put":
        check_headers(grant, part, headers)
    return place.path(grant.key) + "?" + query, headers


class S3Source:
    """A granted object on S3 as a `RangedSource`."""

    def __init__(self, connection: Connection, target: str, key: str) -> None:
        self._connection = connection
        self._target = target
        self._key = key
        self.length = self._measure()

    def _measure(self) -> int:
        """Learn the length from the first byte's answer: a presigned GET does not allow HEAD."""
        total = -1

        def once() -> Answer:
            nonlocal total
            done, answer = self._connection.fill(self._target, 0, memoryview(bytearray(1)), self._key)
            total = _total(answer, 0, done, self._key)
            return answer

        try:
            self._connection.again(once, self._key)
        except WrongLengthError:
            return 0  # no first byte: an empty object
        return total

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``offset`` on, going on after a broken answer where it broke."""
        if offset < 0 or offset + target.nbytes > self.length:
            raise WrongLengthError(f"bytes {offset} to {offset + target.nbytes} of {self.length}", where=self._key)
        done = failed = 0
        while done < target.nbytes:
            try:
                start, rest = offset + done, target[done:]
                count, answer = self._connection.fill(self._target, start, rest, self._key)
                if _total(answer, start, rest.nbytes, self._key) != self.length:
                    raise WrongLengthError("the object changed its length while it was read", where=self._key)
            except StoreUnavailableError:
                count = 0
            done += count
            if done < target.nbytes:
                failed += 1
                if failed >= self._connection.patience.attempts:
                    raise StoreUnavailableError("the store keeps breaking off its answers", where=self._key)
                self._connection.pause(failed)

    def close(self) -> None:
        """Nothing to let go of: connections belong to the client."""

    def __enter__(self) -> S3Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _total(answer: Answer, start: int, count: int, key: str) -> int:
    """Return the object's length after checking that the answer is about the range that was asked for."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != start or int(found[2]) != start + count - 1:
        raise StoreUnavailableError("the store answered another range than the one asked for", where=key)
    return int(found[3])


class S3GrantClient:
    """Uploads and reads with grants for one place.

    Args:
        place: this site's own configuration; nothing outside it is ever contacted.
        patience: timeouts and retries.
        ca_file: certificate authorities for the endpoint, instead of the system's.
        proxy: ``http://host:port`` through which https goes (CONNECT), for a site that has no other way out.
        workers: parts sent at once.
        expecting: whether what a grant names must be there, so that a store which does not show an object at once is
            asked again for a moment before it is called missing.
    """

    def __init__(
        self,
        place: S3Place,
        *,
        patience: Patience | None = None,
        ca_file: str | None = None,
        proxy: str | None = None,
        workers: int = 2,
        expecting: bool = True,
    ) -> None:
        if workers < 1:
            raise StoreSetupError("at least one worker is needed", where="store.workers")
        self._place = place
        self._workers = workers
        self._expecting = expecting
        self._connection = Connection(
            place, patience=patience, ca_file=ca_file, proxy=proxy, connections=max(4, workers)
        )

    @classmethod
    def over(cls, connection: Connection) -> S3GrantClient:
        """Return a client that uses a connection of somebody else's, who closes it."""
        made = cls.__new__(cls)
        made._place, made._workers, made._expecting, made._connection = connection.place, 2, False, connection
        return made

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> S3GrantClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def upload(
        self, grant: Grant, source: bytes | Path, *, compare: Grant | None = None, unchanging: bool = False
    ) -> tuple[str, ...]:
        """Send ``source`` under a put grant. See `GrantClient.upload`; ``unchanging`` changes nothing here."""
        self._admit(grant, "put")
        requests = [admitted(grant, part, self._place) for part in grant.parts]
        try:
            check_source(grant, source, parts=False)
            with viewed(source) as view:
                return self._send_all(grant, requests, view)
        except OSError as error:
            raise StoreUnavailableError(f"the source cannot be read ({error.strerror})", where=grant.key) from None
        except (ObjectExistsError, GrantError) as error:
            # Taken, or an upload that has been completed meanwhile: both may be our own bytes.
            if compare is None or not self._holds(compare, grant.key, source):
                raise
            del error
            return tuple("" for _ in grant.parts)

    def open(self, grant: Grant, *, expecting: bool | None = None) -> S3Source:
        """Return the granted object for reading by range; ``expecting`` as for the client, if not the same."""
        self._admit(grant, "get")
        target, _ = admitted(grant, grant.parts[0], self._place)
        if expecting if expecting is not None else self._expecting:
            return self._connection.shown(lambda: S3Source(self._connection, target, grant.key))
        return S3Source(self._connection, target, grant.key)

    def shown(self, look: Callable[[], T]) -> T:
        """Call ``look`` until it finds the object that must be there. See `Connection.shown`."""
        return self._connection.shown(look)

    def _admit(self, grant: Grant, method: str) -> None:
        check_key(grant.key)
        if grant.store != "s3" or grant.method != method:
            raise GrantError(f"a grant to {grant.method} in {grant.store} does not {method} in s3", where=grant.key)

    def _send_all(self, grant: Grant, requests: list[tuple[str, dict[str, str]]], view: memoryview) -> tuple[str, ...]:
        def send(part: GrantPart, request: tuple[str, dict[str, str]]) -> str:
            target, headers = request
            with view[part.offset : part.offset + part.length] as body:
                answer = self._connection.send("PUT", target, checked(headers, body), body, grant.key)
            return answer.headers.get("ETag", "")[:128]

        if len(requests) == 1:
            return (send(grant.parts[0], requests[0]),)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="upload") as pool:
            futures = [pool.submit(send, *pair) for pair in zip(grant.parts, requests, strict=True)]
            try:
                return tuple(future.result() for future in futures)
            finally:
                for future in futures:
                    future.cancel()

    def _holds(self, compare: Grant, key: str, source: bytes | Path) -> bool:
        if compare.key != key:
            raise GrantError("the grant to compare is for another key", where=key)
        try:
            with self.open(compare, expecting=False) as stored:
                return same_bytes(source, stored)
        except ObjectMissingError:
            return False
