"""What many stores of one process take of memory: `python -m tests.helpers.store_memory 67 12`.

Opens so many stores as a process does, writes so many MiB of rows to each, all in turn, reads
everything, and prints the memory of the process that no file backs, in MiB; then the same with the
stores each by itself, as RocksDB would have it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rocksdict import BlockBasedOptions, Rdict, WriteBatch

from spine import rocks

ROW_BYTES, ROWS_AT_ONCE = 200, 500
SHARED, APART = "shared", "apart"


def anonymous_mib() -> int:
    """Memory of this process that no file backs. Linux alone tells it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) >> 10


def opened(path: Path, how: str) -> Rdict:
    """A store, open to be written."""
    options = rocks.options(writes=how == SHARED)
    if how == APART:
        tables = BlockBasedOptions()
        tables.set_bloom_filter(10, False)
        options.set_block_based_table_factory(tables)
    return Rdict(str(path), options=options)


def measure(stores: int, mib_each: int, how: str) -> str:
    """The memory after each step."""
    with tempfile.TemporaryDirectory() as home:
        found = {"start": anonymous_mib()}
        opens = [opened(Path(home) / str(number), how) for number in range(stores)]
        found["opened"] = anonymous_mib()
        for first in range(0, (mib_each << 20) // ROW_BYTES, ROWS_AT_ONCE):
            for store in opens:
                batch = WriteBatch(raw_mode=True)
                for key in range(first, first + ROWS_AT_ONCE):
                    batch.put(key.to_bytes(8, "big"), key.to_bytes(8, "big") * (ROW_BYTES // 8))
                store.write(batch)
        found["written"] = anonymous_mib()
        for store in opens:
            for _ in store.items():
                pass
        found["read"] = anonymous_mib()
        for store in opens:
            store.close()
    return ", ".join(f"{step} {mib}" for step, mib in found.items())


if __name__ == "__main__":
    if len(sys.argv) == 4:
        stores, mib_each, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
        sys.stdout.write(f"{way}: {measure(stores, mib_each, way)} MiB\n")
    else:
        for way in (APART, SHARED):
            words = [sys.executable, "-m", "tests.helpers.store_memory", *sys.argv[1:], way]
            subprocess.run(words, check=True)
