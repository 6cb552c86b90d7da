"""Requests that are no message of their method: refused for a reason, inside the stages of a call.

Raised where grpc decodes, the failure would reach the caller as UNKNOWN, without one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from spine.errors import Invalid, Reason

_UNREADABLE: Final = object()


def decoded(deserialize: Callable[[bytes], Any], raw: bytes) -> Any:
    """The message, or what `readable` refuses."""
    try:
        return deserialize(raw)
    except DecodeError:
        return _UNREADABLE


def readable(request: Any) -> Any:
    """The request as it is; Invalid(REQUEST_MALFORMED) if it could not be decoded."""
    if request is _UNREADABLE:
        raise Invalid(Reason.REQUEST_MALFORMED, "the request is not the message of this method")
    return request


async def each_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, each as by `readable`."""
    async for request in requests:
        yield readable(request)
