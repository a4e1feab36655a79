"""`counterseal blob`: what a sealed blob says about itself to somebody without keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import JsonFlag, emit, plain

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at sealed blobs.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A manifest or a payload.")], as_json: JsonFlag = False
) -> None:
    """Explain a blob's manifest or payload in words: what it claims, for whom, where it belongs. Nothing is verified.

    Exit code 1 if it is neither.

    Example: counterseal blob inspect manifest.json
    """
    from ...trust.blob.inspect import explain

    lines = explain(file)
    bad = lines[0].startswith("NOT A")
    if as_json:
        emit({"readable": not bad, "verified": False, "lines": lines})
    else:
        typer.echo("\n".join(plain(line) for line in lines))
    if bad:
        raise typer.Exit(1)
