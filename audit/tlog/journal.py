"""The journal: leaves that were acknowledged and are not yet under a checkpoint.

A file of batches, each written with one call and synced before `Journal.append` returns:

    magic[8] offset[8] first[8] count[4] length[8] SHA-256(body)[32] check[16]    then the body: (uint16 length, leaf)*

``offset`` is the header's own place in the file, ``first`` the index of the batch's first leaf, ``check`` the first half
of the SHA-256 of the header before it; integers are big-endian.

A power cut can leave any part of the batch being written, in any order of its pages, and nothing after it, because the
next batch is written only after the sync. So a batch that does not check is *torn*, and cut off, exactly if it reaches
the end of the file and no later valid header exists; otherwise an acknowledged leaf was damaged and `LogCorruptError` is
raised. (Damage to the very last acknowledged batch cannot be told from a torn one here; a published checkpoint above it
can, and `audit.tlog.log` checks that.)
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...durable import Probe, create_file, replace_file, silent
from ..errors import LogCorruptError, ProofError
from .tiles import decode_bundle, encode_bundle

__all__ = ["Batch", "Journal"]

_MAGIC = b"CSLJRNL1"
_HEADER = struct.Struct(">8sQQIQ32s16s")


@dataclass(frozen=True, slots=True)
class Batch:
    """Leaves that were appended together; ``first`` is the index of the first."""

    first: int
    leaves: tuple[bytes, ...]


class Journal:
    """An open journal, positioned behind its last whole batch."""

    def __init__(self, path: Path, descriptor: int, end: int, probe: Probe) -> None:
        self._path = path
        self._descriptor = descriptor
        self._end = end
        self._probe = probe

    @property
    def length(self) -> int:
        """Bytes of the whole batches in the file."""
        return self._end

    @staticmethod
    def create(path: Path, *, probe: Probe = silent) -> None:
        """Create an empty journal durably, or raise `FileExistsError`."""
        create_file(path, b"", step="log.journal.create", probe=probe)

    @classmethod
    def open(cls, path: Path, *, probe: Probe = silent) -> tuple[Journal, list[Batch]]:
        """Return the journal and its batches; a torn tail is cut off.

        Raises:
            LogCorruptError: a batch before the last one is damaged, or the file is missing.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise LogCorruptError(
                "the journal is missing, and acknowledged leaves may be with it",
                where=str(path),
                remedy="Restore the folder from its disk's backup; do not start a new log under this origin.",
            ) from None
        batches, end = _read(data, str(path))
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        journal = cls(path, descriptor, end, probe)
        if end < len(data):
            probe("log.journal.truncate")
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
            probe("log.journal.truncated")
        return journal, batches

    def append(self, first: int, leaves: Sequence[bytes]) -> None:
        """Write a batch; when this returns, it survives a power cut.

        After any exception the file's state is unknown: the journal must be opened anew.
        """
        body = encode_bundle(leaves)
        self._probe("log.journal.write")
        _write(self._descriptor, _header(self._end, first, len(leaves), body) + body, self._end)
        self._probe("log.journal.sync")
        os.fsync(self._descriptor)
        self._probe("log.journal.done")
        self._end += _HEADER.size + len(body)

    def reset(self) -> None:
        """Start an empty file in place of this one: every leaf of it is under a checkpoint."""
        replace_file(self._path, b"", step="log.journal.reset", probe=self._probe)
        os.close(self._descriptor)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        self._end = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _write(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, at)
        view, at = view[done:], at + done


def _header(offset: int, first: int, count: int, body: bytes) -> bytes:
    head = _HEADER.pack(_MAGIC, offset, first, count, len(body), hashlib.sha256(body).digest(), b"")[:-16]
    return head + hashlib.sha256(head).digest()[:16]


def _read(data: bytes, where: str) -> tuple[list[Batch], int]:
    batches: list[Batch] = []
    at = 0
    while at < len(data):
        header = _parse(data, at)
        if header and header[0] != at:
            raise _damaged(at, where)  # whole, but not written here: the file was cut or spliced
        end = at + _HEADER.size + header[3] if header else len(data)
        batch = _batch(data, at, header) if header else None
        if header is None or batch is None:
            if end < len(data) or _later_header(data, at):
                raise _damaged(at, where)
            return batches, at
        batches.append(batch)
        at = end
    return batches, at


def _damaged(at: int, where: str) -> LogCorruptError:
    return LogCorruptError(
        f"the acknowledged batch at byte {at} of the journal is damaged",
        where=where,
        remedy="Restore the file from the disk's backup; nothing was changed.",
    )


def _parse(data: bytes, at: int) -> tuple[int, int, int, int, bytes] | None:
    head = data[at : at + _HEADER.size]
    if len(head) < _HEADER.size or hashlib.sha256(head[:-16]).digest()[:16] != head[-16:]:
        return None
    magic, offset, first, count, length, digest, _ = _HEADER.unpack(head)
    return (offset, first, count, length, digest) if magic == _MAGIC else None


def _batch(data: bytes, at: int, header: tuple[int, int, int, int, bytes]) -> Batch | None:
    _, first, count, length, digest = header
    body = data[at + _HEADER.size : at + _HEADER.size + length]
    if len(body) != length or hashlib.sha256(body).digest() != digest:
        return None
    try:
        return Batch(first, decode_bundle(body, count))
    except ProofError:
        return None


def _later_header(data: bytes, at: int) -> bool:
    # A leaf may hold the bytes of a header, but not of one that names the place where the leaf happens to lie.
    while (at := data.find(_MAGIC, at + 1)) >= 0:
        header = _parse(data, at)
        if header and header[0] == at:
            return True
    return False
