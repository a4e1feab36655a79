"""Founding a federation on one machine: everything that institutions would each do at home, done here for all of them.

<folder>/founding.json              what was asked for; the same request finds the same federation, another one is refused
<folder>/server/                    the server's own folder: server.yaml, run.yaml, and what every party has
<folder>/server/proposal/           charter.yaml and the key statements from which the charter was made
<folder>/sites/<identity>/          a site's own folder: site.yaml, and what every party has
<folder>/store/                     the sealed blobs, unless another store is named

What every party has, for itself: `keys/` (0700), `passphrase` (0600, generated), `key-statement.counterseal.json`, `charter/`
(canonical bytes, everybody's signature), `roster.yaml`, later `state/`. No party's configuration names a file of another,
but for the server's, whose transport starts the sites' processes, and the folder that stands in for a store.

Guarantees: the folder is built under another name and renamed, so it is whole or absent; a folder that holds something
else is refused untouched; every configuration written was read back and is equal to what was meant; the charter was
verified from its files. Paths are relative, so the whole folder can be moved.

NOT covered: separation. One process draws all the keys, and whoever reads this folder as this user holds all of them: here
the officers' comparison of the digest is a formality. A real federation is founded by its members, each at home
(docs/configuration.md); what they exchange are the same files. Unless a Globus group is named, a roster file stands in for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from ...trust.charter.signing import SignedCharter
from ...trust.keys.sealing import DEFAULT_SUITE, SealSuite
from ..config import (
    ComputeTransportConfig,
    ConfigError,
    GlobusConfig,
    LoaderConfig,
    RunConfig,
    StoreConfig,
    load_server,
    load_site,
)
from .charter_folder import read_charter_folder
from .draft import REQUEST, Draft, Request

__all__ = ["Founded", "found_federation"]

_NONE: Mapping[str, float] = MappingProxyType({})
_UNNAMED: Mapping[str, str] = MappingProxyType({})
_NOBODY: Mapping[str, GlobusConfig] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Founded:
    """Where a federation lies. ``fresh`` says whether this call founded it or found it."""

    folder: Path
    server_config: Path
    site_configs: Mapping[str, Path]
    charter: SignedCharter
    fresh: bool

    @property
    def digest(self) -> str:
        """The charter's digest, in hexadecimal."""
        return self.charter.digest


def found_federation(
    folder: Path,
    sites: Sequence[str],
    *,
    run: RunConfig,
    loaders: Mapping[str, LoaderConfig],
    store: StoreConfig | None = None,
    server_loader: LoaderConfig | None = None,
    suite: SealSuite = DEFAULT_SUITE,
    weights: Mapping[str, float] = _NONE,
    names: Mapping[str, str] = _UNNAMED,
    federation: str = "local-federation",
    title: str = "A federation on one machine",
    server: str = "server",
    norm_bound: float = 1000.0,
    update_bytes: int = 1 << 32,
    commit_before_upload: bool = True,
    life_seconds: int = 365 * 86_400,
    cap: tuple[float, float] | None = None,
    group: str | None = None,
    globus: Mapping[str, GlobusConfig] = _NOBODY,
    transport: ComputeTransportConfig | None = None,
) -> Founded:
    """Found a federation of ``server`` and ``sites`` in ``folder``, or return the one that this same call founded before.

    The order of ``sites`` (identities) does not matter. ``loaders`` says how each site's data become arrays; a
    relative folder in it starts at that site's own folder, as in a configuration file. Weights not named are 1, names for
    people are the identities. The quorum is the smallest that tolerates one liar; a single site has none, and the charter
    then says UNWITNESSED. ``life_seconds`` is for how long the keys are valid. ``cap`` is epsilon and delta of each site's
    population over all runs: a private run needs one, and each site then gets a ledger. ``group`` is the UUID of a Globus
    group that is asked instead of a roster file, by each party through its block in ``globus``; with ``transport`` the sites
    are reached through Globus Compute instead of as processes.

    Raises:
        ConfigError: ``folder`` holds something else, or the request contradicts itself.
        CharterError, CustodyError: what is there does not hold any more.
    """
    try:
        request = Request(
            sites=tuple(sorted(sites)),
            run=run,
            loaders=dict(loaders),
            store=store,
            server_loader=server_loader,
            suite=suite,
            weights={site: 1.0 for site in sites} | dict(weights),
            names={party: party for party in (server, *sites)} | dict(names),
            federation=federation,
            title=title,
            server=server,
            norm_bound=norm_bound,
            update_bytes=update_bytes,
            commit_before_upload=commit_before_upload,
            life_seconds=life_seconds,
            cap=cap,
            group=group,
            globus=dict(globus),
            transport=transport,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "request"
        raise ConfigError(first["msg"].removeprefix("Value error, "), where=field) from None
    folder = folder.absolute()
    fresh = not (folder / REQUEST).is_file()
    if fresh:
        _found(folder, request)
    elif (folder / REQUEST).read_bytes() != request.payload():
        raise ConfigError(
            "another federation was founded here", where=str(folder), remedy="Name a new folder: they are never mixed."
        )
    return _open(folder, request.sites, fresh)


def _found(folder: Path, request: Request) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("something else is here", where=str(folder), remedy="Name a new or empty folder.")
    Draft(folder, request).publish()


def _open(folder: Path, sites: Sequence[str], fresh: bool) -> Founded:
    server_config = folder / "server" / "server.yaml"
    configs = {site: folder / "sites" / site / "site.yaml" for site in sites}
    for path in configs.values():
        load_site(path)
    charter = read_charter_folder(load_server(server_config).charter, now=int(time.time()))
    return Founded(folder, server_config, MappingProxyType(configs), charter, fresh)
