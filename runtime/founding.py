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
(docs/configuration.md); what they exchange are the same files. The roster file stands in for a Globus group.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ..durable import create_file, make_folder, sync_folder
from ..trust.canonical import canonical
from ..trust.charter.model import Aggregation, Charter, Group, Limits, Member, QuorumTerms
from ..trust.charter.quorum import Quorum
from ..trust.charter.signing import SignedCharter, fingerprint, sign_charter
from ..trust.charter.yaml_file import load_charter_draft
from ..trust.identifiers import Identity, sha256
from ..trust.keys.custody import create_folder
from ..trust.keys.member import MemberKeys
from ..trust.keys.passphrase import Passphrase
from ..trust.keys.sealing import DEFAULT_SUITE, SealSuite
from ..trust.keys.statement import make_statement
from .charter_folder import read_charter_folder, write_charter_folder
from .config import (
    ConfigError,
    DirectoryStoreConfig,
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

__all__ = ["Founded", "found_federation"]

_REQUEST = "founding.json"
_EQUAL: Mapping[str, float] = MappingProxyType({})
_LIAR = 1
"""Sites that the quorum assumes may lie: the server operator's own counts among them."""


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
    weights: Mapping[str, float] = _EQUAL,
    names: Mapping[str, str] = MappingProxyType({}),
    federation: str = "local-federation",
    title: str = "A federation on one machine",
    server: str = "server",
    norm_bound: float = 1000.0,
    update_bytes: int = 1 << 32,
    commit_before_upload: bool = True,
    life_seconds: int = 365 * 86_400,
) -> Founded:
    """Found a federation of ``server`` and ``sites`` in ``folder``, or return the one that this same call founded before.

    ``sites`` (identities) are in charter order, the order of every sum. ``loaders`` says how each site's data become arrays; a
    relative folder in it starts at that site's own folder, as in a configuration file. Weights not named are 1, names for
    people are the identities. The quorum is the smallest that tolerates one liar; a single site has none, and the charter
    then says UNWITNESSED. ``life_seconds`` is for how long the keys are valid.

    Raises:
        ConfigError: ``folder`` holds something else, or the request contradicts itself.
        CharterError, CustodyError: what is there does not hold any more.
    """
    request = {
        name: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        for name, value in {
            "format": 1,
            "sites": list(sites),
            "run": run,
            "loaders": {site: loader.model_dump(mode="json") for site, loader in loaders.items()},
            "store": store,
            "server_loader": server_loader,
            "suite": suite,
            "weights": {site: float(weights.get(site, 1.0)) for site in sites},
            "names": {site: names.get(site, site) for site in (server, *sites)},
            "federation": federation,
            "title": title,
            "server": server,
            "norm_bound": norm_bound,
            "update_bytes": update_bytes,
            "commit_before_upload": commit_before_upload,
            "life_seconds": life_seconds,
        }.items()
    }
    _check(sites, server, loaders, weights, store)
    folder = folder.absolute()
    if (folder / _REQUEST).is_file():
        return _found_again(folder, canonical(request), sites)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("something else is here", where=str(folder), remedy="Name a new or empty folder.")
    draft = _Draft(folder, request, run, dict(loaders), store, server_loader)
    draft.publish()
    return _founded(folder, sites, fresh=True)


def _check(
    sites: Sequence[str],
    server: str,
    loaders: Mapping[str, LoaderConfig],
    weights: Mapping[str, float],
    store: StoreConfig | None,
) -> None:
    """Refuse what no charter could say, before any name becomes the name of a folder."""
    identity: TypeAdapter[str] = TypeAdapter(Identity)
    for name in (server, *sites):
        try:
            identity.validate_python(name)
        except ValidationError:
            raise ConfigError(
                f"{ascii(name)[:100]} is no identity", where="sites", remedy="Letters, digits and @ + _ . - only."
            ) from None
    folded = [name.casefold() for name in (server, *sites)]
    if not sites or len(set(folded)) != len(folded):
        raise ConfigError("a federation needs a site, and every party a name of its own", where="sites")
    if set(loaders) != set(sites):
        raise ConfigError("there must be one loader for each site", where="loaders")
    if not set(weights) <= set(sites):
        raise ConfigError("a weight is given to somebody who is no site", where="weights")
    if isinstance(store, DirectoryStoreConfig) and not store.path.is_absolute():
        raise ConfigError("parties in different folders need an absolute path", where="store.path")


