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
    ("iiadmm", "dp-sgd"): {"color": "#08306b", "marker": "o"},
    ("fedavg", "dp-sgd"): {"color": "#3787c0", "marker": "s"},
    ("alone", "dp-sgd"): {"color": "#e08a2e", "marker": "^"},
    ("fedavg", "output-gaussian"): {"color": "#6f6f6f", "marker": "v"},
}
"""Dark to light, each with a marker of its own: they stay apart in grey."""


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the figure to ``path``."""
    figure, axes = plt.subplots(figsize=(10.4, 6.8), layout="constrained")
    epsilons = sorted({one["epsilon"] for one in results["points"]})
    _references(axes, results["unprotected"])
    for kind, style in _STYLE.items():
        _line(axes, [one for one in results["points"] if (one["algorithm"], one["mechanism"]) == kind], kind, style)
    _whole(axes, results["federations"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(epsilons, [f"{one:g}" for one in epsilons])
    axes.set_xlim(epsilons[0] * 0.93, epsilons[-1] * 1.12)
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
    figure.legend(loc="outside lower center", ncols=2, fontsize=9.5, frameon=False)
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


def _whole(axes: Any, federations: list[Mapping[str, Any]]) -> None:
    """Draw the whole federations as hollow markers, a little aside."""
    for one in federations:
        style = _STYLE[one["algorithm"], one["mechanism"]]
        axes.plot(
            one["asked"] * 1.05,
            100 * one["accuracy"],
            linestyle="none",
            marker=style["marker"],
            markersize=9,
            markerfacecolor="white",
            markeredgecolor=style["color"],
            markeredgewidth=1.8,
        )
    if federations:
        axes.plot([], [], "kD", markerfacecolor="white", label="hollow: one whole federation, sealed and logged")


def _references(axes: Any, unprotected: Mapping[str, float]) -> None:
    """Draw what nothing protects as dashed lines, named at the right of the axes."""
    sites = [value for name, value in unprotected.items() if name.startswith("site-")]
    lines = [
        (unprotected["centralised"], "all data in one place"),
        (unprotected["fedavg"], "FedAvg"),
        (unprotected["iiadmm"], "IIADMM"),
        (max(sites), "best site alone"),
        (min(sites), "worst site alone"),
    ]
    axes.axhline(10, color="#777777", linewidth=1.0, linestyle=":")
    axes.annotate("guessing 10.0", (1.01, 10), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    above = 1e9
    for value, name in sorted(lines, reverse=True):
        axes.axhline(100 * value, color="#444444", linewidth=1.1, linestyle="--", alpha=0.75)
        above = min(100 * value + (1.0 if above > 200 else 0.0), above - 3.0)
        text = f"{name}, UNPROTECTED {100 * value:.1f}"
        axes.annotate(text, (1.01, above), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.plot([], [], color="#444444", linestyle="--", label="dashed: no privacy at all (unprotected)")
