"""Everything this process says in the log, it says through here: encoded, signed, appended."""

from __future__ import annotations

import time
from collections.abc import Callable

from spine import event
from spine.codec import Codec
from spine.event import Facts, LogRecord, RecordType
from spine.log import Appended, Appender
from spine.signing import Signer, signed_headers
from spine.telemetry import inject_traceparent

Clock = Callable[[], int]


def wall_clock_ms() -> int:
    """Milliseconds since 1970-01-01 UTC, by this machine's clock."""
    return time.time_ns() // 1_000_000


class LogWriter:
    """Appends values under one signing key, to the log of one log id.

    `source` is the CloudEvents source of facts. `clock` gives the producer time that is signed with
    each record; the broker's append time is what counts (rule 11).
    """

    def __init__(
        self,
        appender: Appender,
        signer: Signer,
        log_id: bytes,
        codec: Codec,
        source: str,
        clock: Clock = wall_clock_ms,
    ) -> None:
        self.signer, self.log_id, self.codec = signer, log_id, codec
        self._appender, self._source, self._clock = appender, source, clock

    async def write(
        self,
        record_type: RecordType,
        topic: str,
        partition: int,
        value: object,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Appended:
        """Append one record; Pushback(INDETERMINATE) if its fate is unknown."""
        record = self.sealed(record_type, topic, partition, value, key, headers)
        assert record.value is not None
        return await self._appender.append(topic, partition, key, record.headers, record.value)

    def sealed(
        self,
        record_type: RecordType,
        topic: str,
        partition: int,
        value: object,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> LogRecord:
        """The record as it would be appended; offset and append time are not yet known."""
        is_facts = isinstance(value, Facts)  # which this process folds itself
        framed = self.codec.encode_to_append(value) if is_facts else self.codec.encode(value)
        described = ((event.TYPE_HEADER, record_type.encode()), *headers)
        if isinstance(value, Facts) and value.commands:
            described += self._cloud_event(value)
        if (trace := inject_traceparent()) is not None:
            described += (("traceparent", trace),)
        signed = signed_headers(
            self.signer, self.log_id, topic, partition, key, described, framed, self._clock()
        )
        return LogRecord(topic, partition, -1, 0, key, signed, framed)

    def _cloud_event(self, facts: Facts) -> tuple[tuple[str, bytes], ...]:
        """CloudEvents 1.0, Kafka binary mode: the first command stands for the record."""
        first = facts.commands[0]
        alone = len(facts.commands) == 1 and len(first.facts) == 1
        ce_type = f"energyos.{first.facts[0].type if alone else 'spine.Facts'}"
        return (
            ("ce_specversion", b"1.0"),
            ("ce_id", first.id.hex().encode()),
            ("ce_type", ce_type.encode()),
            ("ce_source", self._source.encode()),
            ("ce_time", first.facts[0].occurred_at.isoformat().encode()),
        )
