"""A site runs the bytes that its officer approved, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import itertools
import os
import py_compile
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from counterseal.runtime.config import LoaderConfig, RunConfig
from counterseal.runtime.config.document import read_model
from counterseal.runtime.config.site import ServerConfig, SiteConfig
from counterseal.runtime.errors import PluginError, TrainingFailedError
from counterseal.runtime.training import approved
from counterseal.runtime.training.arrays import write_arrays
from counterseal.runtime.training.party import server_trainer, site_trainers
from counterseal.runtime.training.plugins import distribution_digest, file_digest, load_data, load_plugin
from counterseal.runtime.training.registry import Registry
from counterseal.runtime.training.seam import Arrays

LOADER = """\
from dataclasses import dataclass
import numpy as np
from counterseal.runtime.training.seam import Arrays, SiteData

@dataclass
class Rows:
    n: int

def load(parameters):
    rows = Rows(parameters["rows"])
    x = np.full((rows.n, 2), 1.5, np.float32)
    return SiteData(Arrays(x, np.zeros(rows.n, np.int64)))

def other(parameters):
    return 4711

def broken(parameters):
    raise KeyError("patient 4711")

value = 3
"""


def file_loader(folder: Path, text: str = LOADER, **more: Any) -> LoaderConfig:
    path = folder / "loader.py"
    path.write_text(text, encoding="utf-8")
    values: dict[str, Any] = {"file": path, "sha256": file_digest(path), "parameters": {"rows": 3}}
    return LoaderConfig(**(values | more))


def test_an_approved_file_loads(tmp_path: Path) -> None:
    data = load_data(file_loader(tmp_path))
    assert data.train.x.shape == (3, 2)
    assert not list(tmp_path.rglob("*.pyc"))  # nothing is left that a later import could pick up


@pytest.mark.parametrize("position", [0, len(LOADER) // 2, len(LOADER) - 1])
def test_one_changed_byte_is_refused_before_it_runs(tmp_path: Path, position: int) -> None:
    config = file_loader(tmp_path, "print('x')\n" + LOADER)
    assert config.file is not None
    data = bytearray(config.file.read_bytes())
    data[position] ^= 1
    config.file.write_bytes(data)
    with pytest.raises(PluginError, match="was approved"):
        load_data(config)


def test_planted_byte_code_is_not_run(tmp_path: Path) -> None:
    """A .pyc beside the file, made to look fresh: Python's own import would run it."""
    config = file_loader(tmp_path)
    path = tmp_path / "loader.py"
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('planted')", encoding="utf-8")
    cache = Path(importlib.util.cache_from_source(str(path)))
    py_compile.compile(str(evil), cfile=str(cache), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    spec = importlib.util.spec_from_file_location("planted", path)
    assert spec is not None and spec.loader is not None
    with pytest.raises(SystemExit):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))  # the attack works on the plain import
    assert len(load_data(config).train) == 3


BAD_FILES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"attribute": "missing"}, PluginError, "no 'missing'"),
    ({"attribute": "value"}, PluginError, "cannot be called"),
    ({"attribute": "other"}, TrainingFailedError, "did not return a SiteData"),
    ({"attribute": "broken"}, TrainingFailedError, "the data loader failed (KeyError)"),
    ({"sha256": "0" * 64}, PluginError, "0000000000000000... was approved"),
    ({"file": Path("/nowhere/loader.py")}, PluginError, "cannot be read"),
]


