"""A party that forgot everything would accept a replay of everything: it notices, and stops."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from counterseal.runtime.errors import LostStateError, RunError
from counterseal.trust.errors import CustodyError
from counterseal.trust.keys.member import MemberKeys

from ..federation import DirectTransport, Federation, run_config
from .test_federation import play, sites_of


def test_a_site_that_lost_its_state_stops(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    name, marker = federation.sites[0], tmp_path / "keys.state-id"
    federation.site(name, marker=marker).close()
    federation.site(name, marker=marker).close()
    shutil.rmtree(federation.folder / name)
    for _ in range(2):  # and again: the refusal itself makes no new state that would be believed
        with pytest.raises(LostStateError, match="took part before"):
            federation.site(name, marker=marker)


def test_a_copied_state_of_another_life_is_not_this_one(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    name, marker = federation.sites[0], tmp_path / "keys.state-id"
    federation.site(name, marker=marker).close()
    shutil.rmtree(federation.folder / name)
    federation.site(name, marker=tmp_path / "another").close()
    with pytest.raises(LostStateError):
        federation.site(name, marker=marker)


def test_a_kill_between_state_and_marker_is_mended(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    name, marker = federation.sites[0], tmp_path / "keys.state-id"
    federation.site(name, marker=marker).close()
    marker.unlink()
    federation.site(name, marker=marker).close()
    assert marker.exists()


def test_strange_keys_open_no_site(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    with pytest.raises(CustodyError, match="not keys"):
        federation.site(federation.sites[0], keys=MemberKeys.generate())
    federation.site(federation.sites[0]).close()  # nothing stayed locked


def test_a_server_without_the_state_of_its_log_stops(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    with sites_of(federation) as transport:
        play(federation, transport, run_config(rounds=1))
    (federation.folder / "server" / "server.sqlite").unlink()
    with pytest.raises(RunError, match="state folder does not know"):
        federation.server(DirectTransport({}))
