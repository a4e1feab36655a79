"""Merkle trees of RFC 6962: hashes, proofs and their verification, as pure functions over bytes.

A tree over leaves d0..dn-1 has the root ``SHA-256("")`` for n = 0, ``SHA-256(0x00 || d0)`` for n = 1, and otherwise
``SHA-256(0x01 || root of the first k || root of the rest)``, k being the largest power of two below n. The two prefixes
keep a leaf from being read as a node (second preimages); the split is what makes a proof's shape a function of index
and size alone, so a verifier never takes a shape from the prover.

Proof making needs the roots of *perfect* subtrees only, handed in as ``node(level, index)`` = root of leaves
[index * 2^level, (index + 1) * 2^level); where they are kept is the caller's affair (`audit.tlog.tree`, tiles, a test's list).
Verification follows RFC 9162 sections 2.1.3.2 and 2.1.4.2 step by step, with two cases the RFC leaves to the caller: a
proof from the empty tree, and between equal sizes, must be empty and the roots must be the right ones.

Not handled here: who signed a root (`audit.tlog.checkpoint`).

Source: RFC 6962 section 2.1; RFC 9162 sections 2.1.3 and 2.1.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import ProofError

__all__ = [
    "EMPTY_ROOT",
    "Frontier",
    "HASH_SIZE",
    "NodeSource",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "range_root",
    "require_consistency",
    "require_inclusion",
    "root_of",
]

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

_MAX_SIZE = 1 << 62

NodeSource: TypeAlias = Callable[[int, int], bytes]
"""(level, index) -> root of the perfect subtree of 2^level leaves that starts at index * 2^level: bytes[32]."""


def leaf_hash(leaf: bytes) -> bytes:
    """Return the hash of a leaf: bytes[32]."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes | bytearray, right: bytes | bytearray) -> bytes:
    """Return the hash of an inner node: bytes[32]."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """The right edge of a tree: one root per set bit of ``size``, largest subtree first.

    It is all that appending needs, so a tree grows in O(log n) time and memory.
    """

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def extend(self, hashes: Iterable[bytes]) -> Frontier:
        """Return the frontier after appending leaf ``hashes``: bytes[32] each."""
        size, nodes = self.size, list(self.nodes)
        for new in hashes:
            size += 1
            nodes.append(new)
            carry = size
            while carry & 1 == 0:
                right = nodes.pop()
                nodes.append(node_hash(nodes.pop(), right))
                carry >>= 1
        return Frontier(size, tuple(nodes))

    @property
    def root(self) -> bytes:
        """The root of the whole tree: bytes[32]."""
        return _fold(self.nodes)


def _fold(nodes: Sequence[bytes]) -> bytes:
    if not nodes:
        return EMPTY_ROOT
    root = nodes[-1]
    for left in reversed(nodes[:-1]):
        root = node_hash(left, root)
    return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root of the tree over ``leaves`` (their bytes, not their hashes): bytes[32]."""
    return Frontier().extend(leaf_hash(leaf) for leaf in leaves).root


def range_root(start: int, end: int, node: NodeSource) -> bytes:
    """Return the root of leaves [start, end), a range that the recursive split produces: bytes[32]."""
    return _fold([node(level, index) for level, index in _perfect(start, end)])


def _perfect(start: int, end: int) -> Iterator[tuple[int, int]]:
    # In the ranges that the split makes, start is a multiple of every power of two up to the range's length.
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def inclusion_proof(index: int, size: int, node: NodeSource) -> tuple[bytes, ...]:
    """Return the audit path of leaf ``index`` in the tree of ``size`` leaves, sibling of the leaf first.

    Raises:
        ProofError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ProofError(f"no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_root(middle, end, node))
            end = middle
        else:
            path.append(range_root(start, middle, node))
            start = middle
    return tuple(reversed(path))


def consistency_proof(old: int, new: int, node: NodeSource) -> tuple[bytes, ...]:
    """Return the proof that the tree of ``old`` leaves is a prefix of the tree of ``new`` leaves.

    Raises:
        ProofError: old is not in [0, new].
    """
    if not 0 <= old <= new:
        raise ProofError(f"a tree of {new} leaves does not extend one of {old}")
    if old == 0 or old == new:
        return ()
    path: list[bytes] = []
    start, end = 0, new
    while old < end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(range_root(middle, end, node))
            end = middle
        else:
            path.append(range_root(start, middle, node))
            start = middle
    if start > 0:  # otherwise the old tree is itself a subtree, and the verifier knows its root
        path.append(range_root(start, end, node))
    return tuple(reversed(path))


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def require_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Return if the leaf whose hash is ``leaf`` stands at ``index`` in the tree of ``size`` leaves with ``root``.

    Raises:
        ProofError: it is not proven.

    Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size <= _MAX_SIZE:
        raise ProofError(f"no leaf {index} in a tree of {size}", where="inclusion proof")
    _require_hashes(proof, "inclusion proof")
    fn, sn, found = index, size - 1, leaf
    for step in proof:
        if sn == 0:
            raise ProofError("longer than the tree is deep", where="inclusion proof")
        if fn & 1 or fn == sn:
            found = node_hash(step, found)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = node_hash(found, step)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise ProofError("shorter than the tree is deep", where="inclusion proof")
    if found != root:
        raise ProofError(f"leaf {index} does not lead to the root of the tree of {size}", where="inclusion proof")


def require_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Return if the tree (``new``, ``new_root``) begins with all of the tree (``old``, ``old_root``).

    Raises:
        ProofError: it is not proven.

    Source: RFC 9162 section 2.1.4.2.
    """
    if not 0 <= old <= new <= _MAX_SIZE:
        raise ProofError(f"a tree of {new} leaves does not extend one of {old}", where="consistency proof")
    _require_hashes(proof, "consistency proof")
    if old == 0 or old == new:
        _require_trivial(old, old_root, new, new_root, proof)
        return
    if not proof:
        raise ProofError("empty between different trees", where="consistency proof")
    steps = list(proof)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    first = second = steps[0]
    for step in steps[1:]:
        if sn == 0:
            raise ProofError("longer than the tree is deep", where="consistency proof")
        if fn & 1 or fn == sn:
            first, second = node_hash(step, first), node_hash(step, second)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            second = node_hash(second, step)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or first != old_root or second != new_root:
        raise ProofError(f"the tree of {new} is not proven to extend the tree of {old}", where="consistency proof")


def _require_trivial(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    if proof:
        raise ProofError("must be empty from the empty tree and between equal sizes", where="consistency proof")
    if old == 0 and old_root != EMPTY_ROOT:
        raise ProofError("not the root of the empty tree", where="consistency proof")
    if old == new and old_root != new_root:
        raise ProofError(f"two roots for one size {new}", where="consistency proof")


def _require_hashes(proof: Sequence[bytes], where: str) -> None:
    if len(proof) > 63 or any(len(step) != HASH_SIZE for step in proof):
        raise ProofError("not a list of at most 63 hashes of 32 bytes", where=where)
