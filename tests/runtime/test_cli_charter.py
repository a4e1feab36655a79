"""`counterseal charter`: the whole ceremony by command, and every way in which it must stop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from counterseal.runtime.founding.charter_folder import read_charter_folder
from counterseal.tests.runtime.cli_world import call, document

MEMBERS = ("server", "site-1", "site-2", "site-3")
PASSPHRASE = "eleven-officers-in-a-room-4711"


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A charter's YAML with the key statements of its four members, made by the commands alone."""
    folder = tmp_path_factory.mktemp("ceremony")
    secret = folder / "passphrase"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    (folder / "keys").mkdir()
    for name in MEMBERS:
        operator = ["--operator"] if name == "server" else []
        made = call("keys", "new", folder / f"{name}.keys", *operator, "--passphrase-file", secret)
        told = call(
            *("keys", "statement", folder / f"{name}.keys", "--federation", "ours", "--identity", name),
            *("--log-origin", "ours.example/log", "--out", folder / f"keys/{name}.key-statement.counterseal.json"),
            *("--passphrase-file", secret),
        )
        assert (made.exit_code, told.exit_code) == (0, 0)
    path = folder / "charter.yaml"
    written = call("charter", "new", path, "--federation", "ours", "--log-origin", "ours.example/log")
    assert written.exit_code == 0
    third = (
        "  - identity: site-3\n    name: The third institution\n    roles: [site]\n    weight: 1.0\n"
        "    statement: keys/site-3.key-statement.counterseal.json\n"
    )
    text = path.read_text().replace("server: server\n", third + "server: server\n").replace("  k: 2 ", "  k: 3 ")
    path.write_text(text)
    return path


def _digest(draft: Path) -> str:
    return str(document(call("charter", "check", draft, "--json"))["digest"])


def _sign(draft: Path, name: str, out: Path, *options: str, stdin: str | None = None) -> object:
    return call(
        *("charter", "sign", draft, "--keys", draft.parent / f"{name}.keys", "--identity", name, "--out", out),
        *("--passphrase-file", draft.parent / "passphrase", *options),
        stdin=stdin,
    )


