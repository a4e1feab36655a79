"""The picture of `counterseal ledger plot`: how full each population's filter was, against its cap."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...privacy.ledger.balance import Point

__all__ = ["draw"]

# Okabe and Ito's colours, told apart by people who see red and green alike; dark enough on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#7F6000", "#000000")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "counterseal",
    "font.size": 10.0,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(history: Mapping[str, Sequence[Point]], kind: str) -> bytes:
    """Return the picture as ``svg`` or ``png``: a line a population, a dashed one for its cap."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.0, 4.5), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        end = _end(history)
        for number, (name, points) in enumerate(sorted(history.items())):
            _line(axes, name, points, end, _COLOURS[number % len(_COLOURS)])
        axes.set_ylim(bottom=0)
        locator = AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
        axes.set_ylabel("epsilon, reserved over all runs (dashed: cap)")
        axes.set_title("Privacy budget over time (UTC)", loc="left", fontsize=11)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        if history:
            figure.legend(loc="outside lower center", ncols=min(4, len(history)), frameon=False)
        target = io.BytesIO()
        figure.savefig(target, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return target.getvalue()


def _end(history: Mapping[str, Sequence[Point]]) -> int:
    """Return where the lines end: a little after the last change, so that its step is seen."""
    times = [point.time for points in history.values() for point in points]
    if not times:
        return 0
    return max(times) + max(60, (max(times) - min(times)) // 12)


def _line(axes: Any, name: str, points: Sequence[Point], end: int, colour: str) -> None:
    # A clock that was set back draws no loop: entries are in the order in which they were written.
    times = [datetime.fromtimestamp(time, UTC) for time in accumulate((*(point.time for point in points), end), max)]
    caps = [point.cap for point in points]
    levels = [point.reserved if math.isfinite(point.reserved) else point.cap for point in points]
    axes.step(times, [*levels, levels[-1]], where="post", color=colour, linewidth=1.8, label=_label(name, points))
    axes.step(times, [*caps, caps[-1]], where="post", color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
    for point, time in zip(points, times, strict=False):
        if not math.isfinite(point.reserved):
            axes.plot([time], [point.cap], marker="X", markersize=9, color=colour, clip_on=False, zorder=5)
            break


def _label(name: str, points: Sequence[Point]) -> str:
    last = points[-1]
    if not math.isfinite(last.reserved):
        return f"{name}: exhausted"
    return f"{name}: {last.reserved:g} of {last.cap:g}"
