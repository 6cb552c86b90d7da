"""Every value in a message by the path of its field, and messages with every field filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

TIMESTAMP = "google.protobuf.Timestamp"
Value = str | bytes | int | float | bool


def leaves(message: Message, path: str = "") -> Iterator[tuple[str, Value]]:
    """Path and value of every scalar that is set, also in lists; an instant is one value, in ns."""
    for field, value in message.ListFields():
        here = f"{path}.{field.name}" if path else field.name
        for each in value if field.is_repeated else [value]:
            if field.message_type is None:
                yield here, each
            elif field.message_type.full_name == TIMESTAMP:
                yield here, each.seconds * 10**9 + each.nanos
            else:
                yield from leaves(each, here)


def filled(message: Any, of: Callable[[FieldDescriptor], Value], times: int = 2) -> Any:
    """The message with a value in every field, lists with so many; of a oneof, the last."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            if field.is_repeated:
                getattr(message, field.name).extend(of(field) for _ in range(times))
            else:
                setattr(message, field.name, of(field))
        elif field.message_type.GetOptions().map_entry:
            continue
        elif field.message_type.full_name == TIMESTAMP:
            getattr(message, field.name).FromNanoseconds(int(of(field)))
        elif field.is_repeated:
            for _ in range(times):
                filled(getattr(message, field.name).add(), of, times)
        else:
            filled(getattr(message, field.name), of, times)
    return message
