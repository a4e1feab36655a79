"""Where a command takes a passphrase from: a file, the environment, a command. Never an argument, which others can see."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ...trust.keys.member import MemberKeys
    from ...trust.keys.passphrase import Passphrase

__all__ = ["FromCommand", "FromEnvironment", "FromFile", "obtain", "unlock"]

FromFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="Read the passphrase from this file, which must be 0600.")
]
FromEnvironment = Annotated[
    str | None, typer.Option("--passphrase-env", metavar="NAME", help="Read it from this environment variable.")
]
FromCommand = Annotated[
    str | None, typer.Option("--passphrase-command", help="Run this (without a shell) and read what it prints.")
]


def obtain(file: Path | None, environment: str | None, command: str | None) -> Passphrase:
    """Return the passphrase from the one source that is given.

    Raises:
        CustodyError: the source does not give one.
    """
    from ...trust.keys.passphrase import Passphrase

    if (file, environment, command).count(None) != 2:
        raise typer.BadParameter(
            "give exactly one of --passphrase-file, --passphrase-env, --passphrase-command", param_hint="passphrase"
        )
    if file is not None:
        return Passphrase.from_file(file)
    if environment is not None:
        return Passphrase.from_environment(environment)
    try:
        words = shlex.split(command or "")
    except ValueError:
        raise typer.BadParameter("quotes that do not close", param_hint="--passphrase-command") from None
    return Passphrase.from_command(words)


def unlock(folder: Path, file: Path | None, environment: str | None, command: str | None) -> MemberKeys:
    """Return the keys in ``folder``.

    Raises:
        CustodyError: the folder or the passphrase.
    """
    from ...trust.keys.custody import load_folder

    return load_folder(folder, obtain(file, environment, command))
