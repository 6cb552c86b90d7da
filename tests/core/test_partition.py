"""How a partition folds: one row per outcome of a record, and of each rule what lacks it lets in.

Every safety rule has a naive fold without it, which accepts the bad record: so each test can fail.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from domains.consumers.decider import CONSUMERS
from domains.consumers.fan_out import CONSENT_FAN_OUT
from domains.governance.decider import GOVERNANCE
from domains.metering import READINGS
from spine import trust
from spine.domain import Domain
from spine.errors import Reason
from spine.event import (
    NO_PREDECESSOR,
    TYPE_HEADER,
    AccessOutcomes,
    Command,
    Fact,
    Facts,
    LogRecord,
    RecordType,
    SignerRole,
    from_epoch_ms,
    signed_bytes,
)
from spine.partition import PartitionFold
from spine.policy import ConsentState, MeterAccess, Permit, Refuse
from spine.rows import Applied, Decided
from spine.signing import Signer
from spine.store import MemoryRows
from spine.view import CLOCK_TOLERANCE_MS, Quarantine
from tests.helpers.records import (
    BEGUN,
    BY_CONSUMERS,
    BY_DSI,
    BY_GOVERNANCE,
    BY_METERING,
    ELSEWHERE,
    LATE,
    LOG_ID,
    METER,
    NEIGHBOUR,
    OPENING,
    PARTITION,
    ROOT,
    STRANGER,
    TOOLS,
    Home,
    PartitionLog,
    Scene,
    command,
    digest,
    granted,
    moved_in,
    refold,
    request,
    resumed,
    revoked,
    started,
    suspended,
)
from tests.helpers.samples import readings_batch
from tests.helpers.stories import (
    UNKNOWN_ID,
    consumers_story,
    revoke_consumers_key,
    unknown_fact,
)

# What a record comes to


def outcome(applied: Applied) -> tuple[str, Reason | None]:
    """The one thing that became of a record of one entry."""
    if applied.refusals:
        (refusal,) = applied.refusals
        return refusal.outcome, refusal.reason
    if applied.duplicates:
        return "duplicate", None
    return ("access", None) if applied.access else ("applied", None)


def state_of(scene: Scene, meter: str = METER) -> MeterAccess:
    state: MeterAccess = scene.fold.subject(meter).state
    return state


class NoSignatureCheck(PartitionFold):
    """Naive: believes the key id, and takes an unknown one for the coordinator's."""

    def signed_by(self, public_key: bytes, record: LogRecord, log_id: bytes | None = None) -> bool:
        return True

    def verified_role(self, record: LogRecord) -> SignerRole:
        try:
            return super().verified_role(record)
        except Quarantine:
            return SignerRole.CONSUMERS


class NoRevocation(PartitionFold):
    """Naive: a key once authorised counts for ever."""

    def key(self, kid: bytes) -> trust.SigningKey | None:
        known = super().key(kid)
        return None if known is None else replace(known, revoked=False)


class NoPartitionCheck(PartitionFold):
    """Naive: takes what it is given."""

    def each_misplaced(self, keys: Sequence[bytes]) -> list[bool]:
        return [False] * len(keys)

    def _apply_facts(
        self, record: LogRecord, facts: Facts, role: SignerRole, applied: Applied
    ) -> None:
        facts = structs.replace(facts, topic=self.topic, partition=self.partition)
        super()._apply_facts(record, facts, role, applied)


class NoKeyCheck(PartitionFold):
    """Naive: the key of a record is only there to find its partition."""

    def _apply_facts(
        self, record: LogRecord, facts: Facts, role: SignerRole, applied: Applied
    ) -> None:
        super()._apply_facts(replace(record, key=None), facts, role, applied)


class NoChainCheck(PartitionFold):
    """Naive: last writer wins."""

    def _apply_command(
        self,
        domain: Domain,
        offset: int,
        entry: int,
        command: Command,
        role: SignerRole,
        applied: Applied,
    ) -> None:
        row = self.subject_row(domain, command.subject)
        chained = structs.replace(command, previous_offset=row.offset, previous_entry=row.entry)
        super()._apply_command(domain, offset, entry, chained, role, applied)


class NoDuplicateCheck(PartitionFold):
    """Naive: every record is news, and the chain is not looked at."""

    def _apply_command(
        self,
        domain: Domain,
        offset: int,
        entry: int,
        command: Command,
        role: SignerRole,
        applied: Applied,
    ) -> None:
        row = self.subject_row(domain, command.subject)
        fresh = offset.to_bytes(12) + entry.to_bytes(4)
        chained = structs.replace(
            command, id=fresh, previous_offset=row.offset, previous_entry=row.entry
        )
        super()._apply_command(domain, offset, entry, chained, role, applied)


class SkipsTheUnknown(PartitionFold):
    """Naive: what this build does not know cannot matter."""

    def _hold(
        self, record: LogRecord, entry: int, subject: str, applied: Applied, reason: Reason
    ) -> None:
        self._quarantine(record, entry, applied, reason, subject)


