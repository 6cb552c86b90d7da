"""`access`: what reads leave in the log, alone, together and as sets; how fast a rebuild skips it.

Bytes are those of the records of requests and outcomes, keys and headers included, before they are
compressed. A rebuild passes over requests and outcomes: their rate is that of the fold alone, with
every signature checked and no store to write; to fetch and decompress records comes on top.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from loadtest.asking import week_reader
from loadtest.country import SUPPLIERS
from loadtest.installation import expect
from loadtest.reads import CALLERS
from loadtest.results import Result
from loadtest.serving import WEEK, Served
from loadtest.supplying import SUPPLIER, in_sets, stream_set
from loadtest.traffic import by_callers, secure_channel
from spine import trust
from spine.dsi.v1 import dsi_pb2_grpc
from spine.event import TYPE_HEADER, AccessOutcomes, AccessRequests, LogRecord, RecordType

OUTCOMES_IN_S: Final = 30.0
LOOK_S: Final = 0.2
TOPICS: Final = (trust.CONSUMER_LOG, trust.OUTCOMES_TOPIC)
TYPES: Final = (RecordType.ACCESS.encode(), RecordType.OUTCOMES.encode())
Place = tuple[str, int]


@dataclass(slots=True)
class Left:
    """What reads left in a stretch of the log: meters asked for, outcomes, and bytes of both."""

    meters: int = 0
    outcomes: int = 0
    size: int = 0

    @property
    def bytes_per_meter(self) -> float:
        """Of one read of one meter."""
        return self.size / self.meters


class Log:
    """The records that reads leave, from wherever one looked last."""

    def __init__(self, served: Served) -> None:
        runtime = served.spine.runtime
        self._codec, self._reader = runtime.codec, runtime.reader()
        self._places = [(topic, p) for topic in TOPICS for p in range(runtime.partitions)]
        self.ends: dict[Place, int] = self._reader.ends(self._places)

    def left(self) -> Left:
        """What was appended since; WrongAnswer if a decision gets no outcome in time."""
        found, deadline = Left(), time.monotonic() + OUTCOMES_IN_S
        while found.meters == 0 or found.outcomes < found.meters:
            expect(time.monotonic() < deadline, "a decision has no outcome")
            time.sleep(LOOK_S)
            begins, self.ends = self.ends, self._reader.ends(self._places)
            for record in self._records(begins):
                found.size += _size(record)
                match self._codec.decode(record.value or b""):
                    case AccessRequests(entries=requests):
                        found.meters += sum(len(request.meters) for request in requests)
                    case AccessOutcomes(entries=outcomes):
                        found.outcomes += len(outcomes)
        return found

    def _records(self, begins: Mapping[Place, int]) -> Iterator[LogRecord]:
        for place, begin in begins.items():
            for record in self._reader.read(*place, begin, self.ends[place]):
                if record.header(TYPE_HEADER) in TYPES:
                    yield record

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()


def _size(record: LogRecord) -> int:
    headers = sum(len(name) + len(value) for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def run(served: Served, seconds: float) -> Result:
    """The scenario on a country that is served."""
    return asyncio.run(_run(served, seconds))


async def _run(served: Served, seconds: float) -> Result:
    spine, log = served.spine, Log(served)
    async with week_reader(served) as ask:
        if not served.rows:
            await ask.learn()
            await asyncio.to_thread(log.left)
        await by_callers(ask, 1, seconds)
        alone = await asyncio.to_thread(log.left)
        await by_callers(ask, CALLERS, seconds)
        together = await asyncio.to_thread(log.left)
    members = _sets_of(served)
    async with secure_channel(spine.target("dsi"), spine.identity(SUPPLIERS[SUPPLIER])) as channel:
        stub = dsi_pb2_grpc.DsiStub(channel)
        for each in members:
            async for chunk in stream_set(stub, each, WEEK):
                expect(not chunk.refused, "a metering point was refused")
    as_sets = await asyncio.to_thread(log.left)
    log.close()
    passed_over = await asyncio.to_thread(_passed_over, served)
    return Result(
        "access",
        len(served.mpans),
        {
            "bytes_per_read_alone": alone.bytes_per_meter,
            "bytes_per_read_together": together.bytes_per_meter,
            "bytes_per_meter_of_a_set": as_sets.bytes_per_meter,
            "meters_of_a_set": sum(map(len, members)) / len(members),
            "reads_passed_over_per_s": passed_over,
        },
        notes=[
            "a read is a request and its outcome; bytes before compression",
            "passed over: by the fold alone, of its CPU; to fetch and decompress comes on top",
        ],
    )


def _sets_of(served: Served) -> list[list[str]]:
    """The meters of one supplier, a thousand to a set."""
    block = served.country.block(0, served.country.meters)
    return in_sets([served.mpans[i] for i in served.known if block.supplier[i] == SUPPLIER])


def _passed_over(served: Served) -> float:
    """Requests that a fold of the consumer log passes over in a second, on one core."""
    runtime = served.spine.runtime
    reader = runtime.reader()
    requests, took = 0, 0.0
    for partition in range(runtime.partitions):
        fold = runtime.memory_fold(trust.CONSUMER_LOG, partition)
        for record in reader.read(trust.CONSUMER_LOG, partition, 0):
            begun = time.process_time()
            applied = fold.apply(record)
            if applied.access:
                took += time.process_time() - begun
                requests += applied.access
    reader.close()
    return requests / took
