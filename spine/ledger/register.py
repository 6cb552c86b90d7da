"""Who read which meter: an index of every decision in the log, kept beside the ledger.

It is folded from the consumer log and from what was recorded of its decisions, by the same pure
folds as everywhere, so that a line of it is what a server had to decide there, and what nobody
validly signed is no line. Its rows stand in the stores of these folds, in one batch with their
positions: the index may be deleted at any time and comes back from the log. Blocking; one user.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from spine import trust
from spine.answer import Release
from spine.event import (
    TYPE_HEADER,
    AccessOutcomes,
    AccessRequest,
    AccessRequests,
    DataPosition,
    LogRecord,
    RecordType,
    from_epoch_ms,
)
from spine.policy import Category, MeterAccess, Permit, Role, Tenancy
from spine.replay import RangeReader, StoredFold
from spine.rows import Applied, Decided

READ_PREFIX: Final = b"a/"
ASKED_PREFIX: Final = b"p/"
OUTCOME_PREFIX: Final = b"o/"
CONSUMER_PREFIX: Final = b"m/"
# Rows of another shape are folded again: one more whenever theirs changes.
FORMAT_ROW: Final = b"\x00register"
FORMAT: Final = b"1"
FOLDED: Final = (trust.CONSUMER_LOG, trust.OUTCOMES_TOPIC)
_PLACE: Final = struct.Struct(">qi")
LATEST: Final = (1 << 62, 0)
# Reads lie with the latest first, as they are asked for.
_BACKWARDS: Final = struct.Struct(">QI")
_FIRST_OF_ALL: Final = 1 << 63

OpenFold = Callable[[Path, str, int], StoredFold]


@dataclass(frozen=True, slots=True)
class Read:
    """One decision on one meter: who asked for what, and what was decided there.

    `request` names this meter alone; `meters` is how many it named. `at` is the append time,
    `positions` how far the data was looked at, `disclosed` what the caller was told of `refused`.
    """

    offset: int
    entry: int
    at: datetime
    request: AccessRequest
    meters: int
    positions: tuple[DataPosition, ...]
    permitted: bool
    refused: str
    disclosed: str
    consent_id: str
    consent_version: int
    policy_version: int

    @classmethod
    def of(cls, record: LogRecord, value: AccessRequests, decided: Decided) -> Read:
        """The line of one decision made at that record, which holds that value."""
        request, decision = decided.request, decided.decision
        permit = decision if isinstance(decision, Permit) else None
        refusal = None if isinstance(decision, Permit) else decision
        return cls(
            record.offset,
            decided.entry,
            from_epoch_ms(record.append_ms),
            request if len(request.meters) == 1 else replace(request, meters=(decided.member,)),
            len(request.meters),
            value.vectors[request.vector] if 0 <= request.vector < len(value.vectors) else (),
            permit is not None,
            str(refusal.reason) if refusal else "",
            str(refusal.disclosed) if refusal else "",
            permit.consent_id if permit else "",
            permit.consent_version if permit else 0,
            decided.policy_version,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was recorded of a decision, and the offset at which.

    The first record counts, but for one that says that something was released: if two contradict
    each other, which no honest server does, disclosure is presumed.
    """

    offset: int
    release: str
    rows: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who wants to see lines of one meter, whose access is known."""

    role: str
    party: str
    access: MeterAccess

    @property
    def is_concerned(self) -> bool:
        """Whether lines of others may be its to see."""
        return self.role == Role.AUDITOR or bool(self._stays)

    @property
    def _stays(self) -> list[Tenancy]:
        """When it lived there; nobody but a consumer lives anywhere."""
        own = (t for t in self.access.tenancies if t.consumer_ref == self.party)
        return list(own) if self.role == Role.CONSUMER else []

    def may_know(self, consent_id: str) -> bool:
        """Whether the consent is its own, given or held, or nobody's."""
        if not consent_id or self.role == Role.AUDITOR:
            return True
        named = (c for c in self.access.consents if c.consent_id == consent_id)
        return any(self.party in (c.consumer_ref, c.data_user) for c in named)

    def asked(self, request: AccessRequest) -> bool:
        """Whether the request was its own, in the role that it has now."""
        return (request.role, request.party) == (self.role, self.party)

    def may_see(self, request: AccessRequest) -> bool:
        """An auditor sees every line, and whoever asked its own.

        A consumer sees what was asked of times at which it lived there. Who lived there before and
        after it is somebody else: what was asked of their time is for them to see, and so is what
        they asked themselves, and who asked for consents, which are those of whoever gave them.
        """
        if self.role == Role.AUDITOR:
            return True
        if request.role == Role.CONSUMER or request.category == Category.CONSENTS:
            return self.asked(request)
        begin, end = request.interval_from, request.interval_to
        return self.asked(request) or any(
            stay.effective_from < end and (stay.effective_to is None or begin < stay.effective_to)
            for stay in self._stays
        )


