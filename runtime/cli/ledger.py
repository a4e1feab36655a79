"""`counterseal ledger`: what may still be released about an institution's people, for the officer who decides it.

What is shown are the institution's own numbers: nothing of it is sent to anybody.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .ledger_price import price
from .output import JsonFlag, console, emit, fields, jsonable, plain

if TYPE_CHECKING:
    from ...privacy.ledger.balance import Balance
    from ...privacy.ledger.book import Book, Run
    from ...privacy.ledger.entry import Entry
    from ..config.ledger import LedgerConfig

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Keep the ledger of privacy spent, and set its caps."
)

app.command()(price)

Config = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="A site's configuration, or a YAML file with nothing but its `ledger:` block."
    ),
]
Readable = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG|LEDGER", help="As for the others; or a ledger's file itself: no anchor is asked then."
    ),
]
Note = Annotated[str, typer.Option(help="Why, for whoever reads the ledger later; at most 500 characters.")]
Adjacency = Literal["add-remove", "replace-one", "any"]

_SQLITE = b"SQLite format 3\0"


@app.command()
def create(config: Config, as_json: JsonFlag = False) -> None:
    """Make an empty ledger, bound to its anchor for ever if the configuration names one.

    Example: counterseal ledger create site.yaml
    """
    from ...durable import make_folder
    from ...privacy.ledger.ledger import Ledger
    from ..anchors.opening import load_ledger, open_anchor

    named = load_ledger(config)
    make_folder(named.path.parent, 0o700)
    ledger = Ledger.create(named.path, open_anchor(named))
    about: dict[str, object] = {"ledger": ledger.mark.ledger, "file": str(ledger.path), "anchor": ledger.place}
    emit({**about, "warnings": _warnings(named)}) if as_json else fields(about)
    _warn(named, as_json)


@app.command()
def cap(
    config: Config,
    population: Annotated[str, typer.Argument(metavar="POPULATION", help="The people whose budget this is.")],
    epsilon: Annotated[float, typer.Option(help="At most this much over all experiments, for ever.")],
    delta: Annotated[float, typer.Option(help="The delta at which epsilon is meant; 0 allows pure mechanisms only.")],
    unit: Annotated[str | None, typer.Option(help="What is protected; by default `record`, or as it is.")] = None,
    adjacency: Annotated[
        Adjacency | None, typer.Option(help="Which data must look alike; by default `add-remove`, or as it is.")
    ] = None,
    note: Note = "",
    as_json: JsonFlag = False,
) -> None:
    """Make a population, or change its cap. A change counts from the next run on; unit and adjacency stay for ever.

    Example: counterseal ledger cap site.yaml cardiology --epsilon 8 --delta 1e-6 --unit patient --note "board, 12 May"
    """
    from ..anchors.opening import load_ledger, open_ledger

    ledger = open_ledger(load_ledger(config))
    known = {one.name: one for one in ledger.balances()}.get(population)
    entry = ledger.set_population(
        population,
        unit=unit or (known.unit if known else "record"),
        adjacency=adjacency or (known.adjacency if known else "add-remove"),
        epsilon=epsilon,
        delta=delta,
        note=note,
    )
    _tell(entry, as_json)


@app.command("map")
def map_dataset(
    config: Config,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The name of data, as in a site's configuration.")],
    population: Annotated[str, typer.Argument(metavar="POPULATION", help="Whose data these are.")],
    note: Note = "",
    as_json: JsonFlag = False,
) -> None:
    """Say whose data a dataset is. Changing it refunds nothing: the new population pays for what was spent, too.

    Example: counterseal ledger map site.yaml ecg-2019 cardiology
    """
    from ..anchors.opening import load_ledger, open_ledger

    _tell(open_ledger(load_ledger(config)).map_dataset(dataset, population, note=note), as_json)


@app.command("close")
def close_run(
    config: Config,
    federation: Annotated[str, typer.Argument(metavar="FEDERATION", help="The federation's name.")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
    site: Annotated[str, typer.Argument(metavar="SITE", help="This site's identity there.")],
    as_json: JsonFlag = False,
) -> None:
    """Give back what a run reserved and no ticket drew; it draws nothing any more. For runs that ended without saying so.

    Example: counterseal ledger close site.yaml heart run-1 site-a@example.org
    """
    from ..anchors.opening import load_ledger, open_ledger

    _tell(open_ledger(load_ledger(config)).close_run(federation, run, site), as_json)


@app.command()
def show(source: Readable, as_json: JsonFlag = False) -> None:
    """Show each population's cap, what is spent, reserved and left, and its runs. Epsilons are rounded against you.

    Example: counterseal ledger show site.yaml
    """
    from ...privacy.ledger.balance import balance_of
    from ...privacy.ledger.book import Book

    entries, named, path = _read(source)
    book = Book.of(entries)
    found = [balance_of(book.populations[name]) for name in sorted(book.populations)]
    if as_json:
        populations = [{**_balance(one), "runs": _runs(book, one.name)} for one in found]
        about = {**_about(book, path, named), "populations": populations, "warnings": _warnings(named)}
        emit(jsonable({**about, "datasets": {name: one.population for name, one in sorted(book.datasets.items())}}))
        return
    fields(_about(book, path, named))
    _table(found)
    for one in found:
        for run in _runs(book, one.name):
            place = f"{one.name}: {run['federation']} {run['run']} {run['site']}"
            typer.echo(plain(f"  {place}: {run['drawn']} of {run['releases']} releases, {run['state']}"))
    _warn(named, as_json)


@app.command()
def export(
    source: Readable,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default standard output.")] = None,
) -> None:
    """Write every entry as a line of JSON, checked from the first to the last. SHA-256 of each line is in the next.

    The count and the head are told on standard error. Exit code 1 if the chain does not hold.

    Example: counterseal ledger export site.yaml --out ledger.jsonl
    """
    from ...durable import create_file

    entries, named, _ = _read(source)
    lines = b"".join(entry.raw + b"\n" for entry in entries)
    if out is None:
        typer.echo(lines.decode(), nl=False)
    else:
        create_file(out, lines, step="cli.export")
    asked = "the anchor knows this head" if named is not None and named.anchor is not None else "no anchor was asked"
    typer.echo(f"{len(entries)} entries, chain holds, head {entries[-1].digest}; {asked}", err=True)


@app.command()
def plot(
    source: Readable,
    out: Annotated[Path, typer.Option(help="The picture: a name that ends with .svg or .png.")],
) -> None:
    """Draw each population's budget over time against its cap.

    Example: counterseal ledger plot site.yaml --out budget.svg
    """
    from ...durable import create_file
    from ...privacy.ledger.balance import history
    from .ledger_plot import draw

    kind = out.suffix.lower().removeprefix(".")
    if kind not in {"svg", "png"}:
        raise typer.BadParameter("a name that ends with .svg or .png", param_hint="--out")
    entries, _, _ = _read(source)
    create_file(out, draw(history(entries), kind), step="cli.plot")
    typer.echo(str(out))


@app.command()
def recover(
    config: Config,
    note: Annotated[str, typer.Option(help="What happened and who decided, for whoever reads the ledger later.")],
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Entries are lost for good: everything that is known is exhausted.")
    ] = False,
    new_anchor: Annotated[
        bool, typer.Option("--new-anchor", help="Bind the ledger to the anchor that the configuration names now.")
    ] = False,
    dataset: Annotated[
        list[str] | None, typer.Option(help="With --accept-loss: data that only the lost entries knew. Repeatable.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Declare what became of a ledger that its anchor does not agree with. Nothing of this can be taken back.

    First look for the newest copy of the ledger's file and put it in its place: then nothing needs to be declared. With
    --accept-loss no budget is left for any population or dataset that the file knows, as nobody knows what the lost entries
    spent. With --new-anchor the file is taken as the newest on your word: the old anchor must be lost, and not just ahead.

    Example: counterseal ledger recover site.yaml --accept-loss --note "disk failed on 12 May; newest backup is of 11 May"
    """
    from ...privacy.ledger import recovery
    from ..anchors.opening import load_ledger, open_anchor

    if accept_loss == new_anchor:
        raise typer.BadParameter("give one of --accept-loss and --new-anchor", param_hint="recover")
    if dataset and not accept_loss:
        raise typer.BadParameter("belongs to --accept-loss", param_hint="--dataset")
    named = load_ledger(config)
    anchor = open_anchor(named)
    if accept_loss:
        entry = recovery.accept_loss(named.path, anchor, note=note, datasets=dataset or ())
    elif anchor is None:
        raise typer.BadParameter("the configuration names no anchor", param_hint="--new-anchor")
    else:
        entry = recovery.adopt_anchor(named.path, anchor, note=note)
    _tell(entry, as_json)


