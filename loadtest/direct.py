"""What a load test writes into a log by itself, with a coordinator's key and without it, and how it
waits until a process has folded it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from loadtest.installation import Installation, Note, expect
from spine.event import RecordType, SignerRole
from spine.log import Appender
from spine.store import StoreReader

APPENDS_AT_ONCE: Final = 16
STILL_S: Final = 300.0
LOOK_S: Final = 0.1


class ToAppend(NamedTuple):
    """A record that a role's key signs."""

    role: SignerRole
    type: RecordType
    topic: str
    partition: int
    value: object


async def append_all(spine: Installation, records: Iterable[ToAppend]) -> None:
    """Sign and append them in order, several on their way at once."""
    runtime = spine.runtime
    appender = Appender(spine.kafka)
    await appender.start()
    writers = {
        role: runtime.writer(appender, role, "loadtest")
        for role in (SignerRole.METERING, SignerRole.CONSUMERS)
    }
    under_way: set[asyncio.Task[object]] = set()
    try:
        for role, kind, topic, partition, value in records:
            write = writers[role].write(kind, topic, partition, value)
            under_way.add(asyncio.create_task(write))
            if len(under_way) >= APPENDS_AT_ONCE:
                ended, under_way = await asyncio.wait(
                    under_way, return_when=asyncio.FIRST_COMPLETED
                )
                for task in ended:
                    task.result()
        await asyncio.gather(*under_way)
    finally:
        await appender.stop()


def wait_until_folded(spine: Installation, process: str, topic: str, note: Note) -> None:
    """Return once that process has folded what the topic holds now.

    WrongAnswer if it stands still for minutes.
    """
    reader = spine.runtime.reader()
    stores = spine.runtime.stores(process)
    places = range(spine.runtime.partitions)
    try:
        ends = [reader.bounds(topic, p)[1] for p in places]
    finally:
        reader.close()
    looks = spine.data_dir / "wait" / process
    folds = [StoreReader(stores / f"{topic}-{p}", looks / topic / str(p)) for p in places]
    at = [0 for _ in places]
    moved = time.monotonic()
    while any(now < end for now, end in zip(at, ends, strict=True)):
        before = at
        time.sleep(LOOK_S)
        positions = [fold.position() if fold.refresh() else None for fold in folds]
        at = [0 if position is None else position.offset + 1 for position in positions]
        if at != before:
            moved = time.monotonic()
        note(f"{process} folds {topic}", sum(at), sum(ends))
        expect(time.monotonic() < moved + STILL_S, f"{process} does not fold {topic}")
    for fold in folds:
        fold.close()
