"""`counterseal audit privacy`: what private runs cost each site, computed again from the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonFlag, console, emit, plain

if TYPE_CHECKING:
    from ...audit.checks.evidence import Evidence
    from ..accounts import Account
    from ..central import CentralAccount

__all__ = ["privacy"]


def privacy(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The log's folder, or a copy of the store's mirror.")],
    charter: Annotated[Path, typer.Option(help="The folder of the signed charter that you hold: your root of trust.")],
    run: Annotated[str | None, typer.Option(help="Only this run.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compute every site's epsilon again from the terms in the log, and compare it with what the site signed.

    For a run whose server adds the noise (dp-fedavg): what its versions say about one site, if the server is trusted.

    Needs the extra `dp`. Whether the noise was drawn as said is not in any log. Exit code 1 if a stated epsilon does not
    agree, or if the copy of the log does not hold: receipts may then be missing; `counterseal audit verify` says more.

    Example: counterseal audit privacy server/log --charter charter
    """
    from ...audit.checks.evidence import Trust, gather
    from ...audit.checks.leaf_checks import read_events
    from ...audit.checks.source import FolderSource
    from ..accounts import accounts, second_opinion
    from ..central import central_accounts
    from .audit import charter_held

    source = FolderSource(folder)
    evidence = gather(source, Trust(charter_held(charter), objects=source.objects()))
    reading = read_events(evidence)
    faults = [*_faults(evidence), *reading.faults]
    found = [one for one in accounts((one.index, one.event) for one in reading.events) if run in (None, one.run)]
    rows = [(one, second_opinion(one)) for one in found]
    servers = [
        one for one in central_accounts((one.index, one.event) for one in reading.events) if run in (None, one.run)
    ]
    if as_json:
        agree, stated = all(one.agrees for one in found), [_as_json(one, other) for one, other in rows]
        emit({"agree": agree, "faults": faults, "sites": stated, "servers": [_server_json(one) for one in servers]})
    else:
        _show_servers(servers)
        _show(rows, faults, told=bool(servers))
    if faults or not all(one.agrees for one in found):
        raise typer.Exit(1)


def _faults(evidence: Evidence) -> list[str]:
    """Return why the leaves may not be all that the log holds."""
    latest = evidence.latest
    if latest is None:
        return ["no checkpoint here is signed by the log that the charter names"]
    if evidence.unread:
        return [evidence.unread]
    if len(evidence.leaves) != latest.size or evidence.tree.root(latest.size) != latest.root:
        return ["the leaves do not hash to the checkpoint's root"]
    return []


def _server_json(one: CentralAccount) -> dict[str, Any]:
    from ..central import ADJACENCY, UNIT

    return {
        "run": one.run,
        "terms": {**one.terms.rule.parameters(), "delta": one.terms.delta, "unit": UNIT, "adjacency": ADJACENCY},
        "versions": one.commits,
        "epsilon": one.epsilon,
        "whole_run": one.whole.epsilon,
        "trusted": ["server", "auditor"],
    }


def _show_servers(found: list[CentralAccount]) -> None:
    for one in found:
        rule = one.terms.rule
        typer.echo(
            f"Run {plain(one.run)}: the server adds the noise. Epsilon {one.epsilon:g} at delta {one.terms.delta:g} for "
            f"{one.commits} versions ({one.whole.epsilon:g} for all {one.rounds}): unit one site, add-remove, q = 1, "
            f"{rule.noise_multiplier:g} clipping bounds of {rule.clip_norm:g}, divided by {rule.sites} sites.\n"
            "Trusted: the server and the auditor, who see every update. Not covered: whether the noise was drawn; no site can "
            "check it, an auditor recomputes each version (`counterseal audit replay`)."
        )


def _as_json(one: Account, other: float | None) -> dict[str, Any]:
    return {
        "run": one.run,
        "site": one.site,
        "leaf": one.leaf,
        "terms": one.terms.model_dump(mode="json"),
        "releases": one.spending.releases,
        "epsilon": one.stated,
        "delta": one.delta,
        "recomputed": one.recomputed,
        "second_opinion": other,
        "whole_run": one.whole,
        "agrees": one.agrees,
        "policy": one.spending.policy,
        "ledger": one.spending.ledger,
    }


def _show(rows: list[tuple[Account, float | None]], faults: list[str], *, told: bool) -> None:
    from rich.box import ROUNDED
    from rich.table import Table

    if faults:
        typer.echo(
            f"This copy does not hold ({len(faults)} faults, the first: {plain(faults[0])}): `counterseal audit verify`."
        )
    if not rows:
        if not told:
            typer.echo("No run in this log has privacy terms.")
        return
    table = Table(box=ROUNDED)
    for name in (
        "run",
        "site",
        "mechanism",
        "protects",
        "releases",
        "stated ε",
        "at δ",
        "computed again",
        "Opacus PRV",
        "",
    ):
        table.add_column(name, justify="left" if name in ("run", "site", "mechanism", "protects", "") else "right")
    for one, other in rows:
        terms = one.terms
        table.add_row(
            plain(one.run),
            plain(one.site),
            terms.mechanism,
            f"{terms.unit}, {terms.adjacency}",
            f"{one.spending.releases} of {terms.releases}",
            f"{one.stated:g}",
            f"{one.delta:.3g}",
            f"{one.recomputed:g}",
            "" if other is None else f"{other:.3f}",
            "agrees" if one.agrees else "DOES NOT AGREE",
        )
    console().print(table)
    typer.echo(
        "Not covered: whether the noise was drawn as said, and whether each site's ledger held. Both are the site's word."
    )
