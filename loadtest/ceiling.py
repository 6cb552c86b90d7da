"""The bare loop that everything is measured against: no engine, no rules, nothing but the work.

librdkafka gives the bytes of `metering.readings.v1`, fastavro takes a batch apart, numpy lays out
the rows, RocksDB writes them in one batch a record, set up as it is for the fold. No signature, no
check, no position, no version is looked at. Half of the harness's own truth also comes from here:
how many rows each record holds.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import fastavro
import numpy as np
from confluent_kafka import Consumer, TopicPartition
from rocksdict import Rdict, WriteBatch

from loadtest.installation import Installation, expect
from spine import rocks, trust

FRAME_BYTES: Final = 5
MESSAGES: Final = 64
POLL_S: Final = 1.0
IDLE_S: Final = 30.0
_KEY = np.dtype(
    [
        ("prefix", "S2"),
        ("mpxn", "u1", 13),
        ("quantity", "S2"),
        ("day", ">u4"),
        ("at", ">i8"),
        ("row", ">u4"),
    ]
)


@dataclass(slots=True)
class Bare:
    """What the loop did: seconds, rows, and by partition the rows of each record by its offset."""

    seconds: float = 0.0
    rows: int = 0
    bytes: int = 0
    records: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def rows_per_s(self) -> float:
        """Meter-days a second."""
        return self.rows / self.seconds


def bare_loop(spine: Installation, folder: Path, *, store: bool = True) -> Bare:
    """Run the loop over all readings there are; `store=False` only takes the batches apart."""
    codec = spine.runtime.codec
    schema = codec.schemas.named("metering.ReadingsBatch").parsed
    consumer = Consumer(
        {
            "bootstrap.servers": spine.kafka.bootstrap,
            "group.id": "bare-loop",
            "enable.auto.commit": False,
            "queued.min.messages": 1_000,
            "fetch.message.max.bytes": 4 << 20,
        }
    )
    topic = trust.READINGS_TOPIC
    ends = {
        p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1]
        for p in range(spine.runtime.partitions)
    }
    consumer.assign([TopicPartition(topic, p, 0) for p in ends])
    db = rocks.open_as(folder, rocks.options(writes=True)) if store else None
    bare = Bare(records={p: [] for p in ends})
    missing = sum(ends.values())
    heard, started = time.perf_counter(), 0.0
    while missing:
        messages = consumer.consume(MESSAGES, POLL_S)
        started = started or (time.perf_counter() if messages else 0.0)
        for message in messages:
            missing -= 1
            _one(bare, message, schema, db)
        now = time.perf_counter()
        heard = now if messages else heard
        expect(now - heard < IDLE_S, "the log gives nothing more")
    bare.seconds = time.perf_counter() - started
    consumer.close()
    if db is not None:
        db.close()
    return bare


def _one(bare: Bare, message: Any, schema: Any, db: Rdict | None) -> None:
    value: bytes = message.value()
    kinds = [content for name, content in message.headers() or () if name == "t"]
    if kinds != [b"r"]:
        return
    batch: Any = fastavro.schemaless_reader(BytesIO(value[FRAME_BYTES:]), schema, None)
    rows = batch["rows"]
    bare.rows += rows
    bare.bytes += len(value)
    bare.records[message.partition()].append((message.offset(), rows))
    if db is None:
        return
    write = WriteBatch(raw_mode=True)
    for key, packed in zip(_keys(batch, message.offset()), _values(batch), strict=True):
        write.put(key, packed)
    write.put(b"\xffposition", struct.pack(">q", message.offset()))
    db.write(write)


def _keys(batch: Any, offset: int) -> list[bytes]:
    keys = np.empty(batch["rows"], _KEY)
    keys["prefix"] = b"r/"
    keys["mpxn"] = np.frombuffer(batch["mpxns"], np.uint8).reshape(-1, 13)
    keys["quantity"] = batch["measurement_quantity"].encode()
    keys["day"] = np.frombuffer(batch["days"], "<u4") ^ np.uint32(0x8000_0000)
    keys["at"] = offset
    keys["row"] = np.arange(batch["rows"])
    whole: list[bytes] = keys.view(f"V{_KEY.itemsize}").tolist()
    return whole


def _values(batch: Any) -> list[bytes]:
    rows = batch["rows"]
    packed = np.empty((rows, 6 + 192 + 48), np.uint8)
    for start, end, name in ((0, 6, "present"), (6, 198, "values"), (198, 246, "quality")):
        packed[:, start:end] = np.frombuffer(batch[name], np.uint8).reshape(rows, -1)
    whole: list[bytes] = packed.view("V246").ravel().tolist()
    return whole
