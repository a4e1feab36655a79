"""Paths, widths and bundles of C2SP tlog-tiles, with the examples of its text."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.audit.errors import LeafError, ProofError
from counterseal.audit.tlog.merkle import leaf_hash, root_of
from counterseal.audit.tlog.tiles import Tile, decode_bundle, encode_bundle, hash_tiles
from counterseal.audit.tlog.tree import Tree


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 999), "tile/0/999"),
        (Tile(1, 1000), "tile/1/x001/000"),
        (Tile(0, 1234067), "tile/0/x001/x234/067"),
        (Tile(2, 1234067, 1), "tile/2/x001/x234/067.p/1"),
        (Tile(0, 273, 112), "tile/0/273.p/112"),
    ],
)
def test_paths(tile: Tile, path: str) -> None:
    assert tile.path() == path
    assert tile.entries_path() == "tile/entries/" + path.split("/", 2)[2]


def test_a_tree_of_70_000_has_the_tiles_that_the_specification_says() -> None:
    tiles = list(hash_tiles(70_000))
    assert Counter((t.level, t.width == 256) for t in tiles) == {
        (0, True): 273,
        (0, False): 1,
        (1, True): 1,
        (1, False): 1,
        (2, False): 1,
    }
    assert {(t.level, t.width) for t in tiles if t.width < 256} == {(0, 112), (1, 17), (2, 1)}


def test_a_tree_of_256_has_a_full_tile_and_one_above() -> None:
    assert list(hash_tiles(256)) == [Tile(0, 0), Tile(1, 0, 1)]


@given(steps=st.lists(st.integers(0, 70_000), max_size=6))
def test_steps_make_every_tile_exactly_once(steps: list[int]) -> None:
    sizes = [0, *sorted(steps)]
    made = [tile for a, b in itertools.pairwise(sizes) for tile in hash_tiles(b, since=a)]
    assert len(made) == len(set(made))
    assert set(made) == {tile for size in sizes for tile in hash_tiles(size)}


def test_tiles_hold_the_roots_of_the_tiles_below() -> None:
    leaves = [b"%d" % index for index in range(600)]
    tree = Tree()
    tree.extend(map(leaf_hash, leaves))
    assert tree.tile(Tile(1, 0, 2)) == root_of(leaves[:256]) + root_of(leaves[256:512])
    assert tree.tile(Tile(0, 2, 88)) == b"".join(map(leaf_hash, leaves[512:]))


@given(leaves=st.lists(st.binary(max_size=300), max_size=256))
def test_bundles_round_trip(leaves: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(leaves), len(leaves)) == tuple(leaves)


BUNDLE = encode_bundle([b"one", b"", b"three"])


@pytest.mark.parametrize(
    ("data", "width"),
    [
        (BUNDLE, 2),
        (BUNDLE, 4),
        (BUNDLE[:-1], 3),
        (BUNDLE + b"\0", 3),
        (BUNDLE + b"\0\0", 3),
        (b"", 1),
        (b"\xff\xff", 1),
        (b"\0", 1),
    ],
)
def test_bad_bundles(data: bytes, width: int) -> None:
    with pytest.raises(ProofError):
        decode_bundle(data, width)


def test_a_leaf_of_65_535_bytes_fits_and_one_more_does_not() -> None:
    assert decode_bundle(encode_bundle([bytes(65_535)]), 1) == (bytes(65_535),)
    with pytest.raises(LeafError, match="65536 bytes"):
        encode_bundle([bytes(65_536)])
