"""The results as text: what results.txt holds, and README.md quotes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

__all__ = ["NAMES", "protected", "table"]

NAMES = {
    ("fedavg", "dp-sgd"): "FedAvg, dp-sgd",
    ("iiadmm", "dp-sgd"): "IIADMM, dp-sgd",
    ("alone", "dp-sgd"): "a site alone, dp-sgd",
    ("fedavg", "output-gaussian"): "FedAvg, output-gaussian",
    ("fedavg", "output-laplace"): "FedAvg, output-laplace",
}
_UNPROTECTED = {"fedavg": "FedAvg", "iiadmm": "IIADMM", "centralised": "all data in one place"}


def protected(point: Mapping[str, Any]) -> str:
    """Return in words what a point protects."""
    what = "one record" if point["protects"] == "record" else "whole site, any change"
    return what if point["delta"] else f"{what} (delta 0)"


def table(results: Mapping[str, Any]) -> str:
    """Return the results as text."""
    lines = [
        f"{results['dataset']}, {results['model']} ({results['parameters']} numbers), {results['sites']} unlike sites "
        f"with {results['train']} training records together, {results['rounds']} rounds.",
        f"Accuracy on {results['tests']} test records of no site, in per cent: median (least to most) of n runs, which",
        "differ in their noise. Epsilon is what each site may lose in all rounds, delta 1e-05 but where it says 0.",
        "",
        *_protected_lines(results["points"]),
        *_crowd(results),
        "",
        "Unprotected, same version 0 and number of rounds",
        *(f"  {_UNPROTECTED.get(name, f'{name} alone'):<24}{_percent(value)}" for name, value in _bare(results)),
        "",
        *_federation_lines(results["federations"]),
        *_time_lines(results["time"]),
    ]
    return "\n".join(lines) + "\n"


def _protected_lines(points: list[Mapping[str, Any]]) -> list[str]:
    epsilons = sorted({one["epsilon"] for one in points})
    head = f"{'protected':<28}{'what':<32}{'n':>3}  " + "".join(f"{f'epsilon {one:g}':<21}" for one in epsilons)
    lines = [head.rstrip()]
    for kind, name in NAMES.items():
        row = {one["epsilon"]: one for one in points if (one["algorithm"], one["mechanism"]) == kind}
        first = row[epsilons[0]]
        cells = "".join(f"{_spread(row[one]['accuracy']):<21}" for one in epsilons)
        lines.append(f"{name:<28}{protected(first):<32}{len(first['accuracy']):>3}  {cells}".rstrip())
    for mechanism in ("dp-sgd", "output-gaussian", "output-laplace"):
        chosen = {one["epsilon"]: one for one in points if one["mechanism"] == mechanism}
        cells = "".join(f"{chosen[one]['noise_multiplier']:<21g}" for one in epsilons)
        lines.append(f"{'  noise multiplier':<28}{mechanism:<32}{'':>3}  {cells}".rstrip())
        cells = "".join(f"{chosen[one]['stated']:<21g}" for one in epsilons)
        lines.append(f"{'  epsilon as stated':<28}{mechanism:<32}{'':>3}  {cells}".rstrip())
    return lines


def _crowd(results: Mapping[str, Any]) -> list[str]:
    """Return how many sites output perturbation would take: the mean's noise, 2 B z sqrt(d / N) long, beside an update of B."""
    chosen = {one["epsilon"]: one for one in results["points"] if one["mechanism"] == "output-gaussian"}
    sites = {one: 4 * chosen[one]["noise_multiplier"] ** 2 * results["parameters"] for one in sorted(chosen)}
    cells = "".join(f"{f'{round(sites[one], -2):,.0f}':<21}" for one in sites)
    return [f"{'  sites for noise = signal':<28}{'output-gaussian':<32}{'':>3}  {cells}".rstrip()]


def _bare(results: Mapping[str, Any]) -> list[tuple[str, float]]:
    found = results["unprotected"]
    first = [name for name in _UNPROTECTED if name in found]
    return [(name, found[name]) for name in (*first, *sorted(set(found) - set(first)))]


def _federation_lines(federations: list[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in federations:
        spent = list(one["sites"].values())
        stated, again = ({site[name] for site in spent} for name in ("stated", "recomputed"))
        other = {site["other"] for site in spent}
        lines += [
            f"Whole federation, {NAMES[one['algorithm'], one['mechanism']]}, asked for epsilon {one['asked']:g}: "
            f"accuracy {_percent(one['accuracy'])}, {one['leaves']} leaves in a verified log, {one['checks']} checks held;",
            f"  each of {len(spent)} sites stated {_set(stated)}, the log gives {_set(again)}, another accountant {_set(other)}.",
        ]
    return [*lines, ""] if lines else []


def _time_lines(spent: Mapping[str, float]) -> list[str]:
    rest = dict(spent)
    private, bare = rest.pop("private"), rest.pop("unprotected")
    lines = [
        f"CPU seconds of all sites and rounds in one process: {private:.1f} private, {bare:.1f} unprotected; of the private"
    ]
    for name, seconds in rest.items():
        share = (
            ""
            if name.split(",")[-1].strip() in ("once a run", "each release of each site")
            else f"{seconds / private:7.0%}"
        )
        lines.append(f"  {name:<50}{seconds:>8.3f}{share}")
    return lines


def _spread(values: list[float]) -> str:
    return f"{_percent(statistics.median(values))} ({_percent(min(values))} to {_percent(max(values))})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _set(values: set[float]) -> str:
    return " or ".join(f"{value:g}" for value in sorted(values))
