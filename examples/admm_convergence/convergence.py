"""How near IIADMM, ICEADMM and FedAvg come to the known optimum of a convex problem. Run: python convergence.py FOLDER

Six sites of unequal weight hold ridge-regression data with inputs and ground truths of their own, so their local optima differ.
The optimum of the weighted sum is known in closed form. Every line is |w - w*| / |w*| round by round; no run is private or
clipped, and nothing is random but the data and who takes part. FedAvg has a constant rate; with one that falls it would come
nearer, slowly. Writes results.txt and plot.png into FOLDER.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from counterseal.algorithms.fedavg import FedAvg
from counterseal.algorithms.rule import Cohort, Tally, UpdateMeta, make_rule
from counterseal.algorithms.solver import objective_scale
from counterseal.algorithms.statistics import UpdateStatistics

WEIGHTS = {"site-a": 1.0, "site-b": 2.0, "site-c": 3.0, "site-d": 1.0, "site-e": 5.0, "site-f": 2.0}
SITES = tuple(WEIGHTS)
ROUNDS, DIMENSIONS, DECAY = 150, 10, 0.1

random = np.random.default_rng(0)
inputs = {one: random.standard_normal((40, DIMENSIONS)) * random.uniform(0.5, 1.5, DIMENSIONS) for one in SITES}
targets = {one: inputs[one] @ (2 * random.standard_normal(DIMENSIONS)) for one in SITES}
hessian = {one: x.T @ x / len(x) + DECAY * np.eye(DIMENSIONS) for one, x in inputs.items()}
linear = {one: x.T @ targets[one] / len(x) for one, x in inputs.items()}
optimum = np.linalg.solve(
    sum(WEIGHTS[one] * hessian[one] for one in SITES), sum(WEIGHTS[one] * linear[one] for one in SITES)
)
scale = {one: objective_scale(WEIGHTS, one) for one in SITES}
curvature = max(scale[one] * np.linalg.eigvalsh(hessian[one])[-1] for one in SITES)


def gradient(site, values):
    """Return the full gradient of the site's loss."""
    return (hessian[site] @ values - linear[site]).astype(np.float32)


def distance(model):
    """Return the relative distance to the optimum."""
    return float(np.linalg.norm(model - optimum) / np.linalg.norm(optimum))


def admm(name, rho, zeta, steps, share=1.0, balance=None):
    """Return the distances of a run; rho and zeta in units of the greatest curvature."""
    parameters = {"rho": rho * curvature, "zeta": zeta * curvature, "clip_norm": 1e6}
    if balance:
        parameters |= {"balance_mu": 5.0, "balance_tau": 1.5, "rho_min": balance * curvature}
    rule, draw = make_rule(name, parameters), np.random.default_rng(9)
    model, pairs, penalties, found = np.zeros(DIMENSIONS, np.float32), {}, dict.fromkeys(SITES, rule.penalty), []
    for _ in range(ROUNDS):
        present = [one for one in SITES if draw.random() < share] or [SITES[0]]
        sent = {plane: [] for plane in rule.planes}
        for one in present:
            dual = (pairs.get(one) or rule.initial_state(model))["dual"]
            solver = rule.solver({"x": model}, {"x": dual}, rho=penalties[one], scale=scale[one])
            values = model.copy()
            for _ in range(steps):
                solver.step("x", values, gradient(one, values))
            sent["delta"].append(values - model)
            for plane, tensors in solver.planes.items():
                sent[plane].append(tensors["x"])
        cohort = Cohort.of(SITES, present, penalties)
        tally = Tally(cohort.rows)
        before = [pairs.get(one) or rule.initial_state(model) for one in SITES]
        state = {half: [pair[half] for pair in before] for half in rule.state_planes}
        coefficients = np.ones(len(present), np.float32)
        model, after = rule.combine(sent, coefficients, model, state, cohort=cohort, tally=tally)
        for place, one in enumerate(present):
            pairs[one] = {half: after[half][place] for half in rule.state_planes}
        penalties = dict(zip(SITES, rule.adapt(cohort.rho, tally), strict=True))
        found.append(distance(model))
    return found


