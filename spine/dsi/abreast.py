"""Answers to reads that share a record, made side by side.

Requests that were logged together are decided, and handed out, together. Most of them ask for the
same half hours, each of another meter, and to make those of several meters at once takes far less
than one after the other. So whoever is answered first has the others' answers made with its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from spine.beside import Beside
from spine.dsi.answering import Answer, Sources, answers
from spine.event import AccessRequest
from spine.gb import HALF_HOUR
from spine.rows import Decided

# All that are made at once wait until those whose they are have their turn, and a page may be long.
MOST_AT_ONCE: Final = 32
HALF_HOURS_AT_ONCE: Final = 17_568


def made_beside(decided: Decided, beside: Beside, sources: Callable[[], Sources]) -> Answer:
    """The answer to a permitted request for half hours, as `answers` makes it of it alone.

    `sources` gives the rows at the positions of the request.
    """
    request = decided.request
    beside.decided.pop(request.request_id, None)
    made: Answer | None = beside.answers.pop(request.request_id, None)
    if made is not None:
        return made
    rows, others = sources(), _alike(request, beside)
    for other in others:
        del beside.decided[other.request.request_id]
    try:
        made, *theirs = answers([decided, *others], rows)
    except Exception:
        if not others:
            raise
        return answers([decided], rows)[0]  # it may be the fault of another
    for other, answer in zip(others, theirs, strict=True):
        beside.answers[other.request.request_id] = answer
    return made


def _alike(request: AccessRequest, beside: Beside) -> list[Decided]:
    """Others that ask for the same half hours, as of the same positions, of which none is answered
    yet.
    """
    asked = _asked(request)
    alike = [other for other in beside.decided.values() if _asked(other.request) == asked]
    half_hours = max(1, (request.interval_to - request.interval_from) // HALF_HOUR)
    most = min(MOST_AT_ONCE, max(1, HALF_HOURS_AT_ONCE // half_hours))
    return alike[: most - 1]


def _asked(request: AccessRequest) -> tuple[Any, ...]:
    return (
        request.vector,
        request.category,
        request.measurement_quantity,
        request.interval_from,
        request.interval_to,
    )
