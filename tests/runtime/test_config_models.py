"""Runs are canonical, small and the same for everybody; the published schemas agree with the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from counterseal.runtime.config import (
    AggregationConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ServerConfig,
    TrainerConfig,
    json_schema,
)
from counterseal.runtime.errors import ConfigError
from counterseal.trust.canonical import canonical, parse
from counterseal.trust.errors import MalformedError

DOCS = Path(__file__).parents[2] / "docs"


def make(**changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "name": "digits",
        "seed": 7,
        "rounds": 3,
        "model": ModelConfig(name="logistic", parameters={"inputs": 64, "classes": 10}),
        "trainer": TrainerConfig(epochs=1),
        "aggregation": AggregationConfig(clip_norm=1.0),
        "minimum_sites": 2,
    }
    return RunConfig(**(values | changes))


numbers = st.floats(min_value=1e-6, max_value=1e6, allow_nan=False)


@given(seed=st.integers(0, 2**53 - 1), lr=numbers, clip=numbers, epochs=st.integers(1, 10**9))
@settings(max_examples=100, deadline=None)
def test_a_run_survives_the_signed_event(seed: int, lr: float, clip: float, epochs: int) -> None:
    trainer = TrainerConfig(
        epochs=epochs, optimizer=OptimizerConfig(name="adam", parameters={"lr": lr, "betas": [0.9, 1]})
    )
    run = make(seed=seed, trainer=trainer, aggregation=AggregationConfig(clip_norm=clip))
    again = RunConfig.from_json(parse(canonical(run.model_dump(mode="json"))), what="run")
    assert again == run
    assert again.digest == run.digest
    assert again.payload() == run.payload()


def test_the_digest_follows_every_field() -> None:
    digests = {make().digest}
    for change in ({"seed": 8}, {"rounds": 4}, {"minimum_sites": 3}, {"retries": 0}, {"round_seconds": 5}):
        digests.add(make(**change).digest)
    assert len(digests) == 6


def test_a_run_fits_a_leaf() -> None:
    with pytest.raises(ValidationError, match="32768 bytes"):
        make(model=ModelConfig(name="mlp", parameters={"hidden": "x" * 33_000}))


def test_a_run_holds_no_path() -> None:
    """A path in the signed run would tell everybody how one party's disk is arranged, and change the digest."""
    assert "format" not in json.dumps(json_schema("run"))
    assert "ConfigPath" not in json.dumps(json_schema("run"))


def test_runs_from_the_wire_are_strict() -> None:
    value = json.loads(make().payload())
    for change in ({"seed": "7"}, {"seed": 7.5}, {"extra": 1}, {"rounds": True}, {"minimum_sites": None}):
        with pytest.raises(MalformedError):
            RunConfig.from_json(value | change, what="run")


def test_a_server_config_that_was_not_loaded_has_no_run() -> None:
    server = ServerConfig.model_validate_json(
        json.dumps(
            {
                "identity": "coordinator",
                "charter": "c",
                "keys": "k",
                "passphrase": {"file": "p"},
                "state": "s",
                "log": "l",
                "store": {"kind": "directory", "path": "o"},
                "transport": {"kind": "local", "sites": {"hospital": "a.yaml"}},
                "run": "run.yaml",
            }
        )
    )
    with pytest.raises(ConfigError, match="load_server"):
        _ = server.run_config


@pytest.mark.parametrize("which", ["run", "site", "server"])
def test_schemas_are_valid_and_closed(which: Any) -> None:
    schema = json_schema(which)
    jsonschema.Draft202012Validator.check_schema(schema)
    objects = [schema, *schema["$defs"].values()]
    assert all(one["additionalProperties"] is False for one in objects if "properties" in one)
    undescribed = [
        f"{one['title']}.{name}"
        for one in objects
        for name, field in one.get("properties", {}).items()
        if "description" not in field and "const" not in field and "$ref" not in field
    ]
    assert undescribed in ([], ["DirectoryStoreConfig.path"])


def test_there_is_no_other_schema() -> None:
    with pytest.raises(ConfigError, match="Known: run, site, server"):
        json_schema("charter")  # type: ignore[arg-type]


def examples() -> list[tuple[str, str]]:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    found = []
    for block in text.split("```yaml\n")[1:]:
        body = block.split("```")[0]
        found.append((body.splitlines()[0].removeprefix("# ").removesuffix(".yaml"), body))
    return found


def test_the_manual_has_all_three() -> None:
    assert sorted(name for name, _ in examples()) == ["run", "server", "site"]


@pytest.mark.parametrize("which", ["run", "site", "server"])
def test_the_manuals_examples_hold(which: Any, tmp_path: Path) -> None:
    """The examples fit the published schema (an independent validator) and load."""
    from counterseal.runtime import config

    for name, body in examples():
        (tmp_path / f"{name}.yaml").write_text(body, encoding="utf-8")
    value = yaml.safe_load(dict(examples())[which])
    jsonschema.Draft202012Validator(json_schema(which)).validate(value)
    getattr(config, f"load_{which}")(tmp_path / f"{which}.yaml")


@pytest.mark.parametrize("which", ["run", "site", "server"])
def test_the_manual_names_every_field(which: Any) -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for one in [json_schema(which), *json_schema(which)["$defs"].values()]:
        for name in one.get("properties", {}):
            assert f"`{name}`" in text, f"{one['title']}.{name}"
