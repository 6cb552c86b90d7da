"""Reads of consumers of their own records, as this process's folds decide them at their place.

A DSI server says where it logged the request and nothing else. Who asked, of which meter and for
which page, and whether it was permitted, is what the fold found when it reached that record: so no
seal is opened without a request that the ledger proves and the consumer sees (`ListReads`), for no
other server than the one that logged it, and once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from domains.consumers.personal import METHOD, Page, from_offset
from spine import trust
from spine.dsi.answering import personal_page
from spine.errors import NotPermitted, Reason
from spine.event import AccessRequest, AccessRequests, LogRecord, epoch_ms
from spine.live import LiveFold
from spine.policy import Permit, Role
from spine.rows import Applied, Decided
from spine.services import wire
from spine.view import Void

FOLD_S: Final = 1.0
# A permit lasts 2 s; the rest is for clocks that differ, as with the producer times of records.
FRESH_MS: Final = 7_000
KEPT_MAX: Final = 10_000
# Records that may hold own reads and were not fresh when they were folded: kept to say so.
LATE_MAX: Final = 1_000
_MARK: Final = METHOD.encode()
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OwnRead:
    """A permitted read: what it asks for, and who logged it when."""

    consumer_ref: str
    member: str
    below: int
    begin: int
    server: str
    append_ms: int


class LoggedReads:
    """The permitted ones of the last seconds, by partition, offset and entry."""

    def __init__(self, folds: Mapping[tuple[str, int], LiveFold]) -> None:
        """`folds`: at least those of the consumer log."""
        self._folds = {p: live for (topic, p), live in folds.items() if topic == trust.CONSUMER_LOG}
        self._kept: dict[tuple[int, int, int], OwnRead] = {}
        self._late: dict[tuple[int, int], int] = {}
        for live in self._folds.values():
            live.listeners.append(partial(self._on_record, live))

    async def take(self, place: Any, server: str) -> tuple[str, Page]:
        """The consumer who reads, and what is sealed there. `place`: the request's RecordRef.

        NotPermitted(NOT_PERMITTED)  that server logged no permitted read of an own record there, or
                                     it is over, or was taken before
        Pushback(FOLD_BEHIND)  the fold does not reach it
        """
        live = self._folds.get(place.partition)
        if place.topic == trust.CONSUMER_LOG and live is not None and place.offset >= 0:
            await live.passed(place.offset, FOLD_S)
            at = place.partition, place.offset, place.entry
            read = self._kept.get(at)
            if read is not None and read.server == server and _fresh(read.append_ms):
                del self._kept[at]
                rows = live.stored.fold.rows
                whose = read.consumer_ref
                return whose, personal_page(rows, read.member, read.below, whose, read.begin)
            self._say_if_late(at, read)
        message = "no permitted read of its own record by a consumer stands there for this server"
        raise NotPermitted(Reason.NOT_PERMITTED, message)

    def _say_if_late(self, at: tuple[int, int, int], read: OwnRead | None) -> None:
        """Say that the clocks differ, if that is why: who asks is told nothing of it, and whoever
        keeps this machine's clock has to know.
        """
        append_ms = self._late.get(at[:2]) if read is None else read.append_ms
        if append_ms is None or _fresh(append_ms):
            return
        partition, offset, _ = at
        _log.warning(
            "seals.not_fresh",
            partition=partition,
            offset=offset,
            ahead_ms=epoch_ms(wire.now()) - append_ms,
            at_most_ms=FRESH_MS,
        )

    def _on_record(self, live: LiveFold, record: LogRecord, applied: Applied) -> None:
        """The fold has reached a record: whatever it permits, it permits here.

        Few records hold such a read, and what is folded again at a start is over. Of a record that
        does, nothing else is judged: it may hold reads of thousands of meters.
        """
        if record.value is None or _MARK not in record.value:
            return
        if not _fresh(record.append_ms):
            self._late[record.partition, record.offset] = record.append_ms
            if len(self._late) > LATE_MAX:
                del self._late[next(iter(self._late))]
            return
        fold = live.stored.fold
        try:
            logged = fold.decoded(record.value)
        except Void:
            return
        if not isinstance(logged, AccessRequests):
            return
        asked = {each.request_id for each in logged.entries if _asks_for_own(each)}
        for each in fold.decide_access(record, asked) if asked else ():
            if (read := _own(each, logged, record)) is not None:
                self._kept[record.partition, record.offset, each.entry] = read
        while (first := next(iter(self._kept), None)) is not None:
            if len(self._kept) <= KEPT_MAX and _fresh(self._kept[first].append_ms):
                break
            del self._kept[first]


def _own(decided: Decided, logged: AccessRequests, record: LogRecord) -> OwnRead | None:
    """The read, if a consumer was permitted its own record, of positions that it could know."""
    request = decided.request
    if not _asks_for_own(request) or not isinstance(decided.decision, Permit):
        return None
    if not 0 <= request.vector < len(logged.vectors):
        return None
    here = (trust.CONSUMER_LOG, record.partition)
    vector = logged.vectors[request.vector]
    below = next((p.offset for p in vector if (p.topic, p.partition) == here), -1)
    if not 0 <= below <= record.offset:
        return None
    begin = from_offset(request.method) or 0
    named = request.party, decided.member, below, begin
    return OwnRead(*named, logged.server, record.append_ms)


def _asks_for_own(request: AccessRequest) -> bool:
    """Whether a consumer asks for its own record, of one meter."""
    known = from_offset(request.method) is not None
    return known and request.role == Role.CONSUMER and len(request.meters) == 1


def _fresh(append_ms: int) -> bool:
    return abs(epoch_ms(wire.now()) - append_ms) <= FRESH_MS
