"""Old rows of a store in columnar files: Parquet, written and read by pyarrow.

A store that outgrows its disk hands rows of old days over to a file beside it, and names the file
in itself, with the first key of each row group. Whoever scans the store finds the same rows in the
same order, wherever they lie, so that an answer, a digest and a comparison with the log come out
the same. Like the store, its files are derived from the log: one that is missing or not as it was
written makes the store damaged, and it comes back from there.

pyarrow is imported where it is used: most stores have no history, and it takes its time.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, Final

from spine.domain import HistoryLayout

# Above the position row, so that neither a digest nor a comparison of rows comes to it.
HISTORY_ROW: Final = b"\xff\xffshelved"
FOLDER: Final = "history"
SUFFIX: Final = ".parquet"
# What one lookup takes apart: some milliseconds.
ROWS_PER_GROUP: Final = 8_192
FOOTER_END: Final = 8
LENGTH_BYTES: Final = 4

Row = tuple[bytes, bytes]


class HistoryUnreadable(Exception):
    """A file of a store's history is missing, or is not what was written."""


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """One file as its store knows it: rows of days before `before_day`, days since 1970-01-01.

    `first_keys` has the first key of each row group. The footer says where everything lies; its
    digest is kept here, and every page holds its own checksum.
    """

    name: str
    size: int
    rows: int
    before_day: int
    footer_sha256: bytes
    first_keys: tuple[bytes, ...]


class History:
    """The files of one store. HistoryUnreadable if one of them is not there as it was written."""

    def __init__(self, folder: Path, layout: HistoryLayout, files: Sequence[HistoryFile]) -> None:
        self._layout, self.files = layout, tuple(files)
        self._opened = [_open(folder / file.name, file) for file in files]

    def meets(self, start: bytes, end: bytes) -> bool:
        """Whether rows in that range of keys may lie here."""
        if not any(start < prefix + b"\xff" and prefix < end for prefix in self._layout.prefixes):
            return False
        return any(not self._is_later(file, start, end) for file in self.files)

    def scan(self, start: bytes, end: bytes) -> Iterator[Row]:
        """The rows here with start <= key < end, in key order."""
        found = zip(self.files, self._opened, strict=True)
        return merge(
            *(
                self._scan(file, opened, start, end)
                for file, opened in found
                if not self._is_later(file, start, end)
            )
        )

    def _is_later(self, file: HistoryFile, start: bytes, end: bytes) -> bool:
        """Whether the range is of one meter's days that are all later than the file's."""
        of_one = bool(self._layout.alike(start, end))
        return of_one and not self._layout.is_before(start, file.before_day)

    def _scan(self, file: HistoryFile, opened: Any, start: bytes, end: bytes) -> Iterator[Row]:
        alike = self._layout.alike(start, end)
        group = max(bisect_right(file.first_keys, start) - 1, 0)
        while group < len(file.first_keys) and file.first_keys[group] < end:
            try:
                rows = self._layout.rows(_plain(_read(opened, group, alike), self._layout))
            except Exception as error:  # whatever a library makes of bytes that nobody wrote
                raise HistoryUnreadable(f"{file.name}: {error}") from error
            yield from (row for row in rows if start <= row[0] < end)
            group += 1

    def close(self) -> None:
        """Let go of the files."""
        for opened in self._opened:
            opened.close()


def write(
    folder: Path, layout: HistoryLayout, rows: Iterable[Row], before_day: int, said: dict[str, str]
) -> HistoryFile | None:
    """Write rows in key order to a new file, with `said` in its footer; None if there are none.

    The file is on the disk when this returns.
    """
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    numbers = (int(path.name[:4]) for path in folder.glob(f"[0-9][0-9][0-9][0-9]-*{SUFFIX}"))
    path = folder / f"{max(numbers, default=0) + 1:04d}-before-{before_day}{SUFFIX}"
    schema = _schema(layout).with_metadata(said)
    source, count = iter(rows), 0
    first_keys: list[bytes] = []
    with (
        path.open("xb") as written,
        pq.ParquetWriter(written, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        while group := list(islice(source, ROWS_PER_GROUP)):
            writer.write_table(_table(group, layout, schema), row_group_size=ROWS_PER_GROUP)
            first_keys.append(group[0][0])
            count += len(group)
    if not count:
        path.unlink()
        return None
    with path.open("rb") as closed:
        os.fsync(closed.fileno())
    size, footer = path.stat().st_size, _footer(path)
    return HistoryFile(path.name, size, count, before_day, sha256(footer).digest(), (*first_keys,))


def forget_unnamed(folder: Path, named: Iterable[HistoryFile]) -> None:
    """Remove files that no store names: a move that was broken off left them."""
    known = {file.name for file in named}
    for path in folder.glob(f"*{SUFFIX}"):
        if path.name not in known:
            path.unlink()


def _open(path: Path, file: HistoryFile) -> Any:
    import pyarrow.parquet as pq

    try:
        if path.stat().st_size != file.size or sha256(_footer(path)).digest() != file.footer_sha256:
            raise HistoryUnreadable(f"{path.name} is not as it was written")
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, ValueError) as error:
        raise HistoryUnreadable(f"{path.name}: {error}") from error


def _footer(path: Path) -> bytes:
    """What says where everything lies in a Parquet file, its length and mark included."""
    with path.open("rb") as content:
        content.seek(-FOOTER_END, os.SEEK_END)
        length = int.from_bytes(content.read(LENGTH_BYTES), "little") + FOOTER_END
        content.seek(-length, os.SEEK_END)
        return content.read()


def _read(opened: Any, group: int, alike: dict[str, str]) -> Any:
    """A row group, less what is of other meters."""
    import pyarrow.compute as pc

    table = opened.read_row_group(group, use_threads=False)
    for name, value in alike.items():
        table = table.filter(pc.equal(table[name], value))
    return table.combine_chunks()


def _schema(layout: HistoryLayout) -> Any:
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "bytes": pa.binary(),
        "integer": pa.int64(),
        "day": pa.date32(),
        "integers": pa.list_(pa.int32(), layout.per_row),
    }
    return pa.schema([(name, types[kind]) for name, kind in layout.types.items()])


def _table(rows: Sequence[Row], layout: HistoryLayout, schema: Any) -> Any:
    import pyarrow as pa

    columns = layout.columns(rows)
    arrays = []
    for name, kind in layout.types.items():
        if kind == "integers":
            flat = pa.array(columns[name], pa.int32())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, layout.per_row))
        elif kind == "day":
            arrays.append(pa.array(columns[name], pa.int32()).cast(pa.date32()))
        else:
            arrays.append(pa.array(columns[name], schema.field(name).type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _plain(table: Any, layout: HistoryLayout) -> dict[str, Any]:
    """The columns of a table as the layout gave them."""
    import numpy as np
    import pyarrow as pa

    plain: dict[str, Any] = {}
    for name, kind in layout.types.items():
        column = table[name]
        if kind == "integers":
            chunks = [chunk.flatten().to_numpy() for chunk in column.chunks]
            plain[name] = np.concatenate(chunks) if chunks else np.empty(0, "<i4")
        elif kind == "day":
            plain[name] = column.cast(pa.int32()).to_pylist()
        else:
            plain[name] = column.to_pylist()
    return plain
