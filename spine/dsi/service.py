"""The Dsi service of `proto/spine/dsi/v1`: requests in, decided answers out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from domains.btm_assets.checks import check_id
from spine import trust
from spine.access import AccessLog, Ruling, Vector
from spine.common.v1 import common_pb2
from spine.dsi import assets, personal, records
from spine.dsi.advice import QUANTITY_OF, Adviser
from spine.dsi.answering import LIST_TENANCIES, Answer
from spine.dsi.chunks import decision, members_per_message, message_of
from spine.dsi.reads import TOPICS_OF_READINGS, Judged, Query, Reads
from spine.dsi.refusing import OF_ONE_PAGE
from spine.dsi.rows import page_with
from spine.dsi.stream import HALF_HOURS_PER_CHUNK, ReadingsStream
from spine.dsi.v1 import dsi_pb2, dsi_pb2_grpc
from spine.dsi.watch import Watches
from spine.errors import NEXT_CURSOR, Invalid, NotPermitted, Reason
from spine.event import DataPosition, epoch_ms, from_epoch_ms
from spine.gb import HALF_HOUR, Interval, on_the_grid, parse_mpxn
from spine.policy import MAX_INTERVAL, Category
from spine.server import current_caller
from spine.services import wire

MAX_METERS: Final = 1_000
MAX_PAGE: Final = 17_568
INSTANT: Final = timedelta(milliseconds=1)
READABLE: Final = frozenset({Category.HH_CONSUMPTION, Category.EXPORT})


class DsiService(dsi_pb2_grpc.DsiServicer):
    """Answers the queries of accredited parties and consumers."""

    def __init__(
        self,
        reads: Reads,
        watches: Watches,
        adviser: Adviser,
        personal_reads: personal.PersonalReads,
        log_id: bytes,
    ) -> None:
        self._reads, self._watches, self._adviser = reads, watches, adviser
        self._personal, self._log_id = personal_reads, log_id
        self._last_of_set: tuple[Ruling | None, Any] = None, None

    @property
    def access(self) -> Mapping[int, AccessLog]:
        """Where reads of each partition are decided."""
        return self._reads.access

    async def GetReadings(self, request: Any, context: Any) -> Any:
        """One page of the half hours of one metering point."""
        mpxn = str(parse_mpxn(request.mpxn))
        asked = _interval(request.interval)
        if request.cursor:
            start, vector = _resume(request.cursor, _request_digest(request))
            if not asked.start <= start < asked.end or not self._plausible(mpxn, vector):
                raise Invalid(Reason.CURSOR_INVALID, "the cursor is not of this request")
        else:
            start, vector = asked.start, ()
        of_before = vector
        if not vector:
            vector = await self._reads.positions(
                Category.HH_CONSUMPTION,
                self._reads.partition_of(mpxn),
                self._at_least(request),
                wire.known_instant(request),
            )
        page = _page(request.page_size) * HALF_HOUR
        end = asked.end if asked.end - start <= page else start + page
        query = self._readings_query("GetReadings", request, Interval(start, end))
        try:
            judged, made = await self._reads.read_at(query, mpxn, vector)
        except NotPermitted as refused:
            if refused.reason in OF_ONE_PAGE and end < asked.end:
                # Made of the request alone: positions of ours would tell of what is stored.
                digest = _request_digest(request)
                refused.facts[NEXT_CURSOR] = _cursor(digest, end, of_before)
            raise
        response = dsi_pb2.GetReadingsResponse(
            decision=decision(judged),
            positions=self._token(vector, judged),
            digest=made.digest,
            next_cursor=_cursor(_request_digest(request), end, vector) if end < asked.end else "",
        )
        return page_with(response, made.half_hours, request.in_columns)

    async def StreamReadings(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The half hours of up to 1,000 metering points, then each new version if wanted."""
        mpxns = stream_meters(request)
        if request.follow and request.HasField("as_of_known"):
            raise Invalid(
                Reason.FIELD_INVALID, "follow and as_of_known exclude each other", field="follow"
            )
        together = members_per_message(request)
        query = self._readings_query("StreamReadings", request, _interval(request.interval))
        at_least = self._at_least(request)
        stream = ReadingsStream(
            self._reads, self._watches, query, mpxns, at_least, together=max(together, 1)
        )
        async with aclosing(stream.messages(request.follow)) as messages:
            async for chunks in messages:
                yield message_of(chunks, request, self._token_of_set)

    async def GetMeteringPoint(self, request: Any, context: Any) -> Any:
        """The standing data of one metering point."""
        mpxn = str(parse_mpxn(request.mpxn))
        as_of_valid = wire.optional_instant(request, "as_of_valid")
        category = Category.METERING_POINT
        query = self._record_query("GetMeteringPoint", request, category, as_of_valid)
        judged, made = await self._reads.read_one(query, mpxn, self._at_least(request))
        return dsi_pb2.GetMeteringPointResponse(
            metering_point=records.metering_point(made.metering_point),
            decision=decision(judged),
            positions=self._token(judged.ruling.vector, judged),
            digest=made.digest,
        )

    async def ListConsents(self, request: Any, context: Any) -> Any:
        """The caller's own consents at one metering point."""
        judged, made = await self._of_consents("ListConsents", request)
        return dsi_pb2.ListConsentsResponse(
            consents=[records.consent(view) for view in made.consents],
            decision=decision(judged),
            positions=self._token(judged.ruling.vector, judged),
            digest=made.digest,
        )

    async def ListTenancies(self, request: Any, context: Any) -> Any:
        """The tenancies of one metering point that concern the caller."""
        judged, made = await self._of_consents(LIST_TENANCIES, request)
        return dsi_pb2.ListTenanciesResponse(
            tenancies=[records.tenancy(view) for view in made.tenancies],
            decision=decision(judged),
            positions=self._token(judged.ruling.vector, judged),
            digest=made.digest,
        )

    async def _of_consents(self, method: str, request: Any) -> tuple[Judged, Answer]:
        mpxn = str(parse_mpxn(request.mpxn))
        as_of_valid = wire.optional_instant(request, "as_of_valid")
        query = self._record_query(method, request, Category.CONSENTS, as_of_valid)
        return await self._reads.read_one(query, mpxn, self._at_least(request))

    async def GetPersonalRecord(self, request: Any, context: Any) -> Any:
        """What is kept sealed about the caller at one metering point."""
        method, mpxn = personal.method(request), str(parse_mpxn(request.mpxn))
        query = self._record_query(method, request, Category.CONSENTS, None)
        judged, made, texts = await self._personal.read(query, mpxn, self._at_least(request))
        positions = self._token(judged.ruling.vector, judged)
        return personal.response(made, texts, decision(judged), positions)

    async def ListAssets(self, request: Any, context: Any) -> Any:
        """The assets that stand behind one metering point."""
        return await self._assets("ListAssets", request)

    async def GetAsset(self, request: Any, context: Any) -> Any:
        """One of them. Its id is logged behind the method, so that the audit knows it."""
        check_id(request.asset_id)
        return await self._assets(f"GetAsset/{request.asset_id}", request)

    async def _assets(self, method: str, request: Any) -> Any:
        mpxn = str(parse_mpxn(request.mpxn))
        as_of_valid = wire.optional_instant(request, "as_of_valid")
        query = self._record_query(method, request, Category.ASSET, as_of_valid)
        judged, made = await self._reads.read_one(query, mpxn, self._at_least(request))
        positions = self._token(judged.ruling.vector, judged)
        return assets.response(request, made, decision(judged), positions)

    async def CheckAccess(self, request: Any, context: Any) -> Any:
        """What reads would come to, as of the stated positions."""
        if not 1 <= len(request.questions) <= MAX_METERS:
            raise Invalid(Reason.REQUEST_TOO_LARGE, "1 to 1,000 questions", field="questions")
        caller = current_caller()
        mpxns = wire.mpxns((q.mpxn for q in request.questions), "questions[{}].mpxn")
        asked = enumerate(zip(mpxns, request.questions, strict=True))
        questions = [_question(mpxn, q, f"questions[{n}]") for n, (mpxn, q) in asked]
        partitions = sorted({self._reads.partition_of(mpxn) for mpxn, *_ in questions})
        for partition in partitions:
            await self._reads.positions(Category.CONSENTS, partition, self._at_least(request))
            await self._reads.access[partition].ensure_moving()
        advice = [self._adviser.advise(caller, *question) for question in questions]
        as_of = [
            DataPosition(trust.CONSUMER_LOG, p, self._reads.access[p].live.next_offset)
            for p in partitions
        ]
        return dsi_pb2.CheckAccessResponse(
            advice=[
                dsi_pb2.AccessAdvice(
                    would_permit=each.would_permit,
                    reason=each.reason,
                    rule=each.rule,
                    consent_id=each.consent_id,
                    fact=each.fact
                    and common_pb2.RecordRef(
                        topic=trust.CONSUMER_LOG,
                        partition=each.fact[0],
                        offset=each.fact[1],
                        entry=each.fact[2],
                    ),
                )
                for each in advice
            ],
            as_of=self._positions(as_of),
        )

    def _readings_query(self, method: str, request: Any, interval: Interval) -> Query:
        category = _code(request.category or Category.HH_CONSUMPTION, "category")
        if category not in READABLE and category in set(Category):
            raise Invalid(
                Reason.CATEGORY_UNKNOWN, "readings are HH_CONSUMPTION or EXPORT", field="category"
            )
        return Query(
            current_caller(),
            method,
            _code(request.purpose, "purpose"),
            _code(request.basis, "basis"),
            category,
            interval,
            _code(
                request.measurement_quantity or QUANTITY_OF.get(category, "AI"),
                "measurement_quantity",
                2,
            ),
            consent_id=_consent_id(request),
            as_of_known=wire.known_instant(request),
        )

    def _record_query(
        self, method: str, request: Any, category: Category, as_of_valid: datetime | None
    ) -> Query:
        at = as_of_valid or from_epoch_ms(epoch_ms(datetime.now(UTC)))
        return Query(
            current_caller(),
            method,
            _code(request.purpose, "purpose"),
            _code(request.basis, "basis"),
            category,
            Interval(at, at + INSTANT),
            consent_id=_consent_id(request),
            as_of_valid=as_of_valid,
            as_of_known=wire.known_instant(request),
        )

    def _at_least(self, request: Any) -> Vector:
        return wire.at_least(request, self._log_id, len(self._reads.access))

    def _plausible(self, mpxn: str, vector: Vector) -> bool:
        """Whether a page may be read there; a cursor from before any was permitted names none."""
        if not vector:
            return True
        partition = self._reads.partition_of(mpxn)
        topics = tuple(p.topic for p in vector)
        return topics in (TOPICS_OF_READINGS, TOPICS_OF_READINGS[:1]) and all(
            p.partition == partition
            and 0 <= p.offset <= self._reads.data.next_offset(p.topic, p.partition)
            for p in vector
        )

    def _token(self, vector: Iterable[DataPosition], judged: Judged) -> Any:
        decided = DataPosition(
            trust.CONSUMER_LOG, judged.ruling.partition, judged.ruling.offset + 1
        )
        return self._positions([*vector, decided])

    def _token_of_set(self, judged: Judged) -> Any:
        """The same for every member of a set, and made once for those that follow one another."""
        ruling, token = self._last_of_set
        if ruling is not judged.ruling:
            token = self._token(judged.ruling.vector, judged)
            self._last_of_set = judged.ruling, token
        return token

    def _positions(self, positions: Iterable[DataPosition]) -> Any:
        return wire.position_token(self._log_id, positions)


