"""The roster file: who is admitted, and what a file that cannot be believed leads to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.trust.errors import MalformedError
from counterseal.trust.group import Authorizer, Decision, Role, RosterAuthorizer, load_roster
from counterseal.trust.identifiers import sha256

ROSTER = """\
group: heart
members:
  - {identity: anna, status: active, roles: [site]}
  - {identity: ops, status: active, roles: [server, auditor]}
  - {identity: paul, status: pending, roles: [site]}
  - {identity: ines, status: invited, roles: [site]}
  - {identity: lena, status: left, roles: [site]}
  - {identity: remy, status: removed, roles: [site]}
  - {identity: rita, status: rejected, roles: [site]}
"""


def _authorizer(folder: Path, text: str = ROSTER, group: str | None = "heart") -> RosterAuthorizer:
    path = folder / "roster.yaml"
    path.write_text(text)
    path.chmod(0o644)
    return RosterAuthorizer(path, lambda: 77, group=group)


@pytest.mark.parametrize(("identities", "role", "reason"), [
    ({"anna"}, "site", "active"),
    ({"anna"}, "server", "wrong_role"),
    ({"anna"}, "auditor", "wrong_role"),
    ({"ops"}, "server", "active"),
    ({"ops"}, "auditor", "active"),
    ({"ops"}, "site", "wrong_role"),
    ({"paul"}, "site", "pending"),
    ({"ines"}, "site", "invited"),
    ({"lena"}, "site", "left"),
    ({"remy"}, "site", "removed"),
    ({"rita"}, "site", "rejected"),
    ({"zoe"}, "site", "not_a_member"),
    (set(), "site", "not_a_member"),
    ({"Anna"}, "site", "not_a_member"),  # names are compared exactly
    ({"remy", "anna"}, "site", "active"),  # any identity of the set
    ({"remy", "paul", "zoe"}, "site", "removed"),  # the most telling reason
    ({"ops", "remy"}, "site", "wrong_role"),
])  # fmt: skip
def test_decisions(tmp_path: Path, identities: set[str], role: Role, reason: str) -> None:
    decision = _authorizer(tmp_path).check(frozenset(identities), role)
    assert (decision.reason, decision.allowed, decision.time) == (reason, reason == "active", 77)
    assert not decision.outage
    assert decision.source == f"roster file sha256:{sha256(ROSTER.encode())[:16]}"


def test_a_removal_holds_from_the_next_check_even_with_the_old_time_stamp(tmp_path: Path) -> None:
    authorizer = _authorizer(tmp_path)
    path = tmp_path / "roster.yaml"
    before = path.stat()
    first = authorizer.check(frozenset({"anna"}), "site")
    path.write_text(ROSTER.replace("anna, status: active", "anna, status: remove" + "d"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = authorizer.check(frozenset({"anna"}), "site")
    assert (first.reason, second.reason) == ("active", "removed")
    assert first.source != second.source


@pytest.mark.parametrize("text", [
    "",
    "group: heart",
    "group: heart\nmembers: []\nextra: 1",
    "group: heart\nmembers: [{identity: anna, status: aktive, roles: [site]}]",
    "group: heart\nmembers: [{identity: anna, status: active, roles: []}]",
    "group: heart\nmembers: [{identity: anna, status: active, roles: [root]}]",
    "group: heart\nmembers: [{identity: anna, status: active}]",
    "group: heart\nmembers:\n- {identity: anna, status: left, roles: [site]}\n- {identity: anna, status: active, roles: [site]}",
    "group: heart\nmembers:\n- {identity: anna, status: left, roles: [site]}\n- {identity: Anna, status: active, roles: [site]}",
    "group: heart\nmembers: &a []\n",
    "group: heart\nmembers: []\nmembers: [{identity: anna, status: active, roles: [site]}]",
    "!!python/object/apply:os.system ['true']",
    "group: other\nmembers: [{identity: anna, status: active, roles: [site]}]",
    "members: [",
    "\x00",
])  # fmt: skip
def test_a_roster_that_cannot_be_believed_is_an_outage_and_never_an_admission(tmp_path: Path, text: str) -> None:
    decision = _authorizer(tmp_path, text).check(frozenset({"anna"}), "site")
    assert (decision.allowed, decision.outage, decision.reason) == (False, True, "outage")


def _missing(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _huge(path: Path) -> None:
    path.write_bytes(ROSTER.encode() + b"#" * (1 << 20))


def _world_writable(path: Path) -> None:
    path.chmod(0o666)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("spoil", [_missing, _folder, _pipe, _huge, _world_writable, _dangling])
def test_a_file_that_cannot_be_read_is_an_outage(tmp_path: Path, spoil: object) -> None:
    authorizer = _authorizer(tmp_path)
    assert authorizer.check(frozenset({"anna"}), "site").allowed
    spoil(tmp_path / "roster.yaml")  # type: ignore[operator]
    decision = authorizer.check(frozenset({"anna"}), "site")
    assert decision.outage and not decision.allowed
    assert "roster file" in decision.source


def test_recovery_after_an_outage(tmp_path: Path) -> None:
    authorizer = _authorizer(tmp_path)
    (tmp_path / "roster.yaml").write_text("broken: [")
    assert authorizer.check(frozenset({"anna"}), "site").outage
    (tmp_path / "roster.yaml").write_text(ROSTER)
    assert authorizer.check(frozenset({"anna"}), "site").allowed


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise_anything_else(data: bytes) -> None:
    try:
        load_roster(data, file="roster.yaml")
    except MalformedError as error:
        assert error.where.startswith("roster.yaml")


def test_a_decision_cannot_say_two_things() -> None:
    with pytest.raises(ValueError, match="cannot be allowed"):
        Decision(True, "outage", "x", 0)
    with pytest.raises(ValueError, match="cannot be allowed"):
        Decision(False, "active", "x", 0)


def test_it_is_an_authorizer(tmp_path: Path) -> None:
    authorizer: Authorizer = _authorizer(tmp_path)
    assert authorizer.check(frozenset({"anna"}), "site").allowed
