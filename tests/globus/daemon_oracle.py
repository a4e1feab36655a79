"""Asks the real daemon's own code what it makes of an endpoint's folder. Runs in the daemon's environment, not in ours.

.venv-endpoint/bin/python tests/globus/daemon_oracle.py FOLDER    prints one JSON document
"""

from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path
from typing import Any

from globus_compute_endpoint.endpoint.config.utils import (  # type: ignore[import-not-found]
    get_config,
    load_config_yaml,
    load_user_config_schema,
    load_user_config_template,
    render_config_user_template,
)
from globus_compute_endpoint.endpoint.endpoint import Endpoint  # type: ignore[import-not-found]
from globus_compute_endpoint.endpoint.identity_mapper import (  # type: ignore[import-not-found]
    MappedPosixIdentity,
    PosixIdentityMapper,
)

OPTIONS: tuple[dict[str, Any], ...] = ({"worker_init": "id"}, {"x": 1}, {"engine": {}})
"""What a server might send."""


def _refuses(render: Any, options: dict[str, Any]) -> bool:
    try:
        render(options)
    except Exception:  # noqa: BLE001  whatever it raises, it does not render
        return True
    return False


def main(folder: Path) -> dict[str, Any]:
    Endpoint.validate_endpoint_name(folder.name)
    core = get_config(folder)
    path = Endpoint.user_config_template_path(folder, core)
    identity = MappedPosixIdentity(pwd.getpwuid(os.getuid()), [], None)
    schema = load_user_config_schema(Endpoint.user_config_schema_path(folder, core))

    def render(options: dict[str, Any]) -> str:
        runtime = {"python": {"version": "{{ 7*7 }}"}}
        text = load_user_config_template(path)
        return str(render_config_user_template(core, text, path, identity, schema, options, runtime))

    user = load_config_yaml(render({}))
    executor = user.engine.executor
    provider = executor.provider
    told = {
        "core": type(core).__name__,
        "display_name": core.display_name,
        "public": core.public,
        "allowed_functions": core.allowed_functions,
        "policy": core.authentication_policy,
        "email": core.email,
        "pam": [core.pam.enable, core.pam.service_name],
        "rendered_is_written": render({}).rstrip("\n") == path.read_text().rstrip("\n"),
        "user": type(user).__name__,
        "idle": [user.idle_heartbeats_soft, user.idle_heartbeats_hard],
        "engine": type(user.engine).__name__,
        "serializers": sorted(one.__name__ for one in user.engine.serde.allowed_deserializer_types),
        "encrypted": executor.encrypted,
        "workers": executor.max_workers_per_node,
        "addresses": sorted(executor.all_addresses),
        "retries": user.engine.max_retries_on_system_failure,
        "provider": type(provider).__name__,
        "blocks": [provider.init_blocks, provider.min_blocks, provider.max_blocks, provider.nodes_per_block],
        "worker_init": provider.worker_init,
        "scheduler_options": getattr(provider, "scheduler_options", ""),
        "select_options": getattr(provider, "select_options", ""),
        "refused": [_refuses(render, options) for options in OPTIONS],
    }
    if core.identity_mapping_config_path:
        mapper = PosixIdentityMapper(core.identity_mapping_config_path, "1" * 8)
        server, other = sys.argv[2:4]
        told["mapped"] = [mapper.map_identities([{"id": one, "sub": one, "status": "used"}]) for one in (server, other)]
        mapper.stop_watching()
    return told


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
    sys.stdout.flush()
    os._exit(0)  # threads of the daemon's engine were never started, and some wait at exit
