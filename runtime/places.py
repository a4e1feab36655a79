"""Where objects lie in the store. The keys are ours: no part of them comes from a peer.

Three folders, because stores expire, lock and permit by the beginning of a key:

    payloads/   sealed models, updates and states: large, and of no use once the dispute window is over
    runs/       manifests, answers and openings: small, and evidence as long as anybody may ask
    log/        the mirror of the transparency log: evidence too

What begins with neither of the last two may be deleted by a lifecycle rule; `is_evidence` says which keys may be locked.
"""

from __future__ import annotations

__all__ = [
    "answer_key",
    "global_manifest_key",
    "global_payload_key",
    "is_evidence",
    "noise_manifest_key",
    "noise_payload_key",
    "openings_key",
    "state_manifest_key",
    "state_payload_key",
    "update_payload_key",
]


def global_payload_key(run: str, version: int) -> str:
    """Return the key of the sealed model of ``version``.

    >>> global_payload_key("digits-1", 3)
    'payloads/digits-1/versions/000003/payload'
    """
    return f"payloads/{run}/versions/{version:06d}/payload"


def global_manifest_key(run: str, version: int) -> str:
    """Return the key of that model's manifest."""
    return f"runs/{run}/versions/{version:06d}/manifest"


def openings_key(run: str, version: int) -> str:
    """Return the key of what the auditor needs to replay the commit that made ``version``."""
    return f"runs/{run}/versions/{version:06d}/openings"


def update_payload_key(run: str, ticket: str) -> str:
    """Return the key of the sealed update that answers ``ticket`` (a digest)."""
    return f"payloads/{run}/updates/{ticket}/payload"


def answer_key(run: str, ticket: str) -> str:
    """Return the key of the answer object that goes with the update."""
    return f"runs/{run}/updates/{ticket}/answer"


def state_payload_key(run: str, version: int, member: int, plane: str) -> str:
    """Return the key of the sealed row of ``plane`` that the commit which made ``version`` made for member number ``member``.

    >>> state_payload_key("digits-1", 3, 0, "dual")
    'payloads/digits-1/states/000003/0-dual/payload'
    """
    return f"payloads/{run}/states/{version:06d}/{member}-{plane}/payload"


def state_manifest_key(run: str, version: int, member: int, plane: str) -> str:
    """Return the key of that row's manifest."""
    return f"runs/{run}/states/{version:06d}/{member}-{plane}/manifest"


def noise_payload_key(run: str, version: int) -> str:
    """Return the key of the sealed noise in ``version``.

    >>> noise_payload_key("digits-1", 3)
    'payloads/digits-1/states/000003/noise/payload'
    """
    return f"payloads/{run}/states/{version:06d}/noise/payload"


def noise_manifest_key(run: str, version: int) -> str:
    """Return the key of that noise's manifest."""
    return f"runs/{run}/states/{version:06d}/noise/manifest"


def is_evidence(key: str) -> bool:
    """Tell whether an object is needed as evidence, so that it may be locked against deletion.

    >>> [is_evidence(key) for key in (answer_key("r", "t"), update_payload_key("r", "t"), "log/checkpoint/3")]
    [True, False, True]
    """
    return key.startswith(("log/", "runs/"))
