"""What the S3 tests share: a server with a second identity that is allowed nothing, and configurations that point to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from counterseal.runtime.stores.local_s3 import LocalS3
from counterseal.runtime.stores.s3 import connect

from ..seaweed import QUICK

FEDERATION = ("FEDERATIONKEY", "federation-secret-0123456789")
STRANGER = ("STRANGERKEY", "stranger-secret-0123456789")
PRINCIPAL = "arn:aws:iam::000000000000:user/federation"


class SharedS3(LocalS3):
    """A server with an administrator, a principal whose permissions come from policies alone, and a stranger with many."""

    def _identities(self) -> Path:
        path = super()._identities()
        value = json.loads(path.read_text())
        for name, (key, secret), actions in (
            ("federation", FEDERATION, []),
            ("stranger", STRANGER, ["Read", "Write", "List", "Tagging"]),
        ):
            value["identities"].append(
                {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            )
        path.write_text(json.dumps(value))
        return path


def boto(server: LocalS3, keys: tuple[str, str] | None = None) -> Any:
    """Return boto3's client for an identity: the administrator's by default."""
    key, secret = keys or (server.access_key, server.secret_key)
    credentials = {"aws_access_key_id": key, "aws_secret_access_key": secret, "aws_session_token": None}
    return connect(server.place("anything"), credentials, QUICK, None)


def point_to(config: Path, endpoint: str, bucket: str, **store: object) -> Path:
    """Let the server's configuration name a bucket."""
    value = yaml.safe_load(config.read_text())
    value["store"] = {
        "kind": "s3",
        "bucket": bucket,
        "endpoint_url": endpoint,
        "insecure_loopback": endpoint.startswith("http://"),
        **store,
    }
    config.write_text(yaml.safe_dump(value))
    return config