def fedavg(steps, rate=0.5):
    """Return the distances of federated averaging; the rate in units of 1 / curvature."""
    model, found = np.zeros(DIMENSIONS, np.float32), []
    metas = [UpdateMeta(one) for one in SITES]
    coefficients = FedAvg().coefficients(metas, [UpdateStatistics(True, 1.0)] * len(SITES), None, WEIGHTS)
    for _ in range(ROUNDS):
        deltas = []
        for one in SITES:
            values = model.copy()
            for _ in range(steps):
                values -= np.float32(rate / curvature) * gradient(one, values)
            deltas.append(values - model)
        model, _ = FedAvg().combine({"delta": deltas}, coefficients, model, {})
        found.append(distance(model))
    return found


RUNS = {
    "FedAvg, J = 5": fedavg(5),
    "FedAvg, J = 20": fedavg(20),
    "IIADMM, zeta = 0 (APPFL), rho = 1.2 L, J = 1": admm("iiadmm", 1.2, 0.0, 1),
    "IIADMM, zeta = 0 (APPFL), rho = 1.2 L, J = 20": admm("iiadmm", 1.2, 0.0, 20),
    "IIADMM, zeta = L/2, rho = L/4, J = 1": admm("iiadmm", 0.25, 0.5, 1),
    "IIADMM, zeta = L/2, rho = L/4, J = 5": admm("iiadmm", 0.25, 0.5, 5),
    "IIADMM, zeta = L/2, rho = L/4, J = 20": admm("iiadmm", 0.25, 0.5, 20),
    "IIADMM, as J = 5, half of the sites a round": admm("iiadmm", 0.25, 0.5, 5, share=0.5),
    "IIADMM, as J = 5, rho = 2 L": admm("iiadmm", 2.0, 0.5, 5),
    "IIADMM, as J = 5, rho = 2 L, balanced down to L/4": admm("iiadmm", 2.0, 0.5, 5, balance=0.25),
    "ICEADMM, zeta = L/2, rho = L/4, J = 5": admm("iceadmm", 0.25, 0.5, 5),
    "ICEADMM, as J = 5, half of the sites a round": admm("iceadmm", 0.25, 0.5, 5, share=0.5),
}
PANELS = ((0, 1, 2, 3), (0, 4, 5, 6, 7), (5, 8, 9, 10, 11))


def table():
    """Return the distances at some rounds, as text."""
    marks = (10, 25, 50, 100, ROUNDS)
    local = min(distance(np.linalg.solve(hessian[one], linear[one])) for one in SITES)
    lines = [
        "Distance |w - w*| / |w*| to the optimum of ridge regression over six heterogeneous sites of unequal weight.",
        f"L = {curvature:.2f}: the greatest curvature of a weighted local loss. The nearest local optimum is at {local:.2f}.",
        "J local steps on full gradients; FedAvg at the constant rate 1 / (2 L).",
        "",
        f"{'after round':<52}" + "".join(f"{mark:>10}" for mark in marks),
    ]
    lines += [f"{name:<52}" + "".join(f"{found[mark - 1]:>10.1e}" for mark in marks) for name, found in RUNS.items()]
    return "\n".join([*lines, "", "Models are float32: about 1e-7 is as near as they get.", ""])


def plot(path):
    """Draw the distances in three panels."""
    figure, panels = plt.subplots(1, 3, figsize=(16, 6), sharey=True, layout="constrained")
    names, colours = list(RUNS), plt.get_cmap("tab20").colors
    titles = ("APPFL's form: zeta = 0", "Proximal form: zeta = L/2", "Penalties, absence, ICEADMM")
    for panel, title, chosen in zip(panels, titles, PANELS, strict=True):
        for index in chosen:
            panel.semilogy(range(1, ROUNDS + 1), RUNS[names[index]], label=names[index], color=colours[index], lw=1.8)
        panel.set(title=title, xlabel="round", ylim=(1e-8, 3))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    panels[0].set_ylabel("distance to the optimum, |w - w*| / |w*|")
    figure.savefig(path, dpi=110)


folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "results.txt").write_text(table())
plot(folder / "plot.png")
print(table(), end="")
