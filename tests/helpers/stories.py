"""Histories of one partition, with something of everything that a fold can meet."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from msgspec import structs

from domains.btm_assets import BTM_ASSETS
from domains.consumers.acknowledgements import ACKNOWLEDGEMENTS
from domains.consumers.decider import CONSUMERS
from domains.consumers.erasure import ERASURES
from domains.consumers.fan_out import CONSENT_FAN_OUT
from domains.governance.decider import GOVERNANCE
from domains.governance.holds import PARTY_HOLDS
from domains.metering import AGGREGATES, METERING, READINGS
from domains.metering.catalogue import METERING_STANDING
from spine import trust
from spine.domain import Domain
from spine.event import NO_PREDECESSOR, Command, Fact, Facts, LogRecord, RecordType
from spine.rows import Applied
from spine.signing import Signer
from tests.helpers import aggregates
from tests.helpers.records import (
    BEGUN,
    BY_CONSUMERS,
    BY_DSI,
    BY_GOVERNANCE,
    BY_METERING,
    CODEC,
    ELSEWHERE,
    LATE,
    METER,
    NEIGHBOUR,
    PARTITION,
    STRANGER,
    Home,
    Scene,
    command,
    granted,
    moved_in,
    request,
    revoked,
    signer,
    suspended,
)
from tests.helpers.samples import ASSET, VALUES, gas_batch, readings_batch, withdrawn

BY_BTM_ASSETS = signer(6)
GAS_METER: Final = "3938424403"
GAS_PARTITION: Final = 1  # where that meter is at home
UNKNOWN_ID = b"\x00\x00\x00\xff\xffwhatever"


def unknown_fact(
    meter: str, previous: tuple[int, int] = (NO_PREDECESSOR, NO_PREDECESSOR)
) -> Command:
    """A fact of a type that this build does not know."""
    fact = Fact("consumers.ConsentDreamt", BEGUN, UNKNOWN_ID)
    known = command(meter, moved_in(), previous=previous)
    return structs.replace(known, facts=(fact,), id=b"dream" + bytes(11))


def revoke_consumers_key(scene: Scene) -> Applied:
    """Governance revokes the consumers coordinator's key, and the partition is told."""
    home = scene.home
    subject = trust.key_subject(BY_CONSUMERS.kid)
    assert home.first_keys.value is not None
    first = CODEC.decode(home.first_keys.value)
    assert isinstance(first, Facts)
    entry = [c.subject for c in first.commands].index(subject)
    revocation = command(
        subject,
        trust.SigningKeyRevoked("test"),
        domain=GOVERNANCE,
        previous=(home.first_keys.offset, entry),
    )
    before = home.records[-1].offset
    record = home.keep(home.facts(revocation, by=BY_GOVERNANCE, keyed=False))
    return scene.send(scene.log.copy(record, before))


def consumers_story() -> list[LogRecord]:
    """One partition of the consumer log."""
    scene = Scene()
    scene.facts(command(METER, moved_in(), granted()))
    scene.read()
    row = scene.fold.subject(METER)
    after = (row.offset, row.entry)
    scene.facts(command(METER, suspended(), previous=after), off_by_ms=10_000)
    scene.facts(command(METER, revoked(), previous=after))
    scene.facts(command(NEIGHBOUR, moved_in()), command(ELSEWHERE, moved_in()))
    scene.facts(command(NEIGHBOUR, moved_in()))
    scene.facts(command(METER, moved_in()), by=BY_METERING)
    scene.send(scene.log.build("f", b"junk", None))
    scene.send(scene.log.opening())
    scene.read(request(), request(NEIGHBOUR, 2))
    scene.facts(unknown_fact("1200000000011"))
    revoke_consumers_key(scene)
    scene.facts(command(NEIGHBOUR, moved_in("t-2")))
    return scene.log.records


