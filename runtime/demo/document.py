"""A demonstration's result as one JSON document: what `--json` prints and, without the partition's counts, what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..central import ADJACENCY, UNIT
from .baselines import CENTRALISED
from .play import DemoResult

__all__ = ["document"]


def document(result: DemoResult, report: Path, counts: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    """Return ``result`` as JSON values. ``counts`` are for the screen of whoever made the partition, never for a file."""
    partition = {} if counts is None else {"partition": _partition(counts)}
    return {
        "format": 1,
        "good": result.good,
        "settings": result.settings.model_dump(mode="json"),
        "source": result.source,
        "outcome": result.run.outcome,
        "reason": result.run.reason,
        **partition,
        "parameters": result.parameters,
        "rounds": list(result.rounds),
        "accuracy": _accuracy(result),
        "curves": {
            "federated": [
                {"round": number, "loss": loss, "accuracy": right} for number, loss, right in result.federated
            ],
            **{name: {"loss": curve.loss, "accuracy": curve.accuracy} for name, curve in result.curves.items()},
        },
        "sealed": {
            "suite": result.sealed.suite,
            "models": result.sealed.models,
            "updates": result.sealed.updates,
            "bytes": result.sealed.bytes,
            "metrics": result.sealed.metrics,
        },
        "privacy": _privacy(result),
        "log": _log(result),
        "verification": {
            "passed": result.findings.passed,
            "rows": [
                {"id": row.id, "checks": row.checks, "status": row.status.value, "reasons": row.reasons}
                for row in result.findings.rows
            ],
        },
        "not_covered": [str(caveat) for caveat in result.founded.charter.charter.warnings()],
        "paths": {
            "federation": str(result.founded.folder),
            "log": str(result.founded.folder / "server" / "log"),
            "charter": str(result.founded.folder / "server" / "charter"),
            "report": str(report),
        },
        "seconds": round(result.seconds, 1),
    }


def _partition(counts: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"from": "this demonstration's own partitioner", "examples_by_class": dict(counts)}


def _privacy(result: DemoResult) -> dict[str, Any] | None:
    terms, central = result.terms, result.central
    if central is not None:
        rule = central.terms.rule
        return {
            "terms": {**rule.parameters(), "delta": central.terms.delta, "unit": UNIT, "adjacency": ADJACENCY},
            "noise_added_by": "the server, which sees every update exactly and is trusted",
            "comparisons": "unprotected",
            "versions": central.commits,
            "epsilon": central.epsilon,
            "noise_norm": central.terms.noise_norm(result.parameters),
            "clip_norm": rule.clip_norm,
        }
    if terms is None:
        return None
    return {
        "terms": terms.model_dump(mode="json"),
        "noise_added_by": "each site",
        "comparisons": "unprotected",
        "sites": {
            one.site: {
                "epsilon": one.stated,
                "delta": one.delta,
                "releases": one.spending.releases,
                "recomputed": one.recomputed,
                "agrees": one.agrees,
            }
            for one in result.accounts
        },
    }


def _accuracy(result: DemoResult) -> dict[str, Any]:
    return {
        "on": "the central test split",
        "federated": result.federated[-1][2],
        "local_only": {name: curve.accuracy[-1] for name, curve in result.curves.items() if name != CENTRALISED},
        "centralised": result.curves[CENTRALISED].accuracy[-1],
    }


def _log(result: DemoResult) -> dict[str, Any]:
    run, quorum = result.run, result.founded.charter.charter.quorum
    return {
        "leaves": run.leaves,
        "size": result.findings.size,
        "root": result.findings.root,
        "checkpoint": run.checkpoint,
        "charter": result.founded.digest,
        "quorum": {"k": quorum.k, "n": len(result.founded.charter.charter.sites), "f": quorum.f},
        "witnessed": run.witnessed,
        "cosigners": list(run.cosigners),
    }
