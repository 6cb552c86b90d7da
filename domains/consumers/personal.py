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

from domains.consumers.chain import terms_of
from spine.event import Sealed
from spine.policy import MeterAccess

# A notice is long, and what an answer may hold is bounded.
FIELDS_MAX: Final = 32
NOTICE: Final = "notice"
# As it is logged: with the number of its first field behind it, on pages after the first.
METHOD: Final = "GetPersonalRecord"
_PAGE: Final = re.compile(rf"{METHOD}(?:/(\d{{1,6}}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class PersonalText:
    """One text, and the tenancy or consent with which it was said; None if it does not open."""

    what: str
    about: str
    text: str | None = field(repr=False)


def first_field(method: str) -> int | None:
    """The number of the first field that a logged method asks for; None if it asks for none."""
    page = _PAGE.fullmatch(method)
    return None if page is None else int(page[1] or 0)


def sealed_for(known: Iterable[MeterAccess], consumer_ref: str) -> tuple[Sealed, ...]:
    """All that was ever sealed at a meter under that reference, each once, in its order.

    `known`: every state of the meter, oldest first. What a later fact replaced, as a grant does the
    notice of its request, is still kept in the log, and so is among it.
    """
    found: dict[Sealed, None] = {}
    for access in known:
        for sealed in _sealed_in(access, consumer_ref):
            if sealed is not None:
                found.setdefault(sealed)
    return tuple(found)


def _sealed_in(access: MeterAccess, consumer_ref: str) -> Iterator[Sealed | None]:
    for tenancy in access.tenancies:
        if tenancy.consumer_ref == consumer_ref:
            yield tenancy.person
    for consent in access.consents:
        if consent.consumer_ref == consumer_ref:
            yield consent.notice
            yield terms_of(access, consent.consent_id).details


def texts_of(sealed: Sealed, text: str | None) -> tuple[PersonalText, ...]:
    """What a sealed field says: the text of a notice, each named part of anything else."""
    kind, _, about = sealed.context.partition("/")
    if text is None or kind == NOTICE:
        return (PersonalText(kind, about, text),)
    return tuple(PersonalText(name, about, said) for name, said in json.loads(text).items() if said)
