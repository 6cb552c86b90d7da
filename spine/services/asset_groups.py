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


def group_from(message: Any, group: type[GroupT]) -> GroupT:
    """A data group as a caller wrote it; Invalid if an instant in it is none."""
    return group(**{field.name: _from(message, field.name) for field in fields(group)})  # type: ignore[arg-type]


def group_to(group: object, message: type[Any]) -> Any:
    """A data group as a message; what is None stays unset."""
    given = {f.name: getattr(group, f.name) for f in fields(group)}  # type: ignore[arg-type]
    return message(**{name: _to(value) for name, value in given.items() if value is not None})


def link_from(message: Any) -> Link:
    """A link as a caller wrote it; Invalid if it says not from when on it holds."""
    wire.required_instant(message, "effective_from")
    return group_from(message, Link)


def _from(message: Any, name: str) -> Any:
    described = message.DESCRIPTOR.fields_by_name[name]
    if described.message_type is not None:
        return wire.optional_instant(message, name)
    if described.has_presence and not message.HasField(name):
        return None
    return getattr(message, name)


def _to(value: object) -> object:
    return wire.stamp(value) if isinstance(value, datetime) else value
