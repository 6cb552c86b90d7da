"""A tree in a folder: tiles and entry bundles where C2SP tlog-tiles puts them.

A full tile is written once and never again. Of the last, growing tile of a level only the widest
partial is kept; a narrower one is its beginning. Every file appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from spine.files import write_whole
from spine.ledger.tree import (
    ENTRIES,
    HASH_BYTES,
    TILE_WIDTH,
    Continued,
    Growing,
    TileAddress,
    width_of,
)
from spine.merkle import leaf_hash

TILES_CACHED: Final = 64
# Leaf hashes kept until somebody asks how the tree went on; of more the tiles tell.
CAME_MAX: Final = 1 << 10


class TileFolder:
    """Reads the tiles and entry bundles below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = lru_cache(TILES_CACHED)(self._hashes)

    def raw(self, address: TileAddress) -> bytes:
        """The bytes of a tile or bundle, cut out of a wider one if need be; LookupError if none."""
        exact = self.folder / address.path
        with suppress(FileNotFoundError):
            cut = _beginning(exact.read_bytes(), address)
            if cut is not None:
                return cut
        full = self.folder / TileAddress(address.level, address.index).path
        for _ in range(2):  # a partial may go between the two looks, because it was filled
            for path in (full, *self._partials(full)):
                with suppress(FileNotFoundError):
                    cut = _beginning(path.read_bytes(), address)
                    if cut is not None:
                        return cut
        raise LookupError(f"{address.path} is not there")

    def tile(self, level: int, index: int, width: int) -> Sequence[bytes]:
        """The first `width` hashes of a tile; LookupError if they are not there."""
        return self._read(level, index, width)

    def entries(self, index: int, width: int) -> list[bytes]:
        """The first `width` leaves of a bundle; LookupError if they are not there."""
        return list(_split(self.raw(TileAddress(ENTRIES, index, width))))

    def entry(self, index: int, size: int) -> bytes:
        """One leaf of a tree of `size` leaves; LookupError if it is not there."""
        bundle, at = divmod(index, TILE_WIDTH)
        return self.entries(bundle, width_of(size, 0, bundle))[at]

    def _hashes(self, level: int, index: int, width: int) -> Sequence[bytes]:
        raw = self.raw(TileAddress(level, index, width))
        return [raw[i : i + HASH_BYTES] for i in range(0, len(raw), HASH_BYTES)]

    def _partials(self, full: Path) -> list[Path]:
        """The partial files of a tile, widest first."""
        try:
            found = [p for p in full.with_name(f"{full.name}.p").iterdir() if p.name.isdecimal()]
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda path: -int(path.name))


