"""`counterseal ledger price`: what a run would cost, before anybody reserves anything; and how much noise a target asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonFlag, console, emit, plain

if TYPE_CHECKING:
    from ...trust.terms import PrivacyTerms
    from ..config import RunConfig

__all__ = ["price"]


def price(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's YAML file with privacy terms.")],
    epsilon: Annotated[
        float | None, typer.Option(help="Also say which noise multiplier would cost at most this, all else equal.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what the releases of a run cost each site: epsilon of the whole run and of each release, from its terms alone.

    Needs the extra `dp`. Opens no ledger and spends nothing; a site's own statement can be lower in the last digit.

    Example: counterseal ledger price run.yaml --epsilon 4
    """
    from ..config import load_run

    rows = [_row(who, terms, found, epsilon) for found in [load_run(run)] for who, terms in _terms(found)]
    if as_json:
        emit({"run": str(run), "terms": rows})
        return
    if not rows:
        typer.echo("This run has no privacy terms: updates leave the sites exactly as computed.")
        return
    _show(rows)


def _terms(run: RunConfig) -> list[tuple[str, PrivacyTerms]]:
    if run.privacy is None:
        return []
    return [
        ("every site" if not run.privacy.sites else "every other site", run.privacy.terms),
        *run.privacy.sites.items(),
    ]


def _row(who: str, terms: PrivacyTerms, run: RunConfig, epsilon: float | None) -> dict[str, Any]:
    from ..accounts import coarse_price

    cost = coarse_price(terms, None if run.privacy is None else run.privacy.counts)
    whole = cost.statement(terms.releases)
    return {
        "site": who,
        "mechanism": terms.mechanism,
        "unit": terms.unit,
        "adjacency": terms.adjacency,
        "noise_multiplier": terms.noise_multiplier,
        "releases": terms.releases,
        "steps": terms.steps * terms.releases,
        "epsilon": whole.epsilon,
        "delta": whole.delta,
        "epsilon_of_one_release": cost.statement(1).epsilon,
        "accountant": whole.accountant,
        **({} if epsilon is None else {"asked": epsilon, "needs": _needed(terms, cost.bound, epsilon)}),
    }


def _needed(terms: PrivacyTerms, bound: int, epsilon: float) -> float:
    from ...privacy.accounting.calibrate import calibrate, calibrate_laplace

    steps = terms.steps * terms.releases
    if terms.mechanism == "output-laplace":
        return calibrate_laplace(epsilon, steps=steps, adjacency=terms.adjacency)
    return calibrate(
        epsilon,
        terms.delta,
        steps=steps,
        sampling_rate=terms.sampling_rate,
        adjacency=terms.adjacency,
        bound_units=bound,
    )


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.box import ROUNDED
    from rich.table import Table

    table = Table(box=ROUNDED)
    for name in ("site", "mechanism", "protects", "noise", "releases", "steps", "ε of one", "ε of the run", "at δ"):
        table.add_column(name, justify="left" if name in ("site", "mechanism", "protects") else "right")
    for row in rows:
        table.add_row(
            plain(row["site"]),
            row["mechanism"],
            f"{row['unit']}, {row['adjacency']}",
            f"{row['noise_multiplier']:g}",
            str(row["releases"]),
            str(row["steps"]),
            f"{row['epsilon_of_one_release']:g}",
            f"{row['epsilon']:g}",
            f"{row['delta']:.3g}",
        )
    console().print(table)
    for row in rows:
        if "needs" in row:
            typer.echo(
                f"{plain(row['site'])}: a noise multiplier of {row['needs']:g} would cost at most epsilon {row['asked']:g}."
            )
