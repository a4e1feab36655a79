"""`counterseal server admit`: decide about enrolments, and put admitted key statements beside the charter's draft."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .output import JsonFlag, check_row, emit, exit_code, plain, redact

if TYPE_CHECKING:
    from ...errors import CountersealError
    from ...trust.charter.model import Charter
    from ...trust.group import Authorizer
    from ...trust.keys.member import MemberKeys
    from ..config import GlobusConfig, ServerConfig
    from ..founding.admissions import Admission, Admissions
    from ..founding.desk import Auth, Desk, Place

__all__ = ["admit"]

_LIMIT = 64 << 10
Row = dict[str, Any]


def admit(
    config: Annotated[Path, typer.Option("--config", "-c", help="The server's YAML file.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Sealed enrolments; without any, shows who was admitted."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="UUID", help="The Globus group, before a charter names it.")
    ] = None,
    role: Annotated[Literal["site", "auditor"], typer.Option(help="In which role the group must name them.")] = "site",
    statement: Annotated[
        Path | None,
        typer.Option(help="The server's own key statement, before there is a charter; by default beside --config."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="For admitted statements; by default proposal/statements.")] = None,
    max_session_age: Annotated[
        int, typer.Option(min=60, max=172_800, help="Seconds that may have passed since the person logged in.")
    ] = 28_800,
    require_mfa: Annotated[
        bool, typer.Option("--require-mfa/--no-mfa", help="Whether the login must have had more than one factor.")
    ] = True,
    service_account: Annotated[
        list[str] | None, typer.Option(metavar="IDENTITY", help="A program that may enrol, though it logs in nowhere.")
    ] = None,
    nonce: Annotated[str | None, typer.Option(help="What you handed out for this one enrolment.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Open enrolments, check each token and membership once, and record every decision.

    An admission makes no key valid: the charter does, which every member signs. Exit code 1 if one was not admitted, 3 if
    Globus did not answer: nothing is decided then, and the same file counts later.

    Example: counterseal server admit --config server.yaml --group UUID *.enrolment.counterseal.json
    """
    if nonce is not None and len(files or []) != 1:
        raise typer.BadParameter("a nonce belongs to one enrolment", param_hint="--nonce")
    from ...trust.keys.custody import load_folder
    from ...trust.mailbox import LIMIT
    from ...trust.strict_yaml import read_regular_file
    from ..config import load_server
    from ..founding.admissions import Admissions
    from ..founding.desk import Desk, newest_admissions, publish_statements

    settings = load_server(config)
    beside = config.absolute().parent
    keys = load_folder(settings.keys, settings.passphrase.source().obtain())
    place, charter = _place(settings, statement or beside / "key-statement.counterseal.json", keys)
    admissions = Admissions(settings.admissions_folder, keys.signer.public)
    folder = out or beside / "proposal" / "statements"
    raws = {path: read_regular_file(path, limit=LIMIT, what="enrolment", follow=False).strip() for path in files or []}
    publish_statements(admissions, folder)
    rows, code = list[Row](), 0
    with ExitStack() as stack:
        if raws:
            globus, named = _group(settings, charter, group)
            auth = _auth(globus, stack, max_session_age, require_mfa, service_account or [])
            authorizer = _authorizer(settings, globus, named)
            desk = Desk(place, keys, admissions, authorizer, _now, role=role, auth=auth)
            rows, code = _decide_all(desk, raws, nonce)
    publish_statements(admissions, folder)
    members = [_about(record) for record in newest_admissions(admissions).values()]
    for row in rows:
        row["same_person"] = _same_person(admissions, row)
    _tell(rows, members, folder, as_json)
    if code:
        raise typer.Exit(code)


def _now() -> int:
    return int(time.time())


def _place(settings: ServerConfig, statement: Path, keys: MemberKeys) -> tuple[Place, Charter | None]:
    """Return whom the desk speaks for, and the charter, if there is one yet."""
    from ...trust.errors import CustodyError
    from ...trust.strict_yaml import read_regular_file
    from ..founding.charter_folder import read_charter_folder
    from ..founding.desk import Place
    from ..founding.enrol import read_server_statement

    charter = None
    if (settings.charter / "charter.json").is_file():
        signed = read_charter_folder(settings.charter, now=_now())
        own, charter = signed.statements[signed.charter.server], signed.charter
    else:
        own = read_server_statement(
            read_regular_file(statement, limit=_LIMIT, what="key statement").strip(), now=_now()
        )
    if own.document.key_ids != keys.key_ids or own.document.identity != settings.identity:
        raise CustodyError("these are not the keys of the server's statement", where=settings.identity)
    return Place(own.document.federation, own.document.log_origin, settings.identity), charter


def _group(
    settings: ServerConfig, charter: Charter | None, group: str | None
) -> tuple[GlobusConfig | None, str | None]:
    """Return how to ask Globus, or None where the group is a roster; and the group's name. A charter has the last word."""
    from ..errors import ConfigError

    if charter is None:
        if settings.globus is not None and group is None:
            raise ConfigError("which group?", where="--group", remedy="Name the Globus group's UUID: --group UUID.")
        return settings.globus, group
    if group not in (None, charter.group.id):
        raise ConfigError(f"the charter's group is {charter.group.id}", where="--group", remedy="Leave --group out.")
    if charter.group.authorizer == "roster":
        return None, charter.group.id
    if settings.globus is None:
        raise ConfigError("the charter's group is one of Globus, and no block globus is configured", where="globus")
    return settings.globus, charter.group.id


