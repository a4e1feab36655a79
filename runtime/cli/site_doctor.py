"""`counterseal site doctor`, and the hidden `site probe` that it runs on a worker."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .output import JsonFlag, check_row, emit, plain

__all__ = ["doctor", "probe"]

_Config = Annotated[Path, typer.Option("--config", "-c", help="The site's YAML file.")]


def doctor(
    config: _Config,
    endpoint: Annotated[Path | None, typer.Option(help="The folder that `site endpoint` wrote.")] = None,
    through: Annotated[
        str,
        typer.Option(help="A command that runs its arguments on a worker, such as 'srun -N1': looks from there too."),
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Check everything that a site needs, one line each: OK, FAIL with what to do, or ?? where nobody can judge.

    Exit code 1 if anything failed.

    Example: counterseal site doctor --config site.yaml --endpoint ~/.globus_compute/hospital --through "srun -N1 -p gpu"
    """
    from ..config import load_site
    from .doctor import Place, examine

    try:
        words = tuple(shlex.split(through))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--through") from None
    found = []
    for check in examine(load_site(config), Place(config, endpoint, words)):
        found.append(check)
        if not as_json:
            check_row(check.ok, check.name, check.what)
            if check.mend and check.ok is False:
                typer.echo(f"      mend: {plain(check.mend)}")
    failed = any(check.ok is False for check in found)
    if as_json:
        emit({"ok": not failed, "checks": [asdict(check) for check in found]})
    if failed:
        raise typer.Exit(1)


def probe(config: _Config) -> None:
    """Tell a doctor at the other end of standard input what this machine sees of the site.

    Example: counterseal site probe --config site.yaml
    """
    from ..config import load_site
    from ..site.probe import probe as answer
    from .doctor_state import nearest

    settings = load_site(config)

    def device() -> str:
        from .doctor import judged
        from .doctor_device import described

        check = judged("device", lambda: described(settings.device))
        return check.what if check.ok is not False else f"no: {check.what}"

    if not answer(nearest(settings.state), device, (sys.stdin.buffer, sys.stdout.buffer)):
        typer.echo("this is for `counterseal site doctor --through`", err=True)
        raise typer.Exit(2)
