"""A small S3 server in memory that keeps only the promises it is told to keep: what the doctor must notice.

It reads just enough of S3 for one client of ours. It is no model of any product; SeaweedFS is the real server of the tests.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ALL = frozenset({"conditions", "digests", "expiry", "strangers", "signatures"})


@dataclass
class Careless:
    """The objects, and the promises that are kept."""

    keeps: frozenset[str] = frozenset()
    skew: float = 0.0
    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def refusal(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> str:
        """Return why a request is refused, by the promises that are kept; empty if it is not."""
        signed = "X-Amz-Signature" in query or "authorization" in headers
        if "strangers" in self.keeps and not signed:
            return "AccessDenied"
        if "expiry" in self.keeps and "X-Amz-Date" in query:
            begun = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
            if query["X-Amz-Expires"] == "2" or time.time() > begun + int(query["X-Amz-Expires"]):
                return "AccessDenied"  # the doctor's own wait is skipped in these tests, so two seconds count as over
        if "signatures" in self.keeps and method == "PUT" and "X-Amz-Signature" in query:
            return "" if self._as_signed(path, query, headers) else "SignatureDoesNotMatch"
        return ""

    def _as_signed(self, path: str, query: dict[str, str], headers: dict[str, str]) -> bool:
        """Check a signature for real, with the one key that these tests use."""
        from botocore.auth import S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        auth: Any = S3SigV4QueryAuth(Credentials("A", "B"), "s3", "us-east-1", expires=int(query["X-Amz-Expires"]))
        names = query["X-Amz-SignedHeaders"].split(";")
        if any(name not in headers for name in names):
            return False
        request: Any = AWSRequest("PUT", f"{self.origin}{path}", headers={name: headers[name] for name in names})
        request.params = {name: value for name, value in query.items() if name != "X-Amz-Signature"}
        request.context["timestamp"] = query["X-Amz-Date"]
        text = auth.string_to_sign(request, auth.canonical_request(request))
        return bool(auth.signature(text, request) == query["X-Amz-Signature"])


def _xml(name: str, inside: str) -> bytes:
    return f'<?xml version="1.0"?><{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inside}</{name}>'.encode()


def _answer(state: Careless, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, bytes]:
    """Return status, headers and body of the answer to a request."""
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    path = unquote(parts.path)
    key = path.removeprefix("/models").removeprefix("/")
    refused = state.refusal(method, path, query, headers, body)
    if refused:
        return 403, {}, _xml("Error", f"<Code>{refused}</Code>")
    if not key:
        return _of_bucket(state, query)
    if method == "POST" and "uploads" in query:
        name = f"u{len(state.uploads)}"
        state.uploads[name] = {}
        return 200, {}, _xml("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>")
    if "uploadId" in query:
        return _of_upload(state, method, key, query, headers, body)
    if method == "PUT":
        return _put(state, key, headers, body)
    if method == "DELETE":
        state.objects.pop(key, None)
        return 204, {}, b""
    return _get(state, key, headers)


def _put(state: Careless, key: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, bytes]:
    wanted = headers.get("x-amz-checksum-sha256")
    if "digests" in state.keeps and wanted and base64.b64encode(hashlib.sha256(body).digest()).decode() != wanted:
        return 400, {}, _xml("Error", "<Code>BadDigest</Code>")
    if "conditions" in state.keeps and headers.get("if-none-match") == "*" and key in state.objects:
        return 412, {}, _xml("Error", "<Code>PreconditionFailed</Code>")
    state.objects[key] = body
    return 200, {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}, b""


def _get(state: Careless, key: str, headers: dict[str, str]) -> tuple[int, Any, bytes]:
    data = state.objects.get(key)
    if data is None:
        return 404, {}, _xml("Error", "<Code>NoSuchKey</Code>")
    if "range" not in headers:
        return 200, {}, data
    start, _, end = headers["range"].removeprefix("bytes=").partition("-")
    piece = data[int(start) : int(end) + 1]
    return 206, {"Content-Range": f"bytes {start}-{int(start) + len(piece) - 1}/{len(data)}"}, piece


def _of_upload(
    state: Careless, method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> tuple[int, Any, bytes]:
    upload = state.uploads.get(query["uploadId"])
    if upload is None:
        return 404, {}, _xml("Error", "<Code>NoSuchUpload</Code>")
    if method == "PUT":
        upload[int(query["partNumber"])] = body
        return 200, {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}, b""
    if method == "GET":
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><Size>{len(data)}</Size>"
            f"<ETag>{hashlib.md5(data, usedforsecurity=False).hexdigest()}</ETag></Part>"
            for number, data in sorted(upload.items())
        )
        return 200, {}, _xml("ListPartsResult", listed)
    del state.uploads[query["uploadId"]]
    if method == "DELETE":
        return 204, {}, b""
    status, more, found = _put(state, key, headers, b"".join(data for _, data in sorted(upload.items())))
    return (status, more, _xml("CompleteMultipartUploadResult", "")) if status == 200 else (status, more, found)


def _of_bucket(state: Careless, query: dict[str, str]) -> tuple[int, Any, bytes]:
    if "uploads" in query:
        return 200, {}, _xml("ListMultipartUploadsResult", "")
    if "lifecycle" in query or "object-lock" in query:
        return 404, {}, _xml("Error", "<Code>NoSuchConfiguration</Code>")
    if "versions" in query:
        return 501, {}, _xml("Error", "<Code>NotImplemented</Code>")
    names = sorted(key for key in state.objects if key.startswith(query.get("prefix", "")))
    listed = "".join(f"<Contents><Key>{name}</Key><Size>1</Size></Contents>" for name in names)
    return 200, {}, _xml("ListBucketResult", f"<IsTruncated>false</IsTruncated>{listed}")


@contextlib.contextmanager
def careless_server(keeps: set[str] | frozenset[str] = frozenset(), skew: float = 0.0) -> Iterator[Careless]:
    """Run a server inside the block that keeps the promises ``keeps`` and whose clock is ``skew`` seconds ahead."""
    state = Careless(frozenset(keeps), skew)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, more, answer = _answer(state, self.command, self.path, headers, body)
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            length = state.objects.get(unquote(urlsplit(self.path).path).removeprefix("/models/"), b"")
            self.send_header("Content-Length", str(len(length) if self.command == "HEAD" else len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_HEAD = do_POST = do_DELETE = do_PUT

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate((timestamp or time.time()) + state.skew, usegmt=True)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = int(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
