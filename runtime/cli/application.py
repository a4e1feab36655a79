"""The root command: finds groups when they are asked for, and turns errors into messages and exit codes."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ...errors import CountersealError
from .output import exit_code, show_error, show_logging, system_error, wants_json

__all__ = ["app", "run"]

_GROUPS = (
    "demo",
    "login",
    "group",
    "keys",
    "charter",
    "server",
    "site",
    "store",
    "audit",
    "blob",
    "ledger",
    "policy",
    "config",
    "plugin",
)


class _Root(TyperGroup):
    """The groups by name; a group's module is imported when its name is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the groups that are installed."""
        return [name for name in _GROUPS if find_spec(f"{__package__}.{name}") is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the group or command ``cmd_name``, or None."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f".{cmd_name}", __package__)
        group = getattr(module, "app", None)
        if group is None:
            group = typer.Typer(rich_markup_mode=None)
            group.command()(getattr(module, cmd_name))
        command = typer.main.get_command(group)
        command.name = cmd_name
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what a user can mend becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except CountersealError as error:
            show_error(error, as_json=wants_json(ctx))
            raise typer.Exit(exit_code(error)) from None
        except (OSError, ModuleNotFoundError) as error:
            if (told := system_error(error)) is None:
                raise
            show_error(told, as_json=wants_json(ctx))
            raise typer.Exit(exit_code(told)) from None


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from ... import __version__

        typer.echo(f"counterseal {__version__}")
        raise typer.Exit


@app.callback()
def counterseal(
    ctx: typer.Context,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Show logging on standard error; twice shows more.")
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Sealed, authorised, audited federated learning.

    Exit codes: 0 done, 1 refused or a check failed, 2 wrong usage, 3 the environment (files, stores, locks, extras).
    """
    ctx.call_on_close(show_logging(verbose))


def run() -> None:
    """Run the command line with this process's arguments."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character still gets the message
    app(prog_name="counterseal")