def _read(source: Path) -> tuple[list[Entry], LedgerConfig | None, Path]:
    """Return the entries, and the configuration if there is one: then its anchor has been asked."""
    from ...privacy.ledger.ledger import read_entries
    from ..anchors.opening import load_ledger, open_ledger

    with source.open("rb") as file:
        if file.read(len(_SQLITE)) == _SQLITE:
            return read_entries(source), None, source
    named = load_ledger(source)
    return open_ledger(named).export(), named, named.path


def _tell(entry: Entry, as_json: bool) -> None:
    about = {"entry": entry.counter, "kind": entry.kind, "head": entry.digest}
    if as_json:
        emit({**about, "time": entry.time, "body": dict(entry.body)})
    else:
        when = datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        names = {name: value for name, value in entry.body.items() if value not in ("", None, [], {})}
        fields({**about, "time": when, **names})


def _about(book: Book, path: Path, named: LedgerConfig | None) -> dict[str, object]:
    if named is None:
        anchor = "not asked: this file may be an old copy"
    elif named.anchor is None:
        anchor = "NOT COVERED: none is named, so a restored backup of the ledger would not be noticed"
    else:
        anchor = f"{named.anchor.kind}: agrees"
    mark = book.mark
    return {"ledger": mark.ledger, "file": str(path), "entries": len(book.entries), "head": mark.head, "anchor": anchor}


