"""Passphrases and PINs for processes that start when nobody is there to type them.

Three sources: a private file (systemd's ``LoadCredential``, a mounted secret), an environment variable, the first line
that a command prints (a password manager, a cloud's secret store). A `Passphrase` shows its source and never its value,
and is not pickled. One line ending at the end of a file or of a command's output is not part of the value; the rest are
the bytes as they are, without Unicode normalisation.

Not handled: an environment variable is visible to every process of the same user, and Python cannot wipe memory.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from ..documents import Model
from ..errors import CustodyError
from .permissions import read_private_file

__all__ = ["Passphrase", "PassphraseSource"]

_LIMIT = 4096
_SECONDS = 60.0


class PassphraseSource(Model):
    """Where a passphrase comes from: exactly one of the three; it holds no secret."""

    file: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    environment: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    command: Annotated[tuple[Annotated[str, StringConstraints(max_length=4096)], ...], Field(min_length=1)] | None = (
        None
    )

    def obtain(self) -> Passphrase:
        """Return the passphrase.

        Raises:
            CustodyError: the source does not give one, or is not described by exactly one member.
        """
        if (self.file, self.environment, self.command).count(None) != 2:
            raise CustodyError("a passphrase comes from exactly one of file, environment, command")
        if self.file is not None:
            return Passphrase.from_file(Path(self.file))
        if self.environment is not None:
            return Passphrase.from_environment(self.environment)
        return Passphrase.from_command(self.command or ())


class Passphrase:
    """A secret text and where it came from; shows the latter only."""

    __slots__ = ("_secret", "source")

    def __init__(self, secret: bytes, source: PassphraseSource | None = None) -> None:
        """Hold ``secret``; ``source`` is None for one that a person typed.

        Raises:
            CustodyError: empty, over 4096 bytes, or containing a NUL byte.
        """
        if not secret or len(secret) > _LIMIT or b"\0" in secret:
            raise CustodyError("a passphrase has 1 to 4096 bytes, none of them zero", where=_where(source))
        self._secret = secret
        self.source = source

    @classmethod
    def from_file(cls, path: Path) -> Passphrase:
        """Return the content of a file that only this user can read."""
        data = read_private_file(path, limit=_LIMIT + 2)
        return cls(_one_line(data), PassphraseSource(file=str(path.absolute())))

    @classmethod
    def from_environment(cls, name: str) -> Passphrase:
        """Return the value of an environment variable."""
        value = os.environb.get(name.encode())
        if value is None:
            raise CustodyError(f"the environment has no {name}", remedy=f"Set {name} for this process.")
        return cls(value, PassphraseSource(environment=name))

    @classmethod
    def from_command(cls, command: Sequence[str]) -> Passphrase:
        """Return what ``command`` (program and arguments, no shell) prints; its complaints go to our standard error."""
        if not command:
            raise CustodyError("an empty command gives no passphrase")
        source = PassphraseSource(command=tuple(command))
        try:
            done = subprocess.run(
                list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CustodyError(f"cannot be run ({type(error).__name__})", where=_where(source)) from None
        if done.returncode != 0:
            raise CustodyError(f"failed with status {done.returncode}", where=_where(source))
        return cls(_one_line(done.stdout), source)

    def reveal(self) -> bytes:
        """Return the secret, for a key derivation or a token's login alone."""
        return self._secret

    def __repr__(self) -> str:
        return f"Passphrase({_where(self.source)})"

    def __reduce__(self) -> str:
        raise TypeError("a passphrase is never pickled")


def _one_line(data: bytes) -> bytes:
    return data[:-2] if data.endswith(b"\r\n") else data.removesuffix(b"\n")


def _where(source: PassphraseSource | None) -> str:
    if source is None:
        return "passphrase from memory"
    if source.file is not None:
        return f"passphrase from file {source.file}"
    if source.environment is not None:
        return f"passphrase from environment {source.environment}"
    return f"passphrase from command {(source.command or ('',))[0]}"  # its arguments may be somebody's secret
