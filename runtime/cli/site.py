"""`counterseal site`: one institution's runtime."""

from __future__ import annotations

import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from .site_answer import answer
from .site_doctor import doctor, probe
from .site_endpoint import endpoint
from .site_enrol import enrol

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run and check one institution's site.")
app.command()(answer)
app.command()(endpoint)
app.command()(doctor)
app.command(hidden=True)(probe)
app.command()(enrol)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The site's YAML file.")]


@app.callback()
def _group() -> None:
    pass


@app.command()
def run(
    config: ConfigOption,
    delivery: Annotated[
        Path | None, typer.Option(help="Answer this one delivery, carried by hand, instead of serving.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the answer here instead of to standard output.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Answer deliveries: framed on standard input and output, or one from a file.

    A server's local transport starts this command; it ends when its standard input ends.

    Example: counterseal site run --config site.yaml --delivery monday.json --out answer.json
    """
    if delivery is None and out is not None:
        raise typer.BadParameter("--out belongs to --delivery", param_hint="--out")
    if delivery is None and sys.stdin.isatty():
        raise typer.BadParameter(
            "standard input is a terminal; a transport starts this command, or give --delivery FILE",
            param_hint="--delivery",
        )
    if delivery is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server; the end of the input ends this
    from ..assembly import open_site
    from ..config import load_site

    settings = load_site(config)
    with open_site(settings) as site:
        if delivery is None:
            from ..site.worker import serve_standard_streams

            count = serve_standard_streams(site)
            if not quiet:
                typer.echo(f"{settings.identity}: {count} deliveries answered", err=True)
            return
        with redirect_stdout(sys.stderr):  # what a plug-in prints is no part of the answer
            answer = site.handle(_read(delivery))
    _answer(answer, out)


def _read(path: Path) -> bytes:
    from ..delivery import DELIVERY_LIMIT

    with path.open("rb") as file:
        return file.read(DELIVERY_LIMIT + 1)  # one byte more than is allowed: the site refuses it by its own rule


def _answer(answer: bytes, out: Path | None) -> None:
    if out is None:
        sys.stdout.buffer.write(answer + b"\n")
        sys.stdout.flush()
    else:
        from ...durable import replace_file

        replace_file(out, answer, step="cli.answer")
    from ...trust.canonical import parse
    from ..delivery import Answer

    fault = Answer.from_json(parse(answer, limit=len(answer), what="answer")).fault
    if fault is not None:
        typer.echo(f"the delivery was refused: {fault.code}", err=True)
        raise typer.Exit(1)
