"""The answer to a decided request, from rows alone: what the DSI sends and the audit rebuilds.

Nothing here knows gRPC, Faust or the time. The same decision, the same rows and the same positions
give the same answer, byte for byte, for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from domains.btm_assets import BTM_ASSETS
from domains.btm_assets.views import AssetView, asset_views
from domains.consumers.decider import CONSUMERS
from domains.consumers.personal import Page, from_offset, page_of
from domains.consumers.views import (
    ConsentView,
    TenancyView,
    as_it_stood,
    consents_for,
    tenancies_for,
)
from domains.metering import METERING
from domains.metering.views import (
    MeteringPointView,
    circumstances,
    metering_point_view,
    readings_as_of,
    readings_of_each,
    recorded_at,
)
from spine import trust
from spine.answer import (
    Circumstances,
    Columns,
    HalfHour,
    HalfHours,
    absent_runs,
    half_hours,
    half_hours_digest,
    half_hours_digests,
    records_digest,
)
from spine.codec import unpack
from spine.domain import Domain, ReadableRows
from spine.event import AbsentRun, Sealed, from_epoch_ms
from spine.gb import Interval
from spine.policy import Category, MeterAccess, Permit, Role
from spine.rows import Decided, subject_history

EVERYTHING: Final = 1 << 62
LIST_TENANCIES: Final = "ListTenancies"


@dataclass(frozen=True, slots=True)
class MeteringPointRecord:
    """Standing data as released: the register's view, and who supplies the meter."""

    view: MeteringPointView
    supplier: str
    offset: int
    entry: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What is released: half hours, or records; `rows` counts those that carry something.

    Of `sealed` fields the digest is their texts' under the consumer's key, and empty until somebody
    has opened them; `untold` says why nobody can any more. More of them stand at `next_offset`.
    """

    rows: int
    digest: bytes
    absent: tuple[AbsentRun, ...] = ()
    half_hours: Sequence[HalfHour] = ()
    metering_point: MeteringPointRecord | None = None
    consents: tuple[ConsentView, ...] = ()
    tenancies: tuple[TenancyView, ...] = ()
    assets: tuple[AssetView, ...] = ()
    sealed: tuple[Sealed, ...] = ()
    next_offset: int = 0
    untold: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """The rows an answer is made from, by topic, and how far below each it may look."""

    rows: Mapping[str, ReadableRows]
    below: Mapping[str, int]


def readings_answer(decided: Decided, sources: Sources) -> Answer:
    """The half hours of a permitted request."""
    request = decided.request
    asked = Interval(request.interval_from, request.interval_to)
    found = readings_as_of(
        sources.rows[trust.READINGS_TOPIC],
        decided.member,
        request.measurement_quantity,
        asked,
        sources.below[trust.READINGS_TOPIC],
    )
    rows = explained(decided, found, sources)
    return Answer(rows.recorded, half_hours_digest(rows), absent_runs(rows), rows)


def explained(decided: Decided, found: Columns, sources: Sources) -> HalfHours:
    """The half hours of a permitted request, from what is recorded of them. The registry is asked
    only if some have no value: of the others it has nothing to say.
    """
    permit = decided.decision
    assert isinstance(permit, Permit)
    known = None if found.whole else circumstances_of(decided, sources)
    now = from_epoch_ms(decided.now_ms)
    return half_hours(decided.member, permit.covered, found, now, known)


def answer(
    decided: Decided,
    access: MeterAccess,
    sources: Sources,
    readings: Callable[[Decided, Sources], Answer] = readings_answer,
) -> Answer:
    """The answer to a permitted request. `access` is the meter's state at the decision.

    `readings` makes the half hours, for who has made some of them before.
    """
    match decided.request.category:
        case Category.METERING_POINT:
            return _metering_point(decided, access, sources)
        case Category.CONSENTS:
            return _consents(decided, access, sources)
        case Category.ASSET:
            return _assets(decided, sources)
        case _:
            return readings(decided, sources)


def answers(decided: Sequence[Decided], sources: Sources) -> list[Answer]:
    """The answers to permitted members of one request, as `answer` makes each.

    Half hours of several meters are made side by side.
    """
    if len(decided) < 2 or trust.READINGS_TOPIC not in sources.rows:
        return [answer(each, each.access, sources) for each in decided]
    request = decided[0].request
    found = readings_of_each(
        sources.rows[trust.READINGS_TOPIC],
        [each.member for each in decided],
        request.measurement_quantity,
        Interval(request.interval_from, request.interval_to),
        sources.below[trust.READINGS_TOPIC],
    )
    rows = [explained(each, said, sources) for each, said in zip(decided, found, strict=True)]
    digests = half_hours_digests(rows)
    return [
        Answer(each.recorded, digest, absent_runs(each), each)
        for each, digest in zip(rows, digests, strict=True)
    ]


def said_at(decided: Decided, rows: Mapping[str, ReadableRows]) -> tuple[str, list[int]]:
    """The topic this answer is made from, and every offset that says something of what is asked.

    An empty topic if nothing but the decision's own state goes into the answer.
    """
    request = decided.request
    domains = {Category.METERING_POINT: METERING, Category.ASSET: BTM_ASSETS}
    if request.category == Category.CONSENTS:
        stored = rows.get(trust.CONSUMER_LOG)
        return (trust.CONSUMER_LOG, _told(stored, CONSUMERS, decided)) if stored else ("", [])
    domain = domains.get(Category(request.category))
    if domain is None:
        stored = rows.get(trust.READINGS_TOPIC)
        asked = Interval(request.interval_from, request.interval_to)
        said = (decided.member, request.measurement_quantity, asked)
        return trust.READINGS_TOPIC, recorded_at(stored, *said) if stored else []
    topic = trust.METERING_TOPIC if domain is METERING else trust.BTM_ASSETS_TOPIC
    stored = rows.get(topic)
    return topic, _told(stored, domain, decided) if stored else []


def _told(rows: ReadableRows, domain: Domain, decided: Decided) -> list[int]:
    history = subject_history(rows, unpack, domain, decided.member, EVERYTHING)
    return [state.offset for state in history]


def circumstances_of(decided: Decided, sources: Sources) -> Circumstances | None:
    """What the registry knew of absent half hours, if the request names its position there.

    Seen from the time asked for, so that an answer as of then stays what it was.
    """
    below = sources.below.get(trust.METERING_TOPIC)
    if below is None:
        return None
    rows = sources.rows[trust.METERING_TOPIC]
    now, then = from_epoch_ms(decided.now_ms), decided.request.as_of_known
    history = deque(subject_history(rows, unpack, METERING, decided.member, below), maxlen=1)
    state = history[0].state if history else METERING.initial()
    return circumstances(state, now if then is None else min(now, then))


def _metering_point(decided: Decided, access: MeterAccess, sources: Sources) -> Answer:
    at = decided.request.as_of_valid or from_epoch_ms(decided.now_ms)
    rows, below = sources.rows[trust.METERING_TOPIC], sources.below[trust.METERING_TOPIC]
    history = deque(subject_history(rows, unpack, METERING, decided.member, below), maxlen=1)
    latest = history[0] if history else None
    view = None if latest is None else metering_point_view(decided.member, latest.state)
    if latest is None or view is None or not _valid_at(view, at):
        return Answer(0, records_digest(()))
    known = _known(decided, access, sources)
    supplier = _supplier_at(known[-1], at) if known else ""
    record = MeteringPointRecord(view, supplier, latest.offset, latest.entry)
    return Answer(1, records_digest((record,)), metering_point=record)


def _valid_at(view: MeteringPointView, at: datetime) -> bool:
    return view.registered_from <= at and (view.effective_to is None or at < view.effective_to)


def _supplier_at(access: MeterAccess, at: datetime) -> str:
    return next(
        (
            supply.supplier
            for supply in access.supplies
            if supply.effective_from <= at
            and (supply.effective_to is None or at < supply.effective_to)
        ),
        "",
    )


def _known(decided: Decided, access: MeterAccess, sources: Sources) -> Sequence[MeterAccess]:
    """Every known state of the meter's access, oldest first, as of the position asked for.

    A request that names no position of the consumer log is answered from the state it was decided
    on: so are all that ask for now, and all from before a request could name one.
    """
    below = sources.below.get(trust.CONSUMER_LOG)
    if below is None:
        return (access,)
    rows = sources.rows[trust.CONSUMER_LOG]
    return [s.state for s in subject_history(rows, unpack, CONSUMERS, decided.member, below)]


def _consents(decided: Decided, access: MeterAccess, sources: Sources) -> Answer:
    """The caller's own consents, or tenancies, as they stood and were known at the times asked."""
    request = decided.request
    begin = from_offset(request.method)
    if begin is not None:
        return _personal(decided, sources, begin)
    known = _known(decided, access, sources)
    at = request.as_of_valid
    now = at or from_epoch_ms(decided.now_ms)
    stood = as_it_stood(known, now) if at else known[-1] if known else MeterAccess()
    if request.method == LIST_TENANCIES:
        tenancies = tenancies_for(stood, request.role, request.party, at)
        return Answer(len(tenancies), records_digest(tenancies), tenancies=tenancies)
    consents = consents_for(stood, request.role, request.party, now)
    return Answer(len(consents), records_digest(consents), consents=consents)