def readings_story() -> list[LogRecord]:
    """One partition of the readings: two versions of a day, a duplicate, and three refusals."""
    scene = Scene(topic=trust.READINGS_TOPIC, domain=READINGS)
    first = readings_batch(METER, PARTITION)
    later = replace(readings_batch(METER, PARTITION, first_wh=500), batch_id=b"later" + bytes(11))
    for batch in (
        first,
        later,
        first,
        replace(first, unit="kWh"),
        replace(first, partition=0),
    ):
        scene.send(scene.log.build(RecordType.READINGS, batch, BY_METERING))
    scene.send(scene.log.build(RecordType.READINGS, later, BY_CONSUMERS))
    return scene.log.records


def corrections_story() -> list[LogRecord]:
    """The same topic: values refused, given, withdrawn and given again, and a false withdrawal."""
    scene = Scene(topic=trust.READINGS_TOPIC, domain=READINGS)
    first = readings_batch(METER, PARTITION)
    again = replace(readings_batch(METER, PARTITION, first_wh=500), batch_id=b"again" + bytes(11))
    taken_back = withdrawn(METER, PARTITION, 4, 12)
    for value in (
        replace(first, batch_id=b"minus" + bytes(11), values=b"\xff" * len(first.values)),
        first,
        taken_back,
        taken_back,
        replace(taken_back, reason="because", batch_id=bytes(16)),
        again,
        withdrawn(METER, PARTITION, 10, 11, "another"),
    ):
        scene.send(scene.log.build(RecordType.READINGS, value, BY_METERING))
    return scene.log.records


def gas_story() -> list[LogRecord]:
    """Volumes of a gas meter, once each and one of them twice, and volumes of nobody's batch."""
    scene = Scene(topic=trust.READINGS_TOPIC, partition=GAS_PARTITION, domain=READINGS)
    first = gas_batch(GAS_METER, GAS_PARTITION)
    later = replace(gas_batch(GAS_METER, GAS_PARTITION, 300), batch_id=b"later" + bytes(11))
    for batch in (first, later, first, replace(later, batch_id=bytes(16), partition=PARTITION)):
        scene.send(scene.log.build(RecordType.READINGS, batch, BY_METERING))
    return scene.log.records


def aggregates_story() -> list[LogRecord]:
    """Two days of a GSP group: one meter leaves, others come; one made too late, two unsafe."""
    scene = Scene(topic=trust.AGGREGATES_TOPIC, partition=0, domain=AGGREGATES)

    def send(record: object) -> None:
        scene.send(scene.log.build(RecordType.READINGS, record, BY_METERING))

    first = aggregates.published()
    late = aggregates.published(day=aggregates.DAY + timedelta(days=1))
    for record in (first, first, late, replace(late, meters_min=3)):
        send(record)
    later = aggregates.meters(range(2, 14))
    send(aggregates.published(scene.rows, later, aggregates.DAY + timedelta(days=1)))
    return scene.log.records


def facts_story(domain: Domain, by: Signer, subject: str, *events: object) -> list[LogRecord]:
    """Every event of a domain in turn; then a command again, a chain that is cut, another
    domain's key, a fact that does not fit, one of a later build, and junk.
    """
    keyed = domain.topic in trust.METER_KEYED
    scene = Scene(topic=domain.topic, partition=PARTITION if keyed else 0, domain=domain)
    if by is BY_BTM_ASSETS:
        authorised = trust.SigningKeyAuthorised(by.public_key, "btm_assets", "assets")
        before = scene.home.records[-1].offset
        home = scene.home.say((trust.key_subject(by.kid), authorised))
        scene.send(scene.log.copy(home, before))
    previous = (NO_PREDECESSOR, NO_PREDECESSOR)
    commands = []
    for event in events:
        one = command(subject, event, previous=previous, domain=domain)
        scene.facts(one, by=by)
        row = scene.fold.subject(subject)
        assert (row.offset, row.entry) != previous, event
        previous = (row.offset, row.entry)
        commands.append(one)
    again = commands[0]
    scene.facts(again, by=by)
    scene.facts(structs.replace(again, id=b"cut off" + bytes(9)), by=by)
    scene.facts(structs.replace(again, id=b"alien" + bytes(11)), by=BY_DSI)
    twice = structs.replace(commands[-1].facts[0], body=commands[0].facts[0].body)
    misfit = structs.replace(commands[-1], id=b"misfit" + bytes(10), facts=(twice,))
    scene.facts(_after(misfit, previous), by=by)
    neighbour = structs.replace(again, subject=NEIGHBOUR, id=b"neighbour" + bytes(7))
    scene.facts(neighbour, structs.replace(again, id=b"cut again" + bytes(7)), by=by)
    unknown = structs.replace(again.facts[0], type=f"{domain.name}.Dreamt", body=UNKNOWN_ID)
    dreamt = structs.replace(again, id=b"dreamt" + bytes(10), facts=(unknown,))
    scene.facts(_after(dreamt, previous), by=by)
    scene.facts(_after(structs.replace(again, id=b"after" + bytes(11)), previous), by=by)
    scene.send(scene.log.build("f", b"junk", None))
    return scene.log.records


