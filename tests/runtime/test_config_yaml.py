"""Every mistake in a configuration file is answered with its file, its line, its field, and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.errors import CountersealError
from counterseal.runtime.config import ConfigProblems, LocalTransportConfig, RunConfig, load_run, load_server, load_site
from counterseal.runtime.config.document import read_model
from counterseal.runtime.errors import ConfigError

RUN = """\
name: digits
seed: 7
rounds: 3
model:
  name: mlp
  parameters: {inputs: 64, classes: 10, hidden: [32]}
trainer:
  epochs: 2
  optimizer: {name: sgd, parameters: {lr: 1e-1}}
  metrics:
    - name: accuracy
    - {name: macro-f1}
aggregation:
  clip_norm: 1
minimum_sites: 2
"""

SITE = """\
identity: hospital-a
charter: charter.json
keys: keys
passphrase:
  environment: SITE_A
state: state
store: {kind: directory, path: ../store}
loader:
  entry_point: arrays
  folder: data
"""

SERVER = """\
identity: coordinator
charter: charter.json
keys: keys
passphrase: {command: [pass, show, coordinator]}
state: state
log: log
store:
  kind: s3
  bucket: federation
  endpoint_url: http://127.0.0.1:8333
  insecure_loopback: true
transport:
  kind: local
  sites:
    hospital-a: a/site.yaml
    no: /srv/b.yaml
run: run.yaml
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_run_is_read(tmp_path: Path) -> None:
    run = load_run(write(tmp_path, "run.yaml", RUN))
    assert run.trainer.optimizer.parameters == {"lr": 0.1}  # YAML 1.1 would have read text
    assert [metric.name for metric in run.trainer.metrics] == ["accuracy", "macro-f1"]
    assert run.aggregation.rule == "norm-clipped-fedavg"


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    write(folder, "site.yaml", SITE)
    monkeypatch.chdir(tmp_path)
    site = load_site(Path("a/site.yaml"))
    assert site.loader.arguments() == {"folder": str(folder / "data")}
    assert site.keys == folder / "keys"
    assert site.store.kind == "directory"
    assert site.store.path == folder / "../store"


def test_a_server_reads_its_run(tmp_path: Path) -> None:
    write(tmp_path, "run.yaml", RUN)
    server = load_server(write(tmp_path, "server.yaml", SERVER))
    assert server.run_config == load_run(tmp_path / "run.yaml")
    assert isinstance(server.transport, LocalTransportConfig)
    assert server.transport.sites["no"] == Path("/srv/b.yaml")  # a site called no is not a site called false
    assert server.passphrase.source().command == ("pass", "show", "coordinator")


def test_a_server_may_write_its_run_inline(tmp_path: Path) -> None:
    inline = "run:\n" + "".join(f"  {line}\n" for line in RUN.splitlines())
    server = load_server(write(tmp_path, "server.yaml", SERVER.replace("run: run.yaml\n", inline)))
    assert server.run_config == load_run(write(tmp_path, "run.yaml", RUN))


