"""The `arrays` loader: one site's examples as safetensors files in that site's own folder.

`train.safetensors` and, if there is one, `test.safetensors`, each with ``x`` float32 or int64 [n, ...] and ``y`` int64
[n] or float32 [n] or [n, k]. Files are 0600: they are the site's data. safetensors and not .npz, because a .npz can
carry a pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import numpy as tensors_of

from ...durable import make_folder, replace_file
from ..errors import PluginError, TrainingFailedError
from .seam import Arrays, SiteData

__all__ = ["load", "write_arrays"]


def load(parameters: Mapping[str, Any]) -> SiteData:
    """Return the examples in ``parameters["folder"]``.

    Raises:
        PluginError: there is no such folder or file.
        TrainingFailedError: a file does not hold x and y.
    """
    folder = parameters.get("folder")
    unknown = sorted(set(parameters) - {"folder"})
    if not isinstance(folder, str) or unknown:
        raise PluginError("the loader arrays takes one parameter, folder", remedy="Write `folder: PATH`.")
    train = _read(Path(folder) / "train.safetensors")
    test_path = Path(folder) / "test.safetensors"
    test = _read(test_path) if test_path.exists() else None
    return SiteData(train, test, {"loader": "arrays", "train": len(train), "test": len(test) if test else 0})


def write_arrays(folder: Path, train: Arrays, test: Arrays | None = None) -> None:
    """Write a site's examples where `load` finds them."""
    make_folder(folder, 0o700)
    for name, arrays in (("train", train), ("test", test)):
        if arrays is not None:
            data = tensors_of.save({"x": arrays.x, "y": arrays.y})
            replace_file(folder / f"{name}.safetensors", data, step=f"arrays.{name}", mode=0o600)


def _read(path: Path) -> Arrays:
    try:
        tensors = tensors_of.load(path.read_bytes())
    except OSError as error:
        raise PluginError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except SafetensorError:
        raise TrainingFailedError("not a safetensors file", where=path.name) from None
    if set(tensors) != {"x", "y"}:
        raise TrainingFailedError("the file must hold x and y, and nothing else", where=path.name)
    return Arrays(tensors["x"], tensors["y"])
