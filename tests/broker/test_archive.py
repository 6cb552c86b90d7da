"""An archive that replaces log is log: what the broker dropped is read and timed as before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from kafka import KafkaAdminClient, TopicPartition

import spine.archive
from domains.consumers.decider import CONSUMERS
from spine import trust
from spine.archive import Archive, ArchiveDamaged
from spine.config import Settings
from spine.embedded import EmbeddedKafka
from spine.errors import Reason
from spine.event import Command, Facts, LogRecord, RecordType, SignerRole
from spine.installation import DOMAINS
from spine.log import Appender, Kafka, LogReader, LogUnfit
from spine.runtime import Runtime
from spine.writer import LogWriter
from tests.helpers.records import (
    LOG_ID,
    METER,
    NEIGHBOUR,
    PARTITION,
    command,
    digest,
    granted,
    moved_in,
    refold,
    revoked,
    suspended,
)
from tests.helpers.stories import consumers_story

HEADERS = (("t", b"f"), ("twice", b"1"), ("twice", b"2"), ("empty", b""))
RECORDS = 40


async def filled(broker: EmbeddedKafka, topic: str) -> list[LogRecord]:
    appender = Appender(Kafka(broker.bootstrap))
    for number in range(RECORDS):
        key = None if number % 3 else b"1200000000003"
        await appender.append(topic, 0, key, HEADERS, bytes([number]) * 100)
    await appender.stop()
    reader = LogReader(Kafka(broker.bootstrap))
    records = list(reader.read(topic, 0, 0))
    reader.close()
    return records


def dropped(broker: EmbeddedKafka, topic: str, below: int, partition: int = 0) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.delete_records({TopicPartition(topic, partition): below})
    admin.close()


async def test_what_the_broker_dropped_is_read_from_the_archive(
    kafka: EmbeddedKafka, new_topic: Callable[[EmbeddedKafka], str], tmp_path: Path
) -> None:
    topic = new_topic(kafka)
    records = await filled(kafka, topic)
    archive = Archive(tmp_path)
    archive.extend(LOG_ID, topic, 0, records[:15], segment_bytes=500)
    archive.extend(LOG_ID, topic, 0, records[15:30], segment_bytes=500)
    assert len(archive.segments(topic, 0)) == 6
    assert archive.verify(LOG_ID, topic, 0) == 30
    dropped(kafka, topic, 25)
    bare, reader = (
        LogReader(Kafka(kafka.bootstrap, archive=folder)) for folder in (None, tmp_path)
    )
    assert bare.bounds(topic, 0) == (25, RECORDS)
    assert reader.bounds(topic, 0) == (0, RECORDS)
    assert list(reader.read(topic, 0, 0)) == records
    assert list(reader.read(topic, 0, 7, 33)) == records[7:33]
    for record in records[3::7]:
        at = next(r.offset for r in records if r.append_ms >= record.append_ms)
        assert reader.offset_at(topic, 0, record.append_ms) == at
    with pytest.raises(LogUnfit) as missing:
        list(bare.read(topic, 0, 0))
    assert missing.value.reason is Reason.LOG_MISSING
    dropped(kafka, topic, 35)  # further than was archived: a gap is no log
    with pytest.raises(LogUnfit):
        list(reader.read(topic, 0, 0))
    assert reader.bounds(topic, 0)[0] == 35
    bare.close()
    reader.close()


def test_an_archived_history_folds_to_the_same_rows(tmp_path: Path) -> None:
    """With records that nobody signed, headers in odd bytes, and values that are not there."""
    story = consumers_story()
    headers: Any = (("\udce9", b""), ("n", None))
    odd = LogRecord(story[0].topic, PARTITION, len(story), 5, b"", headers, None)
    archive = Archive(tmp_path)
    archive.extend(LOG_ID, odd.topic, PARTITION, [*story, odd], segment_bytes=1_000)
    again = list(Archive(tmp_path).read(odd.topic, PARTITION, 0, len(story) + 1))
    assert again == [*story, odd]
    assert digest(refold(again, CONSUMERS)) == digest(refold([*story, odd], CONSUMERS))


async def test_a_fold_of_archive_and_remaining_log_is_the_fold_of_the_log(
    own_kafka: EmbeddedKafka, own_log: tuple[Settings, Kafka], tmp_path: Path
) -> None:
    """At every border between the two; what the broker alone still holds comes to another."""
    settings, kafka = own_log
    this = Runtime.of(settings, kafka, DOMAINS)
    place = (trust.CONSUMER_LOG, PARTITION)
    appender = Appender(kafka)
    writer = this.writer(appender, SignerRole.CONSUMERS, "test")
    first = await said(writer, command(METER, moved_in(), granted()))
    after = (first, 0)
    await said(writer, command(METER, suspended(), previous=after))
    await said(writer, command(METER, revoked(), previous=after))  # another came first: void
    await appender.append(*place, None, (), b"no record")  # quarantined
    last = await said(writer, command(NEIGHBOUR, moved_in()))
    await appender.stop()
    bare, archive = this.reader(), Archive(tmp_path / "archive")
    whole = folded(this, bare, tmp_path / "whole")
    records = list(bare.read(*place, 0))
    archive.extend(this.identity.log_id, *place, records[:-1], segment_bytes=1_000)
    reader = LogReader(replace(kafka, archive=archive.folder))
    for border in range(1, last + 1):
        dropped(own_kafka, place[0], border, PARTITION)
        assert bare.bounds(*place)[0] == border
        assert folded(this, reader, tmp_path / f"both-{border}") == whole
        with pytest.raises(LogUnfit) as missing:
            folded(this, bare, tmp_path / f"bare-{border}")
        assert missing.value.reason is Reason.LOG_MISSING
    alone = this.stored_fold(tmp_path / "alone", *place)
    alone.apply_all(records[1:])
    assert alone.store.digest() != whole[1]
    alone.close()
    bare.close()
    reader.close()


async def said(writer: LogWriter, given: Command) -> int:
    """The offset of a record of the consumers coordinator with this command."""
    facts = Facts(trust.CONSUMER_LOG, PARTITION, (given,))
    key = given.subject.encode()
    appended = await writer.write(RecordType.FACTS, trust.CONSUMER_LOG, PARTITION, facts, key=key)
    return appended.offset


def folded(this: Runtime, reader: LogReader, folder: Path) -> tuple[int, bytes]:
    """How far a fold from the first record comes, and to what."""
    fold = this.stored_fold(folder, trust.CONSUMER_LOG, PARTITION)
    try:
        fold.catch_up(reader)
        assert fold.fold.head is not None
        counts = fold.fold.head.counts
        assert min(counts.applied, counts.void, counts.quarantined) >= 1
        return fold.next_offset, fold.store.digest()
    finally:
        fold.close()


def archived(folder: Path) -> tuple[Archive, list[Path]]:
    archive = Archive(folder)
    records = [LogRecord("t", 0, n, 1_000 + n, None, HEADERS, bytes([n]) * 9) for n in range(30)]
    del records[11]  # a hole stays one
    archive.extend(LOG_ID, "t", 0, records, segment_bytes=80)
    return archive, [segment.path for segment in archive.segments("t", 0)]


def cut(paths: list[Path]) -> None:
    paths[1].write_bytes(paths[1].read_bytes()[:-9])


def edited(paths: list[Path]) -> None:
    archive, _ = archived(paths[0].parent.parent / "other")
    segment = archive.segments("t", 0)[1]
    changed = [replace(r, value=b"x") for r in segment.records()]
    later = Archive(paths[0].parent.parent / "changed")
    later.extend(LOG_ID, "t", 0, [*archive.segments("t", 0)[0].records(), *changed], 80)
    paths[1].write_bytes(later.segments("t", 0)[1].path.read_bytes())


def shortened(paths: list[Path]) -> None:
    """Without its last record, and otherwise whole."""
    with spine.archive._opened(paths[1]) as stream:
        header, rows = stream.readline(), stream.read()
    archive = Archive(paths[0].parent.parent)
    *_, last = archive.read("t", 0, *spans(archive)[1])
    rows = rows.removesuffix(spine.archive._row(last))
    paths[1].write_bytes(zstandard.ZstdCompressor().compress(header + rows))


def spans(archive: Archive) -> list[tuple[int, int]]:
    return [(each.header.first, each.header.next) for each in archive.segments("t", 0)]


def lost(paths: list[Path]) -> None:
    paths[1].unlink()


def renamed(paths: list[Path]) -> None:
    paths[1].rename(paths[1].with_name("00000000000000000099.segment"))


@pytest.mark.parametrize("harm", [cut, edited, shortened, lost, renamed])
def test_a_damaged_archive_is_found_and_named(
    harm: Callable[[list[Path]], None], tmp_path: Path
) -> None:
    _, paths = archived(tmp_path)
    assert Archive(tmp_path).verify(LOG_ID, "t", 0) == 29
    harm(paths)
    with pytest.raises(ArchiveDamaged) as found:
        Archive(tmp_path).verify(LOG_ID, "t", 0)
    assert found.value.reason is Reason.ARCHIVE_DAMAGED
    with pytest.raises(ArchiveDamaged):
        Archive(tmp_path).verify(bytes(32), "t", 0)


def test_who_reads_an_archive_is_told_of_a_record_too_few(tmp_path: Path) -> None:
    _, paths = archived(tmp_path)
    shortened(paths)
    begin, end = spans(Archive(tmp_path))[1]
    read = []
    with pytest.raises(ArchiveDamaged, match="holds 8 records of 9"):
        for each in Archive(tmp_path).read("t", 0, begin, end):
            read.append(each)
    assert read[-1].offset == end - 2, "the naive reader is content with these"
