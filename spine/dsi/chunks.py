"""Chunks of a stream as the DSI sends them: each by itself, or several as members of a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from spine.answer import HalfHour
from spine.dsi.columns import field
from spine.dsi.reads import Judged
from spine.dsi.rows import half_hours_in_columns, put_half_hours
from spine.dsi.stream import Chunk
from spine.dsi.v1 import dsi_pb2
from spine.encoded import Encoded
from spine.errors import Invalid, Reason
from spine.policy import Permit
from spine.services import wire

# A chunk takes 60 kB if all its half hours differ in version and have long qualities: with so many
# a message is still well below the 4 MiB that a server sends. And a thousand meters, asked for at
# once, are some 35 of a partition: most often one message, made at one go.
MAX_MEMBERS_PER_MESSAGE: Final = 48
_MEMBERS: Final = dsi_pb2.StreamReadingsResponse.DESCRIPTOR.fields_by_name["members"].number


def members_per_message(request: Any) -> int:
    """How many chunks a message of the stream may hold; 0 if each is to come by itself.

    Invalid(FIELD_INVALID)  too many of them, or not in columns
    """
    members: int = request.members_per_message
    if not 0 <= members <= MAX_MEMBERS_PER_MESSAGE:
        message = f"at most {MAX_MEMBERS_PER_MESSAGE} members a message"
        raise Invalid(Reason.FIELD_INVALID, message, field="members_per_message")
    if members and not request.in_columns:
        message = "only in columns do several members fit into a message"
        raise Invalid(Reason.FIELD_INVALID, message, field="members_per_message")
    return members


def message_of(chunks: Sequence[Chunk], request: Any, token: Callable[[Judged], Any]) -> Any:
    """The message that these chunks are to the request; `token` makes a position token."""
    if not request.members_per_message:
        response = dsi_pb2.StreamReadingsResponse()
        (chunk,) = chunks
        _put(response, chunk, token)
        put_half_hours(response, _half_hours(chunk), request.in_columns)
        return response
    return Encoded(dsi_pb2.StreamReadingsResponse, b"".join(_members(chunks, token)))


def _members(chunks: Sequence[Chunk], token: Callable[[Judged], Any]) -> Iterator[bytes]:
    """Each chunk as a member of a message: its columns, which are the most of it, come last."""
    columns = half_hours_in_columns([_half_hours(chunk) for chunk in chunks])
    for chunk, half_hours in zip(chunks, columns, strict=True):
        member = dsi_pb2.MemberChunk()
        _put(member, chunk, token)
        yield from field(_MEMBERS, member.SerializeToString() + half_hours)


def _half_hours(chunk: Chunk) -> Sequence[HalfHour]:
    return chunk.answer.half_hours if chunk.answer else ()


def _put(message: Any, chunk: Chunk, token: Callable[[Judged], Any]) -> None:
    """A chunk but for its half hours."""
    message.mpxn, message.chunk = chunk.mpxn, chunk.number
    message.interval_complete = chunk.complete
    message.refused = chunk.refused or ""
    if chunk.answer and chunk.judged:
        message.decision.CopyFrom(decision(chunk.judged))
        message.positions.CopyFrom(token(chunk.judged))
        message.digest = chunk.answer.digest


def decision(judged: Judged) -> Any:
    """Where a member was decided, and under what it was permitted."""
    ruling, decided = judged.ruling, judged.decided
    permit = decided.decision if isinstance(decided.decision, Permit) else None
    return _decision(
        decided.request.request_id,
        ruling.partition,
        ruling.offset,
        decided.entry,
        decided.now_ms,
        permit.consent_id if permit else "",
        permit.consent_version if permit else 0,
        decided.policy_version,
    )


@lru_cache(1)
def _decision(
    request_id: bytes,
    partition: int,
    offset: int,
    entry: int,
    now_ms: int,
    consent_id: str,
    consent_version: int,
    policy_version: int,
) -> Any:
    """Alike for the members of a set that no consent was needed of, and made once for them."""
    return dsi_pb2.Decision(
        request_id=request_id,
        partition=partition,
        offset=offset,
        entry=entry,
        decided_at=wire.stamp_ms(now_ms),
        consent_id=consent_id,
        consent_version=consent_version,
        policy_version=policy_version,
    )
