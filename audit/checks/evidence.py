"""What a verifier holds while it works: the copy of a log, read once, and the trust it brought along.

`gather` reads and hashes; it judges nothing and raises nothing for bad bytes: what could not be read is missing, and the
checks say so. Events come from leaves whose signature held under a key valid at their index (`audit.checks.leaf_checks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

from ...trust.charter.signing import SignedCharter
from ...trust.errors import CharterError
from ...trust.keys.signing import VerifyingKey
from ..errors import AuditError, ProofError
from ..events import Event
from ..tlog.checkpoint import Checkpoint
from ..tlog.cosignature import CosignedCheckpoint
from ..tlog.merkle import leaf_hash
from ..tlog.policy import Policy
from ..tlog.tiles import decode_bundle, entry_bundles
from ..tlog.tree import Tree
from .source import LogSource

__all__ = ["Evidence", "Logged", "Trust", "gather"]

E = TypeVar("E", bound=Event, covariant=True)


@dataclass(frozen=True, slots=True)
class Trust:
    """What the verifier brought: never anything that lies beside the log.

    ``charter`` was verified with the signatures of all members (`trust.charter.signing.verify_charter`), its digest
    compared out of band. ``policy`` replaces the charter's quorum, if given. ``objects`` are the canonical objects that
    leaves name, by SHA-256: key statements, messages.
    """

    charter: SignedCharter
    policy: Policy | None = None
    objects: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.charter.charter.log_origin

    @property
    def log_key(self) -> VerifyingKey:
        """The key of the log's checkpoints: its operator's, as the charter names it.

        Raises:
            CharterError: the charter names none.
        """
        key = self.charter.statements[self.charter.charter.server].document.checkpoint
        if key is None:
            raise CharterError("the server's statement has no checkpoint key", where="members")
        return key


@dataclass(frozen=True, slots=True)
class Logged(Generic[E]):
    """An event whose signature held: where it stands, under which digest, by which key."""

    index: int
    event: E
    digest: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """A copy of a log, read. ``leaves`` are those under the largest valid checkpoint that could be read, in order."""

    trust: Trust
    source: LogSource
    sizes: tuple[int, ...]
    checkpoints: Mapping[int, CosignedCheckpoint]
    faults: Mapping[int, str]
    """Why the checkpoint of a size is none."""
    leaves: tuple[bytes, ...]
    tree: Tree
    unread: str = ""
    """Why the leaves end before the largest checkpoint does."""

    @property
    def latest(self) -> Checkpoint | None:
        """The largest checkpoint that the log's key signed."""
        return self.checkpoints[max(self.checkpoints)].checkpoint if self.checkpoints else None


def gather(source: LogSource, trust: Trust) -> Evidence:
    """Read the log in ``source``: every checkpoint, and every leaf under the largest valid one."""
    checkpoints: dict[int, CosignedCheckpoint] = {}
    faults: dict[int, str] = {}
    sizes = source.sizes()
    for size in sizes:
        try:
            found = CosignedCheckpoint.open(source.checkpoint(size) or b"", trust.origin, trust.log_key)
        except AuditError as error:
            faults[size] = error.what
            continue
        if found.checkpoint.size != size:
            faults[size] = f"it is the checkpoint of {found.checkpoint.size} leaves"
        else:
            checkpoints[size] = found
    leaves, unread = _leaves(source, max(checkpoints, default=0))
    tree = Tree()
    tree.extend(map(leaf_hash, leaves))
    return Evidence(trust, source, sizes, checkpoints, faults, tuple(leaves), tree, unread)


def _leaves(source: LogSource, size: int) -> tuple[list[bytes], str]:
    leaves: list[bytes] = []
    for tile in entry_bundles(size):
        path = tile.entries_path()
        data = source.tile(path)
        if data is None:
            return leaves, f"{path} is missing"
        try:
            leaves += decode_bundle(data, tile.width)
        except ProofError:
            return leaves, f"{path} is not a bundle of {tile.width} leaves"
    return leaves, ""
