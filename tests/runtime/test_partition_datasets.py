"""The demonstration's data, its IDX reader, and the sites' folders."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from counterseal.runtime.config import LoaderConfig
from counterseal.runtime.demo.datasets import load_dataset, write_sites
from counterseal.runtime.demo.idx import read_idx
from counterseal.runtime.errors import ConfigError
from counterseal.runtime.training.plugins import load_data


@pytest.mark.parametrize(
    ("name", "rows", "shape", "classes"), [("digits", 1797, (1, 8, 8), 10), ("breast-cancer", 569, (30,), 2)]
)
def test_the_bundled_data(name: str, rows: int, shape: tuple[int, ...], classes: int) -> None:
    found, again, other = load_dataset(name), load_dataset(name), load_dataset(name, seed=1)
    assert len(found.train) + len(found.test) == rows
    assert found.shape == shape == found.train.x.shape[1:] == found.test.x.shape[1:]
    assert found.inputs == int(np.prod(shape))
    assert set(found.train.y.tolist()) == set(found.test.y.tolist()) == set(range(classes))
    assert np.array_equal(found.test.x, again.test.x)
    assert not np.array_equal(found.test.x, other.test.x)
    rows_of = {row.tobytes() for row in found.train.x}
    assert sum(row.tobytes() in rows_of for row in found.test.x) <= 1


def test_the_constants_standardise_the_patients() -> None:
    found = load_dataset("breast-cancer")
    x = np.concatenate([found.train.x, found.test.x])
    assert np.abs(x.mean(axis=0)).max() < 0.02
    assert np.abs(x.std(axis=0) - 1).max() < 0.01


def test_sites_get_all_of_the_training_data_and_none_of_the_test_data(tmp_path: Path) -> None:
    found = load_dataset("digits")
    folders = [tmp_path / f"site-{number}" for number in range(4)]
    sizes = write_sites(found, folders, seed=5)
    rows = []
    for folder, size in zip(folders, sizes, strict=True):
        data = load_data(LoaderConfig(entry_point="arrays", folder=folder))
        assert data.test is not None
        assert len(data.train) + len(data.test) == size
        assert len(data.test) == max(1, int(size * 0.2))
        rows += [row.tobytes() for part in (data.train.x, data.test.x) for row in part]
    assert sorted(rows) == sorted(row.tobytes() for row in found.train.x)
    assert len(set(sizes)) > 1
    with pytest.raises(ConfigError, match="test_share"):
        write_sites(found, folders, seed=5, test_share=1.0)


def idx(array: npt.NDArray[np.uint8], kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def clothes(folder: Path, *, zipped: bool) -> None:
    generator = np.random.default_rng(1)
    for prefix, n in (("train", 20), ("t10k", 6)):
        images = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, n, dtype=np.uint8)
        for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_from_its_four_files(tmp_path: Path, zipped: bool) -> None:
    clothes(tmp_path, zipped=zipped)
    found = load_dataset("fashion-mnist", data_path=tmp_path)
    assert found.train.x.shape == (20, 1, 28, 28) and found.test.x.shape == (6, 1, 28, 28)
    assert found.train.x.dtype == np.float32 and found.train.y.dtype == np.int64
    assert 0 <= found.train.x.min() < 0.1 and 0.9 < found.train.x.max() <= 1
    first = np.random.default_rng(1).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    assert np.array_equal(found.train.x[:, 0], (first / np.float32(255)).astype(np.float32))


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))

BAD: list[tuple[str, bytes]] = [
    ("not an IDX file", b""),
    ("not an IDX file", GOOD[:15]),
    ("not an IDX file", b"\1" + GOOD[1:]),
    ("not an IDX file", idx(np.zeros((2, 3, 4), np.uint8), kind=13)),
    ("not an IDX file", idx(np.zeros((2, 3), np.uint8))),
    ("not as long", GOOD[:-1]),
    ("not as long", GOOD + b"\0"),
    ("promises 0 bytes", idx(np.zeros((0, 3, 4), np.uint8))),
    ("promises 79228162458924105385300197375 bytes", bytes([0, 0, 8, 3]) + b"\xff" * 12),
    ("promises", bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 20, 1 << 10, 2)),
]


@pytest.mark.parametrize(("words", "data"), BAD)
def test_bad_idx_files(tmp_path: Path, words: str, data: bytes) -> None:
    (tmp_path / "plain").write_bytes(data)
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(data))
    for name in ("plain", "zipped"):
        with pytest.raises(ConfigError, match=words):
            read_idx(tmp_path / name, dimensions=3)


def test_unreadable_idx_files(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"not gzip")
    (tmp_path / "b.gz").write_bytes(gzip.compress(GOOD)[:-10])
    (tmp_path / "c.gz").write_bytes(gzip.compress(GOOD)[:14] + b"\xff" * 20)
    for name in ("a", "b", "c", "missing"):
        with pytest.raises(ConfigError, match=r"cannot be read|not as long|not an IDX file"):
            read_idx(tmp_path / name, dimensions=3)


def test_datasets_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Known: digits, breast-cancer, fashion-mnist"):
        load_dataset("mnist")
    with pytest.raises(ConfigError, match="needs the folder"):
        load_dataset("fashion-mnist")
    with pytest.raises(ConfigError, match="takes no data path"):
        load_dataset("digits", data_path=tmp_path)
    clothes(tmp_path, zipped=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(19, np.uint8)))
    with pytest.raises(ConfigError, match="20 images but 19 labels"):
        load_dataset("fashion-mnist", data_path=tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.full(20, 10, np.uint8)))
    with pytest.raises(ConfigError, match="above 9"):
        load_dataset("fashion-mnist", data_path=tmp_path)
