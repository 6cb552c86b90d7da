"""The fence on a real broker: with it no read passes after a revocation, without it some do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError

from domains.consumers.commands import ResumeConsent, SuspendConsent, tightens
from domains.consumers.decider import CONSUMERS
from domains.governance.commands import (
    AuthoriseSigningKey,
    ReinstateParticipant,
    SuspendParticipant,
)
from domains.governance.commands import subject_of as governance_subject
from domains.governance.decider import GOVERNANCE
from domains.metering import METERING, READINGS
from spine import trust
from spine.audit_report import Line
from spine.common.v1 import common_pb2
from spine.console.audits import run_audit
from spine.console.context import use
from spine.coordinator import Coordinator
from spine.dsi.stream import ReadingsStream
from spine.dsi.v1 import dsi_pb2
from spine.embedded import EmbeddedKafka
from spine.errors import Invalid, NotPermitted, Pushback, Reason
from spine.event import LogRecord
from spine.log import LogReader
from spine.reducers import REDUCERS_HEADER, read
from spine.runtime import Process, Runtime
from spine.services import wire
from spine.signing import Signer
from spine.spread import Spreader
from spine.store import StoreReader
from spine.verdict import Verdict
from spine.writer import LogWriter
from tests.helpers.log import open_new_log
from tests.helpers.town import (
    ADVISER,
    BOARD,
    DAY,
    MPAN,
    SERVICE,
    STRANGER,
    Dsi,
    Town,
    at_least,
    chunks_of,
    open_dsi,
    order,
    query,
    settle,
)

ROUNDS = 25
TOKENS = 200
OUTCOMES = trust.OUTCOMES_TOPIC
WAIT_S, HELD_UP_S = 30.0, 0.02

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    data_dir = tmp_path_factory.mktemp("town")
    with EmbeddedKafka(data_dir) as broker:
        settings, kafka = await open_new_log(broker, data_dir)
        async with settle(settings, kafka) as settled:
            yield settled


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_left_allowed(town: Town) -> AsyncIterator[None]:
    yield
    for consent in town.consumers.state(MPAN).consents:
        await town.revoke(consent.consent_id)


async def reads_after_revocation(
    town: Town, dsi: Dsi, name: str, held_up_s: float
) -> tuple[int, int]:
    """Rounds of grant, read, revoke, read: how many were permitted before, and how many after.

    A read of the naive kind asks the view as it is; the view of a server lags behind what the
    coordinator has acknowledged, here by a fold that is held up for a moment, or until it is asked.
    """
    before = after = 0
    live = dsi.folds["consumers.events.v1", town.partition]
    for number in range(ROUNDS):
        consent = f"{name}-{number}"
        granted = await town.grant(consent)
        await live.passed(granted.offset, WAIT_S)
        judged, _ = await dsi.reads.read_one(query(), MPAN, ())
        before += judged.permitted
        deliver = live.deliver
        held: list[object] = []
        live.deliver = held.append  # type: ignore[method-assign, assignment]
        await town.revoke(consent)
        reading = asyncio.create_task(dsi.reads.read_one(query(), MPAN, ()))
        await asyncio.wait({reading}, timeout=held_up_s)
        live.deliver = deliver  # type: ignore[method-assign]
        for record in held:
            live.deliver(record)  # type: ignore[arg-type]
        try:
            await reading
            after += 1
        except NotPermitted as refused:
            assert refused.reason is Reason.CONSENT_REVOKED
    return before, after


async def test_no_read_passes_after_a_revocation_and_without_the_fence_some_do(
    town: Town,
) -> None:
    recorded = await town.record()
    async with open_dsi(town) as dsi, open_dsi(town, "naive", fence=False) as naive:
        for server in (dsi, naive):
            await server.data.reach(recorded.topic, recorded.partition, recorded.offset + 1, WAIT_S)
        assert await reads_after_revocation(town, dsi, "fenced", HELD_UP_S) == (ROUNDS, 0)
        before, violations = await reads_after_revocation(town, naive, "naive", WAIT_S)
        assert before == ROUNDS
        assert violations > 0, "the naive read must leak, or this test shows nothing"


async def test_the_answer_is_what_was_recorded_as_of_the_positions(town: Town) -> None:
    first = await town.record(wh=100, reference="as-of")
    await town.grant("consent-the_answer_is")
    async with open_dsi(town) as dsi:
        _, answer = await dsi.reads.read_one(query(), MPAN, at_least(first))
        assert answer.rows == 7 * 48
        assert {row.recorded.value_wh for row in answer.half_hours if row.recorded} == {100}
        vector = await dsi.reads.positions("HH_CONSUMPTION", town.partition, ())
        second = await town.record(days=1, wh=250, reference="corrected")
        _, corrected = await dsi.reads.read_one(query(), MPAN, at_least(second))
        values = [row.recorded.value_wh for row in corrected.half_hours if row.recorded]
        assert values == [250] * 48 + [100] * 6 * 48
        _, as_before = await dsi.reads.read_at(query(), MPAN, vector)
        assert as_before.digest == answer.digest


def tokens(log_id: bytes, partition: int) -> Iterator[Any]:
    """Position tokens of this log that somebody made up, or changed bytes of."""
    dice = random.Random(4)
    topics = (*trust.TOPICS, "metering.registry.v1\0", "nowhere", "", "x" * 300)
    offsets = (-(2**63), -1, 0, 1, 2**31, 2**63 - 1)
    for _ in range(TOKENS):
        made = common_pb2.PositionToken(log_id=log_id)
        for _ in range(dice.choice((1, 2, 3, 40))):
            made.positions.add(
                topic=dice.choice(topics),
                partition=dice.choice((partition, partition, 0, -1, 2**31 - 1)),
                offset=dice.choice(offsets),
            )
        written = bytearray(made.SerializeToString())
        for _ in range(dice.randrange(4)):
            written[dice.randrange(len(written))] = dice.randrange(256)
        try:
            yield common_pb2.PositionToken.FromString(bytes(written))
        except DecodeError:  # gRPC itself refuses it
            continue


async def test_any_position_token_is_answered_or_refused_with_a_reason(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spine.dsi.reads.REACH_TIMEOUT_S", 0.005)
    recorded = await town.record(reference="tokens")
    await town.grant("consent-tokens")
    log_id, ended = town.runtime.identity.log_id, Counter[str]()
    async with open_dsi(town) as dsi:
        await dsi.data.reach(recorded.topic, recorded.partition, recorded.offset + 1, WAIT_S)
        for token in tokens(log_id, town.partition):
            request = dsi_pb2.GetReadingsRequest(at_least=token)
            try:
                vector = wire.at_least(request, log_id, town.runtime.partitions)
                await dsi.reads.read_one(query(), MPAN, vector)
                ended["answered"] += 1
            except (Invalid, Pushback) as refused:
                ended[refused.reason] += 1
        judged, _ = await dsi.reads.read_one(query(), MPAN, at_least(recorded))
    assert judged.permitted
    assert set(ended) == {"answered", Reason.POSITION_INVALID, Reason.FOLD_BEHIND}, ended


async def test_strangers_and_unknown_meters_are_refused_alike(town: Town) -> None:
    await town.record()
    await town.grant("consent-strangers")
    async with open_dsi(town) as dsi:
        refusals = []
        for mpxn in (MPAN, "1200000000011"):
            with pytest.raises(NotPermitted) as refused:
                await dsi.reads.read_one(query(STRANGER), mpxn, ())
            refusals.append((refused.value.reason, refused.value.message))
        assert refusals[0] == refusals[1]
        assert refusals[0][0] is Reason.NOT_PERMITTED


def next_record(offset: int, partition: int, log: LogReader) -> LogRecord:
    return next(log.read(OUTCOMES, partition, offset))


async def test_an_outcome_says_by_which_reducers_the_stores_were_folded(town: Town) -> None:
    """As the stores say it: the process that folds them may be of another build than the server."""
    await town.record()
    await town.grant("consent-reducers")
    said = []
    async with open_dsi(town, "reducers") as dsi:
        for asked in (query(), query(STRANGER)):
            with contextlib.suppress(NotPermitted):
                await dsi.reads.read_one(asked, MPAN, ())
            await dsi.outcomes.flush()
            _, end = await dsi.reader.run(lambda log: log.bounds(OUTCOMES, town.partition))
            last = partial(next_record, end - 1, town.partition)
            record = await dsi.reader.run(last)
            said.append(read(record.header(REDUCERS_HEADER)))
    decided = {trust.CONSUMER_LOG: (CONSUMERS.version, GOVERNANCE.version)}
    data = {d.topic: (d.version, GOVERNANCE.version) for d in (METERING, READINGS)}
    assert said == [{**decided, **data}, decided]


async def test_a_stopped_fold_stops_every_answer(town: Town) -> None:
    await town.record()
    granted = await town.grant("consent-a_stopped")
    async with open_dsi(town) as dsi:
        live = dsi.folds["consumers.events.v1", town.partition]
        await live.passed(granted.offset, WAIT_S)
        await dsi.reads.read_one(query(), MPAN, ())
        await dsi.reads.access[town.partition].ensure_moving()
        await dsi.folds.stop()
        with pytest.raises(Pushback) as stopped:
            await dsi.reads.read_one(query(), MPAN, ())
        assert stopped.value.reason is Reason.FOLD_BEHIND
        assert stopped.value.retry_after_s > 0
        live.moved_at -= 60
        with pytest.raises(Pushback):
            await dsi.reads.access[town.partition].ensure_moving()


async def test_a_server_whose_clock_is_off_is_refused_and_facts_do_not_follow_its_clock(
    town: Town,
) -> None:
    await town.record()
    await town.grant("consent-a_server_whose")
    async with open_dsi(town, clock_off_ms=6_000) as dsi:
        with pytest.raises(NotPermitted) as refused:
            await dsi.reads.read_one(query(), MPAN, ())
        assert refused.value.reason is Reason.CLOCK_UNSURE
    async with open_dsi(town, "almost", clock_off_ms=3_000) as dsi:
        judged, _ = await dsi.reads.read_one(query(), MPAN, ())
        assert judged.permitted


async def test_a_permit_that_ran_out_releases_nothing(town: Town) -> None:
    await town.record()
    await town.grant("consent-a_permit")
    async with open_dsi(town) as dsi:
        vector = await dsi.reads.positions("HH_CONSUMPTION", town.partition, ())
        (judged,) = await dsi.reads.decide(query(), (MPAN,), vector)
        late = replace(judged, ruling=replace(judged.ruling, expires_at=0.0))
        with pytest.raises(Pushback) as expired:
            dsi.reads.answer(late)
        assert expired.value.reason is Reason.PERMIT_EXPIRED


async def test_an_open_stream_gets_new_versions_and_is_cut_without_a_request(town: Town) -> None:
    recorded = await town.record()
    await town.grant("consent-an_open")
    async with open_dsi(town) as dsi:
        stream = ReadingsStream(dsi.reads, dsi.watches, query(), [MPAN], at_least(recorded))
        chunks = chunks_of(stream)
        first = await asyncio.wait_for(anext(chunks), WAIT_S)
        assert first.answer is not None
        assert first.answer.rows == 7 * 48
        assert first.complete
        await town.record(days=1, wh=321, reference="news")
        news = await asyncio.wait_for(anext(chunks), WAIT_S)
        assert news.answer is not None
        assert news.answer.half_hours[0].start == DAY
        assert len(news.answer.half_hours) == 48
        waiting = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await town.revoke("consent-an_open")
        cut = await asyncio.wait_for(waiting, WAIT_S)
        assert cut.refused is Reason.CONSENT_REVOKED
        with pytest.raises(NotPermitted) as ended:
            await anext(chunks)
        assert ended.value.reason is Reason.CONSENT_REVOKED


async def test_a_suspension_cuts_streams_and_refuses_reads(town: Town) -> None:
    recorded = await town.record()
    await town.grant("consent-a_suspension")
    async with open_dsi(town) as dsi:
        stream = ReadingsStream(dsi.reads, dsi.watches, query(), [MPAN], at_least(recorded))
        chunks = chunks_of(stream)
        await asyncio.wait_for(anext(chunks), WAIT_S)
        waiting = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0.2)
        await town.govern(SuspendParticipant(BOARD, ADVISER.party, "under investigation"))
        cut = await asyncio.wait_for(waiting, WAIT_S)
        assert cut.refused is Reason.PARTICIPANT_SUSPENDED
        await chunks.aclose()
        with pytest.raises(NotPermitted) as refused:
            await dsi.reads.read_one(query(), MPAN, ())
        assert refused.value.reason is Reason.PARTICIPANT_SUSPENDED
        await town.govern(ReinstateParticipant(BOARD, ADVISER.party, "cleared"))
        judged, _ = await dsi.reads.read_one(query(), MPAN, ())
        assert judged.permitted


async def test_a_caller_that_hangs_up_takes_nobody_with_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.record()
    await town.grant("consent-hang-up")
    async with open_dsi(town, "hang-up") as dsi:
        vector = await dsi.reads.positions("HH_CONSUMPTION", town.partition, ())
        log = dsi.access[town.partition]
        write, begun, go_on = log._writer.write, asyncio.Event(), asyncio.Event()

        async def held_up(*given: Any, **more: Any) -> Any:
            begun.set()
            await go_on.wait()
            return await write(*given, **more)

        monkeypatch.setattr(log._writer, "write", held_up)
        gone, stays = (
            asyncio.ensure_future(dsi.reads.decide(query(), (MPAN,), vector)) for _ in range(2)
        )
        await asyncio.wait_for(begun.wait(), WAIT_S)
        gone.cancel()
        go_on.set()
        (judged,) = await asyncio.wait_for(stays, WAIT_S)
        dsi.reads.release(judged, dsi.reads.answer(judged))
        await asyncio.sleep(0.2)
        await dsi.outcomes.flush()
        offset = judged.ruling.offset
    lines = [line for line in await asyncio.to_thread(audited, town) if line.offset == offset]
    assert {line.verdict for line in lines} == {Verdict.SAME}
    assert sorted(line.release for line in lines) == ["NOT_RELEASED", "RELEASED"]


async def test_rows_that_are_not_there_just_now_are_not_called_never_recorded(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.record()
    await town.grant("consent-rows")
    async with open_dsi(town) as dsi:
        vector = await dsi.reads.positions("HH_CONSUMPTION", town.partition, ())
        (judged,) = await dsi.reads.decide(query(), (MPAN,), vector)
        monkeypatch.setattr(StoreReader, "refresh", lambda self: False)
        dsi.data._refreshed.clear()
        with pytest.raises(Pushback) as behind:
            dsi.reads.answer(judged)
        assert behind.value.reason is Reason.DATA_BEHIND


async def test_a_key_that_the_partitions_do_not_know_spreads_nothing_and_claims_nothing(
    town: Town,
) -> None:
    """Otherwise a suspension would be acknowledged everywhere and hold nowhere."""
    successor = Signer.of(Ed25519PrivateKey.generate())
    runtime = town.runtime
    await town.governance.handle(
        order(
            governance_subject(
                AuthoriseSigningKey(BOARD, successor.public_key, "governance", "k2")
            ),
            AuthoriseSigningKey(BOARD, successor.public_key, "governance", "k2"),
            BOARD,
        )
    )
    writer = LogWriter(
        town.process.appender, successor, runtime.identity.log_id, runtime.codec, "/energyos/k2"
    )
    progress = runtime.settings.data_dir / "k2.json"
    heir = Spreader(writer, GOVERNANCE, runtime.partitions, progress)
    await asyncio.to_thread(load, heir, runtime)
    home = max(heir._due)
    with pytest.raises(Pushback) as unknown:
        await heir.spread()
    assert unknown.value.reason is Reason.KEY_NOT_SEEN
    assert heir.holding(home) == 0
    await town.spreader.spread()
    again = Spreader(writer, GOVERNANCE, runtime.partitions, progress.with_name("again.json"))
    await asyncio.to_thread(load, again, runtime)
    assert again.holding(home) == len(again.targets)


def load(spreader: Spreader, runtime: Runtime) -> None:
    reader = runtime.reader()
    spreader.load(reader, runtime.codec)
    reader.close()


async def test_already_so_is_not_said_from_a_fold_that_is_behind(town: Town) -> None:
    await town.record()
    await town.grant("consent-behind")
    suspend = SuspendConsent(SERVICE, "consent-behind", "INQUIRY")
    await town.consumer(suspend)
    rival_process = Process(town.runtime, "rival")
    folds = await rival_process.fold([trust.CONSUMER_LOG])
    rival = Coordinator(CONSUMERS, folds, town.consumers._writer, town.runtime.partitions, tightens)
    live = folds[trust.CONSUMER_LOG, town.partition]
    deliver = live.deliver
    held: list[Any] = []
    try:
        live.deliver = held.append  # type: ignore[method-assign, assignment]
        await town.consumer(ResumeConsent(SERVICE, "consent-behind"))
        waiting = asyncio.ensure_future(rival.handle(order(MPAN, suspend, SERVICE)))
        await asyncio.sleep(0.2)
        assert not waiting.done()  # the rival still sees it suspended, and may not say so
        live.deliver = deliver  # type: ignore[method-assign]
        for record in held:
            live.deliver(record)
        suspended = await waiting
        assert suspended.changed
    finally:
        await rival_process.stop()
    await town.folds[trust.CONSUMER_LOG, town.partition].passed(suspended.offset, WAIT_S)
    (consent,) = [
        c for c in town.consumers.state(MPAN).consents if c.consent_id == "consent-behind"
    ]
    assert consent.state == "SUSPENDED"


async def test_a_server_killed_between_append_and_answer_leaves_a_decision_to_be_found(
    town: Town,
) -> None:
    await town.record()
    await town.grant("consent-killed")
    async with open_dsi(town, "killed") as dsi:
        vector = await dsi.reads.positions("HH_CONSUMPTION", town.partition, ())
        (judged,) = await dsi.reads.decide(query(), (MPAN,), vector)
        assert judged.permitted  # and here the process ends: no answer, no outcome
    lines = await asyncio.to_thread(audited, town)
    (found,) = [line for line in lines if line.offset == judged.ruling.offset]
    assert (found.verdict, found.decision) == (Verdict.UNCONFIRMED, "PERMIT")
    others = {line.verdict for line in lines if line is not found}
    assert Verdict.DIFFERENT not in others
    assert Verdict.CANNOT_TELL not in others


def audited(town: Town) -> list[Line]:
    """Every line of an audit of the town's log, in throw-away stores."""
    lines: list[Line] = []
    use(town.runtime.settings.model_copy(update={"kafka_bootstrap": town.runtime.kafka.bootstrap}))
    run_audit(lines.append)
    return lines
