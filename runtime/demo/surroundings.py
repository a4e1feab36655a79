"""Where a demonstration plays: who its parties are, where sealed blobs lie, who says who is a member, how sites are reached.

`one_machine` needs nothing but this machine: a roster file, a process for each site, a folder or a private S3 server. The other
surroundings that the repository has are those of `make demo-globus`: a Globus group, S3, and Globus Compute endpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ..assembly import site_command
from ..config import ComputeTransportConfig, GlobusConfig, S3StoreConfig
from ..founding.federation import Founded
from ..stores.local_s3 import LocalS3
from ..stores.s3_place import S3Place
from ..stores.seam import ObjectStore
from ..transports.local import LocalTransport, spawn
from ..transports.seam import Transport
from .settings import DemoSettings

__all__ = ["Surroundings", "Surrounding", "environment_without_keys", "one_machine", "private_s3", "processes"]

_BUCKET = "counterseal-demo"
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def environment_without_keys() -> dict[str, str]:
    """Return what the sites' processes get of this process's environment: nothing that an S3 library would read."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def processes(founded: Founded) -> Transport:
    """Return the transport that starts one process for each site."""
    commands = {site: site_command(path) for site, path in founded.site_configs.items()}
    return LocalTransport(spawn(commands, founded.folder / "server" / "state" / "sites", environment_without_keys()))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What `found_federation` and `run_federation` are told besides the data."""

    sites: tuple[str, ...]
    """The identities of the sites, in the order of their data."""
    server: str = "server"
    store: S3StoreConfig | None = None
    """The store that the parties' configurations name; None for a folder."""
    objects: ObjectStore | None = None
    """The server's end of that store."""
    group: str | None = None
    """The Globus group; None for a roster file."""
    globus: Mapping[str, GlobusConfig] = field(default_factory=dict)
    compute: ComputeTransportConfig | None = None
    ready: Callable[[Founded], Transport | None] = processes
    """Called when the federation is founded and its data lie in place; returns the transport, None for the configured one."""


Surrounding: TypeAlias = Callable[[DemoSettings, Path], AbstractContextManager[Surroundings]]
"""Puts surroundings up for the demonstration of these settings in this folder, and takes them down."""


@contextmanager
def one_machine(settings: DemoSettings, out: Path) -> Iterator[Surroundings]:
    """Yield this machine, with a private S3 server where the settings ask for one."""
    if settings.store == "directory":
        yield Surroundings(settings.names)
        return
    with private_s3(out / "s3") as (_, config, objects):
        yield Surroundings(settings.names, store=config, objects=objects)


@contextmanager
def private_s3(folder: Path) -> Iterator[tuple[S3Place, S3StoreConfig, ObjectStore]]:
    """Yield a bucket on a private S3 server whose keys are in this process's environment, and in no other's."""
    from ..stores.s3 import S3Store

    with LocalS3(folder) as server:
        place = server.place(_BUCKET)
        store = S3Store(place, access_key=server.access_key, secret_key=server.secret_key)
        store.create_bucket()
        kept = {name: os.environ.pop(name, None) for name in _CREDENTIALS}
        # This process is the federation's server; what it starts gets an environment without these.
        os.environ.update(AWS_ACCESS_KEY_ID=server.access_key, AWS_SECRET_ACCESS_KEY=server.secret_key)
        try:
            url = server.endpoint_url
            yield place, S3StoreConfig(kind="s3", bucket=_BUCKET, endpoint_url=url, insecure_loopback=True), store
        finally:
            for name in _CREDENTIALS:
                os.environ.pop(name, None)
            os.environ.update({name: value for name, value in kept.items() if value is not None})
            store.close()
