"""`counterseal keys`: folders, statements, rotation, revocation; and nothing secret on any stream."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from counterseal.runtime.cli.secrets import obtain
from counterseal.tests.runtime.cli_world import call, document, execute, require_clean
from counterseal.trust.keys.custody import load_folder
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.passphrase import Passphrase
from counterseal.trust.keys.statement import KeyStatement, verify_statement
from counterseal.trust.keys.validity import KeyHistory
from counterseal.trust.mailbox import keys_at, read_message

PASSPHRASE = "correct-horse-battery-staple-9d1f"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a passphrase, operator's keys and their statement, made by the commands."""
    folder = tmp_path_factory.mktemp("home")
    secret = folder / "passphrase"
    secret.write_text(PASSPHRASE + "\n")
    secret.chmod(0o600)
    assert call("keys", "new", folder / "keys", "--operator", "--passphrase-file", secret).exit_code == 0
    result = call(*_statement_arguments(folder), "--passphrase-file", secret)
    assert result.exit_code == 0, result.stderr
    return folder


def _statement_arguments(folder: Path, out: str = "mine.json", **changes: str) -> list[object]:
    values = {"federation": "ours", "identity": "server@x.example", "log-origin": "x.example/log", **changes}
    options = [word for name, value in values.items() for word in (f"--{name}", value)]
    return ["keys", "statement", folder / "keys", *options, "--out", folder / out]


def _held(home: Path) -> MemberKeys:
    return load_folder(home / "keys", Passphrase.from_file(home / "passphrase"))


def _statement(home: Path) -> KeyStatement:
    raw = (home / "mine.json").read_bytes()
    return verify_statement(raw, federation="ours", log_origin="x.example/log", now=int(time.time())).document


def _history(home: Path) -> KeyHistory:
    raw = (home / "mine.json").read_bytes()
    signed = verify_statement(raw, federation="ours", log_origin="x.example/log", now=int(time.time()))
    return KeyHistory.from_charter("ours", [signed])


def test_new_makes_private_keys_that_open(home: Path) -> None:
    assert (home / "keys").stat().st_mode & 0o777 == 0o700
    assert _held(home).checkpoint is not None