def no_role_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Naive: whoever has a key may write anything anywhere."""
    anyone = frozenset(SignerRole)
    everything = {(topic, kind): anyone for topic in trust.TOPICS for kind in RecordType}
    monkeypatch.setattr(trust, "MAY_WRITE", everything)


# Openings


def fold_of(*records: LogRecord, topic: str = trust.CONSUMER_LOG) -> tuple[PartitionFold, Applied]:
    """A fold that has seen these records, and what the last one came to."""
    fold = PartitionFold(topic, PARTITION, LOG_ID, TOOLS, MemoryRows(), CONSUMERS, GOVERNANCE)
    applied = Applied()
    for record in records:
        applied = fold.apply(record)
    return fold, applied


def test_the_opening_opens_and_a_second_one_is_a_duplicate() -> None:
    log = PartitionLog()
    first = log.keep(log.opening())
    fold, applied = fold_of(first, log.opening())
    assert outcome(applied) == ("duplicate", None)
    assert fold.head is not None and fold.head.log_id == LOG_ID and not fold.head.closed
    assert fold.head.counts.consumed == 2 and fold.head.counts.balanced


def test_another_opening_closes_the_partition_for_all() -> None:
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    other = replace(OPENING, nonce=bytes(16))
    assert outcome(scene.send(scene.log.opening(other))) == ("void", Reason.OPENING_DIFFERS)
    again = scene.facts(command(NEIGHBOUR, moved_in()))
    assert outcome(again) == ("held", Reason.PARTITION_CLOSED)
    (decided,) = scene.read()
    assert decided.decision == Refuse(Reason.PARTITION_CLOSED, concerned=True)


@pytest.mark.parametrize("naive", [False, True])
def test_an_unsigned_opening_closes_nothing(naive: bool) -> None:
    scene = Scene(NoSignatureCheck if naive else PartitionFold)
    forged = scene.log.build(RecordType.OPENING, replace(OPENING, nonce=bytes(16)), None)
    headers = (*forged.headers, ("kid", ROOT.kid), ("sig", bytes(64)))
    scene.send(replace(forged, headers=headers))
    assert scene.fold.head is not None
    assert bool(scene.fold.head.closed) is naive


def test_an_opening_of_an_unknown_schema_counts_only_under_the_root_key() -> None:
    for by, expected in (
        (None, ("quarantined", Reason.RECORD_MALFORMED)),
        (STRANGER, ("quarantined", Reason.RECORD_MALFORMED)),
        (BY_CONSUMERS, ("quarantined", Reason.RECORD_MALFORMED)),
        (ROOT, ("held", Reason.RECORD_UNKNOWN_TYPE)),
    ):
        scene = Scene()
        record = scene.log.build(RecordType.OPENING, UNKNOWN_ID, by, key=METER.encode())
        assert outcome(scene.send(record)) == expected
        assert (scene.fold.closed(METER) is None) is (expected[0] == "quarantined")


def test_a_number_beyond_its_type_does_not_stop_a_fold() -> None:
    log = PartitionLog()
    huge = log.build(RecordType.OPENING, replace(OPENING, partition_count=1 << 40), STRANGER)
    assert outcome(fold_of(huge)[1]) == ("quarantined", Reason.RECORD_MALFORMED)


def test_an_opening_of_another_log_or_by_another_key_opens_nothing() -> None:
    log = PartitionLog()
    for record, reason in (
        (log.opening(replace(OPENING, nonce=bytes(16))), Reason.OPENING_DIFFERS),
        (log.opening(by=STRANGER), Reason.RECORD_BAD_SIGNATURE),
        (log.build("o", Facts(log.topic, log.partition, ()), ROOT), Reason.RECORD_MALFORMED),
        (log.build("o", b"", ROOT), Reason.RECORD_MALFORMED),
        (log.facts(command(METER, moved_in())), Reason.RECORD_UNSIGNED),
    ):
        fold, applied = fold_of(record)
        assert outcome(applied) == ("quarantined", reason)
        assert fold.head is None
        assert fold.decide_access(record) == ()


def test_what_comes_before_the_opening_is_in_the_balance_and_is_no_hole() -> None:
    log = PartitionLog()
    log.keep(log.build("f", b"noise", None))
    log.keep(log.build("f", b"more noise", None))
    log.keep(log.opening())
    fold, _ = fold_of(*log.records)
    assert fold.head is not None and fold.head.counts.balanced
    assert (fold.head.counts.consumed, fold.head.counts.quarantined) == (3, 2)
    assert (fold.head.next_offset, fold.head.holes) == (3, 0)


def test_offsets_that_hold_no_record_are_counted_as_holes() -> None:
    scene = Scene()
    record = scene.log.facts(command(METER, moved_in()))
    scene.send(replace(record, offset=record.offset + 2))
    assert scene.fold.head is not None and scene.fold.head.holes == 2


# Signatures and roles


def stripped(record: LogRecord, *names: str) -> LogRecord:
    return replace(record, headers=tuple(h for h in record.headers if h[0] not in names))


def with_header(record: LogRecord, name: str, value: bytes) -> LogRecord:
    return replace(record, headers=tuple((n, value if n == name else v) for n, v in record.headers))


def test_a_fact_of_its_coordinator_applies() -> None:
    scene = Scene()
    assert outcome(scene.facts(command(METER, moved_in(), granted()))) == ("applied", None)
    assert len(state_of(scene).tenancies) == len(state_of(scene).consents) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: stripped(r, "sig", "kid"), Reason.RECORD_UNSIGNED),
        (lambda r: stripped(r, "sig"), Reason.RECORD_UNSIGNED),
        (lambda r: replace(r, headers=r.headers + r.headers[-1:]), Reason.RECORD_UNSIGNED),
        (lambda r: with_header(r, "sig", bytes(64)), Reason.RECORD_BAD_SIGNATURE),
        (lambda r: with_header(r, "sig", b""), Reason.RECORD_BAD_SIGNATURE),
        (lambda r: with_header(r, "kid", STRANGER.kid), Reason.RECORD_BAD_SIGNATURE),
        (lambda r: with_header(r, "kid", BY_METERING.kid), Reason.RECORD_BAD_SIGNATURE),
        (lambda r: with_header(r, "kid", ROOT.kid), Reason.RECORD_BAD_SIGNATURE),
    ],
    ids=[
        "unsigned",
        "no signature",
        "two signatures",
        "bad signature",
        "empty",
        "unknown key",
        "another's key",
        "root's key",
    ],
)
def test_an_unsigned_or_badly_signed_record_is_quarantined(change: Any, reason: Reason) -> None:
    scene, naive = Scene(), Scene(NoSignatureCheck)
    record = change(scene.log.facts(command(METER, moved_in())))
    before = scene.content()
    assert outcome(scene.send(record)) == ("quarantined", reason)
    assert scene.content() == before
    naive.send(record)
    if reason is Reason.RECORD_UNSIGNED or change(record).header("kid") == BY_CONSUMERS.kid:
        assert state_of(naive).tenancies, "without the check it is believed"


def test_a_signature_for_another_log_or_place_does_not_hold() -> None:
    scene, naive = Scene(), Scene(NoSignatureCheck)
    value = Facts(scene.log.topic, scene.log.partition, (command(METER, moved_in()),))
    for elsewhere in (
        {"log_id": bytes(32)},
        {"signed_for": (trust.CONSUMER_LOG, 0)},
        {"signed_for": (trust.METERING_TOPIC, PARTITION)},
    ):
        record = scene.log.build(RecordType.FACTS, value, BY_CONSUMERS, **elsewhere)
        assert outcome(scene.send(record)) == ("quarantined", Reason.RECORD_BAD_SIGNATURE)
    naive.send(record)
    assert state_of(naive).tenancies


def test_what_a_revoked_key_signs_is_void_and_what_it_signed_before_stands() -> None:
    scene, naive = Scene(), Scene(NoRevocation)
    for each in (scene, naive):
        each.facts(command(METER, moved_in()))
        assert outcome(revoke_consumers_key(each)) == ("applied", None)
    fact = command(NEIGHBOUR, moved_in())
    assert outcome(scene.facts(fact)) == ("void", Reason.VOID_SIGNER_REVOKED)
    assert state_of(scene).tenancies and not state_of(scene, NEIGHBOUR).tenancies
    assert outcome(naive.facts(fact)) == ("applied", None)


@pytest.mark.parametrize("by", [BY_DSI, BY_METERING, BY_GOVERNANCE, ROOT])
def test_a_fact_by_the_wrong_role_is_void(by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    before = scene.content()
    record = scene.log.facts(command(METER, moved_in()), by=by)
    assert outcome(scene.send(record)) == ("void", Reason.VOID_ROLE)
    assert scene.content() == before
    if by is not ROOT:
        no_role_check(monkeypatch)
        assert outcome(Scene().send(record)) == ("applied", None)


@pytest.mark.parametrize("by", [BY_GOVERNANCE, ROOT])
@pytest.mark.parametrize("kind", [RecordType.COPY, RecordType.READINGS, RecordType.OUTCOMES])
def test_facts_under_another_record_type_do_not_slip_past_their_role(
    by: Any, kind: RecordType
) -> None:
    scene = Scene()
    value = Facts(scene.log.topic, scene.log.partition, (command(METER, moved_in()),))
    before = scene.content()
    applied = scene.send(scene.log.build(kind, value, by))
    expected = ("void", Reason.VOID_ROLE)
    if kind is RecordType.COPY:
        expected = ("quarantined", Reason.RECORD_MALFORMED)
    assert outcome(applied) == expected
    assert scene.content() == before


def test_a_fact_of_another_domain_is_void() -> None:
    scene = Scene()
    fact = Fact("governance.ParticipantAdmitted", BEGUN, b"")
    alien = structs.replace(command(METER, moved_in()), facts=(fact,))
    assert outcome(scene.facts(alien)) == ("void", Reason.VOID_ROLE)


def test_the_root_key_says_nothing_but_keys() -> None:
    home = Home()
    fold = PartitionFold(trust.GOVERNANCE_TOPIC, 0, LOG_ID, TOOLS, MemoryRows(), None, GOVERNANCE)
    for record in home.records:
        fold.apply(record)
    party = trust.party_subject("friend")
    record = home.say((party, trust.ParticipantAdmitted("Friend")), by=ROOT)
    assert outcome(fold.apply(record)) == ("void", Reason.VOID_ROLE)
    assert fold.participant("friend") is None
    record = home.say((party, trust.ParticipantAdmitted("Friend")))
    assert outcome(fold.apply(record)) == ("applied", None)


def test_a_key_of_a_role_that_this_build_does_not_know_stops_no_fold() -> None:
    scene = Scene()
    before = scene.home.records[-1].offset
    authorised = trust.SigningKeyAuthorised(LATE.public_key, "ledger", "ledger")
    home = scene.home.say((trust.key_subject(LATE.kid), authorised))
    scene.send(scene.log.copy(home, before))
    fact = command(METER, moved_in())
    assert outcome(scene.facts(fact, by=LATE)) == ("held", Reason.RECORD_UNKNOWN_TYPE)
    assert scene.fold.closed(METER) is Reason.METER_CLOSED
    assert scene.read(request(), by=LATE) == ()


# Partition and key


def test_a_record_keyed_to_another_partition_is_void() -> None:
    scene, naive = Scene(), Scene(NoPartitionCheck)
    record = scene.log.facts(command(ELSEWHERE, moved_in()))
    assert record.key == ELSEWHERE.encode()
    assert outcome(scene.send(record)) == ("void", Reason.VOID_PARTITION)
    assert not state_of(scene, ELSEWHERE).tenancies
    assert outcome(naive.send(record)) == ("applied", None)


def test_a_meter_of_another_partition_in_a_bulk_record_is_void_alone() -> None:
    scene, naive = Scene(), Scene(NoPartitionCheck)
    commands = command(ELSEWHERE, moved_in()), command(METER, moved_in())
    applied = scene.facts(*commands)
    assert [(r.entry, r.outcome, r.reason) for r in applied.refusals] == [
        (0, "void", Reason.VOID_PARTITION)
    ]
    assert applied.subjects == [METER]
    assert naive.facts(*commands).subjects == [ELSEWHERE, METER]


@pytest.mark.parametrize("place", [(trust.CONSUMER_LOG, 0), (trust.METERING_TOPIC, PARTITION)])
def test_a_record_whose_content_names_another_place_is_void(place: tuple[str, int]) -> None:
    scene, naive = Scene(), Scene(NoPartitionCheck)
    value = Facts(*place, (command(METER, moved_in()),))
    record = scene.log.build(RecordType.FACTS, value, BY_CONSUMERS)
    assert outcome(scene.send(record)) == ("void", Reason.VOID_PARTITION)
    assert outcome(naive.send(record)) == ("applied", None)


def test_any_record_keyed_to_another_partition_is_void() -> None:
    """Whatever it holds: readers of the topic find it by its key."""
    for key, expected in ((None, "applied"), (METER, "applied"), (ELSEWHERE, "void")):
        scene = batch_scene()
        batch = readings_batch(METER, PARTITION)
        keyed = None if key is None else key.encode()
        record = scene.log.build(RecordType.READINGS, batch, BY_METERING, key=keyed)
        assert outcome(scene.send(record))[0] == expected


def test_a_key_that_differs_from_the_content_is_void() -> None:
    scene, naive = Scene(), Scene(NoKeyCheck)
    value = Facts(scene.log.topic, scene.log.partition, (command(METER, moved_in()),))
    record = scene.log.build(RecordType.FACTS, value, BY_CONSUMERS, key=NEIGHBOUR.encode())
    assert outcome(scene.send(record)) == ("void", Reason.VOID_KEY)
    assert outcome(naive.send(record)) == ("applied", None)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.RECORD_MALFORMED),
        (b"\x00\x00\x00\x00\x02", Reason.RECORD_MALFORMED),
        (
            Facts(trust.CONSUMER_LOG, PARTITION, (command(METER),)),
            Reason.RECORD_MALFORMED,
        ),
        (OPENING, Reason.RECORD_MALFORMED),
        (
            Facts(trust.CONSUMER_LOG, PARTITION, (command(METER, revoked(), resumed()),)),
            Reason.RECORD_OUT_OF_RANGE,
        ),
    ],
    ids=["nothing", "cut off", "no fact", "another record", "out of its rules"],
)
def test_what_breaks_schema_or_rules_is_quarantined(value: object, reason: Reason) -> None:
    scene = Scene()
    before = scene.content()
    applied = scene.send(scene.log.build(RecordType.FACTS, value, BY_CONSUMERS))
    assert outcome(applied) == ("quarantined", reason)
    assert scene.content() == before
    assert scene.rows.get(b"q/" + scene.last.to_bytes(8) + bytes(4)) is not None


def test_a_record_without_commands_is_a_barrier_and_changes_no_subject() -> None:
    scene = Scene()
    before = scene.content()
    barrier = Facts(trust.CONSUMER_LOG, PARTITION, ())
    applied = scene.send(scene.log.build(RecordType.FACTS, barrier, BY_CONSUMERS))
    assert outcome(applied) == ("applied", None)
    assert scene.content() == before


@pytest.mark.parametrize(
    "headers",
    [
        (("x" * 70_000, b""),),
        (("t", b"f"), ("kid", None)),
        (("t", None),),
        (("\ud800", b""),),
        tuple((str(n), b"") for n in range(66_000)),
    ],
    ids=["long name", "no kid", "no type", "no name", "too many"],
)
def test_headers_that_no_signature_can_cover_are_quarantined_and_stop_nothing(
    headers: tuple[tuple[str, bytes], ...],
) -> None:
    """Anybody who can write to the topic can write these, without any key."""
    scene = Scene()
    good = scene.log.build(RecordType.FACTS, Facts(trust.CONSUMER_LOG, PARTITION, ()), BY_CONSUMERS)
    signed = dict(good.headers)
    hostile = replace(good, headers=(*headers, ("t", b"f"), ("sig", signed["sig"])))
    applied = scene.send(hostile)
    assert outcome(applied)[0] == "quarantined"
    assert len(hostile.digest()) == 32
    with pytest.raises((struct.error, UnicodeEncodeError, TypeError)):  # the naive variant
        signed_bytes(bytes(32), "t", 0, None, headers, b"")


def test_an_opening_under_anybodys_key_closes_nothing() -> None:
    scene = Scene()
    stranger = Signer.of(Ed25519PrivateKey.from_private_bytes(b"\x07" * 32))
    other = replace(OPENING, root_key=stranger.public_key)
    applied = scene.send(
        scene.log.build(RecordType.OPENING, other, stranger, log_id=other.log_id())
    )
    assert outcome(applied) == ("quarantined", Reason.OPENING_DIFFERS)
    assert scene.fold.head is not None
    assert not scene.fold.head.closed


def test_a_record_without_value_or_type_is_quarantined() -> None:
    scene = Scene()
    record = scene.log.facts(command(METER, moved_in()))
    for broken in (replace(record, value=None), stripped(record, TYPE_HEADER)):
        assert outcome(scene.send(broken)) == ("quarantined", Reason.RECORD_MALFORMED)


# The chain


def test_of_two_commands_on_one_predecessor_the_first_wins_for_ever() -> None:
    scene, naive = Scene(), Scene(NoChainCheck)
    for each in (scene, naive):
        each.facts(command(METER, moved_in(), granted()))
    after = (scene.last, 0)
    first = command(METER, suspended(), previous=after)
    loser = command(METER, revoked(), previous=after)
    assert outcome(scene.facts(first)) == ("applied", None)
    assert outcome(scene.facts(loser)) == ("void", Reason.VOID_CHAIN)
    assert outcome(scene.facts(loser)) == ("void", Reason.VOID_CHAIN), "and again, for ever"
    assert state_of(scene).consents[0].state == ConsentState.SUSPENDED
    naive.facts(first)
    assert outcome(naive.facts(loser)) == ("applied", None)


def test_a_first_command_names_no_predecessor_and_a_later_one_the_entry_too() -> None:
    scene = Scene()
    scene.facts(command(NEIGHBOUR, moved_in()), command(METER, moved_in()))
    for wrong in ((NO_PREDECESSOR, NO_PREDECESSOR), (scene.last, 0), (scene.last - 1, 1)):
        late = command(METER, granted(), previous=wrong)
        assert outcome(scene.facts(late)) == ("void", Reason.VOID_CHAIN)
    last = scene.fold.subject(METER)
    right = command(METER, granted(), previous=(last.offset, last.entry))
    assert outcome(scene.facts(right)) == ("applied", None)


def test_an_applied_id_is_a_duplicate_before_the_chain_is_looked_at() -> None:
    scene, naive = Scene(), Scene(NoDuplicateCheck)
    first = command(METER, moved_in(), id=b"once" * 4)
    stale = command(METER, granted(), id=b"once" * 4)
    for each in (scene, naive):
        each.facts(first)
    before = scene.content()
    assert outcome(scene.facts(first)) == ("duplicate", None)
    assert outcome(scene.facts(stale)) == ("duplicate", None), "its predecessor is wrong, too"
    assert scene.content() == before
    naive.facts(first)
    assert len(state_of(naive).tenancies) == 2


def test_a_void_command_uses_up_no_id() -> None:
    scene = Scene()
    scene.facts(command(METER, moved_in()))
    stale = command(METER, granted(), id=b"used" * 4)
    assert outcome(scene.facts(stale)) == ("void", Reason.VOID_CHAIN)
    assert scene.fold.applied_command(stale.id) is None
    row = scene.fold.subject(METER)
    again = structs.replace(stale, previous_offset=row.offset, previous_entry=row.entry)
    assert outcome(scene.facts(again)) == ("applied", None)
    applied = scene.fold.applied_command(stale.id)
    assert applied is not None and applied.offset == scene.last


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_the_facts_of_a_command_apply_together_or_not_at_all(bad: int) -> None:
    scene = Scene()
    good = command(METER, moved_in(), granted(), suspended())
    broken = structs.replace(good.facts[bad], body=good.facts[bad].body[:-1])
    facts = (*good.facts[:bad], broken, *good.facts[bad + 1 :])
    before = scene.content()
    applied = scene.facts(structs.replace(good, facts=facts))
    assert outcome(applied) == ("quarantined", Reason.RECORD_MALFORMED)
    assert scene.content() == before
    assert applied.events == []
    assert outcome(scene.facts(good)) == ("applied", None)
    assert state_of(scene).consents[0].state == ConsentState.SUSPENDED


def test_the_entries_of_a_bulk_record_stand_alone() -> None:
    scene = Scene()
    good = command(METER, moved_in())
    void = command(NEIGHBOUR, moved_in(), previous=(1, 0))
    poison = command("1200000000011", resumed())
    applied = scene.facts(void, good, good, poison)
    assert applied.subjects == [METER] and applied.duplicates == 1
    assert [(r.entry, r.outcome) for r in applied.refusals] == [(0, "void"), (3, "quarantined")]
    assert scene.fold.subject(METER).entry == 1


# What this build does not know


class SeesNothingClosed(PartitionFold):
    """Naive: takes a meter for open without looking whether anything was held."""

    @property
    def may_be_closed(self) -> bool:
        return False


def test_what_closes_a_meter_closes_it_for_the_rest_of_its_record_and_after_a_restart() -> None:
    scene, naive = Scene(), Scene(SeesNothingClosed)
    held, taken = [(1, "held"), (2, "held")], [(1, "held")]
    for each, expected in ((scene, held), (naive, taken)):
        later = command(METER, moved_in())
        applied = each.facts(command(NEIGHBOUR, moved_in()), unknown_fact(METER), later)
        assert [(r.entry, r.outcome) for r in applied.refusals] == expected
        again = type(each.fold)(
            each.fold.topic,
            each.fold.partition,
            LOG_ID,
            TOOLS,
            each.fold.rows,
            CONSUMERS,
            GOVERNANCE,
        )
        assert again.closed(NEIGHBOUR) is None
        assert again.closed(METER) is (Reason.METER_CLOSED if each is scene else None)


def permits(decided: tuple[Decided, ...]) -> list[bool]:
    return [isinstance(d.decision, Permit) for d in decided]


def test_an_unknown_fact_closes_its_meter_and_no_other() -> None:
    scene, naive = Scene(), Scene(SkipsTheUnknown)
    for each in (scene, naive):
        each.facts(command(METER, moved_in(), granted()))
        each.facts(command(NEIGHBOUR, moved_in(), granted()))
        assert permits(each.read(request(METER), request(NEIGHBOUR, 2))) == [True, True]
        row = each.fold.subject(METER)
        each.facts(unknown_fact(METER, previous=(row.offset, row.entry)))
    assert scene.fold.closed(METER) is Reason.METER_CLOSED
    row = scene.fold.subject(METER)
    later = command(METER, suspended(), previous=(row.offset, row.entry))
    assert outcome(scene.facts(later)) == ("held", Reason.METER_CLOSED)
    mine, other = scene.read(request(METER), request(NEIGHBOUR, 2))
    assert mine.decision == Refuse(Reason.METER_CLOSED, concerned=True)
    assert isinstance(other.decision, Permit)
    assert scene.fold.head is not None and scene.fold.head.counts.held == 2
    assert permits(naive.read(request(METER))) == [True], "without it, the old state is served"


@pytest.mark.parametrize(
    "fact",
    [
        Fact("consumers.ConsentDreamt", BEGUN, UNKNOWN_ID),
        Fact("consumers.TenancyStarted", BEGUN, UNKNOWN_ID),
    ],
    ids=["type", "schema"],
)
def test_an_unknown_fact_of_another_role_closes_nothing(fact: Fact) -> None:
    for by, closed in ((BY_CONSUMERS, Reason.METER_CLOSED), (BY_DSI, None), (BY_METERING, None)):
        scene = Scene()
        scene.facts(structs.replace(command(METER, moved_in()), facts=(fact,)), by=by)
        assert scene.fold.closed(METER) is closed


@pytest.mark.parametrize(
    ("kind", "key", "by", "expected", "closed"),
    [
        ("z", None, BY_CONSUMERS, "held", Reason.PARTITION_CLOSED),
        ("z", METER.encode(), BY_CONSUMERS, "held", Reason.METER_CLOSED),
        ("f", None, BY_CONSUMERS, "held", Reason.PARTITION_CLOSED),
        ("f", METER.encode(), BY_CONSUMERS, "held", Reason.METER_CLOSED),
        ("z", None, BY_DSI, "void", None),
        ("f", None, BY_DSI, "void", None),
        ("z", None, STRANGER, "quarantined", None),
    ],
)
def test_a_record_type_or_schema_that_is_unknown(
    kind: str, key: bytes | None, by: Any, expected: str, closed: Reason | None
) -> None:
    scene, naive = Scene(), Scene(SkipsTheUnknown)
    for each in (scene, naive):
        each.facts(command(METER, moved_in(), granted()))
    record = scene.log.build(kind, UNKNOWN_ID, by, key=key)
    assert outcome(scene.send(record))[0] == expected
    assert scene.fold.closed(METER) is closed
    assert permits(scene.read()) == [closed is None]
    naive.send(record)
    assert permits(naive.read()) == [True]


def test_an_unknown_governance_fact_closes_the_partition() -> None:
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    before = scene.home.records[-1].offset
    fact = Fact("governance.EverythingForbidden", BEGUN, UNKNOWN_ID)
    party = trust.party_subject("adviser2")
    said = structs.replace(
        command(party, trust.ParticipantAdmitted("x"), domain=GOVERNANCE), facts=(fact,)
    )
    home = scene.home.keep(scene.home.facts(said, by=BY_GOVERNANCE, keyed=False))
    assert outcome(scene.send(scene.log.copy(home, before)))[0] == "held"
    (decided,) = scene.read()
    assert decided.decision == Refuse(Reason.PARTITION_CLOSED, concerned=True)


def test_a_table_of_equal_accreditations_is_judged_from_its_copy_on() -> None:
    """The adviser is accredited under REC: what was decided before the first table stays so."""
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    assert permits(scene.read()) == [True]
    previous, before = NO_PREDECESSOR, scene.home.records[-1].offset
    row = trust.EquivalenceRow("REC", "other user", "ENERGY_ADVICE", "DSI", "1", "ENERGY_ADVICE")
    verdicts = []
    for version, rows in ((1, ()), (2, (row,)), (3, ())):
        adopted = trust.EquivalenceTableAdopted(version, rows)
        home = scene.home.say((trust.EQUIVALENCE_SUBJECT, adopted), previous=previous)
        assert outcome(scene.send(scene.log.copy(home, before))) == ("applied", None)
        assert scene.fold.equivalence() == trust.Equivalence(version, rows)
        verdicts.append(scene.read()[0].decision)
        previous = before = home.offset
    refused = Refuse(Reason.ACCREDITATION_NOT_EQUIVALENT, concerned=True)
    assert [verdicts[0], verdicts[2]] == [refused, refused]
    assert isinstance(verdicts[1], Permit)
    assert scene.fold.standing(trust.EQUIVALENCE_SUBJECT) == trust.Standing()


@pytest.mark.parametrize("subject", ["party:adviser", "policy", "party:new"])
def test_a_table_out_of_turn_or_on_another_subject_changes_nothing(subject: str) -> None:
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    before = scene.home.records[-1].offset
    version = 2 if subject == "party:new" else 1
    wrong = trust.EquivalenceTableAdopted(version, ())
    home = scene.home.say((subject, wrong))
    scene.send(scene.log.copy(home, before))
    assert scene.fold.equivalence() is None
    assert permits(scene.read()) == [True]


# Governance copies


def test_a_copy_again_is_a_duplicate_and_a_gap_is_void() -> None:
    scene = Scene()
    home = scene.home
    second, seen = home.records[1], home.records[2].offset
    assert outcome(scene.send(scene.log.copy(second, NO_PREDECESSOR))) == ("duplicate", None)
    third = home.say((trust.party_subject("b"), trust.ParticipantAdmitted("B")))
    fourth = home.say((trust.party_subject("c"), trust.ParticipantAdmitted("C")))
    gap = scene.send(scene.log.copy(fourth, third.offset))
    assert outcome(gap) == ("void", Reason.VOID_CHAIN)
    assert scene.fold.participant("c") is None
    assert outcome(scene.send(scene.log.copy(third, seen))) == ("applied", None)
    assert outcome(scene.send(scene.log.copy(fourth, third.offset))) == ("applied", None)
    assert scene.fold.participant("c") is not None


@pytest.mark.parametrize("fold_class", [PartitionFold, NoSignatureCheck])
def test_a_copy_is_judged_on_the_signature_of_its_home(fold_class: type[PartitionFold]) -> None:
    scene = Scene(fold_class)
    seen = scene.home.records[-1].offset
    said = command(trust.party_subject("b"), trust.ParticipantAdmitted("B"), domain=GOVERNANCE)
    forged = scene.home.facts(said, by=STRANGER, keyed=False)
    forged = with_header(forged, "kid", BY_GOVERNANCE.kid)
    applied = scene.send(scene.log.copy(forged, seen))
    if fold_class is PartitionFold:
        assert outcome(applied) == ("quarantined", Reason.RECORD_BAD_SIGNATURE)
        assert scene.fold.participant("b") is None
    else:
        assert scene.fold.participant("b") is not None


@pytest.mark.parametrize("by", [BY_CONSUMERS, BY_DSI])
def test_a_home_record_of_the_wrong_role_is_void_and_so_is_a_copy_by_one(by: Any) -> None:
    scene = Scene()
    seen = scene.home.records[-1].offset
    said = command(trust.party_subject("b"), trust.ParticipantAdmitted("B"), domain=GOVERNANCE)
    wrong_home = scene.home.facts(said, by=by, keyed=False)
    assert outcome(scene.send(scene.log.copy(wrong_home, seen))) == ("void", Reason.VOID_ROLE)
    home = scene.home.facts(said, by=BY_GOVERNANCE, keyed=False)
    assert outcome(scene.send(scene.log.copy(home, seen, by=by))) == ("void", Reason.VOID_ROLE)
    elsewhere = replace(home, topic=trust.CONSUMERS_REFERENCE)
    assert outcome(scene.send(scene.log.copy(elsewhere, seen))) == ("void", Reason.VOID_ROLE)


def test_a_key_counts_only_after_its_copy() -> None:
    scene = Scene()
    seen = scene.home.records[-1].offset
    authorised = trust.SigningKeyAuthorised(LATE.public_key, "consumers", "consumers")
    home = scene.home.say((trust.key_subject(LATE.kid), authorised))
    fact = command(METER, moved_in())
    early = scene.facts(fact, by=LATE)
    assert outcome(early) == ("quarantined", Reason.RECORD_BAD_SIGNATURE)
    scene.send(scene.log.copy(home, seen))
    assert outcome(scene.facts(fact, by=LATE)) == ("applied", None)


# Other topics


def batch_scene() -> Scene:
    return Scene(topic=trust.READINGS_TOPIC, domain=READINGS)


def test_a_batch_applies_once_and_only_from_metering_in_its_partition() -> None:
    scene = batch_scene()
    batch = readings_batch(METER, PARTITION)
    sent = scene.log.build(RecordType.READINGS, batch, BY_METERING)
    assert outcome(scene.send(sent)) == ("applied", None)
    assert outcome(scene.send(sent)) == ("duplicate", None)
    for by in (BY_CONSUMERS, BY_DSI, BY_GOVERNANCE):
        wrong = scene.log.build(RecordType.READINGS, batch, by)
        assert outcome(scene.send(wrong)) == ("void", Reason.VOID_ROLE)
    for bad in (
        replace(batch, partition=0),
        replace(batch, topic=trust.METERING_TOPIC),
        replace(batch, mpxns=ELSEWHERE.encode(), batch_id=bytes(16)),
    ):
        record = scene.log.build(RecordType.READINGS, bad, BY_METERING)
        assert outcome(scene.send(record)) == ("void", Reason.VOID_PARTITION)
    empty = scene.log.build(RecordType.READINGS, replace(batch, unit="kWh"), BY_METERING)
    assert outcome(scene.send(empty)) == ("quarantined", Reason.READINGS_MALFORMED)


@pytest.mark.parametrize(
    "value",
    [
        AccessOutcomes(trust.READINGS_TOPIC, PARTITION, "dsi-1", ()),
        Facts(trust.READINGS_TOPIC, PARTITION, (command(METER, moved_in()),)),
        OPENING,
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_is_no_batch_under_a_batch_header_is_quarantined(value: object) -> None:
    scene = batch_scene()
    record = scene.log.build(RecordType.READINGS, value, BY_METERING)
    assert outcome(scene.send(record)) == ("quarantined", Reason.RECORD_MALFORMED)


def test_outcomes_are_only_for_their_place_and_only_outcomes() -> None:
    scene = Scene(topic=trust.OUTCOMES_TOPIC, domain=None)
    here = AccessOutcomes(trust.OUTCOMES_TOPIC, PARTITION, "dsi-1", ())
    for value, expected in (
        (here, ("applied", None)),
        (replace(here, partition=0), ("void", Reason.VOID_PARTITION)),
        (OPENING, ("quarantined", Reason.RECORD_MALFORMED)),
        (
            Facts(trust.OUTCOMES_TOPIC, PARTITION, (command(METER, moved_in()),)),
            ("quarantined", Reason.RECORD_MALFORMED),
        ),
    ):
        record = scene.log.build(RecordType.OUTCOMES, value, BY_DSI)
        assert outcome(scene.send(record)) == expected


def test_a_reference_topic_has_one_partition_and_takes_any_key() -> None:
    assert CONSENT_FAN_OUT.topic not in trust.METER_KEYED
    scene = Scene(topic=trust.CONSUMERS_REFERENCE, partition=0, domain=CONSENT_FAN_OUT)
    assert not scene.fold.misplaced(ELSEWHERE.encode())


# Time and reads


def test_now_comes_from_append_times_of_facts_alone() -> None:
    scene = Scene()
    begun = scene.now
    scene.facts(command(METER, moved_in(), granted()))
    assert scene.now == begun + timedelta(seconds=1)
    scene.read()
    scene.send(scene.log.build("f", b"junk", None))
    scene.send(scene.log.facts(command(NEIGHBOUR, moved_in()), by=STRANGER))
    assert scene.now == begun + timedelta(seconds=1), "neither reads nor unsigned records count"
    stale = scene.log.facts(command(METER, revoked()))
    assert outcome(scene.send(stale)) == ("void", Reason.VOID_CHAIN)
    assert scene.now == from_epoch_ms(stale.append_ms), "a validly signed void one does"
    early = scene.log.facts(command(NEIGHBOUR, moved_in()), append_ms=stale.append_ms - 5_000)
    scene.send(early)
    assert scene.now == from_epoch_ms(stale.append_ms), "time never goes back"


@pytest.mark.parametrize("off_by_ms", [CLOCK_TOLERANCE_MS + 1, -CLOCK_TOLERANCE_MS - 1, 86_400_000])
def test_a_record_of_an_unsure_clock_applies_but_moves_no_time(off_by_ms: int) -> None:
    scene = Scene()
    before = scene.now
    unsure = scene.facts(command(METER, moved_in(), granted()), off_by_ms=off_by_ms)
    assert outcome(unsure) == ("applied", None)
    assert scene.now == before
    (decided,) = scene.read(request(), off_by_ms=off_by_ms)
    assert decided.decision == Refuse(Reason.CLOCK_UNSURE, concerned=True)
    within = CLOCK_TOLERANCE_MS if off_by_ms > 0 else -CLOCK_TOLERANCE_MS
    assert permits(scene.read(request(), off_by_ms=within)) == [True]


def test_a_read_is_decided_at_the_larger_of_now_and_its_own_append() -> None:
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    (decided,) = scene.read()
    assert decided.now_ms == scene.log.records[-1].append_ms
    assert from_epoch_ms(decided.now_ms) > scene.now
    (behind,) = scene.read(request(), append_ms=scene.log.clock_ms - 60_000)
    assert from_epoch_ms(behind.now_ms) == scene.now
    late_ms = scene.log.clock_ms + 400 * 86_400_000
    (expired,) = scene.read(request(), append_ms=late_ms)
    assert expired.decision == Refuse(Reason.CONSENT_EXPIRED, concerned=True)
    scene.log.clock_ms -= 400 * 86_400_000
    assert permits(scene.read()) == [True], "and it moved the time for nobody else"


def test_a_read_is_decided_by_its_place_and_each_member_on_its_own() -> None:
    scene = Scene()
    both = replace(request(), meters=(METER, NEIGHBOUR, ELSEWHERE))
    scene.facts(command(METER, moved_in(), granted()))
    decided = scene.read(both)
    assert permits(decided) == [True, False, False]
    assert [d.decision.reason for d in decided[1:] if isinstance(d.decision, Refuse)] == [
        Reason.METER_UNKNOWN,
        Reason.METER_UNKNOWN,
    ]
    row = scene.fold.subject(METER)
    scene.facts(command(METER, revoked(), previous=(row.offset, row.entry)))
    assert permits(scene.read(both)) == [False, False, False]


def test_only_the_wanted_requests_are_decided() -> None:
    scene = Scene()
    record = scene.log.access(request(), request(NEIGHBOUR, 2))
    scene.send(record)
    wanted = request(NEIGHBOUR, 2).request_id
    assert [d.member for d in scene.fold.decide_access(record, {wanted})] == [NEIGHBOUR]


@pytest.mark.parametrize(
    "how",
    [{"by": BY_CONSUMERS}, {"by": STRANGER}, {"by": ROOT}, {"root": bytes(32)}],
    ids=["a coordinator's", "a stranger's", "root's", "another Merkle root"],
)
def test_an_access_record_that_is_not_a_servers_decides_nothing(how: dict[str, Any]) -> None:
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    assert scene.read(request(), **how) == ()


def test_an_access_record_for_another_partition_decides_nothing() -> None:
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    other = PartitionLog(scene.log.topic, 0).access(request())
    assert other.value is not None
    mr = other.header("mr")
    assert mr is not None
    moved = scene.log.build(RecordType.ACCESS, other.value, BY_DSI, headers=(("mr", mr),))
    scene.send(moved)
    assert scene.fold.decide_access(moved) == ()
    unsigned = stripped(scene.log.access(request()), "sig")
    scene.send(unsigned)
    assert scene.fold.decide_access(unsigned) == ()


# Balance, prefixes, determinism


STORY = consumers_story()


def test_the_balance_holds_after_every_record() -> None:
    fold = PartitionFold(
        trust.CONSUMER_LOG, PARTITION, LOG_ID, TOOLS, MemoryRows(), CONSUMERS, GOVERNANCE
    )
    consumed = 0
    for record in STORY:
        applied = fold.apply(record)
        assert fold.head is not None and fold.head.counts.balanced
        assert fold.head.counts.consumed > consumed
        consumed = fold.head.counts.consumed
        assert fold.head.next_offset == record.offset + 1
        assert fold.head.holes == 0
        assert applied.counted(type(fold.head.counts)()).balanced
    counts = fold.head.counts if fold.head else None
    assert counts is not None
    assert min(counts.applied, counts.duplicate, counts.void, counts.quarantined) > 0
    assert min(counts.held, counts.access) > 0


def test_a_prefix_folds_to_what_was_seen_then_and_goes_on_from_its_rows() -> None:
    whole = digest(refold(STORY))
    for length in range(1, len(STORY)):
        rows = refold(STORY[:length])
        assert digest(rows) == digest(refold(STORY[:length]))
        resumed_fold = PartitionFold(
            trust.CONSUMER_LOG, PARTITION, LOG_ID, TOOLS, rows, CONSUMERS, GOVERNANCE
        )
        for record in STORY[length:]:
            resumed_fold.apply(record)
        assert digest(rows) == whole


def test_every_record_sent_twice_applies_once() -> None:
    twice = [replace(r, offset=2 * i + n) for i, r in enumerate(STORY) for n in (0, 1)]
    log, _ = started()
    scene = Scene()
    first = command(METER, moved_in(), granted())
    for _ in range(3):
        scene.facts(first)
        once = scene.content()
    assert scene.content() == once and len(state_of(scene).tenancies) == 1
    fold = PartitionFold(
        log.topic, log.partition, LOG_ID, TOOLS, MemoryRows(), CONSUMERS, GOVERNANCE
    )
    for record in twice:
        fold.apply(record)
        assert fold.head is not None and fold.head.counts.balanced


FOLD_IT = """
from tests.core.test_partition import STORY
from tests.helpers.records import digest, refold
print(*(digest(refold(STORY[:n])).hex() for n in range(1, len(STORY) + 1)))
"""


@pytest.mark.parametrize("seed", ["0", "424242"])
def test_every_prefix_folds_alike_in_a_process_of_another_hash_seed(seed: str) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", FOLD_IT],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        digest(refold(STORY[:n])).hex() for n in range(1, len(STORY) + 1)
    ]


def test_a_fold_asks_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def decisions() -> list[Any]:
        fold = PartitionFold(
            trust.CONSUMER_LOG, PARTITION, LOG_ID, TOOLS, MemoryRows(), CONSUMERS, GOVERNANCE
        )
        found = []
        for record in STORY:
            fold.apply(record)
            found.append((fold.decide_access(record), fold.head))
        return found

    def forbidden(*_: object) -> float:
        raise AssertionError("a fold asked what time it is")

    here = decisions()
    with monkeypatch.context() as patched:
        for clock in ("time", "time_ns", "monotonic", "monotonic_ns"):
            patched.setattr(f"time.{clock}", forbidden)
        elsewhere = decisions()
    assert here == elsewhere
    assert any(permits(decided) == [True] for decided, _ in here)


# Properties


class Racer:
    """A coordinator that decides on what its own fold has seen, and may be behind."""

    def __init__(self, name: str, records: list[LogRecord]) -> None:
        self.name, self.records = name, records
        self.fold = PartitionFold(
            trust.CONSUMER_LOG, PARTITION, LOG_ID, TOOLS, MemoryRows(), CONSUMERS, GOVERNANCE
        )
        self.seen = self.sent = 0

    def look(self) -> None:
        for record in self.records[self.seen :]:
            self.fold.apply(record)
        self.seen = len(self.records)

    def act(self, log: PartitionLog) -> bytes:
        """Start a tenancy and grant a consent in it: two facts that belong together."""
        row = self.fold.subject(METER)
        self.sent += 1
        name = f"{self.name}-{self.sent}"
        both = command(
            METER,
            moved_in(name),
            granted(name, name),
            previous=(row.offset, row.entry),
            id=name.encode().ljust(16),
        )
        log.keep(log.facts(both))
        return both.id


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["look a", "look b", "act a", "act b"]), max_size=14))
def test_racing_coordinators_never_half_apply_and_one_wins_each_race(steps: list[str]) -> None:
    log, _ = started()
    racers = {name: Racer(name, log.records) for name in "ab"}
    for racer in racers.values():
        racer.look()
    sent: dict[bytes, tuple[int, int]] = {}
    for step in steps:
        doing, name = step.split()
        if doing == "look":
            racers[name].look()
        else:
            row = racers[name].fold.subject(METER)
            sent[racers[name].act(log)] = (row.offset, row.entry)
    for racer in racers.values():
        racer.look()
    assert digest(racers["a"].fold.rows) == digest(racers["b"].fold.rows)  # type: ignore[arg-type]
    fold = racers["a"].fold
    state: MeterAccess = fold.subject(METER).state
    assert [t.tenancy_id for t in state.tenancies] == [c.consent_id for c in state.consents]
    won = [place for id, place in sent.items() if fold.applied_command(id) is not None]
    assert len(won) == len(set(won)), "two commands applied on one predecessor"
    on_the_chain = {place for place in sent.values() if place in won}
    lost = [place for id, place in sent.items() if fold.applied_command(id) is None]
    assert set(lost) <= on_the_chain, "who lost, lost to somebody on the same predecessor"
    assert len(state.tenancies) == len(won)


def flip(record: LogRecord, where: int, mask: int) -> LogRecord:
    """The record with one byte of its key, headers (names too) or value changed."""

    def changed(content: bytes, at: int) -> bytes:
        return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]

    assert record.value is not None
    if where < len(record.value):
        return replace(record, value=changed(record.value, where))
    where -= len(record.value)
    if record.key is not None:
        if where < len(record.key):
            return replace(record, key=changed(record.key, where))
        where -= len(record.key)
    headers = list(record.headers)
    for i, (name, value) in enumerate(headers):
        if where < len(name):
            changed_name = changed(name.encode(), where).decode("latin-1")
            headers[i] = (changed_name, value)
            break
        where -= len(name)
        if where < len(value):
            headers[i] = (name, changed(value, where))
            break
        where -= len(value)
    return replace(record, headers=tuple(headers))


def size(record: LogRecord) -> int:
    assert record.value is not None
    return (
        len(record.value)
        + len(record.key or b"")
        + sum(len(name) + len(value) for name, value in record.headers)
    )


def worth_flipping() -> list[LogRecord]:
    """The next record after some history, of each kind."""
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    row = scene.fold.subject(METER)
    log = scene.log
    seen = scene.home.records[-1].offset
    home = scene.home.say((trust.party_subject("b"), trust.ParticipantAdmitted("B")))
    return [
        log.facts(command(METER, revoked(), previous=(row.offset, row.entry))),
        log.facts(command(NEIGHBOUR, moved_in()), command("1200000000011", moved_in())),
        log.copy(home, seen),
        log.access(request()),
        log.opening(),
    ]


NEXT = worth_flipping()


def scene_before() -> Scene:
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    return scene


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_a_record_with_any_byte_changed_changes_nothing(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(NEXT))
    where = data.draw(st.integers(0, size(record) - 1))
    tampered = flip(record, where, data.draw(st.integers(1, 255)))
    assert tampered != record
    scene = scene_before()
    before, now = scene.content(), scene.now
    scene.send(tampered)
    assert scene.content() == before
    assert scene.now == now
    assert scene.fold.head is not None and not scene.fold.head.closed
    assert scene.fold.closed(METER) is None
    assert scene.fold.decide_access(tampered) == ()


def test_without_the_signature_check_a_changed_byte_is_believed() -> None:
    record = NEXT[0]
    believed = 0
    for where in random.Random(7).sample(range(size(record)), 60):
        scene = Scene(NoSignatureCheck)
        scene.facts(command(METER, moved_in(), granted()))
        before = scene.content()
        scene.send(flip(record, where, 1))
        believed += scene.content() != before
    assert believed > 10


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(range(len(STORY))), max_size=20), st.randoms())
def test_no_order_of_records_stops_a_fold_or_unbalances_it(
    order: list[int], chance: random.Random
) -> None:
    records = [STORY[i] for i in order]
    chance.shuffle(records)
    fold = PartitionFold(
        trust.CONSUMER_LOG, PARTITION, LOG_ID, TOOLS, MemoryRows(), CONSUMERS, GOVERNANCE
    )
    fold.apply(STORY[0])
    for offset, record in enumerate(records, start=1):
        fold.apply(replace(record, offset=offset))
        fold.decide_access(record)
        assert fold.head is not None and fold.head.counts.balanced