def _auth(
    globus: GlobusConfig | None, stack: ExitStack, age: int, mfa: bool, service_accounts: Sequence[str]
) -> Auth | None:
    if globus is None:
        return None
    from ..founding.desk import Auth
    from ..globus.credentials import Credentials, enrolment_scope
    from ..globus.examination import TokenRules, introspector

    credentials = stack.enter_context(Credentials.open(globus))
    rules = TokenRules(
        server=globus.client_id,
        scope=enrolment_scope(globus.client_id),
        clients=frozenset(globus.clients),
        max_session_age=age,
        require_mfa=mfa,
        service_accounts=frozenset(service_accounts),
    )
    return Auth(introspector(credentials), rules)


def _authorizer(settings: ServerConfig, globus: GlobusConfig | None, group: str | None) -> Authorizer:
    if globus is not None:
        from ..globus.authorizer import open_authorizer

        return open_authorizer(globus, group or "", _now)
    from ...trust.group import RosterAuthorizer
    from ..errors import ConfigError

    if settings.roster is None:
        raise ConfigError("no group is configured", where="roster", remedy="Name a block globus, or a roster file.")
    return RosterAuthorizer(settings.roster, _now, group=group)


def _decide_all(desk: Desk, raws: Mapping[Path, bytes], nonce: str | None) -> tuple[list[Row], int]:
    """Decide about each file; return what became of each, and the exit code. Without an answer of Globus the rest waits."""
    from ..errors import AdmissionError, GlobusFault

    rows: list[Row] = []
    away: GlobusFault | None = None
    for path, raw in raws.items():
        if away is None:
            try:
                rows.append(_decide(desk, path, raw, nonce))
                continue
            except AdmissionError as error:
                rows.append(_refused(path, error.reason, error))
                continue
            except GlobusFault as error:
                away = error
        rows.append({**_refused(path, away.code, away), "decided": False})
    if away is not None:
        return rows, exit_code(away)
    return rows, 0 if all(row["admitted"] for row in rows) else 1


def _decide(desk: Desk, path: Path, raw: bytes, nonce: str | None) -> Row:
    from ...trust.errors import TrustError

    try:
        record = desk.decide(raw, nonce=nonce)
    except TrustError as error:
        return _refused(path, error.code, error)
    return {"file": str(path), "admitted": True, "decided": True, **_about(record.document)}


def _refused(path: Path, reason: str, error: CountersealError) -> Row:
    about = {"file": str(path), "admitted": False, "decided": True, "reason": reason}
    return {**about, "what": error.what, "mend": error.remedy}


def _about(admission: Admission) -> Row:
    shown, statement = admission.shown, admission.statement
    return {
        "identity": admission.decision.identity,
        "role": admission.decision.role,
        "endpoint": admission.claimed.endpoint,
        "digest": statement.digest,
        "authenticated": None if shown is None else shown.authenticated,
        "mfa": None if shown is None else shown.mfa,
        "session_age": None if shown is None else shown.session_age,
    }


def _same_person(admissions: Admissions, row: Row) -> list[str]:
    """Return the other admitted identities that Globus links to this one: one person, who would sign as several members."""
    from ..founding.admissions import linked_identities

    if not row["admitted"]:
        return []
    found = linked_identities(admissions.records())
    own = found[row["identity"]]
    return sorted(other for other, linked in found.items() if other != row["identity"] and linked & own)


def _tell(rows: list[Row], members: list[Row], folder: Path, as_json: bool) -> None:
    if as_json:
        emit({"decisions": rows, "admitted": members, "statements": str(folder)})
        return
    for row in rows:
        if row["admitted"]:
            check_row(True, row["identity"], _login(row))
            for other in row["same_person"]:
                check_row(None, row["identity"], f"the same person was admitted as {other}: is that one member or two?")
        else:
            check_row(False if row["decided"] else None, Path(row["file"]).name, f"{row['what']} ({row['reason']})")
            if row["mend"]:
                typer.echo(f"      mend: {plain(redact(row['mend']))}")
    shown = [row for row in rows if row["admitted"]] if rows else members
    if shown:
        _stanzas(shown, folder)
    elif not rows:
        typer.echo("Nobody was admitted yet.")


def _login(row: Row) -> str:
    from ...trust.charter.signing import fingerprint

    age, factors = row["session_age"], {True: ", more than one factor", False: ", one factor"}.get(row["mfa"], "")
    login = "no login" if age is None else f"logged in {age} s ago{factors}"
    return f"admitted; {login}; key statement {fingerprint(row['digest'])}"


def _stanzas(admitted: list[Row], folder: Path) -> None:
    from ..founding.desk import statement_file

    typer.echo("\nFor charter.yaml, under members (give each its name and weight):\n")
    for row in admitted:
        typer.echo(f'  - identity: "{row["identity"]}"')
        typer.echo("    name: The name of the institution")
        typer.echo(f"    roles: [{row['role']}]")
        if row["role"] == "site":
            typer.echo("    weight: 1.0")
        typer.echo(f"    statement: {plain(folder.name)}/{statement_file(row['identity'])}")
    reached = [row for row in admitted if row["endpoint"] is not None]
    if reached:
        typer.echo("\nFor server.yaml, under transport.endpoints:\n")
    for row in reached:
        typer.echo(f'    "{row["identity"]}": "{row["endpoint"]}"')
