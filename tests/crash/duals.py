"""What must hold of ADMM after a kill: both ends keep the same pairs, bit for bit."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from counterseal.algorithms.rule import CohortRule
from counterseal.audit.events import RunStart, peek_event
from counterseal.parameters import Schema
from counterseal.runtime.server.rounds.state import RuleStates
from counterseal.runtime.server.start import start_run
from counterseal.tests.federation import DirectTransport, Federation
from counterseal.trust.identifiers import sha256

from .points import unwatched
from .story import Setting, open_site

__all__ = ["compared"]

Pairs = dict[str, dict[str, str]]
"""By site: digest of each plane's bits, and the penalty."""


def compared(federation: Federation, setting: Setting) -> tuple[Pairs, list[str]]:
    """Return the pairs that both ends have, and where they differ."""
    here, there = at_server(federation, setting), at_sites(federation, setting)
    wrong = [
        f"{site}: the server has {here[site]}, the site {there[site]}"
        for site in federation.sites
        if there[site].get("dual") is None or not there[site].items() <= here[site].items()
    ]
    return here, wrong


def at_server(federation: Federation, setting: Setting) -> Pairs:
    """Return the server's pairs beside the last version, opened with the run's key."""
    config, found = setting.config(), Pairs()
    with federation.server(DirectTransport({})) as server:
        parameters = federation.first_parameters(config)
        file = start_run(server._office, config, parameters, "")
        if not isinstance(file.rule, CohortRule):
            raise AssertionError(f"{file.rule.name} keeps no pairs")
        states = RuleStates(server._office, file, file.rule)
        table = states.table(setting.rounds)
        for plane in file.rule.state_planes:
            with ExitStack() as stack:
                rows = states.open(setting.rounds, plane, stack)
                for site, row in zip(federation.sites, rows, strict=True):
                    bits = b"" if row is None else bytes(row.read()[len(row.schema.header()) :])
                    found.setdefault(site, {"rho": str(table.rho[site])})[plane] = sha256(bits)
    return found


def at_sites(federation: Federation, setting: Setting) -> Pairs:
    """Return the pair that each site would train its next round with."""
    schema, found = Schema.of(federation.first_parameters(setting.config())).floats(), Pairs()
    for name in federation.sites:
        with open_site(federation, setting, name, unwatched) as site:
            leaf = site._state.journal.get(f"run/{setting.config().name}")
            start = peek_event(leaf["leaf"].encode())
            pair = site._memory.pair(start, schema) if isinstance(start, RunStart) else None
        if pair is None:
            found[name] = {}
            continue
        planes = {"dual": pair.dual, "primal": pair.primal}  # a site keeps the primal only where its penalty follows
        flat = {
            plane: np.concatenate([values[spec.name] for spec in schema.tensors]).astype("<f4")
            for plane, values in planes.items()
            if values is not None
        }
        found[name] = {"rho": str(pair.rho), **{plane: sha256(values.tobytes()) for plane, values in flat.items()}}
    return found
