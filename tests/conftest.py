"""What every test folder shares: one real broker per test run, started only when a test asks.

A fold that fails ends its process. Here it fails the test that it happened in, and says why.

Python looks for objects that only keep each other alive as often as a process of the spine does,
and not among what a run has loaded: two fifths of its processor time went there.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator

import pytest
from hypothesis import settings

from spine import fold
from spine.collecting import collect_less_often
from spine.embedded import EmbeddedKafka

# How long an example takes says what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_failures: list[BaseException] = []

gc.disable()


def pytest_collection_finish() -> None:
    """All tests are loaded."""
    collect_less_often()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_exit() -> Iterator[None]:
    """Folds of this process do not end it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "_exit", _failures.append)
        yield


@pytest.fixture(autouse=True)
def _folds_hold(_no_exit: None) -> Iterator[None]:
    """No fold failed during the test."""
    _failures.clear()
    yield
    told = ["".join(traceback.format_exception(failure)) for failure in _failures]
    assert not told, "a fold failed:\n" + "\n".join(told)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """The run's broker; each test takes fresh topics on it, and none may stop or kill it."""
    with EmbeddedKafka(tmp_path_factory.mktemp("spine")) as broker:
        yield broker
