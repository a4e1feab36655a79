"""What leaves the command line: one JSON document, tables, and error messages, none of which carries a secret."""

from __future__ import annotations

import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import CountersealError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "EnvironmentFault",
    "JsonFlag",
    "check_row",
    "console",
    "emit",
    "exit_code",
    "fields",
    "jsonable",
    "plain",
    "redact",
    "show_error",
    "show_logging",
    "system_error",
    "typed_values",
    "wants_json",
]

_UNAVAILABLE = frozenset(
    {
        "journal",
        "log_busy",
        "store_unavailable",
        "store_setup",
        "transport",
        "environment",
        "policy_engine",
        "ledger_anchor",
        "globus_unavailable",
        "globus_setup",
        "test_cloud",
    }
)
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']*")


def _remember(ctx: typer.Context, value: bool) -> bool:
    ctx.meta["counterseal.json"] = value
    return value


JsonFlag = Annotated[bool, typer.Option("--json", callback=_remember, help="Print one JSON document and nothing else.")]


def wants_json(ctx: Any) -> bool:
    """Whether the command that runs under ``ctx`` was asked for JSON."""
    return bool(ctx.meta.get("counterseal.json"))


class EnvironmentFault(CountersealError):
    """This machine lacks what the command needs."""

    code = "environment"


class TakenFault(CountersealError):
    """A file that was to be written exists."""

    code = "taken"


def exit_code(error: CountersealError) -> int:
    """Return 3 where the environment is at fault, else 1."""
    return 3 if error.code in _UNAVAILABLE else 1


def system_error(error: OSError | ModuleNotFoundError) -> CountersealError | None:
    """Return a message for what the operating system or a missing extra said, or None where it is a bug of ours."""
    if isinstance(error, ModuleNotFoundError):
        return _missing(error.name or "")
    if isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, FileExistsError):
        # What is published under a name carries the name second.
        taken = str(error.filename2 or error.filename or "")
        return TakenFault("something is already there", where=taken, remedy="Name a new file: nothing is overwritten.")
    where = str(error.filename) if error.filename is not None else ""
    return EnvironmentFault(error.strerror or type(error).__name__, where=where)


def _missing(module: str) -> CountersealError | None:
    extras = {
        "torch": "torch",
        "boto3": "s3",
        "botocore": "s3",
        "sklearn": "demo",
        "pkcs11": "pkcs11",
        "dp_accounting": "dp",
        "opacus": "dp",
        "cedarpy": "policy",
        "jinja2": "report",
        "matplotlib": "report",
        "globus_sdk": "globus",
        "globus_compute_sdk": "globus",
    }
    extra = extras.get(module.partition(".")[0])
    if extra is None:
        return None
    return EnvironmentFault(f"{module} is not installed", remedy=f"Run: pip install 'counterseal[{extra}]'")


def plain(value: object) -> str:
    """Return ``value`` as text for a terminal: control, format and bidirectional characters stand as escapes.

    >>> plain("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character)[0] == "C" else character
        for character in str(value)
    )


def console(*, errors: bool = False) -> Console:
    """Return a console on standard output, or on standard error; it reads no markup in what it prints."""
    from rich.console import Console

    wide = None if (sys.stderr if errors else sys.stdout).isatty() else 160
    return Console(stderr=errors, markup=False, highlight=False, emoji=False, soft_wrap=False, width=wide)


def emit(value: object) -> None:
    """Print the one JSON document of ``--json``."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=True, sort_keys=False, allow_nan=False))


def fields(rows: dict[str, object]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {plain(value)}")


def check_row(ok: bool | None, name: str, what: str) -> None:
    """Print one line of a list of checks: OK, FAIL or, for None, what nobody could judge."""
    word, colour = {True: ("OK", "green"), False: ("FAIL", "red"), None: ("??", "yellow")}[ok]
    typer.echo(f"{typer.style(f'{word:<4}', fg=colour, bold=True)}  {plain(name)}: {plain(redact(what))}")


def show_error(error: CountersealError, *, as_json: bool = False) -> None:
    """Print what was wrong, where and what to do on standard error, and with ``as_json`` as the document as well."""
    from rich.text import Text

    if as_json:
        told = {"code": error.code, "what": error.what, "where": error.where, "mend": error.remedy}
        emit({"error": {name: redact(value) for name, value in told.items()}})
    out = console(errors=True)
    text = Text("error: ", style="bold red")
    text.append("\n".join(plain(redact(line)) for line in error.what.splitlines()), style="default")
    out.print(text, soft_wrap=True)
    for label, value in (("where", error.where), ("mend", error.remedy)):
        if value:
            out.print(Text(f"  {label}: ", style="bold").append(plain(redact(value)), style="default"), soft_wrap=True)


def redact(text: str) -> str:
    """Return ``text`` without the query strings of its URLs, where grants carry their signatures."""
    return _QUERY.sub(r"\1?...", text)


@contextmanager
def typed_values() -> Iterator[None]:
    """Turn a value that a document does not take into a usage error that names the option; the value is not repeated."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise typer.BadParameter(first["msg"].removeprefix("Value error, "), param_hint=name and f"--{name}") from None


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(plain(line) for line in redact(super().format(record)).splitlines())


def show_logging(verbose: int) -> Callable[[], None]:
    """Show this package's own logging on standard error: warnings, with 1 information, with 2 everything.

    Libraries are left alone: their debug output would show signed addresses and headers. What is returned undoes it.
    """
    logger = logging.getLogger("counterseal")
    before = logger.handlers[:], logger.propagate, logger.level
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG))

    def undo() -> None:
        logger.handlers[:], logger.propagate = before[0], before[1]
        logger.setLevel(before[2])

    return undo


def jsonable(value: Any) -> Any:
    """Return ``value`` with numbers that JSON lacks as None."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(name): jsonable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(one) for one in value]
    return value
