"""Members of a set that are sent in one message: each is decided, cut and recorded on its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pytest
import pytest_asyncio

from domains.consumers.commands import (
    RevokeConsent,
    StartSupply,
    StartTenancy,
)
from domains.metering.adapters.report import MeterDays
from domains.metering.readings import Delivery, batch_from_columns
from spine import trust
from spine.access import Ruling
from spine.audit_report import Line
from spine.console.audits import run_audit
from spine.console.client import interval
from spine.console.context import use
from spine.dsi.process import start_dsi
from spine.dsi.stream import Chunks, ReadingsStream
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.dsi.watch import Watches
from spine.embedded import EmbeddedKafka
from spine.errors import Pushback, Reason
from spine.event import RecordType
from spine.gb import Interval
from spine.identity import DEV_SERVER_NAME
from spine.live import LiveFold
from spine.murmur2 import murmur2_partition
from spine.server import connect
from spine.verdict import Verdict
from tests.helpers.log import open_new_log
from tests.helpers.town import ADVISER, CONSUMER, MPAN, SERVICE, Dsi, Town, open_dsi, query, settle

# Around the change to summer time of 2024: from the 30th of March to the 2nd of April.
SPRING: Final = Interval(datetime(2024, 3, 30, tzinfo=UTC), datetime(2024, 4, 3, tzinfo=UTC))
SINCE: Final = datetime(2024, 1, 1, tzinfo=UTC)
METERS: Final = 6

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    data_dir = tmp_path_factory.mktemp("together")
    with EmbeddedKafka(data_dir) as broker:
        settings, kafka = await open_new_log(broker, data_dir)
        async with settle(settings, kafka) as settled:
            use(settings.model_copy(update={"kafka_bootstrap": kafka.bootstrap}))
            settled.runtime.authority().issue_client(ADVISER.role, ADVISER.party)
            for mpxn in neighbours(settled):
                await settled.consumer(StartSupply(SERVICE, "north-supply", SINCE), mpxn)
                tenancy = StartTenancy(SERVICE, f"tenancy-{mpxn}", CONSUMER.party, SINCE)
                await settled.consumer(tenancy, mpxn)
            await record(settled, neighbours(settled)[:-1])
            yield settled


def neighbours(town: Town) -> list[str]:
    """Meters of one partition, whose last has no readings."""
    named = (f"16000000{number:05d}" for number in range(1_000))
    there = (m for m in named if murmur2_partition(m.encode(), 4) == town.partition and m != MPAN)
    return [next(there) for _ in range(METERS)]


async def record(town: Town, mpxns: list[str]) -> None:
    """A value for every half hour, but for some of the second meter."""
    first, days = (SPRING.start - datetime(1970, 1, 1, tzinfo=UTC)).days, 4
    rows = len(mpxns) * days
    present = np.ones((rows, 48), np.bool_)
    present[days : days + 2, 5:9] = False
    table = MeterDays(
        mpxns=np.repeat(np.array(mpxns, "S13"), days),
        days=np.tile(np.arange(first, first + days, dtype=np.int32), len(mpxns)),
        present=present,
        values_wh=np.where(present, np.arange(rows * 48).reshape(rows, 48), 0).astype(np.int32),
        quality=np.zeros((rows, 48), np.uint8),
        quality_codes=("A",),
        quantity="AI",
    )
    batch = batch_from_columns(
        table,
        town.partition,
        Delivery("north-supply", "spring"),
        registration_position=2,
        consumer_log_position=2,
    )
    await town.metering.write(RecordType.READINGS, trust.READINGS_TOPIC, town.partition, batch)


@pytest_asyncio.fixture(loop_scope="module")
async def allowed(town: Town) -> AsyncIterator[list[str]]:
    """The meters whose occupier allows the adviser to read: all but the third."""
    mpxns = [mpxn for number, mpxn in enumerate(neighbours(town)) if number != 2]
    for mpxn in mpxns:
        await allow(town, mpxn)
    yield mpxns
    for mpxn in mpxns:
        await take_back(town, mpxn)


async def allow(town: Town, mpxn: str) -> Any:
    """The occupier lets the adviser read; where that stands in the log."""
    consent_id = f"together-{datetime.now(UTC).timestamp()}-{mpxn}"
    return await town.grant(consent_id, mpxn, SINCE)


async def take_back(town: Town, mpxn: str) -> Any:
    """The occupier's consents end; where the last of that stands in the log."""
    done = None
    for consent in town.consumers.state(mpxn).consents:
        done = await town.consumer(RevokeConsent(CONSUMER, consent.consent_id), mpxn)
    return done


