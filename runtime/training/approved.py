"""Imports from approved bytes: what was hashed is what runs.

A file or a distribution is read into memory once, its digest is compared with the approved one, and Python imports from
that memory. So nothing on the disk can change between the check and the import, and stale or planted byte code (`.pyc`,
which no digest covers) is never looked at.

The digest of a distribution is the SHA-256 over one line ``sha256 SP path LF`` per file that its RECORD names, sorted by
path, hashed anew from the disk; RECORD itself and byte code are left out.

Limits, each refused with an error that says so: distributions with compiled modules, packages without `__init__.py`,
editable installs, modules that were already imported from somewhere else. Data files are hashed, but a plug-in that opens
them reads the disk.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import PluginError

__all__ = ["approve_distribution", "distribution_digest", "import_file", "read_bytes"]

_LIMIT = 16 << 20


class _ApprovedBytes(SourceLoader):
    """Gives the import system the bytes that were hashed, and nothing from the disk."""

    def __init__(self, source: bytes, origin: str) -> None:
        self._source, self._origin = source, origin

    def get_data(self, path: str | bytes) -> bytes:
        return self._source

    def get_filename(self, fullname: str) -> str:
        return self._origin

    def get_code(self, fullname: str) -> Any:
        return compile(self._source, self._origin, "exec", dont_inherit=True)


class _ApprovedDistribution(MetaPathFinder):
    """Finds the modules of one distribution in memory."""

    def __init__(self, digest: str, modules: Mapping[str, tuple[bytes, str, bool]]) -> None:
        self.digest = digest
        self._modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of one of its modules; a package's search path is empty, so nothing else joins it."""
        if fullname not in self._modules:
            return None
        source, origin, package = self._modules[fullname]
        return ModuleSpec(fullname, _ApprovedBytes(source, origin), origin=origin, is_package=package)


_APPROVED: dict[str, _ApprovedDistribution] = {}


def import_file(path: Path, approved: str) -> ModuleType:
    """Return the module in ``path``, if its SHA-256 is the approved one.

    Raises:
        PluginError: it is not, or the module does not import.
    """
    source = read_bytes(path)
    digest = hashlib.sha256(source).hexdigest()
    _require(digest, approved, "the file", str(path))
    name = f"counterseal_plugin_{digest[:32]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _ApprovedBytes(source, str(path))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    sys.modules[name] = module  # dataclasses and typing look their own module up
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise PluginError(f"the plug-in does not import ({type(error).__name__}: {error})", where=str(path)) from error
    return module


def approve_distribution(distribution: metadata.Distribution, approved: str) -> None:
    """Let Python import ``distribution`` from its approved bytes from now on, and from nowhere else.

    Raises:
        PluginError: its digest is another, or it is of a kind that cannot be imported so.
    """
    name = distribution.name
    if name in _APPROVED:
        _require(_APPROVED[name].digest, approved, f"the distribution {name!r} in use", "")
        return
    files = dict(_contents(distribution))
    digest = _digest(files)
    _require(digest, approved, f"the distribution {name!r}", "")
    modules = _modules(name, distribution, files)
    loaded = sorted(module for module in modules if module in sys.modules)
    if loaded:
        raise PluginError(
            f"{loaded[0]} of the distribution {name!r} was imported before it was approved",
            remedy="Name its digest everywhere it is used, or nowhere.",
        )
    _APPROVED[name] = _ApprovedDistribution(digest, modules)
    sys.meta_path.insert(0, _APPROVED[name])


def distribution_digest(name: str) -> str:
    """Return the digest over all files of the installed distribution ``name``.

    Raises:
        PluginError: it is not installed, or does not say what its files are.
    """
    try:
        return _digest(dict(_contents(metadata.distribution(name))))
    except metadata.PackageNotFoundError:
        raise PluginError(f"no distribution {name!r} is installed") from None


def read_bytes(path: Path) -> bytes:
    """Return what is in ``path``, at most 16 MiB.

    Raises:
        PluginError: it cannot be read, or is longer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise PluginError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if len(data) > _LIMIT:
        raise PluginError(f"over {_LIMIT} bytes", where=str(path))
    return data


def _require(found: str, approved: str, what: str, where: str) -> None:
    if found != approved:
        raise PluginError(
            f"{what} is {found[:16]}..., but {approved[:16]}... was approved",
            where=where,
            remedy="Compare it with what was reviewed, and approve its new digest only if you agree with it.",
        )


def _contents(distribution: metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    name = distribution.name
    if not distribution.files or distribution.read_text("RECORD") is None:
        raise PluginError(f"the distribution {name!r} has no RECORD of its files", remedy="Install it from a wheel.")
    if '"editable": true' in (distribution.read_text("direct_url.json") or ""):
        raise PluginError(f"the distribution {name!r} is an editable install", remedy="Install it from a wheel.")
    for file in distribution.files:
        if file.suffix != ".pyc" and file.name != "RECORD":
            yield file.as_posix(), read_bytes(Path(str(distribution.locate_file(file))))


def _digest(files: Mapping[str, bytes]) -> str:
    lines = "".join(f"{hashlib.sha256(files[path]).hexdigest()} {path}\n" for path in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _modules(
    name: str, distribution: metadata.Distribution, files: Mapping[str, bytes]
) -> dict[str, tuple[bytes, str, bool]]:
    modules = {}
    for path, source in files.items():
        if path.endswith(tuple(EXTENSION_SUFFIXES)):
            raise PluginError(
                f"the distribution {name!r} has compiled modules, which cannot be run from approved bytes"
            )
        parts = path.removesuffix(".py").split("/")
        if not path.endswith(".py") or not all(part.isidentifier() for part in parts):
            continue
        package = parts[-1] == "__init__"
        dotted = ".".join(parts[:-1] if package else parts)
        modules[dotted] = (source, str(distribution.locate_file(path)), package)
    for dotted in modules:
        parent = dotted.rpartition(".")[0]
        if parent and not modules.get(parent, (b"", "", False))[2]:
            raise PluginError(f"the package {parent} of the distribution {name!r} has no __init__.py")
    return modules