@pytest.mark.parametrize(("more", "error", "words"), BAD_FILES)
def test_bad_loaders(tmp_path: Path, more: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        load_data(file_loader(tmp_path, **more))
    assert words in str(caught.value)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("text", ["def load(:", "import counterseal_nothing", "1 / 0"])
def test_a_file_that_does_not_import(tmp_path: Path, text: str) -> None:
    before = set(sys.modules)
    with pytest.raises(PluginError, match="does not import"):
        load_data(file_loader(tmp_path, text))
    assert not {name for name in set(sys.modules) - before if name.startswith("counterseal_plugin")}


COUNT = itertools.count()


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """An installed wheel of our own making: package, metadata, entry points, RECORD."""
    name = f"cs_plugin_{os.getpid()}_{next(COUNT)}"
    root = tmp_path / "site-packages"
    files = {
        f"{name}/__init__.py": "",
        f"{name}/data.py": "from .rows import load\n",
        f"{name}/rows.py": LOADER,
        f"{name}/table.csv": "1,2\n",
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/entry_points.txt": (
            f"[counterseal.loaders]\n{name} = {name}.data:load\n[counterseal.metrics]\n{name} = {name}.rows:other\n"
        ),
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    record(root, name)
    monkeypatch.syspath_prepend(str(root))
    yield name, root
    finder = approved._APPROVED.pop(name, None)
    if finder is not None:
        sys.meta_path.remove(finder)
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


def record(root: Path, name: str) -> None:
    lines = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name != "RECORD":
            digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
            lines.append(f"{path.relative_to(root).as_posix()},sha256={digest},{path.stat().st_size}\n")
    lines.append(f"{name}-1.0.dist-info/RECORD,,\n")
    (root / f"{name}-1.0.dist-info/RECORD").write_text("".join(lines), encoding="utf-8")


def loader_of(name: str, sha256: str | None) -> LoaderConfig:
    return LoaderConfig(entry_point=name, sha256=sha256, parameters={"rows": 2})


def test_an_approved_distribution_loads_from_memory(distribution: tuple[str, Path]) -> None:
    name, root = distribution
    config = loader_of(name, distribution_digest(name))
    assert len(load_data(config).train) == 2
    assert type(sys.modules[f"{name}.rows"].__loader__).__name__ == "_ApprovedBytes"
    (root / name / "rows.py").write_text("raise SystemExit", encoding="utf-8")
    assert len(load_data(config).train) == 2  # what runs is what was hashed
    with pytest.raises(PluginError, match="in use"):
        load_data(loader_of(name, "0" * 64))


def test_the_digest_is_what_the_page_says(distribution: tuple[str, Path]) -> None:
    name, root = distribution
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(root).as_posix()}\n"
        for path in root.rglob("*")
        if path.is_file() and path.name != "RECORD"
    ]
    expected = hashlib.sha256("".join(sorted(lines, key=lambda line: line[65:])).encode()).hexdigest()
    assert distribution_digest(name) == expected


@pytest.mark.parametrize(
    "path", ["__init__.py", "data.py", "rows.py", "table.csv", "../{}-1.0.dist-info/entry_points.txt"]
)
def test_any_changed_file_is_refused_before_import(distribution: tuple[str, Path], path: str) -> None:
    name, root = distribution
    config = loader_of(name, distribution_digest(name))
    target = root / name / path.format(name)
    target.write_text(target.read_text() + "\n", encoding="utf-8")
    with pytest.raises(PluginError, match="was approved"):
        load_data(config)
    assert name not in sys.modules


def test_planted_byte_code_of_a_distribution_is_not_run(distribution: tuple[str, Path], tmp_path: Path) -> None:
    name, root = distribution
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('planted')", encoding="utf-8")
    cache = Path(importlib.util.cache_from_source(str(root / name / "rows.py")))
    py_compile.compile(str(evil), cfile=str(cache), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    record(root, name)  # even when RECORD names it
    assert len(load_data(loader_of(name, distribution_digest(name))).train) == 2


def test_a_file_that_record_does_not_name_joins_nothing(distribution: tuple[str, Path]) -> None:
    name, root = distribution
    (root / name / "rows.py").write_text("from .more import load\n", encoding="utf-8")
    record(root, name)
    config = loader_of(name, distribution_digest(name))
    (root / name / "more.py").write_text(LOADER, encoding="utf-8")
    with pytest.raises(PluginError, match=r"does not import \(ModuleNotFoundError"):
        load_data(config)


def test_distributions_that_cannot_be_approved(distribution: tuple[str, Path]) -> None:
    name, root = distribution
    info = root / f"{name}-1.0.dist-info"
    load_data(loader_of(name, None))  # without a digest: installed is enough
    with pytest.raises(PluginError, match="imported before it was approved"):
        load_data(loader_of(name, distribution_digest(name)))
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]
    (root / name / "fast.abi3.so").write_bytes(b"\x7fELF")
    record(root, name)
    with pytest.raises(PluginError, match="compiled modules"):
        load_data(loader_of(name, distribution_digest(name)))
    (info / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}', encoding="utf-8")
    with pytest.raises(PluginError, match="editable"):
        distribution_digest(name)
    (info / "RECORD").unlink()
    with pytest.raises(PluginError, match="no RECORD"):
        distribution_digest(name)
    with pytest.raises(PluginError, match="no distribution"):
        distribution_digest("counterseal-nothing")


