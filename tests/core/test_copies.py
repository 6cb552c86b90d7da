"""What governance said has a copy in every partition, and is read once for all of them.

What a process remembers of a copy must never stand for another one: neither for one that somebody
edited in a single partition, nor for what a partition knows of keys. A memory that goes by less
than everything that was signed is tried beside it each time, and hides the edit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.consumers.decider import CONSUMERS
from domains.governance.decider import GOVERNANCE
from spine import trust
from spine.codec import Codec, tools
from spine.errors import Reason
from spine.event import NO_PREDECESSOR, GovernanceCopy, Header, LogRecord, RecordType
from spine.partition import PartitionFold
from spine.rows import Applied, Reading, Tools
from spine.signing import verify
from spine.store import MemoryRows
from tests.helpers.history import History, audit
from tests.helpers.records import (
    BEGUN,
    BY_CONSUMERS,
    BY_GOVERNANCE,
    CODEC,
    DOMAINS,
    LATE,
    LOG_ID,
    PARTITION,
    PARTITIONS,
    TOOLS,
    Home,
    PartitionLog,
    command,
    copy_of,
    started,
)

PARTY = "b"
Remembered = Callable[..., Any]


def admitted(name: str = "B") -> tuple[str, object]:
    return trust.party_subject(PARTY), trust.ParticipantAdmitted(name)


def forgetting(codec: Codec = CODEC) -> Tools:
    """Nothing is remembered: every copy is read as if it were the first."""
    lent = tools(codec, verify)
    return replace(lent, copied=Reading(lent.verify, lent.decode, lent.decode_event))


def remembering(verify: Remembered = TOOLS.verify, decode: Remembered = TOOLS.decode) -> Tools:
    return replace(TOOLS, copied=Reading(verify, decode, TOOLS.decode_event))


def by(function: Remembered, part: Callable[..., object]) -> Remembered:
    """Naive: remembers what came of it by no more than a part of what it was given."""
    known: dict[object, object] = {}

    def asked(*given: object) -> object:
        return known.setdefault(part(*given), function(*given))

    return asked


def fold_of(lent: Tools, log: PartitionLog) -> PartitionFold:
    fold = PartitionFold(
        log.topic, log.partition, LOG_ID, lent, MemoryRows(), CONSUMERS, GOVERNANCE
    )
    for record in log.records:
        fold.apply(record)
    return fold


def told(lent: Tools, log: PartitionLog, record: LogRecord) -> tuple[PartitionFold, Applied]:
    """A fold of that log, and what one more record does to it."""
    fold = fold_of(lent, log)
    return fold, fold.apply(record)


def honest_elsewhere(lent: Tools, home: Home, said: LogRecord) -> None:
    """Another partition of the same process is told of it first, by an honest copy."""
    log, _ = started(partition=0)
    fold, applied = told(lent, log, log.copy(said, home.records[2].offset))
    assert applied.applied == 1 and fold.participant(PARTY) is not None


# Once


def test_what_is_alike_in_all_partitions_is_read_once() -> None:
    asked: Counter[bytes] = Counter()

    def counting(public_key: bytes, message: bytes, signature: bytes) -> bool:
        asked[message] += 1
        return verify(public_key, message, signature)

    codec, decoded = Codec(CODEC.schemas, DOMAINS), Counter[bytes]()
    plain = codec._decode

    def counted(framed: bytes, *given: Any) -> object:
        decoded[framed] += 1
        return plain(framed, *given)

    codec._decode = counted  # type: ignore[method-assign, assignment]
    home = Home()
    home.policy_and_adviser()
    said = home.say(admitted())
    for partition in range(PARTITIONS):
        log, _ = started(partition=partition)
        again = replace(said, value=bytes(bytearray(said.value or b"")))  # as a broker gives it
        lent = tools(codec, counting)
        fold, applied = told(lent, log, log.copy(again, home.records[2].offset))
        assert applied.applied == 1 and fold.participant(PARTY) is not None
    carried = home.records[1:]
    assert sum(asked.values()) == PARTITIONS * (1 + len(carried)) + len(carried)
    more = [framed for framed, times in decoded.items() if times > 1]
    assert more == [started()[0].records[0].value]  # the opening, which is no copy


@pytest.mark.parametrize("topic", [trust.CONSUMER_LOG, trust.READINGS_TOPIC])
def test_a_fold_that_remembers_has_the_rows_of_one_that_does_not(topic: str) -> None:
    home = Home()
    home.policy_and_adviser()
    said = home.say(admitted())
    found = []
    for lent in (TOOLS, TOOLS, forgetting()):
        log, _ = started(topic)
        log.keep(log.copy(said, home.records[2].offset))
        found.append(list(fold_of(lent, log).rows.scan(b"", b"\xff\xff")))
    assert found[0] == found[1] == found[2]


def events() -> st.SearchStrategy[object]:
    granted = trust.AccreditationGranted("supplier", "REC", "1", (), BEGUN, None)
    return st.sampled_from(
        [
            trust.ParticipantAdmitted("B"),
            trust.ParticipantAdmitted("C"),
            granted,
            trust.ParticipantSuspended("late"),
            trust.SigningKeyRevoked("lost"),
            trust.EquivalenceTableAdopted(1, ()),
        ]
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("bcd"), events(), events(), st.booleans()), max_size=12))
def test_what_a_copy_comes_to_where_the_rows_differ_is_not_taken_from_elsewhere(
    said: list[tuple[str, object, object, bool]],
) -> None:
    """Two partitions that were told otherwise of some parties, and the same of others after it."""
    homes, last = (Home(), Home()), dict[str, int]()
    for home in homes:
        home.policy_and_adviser()
    for party, event, other, same in said:
        subject, previous = trust.party_subject(party), last.get(party, NO_PREDECESSOR)
        one = homes[0].say((subject, event), previous=previous)
        if same:
            homes[1].keep(one)
        else:
            homes[1].say((subject, other), previous=previous)
        last[party] = one.offset
    for partition, home in enumerate(homes):
        log, _ = started(partition=partition)
        for before, record in pairwise(home.records[2:]):
            log.keep(log.copy(record, before.offset))
        found = [fold_of(lent, log) for lent in (TOOLS, forgetting())]
        assert found[0].head == found[1].head
        parties = [[fold.participant(party) for party in "bcd"] for fold in found]
        assert parties[0] == parties[1]
        rows = [list(fold.rows.scan(b"", b"\xff\xff")) for fold in found]
        assert rows[0] == rows[1]


def test_what_a_copy_comes_to_is_worked_out_once() -> None:
    asked = list[object]()

    def evolve(state: Any, event: Any) -> Any:
        asked.append(event)
        return trust.evolve(state, event)

    home, governance = Home(), replace(GOVERNANCE, evolve=evolve)
    home.policy_and_adviser()
    said, lent = home.say(admitted()), tools(Codec(CODEC.schemas, DOMAINS), verify)
    found = []
    for partition in range(PARTITIONS):
        log, _ = started(partition=partition)
        log.keep(log.copy(said, home.records[2].offset))
        rows = MemoryRows()
        fold = PartitionFold(log.topic, partition, LOG_ID, lent, rows, CONSUMERS, governance)
        found.append([fold.apply(record).events for record in log.records])
    assert found.count(found[0]) == PARTITIONS
    assert asked == [event for events in found[0] for _, event in events]


# An edited copy


def edits() -> dict[str, Callable[[GovernanceCopy], GovernanceCopy]]:
    """What can be done to a copy, each by somebody who may sign copies but not home records."""

    def name(copy: GovernanceCopy) -> GovernanceCopy:
        return replace(copy, home_value=copy.home_value.replace(b"ParticipantA", b"ParticipantB"))

    def header(place: str, value: bytes) -> Callable[[GovernanceCopy], GovernanceCopy]:
        def edited(copy: GovernanceCopy) -> GovernanceCopy:
            headers = tuple(
                Header(h.name, value) if h.name == place else h for h in copy.home_headers
            )
            return replace(copy, home_headers=headers)

        return edited

    def last_letter(copy: GovernanceCopy) -> GovernanceCopy:
        value = copy.home_value  # two arrays end behind it
        return replace(copy, home_value=value[:-3] + b"C" + value[-2:])

    return {
        "what was said": last_letter,
        "which fact it was": name,
        "when it was said": header("pt", bytes(8)),
        "who says it": header("kid", BY_CONSUMERS.kid),
        "the signature": header("sig", bytes(64)),
        "a header more": lambda copy: replace(
            copy, home_headers=(Header("x", b""), *copy.home_headers)
        ),
        "the key": lambda copy: replace(copy, home_key=b"other"),
        "the partition": lambda copy: replace(copy, home_partition=1),
    }


NAIVE: dict[str, Callable[[], Tools]] = {
    "by signature": lambda: remembering(by(verify, lambda key, _, signature: (key, signature))),
    "by key": lambda: remembering(by(verify, lambda key, *_: key)),
}


@pytest.mark.parametrize("edit", edits())
def test_a_copy_edited_in_one_partition_is_refused_there(edit: str) -> None:
    home = Home()
    home.policy_and_adviser()
    said, seen = home.say(admitted()), home.records[2].offset
    for lent in (TOOLS, forgetting()):
        honest_elsewhere(lent, home, said)
        log, _ = started()
        edited = edits()[edit](copy_of(said, seen))
        assert edited != copy_of(said, seen)
        fold, applied = told(lent, log, log.build(RecordType.COPY, edited, BY_GOVERNANCE))
        (refusal,) = applied.refusals
        assert (refusal.outcome, refusal.reason) == ("quarantined", Reason.RECORD_BAD_SIGNATURE)
        assert fold.participant(PARTY) is None


@pytest.mark.parametrize("memory", NAIVE)
def test_a_memory_that_goes_by_less_than_what_was_signed_hides_the_edit(memory: str) -> None:
    home = Home()
    home.policy_and_adviser()
    said, seen = home.say(admitted()), home.records[2].offset
    lent = NAIVE[memory]()
    honest_elsewhere(lent, home, said)
    log, _ = started()
    edited = edits()["what was said"](copy_of(said, seen))
    fold, applied = told(lent, log, log.build(RecordType.COPY, edited, BY_GOVERNANCE))
    assert applied.applied == 1
    assert fold.participant(PARTY) == trust.Participant("C")  # nobody ever admitted it as that


def test_a_memory_of_values_that_goes_by_less_than_all_bytes_says_what_was_not_said() -> None:
    """The signature is right, and what is folded is another fact."""
    home = Home()
    home.policy_and_adviser()
    one = home.say(admitted())
    other = home.facts(command(*admitted("C"), domain=GOVERNANCE), by=BY_GOVERNANCE, keyed=False)
    assert len(other.value or b"") == len(one.value or b"")
    for lent, name in ((TOOLS, "C"), (remembering(decode=by(TOOLS.decode, len)), "B")):
        honest_elsewhere(lent, home, one)
        log, _ = started()
        fold, _ = told(lent, log, log.copy(other, home.records[2].offset))
        assert fold.participant(PARTY) == trust.Participant(name)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_byte_changed_in_a_copy_ends_as_if_nothing_were_remembered(data: st.DataObject) -> None:
    home = Home()
    home.policy_and_adviser()
    said, seen = home.say(admitted()), home.records[2].offset
    honest_elsewhere(TOOLS, home, said)
    log, _ = started()
    framed = bytearray(CODEC.encode(copy_of(said, seen)))
    at = data.draw(st.integers(0, len(framed) - 1))
    framed[at] ^= data.draw(st.integers(1, 255))
    record = log.build(RecordType.COPY, bytes(framed), BY_GOVERNANCE)
    ends = []
    for lent in (TOOLS, forgetting()):
        fold, applied = told(lent, log, record)
        ends.append((applied, list(fold.rows.scan(b"", b"\xff\xff"))))
    assert ends[0] == ends[1]


def test_an_audit_names_a_copy_that_was_edited_in_one_of_its_partitions() -> None:
    def lived() -> tuple[History, LogRecord]:
        history = History()
        history.govern(trust.party_subject("later"), trust.ParticipantAdmitted("Later Ltd"))
        told_here = history.log().records[-1]
        history.read()
        return history, told_here

    def edited(history: History, told_here: LogRecord) -> LogRecord:
        copy = CODEC.decode(told_here.value or b"")
        assert isinstance(copy, GovernanceCopy)
        other = edits()["what was said"](copy)
        return history.log().build(RecordType.COPY, other, BY_GOVERNANCE)

    def quarantined(history: History, lent: Tools) -> dict[tuple[str, int], int]:
        balances = audit(history.records(), tools=lent).report.balances
        return {(b.topic, b.partition): b.counts.quarantined for b in balances}

    history, told_here = lived()
    assert not any(quarantined(history, TOOLS).values())
    history.put_in_place_of(told_here, edited(history, told_here))
    found = quarantined(history, TOOLS)
    assert found.pop((trust.CONSUMER_LOG, PARTITION)) == 1 and not any(found.values())
    assert not any(quarantined(history, NAIVE["by signature"]()).values())


# What a partition knows of keys


@pytest.mark.parametrize("revoked", [False, True])
def test_a_copy_that_holds_elsewhere_does_not_where_its_key_does_not_count(revoked: bool) -> None:
    """Only the arithmetic is remembered: whose key it is, each partition looks up for itself."""
    home = Home()
    home.policy_and_adviser()
    authorised = trust.SigningKeyAuthorised(LATE.public_key, "governance", "governance")
    key = home.say((trust.key_subject(LATE.kid), authorised))
    said = home.say(admitted(), by=LATE)

    def partition(number: int, *before: LogRecord) -> tuple[PartitionLog, int]:
        log, _ = started(partition=number)
        previous = home.records[2].offset
        for record in before:
            log.keep(log.copy(record, previous))
            previous = record.offset
        return log, previous

    log, previous = partition(0, key)
    assert told(TOOLS, log, log.copy(said, previous))[1].applied == 1
    if revoked:
        gone = (trust.key_subject(LATE.kid), trust.SigningKeyRevoked("lost"))
        log, previous = partition(PARTITION, key, home.say(gone, previous=key.offset))
        said = replace(said, offset=previous + 1)  # sent late, of the same bytes and signature
        expected = ("void", Reason.VOID_SIGNER_REVOKED)
    else:
        log, previous = partition(PARTITION)
        expected = ("quarantined", Reason.RECORD_BAD_SIGNATURE)
    fold, applied = told(TOOLS, log, log.copy(said, previous))
    (refusal,) = applied.refusals
    assert (refusal.outcome, refusal.reason) == expected
    assert fold.participant(PARTY) is None
