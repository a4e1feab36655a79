"""Wraps: the root sealed to each recipient, and opened by one of them.

A wrap is an HPKE message whose ``info`` is the digest of the context, so it opens in its own place only. Which key opened
it is no proof of who sealed it (HPKE's base mode has no sender): the manifest's signature says that.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from ..errors import RecipientError
from ..keys.sealing import OpeningKey, SealingKey
from .keys import BlobKeys
from .manifest import Context, Manifest, Wrap

__all__ = ["recipient_names", "unwrap_root", "wrap_root"]


def recipient_names(recipients: Sequence[SealingKey], suite: str) -> tuple[str, ...]:
    """Return the sorted key ids of ``recipients``.

    Raises:
        RecipientError: no recipient, one twice, or one with a key of another suite.
    """
    if wrong := [key for key in recipients if key.suite != suite]:
        raise RecipientError(f"a {wrong[0].suite} key in a federation of {suite}", where=wrong[0].key_id[:16])
    names = tuple(sorted(key.key_id for key in recipients))
    if not names or len(set(names)) != len(names):
        raise RecipientError("a blob has at least one recipient, and each once", where="recipients")
    return names


def wrap_root(keys: BlobKeys, context: Context, recipients: Sequence[SealingKey]) -> tuple[Wrap, ...]:
    """Return the root wrapped to each recipient, in the order of the context."""
    ordered = sorted(recipients, key=lambda key: key.key_id)
    return tuple(
        Wrap(key_id=key.key_id, wrapped=base64.b64encode(key.wrap(keys.root, context.binding)).decode())
        for key in ordered
    )


def unwrap_root(manifest: Manifest, key: OpeningKey) -> BlobKeys:
    """Return the keys of the blob, after the commitment was checked.

    Raises:
        RecipientError: not sealed for ``key``.
        CommitmentError: sealed for ``key`` with another root than the one committed to.
    """
    name = key.public.key_id
    wrap = next((wrap for wrap in manifest.wraps if wrap.key_id == name), None)
    if wrap is None or key.public.suite != manifest.context.suite:
        raise RecipientError("not sealed for this key", where=f"sealing key {name[:16]}")
    keys = BlobKeys(key.unwrap(wrap.data, manifest.context.binding))
    keys.require(manifest.commitment)
    return keys
