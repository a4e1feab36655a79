"""The root command: help, exit codes, errors, what is loaded, what is never shown."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from counterseal.errors import CountersealError
from counterseal.runtime.cli import output
from counterseal.runtime.cli.application import app
from counterseal.runtime.errors import JournalError, StoreUnavailableError
from counterseal.tests.runtime.cli_world import call, document, execute, require_clean

URL = "https://s3.example/bucket/key?X-Amz-Signature=0123456789abcdef&X-Amz-Credential=AKIA"


def _commands() -> dict[str, str]:
    """Every command by its words, with its help."""
    root = typer.main.get_command(app)
    context = typer.Context(root)
    found: dict[str, str] = {}
    for group in root.list_commands(context):  # type: ignore[attr-defined]
        command = root.get_command(context, group)  # type: ignore[attr-defined]
        if group == "demo":
            continue  # its own tests
        if not hasattr(command, "list_commands"):
            found[group] = command.help or ""
            continue
        for name in command.list_commands(context):
            found[f"{group} {name}"] = command.get_command(context, name).help or ""
    return found


def test_every_command_has_help_with_an_example() -> None:
    commands = _commands()
    wanted = {
        "keys": {"new", "show", "statement", "rotate", "revoke"},
        "charter": {"new", "check", "sign", "assemble", "verify", "diff"},
        "server": {"run", "resume", "status", "admit"},
        "site": {"run", "doctor", "enrol"},
        "audit": {"verify", "show", "proof"},
        "blob": {"inspect"},
        "config": {"schema", "check", "example"},
        "plugin": {"digest"},
        "policy": {"check", "default", "explain"},
    }
    assert {f"{group} {name}" for group, names in wanted.items() for name in names} <= set(commands)
    for words, text in commands.items():
        assert f"Example: counterseal {words}" in text, words


def test_the_manual_names_every_command_and_exit_code() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for words in _commands():
        assert f"`counterseal {words}" in manual, words
    for code in (0, 1, 2, 3, 130):
        assert f"\n| {code} |" in manual


@pytest.mark.parametrize("words", sorted(_commands()))
def test_help_of_every_command_works(words: str) -> None:
    result = call(*words.split(), "--help")
    assert result.exit_code == 0 and f"counterseal {words}" in result.stdout


def test_version() -> None:
    from counterseal import __version__

    assert call("--version").stdout == f"counterseal {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["audit", "nonsense"],
        ["audit", "verify"],
        ["site", "run"],
        ["audit", "proof", "somewhere", "--index", "-1"],
        ["config", "schema", "nonsense"],
        ["keys", "new", "somewhere", "--suite", "RSA"],
        ["plugin", "digest"],
    ],
)
def test_a_wrong_command_line_is_code_2(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr


def test_the_root_commands_are_light() -> None:
    code = (
        "import sys, counterseal, counterseal.runtime.cli as cli\n"
        "sys.argv = ['counterseal', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'boto3', 'botocore', 'numpy', 'globus_sdk', 'cryptography', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "audit" in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, counterseal; print(sorted({'torch','boto3','numpy','pydantic','cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_users_mistake_as_a_process(tmp_path: Path) -> None:
    done = execute("audit", "verify", tmp_path / "nowhere")
    require_clean(done, 1)
    assert done.stdout == "" and "no log here" in done.stderr and "mend:" in done.stderr


def test_with_json_an_error_is_the_document_too(tmp_path: Path) -> None:
    done = execute("audit", "verify", tmp_path / "nowhere", "--json")
    require_clean(done, 1)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "checkpoint" and error["what"] == "no log here" and error["mend"]


def test_what_the_system_refuses_is_code_3(tmp_path: Path) -> None:
    done = execute("blob", "inspect", tmp_path / "missing")
    require_clean(done, 3)
    assert "No such file" in done.stderr and str(tmp_path / "missing") in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CountersealError("x"), 1),
        (JournalError("x"), 3),
        (StoreUnavailableError("x"), 3),
    ],
)
def test_exit_codes_of_errors(error: CountersealError, code: int) -> None:
    assert output.exit_code(error) == code


def test_a_missing_extra_names_it() -> None:
    found = output.system_error(ModuleNotFoundError("No module", name="torch.nn"))
    assert found is not None and "counterseal[torch]" in found.remedy
    # A module of ours that is missing is a bug, which is not hidden.
    assert output.system_error(ModuleNotFoundError("No module", name="counterseal.nothing")) is None


def test_a_taken_name_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "charter.yaml").write_text("mine")
    result = call("charter", "new", tmp_path / "charter.yaml")
    assert result.exit_code == 1 and f"where: {tmp_path / 'charter.yaml'}" in result.stderr
    assert (tmp_path / "charter.yaml").read_text() == "mine"


def test_errors_show_no_signatures_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_error(
        CountersealError(f"refused {URL}\x1b[2J", where=f"\u202e{URL}", remedy="\x07[bold]x"), as_json=True
    )
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert "0123456789abcdef" not in text and "AKIA" not in text
        assert "\x1b[2J" not in text and "\u202e" not in text and "\x07" not in text
    assert "[bold]x" in shown.err  # no markup is read
    assert json.loads(shown.out)["error"]["where"].endswith("?...")


@pytest.mark.parametrize(("verbose", "shown"), [(0, {"w"}), (1, {"w", "i"}), (2, {"w", "i", "d"})])
def test_verbose_shows_our_logging_without_secrets(
    verbose: int, shown: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger("counterseal").handlers[:]
    undo = output.show_logging(verbose)
    try:
        logger = logging.getLogger("counterseal.runtime.test")
        logger.warning("mark-w %s", URL)
        logger.info("mark-i %s", URL)
        logger.debug("mark-d %s", URL)
        logging.getLogger("botocore.auth").debug("mark-foreign %s", URL)
    finally:
        undo()
    text = capsys.readouterr().err
    assert {mark for mark in "wid" if f"mark-{mark}" in text} == shown
    assert "Signature=" not in text and "mark-foreign" not in text
    assert logging.getLogger("counterseal").handlers == before


def test_plain_neutralises_every_format_character() -> None:
    text = "a\x00\x1b\x9b\u200f\u202e\u2066\ue000\nb"
    assert all(character.isascii() and character.isprintable() for character in output.plain(text))
    assert output.plain("Zürich – 東京") == "Zürich – 東京"


def test_json_never_holds_what_json_lacks() -> None:
    value = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (1, -float("inf"))}}
    assert output.jsonable(value) == {"a": None, "b": [None, 1.5], "c": {"d": [1, None]}}


def test_a_running_group_command_needs_its_json_only(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"{}")
    result = call("blob", "inspect", tmp_path / "x", "--json")
    assert result.exit_code == 1 and document(result)["readable"] is False