def _after(one: Command, previous: tuple[int, int]) -> Command:
    return structs.replace(one, previous_offset=previous[0], previous_entry=previous[1])


def registry_story() -> list[LogRecord]:
    """One partition of the register of metering points."""
    kinds = ("MeteringPointRegistered", "MeterCommunicationLost", "MeterCommunicationRestored")
    events = (VALUES[f"metering/{kind}/1"] for kind in (*kinds, "MeteringPointDeregistered"))
    return facts_story(METERING, BY_METERING, METER, *events)


def assets_story() -> list[LogRecord]:
    """One partition of the assets behind meters: a battery's life, and another that is rejected."""
    kinds = ("Declared", "Linked", "Verified", "Activated", "Suspended", "Transferred")
    life = [VALUES[f"btm_assets/Asset{kind}/1"] for kind in (*kinds, "Unlinked", "Decommissioned")]
    declared, rejected = VALUES["btm_assets/AssetDeclared/1"], VALUES["btm_assets/AssetRejected/1"]
    other: Any = f"{ASSET[:-1]}2"
    second = [replace(one, asset_id=other) for one in (declared, rejected)]  # type: ignore[type-var]
    return facts_story(BTM_ASSETS, BY_BTM_ASSETS, METER, *life, *second)


def orders_story() -> list[LogRecord]:
    """The home of consents over several meters."""
    kinds = ("FanOutOrdered", "FanOutCompleted")
    events = (VALUES[f"consumers/{kind}/1"] for kind in kinds)
    return facts_story(CONSENT_FAN_OUT, BY_CONSUMERS, "consent-1", *events)


def records_story() -> list[LogRecord]:
    """One meter's consent with a record, asked for, granted and narrowed, and one without."""
    kinds = ("Granted", "TermsRecorded", "Narrowed", "Suspended", "Resumed", "Revoked")
    asked = VALUES["consumers/ConsentRequested/1"]
    scene = Scene()
    previous = (NO_PREDECESSOR, NO_PREDECESSOR)
    events: list[tuple[Any, ...]] = [(VALUES["consumers/TenancyStarted/1"],), (asked,)]
    granted_, recorded, *rest = (VALUES[f"consumers/Consent{kind}/1"] for kind in kinds)
    events += [(granted_, recorded), *((one,) for one in rest), (granted("other"),)]
    for number, said in enumerate(events):
        one = command(METER, *said, previous=previous, id=bytes([number]) * 16)
        scene.facts(one)
        row = scene.fold.subject(METER)
        assert (row.offset, row.entry) != previous, said
        previous = (row.offset, row.entry)
    alone = command(METER, recorded, previous=previous, id=b"alone" + bytes(11))
    scene.facts(alone)
    return scene.log.records


def objections_story() -> list[LogRecord]:
    """One meter whose occupier objects to a use, and to another that it allows again."""
    no, yes = VALUES["consumers/UseObjected/1"], VALUES["consumers/UseAllowed/1"]
    other = replace(no, basis="OPT_OUT", purpose="BILLING")  # type: ignore[type-var]
    events = (VALUES["consumers/TenancyStarted/1"], no, other, yes)
    return facts_story(CONSUMERS, BY_CONSUMERS, METER, *events)


def erasures_story() -> list[LogRecord]:
    """A subject that is restricted, and then erased."""
    events = (VALUES[f"consumers/Subject{kind}/1"] for kind in ("Restricted", "Erased"))
    return facts_story(ERASURES, BY_CONSUMERS, "c-1", *events)


