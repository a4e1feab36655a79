"""Founding: whole or absent, every party for itself, never mixed."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from counterseal.durable import create_file
from counterseal.runtime.assembly import open_server, open_site
from counterseal.runtime.config import ConfigError, DirectoryStoreConfig, LoaderConfig, load_server, load_site
from counterseal.runtime.founding.federation import Founded, found_federation
from counterseal.tests.federation import run_config
from counterseal.trust.charter.quorum import Quorum

SITES = ("site-a", "site-b", "site-c")
LOADER = LoaderConfig(entry_point="arrays", folder=Path("data"))


def found(folder: Path, sites: tuple[str, ...] = SITES, **changes: Any) -> Founded:
    values: dict[str, Any] = {"run": run_config(), "loaders": {site: LOADER for site in sites}}
    return found_federation(folder, sites, **{**values, **changes})


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return found(tmp_path_factory.mktemp("founding") / "fed")


def test_every_party_opens_with_what_was_written(founded: Founded, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(founded.folder, folder)  # relative paths: the whole folder can be elsewhere
    for site in SITES:
        config = load_site(folder / "sites" / site / "site.yaml")
        with open_site(config) as opened:
            assert opened is not None
    with open_server(load_server(folder / "server" / "server.yaml")):
        pass


def test_secrets_are_private_and_nobodys_but_their_owners(founded: Founded) -> None:
    homes = [founded.folder / "server", *(founded.folder / "sites" / site for site in SITES)]
    secrets = [(home / "passphrase").read_bytes() for home in homes]
    assert len(set(secrets)) == len(homes)
    for home in homes:
        assert stat.S_IMODE((home / "passphrase").stat().st_mode) == 0o600
        assert stat.S_IMODE((home / "keys").stat().st_mode) == 0o700
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (home / "keys").iterdir())
    for path in founded.folder.rglob("*"):  # no passphrase anywhere but in its own file
        if path.is_file() and path.name != "passphrase":
            assert not any(secret.strip() in path.read_bytes() for secret in secrets)


def test_no_site_reads_a_file_of_another_party(founded: Founded) -> None:
    for site in SITES:
        config = load_site(founded.site_configs[site])
        home = founded.folder / "sites" / site
        own = [config.charter, config.keys, config.state, config.roster, config.passphrase.file, config.loader.folder]
        assert all(path is not None and path.resolve().is_relative_to(home) for path in own)
        assert isinstance(config.store, DirectoryStoreConfig)
        assert config.store.path.resolve() == founded.folder / "store"


def test_all_hold_the_same_charter_signed_by_all(founded: Founded) -> None:
    assert founded.charter.signers == {"server", *SITES}
    copies = [
        home / "charter" for home in (founded.folder / "server", *(founded.folder / "sites" / one for one in SITES))
    ]
    assert all(contents(copy) == contents(copies[0]) for copy in copies)
    assert (founded.folder / "server" / "proposal" / "charter.yaml").is_file()


def test_the_same_request_finds_the_same_federation(founded: Founded) -> None:
    before = contents(founded.folder)
    again = found(founded.folder, SITES[::-1])
    assert founded.fresh and not again.fresh
    assert again.digest == founded.digest
    assert contents(founded.folder) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": ("site-a", "site-b")},
        {"sites": ("site-a", "site-b", "site-d")},
        {"run": run_config(rounds=3)},
        {"suite": "P384"},
        {"weights": {"site-a": 2.0}},
        {"title": "another"},
        {"commit_before_upload": False},
        {"norm_bound": 5.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_request_is_refused_and_changes_nothing(founded: Founded, changes: dict[str, Any]) -> None:
    before = contents(founded.folder)
    with pytest.raises(ConfigError, match="another federation was founded here"):
        found(founded.folder, **changes)
    assert contents(founded.folder) == before


def test_a_folder_with_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(ConfigError, match="something else is here"):
        found(tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"three years of work"}


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "fed").mkdir()
    assert found(tmp_path / "fed", ("site-a",)).fresh


@pytest.mark.parametrize(
    "sites",
    [(), ("../out",), ("a/b",), ("",), (".",), ("site-a", "SITE-A"), ("server",), ("a\u202eb",), ("x" * 200,), ("-a",)],
    ids=ascii,
)
def test_a_name_that_is_no_identity_writes_nothing(tmp_path: Path, sites: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        found(tmp_path / "fed", sites)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loaders": {"site-a": LOADER}}, "one loader for each site"),
        ({"weights": {"stranger": 1.0}}, "weights for sites only"),
        ({"weights": {"site-a": -1.0}}, "greater than 0"),
        ({"names": {"stranger": "x"}}, "names for parties only"),
        ({"store": DirectoryStoreConfig(kind="directory", path=Path("store"))}, "absolute path"),
        ({"suite": "ROT13"}, "MLKEM768_X25519"),
        ({"life_seconds": 10**9}, "less than or equal"),
    ],
    ids=str,
)
def test_a_contradiction_writes_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        found(tmp_path / "fed", **changes)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("number", [1, 4, 9, 14])
def test_a_fault_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    calls = [0]

    def failing(*args: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise OSError("the disk is full")
        create_file(*args, **options)

    monkeypatch.setattr("counterseal.runtime.founding.draft.create_file", failing)
    with pytest.raises(OSError, match="the disk is full"):
        found(tmp_path / "fed", ("site-a", "site-b"))
    assert contents(tmp_path) == {}
    monkeypatch.undo()
    assert found(tmp_path / "fed", ("site-a", "site-b")).fresh


def test_names_that_yaml_could_take_for_something_else(tmp_path: Path) -> None:
    names = ("no", "1e5", "null", "2026-01-01", "007", "true")
    founded = found(tmp_path / "fed", names, title="yes: {no} #x")
    assert [load_site(founded.site_configs[name]).identity for name in names] == list(names)
    assert founded.charter.charter.sites == tuple(sorted(names))
    assert founded.charter.charter.title == "yes: {no} #x"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_quorum_is_the_smallest_that_stands_one_liar(tmp_path: Path, count: int) -> None:
    charter = found(tmp_path / "fed", tuple(f"s{number}" for number in range(count))).charter.charter
    if count == 1:
        assert charter.quorum.unwitnessed
    else:
        assert not charter.quorum.unwitnessed
        assert Quorum(charter.quorum.k, count, 1).intersects_in_honest()
        assert not Quorum(charter.quorum.k - 1, count, 1).intersects_in_honest()