def stream_meters(request: Any) -> list[str]:
    """The metering points of a stream; Invalid(REQUEST_TOO_LARGE) unless 1 to 1,000, each once."""
    mpxns = list(dict.fromkeys(wire.mpxns(request.mpxns)))
    if not 1 <= len(mpxns) <= MAX_METERS or len(mpxns) != len(request.mpxns):
        raise Invalid(
            Reason.REQUEST_TOO_LARGE, "1 to 1,000 metering points, each once", field="mpxns"
        )
    return mpxns


class _Cursor(msgspec.Struct, array_like=True, frozen=True):
    version: int
    request: bytes
    start_ms: int
    vector: tuple[tuple[str, int, int], ...]


def _cursor(request: bytes, start: datetime, vector: Vector) -> str:
    places = tuple((p.topic, p.partition, p.offset) for p in vector)
    packed = msgspec.msgpack.encode(_Cursor(1, request, epoch_ms(start), places))
    return base64.urlsafe_b64encode(packed).decode()


def _resume(cursor: str, request: bytes) -> tuple[datetime, Vector]:
    """Where a page begins and at which positions; Invalid(CURSOR_INVALID) for any other text."""
    try:
        packed = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        kept = msgspec.msgpack.decode(packed, type=_Cursor)
        start = from_epoch_ms(kept.start_ms)
    except (ValueError, OverflowError, OSError, msgspec.MsgspecError):
        raise Invalid(Reason.CURSOR_INVALID, "the cursor cannot be read", field="cursor") from None
    if kept.version != 1 or kept.request != request or not on_the_grid(start):
        raise Invalid(Reason.CURSOR_INVALID, "the cursor is not of this request", field="cursor")
    return start, tuple(DataPosition(*place) for place in kept.vector)


