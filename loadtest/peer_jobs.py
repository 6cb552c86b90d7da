"""The peers' side of `peers`: run by their own environment, knows nothing of the spine.

Reads a task on its input, writes one JSON object: rows kept, and seconds from the first record to
the last row. Not imported by anything here.
"""

# mypy: ignore-errors

from __future__ import annotations

import io
import json
import struct
import sys
import time
from pathlib import Path

import fastavro
import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
)

WEIGHTS = np.array((3, 5, 7, 13, 17, 19, 23, 29, 31, 37, 41, 43))
MAX_WH = 10_000_000


def batch_of(value, schema):
    return fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)


def checked_rows(batch, offset):
    """The rows of a batch as key and value, those out of range left out."""
    rows = batch["rows"]
    names = np.frombuffer(batch["mpxns"], np.uint8).reshape(rows, 13)
    digits = names.astype(np.int64) - 48
    _ = (digits[:, :12] * WEIGHTS).sum(axis=1) % 11 % 10 == digits[:, 12]
    values = np.frombuffer(batch["values"], "<i4").reshape(rows, 48)
    fit = ((values >= 0) & (values <= MAX_WH)).all(axis=1)
    packed = np.concatenate(
        [
            np.frombuffer(batch[name], np.uint8).reshape(rows, -1)
            for name in ("present", "values", "quality")
        ],
        axis=1,
    )
    days = np.frombuffer(batch["days"], "<i4")
    for row in np.flatnonzero(fit).tolist():
        key = names[row].tobytes() + struct.pack(">iqi", int(days[row]), offset, row)
        yield key, packed[row].tobytes()


def one_row(value, schema, offset):
    """The one row of a record of one meter-day, checked as one usually writes it."""
    record = fastavro.schemaless_reader(io.BytesIO(value), schema, None)
    mpan = record["mpan"]
    weighed = sum(int(d) * int(w) for d, w in zip(mpan, WEIGHTS, strict=False))
    record["check_digit_ok"] = weighed % 11 % 10 == int(mpan[12])
    if min(record["values"]) < 0 or max(record["values"]) > MAX_WH:
        return None
    key = mpan.encode() + struct.pack(">iq", record["day"], offset)
    return key, struct.pack("<48i", *record["values"]) + record["quality"]


ONE = fastavro.parse_schema(
    {
        "type": "record",
        "name": "MeterDay",
        "fields": [
            {"name": "mpan", "type": "string"},
            {"name": "day", "type": "int"},
            {"name": "values", "type": {"type": "array", "items": "int"}},
            {"name": "quality", "type": "bytes"},
        ],
    }
)


def write_again(task):
    """The same meter-days, one a record, in a topic of their own; its name."""
    topic = "peers.one-a-record"
    settings = {"bootstrap.servers": task["bootstrap"]}
    admin = AdminClient(settings)
    created = admin.create_topics([NewTopic(topic, task["partitions"], 1)])
    try:
        created[topic].result(timeout=30)
    except KafkaException as there:  # the other peer made it: what it wrote is the same again
        if there.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        return topic
    producer = Producer({**settings, "compression.type": "zstd", "linger.ms": 50})
    consumer = Consumer({**settings, "group.id": "again", "enable.auto.commit": False})
    consumer.assign([TopicPartition(task["topic"], p, 0) for p in range(task["partitions"])])
    left = task["count"]
    while left:
        for message in consumer.consume(64, 1.0):
            if ("t", b"r") not in (message.headers() or ()):
                continue
            batch = batch_of(message.value(), task["schema"])
            values = np.frombuffer(batch["values"], "<i4").reshape(-1, 48)
            days = np.frombuffer(batch["days"], "<i4")
            for row in range(min(left, batch["rows"])):
                out = io.BytesIO()
                mpan = batch["mpxns"][row * 13 : row * 13 + 13].decode()
                quality = batch["quality"][row * 48 : row * 48 + 48]
                plain = {"mpan": mpan, "day": int(days[row]), "quality": quality}
                plain["values"] = values[row].tolist()
                fastavro.schemaless_writer(out, ONE, plain)
                while True:
                    try:
                        producer.produce(topic, out.getvalue(), key=mpan)
                        break
                    except BufferError:
                        producer.poll(0.1)
                left -= 1
    producer.flush()
    consumer.close()
    return topic


