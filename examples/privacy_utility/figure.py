"""The figure: accuracy over epsilon."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from table import NAMES

__all__ = ["draw"]

_STYLE: dict[tuple[str, str], dict[str, Any]] = {
    ("iiadmm", "dp-sgd"): {"color": "#08306b", "marker": "o", "linestyle": "-"},
    ("fedavg", "dp-sgd"): {"color": "#3787c0", "marker": "s", "linestyle": "-"},
    ("alone", "dp-sgd"): {"color": "#d9822b", "marker": "^", "linestyle": "-"},
    ("fedavg", "output-gaussian"): {"color": "#7a7a7a", "marker": "v", "linestyle": "-"},
}
"""Dark to light, each with a marker of its own: they stay apart in grey."""


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the figure to ``path``."""
    figure, axes = plt.subplots(figsize=(9.6, 6.0), layout="constrained")
    epsilons = sorted({one["epsilon"] for one in results["points"]})
    _references(axes, results["unprotected"])
    for kind, style in _STYLE.items():
        _line(axes, [one for one in results["points"] if (one["algorithm"], one["mechanism"]) == kind], kind, style)
    axes.axhline(10, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(epsilons, [f"{one:g}" for one in epsilons])
    axes.set_xlim(epsilons[0] * 0.93, epsilons[-1] * 2.35)
    axes.set_ylim(0, 101)
    axes.set_xlabel("epsilon of each site over all rounds, at delta 1e-5 (smaller is more private; logarithmic)")
    axes.set_ylabel("accuracy on the central test split, per cent")
    axes.set_title(
        f"{results['dataset']}, softmax regression, {results['sites']} unlike sites, {results['train']} records, "
        f"{results['rounds']} rounds\nmarkers: median; bands: least to most over the runs, which differ in their noise",
        loc="left",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.44), fontsize=9, frameon=True, framealpha=0.9)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _line(axes: Any, points: list[Mapping[str, Any]], kind: tuple[str, str], style: Mapping[str, Any]) -> None:
    points = sorted(points, key=lambda one: one["epsilon"])
    epsilons = [one["epsilon"] for one in points]
    values = [[100 * value for value in one["accuracy"]] for one in points]
    what = "each record" if points[0]["protects"] == "record" else "the whole site"
    label = f"{NAMES[kind]}: protects {what}"
    axes.fill_between(epsilons, [min(v) for v in values], [max(v) for v in values], color=style["color"], alpha=0.18)
    axes.plot(epsilons, [statistics.median(v) for v in values], label=label, linewidth=2, markersize=7, **style)


def _references(axes: Any, unprotected: Mapping[str, float]) -> None:
    """Draw what nothing protects as dashed lines, named at their right ends."""
    sites = [value for name, value in unprotected.items() if name.startswith("site-")]
    lines = [
        (unprotected["centralised"], "all data in one place, UNPROTECTED"),
        (unprotected["fedavg"], "FedAvg, UNPROTECTED"),
        (unprotected["iiadmm"], "IIADMM, UNPROTECTED"),
        (max(sites), "best site alone, UNPROTECTED"),
        (min(sites), "worst site alone, UNPROTECTED"),
        (0.1, "guessing"),
    ]
    floor = 1e9
    for value, name in sorted(lines, reverse=True):
        if name != "guessing":
            axes.axhline(100 * value, color="#444444", linewidth=1.0, linestyle="--", alpha=0.75)
        place = min(100 * value, floor - 3.4)
        floor = place
        axes.annotate(
            f"{name} {100 * value:.1f}",
            (1.0, place),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            fontsize=8.5,
            color="#222222",
            bbox={"fc": "white", "ec": "none", "pad": 0.8},
        )
