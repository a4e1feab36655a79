"""A server or a site as a real process that can be told where to die. Run by the tests of `test_processes` only.

    python -m counterseal.tests.crash.real server <server.yaml> <marker>
    python -m counterseal.tests.crash.real site   <site.yaml>   <marker>

The environment variable COUNTERSEAL_TEST_POINT (party|step|occurrence) is read here and nowhere in the engine; the process of
that party kills itself there, unless ``marker`` says that it was done. Everything else is production's own assembly.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from counterseal.durable import Probe, silent
from counterseal.runtime.assembly import open_server, open_site
from counterseal.runtime.config import LocalTransportConfig, load_server, load_site
from counterseal.runtime.site.worker import serve_standard_streams
from counterseal.runtime.training.party import server_trainer
from counterseal.runtime.transports.local import LocalTransport, spawn
from counterseal.tests.crash.points import Killer, Point, probe_of

POINT = "COUNTERSEAL_TEST_POINT"


def main() -> int:
    """Be the party that the command line names."""
    role, path, marker = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    return _server(path, marker) if role == "server" else _site(path, marker)


def _probe(party: str, marker: Path) -> Probe:
    text = os.environ.get(POINT)
    return probe_of(Killer(Point.parse(text), marker), party) if text else silent


def _server(path: Path, marker: Path) -> int:
    config = load_server(path)
    own = [sys.executable, "-m", "counterseal.tests.crash.real", "site"]
    assert isinstance(config.transport, LocalTransportConfig)
    commands = {site: [*own, str(place), str(marker)] for site, place in config.transport.sites.items()}
    transport = LocalTransport(spawn(commands, config.state / "sites"))
    with open_server(config, transport=transport, probe=_probe(config.identity, marker)) as server:
        trainer = server_trainer(config)
        result = server.run(config.run_config, trainer.initial_parameters(config.run_config.seed))
    return 0 if result.outcome == "completed" else 1


def _site(path: Path, marker: Path) -> int:
    config = load_site(path)
    with open_site(config, probe=_probe(config.identity, marker)) as site:
        serve_standard_streams(site)
    return 0


if __name__ == "__main__":
    sys.exit(main())