class StoredTree(TileFolder):
    """A tree that grows in a folder. What is appended is there for readers after `flush`.

    With `sync` what was flushed survives a loss of power.
    """

    def __init__(self, folder: Path, size: int = 0, *, sync: bool = False) -> None:
        """The tree as the folder has it, cut to `size`; LookupError if it is not so large.

        What lies behind `size` was never signed: it goes, or it would be read for what follows.
        """
        super().__init__(folder)
        self._sync = sync
        self._growing = Growing.load(self, size)
        bundle, width = divmod(size, TILE_WIDTH)
        # What the last bundle is made of, and the hashes of what is not in the tree yet.
        self._entries = list(map(_framed, self.entries(bundle, width))) if width else []
        self._leaves: list[bytes] = []
        self._filled: list[tuple[TileAddress, bytes]] = []
        self._partial: dict[int | str, TileAddress] = {}
        # The tree as it was when `continued` was last asked, and what came since.
        self._was = size, list(self._growing.peaks)
        self._came: list[bytes] = []
        self._drop_behind()

    @property
    def size(self) -> int:
        """Leaves, those not flushed included."""
        return self._growing.size + len(self._leaves)

    def root(self) -> bytes:
        """The root over all leaves, those not flushed included."""
        self._grow()
        return self._growing.root()

    def append(self, entry: bytes) -> None:
        """Add a leaf."""
        self._entries.append(_framed(entry))
        leaf = leaf_hash(entry)
        self._leaves.append(leaf)
        if len(self._came) <= CAME_MAX:
            self._came.append(leaf)
        if len(self._leaves) == TILE_WIDTH:
            self._grow()

    def _grow(self) -> None:
        """Put what was appended into the tree, all at once."""
        for address, hashes in self._growing.extend(self._leaves):
            self._filled.append((address, b"".join(hashes)))
            if address.level == 0:
                bundle = b"".join(self._entries[:TILE_WIDTH])
                self._filled.append((TileAddress(ENTRIES, address.index), bundle))
                del self._entries[:TILE_WIDTH]
        self._leaves = []

    def continued(self, old: int) -> Continued | None:
        """How the tree went on from `old` leaves; None unless it was of that size when this was
        last asked, or opened, or if more came since than is kept.
        """
        self._grow()
        (size, peaks), came = self._was, self._came
        self._was, self._came = (self.size, list(self._growing.peaks)), []
        return Continued(size, peaks, came) if size == old == self.size - len(came) else None

    def flush(self) -> None:
        """Write what has grown."""
        self._grow()
        for address, content in self._filled:
            self._put(address, content)
        for level, hashes in enumerate(self._growing.edge):
            index = (self.size >> (8 * level)) // TILE_WIDTH
            if hashes:
                self._widen(TileAddress(level, index, len(hashes)), hashes)
        if self._entries:
            bundle = TileAddress(ENTRIES, self.size // TILE_WIDTH, len(self._entries))
            self._widen(bundle, self._entries)
        self._filled = []
        self._read.cache_clear()

    def _widen(self, address: TileAddress, inside: Sequence[bytes]) -> None:
        """Write a tile that is not full, unless it lies there as wide as this already."""
        if self._partial.get(address.level) != address:
            self._put(address, b"".join(inside))

    def _put(self, address: TileAddress, content: bytes) -> None:
        """Write a tile; then the narrower one that it takes the place of goes."""
        write_whole(self.folder / address.path, content, sync=self._sync)
        before = self._partial.pop(address.level, None)
        if before is None:
            self._drop_narrower(address)
        elif before.index == address.index:
            (self.folder / before.path).unlink(missing_ok=True)
        if address.width < TILE_WIDTH:
            self._partial[address.level] = address

    def _drop_behind(self) -> None:
        """Leave nothing of a larger tree; what belongs to this one is written before it goes."""
        self.flush()
        for level in (ENTRIES, *range(64)):
            hashes = self.size >> (8 * (level if isinstance(level, int) else 0))
            index, width = divmod(hashes, TILE_WIDTH)
            folder = self.folder / f"tile/{level}"
            if not folder.exists():
                continue
            while True:
                full = self.folder / TileAddress(level, index).path
                stale = [p for p in self._partials(full) if int(p.name) != width]
                if not full.exists() and not stale and not width:
                    break
                full.unlink(missing_ok=True)
                for partial in stale:
                    partial.unlink(missing_ok=True)
                index, width = index + 1, 0

    def _drop_narrower(self, address: TileAddress) -> None:
        full = self.folder / TileAddress(address.level, address.index).path
        for partial in self._partials(full):
            if int(partial.name) < address.width:
                partial.unlink(missing_ok=True)


def _framed(entry: bytes) -> bytes:
    """A leaf as it stands in an entry bundle: after its length, two bytes."""
    return len(entry).to_bytes(2, "big") + entry


def _split(bundle: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        yield bundle[at + 2 : at + 2 + length]
        at += 2 + length


def _beginning(raw: bytes, address: TileAddress) -> bytes | None:
    """The first `width` hashes or leaves of a file; None if it holds fewer."""
    if address.level != ENTRIES:
        end = HASH_BYTES * address.width
        return raw[:end] if len(raw) >= end else None
    at = 0
    for _ in range(address.width):
        if at + 2 > len(raw):
            return None
        at += 2 + int.from_bytes(raw[at : at + 2], "big")
    return raw[:at] if at <= len(raw) else None
