"""The identity mapping of a multi-user endpoint: one Globus identity, one local account, nothing computed.

The mapping is literal on the identity's UUID. User names are not used: they can be given to somebody else.
"""

from __future__ import annotations

import json

from .kit import MultiUser

__all__ = ["MAPPING_FILE", "identity_mapping"]

MAPPING_FILE = "identity_mapping.json"


def identity_mapping(users: MultiUser) -> str:
    """Return the file that the daemon reads, and reads again when it changes."""
    value = [
        {
            "DATA_TYPE": "expression_identity_mapping#1.0.0",
            "mappings": [
                {
                    "source": "{id}",
                    "match": users.server,
                    "output": users.user,
                    "ignore_case": False,
                    "literal": True,
                }
            ],
        }
    ]
    return json.dumps(value, indent=2) + "\n"
