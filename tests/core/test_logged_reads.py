"""Which reads of an own record a coordinator believes, by what its fold decides at their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from domains.consumers.events import TenancyEnded, TenancyStarted
from domains.consumers.personal import FIELDS_MAX, METHOD, Page
from spine import trust
from spine.errors import NotPermitted, Reason
from spine.event import AccessRequest, DataPosition, LogRecord, from_epoch_ms
from spine.live import LiveFold
from spine.policy import Basis, Permit, Refuse
from spine.sealing import VAULT_FILE, Vault
from spine.services import logged_reads, wire
from spine.services.logged_reads import FRESH_MS, LoggedReads
from tests.core.test_personal import ANNA, BEN, HERE, NOTICE, OWN, notice, person
from tests.helpers.history import History, Read, day
from tests.helpers.records import PARTITION, granted, moved_in

SERVER = "dsi-1"  # that logs every read of a `History`


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    opened = Vault.open(tmp_path / VAULT_FILE)
    yield opened
    opened.close()


class Heard(History):
    """A history that a coordinator listens to, and the time there: `age` after the last record."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.live: LiveFold | None = None
        super().__init__()
        self.age = timedelta()
        monkeypatch.setattr(wire, "now", lambda: from_epoch_ms(self.log().clock_ms) + self.age)
        self.fold = self.folds[trust.CONSUMER_LOG]
        stored: Any = SimpleNamespace(fold=self.fold, next_offset=10**9)
        self.live = LiveFold(stored)
        self.reads = LoggedReads({(trust.CONSUMER_LOG, PARTITION): self.live})

    def keep(self, record: LogRecord) -> LogRecord:
        kept = super().keep(record)
        if self.live is not None and record.topic == trust.CONSUMER_LOG:
            for listener in self.live.listeners:
                listener(record, None)  # type: ignore[arg-type]
        return kept

    def own(
        self, *requests: AccessRequest, vector: Sequence[DataPosition] | None = None, **how: Any
    ) -> Read:
        asked = requests or (self.asked(**(OWN | how)),)
        return self.ask(*asked, vector=self.positions(*HERE) if vector is None else vector)

    async def take(self, read: Read, server: str = SERVER, entry: int = 0) -> tuple[str, Page]:
        place = SimpleNamespace(
            topic=read.record.topic,
            partition=read.record.partition,
            offset=read.record.offset,
            entry=entry,
        )
        return await self.reads.take(place, server)

    async def not_taken(self, read: Read, server: str = SERVER, entry: int = 0) -> Reason:
        with pytest.raises(NotPermitted) as refused:
            await self.take(read, server, entry)
        return refused.value.reason


