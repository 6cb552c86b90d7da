"""A Merkle tree that grows by tiles, and the proofs that are read out of them. Pure.

Hashing is RFC 6962, section 2.1; the layout is C2SP tlog-tiles: a tile is 256 consecutive hashes of
one level, and a hash of level L + 1 stands for a full tile of level L. What checks proofs,
`spine.ledger.verifier`, is written apart from this: a shared mistake would prove itself right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

from spine.merkle import node_hash, parents
from spine.merkle import root as root_of

TILE_WIDTH: Final = 256
TILE_BITS: Final = 8
HASH_BYTES: Final = 32
ENTRIES: Final = "entries"
EMPTY_ROOT: Final = root_of(())
_TILE_PATH: Final = re.compile(
    r"tile/(?P<level>entries|[0-9]|[1-5][0-9]|6[0-3])/"
    r"(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


class Tiles(Protocol):
    """Where the hashes of a tree are read from."""

    def tile(self, level: int, index: int, width: int) -> Sequence[bytes]:
        """The first `width` hashes of that tile; LookupError if they are not there."""


@dataclass(frozen=True, slots=True)
class TileAddress:
    """One tile or entry bundle: `level` is a number or ENTRIES; a `width` of 256 is a full one."""

    level: int | str
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """`tile/<L>/<N>[.p/<W>]`, the index in groups of three digits (C2SP tlog-tiles)."""
        digits = f"{self.index:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{self.level}/{name}{partial}"

    @classmethod
    def parse(cls, path: str) -> TileAddress:
        """The address in a path; ValueError for one that is not written the one way."""
        found = _TILE_PATH.fullmatch(path)
        if found is None:
            raise ValueError("no tile has such a path")
        level = found["level"]
        index = int(found["index"].replace("x", "").replace("/", ""))
        address = cls(
            level if level == ENTRIES else int(level), index, int(found["width"] or TILE_WIDTH)
        )
        if address.path != path or address.width > TILE_WIDTH:
            raise ValueError("no tile has such a path")
        return address


def width_of(size: int, level: int, index: int) -> int:
    """How many hashes that tile has in a tree of `size` leaves; 0 if there is no such tile."""
    return max(0, min(TILE_WIDTH, (size >> (TILE_BITS * level)) - index * TILE_WIDTH))


def tiles_of(size: int) -> list[TileAddress]:
    """Every tile of a tree, lowest level first; entry bundles lie as the tiles of level 0."""
    found: list[TileAddress] = []
    for level in count():
        hashes = size >> (TILE_BITS * level)
        if not hashes:
            return found
        for index in range(-(-hashes // TILE_WIDTH)):
            found.append(TileAddress(level, index, width_of(size, level, index)))
    raise AssertionError("a count has no end")


@dataclass(slots=True)
class Growing:
    """The right edge of a tree: of each level the hashes of its last tile, which is not full.

    `peaks` are the roots of the perfect subtrees that the tree is made of, the largest first, so
    that a leaf costs one hash on average, and the root no more than a few.
    """

    size: int
    edge: list[list[bytes]]
    peaks: list[bytes]

    @classmethod
    def empty(cls) -> Growing:
        """A tree without leaves."""
        return cls(0, [], [])

    @classmethod
    def load(cls, tiles: Tiles, size: int) -> Growing:
        """The tree of that size as its tiles have it; LookupError if they do not reach so far."""
        edge: list[list[bytes]] = []
        for level in count():
            hashes = size >> (TILE_BITS * level)
            if not hashes:
                break
            index, width = divmod(hashes, TILE_WIDTH)
            edge.append(list(tiles.tile(level, index, width)) if width else [])
        return cls(size, edge, [peak for hashes in reversed(edge) for peak in _peaks(hashes)])

    def extend(self, leaves: Iterable[bytes]) -> list[tuple[TileAddress, list[bytes]]]:
        """Add leaf hashes; the tiles that they filled, lowest level first.

        All that come together are hashed level by level, which takes less than one after the other.
        """
        filled: list[tuple[TileAddress, list[bytes]]] = []
        lone: list[bytes] = []
        nodes, start, height = list(leaves), self.size, 0
        self.size += len(nodes)
        while nodes:
            if height % TILE_BITS == 0:
                filled += self._laid(height // TILE_BITS, start, nodes)
            if start % 2:  # the last one before these has waited for the first of them
                nodes.insert(0, self.peaks.pop())
            if len(nodes) % 2:
                lone.append(nodes.pop())
            nodes, start, height = parents(nodes), start // 2, height + 1
        self.peaks += reversed(lone)
        return filled

    def _laid(
        self, level: int, start: int, nodes: Sequence[bytes]
    ) -> Iterator[tuple[TileAddress, list[bytes]]]:
        """Lay hashes of a level, of which it had `start`, into its last tile; those it filled."""
        if level == len(self.edge):
            self.edge.append([])
        edge = [*self.edge[level], *nodes]
        full = len(edge) - len(edge) % TILE_WIDTH
        self.edge[level] = edge[full:]
        for begin in range(0, full, TILE_WIDTH):
            index = (start + begin) // TILE_WIDTH
            yield TileAddress(level, index), edge[begin : begin + TILE_WIDTH]

    def root(self) -> bytes:
        """The Merkle tree hash of all leaves so far."""
        right: bytes | None = None
        for peak in reversed(self.peaks):
            right = peak if right is None else node_hash(peak, right)
        return EMPTY_ROOT if right is None else right


def _peaks(hashes: Sequence[bytes]) -> Iterator[bytes]:
    """The roots of the perfect subtrees over some hashes of one level, the largest first."""
    start = 0
    while width := len(hashes) - start:
        end = start + (1 << (width.bit_length() - 1))
        yield perfect_root(hashes[start:end])
        start = end


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    level = hashes
    while len(level) > 1:
        level = parents(level)
    return level[0]


class Proofs:
    """Proofs about the first `size` leaves of a tree, from its tiles."""

    def __init__(self, tiles: Tiles, size: int) -> None:
        self._tiles, self.size = tiles, size

    def root(self, size: int | None = None) -> bytes:
        """The Merkle tree hash of the first leaves, of all if `size` is None."""
        end = self.size if size is None else size
        if not 0 <= end <= self.size:
            raise ValueError("the tree does not reach so far")
        return self._range(0, end) if end else EMPTY_ROOT

    def leaf(self, index: int) -> bytes:
        """The hash of one leaf."""
        return self._node(0, index)

    def inclusion(self, index: int) -> list[bytes]:
        """The audit path of a leaf, lowest sibling first (RFC 6962, section 2.1.1)."""
        if not 0 <= index < self.size:
            raise ValueError("the tree has no such leaf")
        path: list[bytes] = []
        start, end = 0, self.size
        while end - start > 1:
            split = start + _split(end - start)
            if index < split:
                path.append(self._range(split, end))
                end = split
            else:
                path.append(self._range(start, split))
                start = split
        return path[::-1]

    def consistency(self, old: int) -> list[bytes]:
        """That the first `old` leaves are still the first ones (RFC 6962, section 2.1.2)."""
        if not 0 <= old <= self.size:
            raise ValueError("the tree was never of that size")
        if old in (0, self.size):
            return []
        proof: list[bytes] = []
        start, end, whole = 0, self.size, True
        while end != old:
            split = start + _split(end - start)
            if old <= split:
                proof.append(self._range(split, end))
                end = split
            else:
                proof.append(self._range(start, split))
                start, whole = split, False
        if not whole:
            proof.append(self._range(start, end))
        return proof[::-1]

    def _range(self, start: int, end: int) -> bytes:
        """The hash over leaves start <= i < end; `start` is where RFC 6962 would split."""
        width = end - start
        if width & (width - 1) == 0:
            height = width.bit_length() - 1
            return self._node(height, start >> height)
        split = start + _split(width)
        return node_hash(self._range(start, split), self._range(split, end))

    def _node(self, height: int, index: int) -> bytes:
        """The root of a perfect subtree of 2**height leaves, the `index`-th of that height."""
        level, rest = divmod(height, TILE_BITS)
        first = index << rest
        tile, start = divmod(first, TILE_WIDTH)
        hashes = self._tiles.tile(level, tile, width_of(self.size, level, tile))
        return perfect_root(hashes[start : start + (1 << rest)])


class Continued(Proofs):
    """How a tree goes on from `old` leaves, from the peaks that it was made of then and the leaf
    hashes that came since: without tiles, and in a few hashes.

    `consistency(old)`, and `inclusion(old)` where one leaf came; ValueError for what needs more.
    """

    def __init__(self, old: int, peaks: Sequence[bytes], came: Sequence[bytes]) -> None:
        self._old, self._came, self.size = old, came, old + len(came)
        self._peaks: dict[tuple[int, int], bytes] = {}
        start, left = 0, old
        for peak in peaks:
            height = left.bit_length() - 1
            self._peaks[height, start >> height] = peak
            start, left = start + (1 << height), left - (1 << height)

    def _node(self, height: int, index: int) -> bytes:
        peak = self._peaks.get((height, index))
        if peak is not None:
            return peak
        first = (index << height) - self._old
        if first < 0:
            raise ValueError("what lies further back is not at hand")
        return perfect_root(self._came[first : first + (1 << height)])


def _split(width: int) -> int:
    """The largest power of two smaller than `width`."""
    return 1 << ((width - 1).bit_length() - 1)
