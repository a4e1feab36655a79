"""The folder of an endpoint: written whole, read back, and compared line by line with what the kit would write.

Rules:
1. An existing folder is touched only if it is this kit's own work: `counterseal-endpoint.json` is there, or the folder is empty.
2. Files that the daemon puts there (its id, its log, its pid) are left alone and are no drift. Any other file is: the daemon
   reads a `config.py` before `config.yaml`, as code.
3. The folder and the launcher can be written by nobody but their owner: 0755 at most, since the mapped account of a
   multi-user endpoint must reach the launcher.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from ...durable import replace_file
from ...trust.canonical import parse
from ...trust.errors import MalformedError
from ..errors import EndpointError
from .identity_mapping import MAPPING_FILE, identity_mapping
from .kit import Kit
from .launcher import launcher, pam_service, sudoers
from .pod import manifest
from .readme import readme
from .template import config, environment, schema, template
from .unit import unit

__all__ = ["Drift", "drift", "files", "read_kit", "write_folder"]

RECORD = "counterseal-endpoint.json"
_OF_THE_DAEMON = frozenset({"endpoint.json", "endpoint.log", "daemon.pid", "endpoint.log.1", "tasks_working_dir"})
_SHOWN = 20
_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference: ``line`` counts from 1 in the file as it is; 0 is the file itself."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


def files(kit: Kit) -> dict[str, tuple[str, int]]:
    """Return every file with its mode."""
    value = {
        RECORD: (kit.model_dump_json(indent=2) + "\n", 0o644),
        "config.yaml": (config(kit), 0o644),
        "user_config_template.yaml.j2": (template(kit), 0o644),
        "user_config_schema.json": (schema(), 0o644),
        "user_environment.yaml": (environment(kit), 0o644),
        "deliver": (launcher(kit), 0o755),
        "README.txt": (readme(kit), 0o644),
    }
    if kit.multi_user is not None:
        value[MAPPING_FILE] = (identity_mapping(kit.multi_user), 0o644)
    if kit.run_as is not None:
        value["sudoers"] = (sudoers(kit), 0o644)
    if kit.run_as is not None and kit.multi_user is not None:
        value["pam"] = (pam_service(), 0o644)
    if kit.profile == "ec2" or kit.multi_user is not None:
        value["endpoint.service"] = (unit(kit), 0o644)
    if kit.pod is not None:
        value["statefulset.json"] = (manifest(kit, kit.pod), 0o644)
    return value


def write_folder(kit: Kit) -> tuple[Path, ...]:
    """Write the folder ``kit.folder`` and return its files.

    Modes come from creation under a known umask, never from a `chmod` by name: root may be writing into a folder of an account
    that would put a link there in between.

    Raises:
        EndpointError: something else is there, or what was written reads otherwise.
    """
    folder = Path(kit.folder)
    _require_ours(folder)
    wanted = files(kit)
    before = os.umask(0o022)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        for name in set(_NAMES) - set(wanted):
            (folder / name).unlink(missing_ok=True)
        for name, (text, mode) in wanted.items():
            replace_file(folder / name, text.encode(), step="endpoint.file", mode=mode)
    finally:
        os.umask(before)
    if found := drift(kit, folder):
        raise EndpointError(f"what was written reads otherwise: {found[0]}", where=str(folder))
    return tuple(folder / name for name in wanted)


_NAMES = (MAPPING_FILE, "sudoers", "pam", "endpoint.service", "statefulset.json")
"""Files that some kits write and others do not."""


def _require_ours(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise EndpointError("something else is there", where=str(folder), remedy="Name another folder with --out.")
    if folder.is_dir() and not (folder / RECORD).is_file() and any(folder.iterdir()):
        raise EndpointError(
            "a folder that this command did not write, and not empty",
            where=str(folder),
            remedy="Name another folder with --out, or move this one away.",
        )


def read_kit(folder: Path) -> Kit:
    """Return the kit that ``folder`` was written from.

    Raises:
        EndpointError: it was not, or its record was changed into nonsense.
    """
    path = folder / RECORD
    try:
        value = parse(_read(path), what=RECORD)
        return Kit.model_validate_json(json.dumps(value))
    except FileNotFoundError:
        raise EndpointError(
            "not a folder of this kit",
            where=str(folder),
            remedy="Write one with `counterseal site endpoint`: it contains what nobody else's template does not.",
        ) from None
    except (OSError, ValueError, MalformedError) as error:
        first = str(error).splitlines()[0][:200]
        raise EndpointError(f"not a record of this version: {first}", where=str(path), remedy=_AGAIN) from None


_AGAIN = "Write the folder again with `counterseal site endpoint`."


def drift(kit: Kit, folder: Path) -> tuple[Drift, ...]:
    """Return every way in which ``folder`` is not what ``kit`` writes, at most 20."""
    found: list[Drift] = []
    if str(folder) != kit.folder:
        found.append(Drift(RECORD, 0, f"was written for {kit.folder}"))
    found += _rights(folder, ".", 0o755)
    wanted = files(kit)
    for name, (text, mode) in wanted.items():
        found += _file(folder / name, name, text, mode)
    for path in sorted(folder.iterdir()):
        if path.name not in wanted and path.name not in _OF_THE_DAEMON:
            found.append(Drift(path.name, 0, "is no file of this kit: the daemon might obey it; remove it"))
    return tuple(found[:_SHOWN])


def _file(path: Path, name: str, text: str, mode: int) -> list[Drift]:
    try:
        data = _read(path)
    except FileNotFoundError:
        return [Drift(name, 0, "is missing")]
    except OSError as error:
        return [Drift(name, 0, f"is no file that can be read ({error.strerror})")]
    return _rights(path, name, mode) + ([] if data == text.encode() else _lines(name, data, text))


def _read(path: Path) -> bytes:
    """Return at most `_LIMIT` bytes of a regular file; whoever can write the folder could put a pipe or a link there.

    Raises:
        OSError: it cannot be read, or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file", str(path))
        return file.read(_LIMIT)


def _rights(path: Path, name: str, mode: int) -> list[Drift]:
    found = stat.S_IMODE(path.lstat().st_mode)
    if found & 0o022:
        return [Drift(name, 0, f"can be written by others (mode {found:04o}, should be {mode:04o}): chmod {mode:o}")]
    if found & 0o100 != mode & 0o100:
        return [Drift(name, 0, f"has mode {found:04o}, should be {mode:04o}: chmod {mode:o}")]
    return []


def _lines(name: str, data: bytes, text: str) -> list[Drift]:
    have, want = data.decode("utf-8", "replace").splitlines(), text.splitlines()
    found = []
    for _, old, old_end, new, new_end in SequenceMatcher(None, want, have, autojunk=False).get_opcodes():
        if want[old:old_end] == have[new:new_end]:
            continue
        found += [Drift(name, new + 1, f"is missing: {line.strip()[:120]}") for line in want[old:old_end]]
        found += [
            Drift(name, number, f"should not be there: {line.strip()[:120]}")
            for number, line in enumerate(have[new:new_end], new + 1)
        ]
    return found or [Drift(name, 0, "has other line ends")]
