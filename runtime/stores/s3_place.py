"""Where a bucket is: the part of an S3 configuration that both ends write down for themselves.

The server presigns for this place; a site compares every URL in a grant with the one address that its own place gives
for the key, character by character. Nothing of a peer's URL is parsed to decide where to connect.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import StoreSetupError
from .grants import check_key

__all__ = ["S3Place"]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z0-9-]{1,32}")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket, a prefix in it, and the service that holds it.

    Attributes:
        bucket: its name.
        prefix: put before every key, without slashes at its ends; may be empty.
        endpoint_url: ``https://host[:port]`` of a service other than AWS, addressed path-style; None for AWS.
        region: signing region; with AWS also part of the host's name.
        insecure_loopback: allow ``http://`` to this very machine, for demo and tests.

    Raises:
        StoreSetupError: the configuration is not a place, or it is http to another machine.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str = "us-east-1"
    insecure_loopback: bool = False

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket) or not _REGION.fullmatch(self.region):
            raise StoreSetupError("bucket or region is not a name that S3 allows", where="store")
        if self.prefix:
            check_key(self.prefix)
        if not _ORIGIN.fullmatch(self.origin):
            raise StoreSetupError(
                "the endpoint is not https://host or https://host:port in lower case",
                where="store.endpoint_url",
                remedy="Leave out path, user and password.",
            )
        if self.origin.startswith("http://") and not (self.insecure_loopback and _is_loopback(self.origin)):
            raise StoreSetupError(
                "plain http shows grants to the network",
                where="store.endpoint_url",
                remedy="Use https; http is for a loopback address with insecure_loopback only.",
            )

    @property
    def origin(self) -> str:
        """Scheme, host and port of every request."""
        if self.endpoint_url is not None:
            return self.endpoint_url
        host = f"s3.{self.region}.amazonaws.com"
        return f"https://{self.bucket}.{host}" if self.virtual else f"https://{host}"

    @property
    def service(self) -> str:
        """The endpoint as an S3 library wants it, without a bucket."""
        return self.endpoint_url or f"https://s3.{self.region}.amazonaws.com"

    @property
    def virtual(self) -> bool:
        """Whether the bucket is in the host's name: AWS, unless a dot in it would break the certificate."""
        return self.endpoint_url is None and "." not in self.bucket

    def full_key(self, key: str) -> str:
        """Return the key inside the bucket."""
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)

    def path(self, key: str) -> str:
        """Return the path of ``key``'s URL; our grammar needs no quoting."""
        return f"/{self.full_key(key)}" if self.virtual else f"/{self.bucket}/{self.full_key(key)}"


def _is_loopback(origin: str) -> bool:
    host = urlsplit(origin).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
