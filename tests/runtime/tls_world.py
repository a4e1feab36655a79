"""An S3 server behind TLS of an institution's own authority, and the proxy that stands between it and a site."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3_place import S3Place


def make_authority(folder: Path) -> Path:
    """Write a throw-away authority and the server's certificate under it; return the authority's file."""
    now = datetime.datetime.now(datetime.UTC)
    days = datetime.timedelta(days=2)
    key, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away authority")])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    authority = (
        x509.CertificateBuilder()
        .subject_name(issuer)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - days)
        .not_valid_after(now + days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "s3")]))
        .issuer_name(issuer)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - days)
        .not_valid_after(now + days)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s3.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "s3.key").write_bytes(
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return folder / "ca.pem"


class SecureS3(LocalS3):
    """SeaweedFS with TLS only."""

    @property
    def endpoint_url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def place(self, bucket: str, prefix: str = "") -> S3Place:
        return S3Place(bucket, prefix, endpoint_url=self.endpoint_url)

    def _options(self, ports: dict[str, int]) -> list[str]:
        files = [f"-s3.cert.file={self.folder / 's3.pem'}", f"-s3.key.file={self.folder / 's3.key'}"]
        return [*super()._options(ports), *files]

    def _wait(self, deadline: float) -> bool:
        trusting = ssl.create_default_context(cafile=self.folder / "ca.pem")
        while time.monotonic() < deadline:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=2, context=trusting)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                connection.request("GET", "/")
                if connection.getresponse().status == http.client.FORBIDDEN:
                    return True
            time.sleep(0.05)
        return False


@dataclass
class ConnectProxy:
    """A proxy that connects and copies; it remembers every byte that it saw."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def connect_proxy() -> Iterator[ConnectProxy]:
    """Run a proxy inside the block."""
    state = ConnectProxy()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    state.port = listener.getsockname()[1]
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                threading.Thread(target=_tunnel, args=(state, client), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        ended.set()
        thread.join()
        listener.close()


def _tunnel(state: ConnectProxy, client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(4096)
            if not piece:
                return
            head += piece
        line = head.split(b"\r\n", 1)[0].decode()
        state.asked.append(line)
        client.sendall(state.answer)
        if b" 200 " not in state.answer:
            return
        host, _, port = line.split()[1].partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as server:
            other = threading.Thread(target=_copy, args=(state, server, client), daemon=True)
            other.start()
            _copy(state, client, server)
            other.join()


def _copy(state: ConnectProxy, source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            state.heard += piece
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
