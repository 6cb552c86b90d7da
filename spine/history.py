"""Old rows of a store in columnar files: Parquet, written by pyarrow and asked through duckdb.

Both are imported where they are used: most stores have no history, and they take their time.

A store that outgrows its disk hands rows of old days over to a file beside it, and names the file
in itself. Whoever scans the store finds the same rows in the same order, wherever they lie, so that
an answer, a digest and a comparison with the log come out the same. Like the store, its files are
derived from the log: if one is missing or not as it was written, the store is discarded and comes
back from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, Final

from spine.domain import HistoryLayout

# Above the position row, so that neither a digest nor a comparison of rows comes to it.
HISTORY_ROW: Final = b"\xff\xffshelved"
FOLDER: Final = "history"
ROWS_PER_GROUP: Final = 16_384
ROWS_AT_ONCE: Final = 2_048

Row = tuple[bytes, bytes]


class HistoryUnreadable(Exception):
    """A file of a store's history is missing, or is not what was written."""


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """One file as its store knows it: rows of days before `before_day`, days since 1970-01-01."""

    name: str
    size: int
    rows: int
    before_day: int


class History:
    """The files of one store. HistoryUnreadable if one of them is not there as it was written."""

    def __init__(self, folder: Path, layout: HistoryLayout, files: Sequence[HistoryFile]) -> None:
        self._layout, self.files = layout, tuple(files)
        self._paths = [folder / file.name for file in files]
        for path, file in zip(self._paths, self.files, strict=True):
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                size = -1
            if size != file.size:
                raise HistoryUnreadable(f"{path.name} is not as it was written")
        self._database = _database()

    def meets(self, start: bytes, end: bytes) -> bool:
        """Whether rows in that range of keys may lie here."""
        return any(start < prefix + b"\xff" and prefix < end for prefix in self._layout.prefixes)

    def scan(self, start: bytes, end: bytes) -> Iterator[Row]:
        """The rows here with start <= key < end, in key order."""
        return merge(*(self._scan(path, start, end) for path in self._paths))

    def _scan(self, path: Path, start: bytes, end: bytes) -> Iterator[Row]:
        where, values = self._layout.where(start, end)
        names = ", ".join(self._layout.types)
        asked = f"select {names} from read_parquet(?) where {where}"
        try:
            found = self._database.cursor().sql(asked, params=[str(path), *values])
            for batch in found.to_arrow_reader(ROWS_AT_ONCE):
                for row in self._layout.rows(_plain(batch, self._layout)):
                    if start <= row[0] < end:
                        yield row
        except (_database_error(), KeyError, ValueError) as error:
            raise HistoryUnreadable(f"{path.name}: {error}") from error

    def close(self) -> None:
        """Let go of the files."""
        self._database.close()


def write(
    folder: Path, layout: HistoryLayout, rows: Iterable[Row], before_day: int, said: dict[str, str]
) -> HistoryFile | None:
    """Write rows in key order to a new file, with `said` in its footer; None if there are none.

    The file is on the disk when this returns, and gives back just these rows.
    """
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    number = 1 + len(list(folder.glob("*.parquet")))
    path = folder / f"{number:04d}-before-{before_day}.parquet"
    schema = _schema(layout).with_metadata(said)
    source, count = iter(rows), 0
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        while group := list(islice(source, ROWS_PER_GROUP)):
            writer.write_table(_table(group, layout, schema), row_group_size=ROWS_PER_GROUP)
            count += len(group)
    if not count:
        path.unlink()
        return None
    with path.open("rb") as written:
        os.fsync(written.fileno())
    return HistoryFile(path.name, path.stat().st_size, count, before_day)


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


def _plain(batch: Any, layout: HistoryLayout) -> dict[str, Any]:
    """The columns of a batch as the layout gave them."""
    import pyarrow as pa

    plain: dict[str, Any] = {}
    for name, kind in layout.types.items():
        column = batch.column(name)
        if kind == "integers":
            plain[name] = column.flatten().to_numpy(zero_copy_only=False)
        elif kind == "day":
            plain[name] = column.cast(pa.int32()).to_pylist()
        else:
            plain[name] = column.to_pylist()
    return plain


def _database() -> Any:
    import duckdb

    return duckdb.connect(config={"threads": 1, "autoinstall_known_extensions": False})


def _database_error() -> type[Exception]:
    import duckdb

    return duckdb.Error
