"""A signed charter as files, so that each party can keep, copy and compare it.

<folder>/charter.json                                            the canonical bytes whose digest the officers read out
<folder>/signatures/<identity>.charter-signature.counterseal.json    one for every member
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...durable import create_file, make_folder
from ...trust.charter.signing import SignedCharter, verify_charter
from ...trust.errors import CharterError

__all__ = ["read_charter_folder", "signature_file", "write_charter_folder"]

_LIMIT = 16 << 20


def signature_file(identity: str) -> str:
    """Return the file name of a member's charter signature.

    >>> signature_file("a@b.example")
    'a_b.example.charter-signature.counterseal.json'
    """
    return f"{re.sub(r'[^A-Za-z0-9.-]', '_', identity)}.charter-signature.counterseal.json"


def write_charter_folder(folder: Path, charter: bytes, signatures: Iterable[tuple[str, bytes]]) -> None:
    """Write a charter and its signatures (identity, envelope) into ``folder``; files that are there must be the same.

    Raises:
        CharterError: another file of that name is there.
    """
    make_folder(folder / "signatures")
    files = [("charter.json", charter)]
    files += [(f"signatures/{signature_file(identity)}", raw) for identity, raw in signatures]
    for name, data in files:
        path = folder / name
        if path.exists():
            if path.read_bytes() != data:
                raise CharterError("another file is there", where=str(path), remedy="Use a new folder.")
            continue
        create_file(path, data, step="charter.file")


def read_charter_folder(folder: Path, *, now: int) -> SignedCharter:
    """Return the charter in ``folder``, verified with the signatures of all its members.

    Raises:
        CharterError: files are missing, or the charter does not hold.
    """
    path = folder / "charter.json"
    if not path.is_file():
        raise CharterError("no charter.json here", where=str(folder), remedy="Name the folder of the signed charter.")
    names = sorted((folder / "signatures").glob("*.charter-signature.counterseal.json"))
    for name in (path, *names):
        if name.is_symlink() or name.stat().st_size > _LIMIT:
            raise CharterError("not a plain file of a charter's size", where=str(name))
    try:
        return verify_charter(path.read_bytes(), [name.read_bytes() for name in names], now=now)
    except CharterError as error:
        raise CharterError(error.what, where=f"{folder}: {error.where}", remedy=error.remedy) from error
