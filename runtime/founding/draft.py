"""A federation's folder while it is written, beside the place where it will be; `founding` is the manual."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from ...durable import create_file, make_folder, sync_folder
from ...privacy.ledger.ledger import Ledger
from ...privacy.ledger.path_anchor import PathAnchor
from ...trust.canonical import canonical
from ...trust.charter.model import Aggregation, Charter, Group, Limits, QuorumTerms
from ...trust.charter.quorum import Quorum
from ...trust.charter.signing import fingerprint, sign_charter
from ...trust.charter.yaml_file import load_charter_draft
from ...trust.identifiers import Identifier, Identity, Text, sha256
from ...trust.keys.custody import create_folder
from ...trust.keys.member import MemberKeys
from ...trust.keys.passphrase import Passphrase
from ...trust.keys.sealing import SealSuite
from ...trust.keys.statement import MAXIMUM_LIFE, make_statement
from ..config import (
    ComputeTransportConfig,
    ConfigError,
    DirectoryStoreConfig,
    GlobusConfig,
    LoaderConfig,
    LocalTransportConfig,
    PassphraseConfig,
    RunConfig,
    ServerConfig,
    SiteConfig,
    StoreConfig,
    load_server,
    load_site,
)
from ..config.globus import Uuid
from ..config.ledger import LedgerConfig, PathAnchorConfig
from ..config.parts import Config
from ..config.privacy import SitePrivacy
from .charter_folder import write_charter_folder

__all__ = ["REQUEST", "Draft", "Request"]

REQUEST = "founding.json"
"""The file that says what was asked for."""

_LIAR = 1
"""Sites that the quorum assumes may lie: the server operator's own counts among them."""

_SKEW = 300
_Positive = Annotated[float, Field(gt=0)]


class Request(Config):
    """What `found_federation` was asked for, as it is kept beside the result."""

    format: Literal[1] = 1
    sites: Annotated[tuple[Identity, ...], Field(min_length=1, max_length=499)]
    run: RunConfig
    loaders: dict[Identity, LoaderConfig]
    store: StoreConfig | None
    server_loader: LoaderConfig | None
    suite: SealSuite
    weights: dict[Identity, _Positive]
    names: dict[Identity, Text]
    federation: Identifier
    title: Text
    server: Identity
    norm_bound: _Positive
    update_bytes: Annotated[int, Field(gt=0, le=1 << 43)]
    commit_before_upload: bool
    life_seconds: Annotated[int, Field(gt=0, le=MAXIMUM_LIFE - _SKEW)]
    cap: tuple[_Positive, Annotated[float, Field(ge=0, lt=1)]] | None = None
    """Epsilon and delta of each site's population, over all runs; for private runs."""
    group: Uuid | None = None
    """The Globus group that is asked; a roster file otherwise."""
    globus: dict[Identity, GlobusConfig] = Field(default_factory=dict)
    """Each party's way to Globus, where the group is one of Globus."""
    transport: ComputeTransportConfig | None = None
    """Globus Compute instead of processes of this machine."""

    @model_validator(mode="after")
    def _agrees(self) -> Request:
        # Folders bear these names, and some file systems do not tell cases apart.
        if len({name.casefold() for name in self.parties}) != len(self.parties):
            raise ValueError("every party needs a name of its own")
        for what, found, wanted in (
            ("one loader for each site", set(self.loaders), set(self.sites)),
            ("weights for sites only", set(self.weights), set(self.sites)),
            ("names for parties only", set(self.names), set(self.parties)),
        ):
            if found != wanted:
                raise ValueError(f"there must be {what}; see {sorted(found ^ wanted)}")
        if set(self.globus) != (set(self.parties) if self.group is not None else set()):
            raise ValueError("with a Globus group every party has a block in globus, and without one none has")
        if self.transport is not None and (self.group is None or set(self.transport.endpoints) != set(self.sites)):
            raise ValueError("Globus Compute needs a Globus group and one endpoint for each site")
        if self.run.privacy is not None and self.cap is None:
            raise ValueError("a private run needs a cap for each site's population")
        if isinstance(self.store, DirectoryStoreConfig) and not self.store.path.is_absolute():
            raise ValueError("parties in different folders need a store with an absolute path")
        return self

    @property
    def parties(self) -> tuple[str, ...]:
        """The server, then the sites."""
        return (self.server, *self.sites)

    @property
    def log_origin(self) -> str:
        """The name of the log."""
        return f"localhost/{self.federation}"

    def payload(self) -> bytes:
        """Return the canonical JSON that is kept."""
        return canonical(self.model_dump(mode="json"))


