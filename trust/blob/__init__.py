"""Sealed blobs: parameters that travel encrypted, signed and bound to one place.

A blob is a *payload* (canonical safetensors under Tink's streaming AES-256-GCM) and a *manifest* (a signed statement: context,
wrapped root, commitment, part digests, expiry). To write one: `seal`. To read one: `read_manifest`, then `open_blob`, then
`Opened.read` or `Opened.stream`. To hand one on: `rewrap`. To look at one without a key: `explain`.

What this package guarantees (promise P2): a blob counts only from its sender, for its recipients, in its place. Its tests
open every blob in every place with every key, and only the diagonal opens.

What it does not do: say whose key is whose, or who was revoked (`trust.keys`, the charter, the log); transport and object keys
(`runtime.stores`); judge the values inside (screening).
"""

from .inspect import explain
from .manifest import BlobKind, Context, Manifest, Place, Rewrap, Wrap, part_size, read_manifest
from .open import Opened, PlaintextStream, open_blob
from .payload import ciphertext_length
from .rewrap import rewrap
from .seal import Sealed, seal
from .source import BytesSource, FileSource, RangedSource

__all__ = [
    "BlobKind",
    "BytesSource",
    "Context",
    "FileSource",
    "Manifest",
    "Opened",
    "Place",
    "PlaintextStream",
    "RangedSource",
    "Rewrap",
    "Sealed",
    "Wrap",
    "ciphertext_length",
    "explain",
    "open_blob",
    "part_size",
    "read_manifest",
    "rewrap",
    "seal",
]
