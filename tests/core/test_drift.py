"""A served store that parts from the log is found and named, whatever it says of itself."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from spine import trust
from spine.domain import HistoryLayout
from spine.drift import EVIDENCE, Compared, DriftWatcher
from spine.errors import Pushback
from spine.replay import BUILD_ROW, StoredFold
from spine.rocks import DAMAGE_MARK
from spine.rows import HEAD_ROW, SUBJECT_PREFIX
from spine.store import POSITION_ROW
from tests.helpers.records import LOG_ID, METER, NEIGHBOUR, PARTITION, TOOLS, MemoryLog
from tests.helpers.stories import consumers_story

STORY = consumers_story()
LOG = MemoryLog(*STORY)
NAME = f"{trust.CONSUMER_LOG}-{PARTITION}"
METER_ROW = SUBJECT_PREFIX + METER.encode()
NEIGHBOUR_ROW = SUBJECT_PREFIX + NEIGHBOUR.encode()
MUTATIONS = 25
NO_HISTORY: dict[str, HistoryLayout] = {}
Open = Callable[[str], StoredFold]


def open_fold(path: Path, topic: str, partition: int) -> StoredFold:
    folder = path / f"{topic}-{partition}"
    return StoredFold(folder, topic, partition, LOG_ID, TOOLS, CONSUMERS, GOVERNANCE, b"schemas")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Open]:
    """Opens the store of a process, as the process does that serves it."""
    folds: list[StoredFold] = []

    def opened(process: str) -> StoredFold:
        folds.append(open_fold(tmp_path / "stores" / process, trust.CONSUMER_LOG, PARTITION))
        return folds[-1]

    yield opened
    for fold in folds:
        fold.close()


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[DriftWatcher]:
    made = DriftWatcher(tmp_path / "stores", tmp_path / "drift", LOG_ID, LOG, open_fold, NO_HISTORY)
    yield made
    made.close()


def behind_its_back(fold: StoredFold, *rows: tuple[bytes, bytes]) -> None:
    """Write rows as a fold does, checksums and all, under the position the store stands at."""
    position = fold.store.position()
    assert position is not None
    for key, value in rows:
        fold.store.put(key, value)
    fold.store.commit(position)


def verdicts(found: list[Compared]) -> dict[str, str]:
    return {compared.process: compared.verdict for compared in found}


def naive(fold: StoredFold) -> bool:
    """What believes the store: its position is in the log, and every row can be read."""
    rows = list(fold.store.scan(b"", b"\xff\xff"))
    return fold.check(LOG) == "" and fold.next_offset == len(STORY) and bool(rows)


def test_a_row_edited_behind_the_logs_back_is_found_and_named(
    served: Open, watcher: DriftWatcher, tmp_path: Path
) -> None:
    dsi = served("dsi")
    dsi.catch_up(LOG)
    assert verdicts(watcher.look()) == {"dsi": "SAME"}
    true_row, other = dsi.store.get(METER_ROW), dsi.store.get(NEIGHBOUR_ROW)
    assert true_row is not None and other is not None
    behind_its_back(dsi, (METER_ROW, other))
    assert naive(dsi), "who trusts the store finds nothing"
    with capture_logs() as lines:
        (compared,) = watcher.look()
    assert (compared.process, compared.topic, compared.partition, compared.offset) == (
        "dsi",
        trust.CONSUMER_LOG,
        PARTITION,
        len(STORY) - 1,
    )
    (difference,) = compared.first
    assert (difference.key, difference.served, difference.replayed) == (METER_ROW, other, true_row)
    (alarm,) = [line for line in lines if line["event"] == "drift.alarm"]
    assert (alarm["kind"], alarm["rows"], alarm["evidence"]) == (
        "ROWS_DIFFER",
        1,
        compared.evidence,
    )
    assert METER not in str(alarm)
    kept = json.loads((tmp_path / "drift" / EVIDENCE / compared.evidence).read_text())
    assert kept["first"] == [
        {"key": METER_ROW.hex(), "served": other.hex(), "replayed": true_row.hex()}
    ]


def test_an_alarm_is_raised_once_and_again_after_it_was_mended(
    served: Open, watcher: DriftWatcher
) -> None:
    dsi = served("dsi")
    dsi.catch_up(LOG)
    true_row = dsi.store.get(METER_ROW)
    assert true_row is not None
    said = []
    for row in (b"\x90", b"\x90", true_row, b"\x90"):
        behind_its_back(dsi, (METER_ROW, row))
        with capture_logs() as lines:
            watcher.look()
        said.append(len([line for line in lines if line["event"] == "drift.alarm"]))
    assert said == [1, 0, 0, 1]


def test_rows_that_are_missing_or_too_many_are_found(served: Open, watcher: DriftWatcher) -> None:
    dsi = served("dsi")
    dsi.catch_up(LOG)
    behind_its_back(dsi, (b"s/9", b"planted"), (b"\x01", b"first of all"))
    dsi.store._db.delete(METER_ROW)
    (compared,) = watcher.look()
    assert [(d.key, d.served is None, d.replayed is None) for d in compared.first] == [
        (b"\x01", False, True),
        (METER_ROW, True, False),
        (b"s/9", False, True),
    ]


def test_whatever_is_done_to_rows_at_random_is_found_and_named(
    served: Open, watcher: DriftWatcher
) -> None:
    dsi, dice = served("dsi"), random.Random(7)
    dsi.catch_up(LOG)
    true_rows = dict(dsi.store.scan(b"", POSITION_ROW))
    for _ in range(MUTATIONS):
        harmed: dict[bytes, bytes | None] = {}
        for _ in range(dice.randint(1, 4)):
            key = dice.choice([k for k in true_rows if k != BUILD_ROW])
            row = bytearray(true_rows[key])
            match dice.randrange(4):
                case 0:
                    harmed[key] = None
                case 1:
                    harmed[key + dice.randbytes(2)] = bytes(row)
                case 2:
                    harmed[key] = bytes(row) + dice.randbytes(1)
                case _:
                    row[dice.randrange(len(row))] ^= dice.randint(1, 255)
                    harmed[key] = bytes(row)
        for key, value in harmed.items():
            if value is None:
                dsi.store._db.delete(key)
            else:
                behind_its_back(dsi, (key, value))
        (compared,) = watcher.look()
        assert compared.verdict == "ROWS_DIFFER"
        assert {d.key: d.served for d in compared.first} == harmed
        for key in harmed:
            dsi.store._db.delete(key)
            if key in true_rows:
                behind_its_back(dsi, (key, true_rows[key]))
        assert verdicts(watcher.look()) == {"dsi": "SAME"}


def test_a_store_that_says_it_has_come_further_than_its_rows_is_found(
    served: Open, watcher: DriftWatcher
) -> None:
    """A position may be edited too: one that the log has no record for, or one that it has."""
    dsi, again, other = (served(process) for process in ("dsi", "dsi-2", "dsi-3"))
    for stored in (dsi, again, other):
        stored.catch_up(LOG, end=len(STORY) - 3)
    position, last = dsi.store.position(), STORY[-1]
    assert position is not None
    dsi.store.commit(replace(position, offset=len(STORY)))
    again.store.commit(replace(position, offset=last.offset, record_digest=last.digest()))
    other.store.commit(replace(position, record_digest=last.digest()))
    assert verdicts(watcher.look()) == {
        "dsi": "POSITION_DIFFERS",
        "dsi-2": "ROWS_DIFFER",
        "dsi-3": "POSITION_DIFFERS",
    }


def test_a_store_that_stands_before_the_first_record_does_not_end_the_look(
    served: Open, watcher: DriftWatcher
) -> None:
    dsi, other = served("dsi"), served("dsi-2")
    dsi.catch_up(LOG)
    other.catch_up(LOG)
    position = dsi.store.position()
    assert position is not None
    dsi.store.commit(replace(position, offset=-1))

    assert verdicts(watcher.look()) == {"dsi": "POSITION_DIFFERS", "dsi-2": "SAME"}


def test_stores_that_move_are_compared_where_each_stands(
    served: Open, watcher: DriftWatcher
) -> None:
    """Two processes at different places; one that is folded again is let catch up."""
    one, two = served("dsi"), served("dsi-2")
    for end, behind, expected in ((4, 2, "SAME"), (6, 4, "SAME"), (8, 5, "NOT_COMPARED")):
        one.catch_up(LOG, end=end)
        two.catch_up(LOG, end=behind)
        assert verdicts(watcher.look()) == {"dsi": "SAME", "dsi-2": expected}
    one.store.discard()
    assert verdicts(watcher.look()) == {"dsi": "NOT_COMPARED", "dsi-2": "NOT_COMPARED"}
    two.catch_up(LOG)
    assert verdicts(watcher.look()) == {"dsi": "NOT_COMPARED", "dsi-2": "SAME"}


def test_the_build_that_began_a_store_is_no_difference(served: Open, watcher: DriftWatcher) -> None:
    dsi = served("dsi")
    dsi.catch_up(LOG)
    behind_its_back(dsi, (BUILD_ROW, b"of an earlier schema set"))
    assert verdicts(watcher.look()) == {"dsi": "SAME"}
    behind_its_back(dsi, (HEAD_ROW, b"\x90"))
    assert verdicts(watcher.look()) == {"dsi": "ROWS_DIFFER"}


def test_a_store_that_cannot_be_read_is_left_to_its_process(
    served: Open, watcher: DriftWatcher, tmp_path: Path
) -> None:
    dsi = served("dsi")
    dsi.catch_up(LOG)
    broken = tmp_path / "stores" / "dsi-2" / NAME
    shutil.copytree(dsi.store.path, broken)
    (broken / "1" / "CURRENT").unlink()
    assert verdicts(watcher.look()) == {"dsi": "SAME", "dsi-2": "NOT_COMPARED"}
    assert not (broken / DAMAGE_MARK).exists()


def test_one_watcher_at_a_time_begins_with_the_log_alone(
    served: Open, watcher: DriftWatcher, tmp_path: Path
) -> None:
    dsi = served("dsi")
    dsi.catch_up(LOG)
    arguments = tmp_path / "stores", tmp_path / "drift", LOG_ID, LOG, open_fold, NO_HISTORY
    with pytest.raises(Pushback):
        DriftWatcher(*arguments)
    watcher.look()
    watcher.close()
    kept = open_fold(tmp_path / "drift" / "replayed", trust.CONSUMER_LOG, PARTITION)
    behind_its_back(kept, (METER_ROW, b"what an earlier watcher left"))
    kept.close()
    later = DriftWatcher(*arguments)
    assert verdicts(later.look()) == {"dsi": "SAME"}
    later.close()
