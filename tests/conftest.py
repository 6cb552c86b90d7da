"""What every test folder shares: one real broker per test run, started only when a test asks."""

from collections.abc import Iterator

import pytest

from spine.embedded import EmbeddedKafka


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """The run's broker; each test takes fresh topics on it, and none may stop or kill it."""
    with EmbeddedKafka(tmp_path_factory.mktemp("spine")) as broker:
        yield broker
