"""The bytes of a policy file: who may have written them, and whether they can be given to Cedar at all.

A policy is worth what its file is worth, so a file that others can write (or swap, in a folder that others can write) is
refused, as is a symbolic link. Reading is open to all: a policy is no secret.

Cedar 4's parser and its trees are recursive: some hundred nested brackets overflow the stack of a thread and kill the process,
which no Python code can catch. So brackets, tokens and policies are counted first, by a reader as simple as Cedar's own lexer
(comments, strings, words, signs), and files that no person would write are refused before Cedar sees them. Characters that show
a person something else than the parser reads (bidirectional overrides, control characters) are refused in comments too.

`statements` also tells on which line each policy begins: Cedar numbers policies by their order in the file.

Not handled here: access lists beyond the mode bits, and what the policies say.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from ..errors import SitePolicyError

__all__ = ["LIMIT", "Statement", "read_policy_file", "read_text", "statements"]

LIMIT = 64 << 10
"""Bytes of the largest policy file."""

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: opening a pipe must not wait
_DEPTH = 16
_TOKENS = 1_000  # in one policy
_POLICIES = 200
_TOKEN = re.compile(r'(?P<skip>//[^\n\r]*|\s+)|"(?:[^"\\]|\\.)*+"|\w+|.', re.S)
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy as it is written: its text without what stands before it, and the line where it begins, from 1."""

    text: str
    line: int


def read_policy_file(path: Path) -> bytes:
    """Return the bytes of a policy that nobody but its owner (this user or root) can have written.

    The open descriptor is judged, so that what was checked is what is read.

    Raises:
        SitePolicyError: a symbolic link, not a file, others can write it or its folder, another owner, too large.
        OSError: it is not there, or cannot be read.
    """
    folder = path.absolute().parent
    _require_own(folder.stat(), folder, "755")
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SitePolicyError("a symbolic link", where=str(path), remedy="Name the file itself.") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SitePolicyError("not a regular file", where=str(path))
        _require_own(found, path, "644")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(LIMIT + 1)
    finally:
        os.close(descriptor)
    if len(data) > LIMIT:
        raise SitePolicyError(f"a policy of more than {LIMIT} bytes", where=str(path))
    return data


def _require_own(found: os.stat_result, path: Path, mode: str) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise SitePolicyError(f"owned by user {found.st_uid}: neither by this user nor by root", where=str(path))
    shared = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX  # as in /tmp: only owners remove and rename
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not shared:
        shown = f"mode {stat.S_IMODE(found.st_mode):04o} lets others change the policy"
        raise SitePolicyError(shown, where=str(path), remedy=f"Run: chmod {mode} {path}")


def read_text(data: bytes, file: str) -> str:
    """Return the text of a policy file.

    Raises:
        SitePolicyError: not UTF-8, too large, or a character that a reader would not see; ``where`` is ``file:line``.
    """
    if len(data) > LIMIT:
        raise SitePolicyError(f"a policy of more than {LIMIT} bytes", where=file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SitePolicyError("not UTF-8", where=f"{file}:{line}") from None
    for position, character in enumerate(text):
        if unicodedata.category(character) in _HIDDEN and character not in "\n\r\t":
            where = f"{file}:{text.count(chr(10), 0, position) + 1}"
            raise SitePolicyError(f"the character U+{ord(character):04X}, which a reader would not see", where=where)
    return text


def statements(text: str, file: str) -> tuple[Statement, ...]:
    """Return the policies in ``text`` in their order; what follows the last semicolon counts as one.

    Raises:
        SitePolicyError: nested too deep, too long, too many; ``where`` is ``file:line``.
    """
    found: list[Statement] = []
    start, depth, tokens = -1, 0, 0
    for token in _TOKEN.finditer(text):
        if token["skip"] is not None:
            continue
        if start < 0:
            start, depth, tokens = token.start(), 0, 0
        tokens += 1
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _DEPTH or tokens > _TOKENS or len(found) >= _POLICIES:
            what = f"more than {_POLICIES} policies, {_TOKENS} words and signs in one, or {_DEPTH} nested brackets"
            raise SitePolicyError(what, where=f"{file}:{_line(text, token.start())}", remedy="Write shorter policies.")
        if token[0] == ";":
            found.append(Statement(text[start : token.end()], _line(text, start)))
            start = -1
    return tuple(found) if start < 0 else (*found, Statement(text[start:], _line(text, start)))


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
