"""`counterseal group`: make the federation's Globus group, invite and remove members, and see what the members may do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .output import JsonFlag, check_row, emit, fields, plain

if TYPE_CHECKING:
    from ..globus.credentials import Credentials
    from ..globus.managing import Action
    from ..globus.standing import Report

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make and keep the federation's group at Globus.")

Config = Annotated[
    Path,
    typer.Option(
        "--config", help="A site's or server's configuration, or a file with a block globus: and nothing else."
    ),
]
GroupId = Annotated[
    str | None, typer.Option("--group", metavar="UUID", help="The group; by default the one that the charter names.")
]
Username = Annotated[str | None, typer.Option(help="The username at Globus: name@institution.")]
Identity = Annotated[str | None, typer.Option(metavar="UUID", help="The identity, where there is no username.")]
Role = Annotated[
    Literal["member", "manager"], typer.Option(help="In the group: a site is a member, the server a manager.")
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The group's name at Globus.")],
    config: Config,
    description: Annotated[str, typer.Option(help="What the group is for.")] = "A federation of counterseal",
    server: Annotated[
        str | None, typer.Option(metavar="UUID", help="The server's identity, added as a manager.")
    ] = None,
    parent: Annotated[
        str | None, typer.Option(metavar="UUID", help="Make a subgroup of this group: the auditors, for instance.")
    ] = None,
    assurance_seconds: Annotated[
        int | None,
        typer.Option(min=900, max=31_536_000, help="Make it a high-assurance group: how old a login may be at most."),
    ] = None,
    finish: Annotated[
        str | None, typer.Option(metavar="UUID", help="Finish this group, which an earlier call left half made.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the group: private, its members see each other, nobody can ask to join. You become its administrator.

    A person needs `counterseal login --scope manage`; a service account needs nothing.

    Example: counterseal group create heart --config globus.yaml --server 0f1e2d3c-...
    """
    from ..errors import GlobusFault
    from ..globus.managing import act, create_group, set_policies

    server, parent, finish = _uuid(server, "server"), _uuid(parent, "parent"), _uuid(finish, "finish")
    with _credentials(config) as credentials:
        client = credentials.groups(write=True)
        made = create_group(client, name, description, parent=parent) if finish is None else finish
        try:
            set_policies(client, made, assurance_seconds=assurance_seconds)
            if server is not None and server != credentials.config.client_id:
                act(client, made, "add", server, "manager")
        except GlobusFault as error:
            error.where = f"group {made}, which is made and not finished"
            error.remedy = f"{error.remedy} Then the same command with --finish {made}.".strip()
            raise
    if as_json:
        emit({"group": made, "name": name, "server": server})
        return
    fields({"group": made, "name": name, "server": server or "not added"})
    typer.echo(
        "Next: counterseal group invite, for every member; then write the UUID into the charter: "
        f"group: {{id: {made}, authorizer: globus}}"
    )


@app.command()
def invite(
    config: Config,
    group: GroupId = None,
    username: Username = None,
    identity: Identity = None,
    role: Role = "member",
    add: Annotated[
        bool, typer.Option("--add", help="Make it a member at once: for service accounts, which cannot accept.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Invite one identity; it is a member once it accepts at app.globus.org. With --add it is one at once.

    Example: counterseal group invite --config server.yaml --username anna@hospital.example
    """
    _change(config, group, username, identity, "add" if add else "invite", role, as_json)


@app.command()
def remove(
    config: Config,
    group: GroupId = None,
    username: Username = None,
    identity: Identity = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove one identity. It is out from the server's next question on, within 30 seconds, also in the middle of a round.

    Example: counterseal group remove --config server.yaml --username anna@hospital.example
    """
    _change(config, group, username, identity, "remove", "member", as_json)


@app.command()
def status(config: Config, group: GroupId = None, as_json: JsonFlag = False) -> None:
    """Show the members, what they may do here, and how that fits the charter; exit code 1 where it does not.

    Example: counterseal group status --config server.yaml
    """
    from ..globus.standing import standing

    place = _party(config)
    with _credentials(config) as credentials:
        report = standing(credentials, _group(group, place), place)
    if as_json:
        emit(report.document())
    else:
        _show(report)
    if not report.fits:
        raise typer.Exit(1)


def _credentials(config: Path) -> Credentials:
    from ..config import load_globus
    from ..globus.credentials import Credentials

    return Credentials.open(load_globus(config))


def _change(
    config: Path,
    group: str | None,
    username: str | None,
    identity: str | None,
    action: Action,
    role: Literal["member", "manager"],
    as_json: bool,
) -> None:
    from ..globus.managing import act, find_identity

    identity = _uuid(identity, "identity")
    if (username is None) == (identity is None):
        raise typer.BadParameter("give exactly one of --username, --identity", param_hint="--username")
    with _credentials(config) as credentials:
        place = _group(group, _party(config))
        whom = identity if identity is not None else find_identity(credentials, username or "")
        now = act(credentials.groups(write=True), place, action, whom, role)
    if as_json:
        emit({"group": place, "identity": whom, "username": username, "status": now})
    else:
        typer.echo(f"{plain(username or whom)} is now {plain(now)} in group {place}.")


def _uuid(value: str | None, option: str) -> str | None:
    from ..globus.groups import UUID

    if value is not None and not UUID.fullmatch(value.lower()):
        raise typer.BadParameter("not a UUID", param_hint=f"--{option}")
    return None if value is None else value.lower()


def _party(config: Path) -> Any:
    """Return a site's or server's configuration, or None for a file of Globus alone."""
    from ..config import load_server, load_site
    from ..config.document import Source, read_text

    names = Source(read_text(config), str(config)).value.keys()
    if names == {"globus"}:
        return None
    return load_server(config) if "transport" in names else load_site(config)


def _group(given: str | None, party: Any) -> str:
    """Return the group that is named, or the charter's."""
    found = _uuid(given, "group")
    if found is not None:
        return found
    if party is None:
        raise typer.BadParameter("this configuration has no charter: name the group", param_hint="--group")
    from ..globus.standing import charter_of

    charter = charter_of(party)
    if charter.charter.group.authorizer != "globus":
        raise typer.BadParameter("the charter's group is a roster file", param_hint="--group")
    return str(charter.charter.group.id)


def _show(report: Report) -> None:
    from rich.table import Table

    from .output import console

    about = report.facts
    fields(
        {
            "group": f"{about.name} ({about.id})",
            "this login": about.own_role or "no active member",
            "members see each other": {"members": "yes", "managers": "only managers do"}.get(
                about.members_visibility or "", "unknown"
            ),
            "high assurance": "unknown" if about.high_assurance is None else "yes" if about.high_assurance else "no",
            **({"cloud": f"TEST CLOUD {report.cloud}"} if report.cloud != "globus.org" else {}),
        }
    )
    table = Table(box=None, pad_edge=False)
    for name in ("username", "identity", "in the group", "status", "may be", "in the charter"):
        table.add_column(name)
    for row in report.rows:
        cells = (row.username, row.identity, row.role, row.status, ", ".join(row.may) or "nothing", row.charter)
        table.add_row(*(plain(cell) for cell in cells))
    console().print(table)
    for ok, what in report.findings:
        check_row(ok, "group", what)
