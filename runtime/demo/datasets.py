"""The demonstration's data: real, small, and on this machine already.

- `digits`: scikit-learn's 1,797 handwritten digits, 8 x 8, 10 classes (UCI Optical Recognition of Handwritten Digits).
- `breast-cancer`: scikit-learn's 569 real patients, 30 measurements, 2 classes (UCI Breast Cancer Wisconsin).
- `fashion-mnist`: 28 x 28 articles of clothing, 10 classes, from the four IDX files of the original in a local folder.

Each comes with a central test split that no site gets. Preprocessing uses constants that are public and written here,
never statistics of a site's rows: grey levels are divided by their known maximum, and the 30 measurements are
standardised with means and deviations of the whole public dataset, rounded to three digits. In a federation of your
own, take such constants from the literature, or pay for them from the budget.

Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..training.arrays import write_arrays
from ..training.seam import Arrays, derive_seed
from .idx import read_idx
from .partition import partition

__all__ = ["DATASETS", "Dataset", "load_dataset", "write_sites"]

_MEANS = (
    14.1, 19.3, 92.0, 655.0, 0.0964, 0.104, 0.0888, 0.0489, 0.181, 0.0628,
    0.405, 1.22, 2.87, 40.3, 0.00704, 0.0255, 0.0319, 0.0118, 0.0205, 0.00379,
    16.3, 25.7, 107.0, 881.0, 0.132, 0.254, 0.272, 0.115, 0.290, 0.0839,
)  # fmt: skip
_DEVIATIONS = (
    3.52, 4.30, 24.3, 352.0, 0.0141, 0.0528, 0.0797, 0.0388, 0.0274, 0.00706,
    0.277, 0.552, 2.02, 45.5, 0.00300, 0.0179, 0.0302, 0.00617, 0.00827, 0.00265,
    4.83, 6.15, 33.6, 569.0, 0.0228, 0.157, 0.209, 0.0657, 0.0619, 0.0181,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples for the sites and a central test split; ``shape`` is one example's, without the batch."""

    name: str
    train: Arrays
    test: Arrays
    shape: tuple[int, ...]
    classes: int
    source: str

    @property
    def inputs(self) -> int:
        """Numbers in one example."""
        return int(np.prod(self.shape))


def load_dataset(name: str, *, data_path: Path | None = None, seed: int = 0) -> Dataset:
    """Return the dataset ``name``; ``seed`` decides its central test split where the original has none.

    Raises:
        ConfigError: an unknown name, a missing library, or files that are not what they should be.
    """
    if name not in DATASETS:
        raise ConfigError(f"no demonstration data is called {name!r}", remedy=f"Known: {', '.join(DATASETS)}.")
    if name != "fashion-mnist" and data_path is not None:
        raise ConfigError(f"{name} comes with scikit-learn and takes no data path")
    return DATASETS[name](data_path, seed)


def write_sites(
    dataset: Dataset,
    folders: list[Path],
    *,
    seed: int,
    alpha_class: float = 2.0,
    alpha_size: float = 8.0,
    minimum: int = 16,
    test_share: float = 0.2,
) -> list[int]:
    """Cut the training examples among ``folders``, each readable by the loader `arrays`; return the sites' sizes.

    Every site keeps ``test_share`` of its part for its own evaluation. The sizes are known to whoever runs the
    demonstration, which made them; they belong in no log or report.

    Raises:
        ConfigError: the data cannot be cut so.
    """
    if not 0 < test_share < 1:
        raise ConfigError("test_share must be between 0 and 1")
    parts = partition(
        dataset.train.y, len(folders), seed, alpha_class=alpha_class, alpha_size=alpha_size, minimum=max(minimum, 2)
    )
    for folder, part in zip(folders, parts, strict=True):
        held = max(1, int(len(part) * test_share))
        mixed = np.random.default_rng(derive_seed(seed, "site split", folder.name)).permutation(part)
        write_arrays(folder, _take(dataset.train, np.sort(mixed[held:])), _take(dataset.train, np.sort(mixed[:held])))
    return [len(part) for part in parts]


def _digits(data_path: Path | None, seed: int) -> Dataset:
    found = _sklearn().load_digits()
    x = (found.images[:, None] / 16.0).astype(np.float32)  # grey levels are 0 to 16
    return _split("digits", x, found.target, 10, seed, "UCI Optical Recognition of Handwritten Digits (scikit-learn)")


def _breast_cancer(data_path: Path | None, seed: int) -> Dataset:
    found = _sklearn().load_breast_cancer()
    x = ((found.data - np.array(_MEANS)) / np.array(_DEVIATIONS)).astype(np.float32)
    return _split("breast-cancer", x, found.target, 2, seed, "UCI Breast Cancer Wisconsin, diagnostic (scikit-learn)")


def _fashion_mnist(data_path: Path | None, seed: int) -> Dataset:
    if data_path is None:
        raise ConfigError(
            "fashion-mnist needs the folder of its four IDX files",
            remedy="Give --data-path; Debian's package dataset-fashion-mnist puts them in /usr/share/datasets.",
        )
    train, test = (_idx_pair(data_path, prefix) for prefix in ("train", "t10k"))
    if train.x.shape[1:] != test.x.shape[1:]:
        raise ConfigError("the training and test images differ in size", where=str(data_path))
    if max(int(train.y.max()), int(test.y.max())) > 9:
        raise ConfigError("a label is above 9", where=str(data_path))
    return Dataset("fashion-mnist", train, test, train.x.shape[1:], 10, "Zalando Fashion-MNIST (local IDX files)")


DATASETS: dict[str, Callable[[Path | None, int], Dataset]] = {
    "digits": _digits,
    "breast-cancer": _breast_cancer,
    "fashion-mnist": _fashion_mnist,
}


def _sklearn() -> Any:
    try:
        from sklearn import datasets
    except ImportError:
        raise ConfigError("scikit-learn is not installed", remedy="Install counterseal[demo].") from None
    return datasets


def _split(name: str, x: npt.NDArray[np.float32], y: Any, classes: int, seed: int, source: str) -> Dataset:
    """Hold a fifth of every class back as the central test split."""
    labels = np.asarray(y, np.int64)
    generator = np.random.default_rng(derive_seed(seed, "central split", name))
    held = np.zeros(len(labels), bool)
    for label in range(classes):
        members = generator.permutation(np.flatnonzero(labels == label))
        held[members[: len(members) // 5]] = True
    train, test = Arrays(x[~held], labels[~held]), Arrays(x[held], labels[held])
    return Dataset(name, train, test, x.shape[1:], classes, source)


def _take(arrays: Arrays, rows: npt.NDArray[np.int64]) -> Arrays:
    return Arrays(arrays.x[rows], arrays.y[rows])


def _idx_pair(folder: Path, prefix: str) -> Arrays:
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte", dimensions=3)
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels):
        raise ConfigError(f"{prefix}: {len(images)} images but {len(labels)} labels", where=str(folder))
    return Arrays((images[:, None] / np.float32(255)).astype(np.float32), labels.astype(np.int64))
