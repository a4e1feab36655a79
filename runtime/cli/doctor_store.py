"""The store: that it answers under its own name, and what its clock says.

A site has no credentials for a store, only grants, so the question is one that needs none: whatever the store answers to it, the
answer came over TLS from the name that grants carry, and has a date. A grant is good for a time that the store's clock
measures; S3 refuses what seems 15 minutes off, and we ask for 5.
"""

from __future__ import annotations

import http.client
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ..config import DirectoryStoreConfig, S3StoreConfig, StoreConfig
from .doctor_check import Doubt, Fault

__all__ = ["SKEW", "StoreChecks"]

SKEW = 300
"""Seconds that this clock and the store's may differ."""


class StoreChecks:
    """The checks, with the date that the store gave."""

    def __init__(self, config: StoreConfig, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._ahead: float | None = None
        self._date = ""

    def each(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield every check with its name."""
        yield "store", self.store
        if isinstance(self._config, S3StoreConfig):
            yield "store: clock", self.clock

    def store(self) -> str:
        """Try the store: a folder is written to, a service is asked something that needs no grant."""
        config = self._config
        if isinstance(config, DirectoryStoreConfig):
            if not config.path.is_dir():
                raise Fault("no such folder", where=str(config.path), remedy="Create it, or mount the share.")
            with tempfile.NamedTemporaryFile(dir=config.path, prefix=".doctor-"):
                return f"{config.path} is a folder that can be written"
        from ..stores.s3_place import S3Place

        place = S3Place(
            bucket=config.bucket,
            prefix=config.prefix,
            endpoint_url=config.endpoint_url,
            region=config.region or "us-east-1",
            insecure_loopback=config.insecure_loopback,
        )
        before = self._clock()
        self._date = _ask(place.origin, config)
        after = self._clock()
        if self._date:
            self._ahead = (before + after) / 2 - parsedate_to_datetime(self._date).timestamp()
        how = "answers under its name" if place.origin.startswith("https") else "answers, WITHOUT TLS"
        return f"{urlsplit(place.origin).netloc} {how}; bucket {config.bucket} is reached with grants only"

    def clock(self) -> str:
        """Compare this clock with the store's."""
        if self._ahead is None:
            raise Doubt("the store did not answer, or gave no date")
        seconds = abs(self._ahead)
        where = "ahead of" if self._ahead > 0 else "behind"
        if seconds > SKEW:
            raise Fault(
                f"this clock is {seconds:.0f} seconds {where} the store's: grants would seem expired, or not yet begun",
                remedy="Set it, and keep it with NTP (`timedatectl set-ntp true`).",
            )
        return f"{seconds:.0f} seconds {where} the store's; up to {SKEW} are well"


def _ask(origin: str, config: S3StoreConfig) -> str:
    """Ask ``origin`` for its root, and return the date of whatever it answers."""
    parts = urlsplit(origin)
    host = parts.hostname or ""
    connection = _connection(origin, config)
    try:
        connection.request("GET", "/", headers={"Accept": "*/*"})
        return connection.getresponse().getheader("Date", "")
    except ssl.SSLCertVerificationError as error:
        raise Fault(
            f"{host}: the certificate does not hold ({error.verify_message})",
            remedy="Correct `endpoint_url`, or name the authority with `ca_file`. Never switch the check off.",
        ) from None
    except ssl.SSLError as error:
        raise Fault(
            f"{host}: no TLS ({error.reason})", remedy="Correct the scheme or port in `endpoint_url`."
        ) from None
    except TimeoutError:
        raise Fault(f"{host} does not answer in time", remedy="Allow it through the firewall or the proxy.") from None
    except OSError as error:
        resolved = getattr(error, "errno", None) is not None and not str(error).startswith("[Errno -")
        said = "does not answer" if resolved else "does not resolve"
        remedy = (
            "Allow it through the firewall or the proxy." if resolved else "Correct `endpoint_url`, or the resolver."
        )
        raise Fault(
            f"{host}:{parts.port or ''} {said} ({error.strerror or type(error).__name__})", remedy=remedy
        ) from None
    except http.client.HTTPException as error:
        raise Fault(f"{host} speaks no HTTP ({type(error).__name__})", remedy="Correct `endpoint_url`.") from None
    finally:
        connection.close()


def _connection(origin: str, config: S3StoreConfig) -> http.client.HTTPConnection:
    parts = urlsplit(origin)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port or 80, timeout=10)
    trusted = ssl.create_default_context(cafile=None if config.ca_file is None else str(config.ca_file))
    if config.proxy is None:
        return http.client.HTTPSConnection(host, parts.port or 443, timeout=10, context=trusted)
    proxy = urlsplit(config.proxy)
    through = http.client.HTTPSConnection(proxy.hostname or "", proxy.port, timeout=10, context=trusted)
    through.set_tunnel(host, parts.port or 443)
    return through