@dataclass(frozen=True, slots=True)
class _Some:
    """A reader that gives so many records at most, however many offsets lie between them."""

    reader: RangeReader
    at_most: int

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset, and the one after the last."""
        return self.reader.bounds(topic, partition)

    def read(
        self, topic: str, partition: int, start: int, end: int | None = None
    ) -> Iterator[LogRecord]:
        """The first of the records with start <= offset < end."""
        return islice(self.reader.read(topic, partition, start, end), self.at_most)


class ReadRegister:
    """The index of one log. `catch_up` first; then ask."""

    def __init__(self, folder: Path, open_fold: OpenFold, partitions: int) -> None:
        self._open = partial(open_fold, folder)
        self._folds = {
            (topic, p): self._opened(topic, p) for topic in FOLDED for p in range(partitions)
        }
        self._checked: set[tuple[str, int]] = set()

    def catch_up(self, partition: int, reader: RangeReader, at_most: int) -> int:
        """Take in what the log says more of a partition, so many records of each topic.

        Returns how many there are yet at most, for some offsets hold no record; those that came
        meanwhile are left out.
        """
        left = 0
        for topic, listen in (
            (trust.CONSUMER_LOG, self._on_access),
            (trust.OUTCOMES_TOPIC, self._on_outcomes),
        ):
            end = reader.bounds(topic, partition)[1]
            fold = self._sound(topic, partition, reader, end)
            some = _Some(reader, at_most)
            try:
                taken = fold.catch_up(some, end, on_record=partial(listen, fold))
            except BaseException:  # what was folded and not committed is folded again
                self._reopen(topic, partition)
                raise
            left += end - fold.next_offset if taken == at_most else 0
        return left

    def behind(self, partition: int, reader: RangeReader) -> int:
        """How many records it has yet to take in at most, by where it has read up to."""
        ends = {topic: reader.bounds(topic, partition)[1] for topic in FOLDED}
        return sum(max(0, end - self.next_offset(t, partition)) for t, end in ends.items())

    def next_offset(self, topic: str, partition: int) -> int:
        """Up to where it has read."""
        return self._folds[topic, partition].next_offset

    def meters_of(self, partition: int, consumer_ref: str) -> list[str]:
        """The meters of a partition at which the consumer lives or lived, by their numbers."""
        begin = _consumer_row(consumer_ref, "")
        store = self._folds[trust.CONSUMER_LOG, partition].store
        named = (key[len(begin) :].decode() for key, _ in store.scan(begin, begin + b"\xff"))
        return [
            mpxn
            for mpxn in named
            if any(t.consumer_ref == consumer_ref for t in self.access(partition, mpxn).tenancies)
        ]

    def access(self, partition: int, mpxn: str) -> MeterAccess:
        """What is known of the meter's access now."""
        state = self._folds[trust.CONSUMER_LOG, partition].fold.subject(mpxn).state
        assert isinstance(state, MeterAccess)
        return state

    def reads(self, partition: int, mpxn: str, before: tuple[int, int] = LATEST) -> Iterator[Read]:
        """The decisions on a meter below that offset and entry, the latest first."""
        store = self._folds[trust.CONSUMER_LOG, partition].store
        for _, row in store.scan(*_below(_reads_of(mpxn), before)):
            yield self._unpacked(partition, row)

    def asked(
        self, partition: int, mpxn: str, role: str, party: str, before: tuple[int, int] = LATEST
    ) -> Iterator[Read]:
        """Those of them that this party asked for in that role."""
        store, own = self._folds[trust.CONSUMER_LOG, partition].store, _asked_by(mpxn, role, party)
        for key, _ in store.scan(*_below(own, before)):
            row = store.get(_reads_of(mpxn) + key[len(own) :])
            assert row is not None
            yield self._unpacked(partition, row)

    def read(self, partition: int, mpxn: str, offset: int, entry: int) -> Read | None:
        """One of them."""
        if offset < 0 or entry < 0:
            return None
        key = _reads_of(mpxn) + _backwards(offset, entry)
        row = self._folds[trust.CONSUMER_LOG, partition].store.get(key)
        return None if row is None else self._unpacked(partition, row)

    def outcome(self, partition: int, read: Read) -> Outcome | None:
        """What was recorded of a decision; None if nothing was."""
        fold = self._folds[trust.OUTCOMES_TOPIC, partition]
        (member,) = read.request.meters
        row = fold.store.get(_outcome_row(read.request.request_id, member, read.offset, read.entry))
        found: Outcome | None = None if row is None else fold.fold.tools.unpack(row, Outcome)
        return found

    def _sound(self, topic: str, partition: int, reader: RangeReader, end: int) -> StoredFold:
        """The fold, checked against the log, and begun anew if its store proved damaged."""
        place = (topic, partition)
        if self._folds[place].store.is_damaged or end < self._folds[place].next_offset:
            self._reopen(*place)
        if place not in self._checked:
            self._folds[place].check(reader)
            if self._folds[place].next_offset == 0:
                self._folds[place].store.put(FORMAT_ROW, FORMAT)
            self._checked.add(place)
        return self._folds[place]

    def _reopen(self, topic: str, partition: int) -> None:
        self._checked.discard((topic, partition))
        self._folds[topic, partition].close()
        self._folds[topic, partition] = self._opened(topic, partition)

    def _opened(self, topic: str, partition: int) -> StoredFold:
        """The fold over its store, emptied if its rows were written by another version of this."""
        fold = self._open(topic, partition)
        if fold.next_offset and fold.store.get(FORMAT_ROW) != FORMAT:
            fold.store.mark_damaged()
            fold.close()
            fold = self._open(topic, partition)
        return fold

    def close(self) -> None:
        """Let go of the stores."""
        for fold in self._folds.values():
            fold.close()

    def _unpacked(self, partition: int, row: bytes) -> Read:
        read: Read = self._folds[trust.CONSUMER_LOG, partition].fold.tools.unpack(row, Read)
        return read

    def _on_access(self, fold: StoredFold, record: LogRecord, applied: Applied) -> None:
        for subject, event in applied.events:
            if consumer_ref := getattr(event, "consumer_ref", ""):
                fold.store.put(_consumer_row(consumer_ref, subject), b"")
        if not applied.access:
            return
        tools = fold.fold.tools
        decisions = fold.fold.decide_access(record)
        value = tools.decode(record.value or b"") if decisions else None
        for decided in decisions:
            assert isinstance(value, AccessRequests)
            place, request = _backwards(record.offset, decided.entry), decided.request
            row = tools.pack(Read.of(record, value, decided))
            fold.store.put(_reads_of(decided.member) + place, row)
            fold.store.put(_asked_by(decided.member, request.role, request.party) + place, b"")

    def _on_outcomes(self, fold: StoredFold, record: LogRecord, applied: Applied) -> None:
        if not applied.applied or record.header(TYPE_HEADER) != RecordType.OUTCOMES.encode():
            return
        value = fold.fold.tools.decode(record.value or b"")
        assert isinstance(value, AccessOutcomes)
        for outcome in value.entries:
            place = (outcome.decided_offset, outcome.decided_entry)
            key = _outcome_row(outcome.request_id, outcome.member, *place)
            known = fold.store.get(key)
            if outcome.decided_partition != value.partition:
                continue
            if known is None or outcome.release == Release.RELEASED:
                said = Outcome(record.offset, outcome.release, outcome.rows, outcome.digest)
                fold.store.put(key, fold.fold.tools.pack(said))


def _reads_of(mpxn: str) -> bytes:
    return READ_PREFIX + mpxn.encode() + b"\x00"


def _asked_by(mpxn: str, role: str, party: str) -> bytes:
    return ASKED_PREFIX + f"{mpxn}\x00{role}/{party}\x00".encode()


def _backwards(offset: int, entry: int) -> bytes:
    return _BACKWARDS.pack(_FIRST_OF_ALL - offset, (1 << 31) - entry)


def _below(prefix: bytes, place: tuple[int, int]) -> tuple[bytes, bytes]:
    """The range of keys under a prefix of all that stands below that place in the log."""
    return prefix + _backwards(*place) + b"\x00", prefix + b"\xff" * _BACKWARDS.size


def _consumer_row(consumer_ref: str, mpxn: str) -> bytes:
    return CONSUMER_PREFIX + consumer_ref.encode() + b"\x00" + mpxn.encode()


def _outcome_row(request_id: bytes, member: str, offset: int, entry: int) -> bytes:
    return OUTCOME_PREFIX + request_id + member.encode() + b"\x00" + _PLACE.pack(offset, entry)
