"""`counterseal plugin`: the digests with which an officer approves code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import JsonFlag, emit, fields

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Approve a party's own code.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def digest(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A plug-in file.")] = None,
    distribution: Annotated[str | None, typer.Option(help="Or the name of an installed distribution.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the SHA-256 to write into a configuration as `sha256`, after reading the code.

    Example: counterseal plugin digest loader.py
    """
    if (file is None) == (distribution is None):
        raise typer.BadParameter("give a FILE or --distribution", param_hint="FILE")
    from ..training.plugins import distribution_digest, file_digest

    found = file_digest(file) if file is not None else distribution_digest(distribution or "")
    about: dict[str, object] = {"what": str(file or distribution), "sha256": found}
    emit(about) if as_json else fields(about)
