"""Who read a meter, by the ledger's register: what an audit finds, and to each only its own."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from domains.governance.decider import GOVERNANCE
from spine import trust
from spine.event import AccessRequests, LogRecord, RecordType
from spine.ledger.register import FOLDED, FORMAT_ROW, Read, ReadRegister, Viewer
from spine.murmur2 import murmur2_partition
from spine.policy import Category, MeterAccess, Role, Tenancy
from spine.replay import StoredFold
from tests.helpers.history import BY_TOPIC, History, audit, day
from tests.helpers.records import (
    CODEC,
    LOG_ID,
    METER,
    PARTITION,
    PARTITIONS,
    TOOLS,
    MemoryLog,
    granted,
    moved_in,
    revoked,
)

HERE = (f"{n:013d}" for n in count(1_000))
NEIGHBOUR = next(m for m in HERE if murmur2_partition(m.encode(), PARTITIONS) == PARTITION)


def open_fold(folder: Path, topic: str, partition: int) -> StoredFold:
    """A fold of the consumer log or the outcomes, on the disk."""
    return StoredFold(
        folder / f"{topic}-{partition}",
        topic,
        partition,
        LOG_ID,
        TOOLS,
        BY_TOPIC.get(topic),
        GOVERNANCE,
        CODEC.schemas.set_hash,
    )


@pytest.fixture
def history() -> History:
    """Reads permitted, of a set, refused, after a revocation, and one without an outcome."""
    made = History()
    made.facts(moved_in())
    made.facts(granted())
    made.readings()
    made.read()
    made.read(made.asked(meters=(METER, NEIGHBOUR)))
    made.read(made.asked(party="somebody-else"))
    made.facts(revoked())
    made.read()
    made.ask()
    return made


def register(folder: Path, records: Iterable[LogRecord], at_most: int = 1_000) -> ReadRegister:
    """A register that has read all of these."""
    made, log = ReadRegister(folder, open_fold, PARTITIONS), MemoryLog(*records)
    while made.catch_up(PARTITION, log, at_most):
        pass
    return made


def lines(made: ReadRegister) -> list[tuple[object, ...]]:
    """What it says of the meter, in the order of the log."""
    return [_line(made, read) for read in reversed(list(made.reads(PARTITION, METER)))]


def _line(made: ReadRegister, read: Read) -> tuple[object, ...]:
    outcome = made.outcome(PARTITION, read)
    request = read.request
    return (
        read.at,
        read.offset,
        read.entry,
        request.request_id,
        request.party,
        request.role,
        request.purpose,
        "PERMIT" if read.permitted else "REFUSE",
        read.refused,
        read.consent_id,
        outcome.release if outcome else "",
        outcome.rows if outcome else 0,
    )


def found_by_audit(records: Iterable[LogRecord]) -> list[tuple[object, ...]]:
    """The same of an audit."""
    found = audit(records).lines
    return [
        (
            line.at,
            line.offset,
            line.entry,
            line.request_id,
            line.party,
            line.role,
            line.purpose,
            line.decision,
            line.reason,
            line.consent_id,
            line.release,
            line.rows,
        )
        for line in sorted(found, key=lambda line: (line.offset, line.entry))
        if line.member == METER
    ]


def test_it_says_what_an_audit_finds(history: History, tmp_path: Path) -> None:
    made = register(tmp_path, history.records())
    assert lines(made) == found_by_audit(history.records())
    assert [line[7] for line in lines(made)] == ["PERMIT", "PERMIT", "REFUSE", "REFUSE", "REFUSE"]
    assert [read.meters for read in made.reads(PARTITION, METER)] == [1, 1, 1, 2, 1]
    (other,) = made.reads(PARTITION, NEIGHBOUR)
    assert not other.permitted and other.meters == 2
    made.close()


def test_who_asked_finds_its_own_requests_and_goes_on_from_any_of_them(
    history: History, tmp_path: Path
) -> None:
    made = register(tmp_path, history.records())
    whole = list(made.reads(PARTITION, METER))
    own = list(made.asked(PARTITION, METER, Role.DATA_USER, "adviser"))
    assert own == [read for read in whole if read.request.party == "adviser"]
    assert len(own) == len(whole) - 1
    for lines, ask in (
        (whole, lambda before: made.reads(PARTITION, METER, before)),
        (own, lambda before: made.asked(PARTITION, METER, Role.DATA_USER, "adviser", before)),
    ):
        for place, read in enumerate(lines):
            assert list(ask((read.offset, read.entry))) == lines[place + 1 :]
    assert list(made.asked(PARTITION, METER, Role.SUPPLIER, "adviser")) == []
    assert made.read(PARTITION, METER, -(2**63), -(2**31)) is None
    made.close()


def test_what_no_server_signed_is_no_read(history: History, tmp_path: Path) -> None:
    forged = history.ask(history.asked(party="framed-party"), by=None).record
    made = register(tmp_path, history.records())
    assert "framed-party" not in {read.request.party for read in made.reads(PARTITION, METER)}
    # Who lists whatever is an access record believes anybody who can write to the topic.
    value = CODEC.decode(forged.value or b"")
    assert forged.header("t") == RecordType.ACCESS.encode() and isinstance(value, AccessRequests)
    assert value.entries[0].party == "framed-party"
    made.close()


def test_however_far_it_has_read_it_goes_on_to_the_same(history: History, tmp_path: Path) -> None:
    whole = register(tmp_path / "whole", history.records())
    records = history.records()
    for end in (3, 7, len(records) - 1, len(records)):
        kept = [r for r in records if r.partition == PARTITION][:end]
        register(tmp_path / "parts", kept, at_most=1).close()
    parts = register(tmp_path / "parts", records, at_most=1)
    assert lines(parts) == lines(whole)
    for topic in (trust.CONSUMER_LOG, trust.OUTCOMES_TOPIC):
        digests = {made._folds[topic, PARTITION].store.digest() for made in (whole, parts)}
        assert len(digests) == 1
    parts.close()
    whole.close()


def test_a_damaged_register_comes_back_from_the_log(history: History, tmp_path: Path) -> None:
    made = register(tmp_path, history.records())
    before = lines(made)
    made._folds[trust.CONSUMER_LOG, PARTITION].store.mark_damaged()
    while made.catch_up(PARTITION, MemoryLog(*history.records()), 1_000):
        pass
    assert lines(made) == before
    made.close()


# Who may see which line


def access(*tenancies: tuple[str, int, int | None]) -> MeterAccess:
    """Who lived there from which month of 2025 to which."""
    return MeterAccess(
        tenancies=tuple(
            Tenancy(f"t-{ref}", ref, day(start, 1), None if end is None else day(end, 1))
            for ref, start, end in tenancies
        )
    )


def test_each_sees_what_was_asked_of_its_own_time(history: History) -> None:
    lived = access(("anna", 1, 4), ("ben", 4, None))
    of_march = history.asked(interval_from=day(3, 1), interval_to=day(3, 2))
    of_may = history.asked(interval_from=day(5, 1), interval_to=day(5, 2))
    over_both = history.asked(interval_from=day(3, 1), interval_to=day(5, 2))
    seen = {
        ref: [Viewer(Role.CONSUMER, ref, lived).may_see(r) for r in (of_march, of_may, over_both)]
        for ref in ("anna", "ben", "carol")
    }
    assert seen == {
        "anna": [True, False, True],
        "ben": [False, True, True],
        "carol": [False, False, False],
    }

    def naive(ref: str, request: object) -> bool:
        """Whoever lives there now sees all: so ben learns what anna was asked."""
        return lived.tenancies[-1].consumer_ref == ref

    assert naive("ben", of_march)


def test_who_lived_there_before_stays_unseen_by_who_lives_there_now(history: History) -> None:
    """What is asked "of now" by and about a former occupier lies in the present one's time."""
    lived = access(("anna", 1, 4), ("ben", 4, None))
    ben = Viewer(Role.CONSUMER, "ben", lived)
    now: dict[str, Any] = {"interval_from": day(5, 1), "interval_to": day(5, 2)}
    own = history.asked(role=Role.CONSUMER, party="anna", category=Category.CONSENTS, **now)
    asked = history.asked(category=Category.CONSENTS, **now)
    assert not ben.may_see(own) and not ben.may_see(asked)
    assert Viewer(Role.CONSUMER, "anna", lived).may_see(own)
    # By the time alone, ben would be told who anna is and what she asked.
    assert ben.may_see(history.asked(**now))