def _found_again(folder: Path, request: bytes, sites: Sequence[str]) -> Founded:
    stored = (folder / _REQUEST).read_bytes()
    if stored != request:
        raise ConfigError(
            "another federation was founded here",
            where=str(folder),
            remedy="Name a new folder; federations are never mixed.",
        )
    return _founded(folder, sites, fresh=False)


def _founded(folder: Path, sites: Sequence[str], *, fresh: bool) -> Founded:
    server_config = folder / "server" / "server.yaml"
    configs = {site: folder / "sites" / site / "site.yaml" for site in sites}
    for path in configs.values():
        load_site(path)
    charter = read_charter_folder(load_server(server_config).charter, now=int(time.time()))
    return Founded(folder, server_config, MappingProxyType(configs), charter, fresh)


class _Draft:
    """A federation's folder while it is written, beside the place where it will be."""

    def __init__(
        self,
        folder: Path,
        request: Mapping[str, Any],
        run: RunConfig,
        loaders: dict[str, LoaderConfig],
        store: StoreConfig | None,
        server_loader: LoaderConfig | None,
    ) -> None:
        self._final = folder
        self._folder = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.draft")
        self._request = request
        self._run = run
        self._loaders = loaders
        self._store = store
        self._server_loader = server_loader
        self._server: str = request["server"]
        self._sites: list[str] = request["sites"]
        self._now = int(time.time())

    def publish(self) -> None:
        """Write everything, then give it its name."""
        make_folder(self._final.parent)
        try:
            make_folder(self._folder, 0o700)
            self._write()
            create_file(self._folder / _REQUEST, canonical(self._request), step="founding.request")
            try:
                self._folder.rename(self._final)  # replaces an empty folder, and nothing else
            except OSError:
                raise ConfigError("somebody else wrote here", where=str(self._final)) from None
            sync_folder(self._final.parent)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _home(self, party: str) -> Path:
        return self._folder / "server" if party == self._server else self._folder / "sites" / party

    def _write(self) -> None:
        keys = {party: self._keys(party) for party in (self._server, *self._sites)}
        raw = self._charter(keys).payload()
        signatures = [
            # The typed digest: here one process plays every officer, and the module says what that is worth.
            (party, sign_charter(raw, party, own.signer, fingerprint(sha256(raw)), now=self._now).raw)
            for party, own in keys.items()
        ]
        for party in keys:
            write_charter_folder(self._home(party) / "charter", raw, signatures)
            self._roster(self._home(party) / "roster.yaml")
        if self._store is None:
            make_folder(self._folder / "store", 0o700)
        for site in self._sites:
            self._site_config(site)
        self._server_config()

    def _keys(self, party: str) -> MemberKeys:
        """Draw a party's keys, keep them in its folder, and write its statement."""
        home, request = make_folder(self._home(party), 0o700), self._request
        keys = MemberKeys.generate(request["suite"], operator=party == self._server)
        secret = home / "passphrase"
        create_file(secret, secrets.token_urlsafe(32).encode() + b"\n", step="founding.passphrase", mode=0o600)
        create_folder(home / "keys", keys, Passphrase.from_file(secret))
        statement = make_statement(
            keys,
            federation=request["federation"],
            identity=party,
            log_origin=self._origin,
            not_before=self._now - 300,
            not_after=self._now + request["life_seconds"],
        )
        create_file(home / "key-statement.counterseal.json", statement.raw, step="founding.statement")
        return keys

    @property
    def _origin(self) -> str:
        return f"localhost/{self._request['federation']}"

    def _charter(self, keys: Mapping[str, MemberKeys]) -> Charter:
        """Write charter.yaml beside the statements, as a proposer does, and read the charter from it."""
        folder = make_folder(self._home(self._server) / "proposal" / "statements", 0o755).parent
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
        role = "server" if party == self._server else "site"
        member = Member(
            identity=party,
            name=self._request["names"][party],
            roles=(role,),
            weight=self._request["weights"].get(party),
            statement=statement,
        )
        return member.model_dump(mode="json")

    def _terms(self, members: list[dict[str, Any]]) -> dict[str, Any]:
        request, run, n = self._request, self._run, len(self._sites)
        k = Quorum.smallest_k(n, _LIAR)
        terms = QuorumTerms(k=n if k is None else k, f=_LIAR, unwitnessed=k is None)
        group = Group(id=f"{request['federation']} roster", authorizer="roster")
        limits = Limits(
            update_bytes=request["update_bytes"],
            norm_bound=request["norm_bound"],
            ticket_seconds=run.round_seconds,
            round_seconds=run.round_seconds,
        )
        return {
            "version": 1,
            "previous": None,
            "federation": request["federation"],
            "title": request["title"],
            "log_origin": self._origin,
            "group": group.model_dump(mode="json"),
            "suite": request["suite"],
            "members": members,
            "server": self._server,
            "quorum": terms.model_dump(mode="json"),
            "cosign_lag": 1,
            "commit_before_upload": request["commit_before_upload"],
            "max_staleness": 0,
            "limits": limits.model_dump(mode="json"),
            "aggregation": Aggregation(rule=run.aggregation.rule, clip_norm=run.aggregation.clip_norm).model_dump(),
            "dispute_window_seconds": 7 * 86_400,
        }

    def _roster(self, path: Path) -> None:
        members = [
            {"identity": party, "status": "active", "roles": ["server" if party == self._server else "site"]}
            for party in (self._server, *self._sites)
        ]
        roster = {"group": f"{self._request['federation']} roster", "members": members}
        create_file(path, _yaml(roster), step="founding.roster", mode=0o600)

    def _party(self, up: str) -> dict[str, Any]:
        """Return what every party's configuration says; ``up`` leads from its folder to the federation's."""
        return {
            "charter": Path("charter"),
            "keys": Path("keys"),
            "passphrase": PassphraseConfig(file=Path("passphrase")),
            "state": Path("state"),
            "store": self._store or DirectoryStoreConfig(kind="directory", path=Path(up) / "store"),
            "roster": Path("roster.yaml"),
        }

    def _site_config(self, site: str) -> None:
        config = SiteConfig(identity=site, loader=self._loaders[site], **self._party("../.."))
        path = self._home(site) / "site.yaml"
        create_file(path, _yaml(config.model_dump(mode="json", exclude_defaults=True)), step="founding.site")
        if load_site(path) != _rooted(config, path.parent):
            raise ConfigError("cannot be written as YAML", where=f"loaders.{site}")

    def _server_config(self) -> None:
        home = self._home(self._server)
        sites = {site: Path("..") / "sites" / site / "site.yaml" for site in self._sites}
        config = ServerConfig(
            identity=self._server,
            log=Path("log"),
            transport=LocalTransportConfig(kind="local", sites=sites),
            run=Path("run.yaml"),
            loader=self._server_loader,
            **self._party(".."),
        )
        run = self._run.model_dump(mode="json", exclude_defaults=True)
        create_file(home / "run.yaml", _yaml(run), step="founding.run")
        path = home / "server.yaml"
        create_file(path, _yaml(config.model_dump(mode="json", exclude_defaults=True)), step="founding.server")
        read = load_server(path)
        if read.run_config != self._run or read != _rooted(config, home).model_copy(update={"run": self._run}):
            raise ConfigError("cannot be written as YAML", where="run")


def _rooted(config: Any, folder: Path) -> Any:
    """Return ``config`` as a file in ``folder`` would say it."""
    return type(config).model_validate_json(config.model_dump_json(), context={"folder": folder})


class _Dumper(yaml.SafeDumper):
    """Quotes all text but plain words, so that no reader takes it for a number, a date or a yes."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    plain = (
        text.isascii() and text.isalpha() and text.lower() not in {"true", "false", "null", "yes", "no", "on", "off"}
    )
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> bytes:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120).encode()
