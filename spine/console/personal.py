"""The command by which a consumer sees what is kept sealed about it."""

from __future__ import annotations

from typing import Any

import grpc
from rich.markup import escape

from domains.consumers.personal import NEXT_OFFSET
from spine.console.context import As, AsJson, Mpxn
from spine.console.output import say, say_json, table
from spine.console.parties import client
from spine.errors import Reason
from spine.policy import Basis
from spine.server import error_from


def record(mpxn: Mpxn, as_: As, as_json: AsJson = False) -> None:
    """What is kept sealed about you at a meter, in clear; logged and decided like every read.

    A page of which nothing opens is a line; if nothing opens of any, that is the error.
    """
    caller = client(as_)
    asked: dict[str, Any] = {"mpxn": mpxn, "purpose": "OWN_USE", "basis": Basis.SUBJECT}
    texts: list[dict[str, Any]] = []
    at: Any = None
    begin, more = 0, True
    while more:
        try:
            page = caller.dsi("GetPersonalRecord", from_offset=begin, **asked)
        except grpc.RpcError as error:
            failure = error_from(error)
            next_offset = int(failure.facts.get(NEXT_OFFSET, 0))
            if failure.reason != Reason.KEYS_NOT_AT_HAND or not (next_offset or at):
                raise
            texts.append(_line("page", str(begin), None, failure.reason))
        else:
            at, next_offset = page.decision, page.next_offset
            texts += (
                _line(t.what, t.about, None if t.unopened else t.text, t.unopened_reason)
                for t in page.texts
            )
        begin, more = next_offset, next_offset > 0
    if as_json:
        say_json(texts)
        return
    shown = ((t["what"], t["about"], _said(t)) for t in texts)
    table("What is kept sealed about you", ("what", "of", "text"), shown, wrapped="text")
    say(f"permitted at partition {at.partition} offset {at.offset}")


def _line(what: str, about: str, text: str | None, unopened_reason: str) -> dict[str, Any]:
    """A text; of a page that stays shut, its `from_offset` is what it is about."""
    return {
        "what": what,
        "about": about,
        "text": text,
        "unopened_reason": unopened_reason or None,
    }


def _said(text: dict[str, Any]) -> str:
    """The text, or why there is none."""
    if text["text"] is None:
        return f"not to be opened: {text['unopened_reason'] or 'no reason given'}"
    return escape(text["text"])
