"""`counterseal config`, `plugin` and `blob`: small commands over files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import jsonschema
import pytest
import yaml

from counterseal.runtime.cli.config import Kind
from counterseal.tests.runtime.cli_world import call, document
from counterseal.tests.trust.blob_world import World, small_model

KINDS = [kind.value for kind in Kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_checks_as_it_is_printed(kind: str, tmp_path: Path) -> None:
    for name in KINDS:  # the server's example names run.yaml
        (tmp_path / f"{name}.yaml").write_text(call("config", "example", name).stdout)
    result = call("config", "check", tmp_path / f"{kind}.yaml", "--kind", kind, "--json")
    assert result.exit_code == 0, result.output
    assert document(result)["kind"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_takes_the_example(kind: str) -> None:
    schema = document(call("config", "schema", kind))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(call("config", "example", kind).stdout))


@pytest.mark.parametrize("kind", KINDS)
def test_check_names_the_line_of_every_problem(kind: str, tmp_path: Path) -> None:
    lines = call("config", "example", kind).stdout.splitlines()
    broken = tmp_path / "broken.yaml"
    broken.write_text("\n".join([*lines, "surprise: 1", "another: 2"]) + "\n")
    result = call("config", "check", broken, "--kind", kind)
    assert result.exit_code == 1 and result.stdout == ""
    for number, name in ((len(lines) + 1, "surprise"), (len(lines) + 2, "another")):
        assert f"broken.yaml:{number}: {name}" in result.stderr


def test_check_says_the_same_as_json(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: x\n")
    result = call("config", "check", tmp_path / "run.yaml", "--kind", "run", "--json")
    assert result.exit_code == 1 and document(result)["error"]["code"] == "config"
    assert "run.yaml:1: seed: is required" in document(result)["error"]["what"]


def test_a_configuration_for_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(call("config", "example", "run").stdout)
    assert call("config", "check", tmp_path / "run.yaml", "--kind", "site").exit_code == 1


def test_values_are_not_repeated_in_problems(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("identity: hunter2-should-not-show !!\npassphrase: hunter2-should-not-show\n")
    result = call("config", "check", tmp_path / "site.yaml", "--kind", "site")
    assert result.exit_code == 1 and "hunter2" not in result.output


def test_plugin_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text("def load(parameters): ...\n")
    result = call("plugin", "digest", tmp_path / "loader.py", "--json")
    assert document(result)["sha256"] == hashlib.sha256((tmp_path / "loader.py").read_bytes()).hexdigest()


def test_plugin_digest_of_a_distribution() -> None:
    from counterseal.runtime.training.plugins import distribution_digest

    result = call("plugin", "digest", "--distribution", "rfc8785", "--json")
    assert document(result)["sha256"] == distribution_digest("rfc8785")
    assert call("plugin", "digest", "--distribution", "no-such-distribution").exit_code == 1


def test_plugin_digest_of_nothing_there(tmp_path: Path) -> None:
    result = call("plugin", "digest", tmp_path / "missing.py")
    assert result.exit_code == 1 and "cannot be read" in result.stderr


def test_inspect_explains_a_manifest_and_a_payload(tmp_path: Path) -> None:
    sealed = World().seal(small_model(), tmp_path / "payload")
    (tmp_path / "manifest.json").write_bytes(sealed.manifest.raw)
    manifest = call("blob", "inspect", tmp_path / "manifest.json")
    assert manifest.exit_code == 0 and "Nothing below is verified" in manifest.stdout
    assert "alice@site-a.example" in manifest.stdout and "run run-1, version 4" in manifest.stdout
    payload = call("blob", "inspect", tmp_path / "payload", "--json")
    assert payload.exit_code == 0 and document(payload) == {**document(payload), "readable": True, "verified": False}


@pytest.mark.parametrize("data", [b"", b"{", b"\x1b[31mred", b"{}" * 1000, b"\x28" + bytes(10)])
def test_inspect_says_what_is_no_blob(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    result = call("blob", "inspect", tmp_path / "x")
    assert result.exit_code == 1 and result.stdout.startswith("NOT A ") and "\x1b" not in result.stdout
