"""Histories of one partition, with something of everything that a fold can meet."""

from __future__ import annotations

from dataclasses import replace

from domains.governance.decider import GOVERNANCE
from domains.metering import READINGS
from spine import trust
from spine.event import NO_PREDECESSOR, Command, Fact, Facts, LogRecord, RecordType
from spine.rows import Applied
from tests.helpers.records import (
    BEGUN,
    BY_CONSUMERS,
    BY_GOVERNANCE,
    BY_METERING,
    CODEC,
    ELSEWHERE,
    METER,
    NEIGHBOUR,
    PARTITION,
    Scene,
    command,
    granted,
    moved_in,
    request,
    revoked,
    suspended,
)
from tests.helpers.samples import readings_batch, withdrawn

UNKNOWN_ID = b"\x00\x00\x00\xff\xffwhatever"


def unknown_fact(
    meter: str, previous: tuple[int, int] = (NO_PREDECESSOR, NO_PREDECESSOR)
) -> Command:
    """A fact of a type that this build does not know."""
    fact = Fact("consumers.ConsentDreamt", BEGUN, UNKNOWN_ID)
    known = command(meter, moved_in(), previous=previous)
    return replace(known, facts=(fact,), id=b"dream" + bytes(11))


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
