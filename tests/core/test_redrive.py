"""What settles a quarantine looks at a fold in motion only where that moves."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from spine import redrive, trust
from spine.errors import NotFound
from spine.quarantine import Place
from spine.redrive import Redriver

KID = b"kid"


async def test_the_key_is_looked_up_where_records_are_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From another thread it might be kept as it was before a revocation that is just folded."""
    asked = list[threading.Thread]()
    read_in = list[threading.Thread]()

    def key(kid: bytes) -> None:
        assert kid == KID
        asked.append(threading.current_thread())

    def read_cases(*_: Any) -> dict[Place, Any]:
        read_in.append(threading.current_thread())
        return {}

    monkeypatch.setattr(redrive, "read_cases", read_cases)
    live = SimpleNamespace(stored=SimpleNamespace(fold=SimpleNamespace(key=key)))
    folds: Any = {(trust.QUARANTINE_TOPIC, 0): live}
    runtime: Any = SimpleNamespace(
        reader=lambda: SimpleNamespace(close=lambda: None), memory_fold=lambda *_: None
    )
    writer: Any = SimpleNamespace(signer=SimpleNamespace(kid=KID))
    with pytest.raises(NotFound):
        await Redriver(runtime, folds, writer)._case(Place(trust.METERING_TOPIC, 0, 1, 0))
    assert asked == [threading.current_thread()]
    assert read_in != asked
