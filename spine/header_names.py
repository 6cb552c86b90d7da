"""Header names that are not UTF-8, which Kafka takes from anybody and kafka-python chokes on.

One such record would stop every reader of its partition for ever. Here its name comes through with
the bytes that are no UTF-8 written out (`\\xff`); nobody signs such a name, so that the fold
quarantines the record. aiokafka, below Faust, cannot be taught this: where such a record is
delivered, the process stands still and is ended, and the next one reads past it from the log.
"""

from __future__ import annotations

from typing import Any

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch


class _AnyName(bytes):
    """The bytes of a header name, whatever they are."""

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _AnyNames:
    """The bytes of a batch, of which every slice decodes."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def __getitem__(self, part: Any) -> Any:
        found = self._whole[part]
        return found if isinstance(found, int) else _AnyName(found)


class _Batch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    """A batch of which every record can be read; the rare one costs a second look."""

    _pos: int
    _buffer: Any

    def _read_msg(self) -> Any:
        at = self._pos
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            whole, self._pos = self._buffer, at
            self._buffer = _AnyNames(whole)
            try:
                return super()._read_msg()
            finally:
                self._buffer = whole


def take_any() -> None:
    """Have kafka-python read header names of any bytes, in this process, from now on."""
    memory_records.DefaultRecordBatch = _Batch
