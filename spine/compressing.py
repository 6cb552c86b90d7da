"""How records are compressed on their way to the log, and read again.

zstd at level 1 takes half the time of level 3, the library's own choice, and leaves about as many
bytes of columns of small numbers. What is already in the log is read as ever, whatever level wrote
it.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import zstandard
from aiokafka import codec
from kafka.codec import zstd_decode
from kafka.record import default_records

LEVEL: Final = 1


def zstd() -> str:
    """The compression of a producer, by the name that aiokafka has for it.

    aiokafka takes no level, so that it is set for all producers of this process.
    """
    encode: Any = codec.zstd_encode
    encode.__defaults__ = (LEVEL,)
    return "zstd"


class _OfThread(threading.local):
    """One for each thread, as none may be used by two at once."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_own = _OfThread()


def decoded(payload: bytes) -> bytes:
    """What was compressed, as kafka-python reads it, at a tenth of the work: that makes a new
    decompressor for each batch, with room for 128 kB of it at a time. Of what is not one whole
    frame the library decides.
    """
    frame = _own.decompressor.decompressobj()
    content: bytes = frame.decompress(payload)
    if frame.eof and not frame.unused_data:
        return content
    whole: bytes = zstd_decode(payload)
    return whole


def read_at_once() -> None:
    """Have kafka-python read batches so, in this process, from now on."""
    default_records.zstd_decode = decoded
