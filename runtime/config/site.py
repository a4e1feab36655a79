"""`SiteConfig` and `ServerConfig`: what one party keeps to itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from ...trust.identifiers import Identity
from ..errors import ConfigError
from .globus import ComputeTransportConfig, GlobusConfig
from .parts import Config, ConfigPath, Device, LoaderConfig, PassphraseConfig, PluginConfig, StoreConfig
from .privacy import SitePrivacy
from .run import RunConfig

__all__ = ["LocalTransportConfig", "ServerConfig", "SiteConfig", "TransportConfig"]

_Plugins = Annotated[tuple[PluginConfig, ...], Field(max_length=100)]


class _Party(Config):
    identity: Identity
    """This party's identity in the federation's group."""
    charter: ConfigPath
    """The folder of the signed charter."""
    keys: ConfigPath
    """The folder of this party's private keys (mode 0700)."""
    passphrase: PassphraseConfig
    """Where the passphrase of the keys is found."""
    state: ConfigPath
    """The one folder that must survive restarts; keep it on a local disk."""
    store: StoreConfig
    """Where sealed blobs are exchanged."""
    roster: ConfigPath | None = None
    """The file of the group's active members, where no Globus group is used."""
    globus: GlobusConfig | None = None
    """How this party speaks to Globus, where the group is one of Globus."""
    plugins: _Plugins = ()
    """The plug-ins that this party approved, by registry name."""

    @model_validator(mode="after")
    def _names_once(self) -> _Party:
        names = [(plugin.kind, plugin.name) for plugin in self.plugins]
        if len(set(names)) != len(names):
            raise ValueError("plugins: the same kind and name is approved twice")
        return self


class SiteConfig(_Party):
    """One institution's runtime beside its data."""

    loader: LoaderConfig
    """How this site's data becomes arrays."""
    device: Device | None = None
    """The device to train on; by default the one that the run asks for."""
    checkpoints: ConfigPath | None = None
    """A folder for checkpoints after every epoch; they are as private as the data."""
    policy: ConfigPath | None = None
    """The site's policy in Cedar; by default the one that comes with this version (`counterseal policy default`)."""
    privacy: SitePrivacy | None = None
    """The ledger and the population of this site's data; without it no private run is possible."""
    unprotected: bool = False
    """Whether this site takes part in runs without privacy terms, whose updates leave it exactly as computed."""


class LocalTransportConfig(Config):
    """Sites as processes of this machine."""

    kind: Literal["local"]
    sites: Annotated[dict[Identity, ConfigPath], Field(min_length=1, max_length=1_000)]
    """Each site's identity, and the path of its configuration."""


def _which(value: Any) -> str:
    return "path" if isinstance(value, str) or hasattr(value, "__fspath__") else "inline"


TransportConfig = Annotated[LocalTransportConfig | ComputeTransportConfig, Field(discriminator="kind")]
"""How deliveries reach the sites."""


_Run = Annotated[
    Annotated[RunConfig, Tag("inline")] | Annotated[ConfigPath, Tag("path")],
    Discriminator(_which),
]


class ServerConfig(_Party):
    """The federated-learning server of one collaborator."""

    log: ConfigPath
    """The folder of the transparency log."""
    transport: TransportConfig
    """How deliveries reach the sites."""
    admissions: ConfigPath | None = None
    """The private folder in which `counterseal server admit` keeps what it decided; by default in `state`."""
    run: _Run
    """The run: written here, or the path of its file (`load_server` puts the file's content here)."""
    loader: LoaderConfig | None = None
    """Data of the server's own, on which it evaluates if the run says so."""
    device: Device | None = None
    """The device of the server's evaluation."""

    @model_validator(mode="after")
    def _can_evaluate(self) -> ServerConfig:
        if isinstance(self.run, RunConfig) and self.run.evaluation.server and self.loader is None:
            raise ValueError("the run says evaluation.server: true, but no loader is named")
        if isinstance(self.transport, ComputeTransportConfig) and self.globus is None:
            raise ValueError("transport.kind: globus-compute needs the block globus")
        return self

    @property
    def admissions_folder(self) -> Path:
        """Where admissions are kept: `admissions`, or by default a folder of the state."""
        return self.state / "admissions" if self.admissions is None else self.admissions

    @property
    def run_config(self) -> RunConfig:
        """The run itself.

        Raises:
            ConfigError: `run` is still a path: the value was not made by `load_server`.
        """
        if not isinstance(self.run, RunConfig):
            raise ConfigError("run is a path that was not read", remedy="Read the file with load_server.")
        return self.run
