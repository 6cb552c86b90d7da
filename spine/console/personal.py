"""The command by which a consumer sees what is kept sealed about it."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from spine.console.context import As, AsJson, Mpxn
from spine.console.output import say, say_json, table
from spine.console.parties import client
from spine.policy import Basis


def record(mpxn: Mpxn, as_: As, as_json: AsJson = False) -> None:
    """What is kept sealed about you at a meter, in clear; logged and decided like every read."""
    caller = client(as_)
    asked: dict[str, Any] = {"mpxn": mpxn, "purpose": "OWN_USE", "basis": Basis.SUBJECT}
    texts: list[dict[str, Any]] = []
    while True:
        page = caller.dsi("GetPersonalRecord", **asked)
        texts += (
            {
                "what": t.what,
                "about": t.about,
                "text": None if t.unopened else t.text,
                "unopened_reason": t.unopened_reason or None,
            }
            for t in page.texts
        )
        if not page.next_offset:
            break
        asked["from_offset"] = page.next_offset
    if as_json:
        say_json(texts)
        return
    shown = ((t["what"], t["about"], _said(t)) for t in texts)
    table("What is kept sealed about you", ("what", "of", "text"), shown, wrapped="text")
    at = page.decision
    say(f"permitted at partition {at.partition} offset {at.offset}")


def _said(text: dict[str, Any]) -> str:
    """The text, or why there is none."""
    if text["text"] is None:
        return f"not to be opened: {text['unopened_reason'] or 'no reason given'}"
    return escape(text["text"])
