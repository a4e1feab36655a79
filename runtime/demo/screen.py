"""What a person sees while a demonstration runs: a table of the data, one of each round, and how it ended.

Nothing here decides anything. Everything printed was built from names of our own grammar and numbers; no console reads markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ...audit.checks.findings import Status
from ...trust.charter.model import Charter
from ...trust.charter.signing import fingerprint
from ..central import CentralAccount
from ..progress import RoundDone, RoundStarted, RunDone, RunStarted, SiteDone
from .baselines import CENTRALISED
from .central import how_bad
from .coverage import claims
from .play import Comparing, DataReady, DemoEvent, DemoResult

__all__ = ["Screen"]

_STATUS = {Status.PASS: "green", Status.FAIL: "bold red", Status.UNDECIDED: "yellow", Status.NOT_COVERED: ""}
_STYLES = {"admitted": "green", "rejected": "red", "failed": "red", "refused": "yellow", "expired": "yellow"}

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Screen:
    """Shows a demonstration on ``console``; a context manager, because of the progress bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._rounds = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, event: DemoEvent) -> None:
        """Show one thing that happened."""
        match event:
            case DataReady():
                self._print(_founded(event), _data(event))
            case RunStarted():
                self._rounds = event.rounds
                text = f"Run {event.run}: {event.parameters:,} parameters, {event.rounds} rounds, sealed with {event.suite}"
                self._print(Text(text))
            case RoundStarted():
                self._step("rounds", f"round {event.version + 1}", event.version, self._rounds)
            case RoundDone():
                self._print(_round(event))
                self._step("rounds", "rounds", event.version + int(event.committed), self._rounds)
            case Comparing():
                what = "centralised" if event.name == CENTRALISED else f"{event.name} alone"
                self._step(event.name, f"comparison: {what}", event.done, event.total)
            case SiteDone() | RunDone():
                pass  # in the table of the round, and in the end

    def finish(self, result: DemoResult, report: Path) -> None:
        """Show how the demonstration ended."""
        self._bar.stop()
        self._print(_accuracy(result), *_spent(result), _evidence(result), _claims(result), _places(result, report))

    def _print(self, *what: RenderableType) -> None:
        for one in what:
            self._console.print(one)

    def _step(self, key: str, text: str, done: int, total: int) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._bar.add_task(text, total=total, completed=done)
        self._bar.update(self._tasks[key], description=text, completed=done, visible=done < total)


def _table(*columns: str) -> Table:
    table = Table(box=ROUNDED)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _titled(title: str, table: Table, caption: str) -> Group:
    # A table's own title and caption are wrapped at the table's width.
    return Group(Text(f"\n{title}", style="bold"), table, Text(caption, style="dim"))


def _founded(event: DataReady) -> Panel:
    founded, charter = event.founded, event.founded.charter.charter
    lines = [
        f"{charter.title}",
        f"{len(charter.sites)} sites and a server, each with its own folder, keys and process; members: {_source(charter)}",
        f"quorum: {charter.quorum.k} of {len(charter.sites)} cosignatures, at most {charter.quorum.f} liar",
        f"charter {fingerprint(founded.digest)}",
    ]
    return Panel("\n".join(lines), title="Founded" if founded.fresh else "Going on", title_align="left")


def _source(charter: Charter) -> str:
    return "a roster file each" if charter.group.authorizer == "roster" else f"Globus group {charter.group.id}"


def _short(identity: str) -> str:
    """Return an identity as tables show it: of a UUID the first eight digits."""
    return f"{identity[:8]}…" if _UUID.fullmatch(identity) else identity


def _data(event: DataReady) -> Group:
    classes = [str(number) for number in range(event.dataset.classes)]
    caption = "From this demonstration's own partitioner. Such counts are private: they enter neither log nor report."
    table = _table("site", *classes, "all")
    for site, counts in event.counts.items():
        table.add_row(_short(site), *(str(count) if count else "·" for count in counts), str(sum(counts)))
    return _titled("Examples of each class at each site", table, caption)


def _round(event: RoundDone) -> Group:
    head = (
        f"Round {event.version + 1}"
        if event.committed
        else f"Round {event.version + 1}: NOT COMMITTED ({event.reason})"
    )
    caption = f"{event.seconds:.1f} s, {event.leaves} leaves in the log"
    if event.evaluation:
        measured = event.evaluation
        caption = (
            f"federated model on the central test split: loss {measured['loss']:.3f}, "
            f"accuracy {measured['accuracy']:.1%}; {caption}"
        )
    private = any(one.epsilon is not None for one in event.sites)
    last = ("epsilon so far",) if private else ("loss", "accuracy")
    table = _table("site", "update norm", "verdict", "seconds", "bytes", *last)
    for one in event.sites:
        verdict = one.verdict + "".join(f" {code}" for code in (*one.reasons, *one.flags))
        table.add_row(
            _short(one.site),
            "" if one.norm is None else f"{one.norm:.3f}",
            Text(verdict, style=_STYLES.get(one.verdict, "")),
            f"{one.seconds:.1f}",
            f"{one.bytes:,}",
            *((_epsilon(one.epsilon),) if private else _measured(one.metrics)),
        )
    return _titled(head, table, caption)


