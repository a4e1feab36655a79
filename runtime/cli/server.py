"""`counterseal server`: run, resume, and look at a federation's server."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import EnvironmentFault, JsonFlag, console, emit, fields, jsonable, plain
from .server_admit import admit
from .server_function import function

if TYPE_CHECKING:
    from ..config import ServerConfig
    from ..server.run import RunResult
    from .watch import Watch

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run a federation's server, and look at it.")
app.command()(admit)
app.command()(function)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The server's YAML file.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


@app.command()
def run(config: ConfigOption, quiet: Quiet = False, as_json: JsonFlag = False) -> None:
    """Run the configured run to its end, or go on where an earlier call stopped.

    Ctrl-C stops at once and loses nothing: the same command, or `server resume`, goes on. Exit code 1 if the run was
    aborted.

    Example: counterseal server run --config server/server.yaml
    """
    from ..config import load_server

    _run(config, load_server(config), quiet, as_json)


@app.command()
def resume(config: ConfigOption, quiet: Quiet = False, as_json: JsonFlag = False) -> None:
    """Go on with a run that was stopped; refuse if it was never started.

    Example: counterseal server resume --config server/server.yaml
    """
    from ..config import load_server
    from ..errors import RunError

    settings = load_server(config)
    name = settings.run_config.name
    if not _started(settings.state, name):
        raise RunError(
            f"run {name} was never started",
            where=str(settings.state),
            remedy=f"Start it: counterseal server run --config {config}",
        )
    _run(config, settings, quiet, as_json)


@app.command()
def status(config: ConfigOption, as_json: JsonFlag = False) -> None:
    """Say which runs there are and how far each is, from the log, without disturbing a server at work.

    Example: counterseal server status --config server/server.yaml --json
    """
    from ..config import load_server
    from .story import tell
    from .timeline import lines, read_copy

    settings = load_server(config)
    started = settings.log.is_dir() and any(settings.log.glob("checkpoints/*"))
    copy = read_copy(settings.log) if started else None
    stories = [] if copy is None else tell(event for line in lines(copy.leaves) if (event := line.event) is not None)
    running = _held(settings.state / "server.lock")
    leaves = 0 if copy is None else copy.checkpoint.size
    if as_json:
        emit({"running": running, "leaves": leaves, "runs": [asdict(story) for story in stories]})
        return
    word = {True: "at work", False: "not running", None: "unknown (this system does not show locks)"}[running]
    fields({"server": f"{settings.identity}, {word}", "log": f"{settings.log}, {leaves} leaves"})
    if not stories:
        typer.echo("No run was started.")
    for story in stories:
        typer.echo(plain(story.summary()))


def _run(path: Path, settings: ServerConfig, quiet: bool, as_json: bool) -> None:
    from ..api import run_federation
    from .watch import Watch

    signal.signal(signal.SIGTERM, _interrupt)  # a batch queue's notice is handled as Ctrl-C is
    out = console(errors=as_json)
    try:
        # With --json, what a plug-in prints is kept out of the document.
        with Watch(out, quiet=quiet) as watch, redirect_stdout(sys.stderr if as_json else sys.stdout):
            result = run_federation(settings, observe=watch)
    except KeyboardInterrupt:
        typer.echo(
            f"\ninterrupted; nothing is lost. Go on with:\n  counterseal server resume --config {plain(path)}",
            err=True,
        )
        raise typer.Exit(130) from None
    _tell(result, watch, as_json)
    if result.outcome != "completed":
        raise typer.Exit(1)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _tell(result: RunResult, watch: Watch, as_json: bool) -> None:
    if as_json:
        value = asdict(result)
        value["rounds"] = [asdict(one) for one in watch.rounds]
        emit(jsonable(value))
        return
    from .watch import metric_text

    about: dict[str, Any] = {
        "run": f"{result.run}, {result.outcome}" + (f" ({result.reason})" if result.reason else ""),
        "versions": result.versions,
        "model": result.model,
        "witnessed": f"by {', '.join(result.cosigners)}" if result.witnessed else "UNWITNESSED",
        "log": f"{result.leaves} leaves",
    }
    for site, metrics in sorted((result.final or {}).items()):
        about[f"final at {site}"] = metric_text(metrics.get("final", {}))
    fields(about)


def _started(state: Path, run: str) -> bool:
    """Whether the journal in ``state`` holds the start of ``run``; changes nothing there."""
    path = state / "server.sqlite"
    if not path.is_file():
        return False
    try:
        table = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        raise EnvironmentFault("the journal cannot be read", where=str(path)) from None
    try:
        return table.execute("SELECT 1 FROM facts WHERE key = ?", (f"leaf/{run}/start",)).fetchone() is not None
    except sqlite3.Error:
        raise EnvironmentFault("not a journal, or one that cannot be read", where=str(path)) from None
    finally:
        table.close()


def _held(lock: Path) -> bool | None:
    """Whether some process holds ``lock``, asked without taking it; None where the system does not say."""
    try:
        found = lock.stat()
        table = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None if lock.exists() else False
    except OSError:
        return None
    device, inode = found.st_dev, found.st_ino
    place = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    return any(place in line.split() for line in table.splitlines())
