"""Trees by tiles, and their proofs, held against published vectors and somebody else's code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import tamperlog.merkle as other
from hypothesis import given, settings
from hypothesis import strategies as st

from spine.files import write_whole
from spine.ledger import continued, verifier
from spine.ledger.files import StoredTree
from spine.ledger.tree import EMPTY_ROOT, Continued, Growing, Proofs, TileAddress, tiles_of
from spine.merkle import leaf_hash, root
from tests.core.test_merkle import INPUTS, LEAVES, PATHS, ROOTS

# Older size, newer size, proof: transparency-dev/merkle, proof/verify_test.go, consistencyProofs.
CONSISTENCY = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
    (
        6,
        7,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
]
SOME_HASH = bytes.fromhex("abacaba000000000000000000000000000000000000000000060061e00123456")


class InMemory:
    """The tiles of a tree whose leaves are at hand."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.levels = [list(leaves)]
        while len(self.levels[-1]) >= 256:
            below = self.levels[-1]
            whole = range(0, len(below) - len(below) % 256, 256)
            self.levels.append([root(below[i : i + 256]) for i in whole])

    def tile(self, level: int, index: int, width: int) -> Sequence[bytes]:
        return self.levels[level][index * 256 :][:width]


def proofs(leaves: Sequence[bytes]) -> Proofs:
    return Proofs(InMemory(leaves), len(leaves))


# Published vectors


@pytest.mark.parametrize("size", range(1, 9))
def test_a_tree_grows_to_the_published_roots(size: int) -> None:
    tree = Growing.empty()
    for leaf in LEAVES[:size]:
        tree.extend([leaf])
    assert tree.root().hex() == ROOTS[size - 1]
    assert proofs(LEAVES).root(size).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("number", "size", "path"), PATHS)
def test_inclusion_proofs_are_the_published_ones(number: int, size: int, path: list[str]) -> None:
    made = proofs(LEAVES[:size]).inclusion(number - 1)
    assert [step.hex() for step in made] == path
    leaf, top = leaf_hash(INPUTS[number - 1]), bytes.fromhex(ROOTS[size - 1])
    verifier.check_inclusion(leaf, number - 1, size, made, top)
    for wrong in corrupt_inclusion(leaf, number - 1, size, made, top):
        with pytest.raises(verifier.Wrong):
            verifier.check_inclusion(*wrong)


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(old: int, new: int, proof: list[str]) -> None:
    made = proofs(LEAVES[:new]).consistency(old)
    assert [step.hex() for step in made] == proof
    was, now = bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[new - 1])
    continued.check_consistency(old, was, new, now, made)
    for wrong in corrupt_consistency(old, was, new, now, made) if made else ():
        with pytest.raises(verifier.Wrong):
            continued.check_consistency(*wrong)


@pytest.mark.parametrize("old", [*range(34), 255, 256, 257, 511, 513])
def test_what_is_at_hand_proves_what_the_tiles_do(old: int) -> None:
    for came in (1, 2, 3, 5, 8, 300):
        leaves = [leaf_hash(b"%d" % n) for n in range(old + came)]
        tree = Growing.empty()
        tree.extend(leaves[:old])
        made, all_of = Continued(old, list(tree.peaks), leaves[old:]), proofs(leaves)
        assert made.size == all_of.size
        assert made.consistency(old) == all_of.consistency(old)
        if came == 1:
            assert made.inclusion(old) == all_of.inclusion(old)


def test_what_is_not_at_hand_is_not_made_up() -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(9)]
    tree = Growing.empty()
    tree.extend(leaves[:8])
    made = Continued(8, list(tree.peaks), leaves[8:])
    for ask in (made.consistency, made.inclusion):
        with pytest.raises(ValueError, match="not at hand"):
            ask(5)


