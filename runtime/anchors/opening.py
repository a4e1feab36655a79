"""From a ledger's configuration to the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ...durable import Probe, silent
from ...privacy.ledger.anchor import Anchor
from ...privacy.ledger.ledger import Ledger
from ...privacy.ledger.path_anchor import PathAnchor
from ..config import load_site
from ..config.document import Source, read_model, read_text
from ..config.ledger import LedgerConfig, LedgerFileConfig, PathAnchorConfig, S3AnchorConfig
from ..errors import ConfigError

__all__ = ["load_ledger", "open_anchor", "open_ledger"]


def load_ledger(path: Path) -> LedgerConfig:
    """Return the ledger that a site's configuration names, or a YAML file with a ``ledger:`` block and nothing else.

    Raises:
        ConfigError: with file and line of every problem, or the site has no ledger.
    """
    text = read_text(path)
    value = Source(text, str(path)).value
    if isinstance(value, dict) and "identity" not in value:
        return read_model(LedgerFileConfig, text, file=str(path), folder=path.absolute().parent).ledger
    site = load_site(path)
    if site.privacy is None:
        raise ConfigError("this site has no ledger", where=str(path), remedy="Name one under `privacy: ledger:`.")
    return site.privacy.ledger


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
