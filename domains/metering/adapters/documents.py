"""JSON documents as they come, numbers as exact decimals; no field is named twice in silence."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from spine.errors import Invalid, Reason


def document_of(data: bytes, what: str) -> Any:
    """The whole document, or Invalid if it is cut short or no JSON at all."""
    try:
        return json.loads(
            data.decode("utf-8-sig"),
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=Decimal,
            object_pairs_hook=_unique,
        )
    except (ValueError, RecursionError, ArithmeticError) as error:
        message = f"the file starts like {what} but is not whole JSON"
        raise Invalid(Reason.FILE_UNREADABLE, message, field="file") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """An object, or nothing if it names a field twice: JSON would silently keep the last."""
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None
