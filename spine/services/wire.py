"""What every gRPC service maps the same way: instants, ids and codes, positions, the order behind a
write.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from functools import cache, lru_cache
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from spine import trust
from spine.common.v1 import common_pb2
from spine.domain import Actor
from spine.errors import Invalid, Reason
from spine.event import DataPosition, epoch_ms, from_epoch_ms
from spine.gb import FIRST_DATE, LAST_DATE, Interval, on_the_grid, parse_mpxn
from spine.orders import Handled, Order
from spine.server import current_caller

KEY_CHARS_MAX: Final = 64
FIRST_READING: Final = datetime.combine(FIRST_DATE, time(), UTC)
PAST_READINGS: Final = datetime.combine(LAST_DATE + timedelta(days=1), time(), UTC)
_ID: Final = re.compile(r"[A-Za-z0-9._-]{3,64}", re.ASCII)
_CODE: Final = re.compile(r"[A-Z0-9_]{1,64}", re.ASCII)


# -- out ------------------------------------------------------------------------------------------


def stamp(at: datetime) -> Timestamp:
    """An instant as the wire has it."""
    written = Timestamp()
    written.FromDatetime(at)
    return written


def stamp_ms(milliseconds: int) -> Timestamp:
    """An instant in milliseconds since 1970-01-01 UTC as the wire has it."""
    written = Timestamp()
    written.FromMilliseconds(milliseconds)
    return written


def position_token(log_id: bytes, positions: Iterable[DataPosition]) -> Any:
    """The PositionToken of an answer: the furthest of each topic-partition, in their order."""
    furthest: dict[tuple[str, int], int] = {}
    for p in positions:
        place = (p.topic, p.partition)
        furthest[place] = max(p.offset, furthest.get(place, 0))
    return common_pb2.PositionToken(
        log_id=log_id,
        positions=[
            common_pb2.Position(topic=topic, partition=partition, offset=offset)
            for (topic, partition), offset in sorted(furthest.items())
        ],
    )


def past(handled: Handled) -> DataPosition:
    """The position just after the record that holds the facts of a command."""
    return DataPosition(handled.topic, handled.partition, handled.offset + 1)


def record_ref(handled: Handled) -> Any:
    """The RecordRef of the record that holds the facts of a command."""
    return common_pb2.RecordRef(
        topic=handled.topic,
        partition=handled.partition,
        offset=handled.offset,
        entry=handled.entry,
    )


def recorded(log_id: bytes, handled: Handled) -> dict[str, Any]:
    """The fields by which every answer to a command says what was recorded, and where."""
    return {
        "positions": position_token(log_id, [past(handled)]),
        "record": record_ref(handled),
        "replayed": handled.replayed,
    }


# -- in -------------------------------------------------------------------------------------------


def now() -> datetime:
    """This machine's time, in whole milliseconds. No decision in the log rests on it."""
    return from_epoch_ms(epoch_ms(datetime.now(UTC)))


# Nothing that the spine is told of began before.
FIRST_YEAR: Final = 1_900
# So that adding a page to an instant is always an instant again.
LAST_YEAR: Final = 9_000
# By so much a caller's clock may be ahead of ours, and what it knows now still be known.
KNOWN_AHEAD: Final = timedelta(seconds=5)
_MS_NS: Final = 1_000_000
INSTANTS_KEPT_MAX: Final = 4_096


def instant(written: Timestamp, field: str) -> datetime:
    """The instant a caller wrote, in whole milliseconds; Invalid(TIME_INVALID) if there is none."""
    try:
        at = _instant(written.seconds, written.nanos)
    except (ValueError, OverflowError):
        raise Invalid(Reason.TIME_INVALID, "no such time", field=field) from None
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        message = f"a time is of the years {FIRST_YEAR} to {LAST_YEAR}"
        raise Invalid(Reason.TIME_INVALID, message, field=field)
    return at


