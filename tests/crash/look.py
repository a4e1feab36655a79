"""Everything that is looked at after a case: the log and the folders of every setting, ledgers and duals where it has them."""

from __future__ import annotations

from typing import Any

from counterseal.audit.checks.findings import Status
from counterseal.audit.checks.source import FolderSource
from counterseal.runtime.replaying.replay import replay
from counterseal.tests.federation import Federation

from . import duals, ledgers
from .story import Setting, scene_of
from .verdict import facts, problems

__all__ = ["found_in", "underpaid"]

AUDITOR = "auditor@fed.example"

_RANDOM = ("output", "parent")
"""Of a commit: which model it makes depends on the noise."""


def found_in(federation: Federation, setting: Setting) -> dict[str, Any]:
    """Return the facts of a run that is over, and everything that must not be."""
    scene = scene_of(federation)
    told, wrong = facts(scene), problems(scene)
    if setting.random:
        wrong += _other_models(told)
        told = _without_models(told)
    if setting.private:
        wrong += ledgers.problems(federation, setting)
        told |= ledgers.facts(federation)
    if setting.replayed:
        wrong += _not_replayed(federation, setting)
    if setting.stateful:
        pairs, unequal = duals.compared(federation, setting)
        wrong += unequal
        if not setting.private:
            told["pairs"] = pairs
    return {"facts": told, "problems": wrong}


def underpaid(federation: Federation, setting: Setting) -> list[str]:
    """Return what left a site without its debit, in a folder as a kill left it; the folder stays as it is."""
    return ledgers.underpaid(federation) if setting.private else []


def _not_replayed(federation: Federation, setting: Setting) -> list[str]:
    """An auditor computes every version again, with the pairs or the noise that made it."""
    source, key = FolderSource(federation.log_folder), federation.keys[AUDITOR].opening
    found = replay(source, federation.charter, federation.store(), key)
    wrong = [
        f"replay of version {step.version}: {step.reason}" for step in found.steps if step.status is not Status.PASS
    ]
    return wrong if len(found.steps) == setting.rounds else [*wrong, f"{len(found.steps)} commits replayed"]


def _other_models(told: dict[str, Any]) -> list[str]:
    """Noise is drawn anew in every run; within one, everybody has one model."""
    end = told["commits"][-1]["output"] if told["commits"] else None
    kept = [digest for one in told["kept"].values() for digest in one.values()]
    models = {*kept, *(one[1] for one in told["release"]), *(one[2] for one in told["end"])}
    chain = [one["parent"] for one in told["commits"][1:]] == [one["output"] for one in told["commits"][:-1]]
    wrong = [] if models == {end} else [f"the last commit made {end}, and others have {sorted(models)}"]
    return wrong if chain else [*wrong, "a commit does not begin where the one before it ended"]


def _without_models(told: dict[str, Any]) -> dict[str, Any]:
    commits = [{key: value for key, value in one.items() if key not in _RANDOM} for one in told["commits"]]
    return {
        **told,
        "commits": commits,
        "release": [[one[0], *one[2:]] for one in told["release"]],
        "end": [[*one[:2], one[3]] for one in told["end"]],
        "kept": {name: sorted(one) for name, one in told["kept"].items()},
    }
