"""What the fold is measured against: it writes as the fold does, and counts what was counted."""

import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from rocksdict import Options, Rdict

from loadtest import ceiling, peer_jobs
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


def test_cpu_of_a_meter_day_is_of_those_folded_while_it_was_counted() -> None:
    """The naive share is of all meter-days, also of those folded before the first look."""
    day = Day(rows=1_000, recorded=1_000, in_s=1, fold_rows=750, fold_s=1, fold_cpu_s=0.0075)
    day.resident["readings"] = 1
    figures = _result(1_000, day, Bare(1.0, 1_000, 1_000), []).figures
    assert figures["fold_cpu_us_per_meter_day"] == pytest.approx(10)
    assert day.fold_cpu_s / day.recorded * 1e6 == pytest.approx(7.5)
