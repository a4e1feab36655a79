"""Accuracy over epsilon on scikit-learn's digits, four unlike sites, softmax regression. Run: python study.py [--out FOLDER]

Two levels, both with the demonstration's own settings (`counterseal demo --epsilon ...`):

- whole federations at epsilon 8: founded, in processes, sealed, logged. Checked of each: the log verifies; every site states at
  most what was asked for; this package computes the same again from the log; somebody else's accountant does not contradict.
- the same training many times over in one process, without seals (`loop`): privacy noise is fresh every time, so one run says
  little.

Writes results.json, results.txt and plot.png. `--quick` is a small version for a test: one epsilon, one round, no federation.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from figure import draw
from loop import Loop, cut
from stopwatch import shares_of_time
from table import table

from counterseal.runtime.accounts import Account, second_opinion
from counterseal.runtime.config import RunConfig
from counterseal.runtime.demo.baselines import baselines
from counterseal.runtime.demo.datasets import Dataset, load_dataset
from counterseal.runtime.demo.play import play
from counterseal.runtime.demo.settings import DemoSettings
from counterseal.runtime.site.price import price_of
from counterseal.runtime.training.registry import build_trainer

SEED = 7
DATASET, MODEL = "digits", "logistic"
EPSILONS = (1.0, 2.0, 4.0, 8.0)
WHOLE = 8.0
"""Epsilon of the whole federations."""
SERIES = (
    ("fedavg", "dp-sgd", 6),
    ("iiadmm", "dp-sgd", 6),
    ("alone", "dp-sgd", 3),
    ("fedavg", "output-gaussian", 3),
    ("fedavg", "output-laplace", 3),
)
"""Algorithm, mechanism and repetitions; `alone`: each site by itself, under the terms that it has in the federation."""
FEDERATIONS = (("fedavg", "dp-sgd"), ("iiadmm", "dp-sgd"), ("fedavg", "output-gaussian"))
_APART = 0.03
"""How far the other accountant may lie from ours: its epsilon is an upper bound that is up to 0.02 too large."""


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a folder; by default the script's own")
    parser.add_argument("--quick", action="store_true", help="a small version for a test; needs --out")
    parser.add_argument("--redraw", action="store_true", help="only the text and the figure, from results.json")
    asked = parser.parse_args()
    if asked.quick and asked.out is None:
        parser.error("--quick needs --out: its results are no results")
    torch.set_num_threads(1)
    out = asked.out or Path(__file__).parent
    out.mkdir(parents=True, exist_ok=True)
    if not asked.redraw:
        (out / "results.json").write_text(json.dumps(study(quick=asked.quick), indent=1) + "\n")
    results = json.loads((out / "results.json").read_text())
    (out / "results.txt").write_text(table(results))
    draw(results, out / "plot.png")
    print(table(results), end="")


def study(*, quick: bool) -> dict[str, Any]:
    """Return everything that the table and the figure show."""
    started = time.monotonic()
    dataset = load_dataset(DATASET, seed=SEED)
    rounds = 1 if quick else None
    results: dict[str, Any] = {"dataset": DATASET, "model": MODEL, "seed": SEED}
    results["federations"] = [] if quick else [_federation(*one) for one in FEDERATIONS]
    results["points"] = [
        _point(dataset, algorithm, mechanism, epsilon, 1 if quick else repeats, rounds)
        for algorithm, mechanism, repeats in SERIES
        for epsilon in ((WHOLE,) if quick else EPSILONS)
    ]
    results["unprotected"] = _unprotected(dataset, rounds)
    settings = _settings("fedavg", "dp-sgd", WHOLE, rounds)
    run, sites = settings.run(dataset), cut(dataset, settings.names, seed=SEED)
    results["time"] = shares_of_time(settings, dataset, run, sites)
    train = build_trainer(run, site="nobody").initial_parameters(SEED)
    results |= {
        "parameters": sum(array.size for array in train.values()),
        "sites": len(sites),
        "train": sum(len(site.train) for site in sites.values()),
        "tests": len(dataset.test),
        "rounds": run.rounds,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    return results


def _settings(algorithm: str, mechanism: str, epsilon: float, rounds: int | None) -> DemoSettings:
    name = "fedavg" if algorithm == "alone" else algorithm
    options = {"algorithm": name, "privacy": mechanism, "epsilon": epsilon, "rounds": rounds}
    return DemoSettings.of(dataset=DATASET, model=MODEL, seed=SEED, **options)


def _point(
    dataset: Dataset, algorithm: str, mechanism: str, epsilon: float, repeats: int, rounds: int | None
) -> dict[str, Any]:
    """Return the final accuracies of one algorithm at one epsilon, and what is protected at that price."""
    settings = _settings(algorithm, mechanism, epsilon, rounds)
    run, sites = settings.run(dataset), cut(dataset, settings.names, seed=SEED)
    groups = [{name: data} for name, data in sites.items()] if algorithm == "alone" else [sites]
    found = [Loop(run, group, dataset.test).play()[-1] for _ in range(repeats) for group in groups]
    print(f"{algorithm} {mechanism} epsilon {epsilon:g}: {sum(found) / len(found):.3f}", flush=True)
    return {
        "algorithm": algorithm,
        "mechanism": mechanism,
        "epsilon": epsilon,
        "accuracy": [round(one, 4) for one in found],
        **_price(run),
    }


def _price(run: RunConfig) -> dict[str, Any]:
    assert run.privacy is not None
    terms = run.privacy.terms
    dimensions = build_trainer(run, site="nobody").dimensions
    return {
        "protects": terms.unit,
        "adjacency": terms.adjacency,
        "delta": terms.delta,
        "stated": price_of(terms, run.privacy.counts, dimensions).statement(terms.releases).epsilon,
        "noise_multiplier": terms.noise_multiplier,
        "clip_norm": terms.clip_norm,
    }


def _unprotected(dataset: Dataset, rounds: int | None) -> dict[str, Any]:
    """Return the same algorithms, the sites alone and the union, without privacy: deterministic, so once each."""
    found: dict[str, Any] = {}
    for algorithm in ("fedavg", "iiadmm"):
        private = _settings(algorithm, "dp-sgd", WHOLE, rounds)
        bare = private.model_copy(update={"privacy": None, "epsilon": None})
        sites = cut(dataset, bare.names, seed=SEED)
        found[algorithm] = round(Loop(bare.run(dataset), sites, dataset.test).play()[-1], 4)
    curves = baselines(
        private.unprotected().run(dataset), {name: data.train for name, data in sites.items()}, dataset.test
    )
    return found | {name: round(curve.accuracy[-1], 4) for name, curve in curves.items()}


def _federation(algorithm: str, mechanism: str) -> dict[str, Any]:
    """Play a whole federation, and check every site's epsilon.

    Raises:
        SystemExit: something did not hold.
    """
    settings = _settings(algorithm, mechanism, WHOLE, None)
    with tempfile.TemporaryDirectory() as folder:
        result = play(settings, Path(folder) / "demo")
        checks: list[tuple[str, bool]] = [("the run completed and its log verifies", result.good)]
        checks.append(("every site has an account", len(result.accounts) == settings.sites))
        for one in result.accounts:
            checks.append((f"{one.site} spent at most what was asked for", one.stated <= WHOLE))
            checks.append((f"{one.site}'s epsilon follows from the log", one.agrees))
            other = opinion(one)
            checks.append((f"{one.site}'s epsilon beside {other:.3f}", abs(other - one.stated) <= _APART))
        broken = [what for what, held in checks if not held]
        if broken:
            raise SystemExit(f"{algorithm} {mechanism}: not so: {'; '.join(broken)}")
        print(f"federation {algorithm} {mechanism}: {len(checks)} checks held", flush=True)
        return {
            "algorithm": algorithm,
            "mechanism": mechanism,
            "accuracy": round(result.federated[-1][2], 4),
            "leaves": result.run.leaves,
            "checks": len(checks),
            "seconds": round(result.seconds, 1),
            "asked": WHOLE,
            "sites": {
                one.site: {"stated": one.stated, "recomputed": one.recomputed, "other": round(opinion(one), 3)}
                for one in result.accounts
            },
        }


def opinion(account: Account) -> float:
    """Return the epsilon that another derivation gives: Opacus' PRV accountant, or the Gaussian mechanism's closed form."""
    found = second_opinion(account)
    if found is not None:
        return found
    mu = math.sqrt(account.spending.releases) / account.terms.noise_multiplier
    return _bisect(lambda epsilon: gaussian_delta(epsilon, mu) - account.terms.delta, 0.0, 100.0)


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return delta of a Gaussian mechanism whose sensitivity is ``mu`` standard deviations (Balle, Wang 2018, theorem 8).

    >>> round(gaussian_delta(1.0, 1.0), 4)
    0.1269
    """

    def below(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    return below(mu / 2 - epsilon / mu) - math.exp(epsilon) * below(-mu / 2 - epsilon / mu)


def _bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return high


if __name__ == "__main__":
    main()