@pytest.fixture(scope="module")
def signed(draft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the assembled charter."""
    out = tmp_path_factory.mktemp("signatures")
    digest = _digest(draft)
    grouped = " ".join(digest[i : i + 4] for i in range(0, 64, 4)).upper()
    for name in MEMBERS:
        # One officer types at a prompt, the others are unattended.
        if name == "site-1":
            result = _sign(draft, name, out, stdin=grouped + "\n")
        else:
            result = _sign(draft, name, out, "--digest", digest)
        assert result.exit_code == 0, result.output  # type: ignore[attr-defined]
    result = call("charter", "assemble", draft, *sorted(out.iterdir()), "--out", out / "charter", "--json")
    assert result.exit_code == 0, result.output
    assert document(result)["signed_by"] == sorted(MEMBERS)
    return out / "charter"


def test_check_prints_the_digest_to_read_aloud(draft: Path) -> None:
    result = call("charter", "check", draft)
    assert result.exit_code == 0, result.output
    digest = _digest(draft)
    assert " ".join(digest[i : i + 4] for i in range(0, 64, 4)) in result.stdout


def test_check_lists_what_is_not_protected(draft: Path, tmp_path: Path) -> None:
    text = draft.read_text().replace("server_validates_updates: false", "server_validates_updates: true")
    other = draft.parent / "validating.yaml"
    other.write_text(text)
    result = call("charter", "check", other)
    assert result.exit_code == 0 and "NOT PROTECTED" in result.stdout and "server_validates_updates" in result.stdout
    assert document(call("charter", "check", other, "--json"))["caveats"]


def test_check_names_file_and_line(draft: Path) -> None:
    broken = draft.parent / "broken.yaml"
    broken.write_text(draft.read_text().replace("cosign_lag: 4", "cosign_lag: none"))
    line = next(n for n, text in enumerate(broken.read_text().splitlines(), 1) if "cosign_lag" in text)
    result = call("charter", "check", broken)
    assert result.exit_code == 1 and f"broken.yaml:{line}" in result.stderr and "cosign_lag" in result.stderr


def test_the_ceremony_makes_a_charter_that_holds(signed: Path, draft: Path) -> None:
    import time

    found = read_charter_folder(signed, now=int(time.time()))
    assert found.digest == _digest(draft) and found.signers == frozenset(MEMBERS)
    result = call("charter", "verify", signed, "--digest", found.digest)
    assert result.exit_code == 0 and "signed_by" in result.stdout


def test_a_prompted_digest_is_never_shown(draft: Path, tmp_path: Path) -> None:
    result = _sign(draft, "site-1", tmp_path, stdin="ab12 " * 16 + "\n")
    assert result.exit_code == 1  # type: ignore[attr-defined]
    assert "not that of this file" in result.stderr  # type: ignore[attr-defined]
    digest = _digest(draft)
    shown = "".join(result.output.split())  # type: ignore[attr-defined]
    assert digest not in shown and not list(tmp_path.iterdir())


@pytest.mark.parametrize("typed", ["", "ab12", "zz" * 32, "ab12" * 16])
def test_a_wrong_digest_signs_nothing(draft: Path, tmp_path: Path, typed: str) -> None:
    result = _sign(draft, "site-2", tmp_path, "--digest", typed)
    assert result.exit_code == 1 and not list(tmp_path.iterdir())  # type: ignore[attr-defined]


def test_nobody_there_to_type_signs_nothing(draft: Path, tmp_path: Path) -> None:
    result = _sign(draft, "site-1", tmp_path, stdin="")
    assert result.exit_code == 1 and not list(tmp_path.iterdir())  # type: ignore[attr-defined]


def test_signing_for_another_member_is_refused(draft: Path, tmp_path: Path) -> None:
    result = call(
        *("charter", "sign", draft, "--keys", draft.parent / "site-1.keys", "--identity", "site-2"),
        *("--passphrase-file", draft.parent / "passphrase", "--digest", _digest(draft), "--out", tmp_path),
    )
    assert result.exit_code == 1 and "site-2" in result.stderr and not list(tmp_path.iterdir())


def test_assemble_names_who_is_missing_and_writes_nothing(signed: Path, draft: Path, tmp_path: Path) -> None:
    some = sorted(path for path in (signed / "signatures").iterdir() if "site-3" not in path.name)
    result = call("charter", "assemble", draft, *some, "--out", tmp_path / "charter")
    assert result.exit_code == 1 and "not signed by site-3" in result.stderr
    assert not (tmp_path / "charter").exists()


def test_verify_finds_a_changed_charter(signed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "charter"
    shutil.copytree(signed, copy)
    data = (copy / "charter.json").read_bytes()
    (copy / "charter.json").write_bytes(data.replace(b'"norm_bound":100', b'"norm_bound":999'))
    assert (copy / "charter.json").read_bytes() != data
    result = call("charter", "verify", copy, "--json")
    assert result.exit_code == 1 and "another charter" in document(result)["error"]["what"]


def test_verify_against_a_told_digest(signed: Path) -> None:
    result = call("charter", "verify", signed, "--digest", "ab12" * 16)
    assert result.exit_code == 1 and "not the one" in result.stderr


def test_check_takes_the_canonical_file_too(signed: Path, draft: Path) -> None:
    result = call("charter", "check", signed / "charter.json", "--json")
    assert result.exit_code == 0 and document(result)["digest"] == _digest(draft)


def test_the_digest_of_a_json_charter_is_that_of_its_bytes(signed: Path, tmp_path: Path, draft: Path) -> None:
    spaced = tmp_path / "charter.json"
    spaced.write_text(json.dumps(json.loads((signed / "charter.json").read_bytes()), indent=1))
    result = call("charter", "check", spaced, "--json")
    assert result.exit_code == 0 and document(result)["digest"] != _digest(draft)


def test_diff_shows_each_changed_field(signed: Path, draft: Path) -> None:
    amended = draft.parent / "amended.yaml"
    text = draft.read_text().replace("norm_bound: 100.0", "norm_bound: 50.0").replace("weight: 1.0", "weight: 2.0", 1)
    amended.write_text(text)
    result = call("charter", "diff", signed, amended)
    assert result.exit_code == 1
    assert "limits.norm_bound: 100.0 -> 50.0" in result.stdout and "members.site-1.weight: 1.0 -> 2.0" in result.stdout
    assert len(document(call("charter", "diff", signed, amended, "--json"))["changes"]) == 2
    same = call("charter", "diff", signed, draft)
    assert same.exit_code == 0 and same.stdout == "the same charter\n"
