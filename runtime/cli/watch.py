"""A run as it goes: a progress bar with the time left where there is a terminal, and one table a round everywhere.

Norms, coefficients and the sites' metrics are shown to the operator of the server, who learns them by the protocol. They
never enter the log; redirect this output only to where the operator's own notes may lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..progress import Progress, RoundDone, RoundStarted, RunDone, RunStarted, SiteDone
from .output import plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Watch", "duration", "metric_text"]


class Watch:
    """An observer that shows what it is told on ``console``, and keeps the rounds for the summary."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._console = console
        self._quiet = quiet
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._total = 0
        self.rounds: list[RoundDone] = []

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show one step of the run."""
        match progress:
            case RunStarted():
                self._total = progress.rounds
                self._bar.update(self._task, total=progress.rounds, description=plain(progress.run))
                self._say(
                    f"run {progress.run}: {progress.rounds} rounds, {len(progress.sites)} sites,"
                    f" {progress.parameters:,} parameters, sealed with {progress.suite}"
                )
            case RoundStarted():
                # After a restart the rounds that are over are not told again.
                name = f"round {progress.version + 1}: {len(progress.sites)} sites at work"
                self._bar.update(self._task, completed=progress.version, description=name)
            case RoundDone():
                self._round(progress)
            case SiteDone() | RunDone():
                pass  # sites are shown with their round, the end by whoever called

    def _round(self, done: RoundDone) -> None:
        self.rounds.append(done)
        made = done.version + 1 if done.committed else done.version
        self._bar.update(self._task, completed=made)
        if self._quiet:
            return
        left = self._left(made)
        word = "committed" if done.committed else f"given up: {done.reason}"
        self._say(f"round {done.version + 1} of {self._total} {word} in {duration(done.seconds)}{left}")
        if done.sites:
            self._console.print(_table(done.sites))
        if done.evaluation:
            self._say(f"  on the server's own data: {metric_text(done.evaluation)}")

    def _left(self, made: int) -> str:
        over = [one.seconds for one in self.rounds if one.committed]
        rest = self._total - made
        return f", about {duration(sum(over) / len(over) * rest)} left" if over and rest > 0 else ""

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(plain(text), soft_wrap=True)


def duration(seconds: float) -> str:
    """Return a time span for people.

    >>> duration(75.2), duration(0.31)
    ('1 min 15 s', '0.3 s')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _table(sites: tuple[SiteDone, ...]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("site", "verdict", "why", "norm", "coefficient", "size", "time", "metrics"):
        table.add_column(name, justify="right" if name in {"norm", "coefficient", "size", "time"} else "left")
    for site in sites:
        cells = (
            site.site,
            site.verdict,
            ", ".join((*site.reasons, *(f"flag {flag}" for flag in site.flags))),
            "" if site.norm is None else f"{site.norm:.4g}",
            "" if site.coefficient is None else f"{site.coefficient:.4f}",
            _size(site.bytes) if site.bytes else "",
            duration(site.seconds) if site.seconds else "",
            _both(site.metrics),
        )
        style = "" if site.verdict == "admitted" else "yellow"
        table.add_row(*(Text(plain(cell)) for cell in cells), style=style)
    return table


def _both(metrics: Mapping[str, Any]) -> str:
    """Return metrics before and after a site's training: ``accuracy 0.71 > 0.84``."""
    before, after = metrics.get("before"), metrics.get("after")
    if not isinstance(after, Mapping):
        return ""
    if not isinstance(before, Mapping):
        return metric_text(after)
    return ", ".join(
        f"{name} {_number(before[name])} > {_number(value)}" if name in before else f"{name} {_number(value)}"
        for name, value in after.items()
    )


def metric_text(values: Mapping[str, Any]) -> str:
    """Return metrics for people: ``accuracy 0.84, loss 0.31``."""
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:,.1f} MB"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else plain(value)
