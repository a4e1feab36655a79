"""The parts that several configuration files share: paths, passphrases, stores, plug-ins.

Guarantees: a relative path is taken from the folder of the file that names it, never from the working directory; a
secret is never written in a configuration file, only where it can be found; plain HTTP is refused except to this
machine itself.

Not handled here: whether a path exists or a bucket answers. That is checked by whoever opens it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from ...trust.documents import Model
from ...trust.identifiers import Digest, Identifier
from ...trust.keys.passphrase import PassphraseSource

__all__ = [
    "Config",
    "ConfigPath",
    "Device",
    "DirectoryStoreConfig",
    "LoaderConfig",
    "Parameters",
    "PassphraseConfig",
    "PluginConfig",
    "PluginName",
    "S3StoreConfig",
    "StoreConfig",
    "StoreFileConfig",
]


class Config(Model):
    """A frozen part of a configuration; unknown names are errors."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)


def _resolve(path: Path, info: ValidationInfo) -> Path:
    if "\0" in str(path) or str(path) in {"", "."}:
        raise ValueError("a path must name a file or folder")
    folder = (info.context or {}).get("folder")
    return Path(folder) / path.expanduser() if folder is not None else path.expanduser()


ConfigPath = Annotated[Path, AfterValidator(_resolve), WithJsonSchema({"type": "string", "format": "path"})]
"""A path; a relative one starts at the folder of the configuration file."""

Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")]
"""``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

PluginName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?$")]
"""A registry name."""

Attribute = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")]
"""The public name of a function or class in a plug-in file."""

Parameters = dict[Annotated[str, StringConstraints(min_length=1, max_length=100)], JsonValue]
"""Parameters that are passed through by name."""


class PassphraseConfig(Config):
    """Where the passphrase of the private keys is found: exactly one of the three."""

    file: ConfigPath | None = None
    """A file that only its owner can read; a final newline is not part of the passphrase."""
    environment: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] | None = None
    """The name of an environment variable."""
    command: Annotated[tuple[str, ...], Field(min_length=1, max_length=32)] | None = None
    """A command, as a list of words (no shell), that prints the passphrase."""

    @model_validator(mode="after")
    def _one(self) -> PassphraseConfig:
        if sum(source is not None for source in (self.file, self.environment, self.command)) != 1:
            raise ValueError("name exactly one of file, environment, command")
        return self

    def source(self) -> PassphraseSource:
        """Return the source that a key folder takes."""
        return PassphraseSource(
            file=None if self.file is None else str(self.file), environment=self.environment, command=self.command
        )


class DirectoryStoreConfig(Config):
    """Objects in a folder that all parties share."""

    kind: Literal["directory"]
    path: ConfigPath
    """The folder of the objects."""


class S3StoreConfig(Config):
    """Objects in an S3 bucket; credentials come from the usual places of the AWS tools, never from here."""

    kind: Literal["s3"]
    bucket: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    """The name of the bucket."""
    prefix: Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*)?$")] = ""
    """What every object key starts with, without a final slash."""
    endpoint_url: str | None = None
    """The address of an S3 service other than Amazon's."""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,50}$")] | None = None
    """The region of the bucket."""
    insecure_loopback: bool = False
    """Allow plain HTTP to this machine itself, for tests and demonstrations."""
    ca_file: ConfigPath | None = None
    """A file of certificate authorities (PEM) that replaces the system's, for a store under an institution's own."""
    proxy: Annotated[str, StringConstraints(pattern=r"^http://[a-z0-9.-]{1,253}:[0-9]{1,5}$")] | None = None
    """`http://host:port` of the proxy through which this party reaches the store; TLS goes through it unopened."""
    sse: Literal["AES256", "aws:kms"] | None = None
    """Server only: ask the store to encrypt at rest as well, under its own keys."""
    sse_key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9:/_-]{0,500}$")] | None = None
    """Server only: the key of `aws:kms`, by its identifier or ARN; by default the store's own default."""
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """Server only: days for which log, manifests and answers are locked against deletion (S3 Object Lock, compliance mode)."""
    grant_seconds: Annotated[int, Field(ge=60, le=604_800)] | None = None
    """Server only: seconds that a grant lasts at most; by default as long as its ticket. Another delivery renews it."""

    @model_validator(mode="after")
    def _encrypted(self) -> S3StoreConfig:
        if self.sse_key is not None and self.sse != "aws:kms":
            raise ValueError("sse_key is a key of sse: aws:kms")
        if self.endpoint_url is None:
            return self
        if self.proxy is not None and not self.endpoint_url.startswith("https://"):
            raise ValueError("a proxy needs an https endpoint: it would see every grant")
        parts = urlsplit(self.endpoint_url)
        if parts.username or parts.password or parts.query or parts.fragment or not parts.hostname:
            raise ValueError("endpoint_url must be scheme://host[:port], without user, password or query")
        loopback = parts.hostname in {"127.0.0.1", "::1", "localhost"}
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback and self.insecure_loopback):
            raise ValueError("endpoint_url must be https (http only to this machine and with insecure_loopback: true)")
        return self


StoreConfig = Annotated[DirectoryStoreConfig | S3StoreConfig, Field(discriminator="kind")]
"""Where objects lie."""


class StoreFileConfig(Config):
    """A file that names a store and nothing else, for an auditor."""

    store: StoreConfig
    """Where the sealed blobs lie."""


class _Source(Config):
    entry_point: PluginName | None = None
    """The name of a built-in, or of an entry point of an installed distribution."""
    file: ConfigPath | None = None
    """A Python file of this party; it needs `sha256`."""
    attribute: Attribute | None = None
    """Which function or class of `file`; by default the kind's own name (`load`, `build`, ...)."""
    sha256: Digest | None = None
    """The approved digest: of the file, or over all files of the entry point's distribution."""

    @model_validator(mode="after")
    def _one_source(self) -> _Source:
        if (self.entry_point is None) == (self.file is None):
            raise ValueError("name exactly one of entry_point, file")
        if self.file is not None and self.sha256 is None:
            raise ValueError("a file needs sha256, its approved digest (`counterseal plugin digest FILE` prints it)")
        if self.attribute is not None and self.file is None:
            raise ValueError("attribute belongs to file")
        return self


class LoaderConfig(_Source):
    """How a party's data becomes arrays; a site runs only what its own officer approved here."""

    folder: ConfigPath | None = None
    """Where the data lies; the loader gets it as the parameter `folder`."""
    parameters: Parameters = Field(default_factory=dict)
    """Parameters of the loader."""

    def arguments(self) -> dict[str, JsonValue]:
        """Return what the loader is called with: the parameters, and the folder."""
        return self.parameters if self.folder is None else {**self.parameters, "folder": str(self.folder)}


class PluginConfig(_Source):
    """One approved plug-in: the run names it by registry name, this party says what that name means here."""

    kind: Literal["model", "loss", "metric", "trainer"]
    """What it makes."""
    name: Identifier
    """The registry name that a run uses."""