def opened(folder):
    """A store set up as the spine's own is: both sides write alike. A test compares the two."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_max_open_files(256)
    options.set_compression_per_level([DBCompressionType.none(), *[DBCompressionType.lz4()] * 6])
    tables = BlockBasedOptions()
    tables.set_bloom_filter(10, False)
    tables.set_block_cache(Cache(128 << 20))
    options.set_block_based_table_factory(tables)
    options.set_max_background_jobs(2)
    options.set_write_buffer_size(32 << 20)
    options.set_arena_block_size(256 << 10)
    options.set_write_buffer_manager(WriteBufferManager(256 << 20, allow_stall=False))
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(0.005)
    options.set_max_write_buffer_number(4)
    options.set_level_zero_file_num_compaction_trigger(8)
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(64)
    return Rdict(folder, options=options, column_families={"default": options})


class Kept:
    """Rows on their way into RocksDB, and when the first and the last came."""

    def __init__(self, task):
        self.db = opened(task["folder"])
        self.rows, self.wanted, self.began, self.ended = 0, task["count"], None, None

    def begin(self):
        """The first record is here, not yet taken apart."""
        if self.began is None:
            self.began = time.perf_counter()

    def put(self, rows):
        write = WriteBatch(raw_mode=True)
        for key, value in rows:
            write.put(key, value)
            self.rows += 1
        self.db.write(write)
        self.ended = time.perf_counter()

    @property
    def done(self):
        return self.rows >= self.wanted

    def said(self):
        return {"rows": self.rows, "seconds": self.ended - self.began}


def quix(task, topic):
    from quixstreams import Application

    kept, batched = Kept(task), task["shape"] == "batched"
    app = Application(
        broker_address=task["bootstrap"],
        consumer_group=f"quix-{task['shape']}",
        auto_offset_reset="earliest",
        auto_create_topics=False,
        state_dir=task["folder"] + "-state",
        loglevel="WARNING",
    )
    source = app.topic(topic, value_deserializer="bytes", key_deserializer="bytes")

    def take(value, key, stamp, headers):
        kept.begin()
        if batched:
            if ("t", b"r") in (headers or ()):
                kept.put(list(checked_rows(batch_of(value, task["schema"]), kept.rows)))
        elif (row := one_row(value, ONE, kept.rows)) is not None:
            kept.put([row])
        if kept.done:
            app.stop()

    app.dataframe(source).update(take, metadata=True)
    app.run()
    return kept.said()


def bytewax(task, topic):
    import bytewax.operators as op
    from bytewax.connectors.kafka import KafkaSource
    from bytewax.dataflow import Dataflow
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import run_main

    kept, batched = Kept(task), task["shape"] == "batched"

    class Partition(StatelessSinkPartition):
        def write_batch(self, items):
            for rows in items:
                kept.put(rows)

    class Sink(DynamicSink):
        def build(self, step_id, worker_index, worker_count):
            return Partition()

    def rows_of(message):
        kept.begin()
        if batched:
            if ("t", b"r") in (message.headers or ()):
                return list(checked_rows(batch_of(message.value, task["schema"]), message.offset))
            return None
        row = one_row(message.value, ONE, message.offset)
        return None if row is None else [row]

    flow = Dataflow("peer")
    source = KafkaSource([task["bootstrap"]], [topic], tail=False, batch_size=1_000)
    stream = op.input("in", flow, source)
    op.output("out", op.filter_map("rows", stream, rows_of), Sink())
    run_main(flow)
    return kept.said()


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    given["schema"] = fastavro.parse_schema(given["schema"])
    Path(given["folder"]).parent.mkdir(parents=True, exist_ok=True)
    name = given["topic"] if given["shape"] == "batched" else write_again(given)
    sys.stdout.write(
        json.dumps({"quix": quix, "bytewax": bytewax}[sys.argv[1]](given, name)) + "\n"
    )
