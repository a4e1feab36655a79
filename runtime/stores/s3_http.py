"""HTTP to one S3 place: bounded time, bounded retries, no redirects, no URL in any text.

The pool is built for the scheme, host and port of a site's own `S3Place` and is handed paths only, so there is no URL
that could lead it elsewhere. A body is a piece of memory (of a mapped file): a retry sends the same piece again. An answer's
body is read only where it is wanted; of an error only the code, letters and digits, at most 64, enters our own text.

Retries: no answer, a broken answer, 408, 409 (a conflicting conditional write), 429 and 5xx, and S3's RequestTimeout; with
full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015), and never past the attempts given.

A proxy is asked to connect (CONNECT) and then sees ciphertext: TLS ends at the store, so it learns the host and never a URL. It
comes from the party's own configuration, never from the environment, and gets no credentials.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..errors import (
    GrantError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    StoreSetupError,
    StoreUnavailableError,
    WrongDigestError,
    WrongLengthError,
)
from .grants import redact
from .s3_place import S3Place

if TYPE_CHECKING:
    import urllib3

__all__ = ["Answer", "Connection", "Patience", "quieten"]

T = TypeVar("T")
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_RETRY = {408, 409, 429, 500, 502, 503, 504}
_RETRY_CODES = {"RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError", "ConditionalRequestConflict"}
_CHUNK = 1 << 20
_TOLD = 4096
"""Bytes that an answer may say besides its status."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a store.

    Attributes:
        attempts: requests in all, the first included.
        connect: seconds to a connection.
        silence: seconds without a byte.
        rate: bytes per second below which a whole transfer counts as stuck.
        base, most: seconds of the first and the longest pause between attempts, before jitter.
    """

    attempts: int = 5
    connect: float = 10.0
    silence: float = 60.0
    rate: float = 32 * 1024
    base: float = 0.2
    most: float = 10.0

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after the failed attempt number ``attempt`` (from 1)."""
        return random.uniform(0, min(self.most, self.base * 2.0**attempt))  # noqa: S311 - jitter, not a secret

    def limit(self, size: int) -> float:
        """Return the seconds in which ``size`` bytes must have gone through."""
        return self.silence + size / self.rate


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store said, without its body."""

    status: int
    code: str
    headers: Mapping[str, str]


class Connection:
    """A pool of connections to one place."""

    def __init__(
        self,
        place: S3Place,
        *,
        patience: Patience | None = None,
        ca_file: str | None = None,
        proxy: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        connections: int = 4,
    ) -> None:
        self.place = place
        self.patience = patience or Patience()
        self._sleep = sleep
        self._urllib3 = _library()
        self._pool = self._open(ca_file, proxy, connections)

    def _open(self, ca_file: str | None, proxy: str | None, connections: int) -> urllib3.HTTPConnectionPool:
        timeout = self._urllib3.Timeout(connect=self.patience.connect, read=self.patience.silence)
        options: dict[str, Any] = {"timeout": timeout, "maxsize": connections, "block": False, "retries": False}
        if self.place.origin.startswith("https://"):
            options |= {"cert_reqs": "CERT_REQUIRED", "ca_certs": ca_file, "assert_hostname": None}
        if proxy is None:
            pool: urllib3.HTTPConnectionPool = self._urllib3.connection_from_url(self.place.origin, **options)
            return pool
        if not self.place.origin.startswith("https://"):
            raise StoreSetupError("a proxy would see the grants of a store without TLS", where="store.proxy")
        through: urllib3.HTTPConnectionPool = self._urllib3.ProxyManager(proxy, **options).connection_from_url(
            self.place.origin
        )
        return through

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def send(self, method: str, target: str, headers: Mapping[str, str], body: memoryview | None, key: str) -> Answer:
        """Send a request until it is answered for good; raise the error that the answer means.

        ``target`` is path and query; it is never shown. ``key`` is the object's name for errors.
        """
        return self.again(lambda: self._once(method, target, headers, body, key), key)

    def pause(self, failed: int) -> None:
        """Wait after the failed attempt number ``failed``."""
        self._sleep(self.patience.pause(failed))

    def again(self, once: Callable[[], Answer], key: str) -> Answer:
        """Call ``once`` until it does something other than raise a `StoreUnavailableError`."""
        for attempt in range(1, self.patience.attempts):
            try:
                return once()
            except StoreUnavailableError:
                self.pause(attempt)
        return once()

    def shown(self, look: Callable[[], T]) -> T:
        """Call ``look`` until it finds the object that must be there, a few times: not every store shows one at once.

        Raises:
            ObjectMissingError: it does not.
        """
        for attempt in range(1, self.patience.attempts):
            try:
                return look()
            except ObjectMissingError:
                self.pause(attempt)
        return look()

    def _once(self, method: str, target: str, headers: Mapping[str, str], body: memoryview | None, key: str) -> Answer:
        response = self._request(method, target, headers, body, key)
        try:
            answer = self._read_answer(response)
        finally:
            response.release_conn()
        check_answer(answer, key)
        return answer

    def fill(self, target: str, offset: int, view: memoryview, key: str) -> tuple[int, Answer]:
        """Ask for the bytes from ``offset`` on that fill ``view``; return how many came and the answer.

        Raises:
            StoreUnavailableError: not one byte came.
            WrongLengthError: the object does not have that range.
        """
        headers = {"Range": f"bytes={offset}-{offset + view.nbytes - 1}", "Accept-Encoding": "identity"}
        response = self._request("GET", target, headers, None, key)
        try:
            if response.status != 206:
                check_answer(self._read_answer(response), key)
                raise StoreUnavailableError(f"the store ignored the range (HTTP {response.status})", where=key)
            done = self._stream(response, view, key)
            answer = Answer(206, "", response.headers)
        except BaseException:
            response.close()
            raise
        if done < view.nbytes:
            response.close()
        else:
            self._rest(response, 0)
            response.release_conn()
        return done, answer

    def _stream(self, response: urllib3.BaseHTTPResponse, view: memoryview, key: str) -> int:
        deadline = time.monotonic() + self.patience.limit(view.nbytes)
        done = 0
        try:
            while done < view.nbytes and time.monotonic() < deadline:
                piece = response.read1(min(_CHUNK, view.nbytes - done))
                if not piece:
                    break
                view[done : done + len(piece)] = piece
                done += len(piece)
        except (self._urllib3.exceptions.HTTPError, OSError):
            pass  # what came before the break is good: the caller goes on from there
        if done == 0:
            raise StoreUnavailableError("the store stopped in the middle of its answer", where=key) from None
        return done

    def _request(
        self, method: str, target: str, headers: Mapping[str, str], body: memoryview | None, key: str
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.urlopen(
                method,
                target,
                body=cast("bytes | None", body),  # any buffer will do
                headers=headers,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (self._urllib3.exceptions.HTTPError, OSError) as error:
            # Only the kind: the library's own text carries the URL, and a chained error would carry that text.
            kind = type(error).__name__
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            remedy = "Check the network and the store's endpoint."
            if isinstance(error, self._urllib3.exceptions.ProxyError):
                remedy = "Check store.proxy: it must answer, and connect to the store without asking for a password."
        if untrusted:
            raise StoreSetupError(
                "the endpoint's certificate is not trusted",
                where=key,
                remedy="Check store.endpoint_url and store.ca_file.",
            )
        raise StoreUnavailableError(f"no answer from the store ({kind})", where=key, remedy=remedy)

    def _read_answer(self, response: urllib3.BaseHTTPResponse) -> Answer:
        found = _CODE.search(self._rest(response, _TOLD))
        code = found.group(1) if found is not None and response.status >= 300 else b""
        return Answer(response.status, code.decode("ascii"), response.headers)

    def _rest(self, response: urllib3.BaseHTTPResponse, most: int) -> bytes:
        """Return at most ``most`` bytes of what is left of an answer; where more would come, or slowly, we do not listen."""
        end, said = time.monotonic() + self.patience.silence, bytearray()
        try:
            while piece := response.read1(most + 1 - len(said)):
                said += piece
                if len(said) > most or time.monotonic() > end:
                    break
            else:
                return bytes(said)
        except (self._urllib3.exceptions.HTTPError, OSError):
            pass  # its status is all that counts
        response.close()
        return bytes(said[:most])


def check_answer(answer: Answer, key: str) -> None:
    """Raise the error that an answer means; return if it means success."""
    if answer.status in (200, 204, 206):
        return
    said = f"HTTP {answer.status}{f' {answer.code}' if answer.code else ''}"
    raise _meaning(answer, said, key)


def _meaning(answer: Answer, said: str, key: str) -> StoreError:
    if answer.status == 412:
        return ObjectExistsError("the key is taken", where=key)
    if answer.status in _RETRY or answer.code in _RETRY_CODES:
        return StoreUnavailableError(f"the store asks to come again ({said})", where=key)
    if answer.status == 404 and answer.code == "NoSuchUpload":
        return GrantError("the upload is no longer open", where=key, remedy="Wait for a new delivery.")
    if answer.status == 404 and answer.code == "NoSuchBucket":
        return StoreSetupError("no such bucket", where=key, remedy="Create it, or correct store.bucket.")
    if answer.status == 404:
        return ObjectMissingError("no such object", where=key)
    if answer.status == 416:
        return WrongLengthError("the object does not have this range", where=key)
    if answer.code in ("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"):
        return WrongDigestError("the store received other bytes than the grant binds", where=key)
    if 300 <= answer.status < 400:
        return GrantError(f"the store answers from somewhere else ({said}); redirects are not followed", where=key)
    return GrantError(f"the store refused ({said})", where=key, remedy="Expired, altered or not for this request.")


class _Redacting(logging.Filter):
    """Keeps grants out of the HTTP library's own log lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        record.exc_info = record.exc_text = None
        return True


_REDACTING = _Redacting()


def quieten() -> None:
    """Keep grants and signatures out of the logs of urllib3 and botocore, at whatever level they are switched on."""
    for name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.response", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(_REDACTING)
    for name in ("botocore", "boto3"):  # dozens of loggers below, and DEBUG writes canonical requests and signatures
        logger = logging.getLogger(name)
        logger.setLevel(max(logging.INFO, logger.level))


def _library() -> Any:
    try:
        import urllib3
    except ImportError:
        raise StoreSetupError(
            "S3 needs the package urllib3", where="store", remedy="pip install 'counterseal[s3]'."
        ) from None
    quieten()
    return urllib3