@pytest.fixture
def heard(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> Heard:
    made = Heard(monkeypatch)
    made.facts(replace(moved_in(), person=person(vault, ANNA, "t-1")))
    return made


async def test_what_is_opened_is_what_that_read_shows(heard: Heard, vault: Vault) -> None:
    for number in range(FIELDS_MAX):
        consent = granted(f"consent-{number}")
        heard.facts(replace(consent, notice=notice(vault, NOTICE, consent.consent_id)))
    begin, count = 0, 0
    while True:
        read = heard.own(method=f"GetPersonalRecord/{begin}")
        heard.facts(replace(granted(f"later-{begin}"), notice=notice(vault, "unknown then")))
        shown = heard.answer(read.record, read.decided[0])
        assert await heard.take(read) == (ANNA, Page(shown.sealed, shown.next_offset))
        begin, count = shown.next_offset, count + len(shown.sealed)
        if not begin:
            break
    assert count == 1 + FIELDS_MAX + 1, "what was granted after the first page is on the next"


async def test_of_a_record_only_own_reads_are_judged(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever names a consent like the method would have thousands of meters judged here."""
    judged: list[str] = []
    plain = heard.fold._judge_each

    def counted(entry: int, request: AccessRequest, members: Sequence[str], *how: Any) -> Any:
        judged.extend(members)
        return plain(entry, request, members, *how)

    named = heard.asked(consent_id=METHOD)
    own = heard.asked(**OWN)
    records = [heard.own(named).record, heard.own(named, own).record]
    monkeypatch.setattr(heard.fold, "_judge_each", counted)
    for record, meters in zip(records, (0, 1), strict=True):
        judged.clear()
        heard.keep(record)
        assert len(judged) == meters
        judged.clear()
        heard.fold.decide_access(record)
        assert len(judged) > meters, "and all of it without the choice"


async def test_a_read_is_judged_at_its_place_and_not_when_somebody_asks(heard: Heard) -> None:
    early = heard.own(party=BEN)
    until = day(8, 1)
    heard.facts(TenancyEnded("t-1", until), TenancyStarted("t-2", BEN, until, None))
    assert isinstance(early.decided[0].decision, Refuse)
    (naive,) = heard.fold.decide_access(early.record)
    assert isinstance(naive.decision, Permit), "who asks the fold now is told another thing"
    assert await heard.not_taken(early) is Reason.NOT_PERMITTED
    assert (await heard.take(heard.own(party=BEN)))[0] == BEN


async def test_a_place_is_of_the_server_that_logged_it_and_good_for_once(heard: Heard) -> None:
    read = heard.own()
    assert await heard.not_taken(read, server="dsi-2") is Reason.NOT_PERMITTED
    assert (await heard.take(read))[0] == ANNA, "another server's attempt does not use it up"
    assert await heard.not_taken(read) is Reason.NOT_PERMITTED
    assert (await heard.take(heard.own()))[0] == ANNA


async def test_of_a_shared_record_each_entry_stands_for_its_own_request(heard: Heard) -> None:
    requests = [heard.asked(**(OWN | {"party": who})) for who in (BEN, ANNA)]
    read = heard.own(*requests)
    assert await heard.not_taken(read, entry=0) is Reason.NOT_PERMITTED
    assert (await heard.take(read, entry=1))[0] == ANNA
    assert await heard.not_taken(read, entry=2) is Reason.NOT_PERMITTED


async def test_no_other_permitted_read_opens_anything(heard: Heard) -> None:
    heard.facts(granted())
    by_consent: dict[str, Any] = {
        "basis": Basis.CONSENT,
        "purpose": "ENERGY_ADVICE",
        "role": "data_user",
    }
    reads = [
        heard.own(party="adviser", **by_consent),
        heard.own(method="ListConsents"),
        heard.own(method="GetPersonalRecords"),
        heard.own(vector=()),
        heard.own(heard.asked(**OWN, vector=1)),
        heard.own(heard.asked(**OWN, vector=-1)),
        heard.own(vector=(DataPosition(trust.CONSUMER_LOG, PARTITION, 10**6),)),
        heard.own(vector=(DataPosition(trust.CONSUMER_LOG, PARTITION + 1, 1),)),
    ]
    for read in reads:
        assert isinstance(read.decided[0].decision, Permit)
        assert await heard.not_taken(read) is Reason.NOT_PERMITTED


async def test_a_read_of_two_meters_is_none_of_an_own_record(heard: Heard) -> None:
    meters = (heard.asked().meters[0],) * 2
    read = heard.own(meters=meters)
    assert isinstance(read.decided[0].decision, Permit)
    assert await heard.not_taken(read) is Reason.NOT_PERMITTED


@pytest.mark.parametrize(("age_ms", "over"), [(FRESH_MS, False), (FRESH_MS + 1, True)])
async def test_a_read_is_over_after_some_seconds(heard: Heard, age_ms: int, over: bool) -> None:
    read = heard.own()
    heard.age = timedelta(milliseconds=age_ms)
    if over:
        assert await heard.not_taken(read) is Reason.NOT_PERMITTED
    else:
        assert (await heard.take(read))[0] == ANNA


async def test_a_read_that_was_old_when_it_was_folded_is_not_kept(heard: Heard) -> None:
    heard.age = timedelta(milliseconds=FRESH_MS + 1)
    read = heard.own()
    heard.age = timedelta()
    assert await heard.not_taken(read) is Reason.NOT_PERMITTED


async def test_only_so_many_reads_are_kept(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged_reads, "KEPT_MAX", 2)
    first, second, third = (heard.own() for _ in range(3))
    assert await heard.not_taken(first) is Reason.NOT_PERMITTED
    for read in (second, third):
        assert (await heard.take(read))[0] == ANNA


@pytest.mark.parametrize("off_ms", [FRESH_MS + 1, -FRESH_MS - 1, 60_000])
async def test_a_clock_that_is_off_is_told_with_how_far(heard: Heard, off_ms: int) -> None:
    """Whoever asks learns nothing of it, so the log of the process has to say it."""
    heard.age = timedelta(milliseconds=off_ms)
    with capture_logs() as told:
        read = heard.own()
        assert told == [], "at a start all that is folded again is old"
        assert await heard.not_taken(read) is Reason.NOT_PERMITTED
    place = {"partition": PARTITION, "offset": read.record.offset}
    said = {"event": "seals.not_fresh", "log_level": "warning"}
    assert told == [said | place | {"ahead_ms": off_ms, "at_most_ms": FRESH_MS}]


async def test_of_other_refusals_no_clock_is_told(heard: Heard) -> None:
    with capture_logs() as told:
        assert await heard.not_taken(heard.own(party=BEN)) is Reason.NOT_PERMITTED
        assert await heard.not_taken(heard.own(), server="dsi-2") is Reason.NOT_PERMITTED
        read = heard.own()
        await heard.take(read)
        assert await heard.not_taken(read) is Reason.NOT_PERMITTED
    assert told == []


async def test_no_more_late_records_are_kept_than_there_is_room_for(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_reads, "LATE_MAX", 3)
    heard.age = timedelta(milliseconds=FRESH_MS + 1)
    reads = [heard.own() for _ in range(5)]
    with capture_logs() as told:
        for read in reads:
            await heard.not_taken(read)
    assert [each["offset"] for each in told] == [read.record.offset for read in reads[2:]]
