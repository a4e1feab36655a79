"""`counterseal policy`: check, explain, default."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import Result

from counterseal.tests.runtime.cli_world import call, document
from counterseal.trust.policy.policy import SitePolicy, default_text

CARELESS = '@id("all") permit (principal, action, resource);'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return _write(tmp_path, default_text().decode())


def _write(folder: Path, text: str) -> Path:
    path = folder / "site.cedar"
    path.write_text(text)
    path.chmod(0o644)
    return path


def _explain(file: Path, *options: object) -> Result:
    result = call("policy", "explain", file, *options)
    assert result.exit_code == 0, result.output
    return result


def test_default_prints_a_policy_that_checks(tmp_path: Path) -> None:
    printed = call("policy", "default")
    assert printed.exit_code == 0 and printed.stdout.encode() == default_text()
    result = call("policy", "check", _write(tmp_path, printed.stdout))
    assert result.exit_code == 0 and SitePolicy.default().digest in result.stdout and "warning" not in result.stdout


def test_check_as_json(file: Path) -> None:
    found = document(call("policy", "check", file, "--json"))
    assert found["digest"] == SitePolicy.default().digest and found["warnings"] == []
    assert found["policies"][0]["id"] == "private-training" and found["policies"][0]["actions"] == ["train"]
    lines = default_text().decode().splitlines()
    for row in found["policies"]:
        assert lines[row["line"] - 1] == f'@id("{row["id"]}")'


def test_check_warns_and_passes(tmp_path: Path) -> None:
    result = call("policy", "check", _write(tmp_path, CARELESS))
    assert result.exit_code == 0 and "warning: line 1, all: permits training without asking" in result.stdout
    found = document(call("policy", "check", tmp_path / "site.cedar", "--json"))
    assert [row["policy"] for row in found["warnings"]] == ["all", "all"]


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("permit (principal, action, resource);", "a policy without a name", 1),
        (f'{CARELESS}\n@id("x") permit (principal, action, resource) when {{ context.anchor }};', "anchor", 2),
        (f"{CARELESS}\n\nnonsense", "unexpected", 3),
    ],
)
def test_check_refuses_with_the_line(tmp_path: Path, text: str, what: str, line: int) -> None:
    result = call("policy", "check", _write(tmp_path, text), "--json")
    assert result.exit_code == 1
    error = document(result)["error"]
    assert error["code"] == "site_policy" and what in error["what"] and error["where"] == f"site.cedar:{line}"


def test_a_file_that_others_can_write_is_refused(file: Path) -> None:
    file.chmod(0o666)
    for command in ("check", "explain"):
        result = call("policy", command, file)
        assert result.exit_code == 1 and f"chmod 644 {file}" in result.stderr


def test_a_missing_file_is_the_environments_fault(tmp_path: Path) -> None:
    assert call("policy", "check", tmp_path / "none.cedar").exit_code == 3


def test_without_cedarpy_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    result = call("policy", "check", file)
    assert result.exit_code == 3 and "counterseal[policy]" in result.stderr


@pytest.mark.parametrize(
    ("options", "answer", "by", "would"),
    [
        ([], True, ["private-training"], []),
        (["--epsilon", 8], True, ["private-training"], []),
        (["--epsilon", 9.5], False, [], ["epsilon_run were at most 8.0"]),
        (["--mechanism", "none", "--unprotected"], True, ["unprotected-training"], []),
        (["--mechanism", "none"], False, ["no-unprotected-training"], ["unprotected_allowed were true"]),
        (["--mechanism", "output-laplace"], True, ["private-training"], []),
        (["--action", "releaseMetrics"], False, ["no-private-metrics"], ["public were true"]),
        (["--action", "releaseMetrics", "--public"], True, ["metrics-that-say-nothing-new"], []),
        (["--delta", 0.001], False, [], ["delta were 1e-05"]),
        (["--unit", "patient"], False, [], ["the data's unit were 'record'"]),
        (
            ["--server-validates-updates"],
            False,
            ["no-validation-of-single-updates"],
            ["server_validates_updates were false"],
        ),
        (
            ["--epsilon-after", 9, "--epsilon-cap", 8],
            False,
            ["builtin:epsilon-cap"],
            ["epsilon_after were at most 8.0"],
        ),
        (["--epsilon-after", 9], False, [], []),
        (["--epsilon", "inf"], False, [], ["epsilon_run were lower"]),
    ],
)
def test_explain(file: Path, options: list[object], answer: bool, by: list[str], would: list[str]) -> None:
    found = document(_explain(file, *options, "--json"))
    assert found["allowed"] is answer and [row["id"] for row in found["policies"]] == by
    assert set(would) <= set(found["would_be_allowed_if"])
    if answer:
        assert not found["would_be_allowed_if"] and not found["errors"]
    told = _explain(file, *options).stdout
    assert told.startswith("ALLOWED: " if answer else "DENIED: ")
    assert all(name in told for name in by)


def test_explain_tells_advice_and_errors(file: Path, tmp_path: Path) -> None:
    told = _explain(file, "--epsilon", 9.5).stdout
    assert "not permitted by private-training (permit, line 21)" in told and "Ask for a run whose" in told
    overflow = "context.version - 9007199254740992 * 1024 == 0"
    failing = f'{CARELESS}\n@id("f") forbid (principal, action, resource) when {{ {overflow} }};'
    (tmp_path / "other").mkdir()
    told = _explain(_write(tmp_path / "other", failing)).stdout
    assert told.startswith("DENIED") and "an error, which denies" in told


def test_explain_a_request_file(file: Path, tmp_path: Path) -> None:
    example = document(_explain(file, "--json"))["request"]
    request = tmp_path / "request.json"
    request.write_text(json.dumps({**example, "epsilon_run": 20.0, "server": '\u00e4 "quoted"'}))
    found = document(_explain(file, "--request", request, "--json"))
    assert not found["allowed"] and found["request"]["server"] == '\u00e4 "quoted"'
    assert document(_explain(file, "--request", request, "--epsilon", 2, "--json"))["allowed"]
    request.write_text(json.dumps({**example, "bogus": 1}))
    refused = call("policy", "explain", file, "--request", request)
    assert refused.exit_code == 1 and "bogus" in refused.stderr


def test_wrong_options_are_usage_errors(file: Path) -> None:
    for options in (
        ["--mechanism", "none", "--epsilon", "3"],
        ["--mechanism", "magic"],
        ["--delta", "0.5"],
        ["--releases", "0"],
        ["--epsilon", "nan"],
        ["--action", "steal"],
    ):
        assert call("policy", "explain", file, *options).exit_code == 2, options


def test_nothing_heavy_is_loaded_and_cedar_only_when_asked(file: Path) -> None:
    code = (
        "import sys, counterseal.trust.policy.policy, counterseal.trust.policy.nearby\n"
        "assert 'cedarpy' not in sys.modules\n"
        "from counterseal.runtime.cli.application import app\n"
        f"app(['policy', 'check', {str(file)!r}], standalone_mode=False)\n"
        "assert 'cedarpy' in sys.modules\n"
        "assert not {'torch', 'boto3', 'numpy', 'opacus'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
