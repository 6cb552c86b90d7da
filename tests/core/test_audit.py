"""The auditor: an honest log is the same again, and whatever was changed afterwards has a name.

No broker: the log stands in memory, signed as on a real one. Where a lesser auditor would miss a
change, the test shows that too.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from domains.consumers.decider import CONSUMERS
from domains.consumers.events import ConsentRevoked
from domains.metering.events import MeteringPointRegistered
from spine import merkle, trust
from spine.answer import Release
from spine.audit_report import AuditReport, Selection
from spine.errors import Reason
from spine.event import (
    ENTRIES_ROOT_HEADER,
    NO_PREDECESSOR,
    TYPE_HEADER,
    AccessOutcome,
    AccessOutcomes,
    AccessRequests,
    DataPosition,
    LogRecord,
    RecordType,
    SignerRole,
    from_epoch_ms,
)
from spine.ledger.entries import RecordLeaf
from spine.log import LogUnfit
from spine.partition import PartitionFold
from spine.policy import Category
from spine.rows import UnknownSchema
from spine.verdict import Verdict
from tests.helpers.history import BY_TOPIC, History, Read, audit, day
from tests.helpers.records import (
    BEGUN,
    BY_CONSUMERS,
    BY_DSI,
    BY_METERING,
    CODEC,
    ELSEWHERE,
    METER,
    NEIGHBOUR,
    PARTITION,
    STRANGER,
    TOOLS,
    MemoryLog,
    granted,
    moved_in,
    revoked,
)
from tests.helpers.samples import readings_batch
from tests.helpers.stories import UNKNOWN_ID, unknown_fact

SAME, DIFFERENT = Verdict.SAME, Verdict.DIFFERENT
UNCONFIRMED, CANNOT_TELL = Verdict.UNCONFIRMED, Verdict.CANNOT_TELL
DIGEST = "the answer rebuilt has another digest"
LOST = "permitted, no outcome: presume that it was disclosed"
REGISTERED = MeteringPointRegistered("ELECTRICITY", "_K", "IMPORT", "AI", day(1, 1), BEGUN)


def lived() -> History:
    """A meter with an occupier, a consent and a day of readings."""
    history = History()
    history.facts(REGISTERED)
    history.facts(moved_in(), granted())
    history.readings()
    return history


# An honest log


def test_whatever_was_served_is_the_same_again() -> None:
    history = lived()
    history.ask(vector=())  # asked, and the server died: the one line that is not SAME
    history.read()
    history.read(history.asked(category=Category.METERING_POINT))
    history.read(history.asked(category=Category.CONSENTS), vector=())
    history.read(history.asked(), history.asked(NEIGHBOUR), history.asked(party="stranger"))
    history.read(replace(history.asked(), meters=(METER, NEIGHBOUR, ELSEWHERE)))
    history.read(history.asked(interval_from=day(6, 1), interval_to=day(9, 1)))
    before = history.positions(trust.READINGS_TOPIC)
    history.readings(first_wh=900)
    history.read(vector=before)  # as known before the correction
    history.read()
    withheld: dict[str, Any] = {
        "release": Release.NOT_RELEASED,
        "release_reason": str(Reason.CLIENT_GONE),
        "rows": 0,
        "digest": bytes(32),
        "absent": (),
    }
    history.read(**withheld)
    for number in range(3):
        history.read(history.asked(method="StreamReadings"), chunk=number)
    history.facts(revoked())
    again = history.read()
    history.tell(*again.outcomes)  # its append was repeated
    history.ask(replace(history.asked(), meters=()), by=BY_DSI)  # decides on nobody
    done = audit(history.records(), on_disk=True)
    assert done == audit(history.records())
    assert done.found == [(UNCONFIRMED, LOST)]
    assert done.verdicts == {SAME: 17, UNCONFIRMED: 1}
    assert done.report.ok and done.report.inadmissible == 0
    reasons = {line.reason for line in done.lines}
    assert {"", Reason.METER_UNKNOWN, Reason.PARTICIPANT_UNKNOWN, Reason.CONSENT_REVOKED} <= reasons
    assert [line.why for line in done.lines if line.release == Release.NOT_RELEASED] == [
        Reason.CLIENT_GONE
    ]


def test_the_balance_of_every_partition_is_in_the_report() -> None:
    history = lived()
    history.read()
    again = history.keep(history.log().opening())
    history.read()
    history.drop(again)
    report = audit(history.records()).report
    assert len(report.balances) == 20
    assert all(balance.counts.balanced for balance in report.balances)
    (here,) = [
        b for b in report.balances if (b.topic, b.partition) == (trust.CONSUMER_LOG, PARTITION)
    ]
    assert (here.next_offset, here.holes, here.counts.access) == (7, 1, 2)


def test_a_probe_of_a_server_is_no_request() -> None:
    history = lived()
    history.keep(probe(history))
    assert audit(history.records()).verdicts == {}


def probe(history: History) -> LogRecord:
    value = AccessRequests(trust.CONSUMER_LOG, PARTITION, "dsi-1", bytes(32), (), ())
    headers = ((ENTRIES_ROOT_HEADER, merkle.salted_root(bytes(32), [])),)
    return history.log().build(RecordType.ACCESS, value, BY_DSI, headers=headers)


def test_progress_rises_to_the_end_of_the_log() -> None:
    history = lived()
    for _ in range(300):
        history.ask()
    seen: list[tuple[int, int]] = []
    audit(history.records(), progress=lambda done, total: seen.append((done, total)))
    assert len({total for _, total in seen}) == 1
    assert all(before[0] <= after[0] for before, after in pairwise(seen))
    assert seen[-1][0] == seen[-1][1] == len(history.records())
    assert len(seen) > 16, "a long partition shows progress on the way"


# Outcomes that do not fit: each claim is signed by the DSI's own key


def claim(refused: bool = False, **changes: Any) -> Callable[[History], object]:
    """A read whose outcome says something else than what was decided."""

    def happen(history: History) -> object:
        if refused:
            history.facts(revoked())
        return history.read(**changes)

    return happen


RELEASED: dict[str, Any] = {"decision": "PERMIT", "reason": "", "release": Release.RELEASED}
REFUSED: dict[str, Any] = {
    "decision": "REFUSE",
    "release": Release.REFUSED,
    "consent_id": "",
    "consent_version": 0,
    "rows": 0,
    "digest": bytes(32),
    "absent": (),
}


def contradicted(history: History) -> None:
    read = history.read()
    history.tell(replace(read.outcomes[0], chunk=7))


def unknown_request(history: History) -> None:
    read = history.read()
    history.tell(replace(read.outcomes[0], request_id=bytes(16)))


ELSEWHERE_NAMED = "an outcome without a decision: it names another place than that of the decision"

CLAIMS: dict[str, tuple[Callable[[History], object], str]] = {
    "digest edited": (claim(digest=b"\x01" * 32), DIGEST),
    "rows edited": (claim(rows=3), "the answer rebuilt has other rows"),
    "absent half hours left out": (claim(absent=()), "the answer rebuilt has other rows"),
    "a refused read released": (claim(True, **RELEASED), "RELEASED although it had to be refused"),
    "released and refused at once": (claim(True, release="RELEASED"), "is no outcome of REFUSE"),
    "refused with rows": (claim(True, rows=48), "REFUSED, and yet with rows"),
    "refused for another reason": (claim(True, reason="NO_CONSENT"), "again, recorded"),
    "a permitted read refused": (
        claim(**REFUSED, reason="NO_CONSENT"),
        "again, recorded",
    ),
    "under another consent": (claim(consent_id="consent-9"), "again, recorded"),
    "under another version of it": (claim(consent_version=2), "again, recorded"),
    "by another policy": (claim(policy_version=9), "judged by policy 1, recorded 9"),
    "withheld without a reason": (
        claim(release=Release.NOT_RELEASED, rows=0, digest=bytes(32), absent=()),
        "no reason recorded",
    ),
    "a release nobody knows": (claim(release="LENT"), "LENT is no outcome of PERMIT"),
    "two outcomes": (contradicted, "contradict each other"),
    "an outcome of no request": (unknown_request, "names a decision that the log does not hold"),
    "another offset": (claim(decided_offset=2), ELSEWHERE_NAMED),
    "another entry": (claim(decided_entry=1), ELSEWHERE_NAMED),
    "another partition": (claim(decided_partition=0), ELSEWHERE_NAMED),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_false_outcome_is_found_and_named(name: str) -> None:
    happen, why = CLAIMS[name]
    history = lived()
    history.read()
    happen(history)
    done = audit(history.records())
    assert not done.report.ok
    (found,) = [said for verdict, said in done.found if verdict == DIFFERENT]
    assert why in found


@pytest.mark.parametrize("name", ["another offset", "another entry", "another partition"])
def test_a_permit_whose_outcome_stands_elsewhere_counts_as_disclosed(name: str) -> None:
    history = lived()
    CLAIMS[name][0](history)
    (found,) = [why for verdict, why in audit(history.records()).found if verdict == UNCONFIRMED]
    assert found == f"{LOST}; the outcome of this request names another place"


class TrustsOutcomes(PartitionFold):
    """Naive: whoever can write the topic is believed."""

    def verified_role(self, record: LogRecord) -> SignerRole:
        return SignerRole.DSI


@pytest.mark.parametrize("by", [None, STRANGER, BY_CONSUMERS], ids=["nobody", "stranger", "role"])
def test_an_outcome_that_no_dsi_signed_confirms_nothing(by: Any) -> None:
    history = lived()
    read = history.ask()
    history.tell(history.outcome(read.record, read.decided[0]), by=by)
    assert audit(history.records()).found == [(UNCONFIRMED, LOST)]
    naive = audit(history.records(), outcomes_fold=TrustsOutcomes)
    assert naive.verdicts == {SAME: 1}, "a naive audit takes the forger's word"


def test_what_has_no_outcome_is_unconfirmed_and_no_difference() -> None:
    history = lived()
    permitted = history.read()
    history.facts(revoked())
    refused = history.read()
    told = history.log(trust.OUTCOMES_TOPIC).records[-2:]
    assert [len(read.outcomes) for read in (permitted, refused)] == [1, 1]
    for record in told:
        history.drop(record)
    done = audit(history.records())
    assert done.found == [(UNCONFIRMED, LOST), (UNCONFIRMED, "refused, no outcome")]
    assert done.report.ok


# A log that was changed


def batch_dropped(history: History, read: Read) -> None:
    history.drop(history.log(trust.READINGS_TOPIC).records[4])


def batch_edited(history: History, read: Read) -> None:
    log = history.log(trust.READINGS_TOPIC)
    value = replace(readings_batch(METER, PARTITION, 777), batch_id=b"edited" + bytes(10))
    edited = log.build(RecordType.READINGS, value, BY_METERING)
    history.put_in_place_of(log.records[4], edited)


def batches_swapped(history: History, read: Read) -> None:
    history.swap(*history.log(trust.READINGS_TOPIC).records[3:5])


def grant_dropped(history: History, read: Read) -> None:
    history.drop(history.log().records[3])


def grant_back_dated(history: History, read: Read) -> None:
    records = history.log().records
    value = CODEC.decode(records[3].value or b"")
    (one,) = value.commands  # type: ignore[attr-defined]
    earlier = structs.replace(granted(), history_from=day(6, 1))
    facts = (one.facts[0], structs.replace(one.facts[1], body=CODEC.encode(earlier)))
    made = history.log().facts(structs.replace(one, facts=facts))
    history.put_in_place_of(records[3], made)


CHANGES: dict[str, tuple[Callable[[History, Read], None], str, bool]] = {
    "a batch of readings dropped": (batch_dropped, DIGEST, True),
    "a batch of readings edited": (batch_edited, DIGEST, True),
    "two batches swapped": (batches_swapped, DIGEST, True),
    "the grant dropped": (grant_dropped, "although it had to be refused", False),
    "the grant back-dated": (grant_back_dated, DIGEST, True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_log_is_found_and_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, why, in_the_answer = CHANGES[name]
    history = History()
    history.facts(moved_in(), structs.replace(granted(), history_from=day(6, 1, 12)))
    history.readings()
    history.readings(first_wh=300)
    read = history.read()
    history.keep(history.log(trust.READINGS_TOPIC).opening())  # the log goes on
    change(history, read)
    ((verdict, said),) = audit(history.records()).found
    assert verdict == DIFFERENT
    assert why in said
    monkeypatch.setattr("spine.audit_pass.answered_otherwise", lambda *_: "")
    naive = audit(history.records()).verdicts
    assert (naive == {SAME: 1}) is in_the_answer, "comparing decisions alone misses an answer"


@pytest.mark.parametrize("raised", [False, True])
def test_a_reducer_that_was_changed_is_found_and_named(
    raised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build whose consent outlives its revocation, judging what an honest build decided."""
    history = lived()
    history.read()
    history.facts(revoked())
    history.read()

    def forgetful(state: Any, event: object) -> Any:
        return state if isinstance(event, ConsentRevoked) else CONSUMERS.evolve(state, event)

    version = CONSUMERS.version + raised
    changed = replace(CONSUMERS, evolve=forgetful, version=version)
    monkeypatch.setitem(BY_TOPIC, trust.CONSUMER_LOG, changed)
    done = audit(history.records())
    if raised:  # it says that it is another; so what an earlier one decided is not its to judge
        assert {verdict for verdict, _ in done.found} == {CANNOT_TELL}
        why = "reducer version 1 of consumers.events.v1 is not at hand"
        assert {said for _, said in done.found} == {why}
        return
    assert done.verdicts == {SAME: 1, DIFFERENT: 1}
    ((_, why),) = done.found
    assert why == (
        "decided ('PERMIT', '', 'consent-1', 1) again, "
        "recorded ('REFUSE', 'CONSENT_REVOKED', '', 0)"
    )
    monkeypatch.setattr("spine.audit_pass.decided_otherwise", lambda *_: "")
    assert audit(history.records()).verdicts == {SAME: 2}, "an auditor that believes the records"


