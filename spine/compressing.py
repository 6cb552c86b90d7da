"""How records are compressed on their way to the log.

zstd at level 1 takes half the time of level 3, the library's own choice, and leaves about as many
bytes of columns of small numbers. What is already in the log is read as ever, whatever level wrote
it.
"""

from __future__ import annotations

from typing import Any, Final

from aiokafka import codec

LEVEL: Final = 1


def zstd() -> str:
    """The compression of a producer, by the name that aiokafka has for it.

    aiokafka takes no level, so that it is set for all producers of this process.
    """
    encode: Any = codec.zstd_encode
    encode.__defaults__ = (LEVEL,)
    return "zstd"
