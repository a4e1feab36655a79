"""From configuration to running parts: the one place that knows which class a word in a YAML file means."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..durable import Probe, silent
from ..trust.charter.signing import SignedCharter
from ..trust.group import Authorizer, RosterAuthorizer
from ..trust.keys.custody import load_folder
from ..trust.keys.member import MemberKeys
from ..trust.keys.signing import Signer
from .config import (
    DirectoryStoreConfig,
    LocalTransportConfig,
    S3StoreConfig,
    ServerConfig,
    SiteConfig,
    StoreConfig,
)
from .errors import ConfigError
from .founding.admissions import LinkedIdentities
from .founding.charter_folder import read_charter_folder
from .progress import Observer, ignore
from .site.site import Site
from .site.state import PATIENCE
from .site.steward import Steward
from .stores.directory import DirectoryGrantClient, DirectoryStore
from .stores.seam import GrantClient, ObjectStore
from .training.party import site_trainers
from .transports.local import LocalTransport, spawn
from .transports.seam import Transport

if TYPE_CHECKING:
    from .server.server import Server
    from .stores.s3 import S3Store
    from .stores.s3_http import Connection
    from .stores.s3_place import S3Place

__all__ = ["now", "open_s3", "open_server", "open_site", "open_store", "site_command"]


def now() -> int:
    """Return the time in seconds since 1970."""
    return int(time.time())


def open_site(
    config: SiteConfig, *, clock: Callable[[], int] = now, patience: float = PATIENCE, probe: Probe = silent
) -> Site:
    """Return the site that ``config`` describes, ready to take deliveries. Its data is loaded at its first training.

    Another process of this site is waited for, ``patience`` seconds.

    Raises:
        CharterError, CustodyError, ConfigError, JournalError: what is wrong, and where.
        SitePolicyError, LedgerError: this site's policy or ledger cannot be used: nothing is released without them.
    """
    charter, keys = _charter_and_keys(config, clock)
    return Site(
        identity=config.identity,
        charter=charter,
        keys=keys,
        state=config.state,
        store=_grant_client(config.store, probe),
        authorizer=_authorizer(config, charter, keys.signer, clock),
        trainers=site_trainers(config),
        steward=_steward(config, charter, clock, probe),
        clock=clock,
        marker=config.keys.with_name(f"{config.keys.name}.state-id"),
        patience=patience,
        probe=probe,
    )


def _steward(config: SiteConfig, charter: SignedCharter, clock: Callable[[], int], probe: Probe) -> Steward:
    policy = ledger = None
    if config.policy is not None:
        from ..trust.policy.policy import SitePolicy

        policy = SitePolicy.load(config.policy)
    if config.privacy is not None:
        from .anchors.opening import open_ledger

        ledger = open_ledger(config.privacy.ledger, clock=clock, probe=probe)
    return Steward(
        charter,
        config.identity,
        policy=policy,
        privacy=config.privacy,
        ledger=ledger,
        unprotected=config.unprotected,
    )


def open_server(
    config: ServerConfig,
    *,
    transport: Transport | None = None,
    observe: Observer = ignore,
    clock: Callable[[], int] = now,
    probe: Probe = silent,
) -> Server:
    """Return the server that ``config`` describes; sites run as processes unless a ``transport`` is given.

    Raises:
        CharterError, CustodyError, ConfigError, JournalError, LogCorruptError: what is wrong, and where.
    """
    from .server.server import Server  # a site, started for one delivery, does without it

    charter, keys = _charter_and_keys(config, clock)
    if config.identity != charter.charter.server:
        raise ConfigError(
            f"{config.identity} is not the server that the charter names ({charter.charter.server})", where="identity"
        )
    if transport is None:
        transport = _transport(config, charter, clock, probe)
    return Server(
        charter=charter,
        keys=keys,
        state=config.state,
        log=config.log,
        store=open_store(config.store, probe),
        authorizer=_authorizer(config, charter, keys.signer, clock),
        admissions=config.admissions_folder,
        transport=transport,
        clock=clock,
        observe=observe,
        probe=probe,
    )


def _transport(config: ServerConfig, charter: SignedCharter, clock: Callable[[], int], probe: Probe) -> Transport:
    settings = config.transport
    if isinstance(settings, LocalTransportConfig):
        commands = {site: site_command(path) for site, path in settings.sites.items()}
        return LocalTransport(spawn(commands, config.state / "sites"))
    from .transports.compute.transport import open_compute_transport

    if config.globus is None:
        raise ConfigError("transport.kind: globus-compute needs the block globus", where="globus")
    unreached = sorted(set(charter.charter.sites) - settings.endpoints.keys())
    if unreached:
        raise ConfigError(
            f"no endpoint is named for {', '.join(unreached)}",
            where="transport.endpoints",
            remedy="`counterseal server admit` prints the line for each site that enrolled with one.",
        )
    return open_compute_transport(settings, config.globus, config.state / "compute", clock=clock, probe=probe)


def site_command(config: Path) -> list[str]:
    """Return the command that runs a site's process over its standard streams."""
    return [sys.executable, "-Pm", "counterseal.runtime.cli", "site", "run", "--config", str(config), "--quiet"]