def _balance(one: Balance) -> dict[str, Any]:
    return {
        "name": one.name,
        "unit": one.unit,
        "adjacency": one.adjacency,
        "delta": one.delta,
        "cap": one.cap,
        "spent": one.spent,
        "reserved": one.reserved,
        "remaining": one.remaining,
        "releases": one.releases,
        "open_runs": one.open_runs,
        "lost": one.lost,
    }


def _runs(book: Book, population: str) -> list[dict[str, Any]]:
    return [_run(run) for run in book.populations[population].runs.values()]


def _run(run: Run) -> dict[str, Any]:
    federation, name, site = run.key
    state = "lost" if run.lost else "open" if run.closed is None else "closed"
    return {
        "federation": federation,
        "run": name,
        "site": site,
        "dataset": run.dataset,
        "releases": run.releases,
        "drawn": run.drawn,
        "state": state,
        "statement": run.entry.body["statement"],
    }


def _table(balances: list[Balance]) -> None:
    from rich.table import Table

    if not balances:
        typer.echo("No population yet: `counterseal ledger cap` makes one.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("population", "protects", "delta", "cap", "spent", "reserved", "remaining", "releases", "runs"):
        table.add_column(name, justify="left" if name in {"population", "protects"} else "right")
    for one in balances:
        numbers = ("all lost",) * 2 if one.lost else (f"{one.spent:g}", f"{one.reserved:g}")
        table.add_row(
            plain(one.name),
            plain(f"{one.unit}, {one.adjacency}"),
            f"{one.delta:g}",
            f"{one.cap:g}",
            *numbers,
            _down(one.remaining),
            str(one.releases),
            f"{one.runs} ({one.open_runs} open)" if one.open_runs else str(one.runs),
        )
    console().print(table)


def _down(value: float) -> str:
    """Return ``value`` with four significant digits, rounded down."""
    from decimal import ROUND_FLOOR, Context, Decimal

    return f"{float(Context(prec=4, rounding=ROUND_FLOOR).create_decimal(Decimal(value))):g}"


def _warnings(named: LedgerConfig | None) -> list[str]:
    from ..config.ledger import PathAnchorConfig

    if named is None:
        return []
    if named.anchor is None:
        return ["no anchor: a restored backup of the ledger would not be noticed (P4 is NOT COVERED)"]
    if isinstance(named.anchor, PathAnchorConfig):
        disks = {path.parent.stat().st_dev for path in (named.path, named.anchor.path)}
        if len(disks) == 1:
            return ["the anchor lies on the ledger's own file system: a restored image of it brings both back"]
    return []


def _warn(named: LedgerConfig | None, as_json: bool) -> None:
    if not as_json:
        for warning in _warnings(named):
            typer.echo(f"warning: {warning}", err=True)
