"""Where a site's ledger is, and what outside its disk would notice an old copy of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .parts import Config, ConfigPath, S3StoreConfig

__all__ = [
    "AnchorConfig",
    "LedgerConfig",
    "LedgerFileConfig",
    "PathAnchorConfig",
    "Pkcs11AnchorConfig",
    "S3AnchorConfig",
]


class PathAnchorConfig(Config):
    """A file on another disk than the ledger's."""

    kind: Literal["path"]
    path: ConfigPath
    """The anchor's file."""


class S3AnchorConfig(Config):
    """Objects in a bucket, put once, under Object Lock where the bucket has it; credentials from the AWS tools' usual places."""

    kind: Literal["s3-object-lock"]
    store: S3StoreConfig
    """The bucket: the institution's own, not the federation's."""
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 3_650
    """For how long nobody can remove an anchor."""


class Pkcs11AnchorConfig(Config):
    """A data object on a PKCS#11 token."""

    kind: Literal["pkcs11"]
    module: ConfigPath
    """The token's library."""
    token: Annotated[str, Field(min_length=1, max_length=32)]
    """The token's label."""
    pin_file: ConfigPath
    """A file of mode 0600 with the user's PIN."""
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "counterseal-ledger"
    """The name of the object on the token; each ledger has one of its own."""


AnchorConfig = Annotated[PathAnchorConfig | S3AnchorConfig | Pkcs11AnchorConfig, Field(discriminator="kind")]
"""What outside the ledger's disk knows its newest head."""


class LedgerConfig(Config):
    """The ledger of an institution."""

    path: ConfigPath
    """The ledger's file, on a local disk."""
    anchor: AnchorConfig | None = None
    """Without an anchor a restored backup of the ledger is not noticed: every report then says NOT COVERED."""

    @model_validator(mode="after")
    def _apart(self) -> LedgerConfig:
        if isinstance(self.anchor, PathAnchorConfig) and self.anchor.path.parent == self.path.parent:
            raise ValueError("the anchor must not lie beside the ledger: a restored folder would bring both back")
        return self


class LedgerFileConfig(Config):
    """A file that names a ledger and nothing else, for the officer who keeps it."""

    ledger: LedgerConfig
    """The ledger."""