def test_a_consent_is_named_to_whom_it_is_of(history: History) -> None:
    lived = history.folds[trust.CONSUMER_LOG].subject(METER).state
    (consent,) = lived.consents
    for role, party, knows in (
        (Role.CONSUMER, consent.consumer_ref, True),
        (Role.DATA_USER, consent.data_user, True),
        (Role.AUDITOR, "auditor", True),
        (Role.CONSUMER, "ben", False),
        (Role.DATA_USER, "somebody-else", False),
    ):
        viewer = Viewer(role, party, lived)
        assert viewer.may_know(consent.consent_id) is knows
        assert viewer.may_know("")


def test_of_outcomes_that_contradict_each_other_disclosure_is_presumed(tmp_path: Path) -> None:
    made = History()
    made.facts(moved_in())
    made.facts(granted())
    made.readings()
    for order in (("NOT_RELEASED", "RELEASED"), ("RELEASED", "NOT_RELEASED")):
        read = made.ask()
        for release in order:
            made.tell(made.outcome(read.record, read.decided[0], release=release))
    kept = register(tmp_path, made.records())
    said = [kept.outcome(PARTITION, read) for read in kept.reads(PARTITION, METER)]
    assert [outcome.release for outcome in said if outcome] == ["RELEASED", "RELEASED"]
    kept.close()


