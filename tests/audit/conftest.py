"""Keys and logs that the tests of `audit` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from counterseal.audit.tlog.log import Log
from counterseal.durable import Probe, silent
from counterseal.trust.keys.signing import SoftwareSigner

ORIGIN = "counterseal.example/f7"


def key(number: int) -> SoftwareSigner:
    """The same key on every run: the tests' signatures are reproducible."""
    return SoftwareSigner(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


@pytest.fixture
def signer() -> SoftwareSigner:
    return key(1)


@pytest.fixture
def open_log(tmp_path: Path, signer: SoftwareSigner) -> Iterator[Callable[..., Log]]:
    """Open the log of this test, again and again, as a restarted server would."""
    opened: list[Log] = []

    def opener(
        probe: Probe = silent, folder: str = "log", origin: str = ORIGIN, signer: SoftwareSigner = signer
    ) -> Log:
        for log in opened:
            log.close()
        opened.append(Log.open(tmp_path / folder, origin, signer, probe=probe))
        return opened[-1]

    yield opener
    for log in opened:
        log.close()
