"""The face for programs that embed a federation. No global state, no thread left behind; logging is the standard library's.

`run_federation` does what ``counterseal server run`` does, in the calling process, with the sites as processes beside it.
`Server` and `Site` are the two ends by themselves, for programs that bring their own transport, store or trainer.
"""

from __future__ import annotations

from pathlib import Path

from ..trust.charter.signing import SignedCharter
from .assembly import open_server, open_site
from .config import RunConfig, ServerConfig, SiteConfig, load_run, load_server, load_site
from .progress import Observer, Progress, ignore
from .server.run import RunResult
from .server.server import Server
from .site.site import Site
from .training.party import server_trainer
from .transports.seam import Arrival, Transport

__all__ = [
    "Arrival",
    "Observer",
    "Progress",
    "RunConfig",
    "RunResult",
    "Server",
    "ServerConfig",
    "SignedCharter",
    "Site",
    "SiteConfig",
    "Transport",
    "load_run",
    "load_server",
    "load_site",
    "open_server",
    "open_site",
    "run_federation",
]


def run_federation(
    config: ServerConfig | Path, *, observe: Observer = ignore, transport: Transport | None = None
) -> RunResult:
    """Run the configured run to its end, or go on where an earlier call stopped, and return how it ended.

    ``config`` is a server's configuration or the path of its YAML file; ``observe`` is called with each `Progress` in this
    thread. An aborted run returns too (`RunResult.outcome`).

    Raises:
        CountersealError: what was wrong, where, and what to do; call again after mending it.
    """
    settings = load_server(config) if isinstance(config, Path) else config
    run, trainer = settings.run_config, server_trainer(settings)
    with open_server(settings, observe=observe, transport=transport) as server:
        return server.run(run, trainer.initial_parameters(run.seed), evaluator=trainer)