def test_unknown_loaders_list_the_known(distribution: tuple[str, Path]) -> None:
    name, _ = distribution
    with pytest.raises(PluginError, match=f"Known: arrays, .*{name}"):
        load_data(loader_of("arrys", None))


def test_entry_points_are_registry_names(distribution: tuple[str, Path]) -> None:
    name, _ = distribution
    assert name in Registry().known("metric")
    assert Registry().find("metric", name)({}) == 4711


def test_the_arrays_loader_round_trips(tmp_path: Path) -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(3, 4), np.array([0, 1, 2])
    write_arrays(tmp_path / "data", Arrays(x, y), Arrays(x[:1], y[:1]))
    data = load_data(LoaderConfig(entry_point="arrays", folder=tmp_path / "data"))
    assert np.array_equal(data.train.x, x) and np.array_equal(data.train.y, y)
    assert data.test is not None and len(data.test) == 1
    assert (tmp_path / "data" / "train.safetensors").stat().st_mode & 0o777 == 0o600


def test_the_arrays_loader_refuses(tmp_path: Path) -> None:
    config = LoaderConfig(entry_point="arrays", folder=tmp_path)
    with pytest.raises(PluginError, match="cannot be read"):
        load_data(config)
    with pytest.raises(PluginError, match="takes one parameter"):
        load_data(LoaderConfig(entry_point="arrays", folder=tmp_path, parameters={"x": 1}))
    for data in (b"", b"\x80\x04cos\nsystem\n(S'true'\ntR.", b"PK\x03\x04" + b"0" * 99):
        (tmp_path / "train.safetensors").write_bytes(data)
        with pytest.raises(TrainingFailedError, match="not a safetensors file"):
            load_data(config)
    save_file({"x": np.zeros((2, 2), np.float32)}, tmp_path / "train.safetensors")
    with pytest.raises(TrainingFailedError, match="must hold x and y"):
        load_data(config)


def test_plugins_are_never_none() -> None:
    with pytest.raises(PluginError, match="no metric 'x' is installed"):
        load_plugin(LoaderConfig(entry_point="x"), "metric")


PARTY = """\
identity: hospital-a
charter: charter.json
keys: keys
passphrase: {environment: X}
state: state
store: {kind: directory, path: store}
loader: {entry_point: arrays, folder: data}
"""

RUN = """\
run:
  name: r
  seed: 1
  rounds: 1
  model: {name: logistic, parameters: {inputs: 4, classes: 3}}
  trainer: {name: numpy-linear, epochs: 1}
  aggregation: {clip_norm: 1}
  minimum_sites: 1
  evaluation: {server: true}
log: log
transport: {kind: local, sites: {hospital-a: site.yaml}}
"""


def test_a_party_builds_its_trainers_from_its_files(tmp_path: Path) -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(3, 4) / 12, np.array([0, 1, 2])
    write_arrays(tmp_path / "data", Arrays(x, y), Arrays(x, y))
    server = read_model(ServerConfig, PARTY + RUN, file="server.yaml", folder=tmp_path)
    site = read_model(SiteConfig, PARTY, file="site.yaml", folder=tmp_path)
    run: RunConfig = server.run_config
    central, local = server_trainer(server), site_trainers(site)(run)
    start = central.initial_parameters(run.seed)
    result = local.train(start, seed=run.seed, round_number=0)
    assert central.evaluate(result.parameters) == local.evaluate(result.parameters)


def test_the_manual_s_loader_works(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    source = text.split("```python\n# ward.py\n")[1].split("```")[0]
    np.savetxt(tmp_path / "ward.csv", np.arange(240).reshape(60, 4) % 2, delimiter=",")
    data = load_data(file_loader(tmp_path, source, parameters={"folder": str(tmp_path)}))
    assert len(data.train) == 10 and data.test is not None and len(data.test) == 50


def test_the_manual_names_everything_built_in() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    words = set(text.replace("`", " ").split())
    from counterseal.runtime.training.optimisers import OPTIMIZERS, SCHEDULERS
    from counterseal.runtime.training.registry import _BUILT_IN

    for names in (*_BUILT_IN.values(), OPTIMIZERS, SCHEDULERS):
        assert set(names) <= words
