"""How often a process of the spine looks for objects that only keep each other alive.

Python looks after every few hundred new objects that outlive their makers, and a server makes and
keeps many that refer to nothing of the kind. What was made while a process started (160,000
objects) lives as long as it does and is not looked at again: every caller would have to wait
meanwhile. Nor is it looked at while it is made: a third of a command's processor time went there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# New objects before a look at the newest, such looks before one at the younger, and those before
# one at all.
THRESHOLDS: Final = (10_000, 20, 10)
THRESHOLDS_IN_BULK: Final = (1_000_000, 20, 10)


@contextmanager
def collecting_nothing() -> Iterator[None]:
    """While modules load, which let go of one object in a hundred; later less often, and nothing of
    what was loaded.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.enable()


def collect_less_often() -> None:
    """From here on; once a process, when it has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """While a log is folded and thrown away: what is made lives until then, or is let go of at
    once.
    """
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS_IN_BULK)
    try:
        yield
    finally:
        gc.set_threshold(*before)
