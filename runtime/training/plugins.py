"""Plug-ins: a party's own loaders, models, losses, metrics and trainers.

Two sources. A *file* always has an approved SHA-256. An *entry point* (groups `counterseal.loaders`, `.models`,
`.losses`, `.metrics`, `.trainers`) is code that this party installed; where the configuration gives a digest, the
distribution's files must match it before anything of it is imported. Both are then imported from the bytes that were
hashed (`approved`). A digest is what this party's officer wrote down after reading the code; no peer has a say in it.

Not handled: a plug-in imports whatever else is installed (pin that with a lock file with hashes), and approved code runs
with the site's own rights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from ...errors import CountersealError
from ..config import LoaderConfig, PluginConfig
from ..errors import PluginError, TrainingFailedError
from .approved import approve_distribution, distribution_digest, import_file, read_bytes
from .seam import SiteData

__all__ = ["distribution_digest", "entry_point_names", "file_digest", "load_data", "load_plugin"]

_GROUPS = {
    "loader": "counterseal.loaders",
    "model": "counterseal.models",
    "loss": "counterseal.losses",
    "metric": "counterseal.metrics",
    "trainer": "counterseal.trainers",
}
_ATTRIBUTES = {"loader": "load", "model": "build", "loss": "build", "metric": "build", "trainer": "build"}
_LOADERS = {"arrays": "counterseal.runtime.training.arrays:load"}


def load_data(config: LoaderConfig) -> SiteData:
    """Return the data that the approved loader gives.

    Raises:
        PluginError: the loader is missing, not approved, or not what was approved. No data was touched.
        TrainingFailedError: the loader failed, or gave something else than `SiteData`.
    """
    loader = load_plugin(config, "loader")
    try:
        data = loader(config.arguments())
    except CountersealError:
        raise
    except Exception as error:
        raise TrainingFailedError(f"the data loader failed ({type(error).__name__})") from error
    if not isinstance(data, SiteData):
        raise TrainingFailedError("the data loader did not return a SiteData")
    return data


def load_plugin(config: LoaderConfig | PluginConfig, kind: str) -> Callable[..., Any]:
    """Return the function or class that ``config`` approves, imported from the approved bytes.

    Raises:
        PluginError: missing, not approved, not what was approved, or it does not import.
    """
    if config.file is not None:
        found = _from_file(config.file, config.sha256 or "", config.attribute or _ATTRIBUTES[kind])
    else:
        found = _from_entry_point(kind, config.entry_point or "", config.sha256)
    if not callable(found):
        raise PluginError(f"the {kind} plug-in cannot be called", remedy="It must be a function or a class.")
    return found  # type: ignore[no-any-return]


def entry_point_names(kind: str) -> set[str]:
    """Return the names that installed distributions register for ``kind``."""
    return {point.name for point in metadata.entry_points(group=_GROUPS[kind])}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a plug-in file: what an officer approves after reading it."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _from_file(path: Path, approved: str, attribute: str) -> Any:
    module = import_file(path, approved)
    if not hasattr(module, attribute):
        raise PluginError(f"the plug-in has no {attribute!r}", where=str(path), remedy="Name it with `attribute:`.")
    return getattr(module, attribute)


def _from_entry_point(kind: str, name: str, approved: str | None) -> Any:
    if kind == "loader" and name in _LOADERS:
        return metadata.EntryPoint(name, _LOADERS[name], _GROUPS[kind]).load()
    points = list(metadata.entry_points(group=_GROUPS[kind], name=name))
    if len(points) != 1:
        known = sorted({*entry_point_names(kind), *(_LOADERS if kind == "loader" else ())})
        what = "no" if not points else "more than one"
        raise PluginError(f"{what} {kind} {name!r} is installed", remedy=f"Known: {', '.join(known) or 'none'}.")
    if approved is not None:
        if points[0].dist is None:
            raise PluginError(f"the entry point {name!r} does not say its distribution")
        approve_distribution(points[0].dist, approved)
    try:
        return points[0].load()
    except Exception as error:
        raise PluginError(f"the {kind} {name!r} does not import ({type(error).__name__}: {error})") from error
