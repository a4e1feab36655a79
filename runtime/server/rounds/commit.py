"""The commit: the act that makes the next version.

Coefficients from the charter's weights and the admitted statistics; one stream through parent and updates into a newly sealed
model (and, for a rule with a memory, into the rows of `state`; for one with noise, with the row that `noise` drew); one leaf
that names the inputs in site order, commits to every coefficient with a salt of its own, and names everybody whose update is
not in it, with the reason. Salts and manifests are journaled first, so a restart makes the same leaf. An auditor, if the
charter names one, gets the openings sealed in the store (`openings`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from ....algorithms.arithmetic import Float32
from ....algorithms.rule import CohortRule, NoisyRule, UpdateMeta
from ....audit.events import AggregateCommit, Decision, Excluded, Input, commitment, salt
from ....trust.dsse import read
from ....trust.identifiers import sha256
from ...rule_state import float_bits
from ..correspondence.tickets import Issued
from ..models import Models
from ..office import Office, RunFile
from .admission import Admitted, open_update
from .aggregate import combined
from .noise import VersionNoise
from .openings import put_openings
from .state import RuleStates

__all__ = ["Commitment", "commit", "float_bits"]


@dataclass(frozen=True, slots=True)
class Commitment:
    """What a commit made; the coefficients by site are for the operator."""

    index: int
    output: str
    coefficients: dict[str, float]


def commit(
    office: Office,
    file: RunFile,
    models: Models,
    version: int,
    attempt: int,
    inputs: Sequence[tuple[Issued, Admitted]],
    excluded: Sequence[Excluded],
    membership: Sequence[Decision],
) -> Commitment:
    """Make version ``version`` + 1 from ``inputs`` (in site order) and log it.

    Raises:
        BlobError: an update is no longer what was admitted: the store changed it.
    """
    weights = office.parties.charter.weights
    meta = [UpdateMeta(ticket.order.site, ticket.order.seq) for ticket, _ in inputs]
    stats = [admitted.statistics for _, admitted in inputs]
    coefficients = file.rule.coefficients(meta, [one for one in stats if one is not None], None, weights)
    openings = _openings(office, inputs, coefficients)
    sites = tuple(one.identity for one in membership if one.allowed and one.role == "site")
    recipients, states, noise = _recipients(office, sites), None, None
    if isinstance(file.rule, CohortRule):
        states = RuleStates(office, file, file.rule)
        with states.begin(models, version, inputs, coefficients) as made:
            models.seal(version + 1, made.chunks, recipients, made.facts)
        states.upload(version + 1)
    else:
        if isinstance(file.rule, NoisyRule):
            noise = VersionNoise(office, file, file.rule, version, attempt, [ticket for ticket, _ in inputs])
            noise.draw()
        chunks = partial(_chunks, office, file, models, version, inputs, coefficients, noise)
        models.seal(version + 1, chunks, recipients)
        if noise is not None:
            noise.upload()
    run = file.start.run
    index = office.notary.record(
        f"{run}/commit/{version}",
        lambda: AggregateCommit(
            **office.about(run),
            version=version,
            attempt=attempt,
            parent=models.digest(version),
            inputs=tuple(
                _input(ticket, admitted, weights[ticket.order.site], openings[ticket.digest])
                for ticket, admitted in inputs
            ),
            excluded=tuple(excluded),
            rule=file.rule.name,
            parameters=dict(file.rule.parameters()),
            state=states.commitment(version + 1) if states else noise.commitment if noise else None,
            output=models.digest(version + 1),
            manifest=models.manifest_digest(version + 1),
            decisions=tuple(membership),
        ),
    )
    office.publish()
    opening = states.opening(version + 1) if states else noise.opening if noise else None
    put_openings(office, file, version + 1, inputs, opening)
    values = {ticket.order.site: float(value) for (ticket, _), value in zip(inputs, coefficients, strict=True)}
    return Commitment(index, models.digest(version + 1), values)


def _recipients(office: Office, committed: Sequence[str]) -> tuple[str, ...]:
    """Return whom the next version is for: every site of the charter that the group did not just refuse."""
    kept = []
    for site in office.parties.charter.sites:
        if site in committed or (found := office.gate.ask(site, "site")).allowed or found.outage:
            kept.append(site)
    return tuple(kept)


def _openings(
    office: Office, inputs: Sequence[tuple[Issued, Admitted]], coefficients: Float32
) -> dict[str, dict[str, Any]]:
    found = {}
    for (ticket, _), value in zip(inputs, coefficients, strict=True):
        bits = float_bits(value)
        found[ticket.digest] = office.journal.once(f"coefficient/{ticket.digest}", partial(_opening, bits))
    return found


def _opening(bits: str) -> dict[str, Any]:
    return {"value": bits, "salt": salt()}


def _chunks(
    office: Office,
    file: RunFile,
    models: Models,
    version: int,
    inputs: Sequence[tuple[Issued, Admitted]],
    coefficients: Float32,
    noise: VersionNoise | None,
) -> Iterator[memoryview]:
    with ExitStack() as stack:
        parent = models.open(version, stack)
        updates = [open_update(office, file, ticket, admitted.manifest or "", stack) for ticket, admitted in inputs]
        if noise is None:
            yield from combined(file.schema, parent, updates, file.rule, coefficients)
        else:
            yield from combined(file.schema, parent, updates, file.rule, coefficients, noise=noise.open(stack))


def _input(ticket: Issued, admitted: Admitted, weight: float, opening: dict[str, Any]) -> Input:
    manifest = sha256(read((admitted.manifest or "").encode()).payload)
    return Input(
        site=ticket.order.site,
        ticket=ticket.digest,
        manifest=manifest,
        weight=weight,
        coefficient=commitment(opening["value"], opening["salt"]),
    )