def acknowledgements_story() -> list[LogRecord]:
    """What a receiver has taken in, which it may say twice."""
    said = VALUES["consumers/ChangeAcknowledged/1"]
    return facts_story(ACKNOWLEDGEMENTS, BY_CONSUMERS, "change-1", said, said)


def webhooks_story() -> list[LogRecord]:
    """A receiver that says where to tell it, and whose address is gone later."""
    events = (VALUES[f"consumers/Webhook{kind}/1"] for kind in ("Set", "Removed"))
    return facts_story(ACKNOWLEDGEMENTS, BY_CONSUMERS, "webhook/data_user/user-1", *events)


def confirmations_story() -> list[LogRecord]:
    """What a data user has deleted, which it may say twice."""
    said = VALUES["consumers/DeletionConfirmed/1"]
    return facts_story(ACKNOWLEDGEMENTS, BY_CONSUMERS, "deletion/1", said, said)


def holds_story() -> list[LogRecord]:
    """A party that is held, and released by two people."""
    held, released, approved = (
        VALUES[f"governance/{kind}/1"] for kind in ("PartyHeld", "PartyReleased", "ReleaseApproved")
    )
    another = replace(approved, approved_by="bob")  # type: ignore[type-var]
    return facts_story(PARTY_HOLDS, BY_GOVERNANCE, "adviser", held, approved, another, released)


def standing_story() -> list[LogRecord]:
    """A list of standing data: an entry, and another that was a slip."""
    events = (VALUES[f"reference/Code{kind}/1"] for kind in ("Listed", "Withdrawn"))
    return facts_story(METERING_STANDING, BY_METERING, "distributors", *events)


def equivalence_story() -> list[LogRecord]:
    """The home of governance: three tables, and one that is out of turn, which nobody adopted."""
    home = Home()
    home.policy_and_adviser()
    third = VALUES["governance/EquivalenceTableAdopted/1"]
    assert isinstance(third, trust.EquivalenceTableAdopted)
    first, second = replace(third, version=1), trust.EquivalenceTableAdopted(2, ())
    previous = NO_PREDECESSOR
    for table in (first, second, third):
        said = home.say((trust.EQUIVALENCE_SUBJECT, table), previous=previous)
        previous = said.offset
    home.say((trust.EQUIVALENCE_SUBJECT, first), previous=previous)
    return home.records


def identifiers_story() -> list[LogRecord]:
    """The home of governance: a party is given its own identifiers, and then MPxNs again."""
    home = Home()
    home.policy_and_adviser()
    subject, previous = trust.identifiers_subject("data_user", "adviser"), NO_PREDECESSOR
    pairwise = VALUES["governance/IdentifiersSet/1"]
    for fact in (pairwise, trust.IdentifiersSet("MPXN", "APPEALED"), pairwise):
        previous = home.say((subject, fact), previous=previous).offset
    return home.records


def governance_story() -> list[LogRecord]:
    """The home of governance: keys, a policy, and all that can be said of a participant."""
    home = Home()
    first = home.policy_and_adviser()
    adviser, offset, entry = trust.party_subject("adviser"), first.offset, 1
    for kind in (
        "ParticipantSuspended",
        "ParticipantReinstated",
        "AccreditationWithdrawn",
        "AccreditationGranted",
        "ParticipantAdmitted",
    ):
        said = command(
            adviser, VALUES[f"governance/{kind}/1"], domain=GOVERNANCE, previous=(offset, entry)
        )
        record = home.keep(home.facts(said, by=BY_GOVERNANCE, keyed=False))
        offset, entry = record.offset, 0
    late = trust.SigningKeyAuthorised(LATE.public_key, "dsi", "dsi-9")
    authorised = home.say((trust.key_subject(LATE.kid), late))
    revocation = trust.SigningKeyRevoked("rotated")
    home.say((trust.key_subject(LATE.kid), revocation), previous=authorised.offset)
    home.say((trust.key_subject(STRANGER.kid), late), by=BY_CONSUMERS)
    home.keep(home.build("f", b"junk", None))
    return home.records
