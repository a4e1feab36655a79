"""`counterseal site enrol`: present this site's keys to a server, with one access token."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import JsonFlag, emit, fields, plain, typed_values

if TYPE_CHECKING:
    from ..config import GlobusConfig
    from ..founding.enrol import Made

__all__ = ["enrol"]

_LIMIT = 64 << 10


def enrol(
    config: Annotated[Path, typer.Option("--config", "-c", help="The site's YAML file.")],
    server_statement: Annotated[Path, typer.Option(help="The server's key statement, as its officer sent it.")],
    fingerprint: Annotated[
        str | None,
        typer.Option(help="The sealing key's fingerprint that its officer read to you; asked for if not given."),
    ] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="UUID", help="This site's Globus Compute endpoint.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for the two files; by default `enrolment` here.")] = None,
    days: Annotated[int, typer.Option(min=1, max=400, help="For how many days the key statement is valid.")] = 365,
    nonce: Annotated[
        str | None, typer.Option(help="The 64 digits that the server's officer handed out for this enrolment.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the sealed enrolment for the server's officer, and the key statement that the charter will carry.

    The fingerprint is typed, never shown for confirmation: whoever stands between could take the token.

    Example: counterseal site enrol --config site.yaml --server-statement server.key-statement.counterseal.json
    --endpoint 0b5d1bd4-2fc2-4c8e-9b0e-6d1b1c8a3f00
    """
    from ...trust.keys.custody import load_folder
    from ...trust.strict_yaml import read_regular_file
    from ..config import load_site
    from ..founding.enrol import Wishes, enrol, enrolment_files, read_server_statement

    with typed_values():
        wishes = Wishes(endpoint=endpoint, days=days, nonce=nonce)
    settings, now = load_site(config), int(time.time())
    folder = config.absolute().parent / "enrolment" if out is None else out
    server = read_server_statement(
        read_regular_file(server_statement, limit=_LIMIT, what="key statement").strip(), now=now
    )
    enrolment_files(settings.identity, folder)
    typed = fingerprint if fingerprint is not None else typer.prompt(_QUESTION, err=True)
    keys = load_folder(settings.keys, settings.passphrase.source().obtain())
    get_token = None if settings.globus is None else _token_of(settings.globus, config)
    made = enrol(settings.identity, keys, server, typed, get_token, folder, now=now, wishes=wishes)
    _tell(made, as_json)


_QUESTION = "The fingerprint of the server's sealing key that its officer read to you"


def _token_of(globus: GlobusConfig, config: Path) -> Callable[[], str]:
    """Return what buys the one token; refuse a configuration that does not say for whom."""
    from ..errors import ConfigError, LoginNeededError
    from ..globus.credentials import Credentials, enrolment_scope

    if globus.server_client is None:
        raise ConfigError(
            "the server's application is not named",
            where="globus.server_client",
            remedy="Ask the server's officer for its client id: the token of an enrolment is made for it alone.",
        )
    scope = enrolment_scope(globus.server_client)

    def get_token() -> str:
        try:
            with Credentials.open(globus) as credentials:
                return credentials.access_token(scope)
        except LoginNeededError as error:
            if globus.client_secret is not None:
                raise
            login = f"Run: counterseal login --config {config} --scope enrol --mfa"
            raise LoginNeededError(error.what, where=error.where, remedy=login) from None

    return get_token


def _tell(made: Made, as_json: bool) -> None:
    from ...trust.charter.signing import fingerprint
    from .timeline import when

    statement, said = made.keys.document, made.signed.document
    about: dict[str, object] = {
        "enrolment": str(made.enrolment),
        "statement": str(made.statement),
        "identity": said.identity,
        "federation": said.federation,
        "endpoint": said.endpoint,
        "token": statement.token_hash is not None,
        "not_after": statement.not_after,
        "digest": made.keys.digest,
    }
    if as_json:
        emit(about)
        return
    token = "sealed inside, nowhere else" if about["token"] else "none: no block globus is configured"
    shown = {**about, "token": token, "endpoint": said.endpoint or "none"}
    fields({**shown, "not_after": f"{when(statement.not_after)} UTC", "digest": fingerprint(made.keys.digest)})
    typer.echo(
        f"Send {plain(made.enrolment.name)} to the server's officer at once (it is sealed; its token ages),\n"
        "and read the digest above to the officers when the charter is compared."
    )