@lru_cache(INSTANTS_KEPT_MAX)
def _instant(seconds: int, nanos: int) -> datetime:
    """Commands by the thousand say few instants."""
    written = Timestamp(seconds=seconds, nanos=nanos)
    return from_epoch_ms(epoch_ms(written.ToDatetime(tzinfo=UTC)))


def optional_instant(message: Any, field: str, within: str = "") -> datetime | None:
    """The instant in that field; None if the field is unset or the message has no such field.

    `within` is the path of the message in the request, with a dot at its end.
    """
    try:
        if not message.HasField(field):
            return None
    except ValueError:  # a message without such a field
        return None
    return instant(getattr(message, field), within + field)


def required_instant(message: Any, field: str, within: str = "") -> datetime:
    """The instant in that field; Invalid(FIELD_MISSING) if it is unset."""
    at = optional_instant(message, field, within)
    if at is None:
        path = within + field
        raise Invalid(Reason.FIELD_MISSING, f"{path} is required", field=path)
    return at


def known_instant(request: Any) -> datetime | None:
    """Its `as_of_known`, if it names one; Invalid(TIME_INVALID) for a time that is yet to come.

    What will be known then nobody can say twice alike.
    """
    at = optional_instant(request, "as_of_known")
    if at is not None and at > now() + KNOWN_AHEAD:
        message = "what is known later than now cannot be told yet"
        raise Invalid(Reason.TIME_INVALID, message, field="as_of_known")
    return at


def half_hours(given: Any, field: str = "interval") -> Interval:
    """An Interval of whole half hours as a caller wrote it; `field` is its path in the request.

    Invalid  FIELD_MISSING: an end is not said; TIME_INVALID: one is no time, or none of readings;
             INTERVAL_INVALID: one does not lie on a half hour, or the end is not after the start
    """
    start, end = (required_instant(given, name, f"{field}.") for name in ("start", "end"))
    if start < FIRST_READING or end > PAST_READINGS:
        name, at = ("start", start) if start < FIRST_READING else ("end", end)
        message = f"readings are of the days from {FIRST_DATE} to {LAST_DATE}, and none of {at}"
        raise Invalid(Reason.TIME_INVALID, message, field=f"{field}.{name}")
    for name, at in (("start", start), ("end", end)):
        if getattr(given, name).nanos % _MS_NS or not on_the_grid(at):
            message = "both ends must lie on a half hour"
            raise Invalid(Reason.INTERVAL_INVALID, message, field=f"{field}.{name}")
    if start >= end:
        raise Invalid(Reason.INTERVAL_INVALID, "an interval ends after it starts", field=field)
    return Interval(start, end)


def mpxns(named: Iterable[str], path: str = "mpxns[{}]") -> list[str]:
    """The metering points in a repeated field; Invalid names the path of the one at fault."""
    found: list[str] = []
    for text in named:
        try:
            found.append(str(parse_mpxn(text)))
        except Invalid as error:
            where = path.format(len(found))
            raise Invalid(error.reason, error.message, field=where) from None
    return found


def identifier(text: str, field: str) -> str:
    """A party, tenancy or consent id; Invalid if it is missing or not 3 to 64 of its characters."""
    if not text:
        raise Invalid(Reason.FIELD_MISSING, f"{field} is required", field=field)
    if not _ID.fullmatch(text):
        raise Invalid(Reason.FIELD_INVALID, f"{field} is 3 to 64 of A-Z a-z 0-9 . _ -", field=field)
    return text


def code(text: str, field: str) -> str:
    """A code in capitals; Invalid if it is missing or could be free text."""
    if not text:
        raise Invalid(Reason.FIELD_MISSING, f"{field} is required", field=field)
    if not _CODE.fullmatch(text):
        raise Invalid(Reason.FIELD_INVALID, f"{field} is 1 to 64 of A-Z 0-9 _", field=field)
    return text


