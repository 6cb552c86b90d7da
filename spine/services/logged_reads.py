"""Whether a consumer's read of its own record stands in the log, for who has the keys to believe.

A DSI server says where it logged the request. The record is read from the log and judged by this
process's own fold: so no seal is opened without a request that the ledger proves and the consumer
sees (`ListReads`), whatever server asks.
"""

from __future__ import annotations

from typing import Any, Final

from domains.consumers.personal import first_field
from spine import trust
from spine.errors import NotPermitted, Reason
from spine.event import LogRecord, epoch_ms
from spine.log import LogReader
from spine.log_thread import ReaderThread
from spine.policy import Permit, Role
from spine.rows import Decided
from spine.runtime import Process
from spine.services import wire

FOLD_S: Final = 1.0
# A permit lasts 2 s; the rest is for clocks that differ, as with the producer times of records.
FRESH_MS: Final = 7_000


class LoggedReads:
    """Reads as the process's folds of the consumer log have them."""

    def __init__(self, process: Process) -> None:
        assert process.folds is not None
        self._folds, self._reader = process.folds.folds, ReaderThread(process.runtime.kafka)
        process.on_end(self._reader.close)

    async def check(self, place: Any, consumer_ref: str) -> None:
        """`place`: the RecordRef of a request.

        NotPermitted(NOT_PERMITTED)  no permitted read of that consumer's own record stands there,
                                     or it is over
        Pushback(FOLD_BEHIND)  the fold does not reach it
        """
        live = self._folds.get((place.topic, place.partition))
        if place.topic == trust.CONSUMER_LOG and live is not None and place.offset >= 0:
            await live.passed(place.offset, FOLD_S)
            record = await self._reader.run(lambda log: _record_at(log, place))
            if record is not None and abs(epoch_ms(wire.now()) - record.append_ms) <= FRESH_MS:
                decided = live.stored.fold.decide_access(record)
                if any(d.entry == place.entry and _is_own(d, consumer_ref) for d in decided):
                    return
        message = "no permitted read of this consumer stands there, or it is over"
        raise NotPermitted(Reason.NOT_PERMITTED, message)


def _record_at(log: LogReader, place: Any) -> LogRecord | None:
    found = log.read(place.topic, place.partition, place.offset, place.offset + 1)
    return next(found, None)


def _is_own(decided: Decided, consumer_ref: str) -> bool:
    request = decided.request
    return (
        isinstance(decided.decision, Permit)
        and (request.role, request.party) == (Role.CONSUMER, consumer_ref)
        and first_field(request.method) is not None
    )
