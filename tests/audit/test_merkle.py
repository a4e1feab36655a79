"""The tree against three others: RFC 6962's recursion in ten lines, pymerkle, and the published CT vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from counterseal.audit.errors import ProofError
from counterseal.audit.tlog.merkle import (
    EMPTY_ROOT,
    Frontier,
    leaf_hash,
    node_hash,
    require_consistency,
    require_inclusion,
    root_of,
)
from counterseal.audit.tlog.tree import Tree

# The leaves and roots with which Certificate Transparency implementations are tested.
CT_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def reference_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1, read aloud."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + reference_root(leaves[:k]) + reference_root(leaves[k:])).digest()


def reference_subproof(m: int, leaves: Sequence[bytes], whole: bool = True) -> list[bytes]:
    """RFC 6962 section 2.1.2, read aloud."""
    if m == len(leaves):
        return [] if whole else [reference_root(leaves)]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m <= k:
        return [*reference_subproof(m, leaves[:k], whole), reference_root(leaves[k:])]
    return [*reference_subproof(m - k, leaves[k:], False), reference_root(leaves[:k])]


def tree_of(leaves: Sequence[bytes]) -> Tree:
    tree = Tree()
    tree.extend(map(leaf_hash, leaves))
    return tree


def numbered(size: int) -> list[bytes]:
    return [b"leaf %d" % index for index in range(size)]


@pytest.mark.parametrize("size", range(9))
def test_certificate_transparency_vectors(size: int) -> None:
    leaves = [bytes.fromhex(text) for text in CT_LEAVES[:size]]
    assert root_of(leaves).hex() == CT_ROOTS[size]
    assert tree_of(leaves).root(size).hex() == CT_ROOTS[size]


@given(leaves=st.lists(st.binary(max_size=40), max_size=70), cuts=st.lists(st.integers(0, 70), max_size=4))
def test_roots_equal_the_recursion_however_the_tree_grew(leaves: list[bytes], cuts: list[int]) -> None:
    tree, frontier, at = Tree(), Frontier(), 0
    for cut in [*sorted(min(c, len(leaves)) for c in cuts), len(leaves)]:
        hashes = [leaf_hash(leaf) for leaf in leaves[at:cut]]
        tree.extend(hashes)
        frontier = frontier.extend(hashes)
        at = cut
    for size in range(len(leaves) + 1):
        assert tree.root(size) == reference_root(leaves[:size])
    assert frontier.root == tree.root(len(leaves))
    assert frontier.size == tree.size == len(leaves)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 100])
def test_pymerkle_agrees_on_roots_and_paths(size: int) -> None:
    leaves, oracle = numbered(size), InmemoryTree()
    oracle.append_entries(leaves)
    tree = tree_of(leaves)
    for prefix in range(1, size + 1):
        assert tree.root(prefix) == oracle.get_root(prefix)
    for index in range(size):
        path = oracle.prove_inclusion(index + 1, size).path
        assert list(tree.inclusion(index, size)) == path[1:]


@settings(deadline=None)
@given(data=st.data(), size=st.integers(1, 300))
def test_every_inclusion_proof_verifies_and_only_in_its_place(data: st.DataObject, size: int) -> None:
    leaves = numbered(size)
    tree = tree_of(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof, root = tree.inclusion(index, size), tree.root(size)
    require_inclusion(leaf_hash(leaves[index]), index, size, proof, root)
    other = data.draw(st.integers(-1, size + 1).filter(lambda i: i != index))
    with pytest.raises(ProofError):
        require_inclusion(leaf_hash(leaves[index]), other, size, proof, root)


@settings(deadline=None)
@given(data=st.data(), new=st.integers(0, 130))
def test_consistency_proofs_equal_the_recursion_and_verify(data: st.DataObject, new: int) -> None:
    leaves = numbered(new)
    tree = tree_of(leaves)
    old = data.draw(st.integers(0, new))
    proof = tree.consistency(old, new)
    assert list(proof) == (reference_subproof(old, leaves) if old else [])
    require_consistency(old, tree.root(old), new, tree.root(new), proof)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), new=st.integers(2, 130))
def test_no_consistency_proof_leads_from_another_past(data: st.DataObject, new: int) -> None:
    old = data.draw(st.integers(1, new - 1))
    changed = data.draw(st.integers(0, old - 1))
    leaves = numbered(new)
    past = [*leaves[:changed], b"rewritten", *leaves[changed + 1 : old]]
    tree = tree_of(leaves)
    with pytest.raises(ProofError):
        require_consistency(old, tree_of(past).root(old), new, tree.root(new), tree.consistency(old, new))


Proof = tuple[bytes, ...]

INCLUSION_ATTACKS: dict[str, Callable[[Proof], Proof]] = {
    "one bit of a step": lambda p: (bytes([p[0][0] ^ 1]) + p[0][1:], *p[1:]),
    "a step missing at the leaf": lambda p: p[1:],
    "a step missing at the root": lambda p: p[:-1],
    "a step too many": lambda p: (*p, bytes(32)),
    "two steps swapped": lambda p: (p[1], p[0], *p[2:]),
    "reversed": lambda p: tuple(reversed(p)),
    "empty": lambda p: (),
    "a short hash": lambda p: (p[0][:31], *p[1:]),
    "a long hash": lambda p: (p[0] + b"\0", *p[1:]),
    "a thousand steps": lambda p: p * 1000,
}


@pytest.mark.parametrize("attack", INCLUSION_ATTACKS)
@pytest.mark.parametrize(("index", "size"), [(0, 6), (5, 6), (3, 8), (90, 100), (99, 100)])
def test_tampered_inclusion_proofs(attack: str, index: int, size: int) -> None:
    leaves = numbered(size)
    tree = tree_of(leaves)
    proof = INCLUSION_ATTACKS[attack](tree.inclusion(index, size))
    with pytest.raises(ProofError):
        require_inclusion(leaf_hash(leaves[index]), index, size, proof, tree.root(size))


@pytest.mark.parametrize("attack", INCLUSION_ATTACKS)
@pytest.mark.parametrize(("old", "new"), [(3, 7), (5, 6), (6, 100), (4, 7), (64, 100)])
def test_tampered_consistency_proofs(attack: str, old: int, new: int) -> None:
    tree = tree_of(numbered(new))
    honest = tree.consistency(old, new)
    proof = INCLUSION_ATTACKS[attack](honest) if len(honest) > 1 else ()
    assert proof != honest
    with pytest.raises(ProofError):
        require_consistency(old, tree.root(old), new, tree.root(new), proof)


def test_a_node_is_not_a_leaf() -> None:
    # Without the prefixes, the concatenation of two hashes would be a leaf of a smaller tree with the same root.
    tree = tree_of(numbered(2))
    forged = tree.node(0, 0) + tree.node(0, 1)
    assert node_hash(tree.node(0, 0), tree.node(0, 1)) == tree.root(2)
    with pytest.raises(ProofError):
        require_inclusion(leaf_hash(forged), 0, 1, (), tree.root(2))


@pytest.mark.parametrize(
    ("old", "old_root", "new", "proof"),
    [
        (0, bytes(32), 3, ()),
        (0, EMPTY_ROOT, 3, (bytes(32),)),
        (3, bytes(32), 3, ()),
        (3, None, 3, (bytes(32),)),
        (3, None, 2, ()),
        (-1, None, 2, ()),
        (2, None, 3, ()),
        (2, None, 1 << 63, (bytes(32),)),
    ],
)
def test_the_edges_the_rfc_leaves_open(old: int, old_root: bytes | None, new: int, proof: tuple[bytes, ...]) -> None:
    tree = tree_of(numbered(3))
    with pytest.raises(ProofError):
        require_consistency(old, old_root or tree.root(max(0, min(old, 3))), new, tree.root(min(new, 3)), proof)


@pytest.mark.parametrize("call", [lambda t: t.root(4), lambda t: t.inclusion(3, 3), lambda t: t.inclusion(0, 4)])
def test_what_is_not_there_has_no_proof(call: object) -> None:
    with pytest.raises(ProofError):
        call(tree_of(numbered(3)))  # type: ignore[operator]