MISTAKES: list[tuple[str, str, str, int, str, str]] = [
    # (what is replaced, by what, in which file, line, field, words of the answer)
    ("rounds: 3", "round: 3", RUN, 3, "round", "did you mean rounds?"),
    ("rounds: 3", "round: 3", RUN, 1, "rounds", "is required"),
    ("rounds: 3", "rounds: three", RUN, 3, "rounds", "must be a valid integer"),
    ("rounds: 3", "rounds: 0", RUN, 3, "rounds", "greater than or equal to 1"),
    ("rounds: 3", "rounds: true", RUN, 3, "rounds", "must be a valid integer"),
    ("rounds: 3", "rounds: 3.5", RUN, 3, "rounds", "must be a valid integer"),
    ("seed: 7", "seed: -7", RUN, 2, "seed", "greater than or equal to 0"),
    ("seed: 7", "seed: 123456789012345678901", RUN, 2, "seed", "out of range"),
    ("seed: 7", "seed: 1e999", RUN, 2, "seed", "out of range"),
    ("name: digits", "name: Digits!", RUN, 1, "name", "match pattern"),
    ("name: digits", "name: 2026", RUN, 1, "name", "write it in quotes"),
    ("  epochs: 2", "  epochs: 2\n  steps: 4", RUN, 7, "trainer", "exactly one of epochs, steps"),
    ("  epochs: 2", "  epoch: 2", RUN, 8, "trainer.epoch", "did you mean epochs?"),
    ("  epochs: 2", "  epochs: 2\n  device: gpu", RUN, 9, "trainer.device", "match pattern"),
    ("name: macro-f1", "nam: macro-f1", RUN, 12, "trainer.metrics[1].nam", "did you mean name?"),
    ("name: macro-f1", "name: accuracy", RUN, 7, "trainer", "named twice"),
    ("{lr: 1e-1}", "[lr]", RUN, 9, "trainer.optimizer.parameters", "must be an object"),
    ("{lr: 1e-1}", "{lr: 1, lr: 2}", RUN, 9, "trainer.optimizer.parameters.lr", "stands twice"),
    ("minimum_sites: 2", "minimum_sites: 2\nseed: 8", RUN, 16, "seed", "stands twice"),
    ("name: digits", "name: &n digits\nnom: *n", RUN, 2, "", "aliases are not allowed"),
    ("name: digits", "name: !!python/name:os.system digits", RUN, 1, "name", "tags"),
    ("{lr: 1e-1}", "!!set {lr}", RUN, 9, "trainer.optimizer.parameters", "tags"),
    ("{lr: 1e-1}", "{[1]: 2}", RUN, 9, "trainer.optimizer.parameters", "plain text"),
    ("rounds: 3", "rounds: 3\n---\nrounds: 4", RUN, 4, "", "expected a single document"),
    ("rounds: 3", "rounds: {3", RUN, 4, "", "expected ',' or '}'"),
    ("rounds: 3", "rounds: " + "[" * 40 + "]" * 40, RUN, 3, "", "nested deeper"),
    ("rounds: 3", "rounds: \x07", RUN, 1, "", "character that YAML does not allow"),
    ("clip_norm: 1", "clip_norm: 0", RUN, 14, "aggregation.clip_norm", "greater than 0"),
    ("clip_norm: 1", "clip_norm: .inf", RUN, 14, "aggregation.clip_norm", "valid number"),
    ("minimum_sites: 2", "minimum_sites: 2\nevaluation: {sites: yes}", RUN, 16, "evaluation.sites", "valid boolean"),
    ("kind: directory", "kind: disk", SITE, 7, "store.kind", "'directory', 's3'"),
    ("kind: directory, ", "", SITE, 7, "store.kind", "is required"),
    ("path: ../store", "pathe: ../store", SITE, 7, "store.pathe", "did you mean path?"),
    ("environment: SITE_A", "environment: SITE_A\n  file: pw", SITE, 4, "passphrase", "exactly one of"),
    ("environment: SITE_A", "environment: 'A B'", SITE, 5, "passphrase.environment", "match pattern"),
    ("  entry_point: arrays", "  file: load.py", SITE, 8, "loader", "needs sha256"),
    ("  entry_point: arrays", "  file: load.py\n  sha256: XYZ", SITE, 10, "loader.sha256", "match pattern"),
    ("  entry_point: arrays", "  entry_point: arrays\n  file: load.py", SITE, 8, "loader", "exactly one of"),
    ("  folder: data", "  folder: ''", SITE, 10, "loader.folder", "must name a file or folder"),
    (
        "state: state",
        "plugins: [{kind: optimiser, name: x, entry_point: x}]",
        SITE,
        6,
        "plugins[0].kind",
        "'model', 'loss'",
    ),
    ("http://127", "http://10", SERVER, 7, "store", "endpoint_url must be https"),
    ("  insecure_loopback: true\n", "", SERVER, 7, "store", "endpoint_url must be https"),
    ("http://127", "https://user:secret@127", SERVER, 7, "store", "without user, password"),
    ("run: run.yaml", "run: {name: x, sed: 3}", SERVER, 17, "run.sed", "did you mean seed?"),
    ("run: run.yaml", "run: 3", SERVER, 17, "run", "object"),
    ("    no: /srv/b.yaml", "    'a b': /srv/b.yaml", SERVER, 16, "transport.sites.a b", "match pattern"),
]


