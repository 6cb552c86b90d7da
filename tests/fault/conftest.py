"""One installation on one broker, for the faults that `make test` carries."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fault.installation import Faulty, installed, settle_meters
from tests.fault.race import Meter


@pytest.fixture(scope="package")
def seed() -> int:
    """What decides waits and faults of this run; `make fault` gives its own."""
    return int(os.environ.get("FAULT_SEED", "2026"))


@pytest.fixture(scope="package")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """Everything on one broker; the DSI reaches it through the proxy."""
    with installed(tmp_path_factory.mktemp("faulty"), 1) as installation:
        yield installation


@pytest.fixture(scope="package")
def meters(spine: Faulty, tmp_path_factory: pytest.TempPathFactory) -> list[Meter]:
    """Four meters with readings and occupiers."""
    return settle_meters(spine, 4, tmp_path_factory.mktemp("readings"))
