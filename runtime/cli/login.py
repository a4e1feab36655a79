"""`counterseal login`: the one command that asks a person to log in to Globus; it shows who that is, and never a token."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonFlag, emit, fields, plain

if TYPE_CHECKING:
    from ..config import GlobusConfig
    from ..globus.credentials import Credentials
    from ..globus.login import Granted, Who

Config = Annotated[
    Path,
    typer.Option(
        "--config", help="A site's or server's configuration, or a file with a block globus: and nothing else."
    ),
]


def login(
    config: Config,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="view|manage|enrol|compute",
            help="What the login covers beside looking at groups; may be given several times.",
        ),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Show an address to open anywhere, and ask for the code.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Log in here and now, whatever the browser remembers; --scope enrol implies it."),
    ] = False,
    mfa: Annotated[bool, typer.Option("--mfa", help="Ask for a second factor.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only show who is logged in, and for what.")] = False,
    logout: Annotated[bool, typer.Option("--logout", help="Revoke the tokens and remove them.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Log in to Globus as the party of a configuration, or prove that its service account works.

    A person logs in with a browser; the tokens go to the file globus.tokens (mode 0600) and renew themselves there. A
    service account keeps no tokens: its secret is tried. No token is ever shown.

    Scopes: view (looking at groups, always), manage (making groups and inviting), enrol (one enrolment at the server
    of globus.server_client), compute (Globus Compute).

    Exit codes: 0 logged in, 1 not logged in or refused, 3 Globus does not answer.

    Example: counterseal login --config site.yaml --scope enrol
    """
    from ..config import load_globus
    from ..globus.credentials import Credentials
    from ..globus.login import SCOPES

    if status and logout:
        raise typer.BadParameter("give at most one of --status, --logout", param_hint="--logout")
    if unknown := set(scope or ()) - set(SCOPES):
        raise typer.BadParameter(f"{sorted(unknown)[0]!r} is none of {', '.join(SCOPES)}", param_hint="--scope")
    settings = load_globus(config)
    with Credentials.open(settings) as credentials:
        if logout:
            _log_out(credentials, as_json)
        elif status or settings.client_secret is not None:
            _show(credentials, settings, tuple(scope or ()), as_json)
        else:
            _log_in(credentials, settings, _identity(config), tuple(scope or ()), not no_browser, fresh, mfa, as_json)


def _identity(path: Path) -> str | None:
    """Return the identity that a party's configuration names; a file of Globus alone names none."""
    from ..config.document import Source, read_text

    found = Source(read_text(path), str(path)).value.get("identity")
    return found if isinstance(found, str) else None


def _log_in(
    credentials: Credentials,
    settings: GlobusConfig,
    identity: str | None,
    scopes: tuple[str, ...],
    use_browser: bool,
    fresh: bool,
    mfa: bool,
    as_json: bool,
) -> None:
    from ..globus.login import browser, log_in, paste, require_person, scopes_of
    from ..globus.login import status as granted

    person = require_person(credentials)
    manager = (browser if use_browser else paste)(person, _ask)
    if use_browser:
        typer.echo("Waiting for the login in your browser.", err=True)
    found = log_in(
        person,
        scopes_of(settings, scopes),
        manager,
        identity=identity,
        fresh=fresh or "enrol" in scopes,
        mfa=mfa,
    )
    _tell(settings, found, granted(person), as_json)


def _ask(address: str) -> str:
    typer.echo(f"Open this address in a browser and log in:\n\n{plain(address)}\n", err=True)
    return str(typer.prompt("The code that the page shows", err=True, hide_input=True)).strip()


def _show(credentials: Credentials, settings: GlobusConfig, scopes: tuple[str, ...], as_json: bool) -> None:
    from ..globus.credentials import Login
    from ..globus.login import prove, scopes_of, who
    from ..globus.login import status as granted

    rows = granted(credentials) if isinstance(credentials, Login) else prove(credentials, scopes_of(settings, scopes))
    _tell(settings, who(credentials), rows, as_json)


def _log_out(credentials: Credentials, as_json: bool) -> None:
    from ..globus.login import log_out, require_person

    count = log_out(require_person(credentials))
    if as_json:
        emit({"revoked": count})
    else:
        typer.echo(f"Logged out: the tokens for {count} services are revoked and removed.")


def _tell(settings: GlobusConfig, found: Who, rows: tuple[Granted, ...], as_json: bool) -> None:
    person = settings.client_secret is None
    if as_json:
        emit(_document(settings, found, rows))
        return
    others = [f"{name} ({identity})" for identity, name in found.linked if identity != found.identity]
    fields(
        {
            "logged in as": found.username,
            "identity": found.identity,
            "linked identities": ", ".join(others) or "none",
            "kind": "person" if person else "service account",
            "application": settings.client_id,
            **({"tokens": settings.tokens} if person else {}),
            **({"cloud": f"TEST CLOUD {settings.insecure_test_cloud}"} if settings.insecure_test_cloud else {}),
        }
    )
    for row in rows:
        end = "renews itself" if row.renews and person else "fetched when needed" if row.renews else _time(row.expires)
        typer.echo(f"  {plain(row.server)}: {plain(row.scope)} ({end})")


def _document(settings: GlobusConfig, found: Who, rows: tuple[Granted, ...]) -> dict[str, Any]:
    return {
        "kind": "person" if settings.client_secret is None else "service_account",
        "application": settings.client_id,
        "cloud": settings.insecure_test_cloud or "globus.org",
        "identity": found.identity,
        "username": found.username,
        "linked": [{"identity": identity, "username": name} for identity, name in found.linked],
        "tokens": None if settings.tokens is None else str(settings.tokens),
        "scopes": [
            {"server": row.server, "scope": row.scope, "expires": _time(row.expires), "renews": row.renews}
            for row in rows
        ],
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
