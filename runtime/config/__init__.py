"""Configuration: frozen models, YAML files whose errors name the line, and a published JSON Schema.

`load_run`, `load_site`, `load_server` and `load_store` read a file; `json_schema` gives what an editor needs to help. The
models can also be built in Python; relative paths are then left as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError
from .document import ConfigProblems, Problem, Source, read_model, read_text
from .globus import ComputeTransportConfig, GlobusConfig, GlobusFileConfig
from .parts import (
    ConfigPath,
    DirectoryStoreConfig,
    LoaderConfig,
    PassphraseConfig,
    PluginConfig,
    S3StoreConfig,
    StoreConfig,
    StoreFileConfig,
)
from .run import (
    AggregationConfig,
    EvaluationConfig,
    LossConfig,
    MetricConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
)
from .site import LocalTransportConfig, ServerConfig, SiteConfig, TransportConfig

__all__ = [
    "AggregationConfig",
    "ComputeTransportConfig",
    "ConfigError",
    "ConfigPath",
    "ConfigProblems",
    "DirectoryStoreConfig",
    "EvaluationConfig",
    "GlobusConfig",
    "LoaderConfig",
    "LocalTransportConfig",
    "LossConfig",
    "MetricConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PassphraseConfig",
    "PluginConfig",
    "Problem",
    "RunConfig",
    "S3StoreConfig",
    "SchedulerConfig",
    "ServerConfig",
    "SiteConfig",
    "StoreConfig",
    "StoreFileConfig",
    "TrainerConfig",
    "TransportConfig",
    "json_schema",
    "load_globus",
    "load_run",
    "load_server",
    "load_site",
    "load_store",
]

Which = Literal["run", "site", "server"]

_MODELS: dict[str, type[RunConfig] | type[SiteConfig] | type[ServerConfig]] = {
    "run": RunConfig,
    "site": SiteConfig,
    "server": ServerConfig,
}


def load_run(path: Path) -> RunConfig:
    """Return the run in the YAML file at ``path``.

    Raises:
        ConfigError: with file and line of every problem.
    """
    return read_model(RunConfig, read_text(path), file=str(path), folder=path.absolute().parent)


def load_site(path: Path) -> SiteConfig:
    """Return the site in the YAML file at ``path``.

    Raises:
        ConfigError: with file and line of every problem.
    """
    return read_model(SiteConfig, read_text(path), file=str(path), folder=path.absolute().parent)


def load_server(path: Path) -> ServerConfig:
    """Return the server in the YAML file at ``path``, with its run read.

    Raises:
        ConfigError: with file and line of every problem, in this file or in the run's.
    """
    server = read_model(ServerConfig, read_text(path), file=str(path), folder=path.absolute().parent)
    if isinstance(server.run, RunConfig):
        return server
    run = load_run(server.run)
    if run.evaluation.server and server.loader is None:
        raise ConfigError("the run says evaluation.server: true, but no loader is named", where=str(path))
    return server.model_copy(update={"run": run})


def load_globus(path: Path) -> GlobusConfig:
    """Return the way to Globus in a site's or server's YAML file, or in one that holds a block ``globus:`` and nothing else.

    Raises:
        ConfigError: with file and line of every problem, or the file has no such block.
    """
    text, folder = read_text(path), path.absolute().parent
    names = Source(text, str(path)).value.keys()
    if names == {"globus"}:
        return read_model(GlobusFileConfig, text, file=str(path), folder=folder).globus
    party: type[ServerConfig] | type[SiteConfig] = ServerConfig if "transport" in names else SiteConfig
    found = read_model(party, text, file=str(path), folder=folder).globus
    if found is None:
        raise ConfigError("it has no block globus", where=str(path), remedy="docs/configuration.md, Globus.")
    return found


def load_store(path: Path) -> StoreConfig:
    """Return the store in the YAML file at ``path``: a ``store:`` block as in a site's configuration, and nothing else.

    Raises:
        ConfigError: with file and line of every problem.
    """
    return read_model(StoreFileConfig, read_text(path), file=str(path), folder=path.absolute().parent).store


def json_schema(which: Which) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a configuration file.

    Raises:
        ConfigError: there is no such file kind.
    """
    if which not in _MODELS:
        raise ConfigError(f"no schema {which!r}", remedy=f"Known: {', '.join(_MODELS)}.")
    schema = _MODELS[which].model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
