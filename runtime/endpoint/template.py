"""The files that the daemon reads: its configuration, the template of its children, the schema, their environment.

The template has no variable: `user_config_schema.json` lets a server send none, and the template would use none. All texts
are written so that neither YAML nor Jinja finds anything in them to obey (`quoting`).

The daemon sends `config.yaml`, template and schema to Globus when it registers: partition, account and paths are known there.
"""

from __future__ import annotations

import json
from typing import Any

from .identity_mapping import MAPPING_FILE
from .kit import Kit
from .launcher import PAM_SERVICE
from .profiles import engine, heartbeat, idle_heartbeats
from .quoting import yaml

__all__ = ["config", "environment", "schema", "template"]

_HEAD = (
    "# Written by `counterseal site endpoint`. `counterseal site doctor --endpoint` names every line that differs.\n"
)


def config(kit: Kit) -> str:
    """Return `config.yaml`: one function, not public, and who may come at all."""
    value: dict[str, Any] = {
        "display_name": kit.name,
        "public": False,
        "allowed_functions": [kit.function],
        "heartbeat_period": heartbeat(kit),
    }
    if kit.authentication_policy is not None:
        value["authentication_policy"] = kit.authentication_policy
    if kit.multi_user is not None:
        value["email"] = kit.multi_user.email
        value["identity_mapping_config_path"] = f"{kit.folder}/{MAPPING_FILE}"
        if kit.run_as is not None:
            value["pam"] = {"enable": True, "service_name": PAM_SERVICE}
    if kit.test_cloud is not None:
        value["local_compute_services"] = True
    return _HEAD + yaml(value)


def template(kit: Kit) -> str:
    """Return `user_config_template.yaml.j2`."""
    return _HEAD + yaml({"heartbeat_period": heartbeat(kit), **idle_heartbeats(kit), "engine": engine(kit)})


def schema() -> str:
    """Return `user_config_schema.json`: an object without members."""
    value = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "A server sends no options.",
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }
    return json.dumps(value, indent=2) + "\n"


def environment(kit: Kit) -> str:
    """Return `user_environment.yaml`: what the daemon's children get besides (for a daemon of root: at all).

    A daemon that is not root hands its own environment on, the secret of its login included; what is set here wins. The children
    ask Globus for nothing, so they get nothing to ask with.
    """
    value = {"PATH": kit.path, "COUNTERSEAL_SITE": kit.launcher}
    if kit.multi_user is None:
        value |= {"GLOBUS_COMPUTE_CLIENT_ID": "", "GLOBUS_COMPUTE_CLIENT_SECRET": ""}
    if kit.multi_user is not None and kit.multi_user.work is not None:
        value["GLOBUS_COMPUTE_USER_DIR"] = kit.multi_user.work
    return _HEAD + yaml(value)
