"""Plug-ins: a party's own loaders, models, losses, metrics and trainers.

Two sources. A *file* is read once; its SHA-256 must be the approved one, and exactly those bytes are compiled and run:
a file changed after the check, or between check and import, is never what runs. An *entry point* (groups
`counterseal.loaders`, `.models`, `.losses`, `.metrics`, `.trainers`) is code that this party installed; where the
configuration gives a digest, the distribution's files are hashed and must match it before anything of it is imported.

The digest of a distribution is the SHA-256 over one line ``sha256 SP path LF`` per installed file, sorted by path,
taken from its RECORD and hashed anew from the disk; byte code is left out and RECORD itself too (it lists the rest).

Not handled: a plug-in file imports whatever is installed (approve those by a hash-pinned lock file), approved code runs
with the site's own rights, and a distribution's files could be changed between the check and the import by somebody who
can write to the installation: such a person owns the site anyway.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import CountersealError
from ..config import LoaderConfig, PluginConfig
from ..errors import PluginError, TrainingFailedError
from .seam import SiteData

__all__ = ["distribution_digest", "entry_point_names", "file_digest", "load_data", "load_plugin"]

_LIMIT = 16 << 20
_GROUPS = {
    kind: f"counterseal.{kind}{'es' if kind == 'loss' else 's'}"
    for kind in ("model", "loss", "metric", "trainer", "loader")
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
    return hashlib.sha256(_read(path)).hexdigest()


def distribution_digest(name: str) -> str:
    """Return the digest over all files of the installed distribution ``name``.

    Raises:
        PluginError: it is not installed, or does not say what its files are.
    """
    try:
        return _digest(metadata.distribution(name))
    except metadata.PackageNotFoundError:
        raise PluginError(f"no distribution {name!r} is installed") from None


class _ApprovedBytes(SourceLoader):
    """Gives the import system the bytes that were hashed, and nothing from the disk."""

    def __init__(self, source: bytes, name: str) -> None:
        self._source, self._name = source, name

    def get_data(self, path: str | bytes) -> bytes:
        return self._source

    def get_filename(self, fullname: str) -> str:
        return self._name

    def get_code(self, fullname: str) -> Any:
        # Never a .pyc, which nobody approved, and never the file again, which may have changed.
        return compile(self._source, self._name, "exec", dont_inherit=True)


def _from_file(path: Path, approved: str, attribute: str) -> Any:
    source = _read(path)
    found = hashlib.sha256(source).hexdigest()
    if found != approved:
        raise PluginError(
            f"the file is {found[:16]}..., but {approved[:16] or 'nothing'}... was approved",
            where=str(path),
            remedy="Read the file again, and approve its new digest only if you agree with it.",
        )
    module = _module(source, path)
    if not hasattr(module, attribute):
        raise PluginError(f"the plug-in has no {attribute!r}", where=str(path), remedy="Name it with `attribute:`.")
    return getattr(module, attribute)


def _module(source: bytes, path: Path) -> ModuleType:
    name = f"counterseal_plugin_{hashlib.sha256(source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _ApprovedBytes(source, str(path))
    spec = ModuleSpec(name, loader, origin=str(path))
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and typing look their own module up
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise PluginError(f"the plug-in does not import ({type(error).__name__}: {error})", where=str(path)) from error
    return module


def _from_entry_point(kind: str, name: str, approved: str | None) -> Any:
    if kind == "loader" and name in _LOADERS:
        return metadata.EntryPoint(name, _LOADERS[name], _GROUPS[kind]).load()
    points = list(metadata.entry_points(group=_GROUPS[kind], name=name))
    if len(points) != 1:
        known = sorted({*entry_point_names(kind), *(_LOADERS if kind == "loader" else ())})
        what = "no" if not points else "more than one"
        raise PluginError(f"{what} {kind} {name!r} is installed", remedy=f"Known: {', '.join(known) or 'none'}.")
    if approved is not None:
        _check_distribution(points[0], approved)
    try:
        return points[0].load()
    except Exception as error:
        raise PluginError(f"the {kind} {name!r} does not import ({type(error).__name__}: {error})") from error


def _check_distribution(point: metadata.EntryPoint, approved: str) -> None:
    if point.dist is None:
        raise PluginError(f"the entry point {point.name!r} does not say its distribution")
    found = _digest(point.dist)
    if found != approved:
        raise PluginError(
            f"the distribution {point.dist.name!r} is {found[:16]}..., but {approved[:16]}... was approved",
            remedy="Compare it with what was reviewed, and approve its new digest only if you agree with it.",
        )


def _digest(distribution: metadata.Distribution) -> str:
    lines = []
    for file in _files(distribution):
        if file.suffix == ".pyc" or file.name == "RECORD":
            continue
        path = Path(str(distribution.locate_file(file)))
        lines.append(f"{hashlib.sha256(_read(path)).hexdigest()} {file.as_posix()}\n")
    return hashlib.sha256("".join(sorted(lines, key=lambda line: line[65:])).encode()).hexdigest()


def _files(distribution: metadata.Distribution) -> Iterable[metadata.PackagePath]:
    files = distribution.files
    if not files or distribution.read_text("RECORD") is None:
        raise PluginError(
            f"the distribution {distribution.name!r} has no RECORD of its files", remedy="Install it from a wheel."
        )
    if any(file.name == "direct_url.json" and '"editable": true' in file.read_text() for file in files):
        raise PluginError(
            f"the distribution {distribution.name!r} is an editable install: its RECORD does not name its code",
            remedy="Install it from a wheel.",
        )
    return files


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise PluginError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if len(data) > _LIMIT:
        raise PluginError(f"over {_LIMIT} bytes", where=str(path))
    return data
