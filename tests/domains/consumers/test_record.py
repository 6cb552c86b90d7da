"""The record of a consent: what it says, whom it names, and the chain of its versions."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from msgspec import structs

from domains.consumers import chain
from domains.consumers.chain import (
    HASH_LINE,
    ConsentRecord,
    MeterRecord,
    as_kept,
    broken,
    lines,
    record_of,
)
from domains.consumers.changes import SHUT
from domains.consumers.commands import GrantConsent, RequestConsent
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import (
    AgentAppointed,
    ConsentDeclined,
    ConsentGranted,
    ConsentNarrowed,
    ConsentResumed,
    ConsentRevoked,
    ConsentSuspended,
    ConsentTermsRecorded,
    ConsentWithdrawn,
)
from domains.consumers.fan_out import CONSENT_FAN_OUT, OrderFanOut
from domains.consumers.legs import legs
from domains.consumers.record import (
    GRANULARITY_OF,
    RECIPIENTS_MAX,
    Granularity,
    RecordTerms,
    record_is_wider,
    says_the_same,
)
from domains.consumers.views import RecordedConsentView, as_it_stood, consents_for
from spine.answer import records_digest
from spine.domain import fold
from spine.errors import Reason, Refused
from spine.event import Sealed
from spine.policy import Category, Consent, MeterAccess, Role
from tests.domains.consumers.home import (
    ADVISER,
    ANNA,
    HOME,
    MAY,
    MOVED_IN,
    NOW,
    SERVICE,
    day,
    grant,
    granted,
    request,
    requested,
    terms,
)
from tests.helpers.changes import changes
from tests.helpers.records import CODEC, METER, TOOLS, Scene, command
from tests.helpers.specification import given

HOUR = timedelta(hours=1)
SEALED = Sealed("k-1", bytes(12), b"sealed", "record/k-1")
SHARED = RecordTerms(
    "ACCOUNT_HOLDER",
    "SUBSTANTIAL",
    "LOGIN",
    "100012345678",
    "HALF_HOUR",
    True,
    ("partner", "insurer"),
    "cloud-1",
    "REC other user",
    "CIN",
    SEALED,
    b"\x01" * 32,
)
RECORDED = ConsentTermsRecorded("k-1", SHARED, MAY)
GRANTED = (*HOME, granted(), RECORDED)
NARROWED = ConsentNarrowed("k-1", 2, ("TARIFF",), day(3), day(12), MAY + HOUR)
# Of the granted consent below as the build before records digested it.
DIGEST_OF_BEFORE = "74f6ec3e839ea5144a21c77cfa708c5a8df6c7331f773d56852a078b1d5a03c3"
REVOKED = ConsentRevoked("k-1", MAY + 2 * HOUR)


def recorded(**said: Any) -> GrantConsent:
    return replace(grant(), record=RecordTerms(**said))


def record(access: MeterAccess, consent_id: str = "k-1") -> ConsentRecord:
    found = record_of(access, consent_id)
    assert found is not None
    return found


def consent(access: MeterAccess) -> Consent:
    (found,) = access.consents
    return found


def version(*events: Any) -> dict[str, str]:
    """The newest version of the record, as a receipt holds it."""
    access = fold(CONSUMERS, events)
    newest = record(access)
    return {**lines(consent(access), newest), HASH_LINE: newest.hash.hex(), "state": "ACTIVE"}


# What a record may say


def test_a_grant_is_recorded_in_the_same_command() -> None:
    said = replace(grant(), record=SHARED)
    granted_at = granted(at=NOW)
    given(CONSUMERS, *HOME).when(said).then(granted_at, structs.replace(RECORDED, decided_at=NOW))
    given(CONSUMERS, *HOME).when(grant()).then(granted_at)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"relation": "LODGER"}, Reason.CODE_UNKNOWN),
        ({"authentication_level": "CERTAIN"}, Reason.CODE_UNKNOWN),
        ({"authentication_method": "GUESS"}, Reason.CODE_UNKNOWN),
        ({"evidence_method": "GUESS"}, Reason.CODE_UNKNOWN),
        ({"granularity": "MINUTE"}, Reason.CODE_UNKNOWN),
        ({"granularity": "DAY"}, Reason.GRANULARITY_TOO_FINE),
        ({"granularity": "READING"}, Reason.GRANULARITY_TOO_FINE),
        ({"recipients": ("partner",)}, Reason.ONWARD_SHARING_NOT_ALLOWED),
        ({"recipients": ("partner",) * 2, "onward_sharing": True}, Reason.FIELD_INVALID),
        ({"recipients": ("adviser",), "onward_sharing": True}, Reason.FIELD_INVALID),
        (
            {
                "recipients": tuple(f"p-{n:03}" for n in range(RECIPIENTS_MAX + 1)),
                "onward_sharing": True,
            },
            Reason.FIELD_INVALID,
        ),
    ],
)
def test_a_record_that_does_not_fit_its_consent_is_refused(
    said: dict[str, Any], reason: Reason
) -> None:
    given(CONSUMERS, *HOME).when(recorded(**said)).refused(reason)
    asked = replace(request(), record=RecordTerms(**said))
    given(CONSUMERS, *HOME).when(asked).refused(reason)
    order = OrderFanOut(
        ANNA, "k-1", "GRANT", (METER, "1200000000005"), terms(), record=RecordTerms(**said)
    )
    given(CONSENT_FAN_OUT).when(order).refused(reason)


@pytest.mark.parametrize(
    ("granularity", "category", "fits"),
    [
        ("HALF_HOUR", "HH_CONSUMPTION", True),
        ("DAY", "HH_CONSUMPTION", False),
        ("DAY", "EXPORT", False),
        ("DAY", "DAILY", True),
        ("READING", "DAILY", False),
        ("READING", "REGISTER", True),
        ("READING", "TARIFF", True),
        ("READING", "ASSET", True),
        ("", "HH_CONSUMPTION", True),
    ],
)
def test_no_category_is_finer_than_the_granularity(
    granularity: str, category: str, fits: bool
) -> None:
    asked = replace(grant(categories=(category,)), record=RecordTerms(granularity=granularity))
    specified = given(CONSUMERS, *HOME).when(asked)
    if fits:
        assert CONSUMERS.decide(specified.state, asked, NOW)
    else:
        specified.refused(Reason.GRANULARITY_TOO_FINE)


def test_every_category_of_values_has_a_granularity() -> None:
    """A category that is new and forgotten would be let through at any granularity."""
    standing = {
        *(Category.TARIFF, Category.ASSET, Category.METERING_POINT),
        *(Category.CONSENTS, Category.LOAD_CONTROL),
    }
    assert {*GRANULARITY_OF, *standing} == set(Category)
    assert set(Granularity) == set(GRANULARITY_OF.values())


def test_a_grant_shares_no_more_than_was_asked_for() -> None:
    asked = RecordTerms(granularity="HALF_HOUR", onward_sharing=True, recipients=("partner",))
    before = (*HOME, requested(), structs.replace(RECORDED, terms=asked))
    for said in (
        {"recipients": ("partner", "insurer"), "onward_sharing": True},
        {"recipients": ("insurer",), "onward_sharing": True},
    ):
        given(CONSUMERS, *before).when(recorded(**said)).refused(Reason.CONSENT_WIDER)
    given(CONSUMERS, *HOME, requested()).when(recorded(onward_sharing=True)).refused(
        Reason.CONSENT_WIDER
    )
    daily = RecordTerms(granularity="DAY")
    assert record_is_wider(RecordTerms(granularity="HALF_HOUR"), daily)
    assert not record_is_wider(RecordTerms(granularity="READING"), daily)
    assert not record_is_wider(None, daily)
    less = recorded(onward_sharing=True, recipients=("partner",))
    after = (
        given(CONSUMERS, *before)
        .when(less)
        .then(granted(at=NOW), ConsentTermsRecorded("k-1", less.record or RecordTerms(), NOW))
    )
    assert record(after.state).version == 2


def test_the_same_again_is_already_so_and_anything_else_is_another_consent() -> None:
    said = replace(grant(), record=SHARED)
    same = replace(SHARED, details=replace(SEALED, nonce=b"\x01" * 12), tier="another by now")
    for again in (said, replace(said, record=same)):
        given(CONSUMERS, *GRANTED).when(again).nothing()
    assert says_the_same(None, RecordTerms())
    for other in (
        replace(SHARED, recipients=("partner",)),
        replace(SHARED, details_digest=b""),
        None,
    ):
        given(CONSUMERS, *GRANTED).when(replace(said, record=other)).refused(Reason.CONSENT_EXISTS)


def test_at_several_meters_every_leg_has_the_record() -> None:
    order = OrderFanOut(ANNA, "k-1", "GRANT", (METER, "1200000000005"), terms(), record=SHARED)
    events = CONSENT_FAN_OUT.decide(CONSENT_FAN_OUT.initial(), order, NOW)
    state = fold(CONSENT_FAN_OUT, events)
    (ordered,) = state.orders
    sent = [one for _, one in legs(state, ordered.ordered)]
    assert [one.record for one in sent if isinstance(one, GrantConsent)] == [SHARED, SHARED]
    again = replace(order, record=replace(SHARED, tier=""))
    assert CONSENT_FAN_OUT.decide(state, again, NOW) == ()
    with pytest.raises(Refused) as refused:
        CONSENT_FAN_OUT.decide(state, replace(order, record=None), NOW)
    assert refused.value.reason is Reason.CONSENT_EXISTS
    asking = replace(order, by=ADVISER, action="REQUEST", answer_by=day(7))
    asked = fold(CONSENT_FAN_OUT, CONSENT_FAN_OUT.decide(CONSENT_FAN_OUT.initial(), asking, NOW))
    (first,) = (one for _, one in legs(asked, asked.orders[0].ordered)[:1])
    assert isinstance(first, RequestConsent) and first.record == SHARED
    more = replace(order, record=replace(SHARED, recipients=("stranger",)))
    with pytest.raises(Refused) as wider:
        CONSENT_FAN_OUT.decide(asked, more, NOW)
    assert wider.value.reason is Reason.CONSENT_WIDER


# The state


def test_a_record_is_only_of_the_command_beside_it() -> None:
    """A fact that comes on its own would say anew what the consumer had agreed to."""
    for before, event in (
        (HOME, RECORDED),
        ((*HOME, granted()), structs.replace(RECORDED, decided_at=MAY + HOUR)),
        (GRANTED, RECORDED),
        ((*GRANTED, NARROWED), structs.replace(RECORDED, decided_at=MAY + HOUR)),
        ((*GRANTED, REVOKED), structs.replace(RECORDED, decided_at=MAY + 2 * HOUR)),
    ):
        with pytest.raises(Refused):
            CONSUMERS.evolve(fold(CONSUMERS, before), event)


def test_home_takes_no_record_without_an_order_beside_it() -> None:
    order = OrderFanOut(ANNA, "k-1", "GRANT", (METER, "1200000000005"), terms(), record=SHARED)
    events = CONSENT_FAN_OUT.decide(CONSENT_FAN_OUT.initial(), order, NOW)
    ordered, recorded = events
    for before, event in (
        ((), recorded),
        ((ordered,), structs.replace(recorded, decided_at=NOW + HOUR)),
        (events, recorded),
    ):
        with pytest.raises(Refused) as refused:
            CONSENT_FAN_OUT.evolve(fold(CONSENT_FAN_OUT, before), event)
        assert refused.value.reason is Reason.CONSENT_STATE


def test_without_a_record_a_row_is_byte_for_byte_what_it_was() -> None:
    """Stores and digests of a log without records stay; the naive row would differ in every one."""
    scene = Scene()
    scene.facts(command(METER, MOVED_IN, granted()))
    row = scene.fold.subject(METER)
    scene.facts(command(METER, REVOKED, previous=(row.offset, row.entry)))
    stored = scene.rows.get(b"s/" + METER.encode())
    assert stored is not None and b"records" not in stored
    naive = MeterRecord(*(getattr(row.state, f.name) for f in structs.fields(MeterAccess)))
    assert b"records" in TOOLS.pack(naive)


def test_a_record_survives_the_store_and_a_replay() -> None:
    scene = Scene()
    scene.facts(command(METER, MOVED_IN, granted(), RECORDED))
    row = scene.fold.subject(METER)
    scene.facts(command(METER, NARROWED, previous=(row.offset, row.entry)))
    stored = as_kept(scene.fold.subject(METER).state)
    assert stored == fold(CONSUMERS, (MOVED_IN, granted(), RECORDED, NARROWED))
    assert record(stored).terms == SHARED and record(stored).version == 2
    assert CODEC.decode_event("consumers.ConsentTermsRecorded", CODEC.encode(RECORDED)) == RECORDED


# The chain


LIFE = (
    NARROWED,
    ConsentSuspended("k-1", "governance", "INQUIRY", MAY + 2 * HOUR),
    ConsentResumed("k-1", MAY + 3 * HOUR),
    ConsentWithdrawn("k-1", MAY + 4 * HOUR),
)


def test_each_version_names_the_hash_of_the_one_before() -> None:
    versions = [version(*GRANTED, *LIFE[:n]) for n in range(len(LIFE) + 1)]
    assert [one["record version"] for one in versions] == ["1", "2", "3", "4", "5"]
    assert "previous record" not in versions[0]
    for before, after in pairwise(versions):
        assert after["previous record"] == before[HASH_LINE]
    states = [one.get("recorded state") for one in versions]
    assert states == ["ACTIVE", "ACTIVE", "SUSPENDED", "ACTIVE", "WITHDRAWN"]
    sides = [one.get("changed by") for one in versions]
    assert sides == ["consumer", "consumer", "governance", None, "data_user"]
    assert versions[2]["reason"] == "INQUIRY" and "reason" not in versions[3]
    assert len({one["last confirmed"] for one in versions}) == 2
    assert broken(versions) == broken(versions[::2]) == broken(versions * 2) == []


def test_a_request_begins_the_chain_and_its_answer_goes_on_with_it() -> None:
    asked = (*HOME, requested(), RECORDED)
    first = version(*asked)
    assert (first["recorded state"], first["changed by"]) == ("REQUESTED", "data_user")
    assert "last confirmed" not in first
    granted_later = granted(at=MAY + HOUR)
    without = version(*asked, granted_later)
    assert "recipients" not in without and without["onward sharing"] == "not allowed"
    answered = version(*asked, granted_later, structs.replace(RECORDED, decided_at=MAY + HOUR))
    assert answered["previous record"] == without["previous record"] == first[HASH_LINE]
    assert answered["record version"] == "2" and "recipients" in answered
    declined = version(*asked, ConsentDeclined("k-1", MAY + HOUR))
    assert declined["changed by"] == "consumer"


def test_an_edited_middle_version_is_found_and_named() -> None:
    """A check of each version by itself misses one that was made anew with its own hash."""
    versions = [version(*GRANTED, *LIFE[:n]) for n in range(3)]
    edited = {**versions[1], "recipients": "partner insurer stranger"}
    kept = [versions[0], edited, versions[2]]
    assert broken(kept) == ["version 2 is not what its hash says"]
    forged = {**edited, HASH_LINE: chain.record_hash(edited).hex()}
    alone = [one for one in (versions[0], forged, versions[2]) if broken([one])]
    assert alone == []
    assert broken([versions[2], forged, versions[0]]) == [
        "version 2 is not the one that version 3 names"
    ]
    assert broken([versions[1], forged]) == ["there are two versions 2"]
    for odd in ({**versions[0], "record version": "first"}, {}):
        assert len(broken([odd])) == 1


def test_every_part_of_a_record_changes_its_hash() -> None:
    access = fold(CONSUMERS, GRANTED)
    newest, agreed = record(access), consent(access)
    plain = lines(agreed, newest)
    assert list(plain) == [name for name in chain.LINES if name in plain]
    empty = replace(newest, terms=RecordTerms())
    assert chain.record_hash(lines(agreed, empty)) != newest.hash
    for part in fields(RecordTerms):
        without = replace(SHARED, **{part.name: getattr(RecordTerms(), part.name)})
        said = lines(agreed, replace(newest, terms=without))
        assert chain.record_hash(said) != newest.hash, part.name
    assert SEALED.ciphertext.hex() not in "".join(plain.values())
    by_hand = "".join(f"{n}: {v}\n" for n, v in plain.items())
    text = f"energyos.consent-record.v1\n{by_hand}"
    assert sha256(text.encode()).digest() == newest.hash


# What is shown


def test_both_parties_are_shown_the_record_and_only_the_consumer_who_it_is() -> None:
    access = fold(CONSUMERS, (*GRANTED, AgentAppointed("collector", "data_service", day(1))))
    (own,) = consents_for(access, "consumer", "c-anna", NOW)
    (theirs,) = consents_for(access, "data_user", "adviser", NOW)
    assert isinstance(own, RecordedConsentView) and isinstance(theirs, RecordedConsentView)
    shown = own.record
    assert shown.consumer_ref == "c-anna" and theirs.record.consumer_ref == ""
    assert replace(shown, consumer_ref="") == theirs.record
    assert (shown.recipients, shown.holders) == (("partner", "insurer"), ("collector",))
    assert shown.hash == record(access).hash and shown.data_from == day(3)
    assert "sealed" not in repr(own) and shown.has_details
    assert consents_for(access, "data_user", "partner", NOW) == ()


def test_what_has_no_record_is_shown_as_ever() -> None:
    """An answer of before is made again from the same rows, so nothing may be in it but that."""
    access = fold(CONSUMERS, (*HOME, granted()))
    (view,) = consents_for(access, "consumer", "c-anna", NOW)
    assert not hasattr(view, "record")
    assert records_digest((view,)).hex() == DIGEST_OF_BEFORE


def test_a_record_is_shown_as_it_stood() -> None:
    events = (*GRANTED, NARROWED, REVOKED)
    known = [fold(CONSUMERS, events[: n + 1]) for n in range(len(events))]
    then = as_it_stood(known, MAY + HOUR)
    assert record(then) == record(fold(CONSUMERS, (*GRANTED, NARROWED)))
    assert record(as_it_stood(known, NOW)).version == 3
    assert record_of(as_it_stood(known, day(2)), "k-1") is None


# Who is told


@pytest.mark.parametrize("end", [REVOKED, ConsentWithdrawn("k-1", MAY + 2 * HOUR), None])
def test_each_recipient_is_told_of_the_end_and_nobody_else(end: Any) -> None:
    """Telling the data user alone, as before there were recipients, misses who was handed it."""
    at = NOW if end is not None else day(12) + HOUR
    events = (*GRANTED, *(() if end is None else (end,)))
    found = changes(METER, fold(CONSUMERS, events), at)
    told = {(one.receiver, one.told_as) for one in found}
    naive = {
        one.receiver
        for one in changes(METER, fold(CONSUMERS, [e for e in events if e is not RECORDED]), at)
    }
    assert {("partner", Role.DATA_USER), ("insurer", Role.DATA_USER)} <= told
    own = {("adviser", Role.DATA_USER)} if not isinstance(end, ConsentWithdrawn) else set()
    consumer = {("c-anna", Role.CONSUMER)}
    assert told == own | consumer | {("partner", Role.DATA_USER), ("insurer", Role.DATA_USER)}
    assert not naive & {"partner", "insurer", "stranger"}
    assert len({one.id for one in found}) == len(found)


def test_recipients_are_told_nothing_of_what_goes_on_or_never_was() -> None:
    for events in (
        GRANTED,
        (*GRANTED, NARROWED),
        (*HOME, requested(), RECORDED),
        (*HOME, requested(), RECORDED, ConsentDeclined("k-1", MAY + HOUR)),
    ):
        told = {one.receiver for one in changes(METER, fold(CONSUMERS, events), NOW)}
        assert told <= {"adviser", "c-anna"}
    granted_without: tuple[Any, ...] = (
        *(*HOME, requested(), RECORDED),
        granted(at=MAY + HOUR),
        ConsentRevoked("k-1", MAY + 2 * HOUR),
    )
    told = {one.receiver for one in changes(METER, fold(CONSUMERS, granted_without), NOW)}
    assert told == {"adviser", "c-anna"}


@pytest.mark.parametrize("asked", [False, True])
def test_who_was_told_of_a_suspension_is_told_that_it_is_over(asked: bool) -> None:
    """Told only of what is shut, they go on as if it were. A narrowing since changes nothing."""
    at = MAY + HOUR
    begun: tuple[Any, ...] = (*GRANTED, AgentAppointed("collector", Role.DATA_SERVICE, day(1)))
    if asked:
        recorded_then = structs.replace(RECORDED, decided_at=at)
        begun = (*HOME, requested(), RECORDED, granted(at=at), recorded_then, begun[-1])
    narrowed = structs.replace(NARROWED, decided_at=at + HOUR)
    suspended = ConsentSuspended("k-1", "governance", "INQUIRY", at + 2 * HOUR)
    resumed = ConsentResumed("k-1", at + 3 * HOUR)
    again = structs.replace(NARROWED, version=3, decided_at=at + 4 * HOUR)
    rest = {("partner", Role.DATA_USER), ("insurer", Role.DATA_USER)}
    rest |= {("collector", Role.DATA_SERVICE)}

    def told(*events: Any) -> set[tuple[str, str, Role]]:
        found = changes(METER, fold(CONSUMERS, (*begun, *events)), at + 5 * HOUR)
        return {(one.receiver, one.state, one.told_as) for one in found}

    def naive(*events: Any) -> set[tuple[str, str, Role]]:
        return {(who, state, role) for who, state, role in told(*events) if state in SHUT}

    def all_of(state: str) -> set[tuple[str, str, Role]]:
        return {(who, state, role) for who, role in rest}

    for events in ((), (narrowed,)):
        assert not {who for who, _, _ in told(*events)} & {who for who, _ in rest}
    assert told(narrowed, suspended) >= all_of("SUSPENDED")
    for rest_of_it in ((suspended, resumed), (narrowed, suspended, resumed, again)):
        assert told(*rest_of_it) >= all_of("ACTIVE")
        assert not naive(*rest_of_it) >= all_of("ACTIVE")


def test_without_a_record_nothing_says_that_it_was_ever_suspended() -> None:
    events = (*HOME, granted(), *LIFE[1:3])
    told = {one.receiver for one in changes(METER, fold(CONSUMERS, events), NOW)}
    assert told == {"adviser", "c-anna"}


def test_the_service_says_it_for_the_consumer() -> None:
    said = replace(grant(SERVICE), record=SHARED)
    after = (
        given(CONSUMERS, *HOME)
        .when(said)
        .then(
            ConsentGranted(
                **{f.name: getattr(granted(at=NOW), f.name) for f in structs.fields(ConsentGranted)}
            ),
            structs.replace(RECORDED, decided_at=NOW),
        )
    )
    assert record(after.state).changed_by == "consumer"