def stream(town: Town, dsi: Dsi, mpxns: list[str], together: int) -> Any:
    asked = query(interval=SPRING)
    return ReadingsStream(dsi.reads, dsi.watches, asked, mpxns, (), together).messages(False)


async def audited(town: Town, since: int, partition: int | None = None) -> list[Line]:
    """What an audit says of the reads of the partition from an offset on."""
    of = town.partition if partition is None else partition
    lines: list[Line] = []
    await asyncio.to_thread(run_audit, lines.append)
    return [x for x in lines if x.partition == of and x.offset >= since]


async def test_members_are_answered_as_they_are_alone_and_the_audit_finds_the_same(
    town: Town, allowed: list[str]
) -> None:
    mpxns = neighbours(town)
    async with open_dsi(town, "alike") as dsi:
        since = dsi.folds[trust.CONSUMER_LOG, town.partition].next_offset
        together = [chunks async for chunks in stream(town, dsi, mpxns, 4)]
        alone = [chunks async for chunks in stream(town, dsi, mpxns, 1)]
        await dsi.outcomes.flush()
    assert [len(chunks) for chunks in together] == [4, 2]
    assert [len(chunks) for chunks in alone] == [1] * METERS
    shown = [[told(chunk) for chunks in sent for chunk in chunks] for sent in (together, alone)]
    assert shown[0] == shown[1]
    refused = {mpxn: why for mpxn, _, why, _, _ in shown[0] if why}
    assert refused == {mpxns[2]: Reason.NOT_PERMITTED}
    recorded = {mpxn: rows for mpxn, _, why, rows, _ in shown[0] if not why}
    assert recorded == {mpxns[0]: 192, mpxns[1]: 184, mpxns[3]: 192, mpxns[4]: 192, mpxns[5]: 0}
    lines = await audited(town, since)
    assert {line.verdict for line in lines} == {Verdict.SAME}
    assert Counter(line.release for line in lines) == {"RELEASED": 10, "REFUSED": 2}


def told(chunk: Any) -> tuple[str, int, Reason | None, int, bytes]:
    made = chunk.answer
    what = (0, b"") if made is None else (made.rows, made.digest)
    return chunk.mpxn, chunk.number, chunk.refused, *what


async def revoked_in_between(town: Town, mpxns: list[str], name: str) -> tuple[Chunks, list[Line]]:
    """The second message of two, after a consent in its middle was revoked, and the audit."""
    async with open_dsi(town, name) as dsi:
        live = dsi.folds[trust.CONSUMER_LOG, town.partition]
        since = live.next_offset
        messages = stream(town, dsi, mpxns, 2)
        await anext(messages)
        acknowledged = await take_back(town, mpxns[3])
        await live.passed(acknowledged.offset, 5)
        second = await anext(messages)
        assert len([chunks async for chunks in messages]) == 1
        await dsi.outcomes.flush()
    return second, await audited(town, since)


async def test_a_member_revoked_before_its_message_is_made_is_not_in_it(
    town: Town, allowed: list[str]
) -> None:
    mpxns = [*neighbours(town)[:2], *neighbours(town)[3:]]
    second, lines = await revoked_in_between(town, mpxns, "cut")
    assert [(c.mpxn, c.refused, c.answer is None) for c in second] == [
        (mpxns[2], None, False),
        (mpxns[3], Reason.CONSENT_REVOKED, True),
    ]
    assert {line.verdict for line in lines} == {Verdict.SAME}
    assert Counter(line.release for line in lines) == {"RELEASED": 4, "NOT_RELEASED": 1}


