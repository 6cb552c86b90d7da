"""A process that has started looks less often for what only keeps itself alive, and still looks."""

from __future__ import annotations

import gc
from weakref import ref

from spine.collecting import THRESHOLDS, collect_less_often


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.own = self


def test_what_only_keeps_itself_alive_goes_all_the_same() -> None:
    before = gc.get_threshold()
    try:
        collect_less_often()
        assert gc.get_threshold() == THRESHOLDS
        assert gc.get_freeze_count() > 0
        node = ref(Node())
        kept = []
        for _ in range(2 * THRESHOLDS[0]):
            kept.append([object()])
            if node() is None:
                break
        assert node() is None
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
