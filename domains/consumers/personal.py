"""What is kept sealed about a consumer at a meter: what its right of access reaches.

Pure. Which sealed fields there are follows from the facts of the meter; only the keys, which are
elsewhere, make texts of them (UK GDPR art. 15).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from domains.consumers.chain import records_of, terms_in
from spine.event import Sealed
from spine.policy import MeterAccess
from spine.rows import Subject

# A page ends after the state with which it holds that many fields, or has looked at that many
# tenancies and consents: a notice is long, and a meter may have any number of states.
FIELDS_MAX: Final = 32
LOOKED_AT_MAX: Final = 2_000
NOTICE: Final = "notice"
# As it is logged: on pages after the first, with the offset at which the one before ended.
METHOD: Final = "GetPersonalRecord"
OFFSET_DIGITS: Final = 18
# The fact of an error that says where the page behind one that stays shut begins.
NEXT_OFFSET: Final = "next_offset"
_PAGE: Final = re.compile(rf"{METHOD}(?:/(\d{{1,{OFFSET_DIGITS}}}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page:
    """Sealed fields in their order, and the offset at which the next page goes on; 0: no more."""

    sealed: tuple[Sealed, ...]
    next_offset: int


@dataclass(frozen=True, slots=True)
class PersonalText:
    """One text, and the tenancy or consent with which it was said; None if it does not open, and
    `shut` then says why (`spine.sealing.Opened`).
    """

    what: str
    about: str
    text: str | None = field(repr=False)
    shut: str = ""


def from_offset(method: str) -> int | None:
    """Where the page begins that a logged method asks for; None if it asks for none."""
    page = _PAGE.fullmatch(method)
    return None if page is None else int(page[1] or 0)


def page_of(known: Iterable[Subject], consumer_ref: str, begin: int = 0) -> Page:
    """What was sealed under that reference in states of a meter, oldest first: a page of it.

    Who asks for keys and who has them come to the same page, each from its own rows.
    What a later fact replaced, as a grant does the notice of its request, is still kept in the log,
    and so was new in some state. Of a page that `begin`s anywhere, the first state was the last of
    the page before. Each page looks at one more state at least.
    """
    found: list[Sealed] = []
    before: frozenset[Sealed] = frozenset()
    looked_at = last = 0
    states = iter(known)
    if begin and (shown := next(states, None)) is not None:
        before, last = frozenset(_sealed_in(shown.state, consumer_ref)), shown.offset
    for each in states:
        if len(found) >= FIELDS_MAX or looked_at >= LOOKED_AT_MAX:
            return Page(tuple(found), last)
        here = dict.fromkeys(_sealed_in(each.state, consumer_ref))
        found += (sealed for sealed in here if sealed not in before)
        before, last = frozenset(here), each.offset
        looked_at += 1 + len(each.state.tenancies) + len(each.state.consents)
    return Page(tuple(found), 0)


def _sealed_in(access: MeterAccess, consumer_ref: str) -> Iterator[Sealed]:
    for tenancy in access.tenancies:
        if tenancy.consumer_ref == consumer_ref and tenancy.person is not None:
            yield tenancy.person
    records = records_of(access)
    for consent in access.consents:
        if consent.consumer_ref != consumer_ref:
            continue
        if consent.notice is not None:
            yield consent.notice
        agreed = terms_in(records.get(consent.consent_id))
        if agreed.details is not None:
            yield agreed.details


def texts_of(sealed: Sealed, text: str | None, shut: str = "") -> tuple[PersonalText, ...]:
    """What a sealed field says: the text of a notice, each named part of anything else; or why it
    does not open.
    """
    kind, _, about = sealed.context.partition("/")
    if text is None or kind == NOTICE:
        return (PersonalText(kind, about, text, shut),)
    return tuple(PersonalText(name, about, said) for name, said in json.loads(text).items() if said)