async def test_without_the_watch_it_would_be_sent_for_as_long_as_the_permit_lives(
    town: Town, allowed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watches, "add", lambda self, watch: None)
    mpxns = [*neighbours(town)[:2], *neighbours(town)[3:]]
    second, _ = await revoked_in_between(town, mpxns, "unwatched")
    assert [c.refused for c in second] == [None, None], "the naive stream sends what was revoked"


async def test_who_may_read_again_by_the_time_of_its_message_is_in_it(
    town: Town, allowed: list[str]
) -> None:
    async with open_dsi(town, "again") as dsi:
        live = dsi.folds[trust.CONSUMER_LOG, town.partition]
        messages = stream(town, dsi, allowed, 2)
        await anext(messages)
        await take_back(town, allowed[3])
        await live.passed((await allow(town, allowed[3])).offset, 5)
        assert [c.refused for c in await anext(messages)] == [None, None]
        await messages.aclose()


async def test_a_stream_that_is_closed_lets_go_of_its_set_and_owes_no_outcome(
    town: Town, allowed: list[str]
) -> None:
    async with open_dsi(town, "closed") as dsi:
        since = dsi.folds[trust.CONSUMER_LOG, town.partition].next_offset
        messages = stream(town, dsi, allowed, 2)
        await anext(messages)
        assert dsi.watches._open
        await messages.aclose()
        assert not dsi.watches._open
        await dsi.outcomes.flush()
    lines = await audited(town, since)
    assert Counter(line.release for line in lines) == {"RELEASED": 2, "NOT_RELEASED": 3}