def personal_page(
    rows: ReadableRows, member: str, below: int, consumer_ref: str, begin: int
) -> Page:
    """A page of what was sealed at a meter under that reference, below that offset."""
    known = subject_history(rows, unpack, CONSUMERS, member, below, begin)
    return page_of(known, consumer_ref, begin)


def _personal(decided: Decided, sources: Sources, begin: int) -> Answer:
    """The sealed fields under the consumer's own reference, a page of them; opened they are not."""
    rows, below = sources.rows[trust.CONSUMER_LOG], sources.below[trust.CONSUMER_LOG]
    request, page = decided.request, Page((), 0)
    if request.role == Role.CONSUMER:
        page = personal_page(rows, decided.member, below, request.party, begin)
    digest = b"" if page.sealed else records_digest(())
    return Answer(len(page.sealed), digest, sealed=page.sealed, next_offset=page.next_offset)


def _assets(decided: Decided, sources: Sources) -> Answer:
    """The assets behind the meter, or the one that the logged method names after its slash."""
    rows, below = sources.rows[trust.BTM_ASSETS_TOPIC], sources.below[trust.BTM_ASSETS_TOPIC]
    history = deque(subject_history(rows, unpack, BTM_ASSETS, decided.member, below), maxlen=1)
    if not history:
        return Answer(0, records_digest(()))
    at = decided.request.as_of_valid or from_epoch_ms(decided.now_ms)
    _, _, asset_id = decided.request.method.partition("/")
    assets = tuple(
        view
        for view in asset_views(decided.member, history[0].state, at)
        if not asset_id or view.asset_id == asset_id
    )
    return Answer(len(assets), records_digest(assets), assets=assets)