def _epsilon(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _spent(result: DemoResult) -> tuple[RenderableType, ...]:
    """Return what each site's releases cost, as stated and as computed again from the log."""
    terms = result.terms
    if result.central is not None:
        return (_server_noise(result.central, result.parameters),)
    if terms is None:
        return ()
    table = _table("site", "mechanism", "protects", "releases", "epsilon", "delta", "computed again")
    for one in result.accounts:
        protects = (
            "its data as a whole" if one.terms.unit == "site" else f"one {one.terms.unit} ({one.terms.adjacency})"
        )
        again = Text(f"{one.recomputed:g}", style="green" if one.agrees else "bold red")
        released = f"{one.spending.releases} of {one.terms.releases}"
        table.add_row(
            _short(one.site), one.terms.mechanism, protects, released, f"{one.stated:g}", f"{one.delta:.3g}", again
        )
    caption = "Stated by the sites in signed receipts; computed again from the terms in the log (`counterseal audit privacy`)."
    return (_titled("What each site's releases can say, at most", table, caption),)


def _server_noise(account: CentralAccount, dimensions: int) -> RenderableType:
    """Return what the versions say about one site, and that the server is trusted."""
    rule, noise = account.terms.rule, account.terms.noise_norm(dimensions)
    table = _table("mechanism", "protects", "versions", "epsilon", "delta", "noise in a version", "signal at most")
    table.add_row(
        "dp-fedavg (the server is trusted)",
        "one site (add-remove)",
        f"{account.commits} of {account.rounds}",
        f"{account.epsilon:g}",
        f"{account.terms.delta:g}",
        Text(f"{noise:.3g}", style="bold red" if noise > rule.clip_norm else ""),
        f"{rule.clip_norm:g}",
    )
    return _titled("What the models can say about one site, at most", table, how_bad(account, dimensions))


def _measured(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Return loss and accuracy of the site's trained model on its own held-out examples."""
    after = metrics.get("after", {})
    loss, accuracy = after.get("loss"), after.get("accuracy")
    return "" if loss is None else f"{loss:.3f}", "" if accuracy is None else f"{accuracy:.1%}"


def _accuracy(result: DemoResult) -> Group:
    table = _table("model", "accuracy", "loss")
    _, loss, accuracy = result.federated[-1]
    table.add_row(Text("federated", style="bold"), Text(f"{accuracy:.1%}", style="bold"), f"{loss:.3f}")
    for name, curve in result.curves.items():
        label = name if name == CENTRALISED else f"{name} alone"
        label += " (unprotected)" if result.settings.privacy else ""
        table.add_row(label, f"{curve.accuracy[-1]:.1%}", f"{curve.loss[-1]:.3f}")
    how = (
        "ordinary training, one pass a round"
        if result.settings.privacy
        else "same trainer, as many passes over the data"
    )
    caption = f"Alone and centralised: computed by this demonstration, {how}.\n"
    title = f"On the central test split of {result.tests:,} examples, which no site has"
    return Group(Rule(), _titled(title, table, caption))


def _evidence(result: DemoResult) -> Table:
    run, sealed, charter = result.run, result.sealed, result.founded.charter.charter
    cosigners = ", ".join(map(_short, run.cosigners))
    witnessed = f"{charter.quorum.k} of {len(charter.sites)} needed; the last commit was cosigned by {cosigners}"
    lines = run.checkpoint.split("\n")
    return _facts(
        ("outcome", run.outcome + (f" ({run.reason})" if run.reason else "")),
        ("sealed", f"{sealed.models} models and {sealed.updates} updates, {sealed.bytes:,} bytes, {sealed.suite}"),
        ("log", f"{run.leaves} leaves; checkpoint of {lines[1]} leaves, root {lines[2]}"),
        ("quorum", witnessed if run.witnessed else f"UNWITNESSED: fewer than {charter.quorum.k} sites cosigned"),
        ("verifier", _verdicts(result)),
    )


def _verdicts(result: DemoResult) -> Text:
    rows = result.findings.rows
    text = Text()
    for status, style in _STATUS.items():
        found = [row for row in rows if row.status is status]
        if found:
            text.append(f"{len(found)} {status.value}  ", style=style)
    for row in rows:
        if row.status in (Status.FAIL, Status.UNDECIDED):
            text.append(f"\n{row.status.value}: {row.checks}")
            text.append("".join(f"\n  {reason}" for reason in row.reasons), style="dim")
    return text


def _claims(result: DemoResult) -> Group:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for one in claims(result):
        table.add_row(
            Text(one.state, style="green" if one.state == "yes" else "bold yellow"), f"{one.subject}: {one.because}"
        )
    return Group(Text("\nWhat is protected, and what is not", style="bold"), table, "")


def _places(result: DemoResult, report: Path) -> Table:
    folder = result.founded.folder
    log = folder / "server" / "log"
    return _facts(
        ("federation", f"{folder}"),
        ("log", f"{log}"),
        ("report", f"{report}"),
        (
            "check it",
            f"counterseal audit verify {log} --charter {folder / 'sites' / min(result.founded.site_configs) / 'charter'}",
        ),
        ("took", f"{result.seconds:.0f} s"),
    )


def _facts(*rows: tuple[str, str | Text]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table