@pytest.mark.parametrize("source", ["file", "env", "command", "none"])
def test_show_gives_the_fingerprints_from_every_source(
    home: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLI_TEST_PASSPHRASE", PASSPHRASE)
    sources: dict[str, list[object]] = {
        "file": ["--passphrase-file", home / "passphrase"],
        "env": ["--passphrase-env", "CLI_TEST_PASSPHRASE"],
        "command": ["--passphrase-command", f"cat '{home / 'passphrase'}'"],
        "none": [],
    }
    result = call("keys", "show", home / "keys", *sources[source], "--json")
    assert result.exit_code == 0, result.stderr
    found = document(result)
    assert found["opened"] is (source != "none")
    assert frozenset(found["keys"].values()) == _held(home).key_ids
    assert set(found["keys"]) == {"sign", "cosign", "seal", "release", "checkpoint"}


def test_show_for_people_has_groups_of_four(home: Path) -> None:
    result = call("keys", "show", home / "keys", "--passphrase-file", home / "passphrase")
    name = _held(home).signer.public.key_id
    assert " ".join(name[i : i + 4] for i in range(0, 64, 4)) in result.stdout


@pytest.mark.parametrize("suite", ["P384", "MLKEM1024_P384"])
def test_new_takes_every_suite(tmp_path: Path, suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLI_TEST_PASSPHRASE", PASSPHRASE)
    result = call("keys", "new", tmp_path / "k", "--suite", suite, "--passphrase-env", "CLI_TEST_PASSPHRASE", "--json")
    assert result.exit_code == 0 and document(result)["suite"] == suite
    assert "checkpoint" not in document(result)["keys"]


@pytest.mark.parametrize("options", [[], ["--passphrase-env", "A", "--passphrase-file", "b"]])
def test_exactly_one_source_is_needed(tmp_path: Path, options: list[str]) -> None:
    result = call("keys", "new", tmp_path / "k", *options)
    assert result.exit_code == 2 and not (tmp_path / "k").exists()


def test_quotes_that_do_not_close_are_a_usage_error() -> None:
    import typer

    with pytest.raises(typer.BadParameter):
        obtain(None, None, "cat 'file")


def test_keys_are_never_overwritten(home: Path) -> None:
    before = sorted((home / "keys").iterdir())
    result = call("keys", "new", home / "keys", "--passphrase-file", home / "passphrase")
    assert result.exit_code == 1 and "already exists" in result.stderr
    assert sorted((home / "keys").iterdir()) == before


def test_a_wrong_passphrase_and_an_open_folder_are_refused(home: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-passphrase-77")
    wrong.chmod(0o600)
    result = call("keys", "show", home / "keys", "--passphrase-file", wrong)
    assert result.exit_code == 1 and "does not open" in result.stderr and "not-the-passphrase" not in result.output
    (home / "keys").chmod(0o750)
    try:
        result = call("keys", "show", home / "keys")
        assert result.exit_code == 1 and "chmod 700" in result.stderr
    finally:
        (home / "keys").chmod(0o700)


def test_statement_is_the_one_that_charters_take(home: Path) -> None:
    found = _statement(home)
    assert found.identity == "server@x.example" and found.key_ids == _held(home).key_ids
    assert 364 * 86_400 < found.not_after - time.time() < 366 * 86_400


@pytest.mark.parametrize(
    ("name", "value"), [("federation", "NOT ALLOWED"), ("identity", "-x"), ("log-origin", "https://x")]
)
def test_a_value_that_no_statement_takes_names_the_option(home: Path, name: str, value: str) -> None:
    result = call(*_statement_arguments(home, "other.json", **{name: value}), "--passphrase-file", home / "passphrase")
    assert result.exit_code == 2 and f"--{name}" in result.stderr
    assert not (home / "other.json").exists()


def test_a_statement_is_not_overwritten(home: Path) -> None:
    before = (home / "mine.json").read_bytes()
    result = call(*_statement_arguments(home), "--passphrase-file", home / "passphrase")
    assert result.exit_code == 1 and (home / "mine.json").read_bytes() == before


def test_rotate_makes_keys_and_a_message_that_the_history_takes(home: Path, tmp_path: Path) -> None:
    result = call(
        *("keys", "rotate", home / "keys", "--into", tmp_path / "keys-2", "--statement", home / "mine.json"),
        *("--out", tmp_path, "--name", "server", "--passphrase-file", home / "passphrase", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    history = _history(home)
    path = tmp_path / "server.rotation.counterseal.json"
    assert document(result)["file"] == str(path)
    message = read_message(path, keys_at(history, 1), federation="ours", now=int(time.time()))
    old = _held(home)
    signed = verify_statement(
        message.document.statement.encode(),
        federation="ours",
        log_origin="x.example/log",
        now=int(time.time()),
        previous_key=old.signer.public,
    )
    fresh = load_folder(tmp_path / "keys-2", Passphrase.from_file(home / "passphrase"))
    assert signed.document.serial == 2 and signed.document.key_ids == fresh.key_ids
    assert not fresh.key_ids & old.key_ids and fresh.checkpoint is not None
    assert history.rotate(signed, at=1).current("server@x.example", "sign", 2) == fresh.signer.public


def test_rotate_with_somebody_elses_statement_makes_nothing(home: Path, tmp_path: Path) -> None:
    call("keys", "new", tmp_path / "keys", "--operator", "--passphrase-file", home / "passphrase")
    call(*_statement_arguments(tmp_path, "other.json"), "--passphrase-file", home / "passphrase")
    result = call(
        *("keys", "rotate", home / "keys", "--into", tmp_path / "keys-2", "--statement", tmp_path / "other.json"),
        *("--out", tmp_path, "--passphrase-file", home / "passphrase"),
    )
    assert result.exit_code == 1 and "not of the keys" in result.stderr
    assert not (tmp_path / "keys-2").exists() and not list(tmp_path.glob("*rotation*"))


def test_revoke_ones_own_key(home: Path, tmp_path: Path) -> None:
    result = call(
        *("keys", "revoke", home / "keys", "--statement", home / "mine.json", "--use", "cosign"),
        *("--reason", "stolen", "--out", tmp_path, "--passphrase-file", home / "passphrase"),
    )
    assert result.exit_code == 0, result.stderr
    path = tmp_path / "revocation.counterseal.json"
    message = read_message(path, keys_at(_history(home), 1), federation="ours", now=int(time.time())).document
    assert (message.member, message.key) == ("server@x.example", _held(home).cosigner.public.key_id)
    assert message.reason == "stolen"


def test_vote_to_revoke_another_members_key(home: Path, tmp_path: Path) -> None:
    typed = " ".join(["AB12"] * 16)
    result = call(
        *("keys", "revoke", home / "keys", "--statement", home / "mine.json", "--member", "site-1", "--key", typed),
        *("--reason", "lost", "--out", tmp_path, "--passphrase-file", home / "passphrase", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    assert document(result)["member"] == "site-1" and document(result)["key"] == "ab12" * 16


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 2),
        (["--use", "cosign", "--member", "x", "--key", "ab12" * 16], 2),
        (["--member", "site-1"], 2),
        (["--member", "site-1", "--key", "ab12"], 1),
    ],
)
def test_revoke_says_what_is_missing(home: Path, tmp_path: Path, options: list[str], code: int) -> None:
    result = call(
        *("keys", "revoke", home / "keys", "--statement", home / "mine.json", *options, "--reason", "lost"),
        *("--out", tmp_path, "--passphrase-file", home / "passphrase"),
    )
    assert result.exit_code == code and not list(tmp_path.iterdir())


def test_no_secret_on_any_stream(home: Path, tmp_path: Path) -> None:
    keys = _held(home)
    private = keys.opening.to_private_bytes()
    needles = [PASSPHRASE, private.hex(), private.hex()[:32], "PRIVATE KEY"]
    for signer in (keys.signer, keys.cosigner, keys.release):
        number = signer.private.private_bytes_raw() if hasattr(signer.private, "private_bytes_raw") else b""  # type: ignore[attr-defined]
        needles += [number.hex()] if number else []
    runs = [
        ["keys", "show", home / "keys", "--passphrase-file", home / "passphrase"],
        ["-vv", "keys", "show", home / "keys", "--passphrase-command", f"cat {home / 'passphrase'}", "--json"],
        ["-vv", *_statement_arguments(home, "again.json"), "--passphrase-file", home / "passphrase"],
        ["-vv", "keys", "show", home / "keys", "--passphrase-command", f"echo wrong-{PASSPHRASE[:4]}-and-long"],
    ]
    for number, arguments in enumerate(runs):
        done = execute(*arguments)
        require_clean(done, 0 if number < 3 else 1)
        for needle in needles:
            assert needle not in done.stdout + done.stderr
