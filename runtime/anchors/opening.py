"""From a ledger's configuration to the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...durable import Probe, silent
from ...privacy.ledger.anchor import Anchor
from ...privacy.ledger.ledger import Ledger
from ...privacy.ledger.path_anchor import PathAnchor
from ..config.ledger import LedgerConfig, PathAnchorConfig, S3AnchorConfig

__all__ = ["open_anchor", "open_ledger"]


def open_ledger(
    config: LedgerConfig, *, clock: Callable[[], float] = time.time, probe: Probe = silent, patience: float = 60.0
) -> Ledger:
    """Open the ledger that ``config`` names; see `Ledger.open`.

    Raises:
        LedgerError: it cannot be opened, or is not to be believed.
    """
    return Ledger.open(config.path, open_anchor(config, probe=probe), clock=clock, probe=probe, patience=patience)


def open_anchor(config: LedgerConfig, *, probe: Probe = silent) -> Anchor | None:
    """Return the anchor that ``config`` names, or None.

    Raises:
        StoreSetupError: the bucket cannot be used.
        CustodyError: the token cannot be opened.
    """
    anchor = config.anchor
    if anchor is None:
        return None
    if isinstance(anchor, PathAnchorConfig):
        return PathAnchor(anchor.path, probe=probe)
    if isinstance(anchor, S3AnchorConfig):
        from ..stores.s3_place import S3Place
        from .s3_lock import S3LockAnchor

        store = anchor.store
        place = S3Place(
            store.bucket,
            store.prefix,
            endpoint_url=store.endpoint_url,
            region=store.region or "us-east-1",
            insecure_loopback=store.insecure_loopback,
        )
        return S3LockAnchor(place, retention_days=anchor.retention_days)
    from ...trust.keys.passphrase import Passphrase
    from ...trust.keys.token import Token
    from .pkcs11 import Pkcs11Anchor

    token = Token.open(anchor.module, anchor.token, Passphrase.from_file(anchor.pin_file))
    return Pkcs11Anchor(token, anchor.label)
