"""How a run starts: one leaf that says everything about it, and a KEM key of its own.

The run's private key is kept in the journal only, sealed to the server's long-term key under the run's name; erasing that entry
(`forget`) is what makes the run's updates unreadable for the server after the dispute window.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from ...algorithms.rule import NoisyRule, UpdateMeta, make_rule, require_schedule
from ...algorithms.statistics import UpdateStatistics
from ...audit.events import RunStart, peek_event
from ...parameters import Schema
from ...trust.canonical import canonical
from ...trust.keys.sealing import OpeningKey
from ..central import plan_of
from ..config import RunConfig
from ..environment import environment_digest
from ..errors import RunError
from ..planes import row_schema
from ..training.seam import Array
from .office import Office, RunFile
from .rounds.fingerprint import fingerprint_key

__all__ = ["forget_run_key", "start_run"]


def start_run(office: Office, config: RunConfig, parameters: Mapping[str, Array], model: str) -> RunFile:
    """Log the start of the run, once, and return its file; ``model`` is the digest of version 0's plaintext.

    Raises:
        RunError: a run of this name was started with another configuration, or its key was erased.
        AlgorithmError, ParametersError, PrivacyError: the rule cannot be used so, or not for this model.
    """
    run, charter = config.name, office.parties.charter
    schema = Schema.of(dict(parameters))
    rule = make_rule(config.aggregation.rule, config.aggregation.parameters)
    require_schedule(rule, "synchronous")
    for plane in rule.state_planes:
        row_schema(plane, schema)  # names grow by the plane's, and have an end
    if isinstance(rule, NoisyRule):
        _require_noisy(rule, charter.weights, sum(spec.size for spec in schema.floats().tensors))
    key = _run_key(office, run)
    index = office.notary.record(
        f"{run}/start",
        lambda: RunStart(
            **office.about(run),
            charter=office.parties.digest,
            config=config.model_dump(mode="json"),
            schema_digest=schema.digest,
            rule=rule.name,
            parameters=dict(rule.parameters()),
            model=model,
            suite=charter.suite,
            seal_key=base64.b64encode(key.public.public).decode(),
            environment=environment_digest(),
        ),
    )
    start = peek_event(office.notary.log.entry(index))
    if not isinstance(start, RunStart) or canonical(start.config) != canonical(config.model_dump(mode="json")):
        raise RunError(
            f"run {run} was started with another configuration",
            where="run.start",
            remedy="Give the new run another name; a run is resumed with the configuration that it was started with.",
        )
    return RunFile(start, index, config, schema, key, fingerprint_key(key), rule)


def _require_noisy(rule: NoisyRule, weights: Mapping[str, float], dimensions: int) -> None:
    if rule.sites != len(weights):
        raise RunError(
            f"{rule.name} divides by {rule.sites} sites, and the charter has {len(weights)}",
            where="run.start",
            remedy="Set aggregation.sites to the number of sites in the charter.",
        )
    plan_of(rule, dimensions)
    everybody = sorted(weights, key=str.encode)
    rule.coefficients([UpdateMeta(one) for one in everybody], [UpdateStatistics(True, 0.0)] * rule.sites, None, weights)


def _run_key(office: Office, run: str) -> OpeningKey:
    suite = office.parties.charter.suite
    info = canonical({"purpose": "counterseal-run-key-v1", "federation": office.federation, "run": run})
    own = office.keys.opening

    def make() -> str:
        fresh = OpeningKey.generate(suite)
        return base64.b64encode(own.public.wrap(fresh.to_private_bytes(), info)).decode()

    wrapped = office.journal.once(f"{run}/key", make)
    if wrapped == "erased":
        raise RunError(f"the key of run {run} was erased after its dispute window", where="run key")
    return OpeningKey.from_private_bytes(suite, own.unwrap(base64.b64decode(wrapped), info))


def forget_run_key(office: Office, run: str) -> None:
    """Erase the run's key, once: from now on nobody but the auditor opens its updates."""
    if office.journal.get(f"{run}/key") != "erased":
        office.journal.erase(f"{run}/key", "erased")
