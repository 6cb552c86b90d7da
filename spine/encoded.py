"""Answers that are put together as bytes, and sent without being read first."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message of that kind, as the bytes that its library would write."""

    kind: type[Message]
    raw: bytes


def encoded(answer: Message | Encoded) -> bytes:
    """The bytes of an answer."""
    return answer.raw if isinstance(answer, Encoded) else answer.SerializeToString()


def as_message(answer: Message | Encoded) -> Message:
    """The message that an answer is, for whoever looks into it."""
    return answer.kind.FromString(answer.raw) if isinstance(answer, Encoded) else answer
