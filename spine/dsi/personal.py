"""What is kept sealed about a consumer, read by itself: decided and logged as every read.

Which fields it comes to follows from the log; what they say, from keys that are elsewhere. So there
is one more step between the rows and the release, and the permit's two seconds hold across it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

from domains.consumers.personal import METHOD, NEXT_OFFSET, OFFSET_DIGITS, PersonalText, texts_of
from spine.access import Vector
from spine.dsi.answering import Answer
from spine.dsi.keyholders import Keyholders
from spine.dsi.reads import Judged, Query, Reads
from spine.dsi.refusing import not_permitted
from spine.dsi.v1 import dsi_pb2
from spine.errors import Invalid, NotPermitted, Pushback, Reason, SpineError
from spine.policy import Role
from spine.server import current_caller

OFFSET_MAX: Final = 10**OFFSET_DIGITS - 1


def method(request: Any) -> str:
    """What is logged: the method, and behind it where a page other than the first goes on.

    NotPermitted(ROLE_NOT_ALLOWED) for who is no consumer, Invalid for no such place.
    """
    if current_caller().role is not Role.CONSUMER:
        message = "what is kept sealed is shown to the consumer whom it is about"
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, message)
    begin: int = request.from_offset
    if not 0 <= begin <= OFFSET_MAX:
        message = "next_offset of the page before, or 0"
        raise Invalid(Reason.FIELD_INVALID, message, field="from_offset")
    return f"{METHOD}/{begin}" if begin else METHOD


class PersonalReads:
    """The read path of what is sealed, on one DSI server."""

    def __init__(self, reads: Reads, keys: Keyholders) -> None:
        self._reads, self._keys = reads, keys
        self._reading: set[str] = set()

    async def read(
        self, query: Query, mpxn: str, at_least: Vector
    ) -> tuple[Judged, Answer, list[PersonalText]]:
        """A whole read, and what the sealed fields of its answer say.

        NotPermitted  the fold refused it
        Refused(SUBJECT_ERASED)  the consumer was erased
        Pushback  KEYS_NOT_AT_HAND: who has the keys does not answer, or has none of the consumer;
                  its `next_offset`, if it has one, is where the next page begins, for a vault may
                  be lost; PERMIT_EXPIRED; OVERLOADED: a read of the same consumer is under way,
                  and each may be a long look back
        """
        party = query.caller.party
        if party in self._reading:
            raise Pushback(Reason.OVERLOADED, "a read of your own record is under way")
        self._reading.add(party)
        try:
            return await self._read(query, mpxn, at_least)
        finally:
            self._reading.discard(party)

    async def _read(
        self, query: Query, mpxn: str, at_least: Vector
    ) -> tuple[Judged, Answer, list[PersonalText]]:
        reads = self._reads
        partition = reads.partition_of(mpxn)
        vector = await reads.positions(
            query.category, partition, at_least, query.as_of_known, looking_back=True
        )
        (judged,) = await reads.decide(query, (mpxn,), vector)
        if not judged.permitted:
            raise not_permitted(judged.refused)
        made, said = reads.answer(judged), list[PersonalText]()
        if made.sealed:
            made, said = await self._opened(judged, made)
        reads.release(judged, made)
        return judged, made, said

    async def _opened(self, judged: Judged, made: Answer) -> tuple[Answer, list[PersonalText]]:
        """The answer with the digest of its texts, and these; else its outcome says why not."""
        ruling, decided = judged.ruling, judged.decided
        place = ruling.partition, ruling.offset, decided.entry
        try:
            opened = await self._keys.open(made.sealed, place, ruling.expires_at)
            said = zip(made.sealed, opened.texts, opened.shut, strict=True)
            texts = [text for field in said for text in texts_of(*field)]
        except SpineError as error:
            self._reads.withhold(judged, error.reason)
            if error.reason is Reason.KEYS_NOT_AT_HAND and made.next_offset:
                error.facts[NEXT_OFFSET] = str(made.next_offset)
            raise
        except asyncio.CancelledError:
            self._reads.withhold(judged, Reason.CLIENT_GONE)
            raise
        except Exception:
            self._reads.withhold(judged, Reason.RELEASE_FAILED)
            raise
        self._reads.check_time(judged)
        return replace(made, digest=opened.digest), texts


def response(made: Answer, texts: list[PersonalText], decision: Any, positions: Any) -> Any:
    """The answer as it is sent."""
    return dsi_pb2.GetPersonalRecordResponse(
        texts=[
            dsi_pb2.PersonalText(
                what=each.what,
                about=each.about,
                text=each.text or "",
                unopened=each.text is None,
                unopened_reason=each.shut,
            )
            for each in texts
        ],
        decision=decision,
        positions=positions,
        digest=made.digest,
        next_offset=made.next_offset,
    )
