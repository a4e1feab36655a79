"""The files of a plain endpoint folder for the stand-in's own tests; what Counterseal gives its sites is `site endpoint`'s."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["THREADS", "WORKERS", "write_endpoint"]

THREADS: dict[str, Any] = {"type": "ThreadPoolEngine", "max_workers": 2}
"""The engine that starts at once."""
WORKERS: dict[str, Any] = {
    "type": "GlobusComputeEngine",
    "address": "127.0.0.1",
    "loopback_address": "127.0.0.1",
    "max_workers_per_node": 1,
    "provider": {"type": "LocalProvider", "init_blocks": 1, "min_blocks": 1, "max_blocks": 1},
}
"""The engine of production: workers in processes of their own, over an encrypted connection."""
_HIDDEN = {"GLOBUS_COMPUTE_CLIENT_ID": "", "GLOBUS_COMPUTE_CLIENT_SECRET": ""}
"""Without this the daemon's credentials are in the environment of every task; a user endpoint needs none."""
_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}


def write_endpoint(
    folder: Path,
    name: str,
    *,
    engine: Mapping[str, Any] = THREADS,
    allowed: list[str] | None = None,
    environment: Mapping[str, str] | None = None,
    **config: Any,
) -> Path:
    """Write the folder of the endpoint ``name`` below ``folder`` (its GLOBUS_COMPUTE_USER_DIR) and return it."""
    place = folder / name
    place.mkdir(parents=True)
    settings: dict[str, Any] = {"display_name": name, "local_compute_services": True, "heartbeat_period": 5, **config}
    if allowed is not None:
        settings["allowed_functions"] = allowed
    texts = {
        "config.yaml": yaml.safe_dump(settings),
        "user_config_template.yaml.j2": yaml.safe_dump({"heartbeat_period": 5, "engine": dict(engine)}),
        "user_config_schema.json": json.dumps(_SCHEMA),
        "user_environment.yaml": yaml.safe_dump(
            {**_HIDDEN, "GLOBUS_COMPUTE_USER_DIR": str(folder), **(environment or {})}
        ),
    }
    for file, text in texts.items():
        (place / file).write_text(text)
    return place
