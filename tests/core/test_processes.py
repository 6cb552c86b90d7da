"""How a process is run, whichever it is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from spine import cli
from spine.collecting import collecting_nothing, collecting_seldom
from spine.config import Settings
from spine.console import processes


@pytest.fixture
def thawed() -> Iterator[None]:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()
    if frozen:
        gc.collect()
        gc.freeze()


@pytest.mark.usefixtures("thawed")
def test_what_a_process_has_loaded_at_its_start_is_looked_through_by_no_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(*_: Any, **__: Any) -> None: ...

    for name in ("set_up_logging", "set_up_telemetry", "runtime"):
        monkeypatch.setattr(processes, name, nothing)
    monkeypatch.setattr(processes, "settings", Settings)
    loaded: list[object] = []
    seen: list[bool] = []

    class Served:
        async def until_signalled(self) -> None:
            later: list[object] = []
            seen.append(any(one is later for one in gc.get_objects()))
            seen.append(any(one is loaded[0] for one in gc.get_objects()))

    async def start(_: Any) -> Any:
        loaded.append([])
        return Served()

    processes.run_process("dsi", start)
    assert seen == [True, False]


@pytest.mark.usefixtures("thawed")
def test_nothing_is_collected_while_a_command_is_loaded_and_again_when_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []

    def load(_: str | None) -> Any:
        seen.append(gc.isenabled())
        return lambda: seen.append(gc.isenabled())

    monkeypatch.setattr(cli, "command_line", load)
    cli.main()
    assert seen == [False, True]


@pytest.mark.usefixtures("thawed")
def test_what_fails_to_load_leaves_collecting_on() -> None:
    with pytest.raises(ImportError), collecting_nothing():
        raise ImportError
    assert gc.isenabled()


def test_who_folds_a_log_collects_seldom_and_as_before_when_that_ends() -> None:
    before = gc.get_threshold()
    with pytest.raises(LookupError), collecting_seldom():
        assert gc.isenabled() and gc.get_threshold()[0] > before[0]
        raise LookupError
    assert gc.get_threshold() == before
