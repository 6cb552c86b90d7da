"""The live bundles of a GSP group as rows of a fold: one table by column, and the members of each.

A publication names bundles by their place in the table, a bit each, and a fold judges it by the
table alone: a few megabytes for half a million bundles, and no row of theirs is read for it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from domains.metering.aggregates import NO_FEEDER, Bundle
from spine.domain import ReadableRows, Rows
from spine.gb import MPAN_DIGITS

BUNDLE_PREFIX: Final = b"u/"
TABLE_PREFIX: Final = b"l/"
NAMES_PREFIX: Final = b"n/"
_AT_ONCE: Final = 10_000  # members read
# Number, how many meters, and the place of its feeder among the names.
_COLUMNS: Final = np.dtype([("number", "<i4"), ("devices", "<i4"), ("feeder", "<i4")])

Bits = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class BundleTable:
    """Live bundles in order of number. The first of the names stands for no feeder."""

    rows: NDArray[Any]
    names: tuple[str, ...]

    def without(self, retired: Bits) -> BundleTable:
        """What is left of it."""
        return BundleTable(self.rows[~retired], self.names)

    def with_homes(self, homes: Mapping[str, Sequence[int]]) -> BundleTable | None:
        """With these bundles, by number, on these feeders; None if it lacks one of them."""
        rows, names = self.rows.copy(), {name: place for place, name in enumerate(self.names)}
        for feeder, numbers in homes.items():
            wanted = np.array(numbers, np.int64)
            if not np.isin(wanted, rows["number"]).all():
                return None
            places = np.searchsorted(rows["number"], wanted)
            rows["feeder"][places] = names.setdefault(feeder, len(names))
        return BundleTable(rows, tuple(names))

    def with_new(self, bundles: Sequence[Bundle]) -> BundleTable:
        """With new ones, whose numbers follow on."""
        names = {name: place for place, name in enumerate(self.names)}
        new = [
            (bundle.number, len(bundle.mpxns), names.setdefault(bundle.feeder, len(names)))
            for bundle in bundles
        ]
        rows = np.concatenate([self.rows, np.array(new, _COLUMNS)])
        return BundleTable(rows, tuple(names))

    def devices(self, summed: Bits, apart: Bits) -> tuple[int, dict[str, int]]:
        """How many meters the summed bundles have, and how many on each feeder."""
        counts = self.rows["devices"]
        at_home = self.rows[summed & ~apart]
        by_feeder = np.bincount(at_home["feeder"], at_home["devices"], len(self.names))
        found = dict(zip(self.names, by_feeder.astype(np.int64).tolist(), strict=True))
        return int(counts[summed].sum()), found | {NO_FEEDER: 0}


def to_bits(numbers: Collection[int], among: Sequence[int]) -> bytes:
    """A bit for each of `among`, the first the lowest of the first byte: is it one of `numbers`?"""
    chosen = np.isin(np.array(among, np.int64), np.array([*numbers], np.int64))
    return np.packbits(chosen, bitorder="little").tobytes()


def from_bits(packed: bytes, count: int) -> Bits | None:
    """So many bits; None if these bytes are not just as long, or a bit after them is set."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little").astype(np.bool_)
    fits = len(packed) == -(-count // 8) and not bits[count:].any()
    return bits[:count] if fits else None


def table_of(rows: ReadableRows, gsp_group: str) -> BundleTable:
    """The live bundles of a GSP group."""
    stored = rows.get(TABLE_PREFIX + gsp_group.encode())
    names = rows.get(NAMES_PREFIX + gsp_group.encode())
    listed = NO_FEEDER if names is None else names.decode()
    return BundleTable(np.frombuffer(stored or b"", _COLUMNS), tuple(listed.split("\n")))


def put_table(rows: Rows, gsp_group: str, table: BundleTable) -> None:
    """Keep it instead of the one before."""
    rows.put(TABLE_PREFIX + gsp_group.encode(), table.rows.tobytes())
    rows.put(NAMES_PREFIX + gsp_group.encode(), "\n".join(table.names).encode())


def put_members(rows: Rows, gsp_group: str, bundles: Iterable[Bundle]) -> None:
    """Keep who is in new bundles."""
    for bundle in bundles:
        rows.put(_members_row(gsp_group, bundle.number), "".join(bundle.mpxns).encode())


def put_retired(rows: Rows, gsp_group: str, numbers: Iterable[int]) -> None:
    """Forget who is in them."""
    for number in numbers:
        rows.put(_members_row(gsp_group, number), b"")


def is_live(rows: ReadableRows, gsp_group: str, number: int) -> bool:
    """Whether the bundle of that number is one of the GSP group's, and not retired."""
    return bool(rows.get(_members_row(gsp_group, number)))


def live_bundles(rows: ReadableRows, gsp_group: str) -> Iterator[Bundle]:
    """The bundles of a GSP group that are not retired, in order of number."""
    table = table_of(rows, gsp_group)
    for start in range(0, len(table.rows), _AT_ONCE):
        some = table.rows[start : start + _AT_ONCE]
        keys = [_members_row(gsp_group, number) for number in some["number"].tolist()]
        for row, stored in zip(some.tolist(), rows.get_many(keys), strict=True):
            number, _, feeder = row
            text = (stored or b"").decode()
            mpxns = (text[at : at + MPAN_DIGITS] for at in range(0, len(text), MPAN_DIGITS))
            yield Bundle(number, tuple(mpxns), table.names[feeder])


def _members_row(gsp_group: str, number: int) -> bytes:
    return BUNDLE_PREFIX + gsp_group.encode() + struct.pack(">i", number)