EXPLAINED: dict[str, str] = {
    "a batch of readings dropped": "(offset 4 is missing)",
    "a batch of readings edited": "no state of metering.readings.v1-3 gives it",
    "two batches swapped": "no state of metering.readings.v1-3 gives it",
    "the grant dropped": "(offset 3 is missing)",
    "the grant back-dated": "no state of metering.readings.v1-3 gives it",
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_done_to_the_log_is_named_where_it_left_a_trace(name: str) -> None:
    history = History()
    history.facts(moved_in(), structs.replace(granted(), history_from=day(6, 1, 12)))
    history.readings()
    history.readings(first_wh=300)
    read = history.read()
    history.keep(history.log(trust.READINGS_TOPIC).opening())
    CHANGES[name][0](history, read)
    (line,) = audit(history.records()).report.findings
    assert EXPLAINED[name] in line.explained


def test_a_record_edited_without_the_key_is_named_by_its_place() -> None:
    history = lived()
    grant = history.log().records[3]
    history.read()
    history.put_in_place_of(grant, replace(grant, value=(grant.value or b"")[:-1] + b"x"))
    (line,) = audit(history.records()).report.findings
    assert line.verdict == DIFFERENT
    assert "consumers.events.v1-3@3 (quarantined, RECORD_BAD_SIGNATURE)" in line.explained


def test_a_server_that_was_behind_a_revocation_is_told_which() -> None:
    """What a server without the fence records: the decision of the state before."""
    history = lived()
    before = history.read()
    revocation = history.facts(revoked())
    history.facts(granted("consent-2"))
    late = history.ask()
    (honest,) = before.outcomes
    (decided,) = late.decided
    stale = replace(
        honest, request_id=decided.request.request_id, decided_offset=late.record.offset
    )
    history.tell(stale)
    (line,) = audit(history.records()).report.findings
    assert line.explained == (
        f"it is the decision before {trust.CONSUMER_LOG}-{PARTITION}@{revocation.offset} "
        "(ConsentRevoked)"
    )


def test_a_server_that_was_ahead_of_its_place_is_told_by_what() -> None:
    history = History()
    history.facts(moved_in())
    early = history.ask()
    grant = history.facts(granted())
    (ahead,) = history.read().outcomes
    (decided,) = early.decided
    history.tell(
        replace(ahead, request_id=decided.request.request_id, decided_offset=early.record.offset)
    )
    (line,) = audit(history.records()).report.findings
    assert line.explained == (
        f"it is the decision after {trust.CONSUMER_LOG}-{PARTITION}@{grant.offset} (ConsentGranted)"
    )


@pytest.mark.parametrize("late", [False, True])
def test_an_answer_of_another_position_is_told_by_the_batch_between(late: bool) -> None:
    history = lived()
    earlier = history.positions(trust.READINGS_TOPIC, trust.METERING_TOPIC)
    (before,) = history.read().outcomes
    correction = history.readings(first_wh=500)
    (after,) = history.read().outcomes
    read = history.ask(vector=earlier) if late else history.ask()
    (honest,) = (history.outcome(read.record, each) for each in read.decided)
    history.tell(replace(honest, digest=(after if late else before).digest))
    (line,) = audit(history.records()).report.findings
    side = "after" if late else "before"
    place = f"{trust.READINGS_TOPIC}-{PARTITION}@{correction.offset}"
    assert line.explained == f"it is the answer {side} {place}"


def test_only_what_was_selected_is_judged_and_all_of_it() -> None:
    history = lived()
    history.facts(moved_in(), granted(), subject=NEIGHBOUR)
    first, second = history.read(), history.read(history.asked(party="stranger"))
    third = history.read(history.asked(NEIGHBOUR))
    history.tell(replace(first.outcomes[0], request_id=bytes(16)))

    def judged(**chosen: Any) -> list[int]:
        lines = audit(history.records(), selection=Selection(**chosen)).lines
        return [line.offset for line in lines]

    everything = [read.record.offset for read in (first, second, third)] + [first.record.offset]
    assert judged() == everything
    assert judged(party="stranger") == [second.record.offset]
    assert judged(member=NEIGHBOUR) == [third.record.offset]
    assert judged(request_id=third.decided[0].request.request_id) == [third.record.offset]
    assert judged(place=(PARTITION, second.record.offset, None)) == [second.record.offset]
    assert judged(place=(PARTITION, second.record.offset, 1)) == []
    since = from_epoch_ms(third.record.append_ms)
    assert judged(since=since) == [third.record.offset]
    assert judged(place=(PARTITION, first.record.offset, 0)) == [first.record.offset] * 2


def test_a_revocation_dropped_is_found_in_the_refusal_after_it() -> None:
    history = lived()
    revocation = history.facts(revoked())
    history.read()
    history.drop(revocation)
    ((verdict, why),) = audit(history.records()).found
    assert verdict == DIFFERENT
    assert "'CONSENT_REVOKED'" in why and "('PERMIT'" in why


def test_a_read_moved_before_the_revocation_is_found_at_both_places() -> None:
    history = lived()
    revocation = history.facts(revoked())
    read = history.read()
    history.swap(revocation, read.record)
    done = audit(history.records())
    assert [(line.verdict, line.offset) for line in done.report.findings] == [
        (UNCONFIRMED, revocation.offset),
        (DIFFERENT, read.record.offset),
    ]
    assert done.found[1][1] == ELSEWHERE_NAMED


def test_a_doubled_access_record_is_a_second_decision_without_outcome() -> None:
    """No signature covers an offset: whoever can write the topic can send a record again."""
    history = lived()
    read = history.read()
    log = history.log()
    history.keep(replace(read.record, offset=read.record.offset + 1, append_ms=log.clock_ms + 1))
    ((verdict, why),) = audit(history.records()).found
    assert (verdict, why) == (
        UNCONFIRMED,
        f"{LOST}; the outcome of this request names another place",
    )


@pytest.mark.parametrize("topic", [trust.CONSUMER_LOG, trust.READINGS_TOPIC])
def test_a_doubled_fact_or_batch_changes_no_answer_and_is_counted_where_it_stands(
    topic: str,
) -> None:
    history = lived()
    log = history.log(topic)
    twice = log.records[3]
    history.keep(replace(twice, offset=log.records[-1].offset + 1, append_ms=log.clock_ms + 1))
    history.read()
    done = audit(history.records())
    assert done.verdicts == {SAME: 1}
    doubled = {(b.topic, b.partition): b.counts.duplicate for b in done.report.balances}
    assert {place: count for place, count in doubled.items() if count} == {(topic, PARTITION): 1}


# Access records that decide nothing


def rebuilt_without_root(history: History, read: Read) -> LogRecord:
    """The DSI edits an entry and signs again, but keeps the root over the entries."""
    value = CODEC.decode(read.record.value or b"")
    assert isinstance(value, AccessRequests)
    (entry,) = value.entries
    edited = replace(value, entries=(replace(entry, purpose="BILLING"),))
    root = read.record.header(ENTRIES_ROOT_HEADER) or b""
    headers = ((ENTRIES_ROOT_HEADER, root),)
    return history.log().build(RecordType.ACCESS, edited, BY_DSI, headers=headers)


def signed_by(by: Any) -> Callable[[History, Read], LogRecord]:
    def build(history: History, read: Read) -> LogRecord:
        value = CODEC.decode(read.record.value or b"")
        root = read.record.header(ENTRIES_ROOT_HEADER) or b""
        headers = ((ENTRIES_ROOT_HEADER, root),)
        return history.log().build(RecordType.ACCESS, value, by, headers=headers)

    return build


def junk(history: History, read: Read) -> LogRecord:
    return history.log().build(RecordType.ACCESS, b"junk", BY_DSI)


@pytest.mark.parametrize(
    "build",
    [signed_by(None), signed_by(STRANGER), signed_by(BY_CONSUMERS), rebuilt_without_root, junk],
    ids=["unsigned", "stranger", "wrong role", "edited", "junk"],
)
def test_an_inadmissible_request_decides_nothing_and_its_outcome_is_named(
    build: Callable[[History, Read], LogRecord],
) -> None:
    history = lived()
    history.read()
    read = history.read()
    history.put_in_place_of(read.record, build(history, read))
    done = audit(history.records())
    assert done.report.inadmissible == 1
    assert done.found == [
        (
            DIFFERENT,
            "an outcome without a decision: "
            "no DSI server validly signed the access record it names",
        )
    ]


# Positions


def vector_of(topic: str, partition: int, beyond: int = 0) -> Callable[[History], Any]:
    def positions(history: History) -> Sequence[DataPosition]:
        (here,) = history.positions(trust.READINGS_TOPIC)
        return (DataPosition(topic, partition, here.offset + beyond),)

    return positions


READINGS = trust.READINGS_TOPIC
POSITIONS: dict[str, tuple[Callable[[History], Any], Verdict, str]] = {
    "none": (lambda _: (), DIFFERENT, "names no positions for what it asks"),
    "of another topic": (
        vector_of(trust.METERING_TOPIC, PARTITION, -1),
        DIFFERENT,
        "names no positions for what it asks",
    ),
    "of another partition": (vector_of(READINGS, 0), DIFFERENT, "positions of another partition"),
    "beyond the log": (vector_of(READINGS, PARTITION, 1), CANNOT_TELL, "does not reach that far"),
    "of a topic without a view": (
        vector_of(trust.METERING_REFERENCE, PARTITION),
        CANNOT_TELL,
        "no view of metering.reference.v1 is at hand",
    ),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_that_no_answer_can_rest_on(name: str) -> None:
    positions, verdict, why = POSITIONS[name]
    history = lived()
    read = history.ask(vector=positions(history))
    served = history.ask()
    honest = history.outcome(served.record, served.decided[0])
    for each in (read, served):
        ids: dict[str, Any] = {"request_id": each.decided[0].request.request_id}
        history.tell(replace(honest, **ids, decided_offset=each.record.offset))
    ((found, said),) = audit(history.records()).found
    assert found == verdict
    assert why in said


@pytest.mark.parametrize("index", [1, -1])
def test_a_request_may_point_at_no_vector_at_all(index: int) -> None:
    history = lived()
    asked = history.asked()
    read = history.ask(replace(asked, vector=index))
    whole = history.ask(asked)
    honest = history.outcome(whole.record, whole.decided[0])
    history.tell(honest, replace(honest, decided_offset=read.record.offset))
    ((verdict, why),) = audit(history.records()).found
    assert (verdict, why) == (DIFFERENT, "the request names no positions for what it asks")


# What this build cannot tell


def test_an_answer_of_another_reducer_version_is_not_judged() -> None:
    history = lived()
    history.read()
    history.read(reducer_version=7)
    done = audit(history.records())
    later = f"later than {CONSUMERS.version}, the newest of this build"
    why = f"reducer version 7 of consumers.events.v1 is not at hand: {later}"
    assert done.found == [(CANNOT_TELL, why)]
    assert done.report.ok


@pytest.mark.parametrize(
    ("adopted", "why"),
    [
        (trust.PolicyVersionAdopted(9, bytes(32)), "policy version 9 is not at hand"),
        (
            trust.PolicyVersionAdopted(1, bytes(32)),
            "the data of policy version 1 at hand are not those adopted",
        ),
    ],
)
def test_a_policy_that_is_not_at_hand(adopted: trust.PolicyVersionAdopted, why: str) -> None:
    """A build that knows it permitted; of the time before its adoption everything can be told."""
    history = lived()
    before = history.read()
    history.govern(trust.POLICY_SUBJECT, adopted)
    told = before.outcomes[0]
    for permitted in (True, False):
        read = history.ask()
        ids: dict[str, Any] = {
            "request_id": read.decided[0].request.request_id,
            "decided_offset": read.record.offset,
            "policy_version": adopted.version,
        }
        if permitted:
            history.tell(replace(told, **ids))
    history.read()  # refused by a build like this one
    done = audit(history.records())
    assert done.found == [(CANNOT_TELL, why)] * 2
    assert done.verdicts == {SAME: 2, CANNOT_TELL: 2}


def test_a_meter_that_only_a_later_build_can_read() -> None:
    """Its fact is unknown here, so this build closes the meter; the later one served it."""
    history = lived()
    read = history.read()
    row = history.folds[trust.CONSUMER_LOG].subject(METER)
    dreamt = unknown_fact(METER, previous=(row.offset, row.entry))
    history.keep(history.log().facts(dreamt))
    history.read()  # refused by a build like this one
    served = history.ask()
    history.tell(later_outcome(read.outcomes[0], served))
    history.ask()
    done = audit(history.records())
    why = f"{trust.CONSUMER_LOG} holds what this build cannot read of the meter"
    assert done.found == [(CANNOT_TELL, why)] * 2
    assert done.verdicts == {SAME: 2, CANNOT_TELL: 2}


def later_outcome(told: AccessOutcome, read: Read) -> AccessOutcome:
    """The same said of another read."""
    (decided,) = read.decided
    return replace(told, request_id=decided.request.request_id, decided_offset=read.record.offset)


def test_a_partition_that_only_a_later_build_can_read() -> None:
    history = lived()
    read = history.read()
    history.keep(history.log().build("z", b"later", BY_CONSUMERS))
    served = history.ask()
    history.tell(later_outcome(read.outcomes[0], served))
    history.keep(signed_by(STRANGER)(history, read))  # by a key that a later build may know
    done = audit(history.records())
    why = f"{trust.CONSUMER_LOG} holds what this build cannot read"
    assert done.found == [(CANNOT_TELL, why)] * 2
    assert done.report.inadmissible == 0


@pytest.mark.parametrize(
    ("schema_set", "verdict"), [(bytes(32), CANNOT_TELL), (CODEC.schemas.set_hash, DIFFERENT)]
)
def test_a_server_that_could_read_less_refused_rightly(schema_set: bytes, verdict: Any) -> None:
    history = lived()
    history.read(**REFUSED, reason="METER_CLOSED", schema_set=schema_set)
    ((found, _),) = audit(history.records()).found
    assert found == verdict


def test_other_schemas_or_time_zones_are_no_difference() -> None:
    history = lived()
    history.read(schema_set=b"\x01" * 32, tzdata_version="2019c")
    assert audit(history.records()).verdicts == {SAME: 1}


def test_an_access_record_in_an_unknown_schema() -> None:
    history = lived()
    read = history.read()
    later = history.log().build(RecordType.ACCESS, UNKNOWN_ID, BY_DSI)
    history.put_in_place_of(read.record, later)
    done = audit(history.records())
    assert done.found == [
        (CANNOT_TELL, "this build cannot read the access record"),
        (
            CANNOT_TELL,
            "an outcome without a decision: this build cannot read its access record",
        ),
    ]
    assert done.report.inadmissible == 0


def test_outcomes_in_an_unknown_schema_may_confirm_what_seems_unconfirmed() -> None:
    history = lived()
    history.read()
    history.ask()
    log = history.log(trust.OUTCOMES_TOPIC)
    history.keep(log.build(RecordType.OUTCOMES, UNKNOWN_ID, BY_DSI))
    done = audit(history.records())
    why = f"{trust.OUTCOMES_TOPIC} holds what this build cannot read"
    assert done.found == [(CANNOT_TELL, why)]
    assert done.verdicts == {SAME: 1, CANNOT_TELL: 1}


@pytest.mark.parametrize("before", [True, False])
def test_readings_in_an_unknown_schema_excuse_only_the_answers_after_them(before: bool) -> None:
    history = lived()
    log = history.log(trust.READINGS_TOPIC)
    if before:
        history.keep(log.build(RecordType.READINGS, UNKNOWN_ID, BY_METERING))
    history.read(digest=b"\x01" * 32)
    history.read()
    if not before:
        history.keep(log.build(RecordType.READINGS, UNKNOWN_ID, BY_METERING))
    ((verdict, why),) = audit(history.records()).found
    expected = (CANNOT_TELL, f"{READINGS} holds what this build cannot read")
    assert (verdict, why) == (expected if before else (DIFFERENT, DIGEST))


def test_a_build_without_the_schema_of_facts_tells_nothing_wrong() -> None:
    def lacking(framed: bytes) -> object:
        value = CODEC.decode(framed)
        if type(value).__name__ == "Facts":
            raise UnknownSchema("Facts")
        return value

    history = lived()
    history.read()
    copied = replace(TOOLS.copied, decode=lacking)
    done = audit(history.records(), tools=replace(TOOLS, decode=lacking, copied=copied))
    assert done.verdicts == {CANNOT_TELL: 1}


# A log that cannot be audited


def test_a_log_that_was_cut_is_said_to_be_cut() -> None:
    history = lived()
    log = MemoryLog(*history.records())
    log.cut(trust.CONSUMER_LOG, PARTITION, 2)
    with pytest.raises(LogUnfit) as unfit:
        audit((), reader=log)
    assert unfit.value.reason is Reason.LOG_MISSING


def test_another_log_is_not_found_to_be_in_order() -> None:
    """Nothing in it is of the pinned log, so nothing differs: that must not look like a success."""
    history = lived()
    history.read()
    with pytest.raises(LogUnfit) as unfit:
        audit(history.records(), log_id=bytes(32))
    assert unfit.value.reason is Reason.LOG_DIFFERS


def test_an_auditor_needs_neither_faust_nor_grpc_nor_a_domain() -> None:
    script = (
        "import sys, spine.audit\n"
        "foreign = ('faust', 'grpc', 'domains', 'spine.dsi.answering')\n"
        "print([name for name in foreign if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


# Any history. It happens in one partition; the others hold the same few records in every one, and
# the tests above audit them.


def audit_again(records: list[LogRecord]) -> AuditReport:
    """What an auditor says of the partition that is lived in."""
    return audit(records, partitions=(PARTITION,)).report


class Story:
    """Something happens to two meters; a server may die between the request and its outcome."""

    def __init__(self) -> None:
        self.history = History()
        self.consents: dict[str, str] = {}

    def grant(self, meter: str, value: int) -> None:
        if meter in self.consents:
            return
        consent = f"consent-{len(self.history.order)}"
        housed = self.history.folds[trust.CONSUMER_LOG].subject(meter).offset != NO_PREDECESSOR
        self.history.facts(*(() if housed else (moved_in(),)), granted(consent), subject=meter)
        self.consents[meter] = consent

    def revoke(self, meter: str, value: int) -> None:
        if meter in self.consents:
            self.history.facts(revoked(self.consents.pop(meter)), subject=meter)

    def record(self, meter: str, value: int) -> None:
        self.history.readings(value, meter)

    def read(self, meter: str, value: int) -> None:
        if value % 5:
            self.history.read(self.history.asked(meter))
        else:
            self.history.ask(self.history.asked(meter))


steps = st.lists(
    st.tuples(
        st.sampled_from(["grant", "revoke", "record", "read", "read"]),
        st.sampled_from([METER, NEIGHBOUR]),
        st.integers(0, 9),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_every_prefix_of_any_history_is_the_same_again(taken: list[tuple[str, str, int]]) -> None:
    story = Story()
    opened = len(story.history.order)
    for name, meter, value in taken:
        getattr(story, name)(meter, value)
    order = story.history.order
    for end in range(opened, len(order) + 1):
        types = Counter(record.header(TYPE_HEADER) for record in order[:end])
        asked, told = (types[t.encode()] for t in (RecordType.ACCESS, RecordType.OUTCOMES))
        counts = audit_again(order[:end]).counts
        assert counts == Counter({SAME: told, UNCONFIRMED: asked - told})


@settings(max_examples=60, deadline=None)
@given(steps, st.data())
def test_any_outcome_changed_in_any_history_is_found(
    taken: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    story = Story()
    for name, meter, value in [("grant", METER, 0), *taken, ("read", METER, 1)]:
        getattr(story, name)(meter, value)
    log = story.history.log(trust.OUTCOMES_TOPIC)
    told = data.draw(st.sampled_from(log.records[3:]))
    value_told = CODEC.decode(told.value or b"")
    assert isinstance(value_told, AccessOutcomes)
    (one,) = value_told.entries
    edits: dict[str, Any] = {
        "digest": b"\x01" * 32,
        "rows": one.rows + 1,
        "decision": "REFUSE" if one.decision == "PERMIT" else "PERMIT",
        "release": "RELEASED" if one.release == "REFUSED" else "REFUSED",
        "consent_id": one.consent_id + "x",
        "decided_partition": one.decided_partition - 1,
        "decided_offset": one.decided_offset + 1,
        "decided_entry": one.decided_entry + 1,
        "member": "1200000000011",
        "request_id": bytes(16),
        "policy_version": one.policy_version + 1,
    }
    name = data.draw(st.sampled_from(sorted(edits)))
    edited = replace(value_told, entries=(replace(one, **{name: edits[name]}),))
    story.history.put_in_place_of(told, log.build(RecordType.OUTCOMES, edited, BY_DSI))
    assert audit_again(story.history.records()).counts[DIFFERENT] == 1


def told(records: list[LogRecord]) -> tuple[Any, ...]:
    """All that an auditor says of a log: verdicts, findings, and how every topic adds up."""
    report = audit_again(records)
    assert all(balance.counts.balanced for balance in report.balances)
    return report.counts, report.findings, report.balances


CHANGED_AT_RANDOM = ("dropped", "doubled", "a byte changed", "moved by one place")


@settings(max_examples=60, deadline=None)
@given(steps, st.data())
def test_a_log_changed_at_random_is_audited_to_the_end_and_never_tells_the_same(
    taken: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    """What moves by one place may leave every answer as it was: that is for the ledger to show."""
    story = Story()
    for name, meter, value in [("grant", METER, 0), ("record", METER, 1), *taken]:
        getattr(story, name)(meter, value)
    history = story.history
    before, leaves = told(history.records()), leaves_of(history)
    topics = (trust.CONSUMER_LOG, trust.READINGS_TOPIC, trust.OUTCOMES_TOPIC)
    lived_in = [log for topic in topics if len((log := history.log(topic)).records) > 3]
    log = data.draw(st.sampled_from(lived_in))
    at = data.draw(st.integers(3, len(log.records) - 1))
    record, change = log.records[at], data.draw(st.sampled_from(CHANGED_AT_RANDOM))
    raw = record.value or b""
    match change:
        case "dropped":
            history.drop(record)
        case "doubled":
            last = log.records[-1]
            log.records.append(replace(record, offset=last.offset + 1, append_ms=last.append_ms))
        case "a byte changed":
            byte = data.draw(st.integers(0, len(raw) - 1))
            changed = bytes([raw[byte] ^ data.draw(st.integers(1, 255))])
            edited = raw[:byte] + changed + raw[byte + 1 :]
            history.put_in_place_of(record, replace(record, value=edited))
        case _:
            history.swap(log.records[at - 1], record)
    assert leaves_of(history) != leaves
    after = told(history.records())
    assert after != before or change == "moved by one place"


def leaves_of(history: History) -> list[bytes]:
    """What the ledger hashes of every record, in the order of topics and offsets."""
    return [RecordLeaf.of(record).encode() for record in history.records()]
