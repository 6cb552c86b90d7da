"""A stream of many meters, answered one meter after the other, in the order they were asked for.

By itself a server answers the meters of one partition after those of another. Whoever sees that
knows which meters share one, and two parties have something to compare. Asked one by one, each
meter is decided when its turn comes, so nothing waits with a permit; it costs a request in the log
for each meter. A stream that follows would tell of all meters of a partition by one decision, so it
follows one meter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any, Final, NoReturn

import grpc

from spine.errors import Invalid, NotPermitted, Reason

METHOD: Final = "spine.dsi.v1.Dsi/StreamReadings"
METERS_MAX: Final = 1_000


class _Ended(Exception):
    """How a part was ended, by what another server said."""

    def __init__(self, code: Any, *said: Any) -> None:
        super().__init__(code)
        self.code, self.said = code, said


class _Part:
    """A call's context of which one part must not end the whole."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(
        self, code: Any, details: str = "", trailing_metadata: Iterable[Any] = ()
    ) -> NoReturn:
        raise _Ended(code, details, trailing_metadata)


async def singly(
    behaviour: Callable[..., AsyncIterator[Any]], request: Any, context: Any
) -> AsyncIterator[Any]:
    """The chunks of the stream. It ends as the whole would: with the last refusal if all were.

    Invalid(IDENTIFIERS_PAIRWISE)  it is to follow more than one meter
    """
    mpxns = list(request.mpxns)
    if request.follow and len(mpxns) > 1:
        message = "a stream of yours follows one meter"
        raise Invalid(Reason.IDENTIFIERS_PAIRWISE, message, field="mpxns")
    each_once = len(set(mpxns)) == len(mpxns) <= METERS_MAX
    if not each_once or len(mpxns) < 2:  # the service says what is wrong
        async with aclosing(behaviour(request, context)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk
        return
    refusals: list[NotPermitted | _Ended] = []
    for mpxn in mpxns:
        one = type(request)()
        one.CopyFrom(request)
        one.mpxns[:] = [mpxn]
        try:
            async with aclosing(behaviour(one, _Part(context))) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
        except NotPermitted as refused:
            refusals.append(refused)
        except _Ended as ended:
            if ended.code is not grpc.StatusCode.PERMISSION_DENIED:
                await context.abort(ended.code, *ended.said)
            refusals.append(ended)
    if len(refusals) == len(mpxns):
        last = refusals[-1]
        if isinstance(last, _Ended):
            await context.abort(last.code, *last.said)
        raise last