class Draft:
    """Writes a federation."""

    def __init__(self, folder: Path, request: Request) -> None:
        self._final = folder
        self._folder = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.draft")
        self._request = request
        self._now = int(time.time())

    def publish(self) -> None:
        """Write everything, then give it its name."""
        make_folder(self._final.parent)
        try:
            make_folder(self._folder, 0o700)
            self._write()
            create_file(self._folder / REQUEST, self._request.payload(), step="founding.request")
            try:
                self._folder.rename(self._final)  # replaces an empty folder, and nothing else
            except OSError:
                raise ConfigError("somebody else wrote here", where=str(self._final)) from None
            sync_folder(self._final.parent)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _home(self, party: str) -> Path:
        return self._folder / "server" if party == self._request.server else self._folder / "sites" / party

    def _write(self) -> None:
        keys = {party: self._keys(party) for party in self._request.parties}
        raw = self._charter(keys).payload()
        signatures = [
            # The typed digest: here one process plays every officer, and the module says what that is worth.
            (party, sign_charter(raw, party, own.signer, fingerprint(sha256(raw)), now=self._now).raw)
            for party, own in keys.items()
        ]
        for party in keys:
            write_charter_folder(self._home(party) / "charter", raw, signatures)
            if self._request.group is None:
                self._roster(self._home(party) / "roster.yaml")
        if self._request.store is None:
            make_folder(self._folder / "store", 0o700)
        for site in self._request.sites:
            self._site_config(site)
        self._server_config()

    def _keys(self, party: str) -> MemberKeys:
        """Draw a party's keys, keep them in its folder, and write its statement."""
        home, request = make_folder(self._home(party), 0o700), self._request
        keys = MemberKeys.generate(request.suite, operator=party == self._request.server)
        secret = home / "passphrase"
        create_file(secret, secrets.token_urlsafe(32).encode() + b"\n", step="founding.passphrase", mode=0o600)
        create_folder(home / "keys", keys, Passphrase.from_file(secret))
        statement = make_statement(
            keys,
            federation=request.federation,
            identity=party,
            log_origin=request.log_origin,
            not_before=self._now - _SKEW,
            not_after=self._now + request.life_seconds,
        )
        create_file(home / "key-statement.counterseal.json", statement.raw, step="founding.statement")
        return keys

    def _charter(self, keys: Mapping[str, MemberKeys]) -> Charter:
        """Write charter.yaml beside the statements, as a proposer does, and read the charter from it."""
        folder = make_folder(self._home(self._request.server) / "proposal" / "statements", 0o755).parent
        members = []
        for party in keys:
            statement = f"statements/{party}.key-statement.counterseal.json"
            raw = (self._home(party) / "key-statement.counterseal.json").read_bytes()
            create_file(folder / statement, raw, step="founding.proposal")
            members.append(self._member(party, statement))
        path = folder / "charter.yaml"
        create_file(path, _yaml(self._terms(members)), step="founding.charter")
        return load_charter_draft(path, now=self._now)

    def _member(self, party: str, statement: str) -> dict[str, Any]:
        return {
            "identity": party,
            "name": self._request.names[party],
            "roles": [self._role(party)],
            "weight": self._request.weights.get(party),
            "statement": statement,
        }

    def _role(self, party: str) -> str:
        return "server" if party == self._request.server else "site"

    def _terms(self, members: list[dict[str, Any]]) -> dict[str, Any]:
        request, run, n = self._request, self._request.run, len(self._request.sites)
        k = Quorum.smallest_k(n, _LIAR)
        terms = QuorumTerms(k=n if k is None else k, f=_LIAR, unwitnessed=k is None)
        named = request.group
        group = Group(id=named or f"{request.federation} roster", authorizer="roster" if named is None else "globus")
        limits = Limits(
            update_bytes=request.update_bytes,
            norm_bound=request.norm_bound,
            ticket_seconds=run.round_seconds,
            round_seconds=run.round_seconds,
        )
        return {
            "version": 1,
            "previous": None,
            "federation": request.federation,
            "title": request.title,
            "log_origin": request.log_origin,
            "group": group.model_dump(mode="json"),
            "suite": request.suite,
            "members": members,
            "server": request.server,
            "quorum": terms.model_dump(mode="json"),
            "cosign_lag": 1,
            "commit_before_upload": request.commit_before_upload,
            "max_staleness": 0,
            "limits": limits.model_dump(mode="json"),
            "aggregation": Aggregation(rule=run.aggregation.rule, clip_norm=run.aggregation.clip_norm).model_dump(),
            "dispute_window_seconds": 7 * 86_400,
        }

    def _roster(self, path: Path) -> None:
        members = [
            {"identity": party, "status": "active", "roles": [self._role(party)]} for party in self._request.parties
        ]
        roster = {"group": f"{self._request.federation} roster", "members": members}
        create_file(path, _yaml(roster), step="founding.roster", mode=0o600)

    def _party(self, party: str, up: str) -> dict[str, Any]:
        """Return what every party's configuration says; ``up`` leads from its folder to the federation's."""
        return {
            "charter": Path("charter"),
            "keys": Path("keys"),
            "passphrase": PassphraseConfig(file=Path("passphrase")),
            "state": Path("state"),
            "store": self._request.store or DirectoryStoreConfig(kind="directory", path=Path(up) / "store"),
            "roster": Path("roster.yaml") if self._request.group is None else None,
            "globus": self._request.globus.get(party),
        }

    def _site_config(self, site: str) -> None:
        config = SiteConfig(
            identity=site,
            loader=self._request.loaders[site],
            privacy=self._privacy(site),
            unprotected=self._request.run.privacy is None,
            **self._party(site, "../.."),
        )
        path = self._home(site) / "site.yaml"
        create_file(path, _yaml(config.model_dump(mode="json", exclude_defaults=True)), step="founding.site")
        if load_site(path) != _rooted(config, path.parent):
            raise ConfigError("cannot be written as YAML", where=f"loaders.{site}")

    def _privacy(self, site: str) -> SitePrivacy | None:
        """Make the site's ledger, with an anchor in another folder of the same disk, and say how it is configured."""
        request = self._request
        if request.run.privacy is None or request.cap is None:
            return None
        terms, home = request.run.privacy.of(site), self._home(site)
        unit, adjacency = ("record", "add-remove") if terms.unit == "site" else (terms.unit, terms.adjacency)
        for folder in ("ledger", "anchor"):
            make_folder(home / folder, 0o700)
        ledger = Ledger.create(home / "ledger" / "ledger.sqlite", PathAnchor(home / "anchor" / "ledger.mark"))
        epsilon, delta = request.cap
        ledger.set_population("people", unit=unit, adjacency=adjacency, epsilon=epsilon, delta=delta)
        ledger.map_dataset("data", "people")
        anchor = PathAnchorConfig(kind="path", path=Path("anchor/ledger.mark"))
        config = LedgerConfig(path=Path("ledger/ledger.sqlite"), anchor=anchor)
        return SitePrivacy(ledger=config, population="people", dataset="data", unit=unit)

    def _server_config(self) -> None:
        home = self._home(self._request.server)
        sites = {site: Path("..") / "sites" / site / "site.yaml" for site in self._request.sites}
        config = ServerConfig(
            identity=self._request.server,
            log=Path("log"),
            transport=self._request.transport or LocalTransportConfig(kind="local", sites=sites),
            run=Path("run.yaml"),
            loader=self._request.server_loader,
            **self._party(self._request.server, ".."),
        )
        run = self._request.run.model_dump(mode="json", exclude_defaults=True)
        create_file(home / "run.yaml", _yaml(run), step="founding.run")
        path = home / "server.yaml"
        create_file(path, _yaml(config.model_dump(mode="json", exclude_defaults=True)), step="founding.server")
        if load_server(path) != _rooted(config, home).model_copy(update={"run": self._request.run}):
            raise ConfigError("cannot be written as YAML", where="run")


def _rooted(config: Any, folder: Path) -> Any:
    """Return ``config`` as a file in ``folder`` would say it."""
    return type(config).model_validate_json(config.model_dump_json(), context={"folder": folder})


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


class _Dumper(yaml.SafeDumper):
    """Quotes all text but plain words, so that no reader takes it for a number, a date or a yes."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> bytes:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120).encode()
