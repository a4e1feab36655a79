"""`counterseal audit replay`: what the charter's auditor runs, with its private key and read access to the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import EnvironmentFault, JsonFlag, console, emit, fields, plain
from .secrets import FromCommand, FromEnvironment, FromFile, unlock

if TYPE_CHECKING:
    from ..replaying.replay import Replay, Step
    from ..stores.seam import ObjectStore

__all__ = ["replay"]

_COLOURS = {"PASS": "green", "FAIL": "bold red", "UNDECIDED": "yellow"}


def replay(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The log's folder, or a copy of the store's mirror.")],
    charter: Annotated[Path, typer.Option(help="The folder of the signed charter that you hold: your root of trust.")],
    store: Annotated[
        Path, typer.Option(help="The store's folder, or a YAML file with its `store:` block as in a site's file.")
    ],
    keys: Annotated[Path, typer.Option(help="The folder of the auditor's keys.")],
    passphrase_file: FromFile = None,
    passphrase_env: FromEnvironment = None,
    passphrase_command: FromCommand = None,
    run: Annotated[str | None, typer.Option(help="Only the commits of this run.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Recompute every aggregate from the sealed inputs, bit for bit; say PASS, FAIL or UNDECIDED for each commit, and why.

    Who may count is not asked here: `counterseal audit verify` does that. Exit code 1 if anything failed.

    Example: counterseal audit replay server/log --charter charter --store store --keys keys --passphrase-file passphrase
    """
    from ...audit.checks.source import FolderSource
    from ..replaying.replay import replay as recompute
    from .audit import charter_held

    opening = unlock(keys, passphrase_file, passphrase_env, passphrase_command).opening
    observe = _silent if as_json else _line
    found = recompute(FolderSource(folder), charter_held(charter), _store(store), opening, run, observe=observe)
    emit(_as_json(found)) if as_json else _summary(found)
    if not found.passed:
        raise typer.Exit(1)


def _store(path: Path) -> ObjectStore:
    from ..assembly import open_store
    from ..config import DirectoryStoreConfig, load_store

    if path.is_file():
        return open_store(load_store(path))
    if not (path / "objects").is_dir():  # opening a store makes its folders: not where there was none
        raise EnvironmentFault("no store lies here", where=str(path), remedy="Name the folder that holds `objects`.")
    return open_store(DirectoryStoreConfig(kind="directory", path=path))


def _silent(step: Step) -> None:
    """Show nothing."""


def _line(step: Step) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(f"{step.status.value:<11}", style=_COLOURS[step.status.value]), end="  ")
    out.print(Text(plain(f"{step.run} version {step.version}  leaf {step.index}  {len(step.inputs)} inputs")), end="  ")
    out.print(Text(step.output), soft_wrap=True)
    if step.reason:
        out.print(Text(f"{'':>13}- {plain(step.reason)}"), soft_wrap=True)


def _summary(found: Replay) -> None:
    from ...trust.charter.signing import fingerprint

    fields({"log": found.origin, "leaves": found.size, "root": found.root, "charter": fingerprint(found.charter)})
    counts = [step.status.value for step in found.steps]
    told = ", ".join(f"{counts.count(word)} {word}" for word in _COLOURS if word in counts)
    typer.echo(told or "No commit to replay.")


def _as_json(found: Replay) -> dict[str, Any]:
    return {
        "passed": found.passed,
        "origin": found.origin,
        "size": found.size,
        "root": found.root,
        "charter": found.charter,
        "commits": [
            {
                "run": step.run,
                "version": step.version,
                "index": step.index,
                "output": step.output,
                "inputs": list(step.inputs),
                "status": step.status.value,
                "reason": step.reason,
            }
            for step in found.steps
        ],
    }
