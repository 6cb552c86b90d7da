"""Who opens topics: a folder of the log with its root key, and no folder of another log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from spine import quarantine, runtime, trust
from spine.archive import Archive
from spine.codec import Codec
from spine.config import Settings
from spine.console import context, logs
from spine.dsi.process import start_dsi, start_readings
from spine.embedded import EmbeddedKafka
from spine.errors import Reason
from spine.event import SignerRole
from spine.follower import PointReader
from spine.identity import Authority, signing_key
from spine.installation import DOMAINS
from spine.log import Appender, Kafka, LogReader, LogUnfit, create_missing, partition_counts
from spine.opening import FIRST, LogIdentity, check_held, held_opening
from spine.runtime import LOG_FILE, Process, Runtime
from spine.services.btm_assets import start_btm_assets
from spine.services.consumers import start_consumers
from spine.services.governance import start_governance
from spine.services.ledger import start_ledger
from spine.services.metering import start_metering
from spine.signing import Signer, public_bytes
from tests.helpers.command_line import Said, run
from tests.helpers.log import PARTITIONS, open_new_log

PROCESSES = (
    start_governance,
    start_consumers,
    start_metering,
    start_btm_assets,
    start_readings,
    start_dsi,
    start_ledger,
)
NEWER = trust.GOVERNANCE_REFERENCE


def unasked(*_: Any) -> None:
    """Naive: does not ask whose log it is."""


def only_what_can_be_read(
    kafka: Kafka, codec: Codec, ours: LogIdentity | None, folder: Path
) -> None:
    """Naive: where no opening can be read, there is no log."""
    reader = PointReader(kafka)
    try:
        unread = held_opening(reader, codec) is None
    finally:
        reader.close()
    if not unread:
        check_held(kafka, codec, ours, folder)


def drop_the_first(kafka: Kafka) -> None:
    """The brokers no longer have the opening of governance."""
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    try:
        admin.delete_records({TopicPartition(*FIRST): 1})
    finally:
        admin.close()


def archived(kafka: Kafka, of: LogIdentity, folder: Path) -> Path:
    """Copy governance to an archive."""
    reader = LogReader(kafka)
    try:
        Archive(folder).extend(of.log_id, *FIRST, reader.read(*FIRST, 0))
    finally:
        reader.close()
    return folder


@contextmanager
def older_build() -> Iterator[None]:
    """Before there was a certain topic."""
    with pytest.MonkeyPatch.context() as patch:
        single = tuple(t for t in trust.SINGLE_PARTITION if t != NEWER)
        patch.setattr(trust, "SINGLE_PARTITION", single)
        patch.setattr(trust, "TOPICS", trust.METER_KEYED + single)
        yield


def ends(kafka: Kafka) -> dict[tuple[str, int], int]:
    """The offset after the last of every partition."""
    reader = LogReader(kafka)
    try:
        present = {t: n for t, n in partition_counts(PARTITIONS).items() if t in trust.TOPICS}
        return reader.ends([(t, p) for t, count in present.items() for p in range(count)])
    finally:
        reader.close()


def of_another_log(folder: Path, kafka: Kafka) -> Settings:
    """A folder with a log of its own that never was on these brokers."""
    root = public_bytes(signing_key(folder, SignerRole.ROOT))
    LogIdentity.new(root, PARTITIONS, datetime.now(UTC)).save(folder / LOG_FILE)
    Authority.open_or_create(folder / "identities")
    return Settings(data_dir=folder, kafka_bootstrap=kafka.bootstrap, ledger_quorum=0)


async def said(chosen: Settings, *words: str) -> Said:
    context.use(chosen)
    try:
        return await asyncio.to_thread(run, *words)
    finally:
        context.use(Settings())


@pytest.mark.parametrize(("own", "naive"), [(True, False), (False, False), (False, True)])
async def test_no_topic_of_a_log_is_opened_as_one_of_another(
    own_kafka: EmbeddedKafka,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: bool,
    naive: bool,
) -> None:
    with older_build():
        ours, kafka = await open_new_log(own_kafka, tmp_path / "ours")
        before = await asyncio.to_thread(ends, kafka)
    folder = tmp_path / "other"
    chosen = Settings(data_dir=folder, kafka_bootstrap=kafka.bootstrap)
    if own:
        chosen = of_another_log(folder, kafka)
    if naive:
        monkeypatch.setattr(logs, "check_held", unasked)
    made = await said(chosen, "topics", "create")
    if naive:
        assert made.code == 0
        assert (await asyncio.to_thread(ends, kafka))[NEWER, 0] > 0, "opened as another log's"
        return
    assert (made.code, made.reason) == (5, Reason.LOG_DIFFERS)
    assert str(folder) in made.err and "SPINE_DATA_DIR" in made.err
    assert LogIdentity.load(ours.data_dir / LOG_FILE).log_id.hex()[:16] in made.err
    assert (folder / LOG_FILE).exists() is own, "and no identity was made"
    with older_build():
        assert await asyncio.to_thread(ends, kafka) == before
    assert len(await logs.ensure_log(ours, kafka)) == 2, "the log's own folder brings the topics"


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "unreadable"])
async def test_a_log_is_one_also_where_its_first_record_cannot_be_read(
    own_kafka: EmbeddedKafka,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deleted: bool,
    naive: bool,
) -> None:
    kafka = Kafka(own_kafka.bootstrap)
    if deleted:
        with older_build():
            await open_new_log(own_kafka, tmp_path / "ours")
        await asyncio.to_thread(drop_the_first, kafka)
    else:
        await asyncio.to_thread(create_missing, kafka, {trust.GOVERNANCE_TOPIC: 1}, 1, 1)
        appender = Appender(kafka)
        await appender.append(*FIRST, None, (), b"of a schema that is yet to come")
        await appender.stop()
    if naive:
        monkeypatch.setattr(logs, "check_held", only_what_can_be_read)
    folder = tmp_path / "other"
    made = await said(
        Settings(data_dir=folder, kafka_bootstrap=kafka.bootstrap), "topics", "create"
    )
    if naive:
        assert (folder / LOG_FILE).exists(), "a second log on the same brokers"
        assert (await asyncio.to_thread(ends, kafka))[NEWER, 0] > 0
        return
    assert (made.code, made.reason) == (5, Reason.LOG_DIFFERS)
    assert "hold a log" in made.err and str(folder) in made.err
    assert not folder.exists() or not any(folder.rglob("*.*")), "neither log.json nor a key"
    reader = await asyncio.to_thread(PointReader, kafka)
    assert await asyncio.to_thread(reader.partitions_of, NEWER) == 0
    await asyncio.to_thread(reader.close)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("other", [True, False], ids=["other", "same"])
async def test_without_the_beginning_nothing_is_made_unless_the_archive_has_it(
    own_kafka: EmbeddedKafka,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: bool,
    naive: bool,
) -> None:
    with older_build():
        ours, kafka = await open_new_log(own_kafka, tmp_path / "ours")
    ours = ours.model_copy(update={"kafka_bootstrap": kafka.bootstrap})
    identity = LogIdentity.load(ours.data_dir / LOG_FILE)
    archive = await asyncio.to_thread(archived, kafka, identity, tmp_path / "archive")
    await asyncio.to_thread(drop_the_first, kafka)
    with older_build():
        before = await asyncio.to_thread(ends, kafka)
    if naive:
        monkeypatch.setattr(logs, "check_held", only_what_can_be_read)
    here = of_another_log(tmp_path / "other", kafka) if other else ours
    made = await said(here, "topics", "create")
    if naive:
        assert (await asyncio.to_thread(ends, kafka))[NEWER, 0] > 0, "opened, whosever log it is"
        return
    assert (made.code, made.reason) == (5, Reason.LOG_MISSING)
    assert "SPINE_ARCHIVE_DIR" in made.err and str(here.data_dir) in made.err
    with older_build():
        assert await asyncio.to_thread(ends, kafka) == before
    with pytest.raises(LogUnfit) as refused:
        await asyncio.to_thread(Runtime.of(here, kafka, DOMAINS).verify_held)
    assert refused.value.reason is Reason.LOG_MISSING

    at_hand = here.model_copy(update={"archive_dir": archive})
    again = await said(at_hand, "topics", "create")
    if other:
        assert (again.code, again.reason) == (5, Reason.LOG_DIFFERS)
        return
    assert again.code == 0
    assert (await said(at_hand, "topics", "verify")).code == 0


async def test_no_process_of_another_log_starts(
    own_log: tuple[Settings, Kafka], tmp_path: Path
) -> None:
    kafka = own_log[1]
    before = await asyncio.to_thread(ends, kafka)
    here = Runtime.of(of_another_log(tmp_path / "other", kafka), kafka, DOMAINS)
    starts: tuple[Callable[[Runtime], Awaitable[Process]], ...] = PROCESSES
    for start in starts:
        with pytest.raises(LogUnfit) as refused:
            await start(here)
        assert refused.value.reason is Reason.LOG_DIFFERS
    listed = await said(here.settings, "quarantine", "list")
    assert (listed.code, listed.reason) == (5, Reason.LOG_DIFFERS)
    assert await asyncio.to_thread(ends, kafka) == before
    Runtime.of(*own_log, DOMAINS).verify_log()


@pytest.mark.parametrize("naive", [False, True])
async def test_nothing_is_kept_of_a_partition_whose_opening_was_not_met(
    own_log: tuple[Settings, Kafka],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    naive: bool,
) -> None:
    """Where a process of another log runs all the same, it copies nothing."""
    monkeypatch.setattr(runtime, "check_held", unasked)
    if naive:
        monkeypatch.setattr(quarantine, "_opened", lambda rows: True)
    kafka, kept = own_log[1], (trust.QUARANTINE_TOPIC, 0)
    before = (await asyncio.to_thread(ends, kafka))[kept]
    process = await start_metering(
        Runtime.of(of_another_log(tmp_path / "other", kafka), kafka, DOMAINS)
    )
    try:
        assert process.folds is not None
        refused = process.folds[trust.METERING_TOPIC, 0].stored
        assert refused.next_offset > 0 and refused.fold.head is None
    finally:
        await process.stop()
    after = (await asyncio.to_thread(ends, kafka))[kept]
    assert (after > before) is naive


@pytest.mark.parametrize("naive", [False, True])
async def test_a_newer_builds_topic_is_not_left_out_because_the_root_key_is_away(
    own_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naive: bool
) -> None:
    with older_build():
        opened, kafka = await open_new_log(own_kafka, tmp_path / "ours")
    ours = opened.model_copy(update={"kafka_bootstrap": kafka.bootstrap})
    key, away = ours.data_dir / "keys" / "root.key", tmp_path / "safe"
    key.rename(away)
    if naive:
        monkeypatch.setattr(logs, "_refuse_unopened", unasked)
        assert (await said(ours, "topics", "create")).code == 0
        assert (await said(ours, "topics", "verify")).reason == Reason.TOPIC_SETTINGS
        return
    for _ in ("there is no such topic", "there is, and nothing opened it"):
        refused = await said(ours, "topics", "create")
        assert (refused.code, refused.reason) == (5, Reason.TOPIC_SETTINGS)
        assert f"needs {NEWER}, " in refused.err and str(key) in refused.err
        assert not key.exists()
        await asyncio.to_thread(create_missing, kafka, {NEWER: 1}, 1, 1)

    Signer.of(signing_key(ours.data_dir, SignerRole.ROOT))  # one of nobody's, in its place
    wrong = await said(ours, "topics", "create")
    assert (wrong.code, wrong.reason) == (5, Reason.LOG_DIFFERS)
    away.rename(key)
    assert (await said(ours, "topics", "create")).code == 0
    assert (await asyncio.to_thread(ends, kafka))[NEWER, 0] == 2
    key.unlink()
    assert "0 topics" in (await said(ours, "topics", "create")).out, "nothing is missing now"
    assert (await said(ours, "topics", "verify")).code == 0