async def test_what_the_permit_does_not_last_for_is_asked_again_and_each_decision_has_its_outcome(
    town: Town, allowed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mpxns = neighbours(town)
    async with open_dsi(town, "expiring") as dsi:
        since = dsi.folds[trust.CONSUMER_LOG, town.partition].next_offset
        sources, made = dsi.reads.sources, []

        def counted(vector: Any) -> Any:
            made.append(vector)
            return sources(vector)

        monkeypatch.setattr(dsi.reads, "sources", counted)
        monkeypatch.setattr(Ruling, "expired", property(lambda self: len(made) == 2))
        messages = [chunks async for chunks in stream(town, dsi, mpxns, 4)]
        await dsi.outcomes.flush()
    sent = [chunk.mpxn for chunks in messages for chunk in chunks]
    assert sent == mpxns and len(made) == 3
    lines = await audited(town, since)
    assert {line.verdict for line in lines} == {Verdict.SAME}
    assert Counter(line.release for line in lines) == {
        "RELEASED": 5,
        "REFUSED": 1,
        "NOT_RELEASED": 2,
    }


@pytest_asyncio.fixture(loop_scope="module")
async def abroad(town: Town, allowed: list[str]) -> AsyncIterator[list[str]]:
    """Meters of another partition, which the adviser may read, too."""
    named = (f"17000000{number:05d}" for number in range(1_000))
    there = (m for m in named if murmur2_partition(m.encode(), 4) == elsewhere(town))
    mpxns = [next(there) for _ in range(3)]
    for mpxn in mpxns:
        if not town.consumers.state(mpxn).tenancies:
            await town.consumer(StartSupply(SERVICE, "north-supply", SINCE), mpxn)
            tenancy = StartTenancy(SERVICE, f"tenancy-{mpxn}", CONSUMER.party, SINCE)
            await town.consumer(tenancy, mpxn)
        await allow(town, mpxn)
    yield mpxns
    for mpxn in mpxns:
        await take_back(town, mpxn)


def elsewhere(town: Town) -> int:
    return (town.partition + 1) % 4


def a_meter_of(partition: int) -> str:
    """A meter of which nobody said anything."""
    named = (f"18000000{number:05d}" for number in range(1_000))
    return next(m for m in named if murmur2_partition(m.encode(), 4) == partition)


async def asked_ahead(town: Town, dsi: Dsi, mpxns: list[str]) -> tuple[Any, LiveFold, int]:
    """A stream whose first message is there, once the other partition has decided meanwhile."""
    live = dsi.folds[trust.CONSUMER_LOG, elsewhere(town)]
    since = live.next_offset
    messages = stream(town, dsi, mpxns, 4)
    await anext(messages)
    await live.passed(since, 5)
    return messages, live, since


async def test_the_next_partition_decides_while_the_last_is_sent_and_a_revocation_still_cuts(
    town: Town, allowed: list[str], abroad: list[str]
) -> None:
    async with open_dsi(town, "ahead") as dsi:
        messages, live, since = await asked_ahead(town, dsi, [*allowed, *abroad])
        revoked = await take_back(town, abroad[1])
        assert revoked.offset > since, "it was decided when it was not revoked yet"
        await live.passed(revoked.offset, 5)
        sent = [chunk async for chunks in messages for chunk in chunks]
        await dsi.outcomes.flush()
        assert not dsi.watches._open
    assert [(c.mpxn, c.refused) for c in sent[1:]] == [
        (abroad[0], None),
        (abroad[1], Reason.CONSENT_REVOKED),
        (abroad[2], None),
    ]
    lines = await audited(town, since, elsewhere(town))
    assert {line.verdict for line in lines} == {Verdict.SAME}
    assert Counter(line.release for line in lines) == {"RELEASED": 2, "NOT_RELEASED": 1}


async def test_without_the_watch_what_was_decided_ahead_would_be_sent(
    town: Town, allowed: list[str], abroad: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watches, "add", lambda self, watch: None)
    async with open_dsi(town, "unwatched-ahead") as dsi:
        messages, live, _ = await asked_ahead(town, dsi, [*allowed, *abroad])
        await live.passed((await take_back(town, abroad[1])).offset, 5)
        sent = [chunk async for chunks in messages for chunk in chunks]
    assert [c.refused for c in sent[1:]] == [None] * 3, "the naive stream sends what was revoked"


async def test_a_permit_that_ran_out_before_its_turn_is_asked_for_again(
    town: Town, allowed: list[str], abroad: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_dsi(town, "stale") as dsi:
        messages, _, since = await asked_ahead(town, dsi, [*allowed, *abroad])
        late = property(lambda r: (r.partition, r.offset) == (elsewhere(town), since))
        monkeypatch.setattr(Ruling, "expired", late)
        sent = [chunk async for chunks in messages for chunk in chunks]
        await dsi.outcomes.flush()
    assert [(c.mpxn, c.number, c.refused) for c in sent[1:]] == [(m, 0, None) for m in abroad]
    lines = await audited(town, since, elsewhere(town))
    assert {line.verdict for line in lines} == {Verdict.SAME}
    assert Counter(line.release for line in lines) == {"RELEASED": 3, "NOT_RELEASED": 3}


@pytest.mark.parametrize("ran_out_in", ["the partition before", "its own"])
async def test_once_a_permit_asked_ahead_ran_out_none_is_asked_ahead(
    town: Town,
    allowed: list[str],
    abroad: list[str],
    monkeypatch: pytest.MonkeyPatch,
    ran_out_in: str,
) -> None:
    before = allowed[-1] if ran_out_in == "the partition before" else abroad[1]
    others = [(elsewhere(town) + 1) % 4, (elsewhere(town) + 2) % 4]
    third, fourth = (a_meter_of(partition) for partition in others)
    late: set[tuple[int, int]] = set()
    monkeypatch.setattr(Ruling, "expired", property(lambda r: (r.partition, r.offset) in late))
    sent: list[tuple[str, Reason | None]] = []
    async with open_dsi(town, f"slow-{before}") as dsi:
        live = dsi.folds[trust.CONSUMER_LOG, elsewhere(town)]
        since = live.next_offset
        async for chunks in stream(town, dsi, [*allowed, *abroad, third, fourth], 2):
            await live.passed(since, 5)
            sent += [(c.mpxn, c.refused) for c in chunks]
            if chunks[-1].mpxn == before:
                late.add((elsewhere(town), since))
            if chunks[0].mpxn == third:
                assert {watch.partition for watch in dsi.watches._open} == {others[0]}
        await dsi.outcomes.flush()
    refused = [(m, Reason.NOT_PERMITTED) for m in (third, fourth)]
    assert sent == [(m, None) for m in [*allowed, *abroad]] + refused
    lines = await audited(town, since, elsewhere(town))
    twice = 3 if before == allowed[-1] else 1
    assert Counter(line.release for line in lines) == {"RELEASED": 3, "NOT_RELEASED": twice}


@pytest.mark.parametrize("decided", [True, False])
async def test_what_was_asked_ahead_for_a_caller_who_left_has_its_outcome(
    town: Town, allowed: list[str], abroad: list[str], decided: bool
) -> None:
    async with open_dsi(town, f"left-{decided}") as dsi:
        live = dsi.folds[trust.CONSUMER_LOG, elsewhere(town)]
        since = live.next_offset
        messages = stream(town, dsi, [*allowed, *abroad], 4)
        await anext(messages)
        while not decided and not dsi.access[elsewhere(town)]._wanted:
            await asyncio.sleep(0)
        if decided:
            await live.passed(since, 5)
        await messages.aclose()
        assert not dsi.watches._open
        await live.passed(since, 5)
        await asyncio.sleep(0.1)
        await dsi.outcomes.flush()
    lines = await audited(town, since, elsewhere(town))
    assert {line.verdict for line in lines} == {Verdict.SAME}
    assert Counter(line.release for line in lines) == {"NOT_RELEASED": 3}


async def test_what_was_asked_ahead_says_why_its_stream_failed_and_not_that_its_caller_left(
    town: Town, allowed: list[str], abroad: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def behind(vector: Any) -> Any:
        raise Pushback(Reason.DATA_BEHIND, "the rows are not there just now")

    async with open_dsi(town, "failed") as dsi:
        live = dsi.folds[trust.CONSUMER_LOG, elsewhere(town)]
        since = live.next_offset
        messages = stream(town, dsi, [*allowed, *abroad], 4)
        await anext(messages)
        while not dsi.access[elsewhere(town)]._wanted:
            await asyncio.sleep(0)
        monkeypatch.setattr(dsi.reads, "sources", behind)
        with pytest.raises(Pushback):
            await anext(messages)
        assert not dsi.watches._open
        assert live.next_offset == since, "it was not decided yet"
        await live.passed(since, 5)
        await asyncio.sleep(0.1)
        await dsi.outcomes.flush()
    lines = await audited(town, since, elsewhere(town))
    told = Counter((line.release, line.why, line.verdict) for line in lines)
    assert told == {("NOT_RELEASED", "DATA_BEHIND", Verdict.SAME): 3}


async def test_over_the_wire_a_member_is_the_chunk_that_would_have_come_alone(
    town: Town, allowed: list[str]
) -> None:
    process = await start_dsi(town.runtime, "dsi-together")
    assert process.server is not None
    folder = town.runtime.settings.data_dir / "identities" / ADVISER.party
    target = f"127.0.0.1:{process.server.port}"
    request = dsi_pb2.StreamReadingsRequest(
        mpxns=neighbours(town),
        purpose="ENERGY_ADVICE",
        basis="CONSENT",
        interval=interval(SPRING.start, SPRING.end),
        in_columns=True,
    )
    async with connect(target, folder, server_name=DEV_SERVER_NAME) as channel:
        stub: Any = dsi_pb2_grpc.DsiStub(channel)
        alone = [chunk async for chunk in stub.StreamReadings(request, timeout=20)]
        request.members_per_message = 32
        (message,) = [each async for each in stub.StreamReadings(request, timeout=20)]
    await process.stop()
    assert [field.name for field, _ in message.ListFields()] == ["members"]
    as_chunks = [as_chunk(member) for member in message.members]
    assert [bare(each) for each in as_chunks] == [bare(each) for each in alone]
    of_set = {each.decision.request_id for each in as_chunks if not each.refused}
    assert len(of_set) == 1 and of_set != {alone[0].decision.request_id}
    assert all(each.positions.positions for each in as_chunks if not each.refused)


def as_chunk(member: Any) -> Any:
    """A member has its fields under the numbers that they have in a chunk."""
    return dsi_pb2.StreamReadingsResponse.FromString(member.SerializeToString())


def bare(chunk: Any) -> Any:
    """A chunk but for the place and the time of its decision."""
    copy = type(chunk)()
    copy.CopyFrom(chunk)
    for field in ("decision", "positions"):
        copy.ClearField(field)
    return copy
