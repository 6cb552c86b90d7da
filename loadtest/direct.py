"""What a load test writes into a log by itself, with a coordinator's key and without it, and how it
waits until a process has folded it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from loadtest.installation import Installation, Note, expect
from spine.event import RecordType, SignerRole
from spine.log import Appender
from spine.store import StoreReader

APPENDS_AT_ONCE: Final = 16
STILL_S: Final = 300.0
LOOK_S: Final = 0.5


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


def wait_until_folded(spine: Installation, process: str, topics: Sequence[str], note: Note) -> None:
    """Return once that process has folded what the topics hold now, in whatever order it does.

    WrongAnswer if it stands still for minutes.
    """
    reader = spine.runtime.reader()
    places = [(topic, p) for topic in topics for p in range(spine.runtime.partitions)]
    try:
        ends = [reader.bounds(*place)[1] for place in places]
    finally:
        reader.close()
    stores, looks = spine.runtime.stores(process), spine.data_dir / "wait" / process
    names = [f"{topic}-{partition}" for topic, partition in places]
    folds = [StoreReader(stores / name, looks / name) for name in names]
    at = [0 for _ in places]
    moved = time.monotonic()
    while any(now < end for now, end in zip(at, ends, strict=True)):
        before = at
        time.sleep(LOOK_S)
        positions = [fold.position() if fold.refresh() else None for fold in folds]
        at = [0 if position is None else position.offset + 1 for position in positions]
        if at != before:
            moved = time.monotonic()
        note(f"{process} folds records", sum(at), sum(ends))
        expect(time.monotonic() < moved + STILL_S, f"{process} does not fold {', '.join(topics)}")
    for fold in folds:
        fold.close()