def _charter_and_keys(config: SiteConfig | ServerConfig, clock: Callable[[], int]) -> tuple[SignedCharter, MemberKeys]:
    charter = read_charter_folder(config.charter, now=clock())
    if charter.charter.member(config.identity) is None:
        raise ConfigError(
            f"{config.identity} is not a member of this charter",
            where="identity",
            remedy=f"Members: {', '.join(member.identity for member in charter.charter.members)}.",
        )
    keys = load_folder(config.keys, config.passphrase.source().obtain())
    return charter, keys


def _authorizer(
    config: SiteConfig | ServerConfig, charter: SignedCharter, signer: Signer, clock: Callable[[], int]
) -> Authorizer:
    group = charter.charter.group
    if group.authorizer == "globus":
        if config.globus is None:
            raise ConfigError(
                "the charter's group is one of Globus, and no block globus is configured",
                where="globus",
                remedy="Name the application and its credentials: docs/configuration.md, Globus.",
            )
        from .globus.authorizer import open_authorizer

        if not isinstance(config, ServerConfig):
            return open_authorizer(config.globus, group.id, clock)
        linked = LinkedIdentities(config.admissions_folder, signer.public)
        return open_authorizer(config.globus, group.id, clock, admissions=linked)
    if config.roster is None:
        raise ConfigError(
            "the charter's group is a roster file, and none is configured", where="roster", remedy="Name the file."
        )
    return RosterAuthorizer(config.roster, clock, group=group.id)


def open_store(config: StoreConfig, probe: Probe = silent) -> ObjectStore:
    """Return the end of the store that ``config`` describes which needs credentials: the server's, or an auditor's to read."""
    if isinstance(config, DirectoryStoreConfig):
        return DirectoryStore(config.path, probe)
    return _s3_store(config)


def open_s3(config: S3StoreConfig) -> tuple[S3Store, Connection]:
    """Return the server's end of ``config``, and a connection to the same place for requests that nobody signed."""
    from .stores.s3_http import Connection

    ca_file = None if config.ca_file is None else str(config.ca_file)
    return _s3_store(config), Connection(_place(config), ca_file=ca_file, proxy=config.proxy)


def _s3_store(config: S3StoreConfig) -> S3Store:
    from .stores.s3 import S3Store
    from .stores.s3_binding import Protection

    return S3Store(
        _place(config),
        protection=Protection(config.sse, config.retention_days, config.sse_key),
        grant_seconds=config.grant_seconds,
        ca_file=None if config.ca_file is None else str(config.ca_file),
        proxy=config.proxy,
    )


def _grant_client(config: StoreConfig, probe: Probe) -> GrantClient:
    if isinstance(config, DirectoryStoreConfig):
        return DirectoryGrantClient(config.path, probe)
    from .stores.s3_client import S3GrantClient

    ca_file = None if config.ca_file is None else str(config.ca_file)
    return S3GrantClient(_place(config), ca_file=ca_file, proxy=config.proxy)


def _place(config: S3StoreConfig) -> S3Place:
    from .stores.s3_place import S3Place

    return S3Place(
        config.bucket, config.prefix, config.endpoint_url, config.region or "us-east-1", config.insecure_loopback
    )
