"""The data groups of an asset between the wire and the domain: messages and dataclasses whose
fields bear the same names.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

from domains.btm_assets.events import Link
from spine.services import wire

GroupT = TypeVar("GroupT")


def group_from(message: Any, group: type[GroupT], within: str = "") -> GroupT:
    """A data group as a caller wrote it; Invalid if an instant in it is none.

    `within` is the path of the message in the request, with a dot at its end.
    """
    return group(**{f.name: _from(message, f.name, within) for f in fields(group)})  # type: ignore[arg-type]


def group_to(group: object, message: type[Any]) -> Any:
    """A data group as a message; what is None stays unset."""
    given = {f.name: getattr(group, f.name) for f in fields(group)}  # type: ignore[arg-type]
    return message(**{name: _to(value) for name, value in given.items() if value is not None})


def link_from(message: Any, within: str) -> Link:
    """A link as a caller wrote it; Invalid if it says not from when on it holds."""
    wire.required_instant(message, "effective_from", within)
    return group_from(message, Link, within)


def _from(message: Any, name: str, within: str) -> Any:
    described = message.DESCRIPTOR.fields_by_name[name]
    if described.message_type is not None:
        return wire.optional_instant(message, name, within)
    if described.has_presence and not message.HasField(name):
        return None
    return getattr(message, name)


def _to(value: object) -> object:
    return wire.stamp(value) if isinstance(value, datetime) else value
