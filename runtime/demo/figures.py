"""The curves of a report, as one inline SVG that takes its colours from the page, so that it is readable in light and dark.

matplotlib draws with stand-in colours; each is then replaced by a CSS variable of the page. Text stays text, so that it can be
searched and read aloud. Nothing in the result refers to another resource.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Series", "curves_svg"]

Series = Sequence[tuple[int, float, float]]
"""Round, loss, accuracy."""

_INK, _GRID = "#010203", "#020304"
_VARIABLES = {
    _INK: "var(--soft)",
    _GRID: "var(--line)",
    "#100101": "var(--federated)",
    "#100102": "var(--centralised)",
    "#100103": "var(--alone)",
}
_COLOURS = {"federated": "#100101", "centralised": "#100102"}
_ALONE = "#100103"
_DASHES = ("-", "--", "-.", ":")


def curves_svg(series: Mapping[str, Series]) -> str:
    """Return loss and accuracy by round, side by side.

    A series that is not ``federated`` or ``centralised`` is a site alone.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "counterseal",
        "font.size": 10.0,
        "font.family": "sans-serif",
        "text.color": _INK,
        "text.parse_math": False,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": _GRID,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        left, right = figure.subplots(1, 2)
        for axes, column, name in ((left, 1, "loss"), (right, 2, "accuracy")):
            _draw(axes, series, column)
            axes.set_title(f"{name} on the central test split", loc="left", fontsize=10)
            axes.set_xlabel("round")
        right.set_ylim(0, 1)
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
        left.yaxis.set_minor_formatter(NullFormatter())
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(series)))
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    return _themed(target.getvalue())


def _draw(axes: Any, series: Mapping[str, Series], column: int) -> None:
    alone = 0
    for name, points in series.items():
        rounds, values = [point[0] for point in points], [point[column] for point in points]
        if name in _COLOURS:
            axes.plot(
                rounds,
                values,
                color=_COLOURS[name],
                label=name,
                linewidth=2.4 if name == "federated" else 1.6,
                zorder=3,
            )
        else:
            axes.plot(rounds, values, color=_ALONE, label=name, linewidth=1.2, linestyle=_DASHES[alone % len(_DASHES)])
            alone += 1
    axes.grid(visible=True, linewidth=0.6)
    axes.margins(x=0.02)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _themed(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", '<svg role="img" aria-label="loss and accuracy by round" ', 1)