def _request_digest(request: Any) -> bytes:
    """What a cursor is bound to: the caller and the request but for the cursor itself."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("cursor")
    bare.ClearField("at_least")
    caller = current_caller()
    content = f"{caller}\n".encode() + bare.SerializeToString(deterministic=True)
    return hashlib.sha256(content).digest()[:16]


def _interval(interval: Any) -> Interval:
    asked = wire.half_hours(interval)
    if asked.end - asked.start > MAX_INTERVAL:
        raise Invalid(Reason.REQUEST_TOO_LARGE, "at most 10 years", field="interval")
    return asked


def _question(mpxn: str, asked: Any, path: str) -> tuple[str, str, str, str]:
    return (
        mpxn,
        wire.identifier(asked.data_user, f"{path}.data_user"),
        _code(asked.purpose, f"{path}.purpose"),
        _code(asked.category or Category.HH_CONSUMPTION, f"{path}.category"),
    )


def _page(size: int) -> int:
    if not 0 <= size <= MAX_PAGE:
        raise Invalid(Reason.FIELD_INVALID, f"at most {MAX_PAGE} a page", field="page_size")
    return size or HALF_HOURS_PER_CHUNK


def _code(text: str, field: str, longest: int = 64) -> str:
    if not text:
        raise Invalid(Reason.FIELD_MISSING, f"{field} is required", field=field)
    if len(text) > longest or not text.isascii() or not text.isprintable():
        raise Invalid(Reason.FIELD_INVALID, f"{field} is not a code", field=field)
    return text


def _consent_id(request: Any) -> str:
    named = getattr(request, "consent_id", "")
    return _code(named, "consent_id") if named else ""