@pytest.mark.parametrize(("old", "new", "text", "line", "field", "words"), MISTAKES)
def test_mistakes_name_their_line(
    tmp_path: Path, old: str, new: str, text: str, line: int, field: str, words: str
) -> None:
    assert old in text
    path = write(tmp_path, "x.yaml", text.replace(old, new, 1))
    load = {RUN: load_run, SITE: load_site, SERVER: load_server}[text]
    with pytest.raises(ConfigProblems) as caught:
        load(path)
    found = {(problem.line, problem.field): problem.what for problem in caught.value.problems}
    assert words in found[(line, field)]
    assert f"{path}:{line}: {field}" in str(caught.value)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = RUN.replace("rounds: 3", "rounds: 0").replace("seed: 7", "sed: 7")
    with pytest.raises(ConfigProblems) as caught:
        load_run(write(tmp_path, "run.yaml", text))
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [
        (1, "seed"),
        (2, "sed"),
        (3, "rounds"),
    ]


def test_values_are_not_echoed(tmp_path: Path) -> None:
    text = SITE.replace("environment: SITE_A", "environment: hunter2 hunter2").replace("directory", "hunter2")
    with pytest.raises(ConfigProblems) as caught:
        load_site(write(tmp_path, "site.yaml", text))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"name: \xc3"])
def test_files_must_be_utf8(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "run.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_run(tmp_path / "run.yaml")


def test_missing_and_huge_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="over 1048576 bytes"):
        load_run(write(tmp_path, "run.yaml", "#" * (1 << 20) + "\n"))
    for empty in ("", "- a\n", "word\n"):
        with pytest.raises(ConfigProblems, match="must be a map"):
            load_run(write(tmp_path, "run.yaml", empty))


def test_a_server_that_evaluates_needs_data(tmp_path: Path) -> None:
    write(tmp_path, "run.yaml", RUN + "evaluation: {server: true}\n")
    with pytest.raises(ConfigError, match="no loader is named"):
        load_server(write(tmp_path, "server.yaml", SERVER))
    load_server(write(tmp_path, "server.yaml", SERVER + "loader: {entry_point: arrays, folder: data}\n"))


@given(st.text(alphabet="ab:-{}[]&*!|>'\"#%@`,? \n\t0e.~", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_run_or_a_typed_error(text: str) -> None:
    try:
        read_model(RunConfig, text, file="x.yaml", folder=Path("/"))
    except CountersealError as error:
        assert str(error).startswith("x.yaml:")


@pytest.mark.parametrize(
    "value",
    ["!!int x", "!!float x", "!!int 5", "!!str 5", '"\\UFFFFFFFF"', '"\\U00110000"', "[!!bool maybe]", "!x {a: 1}"],
)
def test_tags_and_impossible_characters_are_refused(value: str, tmp_path: Path) -> None:
    """Each of these once escaped as an error of Python's or was taken."""
    with pytest.raises(ConfigProblems):
        load_run(write(tmp_path, "x.yaml", RUN.replace("{lr: 1e-1}", f"{{lr: {value}}}", 1)))


def test_a_version_of_many_digits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems):
        load_run(write(tmp_path, "x.yaml", f"%YAML {'9' * 5000}.1\n---\n{RUN}"))