def optional_code(text: str, field: str) -> str:
    """A code in capitals, or nothing."""
    return code(text, field) if text else ""


def words(text: str, field: str, longest: int) -> str:
    """A text for people, not empty; Invalid if it is too long or would upset a terminal."""
    if not text:
        raise Invalid(Reason.FIELD_MISSING, f"{field} is required", field=field)
    return optional_words(text, field, longest)


def optional_words(text: str, field: str, longest: int) -> str:
    """A text for people, or nothing."""
    if len(text) > longest or any(not c.isprintable() for c in text):
        raise Invalid(
            Reason.FIELD_INVALID, f"{field} is at most {longest} printable characters", field=field
        )
    return text


def at_least(request: Any, log_id: bytes, partitions: int) -> tuple[DataPosition, ...]:
    """How much of the log the answer has to include; `partitions` are those of its meter-keyed
    topics. Of several positions of one topic-partition each has to be reached.

    Invalid(POSITION_INVALID)  the token is of another log, names a place that the log does not
                               have, or was sealed for somebody else
    """
    token = request.at_least
    if token.sealed:  # what was sealed for the caller was opened on the way here
        message = "a sealed position token is of a party with pairwise identifiers"
        raise Invalid(Reason.POSITION_INVALID, message, field="at_least")
    if token.positions and token.log_id != log_id:
        raise Invalid(
            Reason.POSITION_INVALID, "the position token is of another log", field="at_least"
        )
    if any(place.topic not in trust.TOPICS for place in token.positions):
        raise Invalid(
            Reason.POSITION_INVALID, "a position names no topic of the log", field="at_least"
        )
    for place in token.positions:
        there_are = partitions if place.topic in trust.METER_KEYED else 1
        if not 0 <= place.partition < there_are or place.offset < 0:
            message = "a position names a partition or offset that its topic cannot have"
            raise Invalid(Reason.POSITION_INVALID, message, field="at_least")
    return tuple(DataPosition(p.topic, p.partition, p.offset) for p in token.positions)


# -- writes ---------------------------------------------------------------------------------------


def caller() -> Actor:
    """Who commands, by the certificate of the call that is being handled."""
    calling = current_caller()
    return Actor(calling.role, calling.party)


def idempotency_key(request: Any) -> str:
    """The key every write carries; Invalid(IDEMPOTENCY_KEY_REQUIRED) if there is no usable one."""
    key: str = request.idempotency_key
    if not 1 <= len(key) <= KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
        raise Invalid(
            Reason.IDEMPOTENCY_KEY_REQUIRED,
            f"a write carries an idempotency key of 1 to {KEY_CHARS_MAX} printable characters",
            field="idempotency_key",
        )
    return key


def request_digest(request: Any, *without: str) -> bytes:
    """SHA-256 of a request but for its idempotency key and the fields in `without`."""
    if not without and (front := _key_in_front(request)):
        said = request.SerializeToString(deterministic=True)
        if said.startswith(front):  # it has the first number, and what follows are all others
            return hashlib.sha256(said[len(front) :]).digest()
    bare = type(request)()
    bare.CopyFrom(request)
    for field in ("idempotency_key", *without):
        bare.ClearField(field)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()


def _key_in_front(request: Any) -> bytes:
    """The key as a message begins with it; nothing where it may stand otherwise."""
    key: bytes = request.idempotency_key.encode()
    if not 0 < len(key) <= KEY_CHARS_MAX or not _key_is_first(request.DESCRIPTOR):
        return b""
    return b"\x0a" + bytes([len(key)]) + key


@cache
def _key_is_first(described: Any) -> bool:
    """Whether a kind of message has its key as the field of number 1."""
    return bool(described.fields_by_name["idempotency_key"].number == 1)


def order(request: Any, method: str, subject: str, command: Any, by: Actor) -> Order:
    """The order for one subject that a request gives; its key is checked here."""
    return Order(subject, command, by, method, idempotency_key(request), request_digest(request))
