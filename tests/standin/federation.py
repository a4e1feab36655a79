"""A federation through Globus, S3 and Globus Compute on this machine: `make demo-globus`, the end-to-end tests, the benchmark.

Real: the server, the sites' runtime, globus-sdk and globus-compute-sdk at the server, the endpoint daemon with its engine and
workers at every site, the endpoint kit's files, S3 (SeaweedFS). Stood in for: Globus' web services and their broker (`standin`).
Each site's endpoint logs in as the server's service account (docs/endpoint.md, model 1); the sites' runtimes have accounts of
their own with which they ask the group about the server.
"""

from __future__ import annotations

import getpass
import os
import pwd
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from counterseal.runtime.config import ComputeTransportConfig, GlobusConfig, PassphraseConfig, S3StoreConfig
from counterseal.runtime.demo.surroundings import private_s3
from counterseal.runtime.endpoint.folder import write_folder
from counterseal.runtime.endpoint.kit import Kit
from counterseal.runtime.founding.federation import Founded
from counterseal.runtime.stores.seam import ObjectStore
from counterseal.runtime.transports.compute.service import ComputeService

from .daemon import NOBODY, EndpointDaemon, find_endpoint_program
from .world import StandIn

__all__ = ["GlobusPlace", "globus_place"]

Tell = Callable[[str], None]


@dataclass
class GlobusPlace:
    """Everything around a federation; `found_federation` takes `group`, `globus`, `compute` and `store` as they stand here."""

    folder: Path
    standin: StandIn
    server: str
    sites: tuple[str, ...]
    group: str
    function: str
    store: S3StoreConfig
    objects: ObjectStore
    globus: dict[str, GlobusConfig]
    secrets: dict[str, str] = field(repr=False)
    daemons: dict[str, EndpointDaemon] = field(default_factory=dict)

    @property
    def parties(self) -> tuple[str, ...]:
        """The server, then the sites."""
        return (self.server, *self.sites)

    @property
    def compute(self) -> ComputeTransportConfig:
        """The transport, once the daemons run."""
        endpoints = {site: daemon.uuid for site, daemon in self.daemons.items()}
        return ComputeTransportConfig(
            kind="globus-compute", function=self.function, endpoints=endpoints, poll_seconds=0.5, resend_seconds=20
        )

    def home(self, party: str) -> Path:
        """Return where `found_federation` puts a party."""
        federation = self.folder / "federation"
        return federation / "server" if party == self.server else federation / "sites" / party

    def settle(self, founded: Founded) -> None:
        """Give each party its secret, and each site's home to the account that its endpoint runs as."""
        for folder in (founded.folder, founded.folder / "sites"):
            folder.chmod(0o711)  # the homes below stay private
        for party in self.parties:
            path = self.home(party) / "globus-secret"
            path.touch(0o600)
            path.write_text(self.secrets[party])
        for site, daemon in self.daemons.items():
            if daemon.user != os.geteuid():
                own(self.home(site), daemon.user)


def own(folder: Path, user: int) -> None:
    """Give ``folder`` and all in it to ``user``."""
    group = pwd.getpwuid(user).pw_gid
    for place in (folder, *folder.rglob("*")):
        shutil.chown(place, user, group)


@contextmanager
def globus_place(folder: Path, count: int = 4, *, tell: Tell = lambda text: None) -> Iterator[GlobusPlace]:
    """Start everything below ``folder`` (which others can enter), and end it again."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    with ExitStack() as stack:
        tell("a private S3 server (SeaweedFS)")
        _, store, objects = stack.enter_context(private_s3(folder / "s3"))
        tell("the stand-in for Globus' web services, and its broker")
        standin = stack.enter_context(StandIn(folder / "standin"))
        place = _register(folder, standin, store, objects, count)
        tell(f"{count} endpoint daemons (globus-compute-endpoint), one for each site")
        _start(place, stack)
        yield place


def _register(folder: Path, standin: StandIn, store: S3StoreConfig, objects: ObjectStore, count: int) -> GlobusPlace:
    """Make the accounts, the group and the function."""
    accounts = [standin.control.client("server"), *(standin.control.client(f"site {n + 1}") for n in range(count))]
    (server, _), *sites = accounts
    group = standin.control.group(
        "the federation",
        {server: ("admin", "active")} | {site: ("member", "active") for site, _ in sites},
    )
    relative = PassphraseConfig(file=Path("globus-secret"))
    globus = {
        party: GlobusConfig(client_id=party, client_secret=relative, insecure_test_cloud=standin.url)
        for party, _ in accounts
    }
    held = dict(accounts)
    path = folder / "server.secret"
    path.touch(0o600)
    path.write_text(held[server])
    own_way = GlobusConfig(client_id=server, client_secret=PassphraseConfig(file=path), insecure_test_cloud=standin.url)
    service = ComputeService(own_way)
    function = service.register()
    service.close()
    ids = tuple(sorted(site for site, _ in sites))
    return GlobusPlace(folder, standin, server, ids, group, function, store, objects, globus, held)


def _start(place: GlobusPlace, stack: ExitStack) -> None:
    """Write every site's endpoint with the kit, and start its daemon."""
    scratch = place.folder / "tmp"
    scratch.mkdir(exist_ok=True)
    scratch.chmod(0o1777)
    for number, site in enumerate(place.sites, 1):
        folder = place.folder / "endpoints" / f"site-{number}"
        made = kit(place, site, folder / "endpoint")
        write_folder(made)
        account = (place.server, place.secrets[place.server])
        daemon = EndpointDaemon(place.standin, folder, "endpoint", account, environment={"TMPDIR": str(scratch)})
        place.daemons[site] = daemon
        stack.callback(daemon.stop)
    with ThreadPoolExecutor(len(place.daemons)) as threads:
        for started in [threads.submit(daemon.start) for daemon in place.daemons.values()]:
            started.result()


def kit(place: GlobusPlace, site: str, folder: Path) -> Kit:
    """Return the choices that an administrator of ``site`` would make on a laptop."""
    user = pwd.getpwuid(NOBODY).pw_name if os.geteuid() == 0 else getpass.getuser()
    return Kit(
        profile="laptop",
        name=f"demo {folder.parent.name}",
        folder=str(folder),
        config=str(place.home(site) / "site.yaml"),
        function=place.function,
        program=str(Path(sys.executable).with_name("counterseal")),
        daemon=str(find_endpoint_program()),
        user=user,
        test_cloud=place.standin.url,
    )


def secret_texts(place: GlobusPlace) -> Mapping[str, str]:
    """Return what must never be found in a log: every account's secret, and the store's keys."""
    return {**place.secrets, "S3": os.environ["AWS_SECRET_ACCESS_KEY"], "none": secrets.token_hex(16)}
