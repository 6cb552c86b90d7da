"""What the fold is measured against: it writes as the fold does, and counts what was counted."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rocksdict import Options, Rdict

from loadtest import ceiling, gb_day, peer_jobs
from loadtest.ceiling import Bare
from loadtest.gb_day import Day, _result
from spine import rocks


def ours(folder: Path) -> Rdict:
    return rocks.open_as(folder, rocks.options(writes=True))


def peers(folder: Path) -> Rdict:
    db: Rdict = peer_jobs.opened(str(folder))
    return db


def by_default(folder: Path) -> Rdict:
    """The naive store that the fold was once compared with."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    return Rdict(str(folder), options=options)


def set_up(opened: Callable[[Path], Rdict], folder: Path) -> list[str]:
    """What RocksDB keeps of how a database was opened, but for where and by whom."""
    opened(folder).close()
    latest = max(folder.glob("OPTIONS-*"))
    ids = re.compile("^ *(db_session_id|wal_dir|db_log_dir|db_host_id)")
    return [line for line in latest.read_text().splitlines() if not ids.match(line)]


@pytest.mark.parametrize(("opened", "alike"), [(peers, True), (by_default, False)])
def test_the_peers_write_with_the_options_of_the_fold(
    opened: Callable[[Path], Rdict], alike: bool, tmp_path: Path
) -> None:
    assert (set_up(opened, tmp_path / "a") == set_up(ours, tmp_path / "b")) is alike


def test_the_loop_writes_with_the_options_of_the_fold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log, spine = Mock(), Mock()
    log.get_watermark_offsets.return_value = (0, 0)
    spine.runtime.partitions = 1
    monkeypatch.setattr(ceiling, "Consumer", lambda _: log)

    def looped(folder: Path) -> Rdict:
        ceiling.bare_loop(spine, folder)
        closed: Rdict = Mock()
        return closed

    assert set_up(looped, tmp_path / "a") == set_up(ours, tmp_path / "b")


def test_the_loop_has_the_cores_to_itself_as_the_fold_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The naive order runs it beside the coordinators, and flatters the fold."""
    spine = Mock(processes={"consumers": None, "governance": None, "metering": None})
    spine.resident.return_value = {"metering": 1}
    spine.stop.side_effect = lambda *names: [spine.processes.pop(name) for name in names]
    beside: list[list[str]] = []

    def loop(*_: object) -> Bare:
        beside.append(list(spine.processes))
        return Bare(1.0, 10, 10)

    async def ingest(*given: Any) -> None:
        day = given[3]
        day.rows = day.recorded = day.fold_rows = 10
        day.in_s = day.fold_s = day.fold_cpu_s = 1.0

    monkeypatch.setattr(gb_day, "installation", lambda *_: nullcontext(spine))
    monkeypatch.setattr(gb_day, "bare_loop", loop)
    monkeypatch.setattr(gb_day, "ingest", ingest)
    for name in ("load_registers", "fold", "check_stores", "size_of"):
        monkeypatch.setattr(gb_day, name, Mock(return_value=0))
    result = gb_day.run(100, tmp_path, Mock())
    assert beside == [[]]
    assert result.figures["ratio_to_ceiling"] == 1


def test_cpu_of_a_meter_day_is_of_those_folded_while_it_was_counted() -> None:
    """The naive share is of all meter-days, also of those folded before the first look."""
    day = Day(rows=1_000, recorded=1_000, in_s=1, fold_rows=750, fold_s=1, fold_cpu_s=0.0075)
    day.resident["readings"] = 1
    figures = _result(1_000, day, Bare(1.0, 1_000, 1_000)).figures
    assert figures["fold_cpu_us_per_meter_day"] == pytest.approx(10)
    assert day.fold_cpu_s / day.recorded * 1e6 == pytest.approx(7.5)
