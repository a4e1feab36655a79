"""The ceremony of enrolment by command: the folders of a server and of three sites, at a stand-in for Globus."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import Result

from counterseal.audit.events import Event
from counterseal.runtime.api import run_federation
from counterseal.runtime.assembly import open_site
from counterseal.runtime.cli.timeline import lines, read_copy
from counterseal.runtime.config import load_server, load_site
from counterseal.runtime.globus.credentials import GROUPS_VIEW_SCOPE
from counterseal.runtime.training.plugins import file_digest
from counterseal.tests.federation import DirectTransport
from counterseal.tests.globus.enrolment_world import MFA, log_in, private
from counterseal.tests.runtime.cli_world import LOADER, call, document
from counterseal.tests.standin.cloud import Cloud

__all__ = ["NAMES", "Ceremony", "convene", "draw_keys"]

NAMES = ("anna", "berta", "carla")
PASSPHRASE = "nobody-guesses-this-4711"


@dataclass
class Ceremony:
    """The folders of a server and of three sites, of which the third is no member yet."""

    cloud: Cloud
    folder: Path
    server: str
    native: str
    group: str
    people: dict[str, str]

    @property
    def config(self) -> Path:
        return self.folder / "server" / "server.yaml"

    @property
    def statement(self) -> Path:
        return self.folder / "server" / "key-statement.counterseal.json"

    @property
    def fingerprint(self) -> str:
        return str(document(call("keys", "show", self.folder / "server" / "keys", "--json"))["keys"]["seal"])

    def site(self, name: str) -> Path:
        return self.folder / name / "site.yaml"

    def enrol(self, name: str, *options: object) -> Result:
        told = ("--server-statement", self.statement, "--fingerprint", self.fingerprint)
        return call("site", "enrol", "--config", self.site(name), *told, *options)

    def sealed(self, name: str) -> Path:
        return self.folder / name / "enrolment" / f"{self.people[name]}.enrolment.counterseal.json"

    def admit(self, *names: str, options: tuple[object, ...] = ()) -> Result:
        return call(
            "server", "admit", "--config", self.config, "--group", self.group, *options, *map(self.sealed, names)
        )

    def log(self) -> list[Event]:
        copy = read_copy(self.folder / "server" / "log")
        return [line.event for line in lines(copy.leaves) if line.event is not None]

    def log_in(self, name: str, session: Any = MFA, enrol: bool = True) -> None:
        """Log a person in, as `counterseal login` does."""
        settings = load_site(self.site(name))
        assert settings.globus is not None
        scopes = GROUPS_VIEW_SCOPE + (f" https://auth.globus.org/scopes/{self.server}/enrol" if enrol else "")
        log_in(settings.globus, self.cloud, self.people[name], scopes, session)

    def found(self) -> str:
        """Write, sign and hand out the charter of what was admitted; return its digest."""
        proposal = self.folder / "server" / "proposal"
        shutil.copy(self.statement, proposal / "statements" / "server.key-statement.counterseal.json")
        sites = [
            {
                "identity": self.people[name],
                "name": name.title(),
                "roles": ["site"],
                "weight": 1.0,
                "statement": f"statements/{self.people[name]}.key-statement.counterseal.json",
            }
            for name in NAMES[:2]
        ]
        server = {"identity": self.server, "name": "Server", "roles": ["server"]}
        charter = {
            "version": 1, "previous": None, "federation": "heart", "title": "Hearts", "log_origin": "heart.example/log",
            "group": {"id": self.group, "authorizer": "globus"}, "suite": "MLKEM768_X25519",
            "members": [{**server, "statement": "statements/server.key-statement.counterseal.json"}, *sites],
            "server": self.server, "quorum": {"k": 2, "f": 1}, "cosign_lag": 1, "commit_before_upload": True, "max_staleness": 0,
            "limits": {"update_bytes": 1 << 20, "norm_bound": 1000.0, "ticket_seconds": 60, "round_seconds": 60},
            "aggregation": {"rule": "norm-clipped-fedavg", "clip_norm": 2.0}, "dispute_window_seconds": 3600,
        }  # fmt: skip
        draft = proposal / "charter.yaml"
        draft.write_text(yaml.safe_dump(charter, sort_keys=False))
        checked = call("charter", "check", draft, "--json")
        assert checked.exit_code == 0, checked.output
        digest = str(document(checked)["digest"])
        parties = {"server": self.server} | {name: self.people[name] for name in NAMES[:2]}
        for folder, identity in parties.items():
            home = self.folder / folder
            own = ("--keys", home / "keys", "--identity", identity, "--passphrase-file", home / "passphrase")
            signed = call("charter", "sign", draft, *own, "--digest", digest, "--out", proposal)
            assert signed.exit_code == 0, signed.output
        words = sorted(proposal.glob("*.charter-signature.counterseal.json"))
        done = call("charter", "assemble", draft, *words, "--out", self.folder / "charter")
        assert done.exit_code == 0, done.output
        for folder in parties:
            shutil.copytree(self.folder / "charter", self.folder / folder / "charter")
        return digest

    def run(self) -> Any:
        """Run the federation of the first two sites to its end."""
        sites = {self.people[name]: open_site(load_site(self.site(name))) for name in NAMES[:2]}
        try:
            return run_federation(load_server(self.config), transport=DirectTransport(sites))
        finally:
            for site in sites.values():
                site.close()


def draw_keys(folder: Path) -> Path:
    """Draw and encrypt keys for everybody: once for all tests, since it takes long."""
    secret = private(folder / "passphrase", PASSPHRASE)
    for name in ("server", *NAMES):
        operator = ["--operator"] if name == "server" else []
        assert call("keys", "new", folder / name, *operator, "--passphrase-file", secret).exit_code == 0
    return folder


def convene(cloud: Cloud, folder: Path, keys: Path) -> Ceremony:
    """Set everybody up; carla is no member of the group."""
    server, secret = cloud.client("server")
    cloud.scope(server, "enrol")
    native = cloud.native()
    people = {name: cloud.person(f"{name}@uni.example") for name in NAMES}
    members = {server: ("manager", "active")} | {people[name]: ("member", "active") for name in NAMES[:2]}
    group = cloud.group("heart", members, members_visible=True)
    made = Ceremony(cloud, folder, server, native, group, people)
    private(folder / "server" / "secret", secret)
    for name in ("server", *NAMES):
        private(folder / name / "passphrase", PASSPHRASE)
        shutil.copytree(keys / name, folder / name / "keys")
    _write_server(made)
    for number, name in enumerate(NAMES):
        _write_site(made, name, number)
    return made


def _common(identity: str) -> dict[str, Any]:
    return {
        "identity": identity,
        "charter": "charter",
        "keys": "keys",
        "passphrase": {"file": "passphrase"},
        "state": "state",
        "store": {"kind": "directory", "path": "../store"},
    }


def _write_server(made: Ceremony) -> None:
    globus = {"client_id": made.server, "client_secret": {"file": "secret"}, "clients": [made.native]}
    transport = {"kind": "local", "sites": {made.people[name]: f"../{name}/site.yaml" for name in NAMES[:2]}}
    run = {
        "name": "run-1",
        "rounds": 1,
        "seed": 3,
        "model": {"name": "logistic", "parameters": {"inputs": 6, "classes": 3}},
        "trainer": {
            "name": "numpy-linear",
            "optimizer": {"name": "sgd", "parameters": {"lr": 0.5}},
            "epochs": 1,
            "batch_size": 10,
        },
        "aggregation": {"clip_norm": 2.0},
        "minimum_sites": 2,
        "round_seconds": 60,
    }
    value = {
        **_common(made.server),
        "globus": {**globus, "insecure_test_cloud": made.cloud.url},
        "log": "log",
        "transport": transport,
        "run": run,
    }
    made.config.write_text(yaml.safe_dump(value))
    told = call(
        *("keys", "statement", made.folder / "server" / "keys", "--federation", "heart", "--identity", made.server),
        *("--log-origin", "heart.example/log", "--out", made.statement),
        *("--passphrase-file", made.folder / "server" / "passphrase"),
    )
    assert told.exit_code == 0, told.output


def _write_site(made: Ceremony, name: str, number: int) -> None:
    loader = made.folder / name / "loader.py"
    loader.write_text(LOADER)
    value = {
        **_common(made.people[name]),
        "globus": {
            "client_id": made.native,
            "tokens": "tokens.db",
            "server_client": made.server,
            "insecure_test_cloud": made.cloud.url,
        },
        "loader": {"file": "loader.py", "sha256": file_digest(loader), "parameters": {"seed": number}},
        "unprotected": True,
    }
    made.site(name).write_text(yaml.safe_dump(value))
