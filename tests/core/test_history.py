"""Old readings in columnar files: the same rows, answers and digests, come what may meanwhile."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rocksdict import DbClosedError

from domains.governance.decider import GOVERNANCE
from domains.metering import READINGS
from domains.metering.history import LAYOUT, to_columns, to_rows
from domains.metering.readings import ReadingsBatch
from domains.metering.rows import ROW_PREFIX
from domains.metering.views import readings_as_of
from spine import history, rocks, trust
from spine.answer import Circumstances, half_hours, half_hours_digest
from spine.drift import DriftWatcher
from spine.event import LogRecord, RecordType
from spine.gb import Interval
from spine.history import FOLDER, HISTORY_ROW
from spine.murmur2 import murmur2_partition
from spine.replay import StoredFold, rebuild
from spine.rocks import DamagedStore
from spine.snapshot import restore, save
from spine.store import Store, StoreReader
from tests.helpers.records import (
    BY_METERING,
    LOG_ID,
    PARTITION,
    PARTITIONS,
    TOOLS,
    MemoryLog,
    started,
)
from tests.helpers.samples import readings_batch, withdrawn

EPOCH = date(1970, 1, 1)
TOPIC = trust.READINGS_TOPIC
NAME = f"{TOPIC}-{PARTITION}"
# A leap day, both clock changes, and days around the line that is drawn.
DAYS = [
    date(2024, 2, 29),
    date(2024, 3, 31),
    date(2024, 10, 27),
    date(2025, 6, 1),
    date(2025, 6, 2),
]
LINE = (date(2025, 6, 1) - EPOCH).days
FOREVER = Interval(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 12, 31, tzinfo=UTC))


def meters(count: int) -> list[str]:
    """Metering points of the partition: electricity, and gas with its shorter numbers."""
    found: list[str] = []
    for number in range(1_000_000_000_000, 9_000_000_000_000, 7_777_777_777):
        for mpxn in (str(number), str(number)[3:10]):
            if murmur2_partition(mpxn.encode(), PARTITIONS) == PARTITION:
                found.append(mpxn)
        if len(found) >= count:
            return found[:count]
    raise AssertionError


METERS = meters(6)


def batch(dice: random.Random, number: int, mpxn: str, day: date) -> ReadingsBatch:
    """Some half hours of a day, with gaps, under a quality code now and then its own."""
    made = readings_batch(mpxn.ljust(13, "\0"), PARTITION, 1_000 * number)
    present = np.array([dice.random() < 0.8 for _ in range(48)])
    values = np.where(present, np.frombuffer(made.values, "<i4"), 0).astype("<i4")
    quality = np.where(present, [dice.randrange(2) for _ in range(48)], 0).astype(np.uint8)
    return replace(
        made,
        batch_id=struct.pack(">16s", f"batch-{number}".encode()),
        days=struct.pack("<i", (day - EPOCH).days),
        present=np.packbits(present, bitorder="little").tobytes(),
        values=values.tobytes(),
        quality=quality.tobytes(),
        quality_codes=("A", "É" if number % 5 == 0 else "E"),
    )


@pytest.fixture(scope="module")
def records() -> list[LogRecord]:
    """Readings of six meters in any order, corrections, a withdrawal, and what is refused."""
    dice = random.Random(7)
    log = started(TOPIC)[0]
    for number in range(60):
        made = batch(dice, number, dice.choice(METERS), dice.choice(DAYS))
        log.keep(log.build(RecordType.READINGS, made, BY_METERING))
    taken_back = withdrawn(METERS[0], PARTITION, 10, 20)
    log.keep(log.build(RecordType.READINGS, taken_back, BY_METERING))
    wrong = replace(
        batch(dice, 98, METERS[1], DAYS[0]), values=struct.pack("<48i", *[2**31 - 1] * 48)
    )
    log.keep(log.build(RecordType.READINGS, wrong, BY_METERING))
    log.keep(log.build(RecordType.READINGS, batch(dice, 99, METERS[2], DAYS[0]), BY_METERING))
    return log.records


def open_fold(path: Path, topic: str = TOPIC, partition: int = PARTITION) -> StoredFold:
    folder = path / f"{topic}-{partition}"
    return StoredFold(folder, topic, partition, LOG_ID, TOOLS, READINGS, GOVERNANCE, b"schemas")


@pytest.fixture
def stored(records: list[LogRecord], tmp_path: Path) -> Iterator[StoredFold]:
    made = open_fold(tmp_path / "stores" / "readings")
    made.catch_up(MemoryLog(*records))
    yield made
    with suppress(DbClosedError):
        made.close()


def answers(rows: object, below: list[int]) -> list[bytes]:
    """The digest of what is known of every meter, as of several positions."""
    found = []
    for mpxn in METERS:
        for offset in below:
            columns = readings_as_of(rows, mpxn, "AI", FOREVER, offset)  # type: ignore[arg-type]
            known = Circumstances(FOREVER.end, (FOREVER,))
            made = half_hours(mpxn, [FOREVER], columns, FOREVER.end, known)
            found.append(half_hours_digest(made))
    return found


def positions(stored: StoredFold) -> list[int]:
    return [5, 17, 33, stored.next_offset]


def still_there(store: Store) -> int:
    """Rows in RocksDB itself that could be handed over."""
    return sum(
        1
        for prefix in LAYOUT.prefixes
        for _ in rocks.scan(store._db, store.path, prefix, prefix + b"\xff")
    )


def test_rows_become_columns_and_the_same_rows_again(stored: StoredFold) -> None:
    rows = [
        row for prefix in LAYOUT.prefixes for row in stored.store.scan(prefix, prefix + b"\xff")
    ]
    assert {key[:2] for key, _ in rows} == set(LAYOUT.prefixes)
    columns = to_columns(rows)
    assert columns.keys() == LAYOUT.types.keys()
    assert to_rows(columns) == rows


def test_what_was_handed_over_is_answered_the_same(stored: StoredFold, tmp_path: Path) -> None:
    store, before = stored.store, answers(stored.store, positions(stored))
    digest, rows = store.digest(), still_there(store)
    moved = store.move_to_history(LINE)
    assert moved is not None and moved.rows > 20
    assert 0 < still_there(store) == rows - moved.rows
    assert store.digest() == digest
    assert answers(store, positions(stored)) == before
    stored.close()
    again = open_fold(tmp_path / "stores" / "readings")
    assert again.store.digest() == digest and again.store.history == (moved,)
    assert answers(again.store, positions(again)) == before
    again.close()
    # Who looks into the store alone finds nothing of those days, and would say so in an answer.
    naive = Store(tmp_path / "stores" / "readings" / NAME)
    assert answers(naive, positions(stored)) != before
    naive.close()


def test_what_comes_later_lies_beside_it_and_is_handed_over_in_its_turn(
    records: list[LogRecord], tmp_path: Path
) -> None:
    whole = open_fold(tmp_path / "whole")
    whole.catch_up(MemoryLog(*records))
    made = open_fold(tmp_path / "parts")
    for end, line in ((20, LINE), (40, LINE), (len(records), LINE + 1), (len(records), LINE + 1)):
        made.catch_up(MemoryLog(*records), end=end)
        made.store.move_to_history(line)
    assert len(made.store.history) == 3  # the last time there was nothing left
    assert made.store.digest() == whole.store.digest()
    assert answers(made.store, positions(made)) == answers(whole.store, positions(whole))
    made.close()
    whole.close()


def test_a_reader_sees_the_same_all_the_while(
    stored: StoredFold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stores" / "readings" / NAME
    reader = StoreReader(path, tmp_path / "secondary", LAYOUT)
    assert reader.refresh()
    before, looks = answers(reader, positions(stored)), []

    def look(*_: object) -> None:
        assert reader.refresh()
        looks.append(answers(reader, positions(stored)) == before)

    for step in ("write", "put", "flush"):
        _observe(monkeypatch, stored.store, step, look)
    stored.store.move_to_history(LINE)
    look()
    assert all(looks) and len(looks) >= 4
    ranges = [(ROW_PREFIX + m.encode(), ROW_PREFIX + m.encode() + b"\xff") for m in METERS]
    assert reader.scan_each(ranges) == [list(reader.scan(*each)) for each in ranges]
    assert any(reader.scan_each(ranges))
    reader.close()


def test_a_reader_that_looks_only_before_and_after_sees_the_same(
    stored: StoredFold, tmp_path: Path
) -> None:
    """What names the files comes into a file itself between its looks."""
    path = tmp_path / "stores" / "readings" / NAME
    reader = StoreReader(path, tmp_path / "secondary", LAYOUT)
    assert reader.refresh()
    before = answers(reader, positions(stored))
    stored.store.move_to_history(LINE)
    assert reader.refresh()
    assert answers(reader, positions(stored)) == before
    assert reader._history is not None
    reader.close()


class _Watched:
    """RocksDB, and somebody who looks after each write of a kind."""

    def __init__(self, inner: object, step: str, look: Callable[..., None]) -> None:
        self._inner, self._step, self._look = inner, step, look

    def __getattr__(self, name: str) -> object:
        found = getattr(self._inner, name)
        if name != self._step:
            return found

        def call(*args: object) -> object:
            done = found(*args)
            self._inner.flush_wal(True)  # type: ignore[attr-defined]
            self._look()
            return done

        return call


def _observe(
    monkeypatch: pytest.MonkeyPatch, store: Store, step: str, look: Callable[..., None]
) -> None:
    monkeypatch.setattr(store, "_db", _Watched(store._db, step, look))


@pytest.mark.parametrize("step", ["put", "write", "flush"])
def test_killed_in_the_middle_it_is_whole(
    records: list[LogRecord], tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_fold(tmp_path / "stores" / "readings")
    made.catch_up(MemoryLog(*records))
    digest, before = made.store.digest(), answers(made.store, positions(made))

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    _observe(monkeypatch, made.store, step, kill)
    with pytest.raises(Killed):
        made.store.move_to_history(LINE)
    shutil.copytree(tmp_path / "stores", tmp_path / "after")
    made.store._db = made.store._db._inner  # type: ignore[attr-defined]
    made.close()
    again = open_fold(tmp_path / "after" / "readings")
    assert again.check(MemoryLog(*records)) == ""
    assert again.store.digest() == digest and answers(again.store, positions(again)) == before
    again.store.move_to_history(LINE)
    assert again.store.digest() == digest and answers(again.store, positions(again)) == before
    again.close()


def test_no_flipped_bit_is_taken_for_a_reading(stored: StoredFold, tmp_path: Path) -> None:
    """Sizes stay the same, and so does what a check of sizes alone says."""
    path = tmp_path / "stores" / "readings" / NAME
    before = answers(stored.store, positions(stored))
    stored.store.move_to_history(LINE)
    stored.close()
    (file,) = path.glob(f"*/{FOLDER}/*.parquet")
    whole, dice, noticed = file.read_bytes(), random.Random(3), 0
    for _ in range(60):
        place, bit = dice.randrange(len(whole)), 1 << dice.randrange(8)
        file.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        reader = StoreReader(path, tmp_path / "secondary", LAYOUT)
        try:
            readable = reader.refresh()
            said = answers(reader, positions(stored)) if readable else None
        except DamagedStore:
            said = None
        reader.close()
        (path / rocks.DAMAGE_MARK).unlink(missing_ok=True)
        assert said in (None, before)
        noticed += said is None
    assert noticed > 40
    file.write_bytes(whole)
    footer = len(history._footer(file))
    for place in dice.sample(range(len(whole) - footer, len(whole)), 40):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        reader = StoreReader(path, tmp_path / "secondary", LAYOUT)
        assert not reader.refresh(), "what says where everything lies was changed"
        reader.close()
        (path / rocks.DAMAGE_MARK).unlink(missing_ok=True)


def test_a_read_of_later_days_takes_no_file_apart(
    stored: StoredFold, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.store.move_to_history(LINE)
    looked: list[int] = []
    real = history._read

    def look(opened: Any, group: int, alike: dict[str, str]) -> Any:
        looked.append(group)
        return real(opened, group, alike)

    monkeypatch.setattr(history, "_read", look)
    later = Interval(datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 3, tzinfo=UTC))
    earlier = Interval(datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))
    readings_as_of(stored.store, METERS[0], "AI", later, 1_000)
    assert looked == []
    readings_as_of(stored.store, METERS[0], "AI", earlier, 1_000)
    assert 1 <= len(looked) <= 2  # what was recorded, and what was refused


def test_what_a_broken_off_move_left_is_in_nobodys_way(
    records: list[LogRecord], stored: StoredFold, tmp_path: Path
) -> None:
    digest = stored.store.digest()
    folder = tmp_path / "stores" / "readings" / NAME / "1" / FOLDER
    folder.mkdir()
    (folder / "0001-before-1.parquet").write_bytes(b"left behind")
    assert stored.store.move_to_history(LINE - 400) is not None
    assert stored.store.move_to_history(LINE) is not None
    named = {file.name for file in stored.store.history}
    assert named == {path.name for path in folder.iterdir()} and len(named) == 2
    assert stored.store.digest() == digest


def test_a_reader_of_a_life_that_is_over_harms_no_new_one(
    records: list[LogRecord], stored: StoredFold, tmp_path: Path
) -> None:
    path = tmp_path / "stores" / "readings" / NAME
    stored.store.move_to_history(LINE)
    reader = StoreReader(path, tmp_path / "secondary", LAYOUT)
    assert reader.refresh()
    stored.store.discard()
    with suppress(DamagedStore):
        reader.refresh()
        answers(reader, [10])
    assert not stored.store.is_damaged
    reader.close()


@pytest.mark.parametrize("harm", ["lost", "cut short", "folder lost"])
def test_a_store_whose_history_is_not_there_comes_back_from_the_log(
    records: list[LogRecord], stored: StoredFold, tmp_path: Path, harm: str
) -> None:
    path = tmp_path / "stores" / "readings" / NAME
    before = answers(stored.store, positions(stored))
    stored.store.move_to_history(LINE)
    reader = StoreReader(path, tmp_path / "secondary", LAYOUT)
    assert reader.refresh()
    stored.close()
    (file,) = path.glob(f"*/{FOLDER}/*.parquet")
    if harm == "cut short":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "lost":
        file.unlink()
    else:
        shutil.rmtree(file.parent)
    late = StoreReader(path, tmp_path / "late", LAYOUT)
    assert not late.refresh()
    again = open_fold(tmp_path / "stores" / "readings")
    assert again.next_offset == 0
    rebuild(again, MemoryLog(*records))
    assert answers(again.store, positions(again)) == before and again.store.history == ()
    again.close()
    reader.close()


def test_a_snapshot_holds_the_history_too(stored: StoredFold, tmp_path: Path) -> None:
    digest, before = stored.store.digest(), answers(stored.store, positions(stored))
    stored.store.move_to_history(LINE)
    stored.close()
    stores = tmp_path / "stores" / "readings"
    save(stores, "readings", tmp_path / "kept")
    shutil.rmtree(stores)
    restore(tmp_path / "kept", "readings", stores, LOG_ID)
    again = open_fold(stores)
    assert again.store.digest() == digest and answers(again.store, positions(again)) == before
    again.close()


def test_the_drift_watcher_reads_the_files_and_finds_an_edited_half_hour(
    records: list[LogRecord], stored: StoredFold, tmp_path: Path
) -> None:
    stored.store.move_to_history(LINE)
    log, layouts = MemoryLog(*records), {TOPIC: LAYOUT}
    watcher = DriftWatcher(tmp_path / "stores", tmp_path / "drift", LOG_ID, log, open_fold, layouts)
    assert [found.verdict for found in watcher.look()] == ["SAME"]
    (file,) = (tmp_path / "stores" / "readings" / NAME).glob(f"*/{FOLDER}/*.parquet")
    edited(file)
    # An editor who is thorough: the store says what the file is like now.
    (known,) = stored.store.history
    footer = sha256(history._footer(file)).digest()
    said = replace(known, size=file.stat().st_size, footer_sha256=footer)
    stored.store._db.put(HISTORY_ROW, TOOLS.pack((said,)))
    stored.store._db.flush_wal(True)
    (found,) = watcher.look()
    assert (found.verdict, found.differ) == ("ROWS_DIFFER", 1)
    watcher.close()


def edited(file: Path) -> None:
    """One half hour is 1 Wh more."""
    table = pq.read_table(file)
    flat = table["wh"].combine_chunks().flatten().to_numpy(zero_copy_only=False).copy()
    flat[0] += 1
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.int32()), 48)
    place = table.schema.get_field_index("wh")
    pq.write_table(table.set_column(place, table.schema.field(place), values), file)


def test_an_analyst_finds_meters_days_and_half_hours(stored: StoredFold, tmp_path: Path) -> None:
    moved = stored.store.move_to_history(LINE)
    (file,) = (tmp_path / "stores" / "readings" / NAME).glob(f"*/{FOLDER}/*.parquet")
    table = pq.read_table(file, filters=[("kind", "=", "recorded")])
    assert moved is not None and 0 < table.num_rows <= moved.rows
    days = table["day"].to_pylist()
    assert (min(days), max(days)) == (DAYS[0], DAYS[2])
    assert {len(values) for values in table["wh"].to_pylist()} == {48}
    footer = pq.read_schema(file).metadata
    assert footer[b"log_id"] == LOG_ID.hex().encode() and footer[b"topic"] == TOPIC.encode()
    assert int(footer[b"below_offset"]) == stored.next_offset