def corrupt_inclusion(leaf, index, size, path, top):
    """The corruptions of the published tests (corruptInclusionProof)."""
    for wrong in (index - 1, index + 1, index ^ 2):
        yield leaf, wrong, size, path, top
    for wrong in (size * 2, size // 2):
        yield leaf, index, wrong, path, top
    yield b"WrongLeaf", index, size, path, top
    for wrong in (EMPTY_ROOT, SOME_HASH):
        yield leaf, index, size, path, wrong
    for extra in (b"", top):
        yield leaf, index, size, [*path, extra], top
        yield leaf, index, size, [extra, *path], top
    for at, step in enumerate(path):
        flipped = bytes([step[0] ^ 8]) + step[1:]
        yield leaf, index, size, [*path[:at], flipped, *path[at + 1 :]], top
    if path:
        yield leaf, index, size, path[:-1], top
        yield leaf, index, size, [path[0], SOME_HASH, *path[1:]], top


def corrupt_consistency(old, was, new, now, path):
    """The corruptions of the published tests (corruptConsistencyProof)."""
    for wrong in (old - 1, old + 1, old ^ 2):
        yield wrong, was, new, now, path
    for wrong in (new * 2, new // 2):
        yield old, was, wrong, now, path
    yield old, b"WrongRoot", new, now, path
    yield old, was, new, b"WrongRoot", path
    yield old, now, new, was, path
    yield old, was, new, now, []
    yield old, was, new, now, path[:-1]
    for extra in (b"", was, now, path[0]):
        yield old, was, new, now, [*path, extra]
        yield old, was, new, now, [extra, *path]
    for at, step in enumerate(path):
        flipped = bytes([step[0] ^ 16]) + step[1:]
        yield old, was, new, now, [*path[:at], flipped, *path[at + 1 :]]


# Somebody else's implementation


MANY = [leaf_hash(b"%d" % number) for number in range(1_100)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_another_implementation_makes_and_accepts_the_same_proofs(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(MANY)))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    ours, leaves = proofs(MANY[:size]), MANY[:size]
    assert ours.root() == other.merkle_root(leaves)
    assert ours.inclusion(index) == other.inclusion_proof(index, leaves)
    assert ours.consistency(old) == other.consistency_proof(old, leaves)
    other.verify_inclusion(index, size, leaves[index], ours.inclusion(index), ours.root())
    path = other.consistency_proof(old, leaves)
    continued.check_consistency(old, other.merkle_root(leaves[:old]), size, ours.root(), path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=6))
def test_a_tree_grows_alike_whatever_comes_together(batches: list[int]) -> None:
    one_by_one, at_once = Growing.empty(), Growing.empty()
    for count in batches:
        leaves = MANY[:count]
        each = [tile for leaf in leaves for tile in one_by_one.extend([leaf])]
        filled = at_once.extend(leaves)
        assert sorted(filled, key=lambda tile: tile[0].path) == sorted(
            each, key=lambda tile: tile[0].path
        )
        assert at_once == one_by_one
    everything = [leaf for count in batches for leaf in MANY[:count]]
    assert at_once.root() == root(everything)


@given(st.integers(0, 600))
def test_the_verifier_adds_up_leaves_as_the_rest_does(size: int) -> None:
    assert verifier.root_of(MANY[:size]) == root(MANY[:size])


# The layout


def test_tiles_lie_where_the_specification_puts_them() -> None:
    """The examples of C2SP tlog-tiles."""
    assert TileAddress(0, 1_234_067).path == "tile/0/x001/x234/067"
    assert TileAddress(1, 0, 17).path == "tile/1/000.p/17"
    found = tiles_of(70_000)
    assert [t.path for t in found if t.width < 256] == [
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]
    assert sum(t.level == 0 and t.width == 256 for t in found) == 273
    assert [t.path for t in tiles_of(256)] == ["tile/0/000", "tile/1/000.p/1"]


@given(st.integers(0, 63), st.integers(0, 10**9), st.integers(1, 256))
def test_a_path_is_read_back_as_it_was_written(level: int, index: int, width: int) -> None:
    address = TileAddress(level, index, width)
    assert TileAddress.parse(address.path) == address


@pytest.mark.parametrize(
    "path",
    [
        "tile/64/000",
        "tile/00/000",
        "tile/0/0",
        "tile/0/x000/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/../000",
        "tile/0/000/001",
        "tile/entries/00a",
    ],
)
def test_no_other_path_is_a_tile(path: str) -> None:
    with pytest.raises(ValueError, match="no tile"):
        TileAddress.parse(path)


# In a folder


def test_a_tree_in_a_folder_goes_on_from_any_size_it_had(tmp_path: Path) -> None:
    tree = StoredTree(tmp_path)
    for number in range(1_100):
        tree.append(b"%d" % number)
        if number % 37 == 0:
            tree.flush()
    tree.flush()
    assert tree.root() == root(MANY)
    assert tree.entry(256, 1_100) == b"256"
    for size in (1_100, 1_024, 700, 513, 512, 256, 255, 1, 0):
        again = StoredTree(tmp_path, size)
        assert again.root() == root(MANY[:size])
        for number in range(size, size + 5):
            again.append(b"another %d" % number)
        again.flush()
        entries = [leaf_hash(again.entry(n, size + 5)) for n in range(size, size + 5)]
        assert Proofs(again, size + 5).root() == again.root() == root([*MANY[:size], *entries])


def test_a_tile_that_has_not_grown_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, written = StoredTree(tmp_path), list[str]()

    def noting(path: Path, content: bytes, *, sync: bool) -> None:
        written.append(str(path.relative_to(tmp_path)))
        write_whole(path, content, sync=sync)

    monkeypatch.setattr("spine.ledger.files.write_whole", noting)
    for number in range(300):
        tree.append(b"%d" % number)
    tree.flush()
    tree.flush()
    tree.append(b"300")
    tree.flush()
    filled = ["tile/0/000", "tile/entries/000", "tile/1/000.p/1"]
    grown = [f"tile/{level}/001.p/{width}" for level in ("0", "entries") for width in (44, 45)]
    assert Counter(written) == Counter([*filled, *grown])
    found = {str(f.relative_to(tmp_path)) for f in tmp_path.glob("tile/**/*") if f.is_file()}
    assert found == set(written) - {"tile/0/001.p/44", "tile/entries/001.p/44"}


def test_a_folder_that_holds_less_is_not_taken_for_more(tmp_path: Path) -> None:
    tree = StoredTree(tmp_path)
    tree.append(b"one")
    tree.flush()
    with pytest.raises(LookupError):
        StoredTree(tmp_path, 2)