def test_rows_of_another_shape_are_folded_again(history: History, tmp_path: Path) -> None:
    made = register(tmp_path, history.records())
    before = lines(made)
    fold = made._folds[trust.CONSUMER_LOG, PARTITION]
    fold.store.put(FORMAT_ROW, b"0")
    position = fold.store.position()
    assert position is not None
    fold.store.commit(position)
    made.close()
    again = ReadRegister(tmp_path, open_fold, PARTITIONS)
    assert again.next_offset(trust.CONSUMER_LOG, PARTITION) == 0
    again.close()
    later = register(tmp_path, history.records())
    assert lines(later) == before
    later.close()


def test_a_reader_that_fails_midway_leaves_no_trace(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = history.records()
    whole = register(tmp_path / "whole", records)
    made, log = ReadRegister(tmp_path / "parts", open_fold, PARTITIONS), MemoryLog(*records)
    real = made._on_access
    seen: list[object] = []

    def failing(*args: Any) -> None:
        real(*args)
        seen.append(args)
        if len(seen) == 9:
            raise OSError("a disk that is full")

    monkeypatch.setattr(made, "_on_access", failing)
    with pytest.raises(OSError, match="full"):
        made.catch_up(PARTITION, log, 1_000)
    while made.catch_up(PARTITION, log, 1_000):
        pass
    assert lines(made) == lines(whole)
    stores = [one._folds[trust.CONSUMER_LOG, PARTITION].store for one in (made, whole)]
    assert stores[0].digest() == stores[1].digest()
    made.close()
    whole.close()


def test_it_says_how_many_records_are_left(history: History, tmp_path: Path) -> None:
    records = history.records()
    ends = [sum(r.topic == topic and r.partition == PARTITION for r in records) for topic in FOLDED]
    made, log = ReadRegister(tmp_path, open_fold, PARTITIONS), MemoryLog(*records)
    said = [made.catch_up(PARTITION, log, 3) for _ in range(max(ends))]
    assert said == [sum(max(0, end - 3 * turn) for end in ends) for turn in range(1, len(said) + 1)]
    assert said[0] > 0 and said[-1] == 0
    made.close()


class ByOffsets(ReadRegister):
    """Naive: takes so many offsets at a time, whether or not they hold a record."""

    def catch_up(self, partition: int, reader: Any, at_most: int) -> int:
        left = 0
        for topic in FOLDED:
            fold, end = self._folds[topic, partition], reader.bounds(topic, partition)[1]
            target = min(end, fold.next_offset + at_most)
            fold.catch_up(reader, target)
            left += end - target
        return left


@pytest.mark.parametrize(("kind", "ends"), [(ReadRegister, True), (ByOffsets, False)])
def test_offsets_without_records_are_passed_over(
    history: History, tmp_path: Path, kind: type[ReadRegister], ends: bool
) -> None:
    """As a transaction that was aborted leaves them: more of them than it takes at a time."""
    log = MemoryLog(*history.records())
    for _ in range(20):
        log.leave_hole(trust.CONSUMER_LOG, PARTITION)
    made = kind(tmp_path, open_fold, PARTITIONS)
    said = [made.catch_up(PARTITION, log, 10) for _ in range(10)]
    assert (said[-1] == 0) is ends
    assert made.behind(PARTITION, log) == 20, "by offsets alone nobody knows better"


def test_a_reader_sees_its_own_requests_in_the_role_that_it_has(history: History) -> None:
    mine = history.asked(party="adviser", role=Role.DATA_USER)
    nobody = access()
    assert Viewer(Role.DATA_USER, "adviser", nobody).may_see(mine)
    assert not Viewer(Role.SUPPLIER, "adviser", nobody).may_see(mine)
    assert not Viewer(Role.DATA_USER, "somebody-else", nobody).may_see(mine)
    assert not Viewer(Role.CONSUMER, "adviser", nobody).may_see(mine)
    assert Viewer(Role.AUDITOR, "auditor", nobody).may_see(mine)
    assert not Viewer(Role.GOVERNANCE, "board", nobody).may_see(mine)


def test_who_moved_out_on_the_day_it_moved_in_lived_there_never(history: History) -> None:
    lived = access(("anna", 3, 3))
    of_march = history.asked(interval_from=day(3, 1), interval_to=day(3, 2))
    assert not Viewer(Role.CONSUMER, "anna", lived).may_see(of_march)
