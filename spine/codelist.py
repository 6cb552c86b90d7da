"""Standing data: code lists of a data domain as dated facts in the domain's reference topic.

A list is the subject; one load of it is one command, so one record, that applies whole or not at
all. No meter orders these facts: what the log orders is the list, each load naming the one before.
An entry is known by its code and its first day, and holds on the days [effective_from,
effective_to) as London counts them. The topic says whose the list is: only its domain's coordinator
may write there (`trust.MAY_WRITE`), so no other can put a code into it. An unlisted code is a no.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Final

from spine.domain import Actor, Domain
from spine.errors import Invalid, NotPermitted, Reason, Refused
from spine.event import SignerRole
from spine.gb import FIRST_DATE, LAST_DATE, london, utc
from spine.policy import Role

ROWS_MAX: Final = 1_000
DAYS_KEPT_MAX: Final = 4_096
LABEL_CHARS_MAX: Final = 200
LOADERS: Final = frozenset({Role.GOVERNANCE, Role.COORDINATOR})
_CODE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Attribute:
    """What else a list says of a code."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class CodeListed:
    """A code stands in a list and means this on these days; an entry of the same code and first day
    is replaced.
    """

    list_name: str
    code: str
    label: str
    attributes: tuple[Attribute, ...]
    effective_from: date
    effective_to: date | None
    source: str
    licence: str

    def holds_on(self, day: date) -> bool:
        """Whether the entry holds on that day."""
        return self.effective_from <= day and (self.effective_to is None or day < self.effective_to)

    def attribute(self, name: str) -> str:
        """The value of an attribute; empty if the entry has none of that name."""
        return next((a.value for a in self.attributes if a.name == name), "")


@dataclass(frozen=True, slots=True)
class CodeWithdrawn:
    """An entry was wrong and is taken out of its list, on every day."""

    list_name: str
    code: str
    effective_from: date
    why: str


ReferenceEvent = CodeListed | CodeWithdrawn
Key = tuple[str, date]


@dataclass(frozen=True, slots=True)
class CodeList:
    """A list as its facts tell it: entries by code and first day, and the keys of withdrawn ones.

    The list that was never loaded is empty: no code of it is known.
    """

    entries: tuple[CodeListed, ...] = ()
    withdrawn: tuple[Key, ...] = ()

    @property
    def loaded(self) -> bool:
        """Whether anything was ever recorded of it."""
        return bool(self.entries or self.withdrawn)

    def on(self, day: date) -> tuple[CodeListed, ...]:
        """The entries that hold on that day, in order of code."""
        return tuple(entry for entry in self.entries if entry.holds_on(day))

    def find(self, code: str, day: date) -> CodeListed | None:
        """What the code means on that day; None is a no."""
        for entry in reversed(self.entries):
            if entry.code == code and entry.holds_on(day):
                return entry
        return None


NOT_LOADED: Final = CodeList()


@dataclass(frozen=True, slots=True)
class ListSpec:
    """What a domain says of one of its lists, whatever stands in it.

    `codes` is the form of a code; `attributes` names those that every entry has, `optional` those
    that it may have. `only`, if given, are the only codes there can be: what decides holds them
    elsewhere (the policy, an enumeration), and the list describes them.
    """

    name: str
    title: str
    codes: re.Pattern[str] = _CODE
    attributes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    only: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class LoadCodes:
    """List these entries and withdraw those; what is not named stays as it is."""

    by: Actor
    list_name: str
    listed: tuple[CodeListed, ...] = ()
    withdrawn: tuple[CodeWithdrawn, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a row: the listed ones are counted from 0, then the withdrawn ones."""

    row: int
    reason: Reason
    text: str
    field: str = ""


@lru_cache(DAYS_KEPT_MAX)
def day_of(instant: datetime) -> date:
    """The day, as London counts days, on which something at that instant is judged."""
    return utc(instant).astimezone(london()).date()


def evolve(state: CodeList, event: ReferenceEvent) -> CodeList:
    """The list after one more fact; `Refused` if the fact is of another list or has no day."""
    if state.entries and state.entries[0].list_name != event.list_name:
        raise Refused(Reason.LIST_UNKNOWN, "the fact is of another list")
    key = (event.code, event.effective_from)
    entries = tuple(e for e in state.entries if key_of(e) != key)
    gone = tuple(k for k in state.withdrawn if k != key)
    match event:
        case CodeListed():
            if event.effective_to is not None and event.effective_to <= event.effective_from:
                raise Refused(Reason.INTERVAL_INVALID, "it would end before it started")
            return CodeList(tuple(sorted((*entries, event), key=key_of)), gone)
        case CodeWithdrawn():
            return CodeList(entries, tuple(sorted((*gone, key))))


def key_of(row: ReferenceEvent) -> Key:
    """What an entry is known by."""
    return row.code, row.effective_from


def problems(spec: ListSpec, command: LoadCodes) -> Iterator[Problem]:
    """What is wrong with the rows by themselves, whatever the list holds already."""
    rows: tuple[ReferenceEvent, ...] = (*command.listed, *command.withdrawn)
    seen: set[Key] = set()
    for number, row in enumerate(rows):
        if key_of(row) in seen:
            text = f"{row.code} from {row.effective_from} is named twice"
            yield Problem(number, Reason.FIELD_INVALID, text, "code")
        seen.add(key_of(row))
        if not FIRST_DATE <= row.effective_from <= LAST_DATE:
            text = f"effective_from is from {FIRST_DATE} to {LAST_DATE}"
            yield Problem(number, Reason.TIME_INVALID, text, "effective_from")
        match row:
            case CodeListed():
                yield from _problems_of_entry(spec, number, row)
            case CodeWithdrawn():
                yield from _problems_of_text(number, "why", row.why)


def _problems_of_entry(spec: ListSpec, number: int, row: CodeListed) -> Iterator[Problem]:
    if not (_CODE.fullmatch(row.code) and spec.codes.fullmatch(row.code)):
        text = f"{row.code!r} has not the form of a code of {spec.name}"
        yield Problem(number, Reason.FIELD_INVALID, text, "code")
    elif spec.only is not None and row.code not in spec.only:
        text = f"{row.code} is none of the codes that {spec.name} describes"
        yield Problem(number, Reason.CODE_UNKNOWN, text, "code")
    end = row.effective_to
    if end is not None and end <= row.effective_from:
        text = f"{row.code} would end before it started"
        yield Problem(number, Reason.INTERVAL_INVALID, text, "effective_to")
    for name in ("label", "source", "licence"):
        yield from _problems_of_text(number, name, getattr(row, name))
    names = [a.name for a in row.attributes]
    for missing in sorted(set(spec.attributes) - set(names)):
        yield Problem(number, Reason.FIELD_MISSING, f"{row.code} has no {missing}", missing)
    for other in sorted(set(names) - {*spec.attributes, *spec.optional}):
        text = f"entries of {spec.name} have no {other}"
        yield Problem(number, Reason.FIELD_INVALID, text, "attributes")
    if names != sorted(set(names)):
        text = "attributes come in order of name, each once"
        yield Problem(number, Reason.FIELD_INVALID, text, "attributes")
    for attribute in row.attributes:
        yield from _problems_of_text(number, attribute.name, attribute.value)


def _problems_of_text(number: int, name: str, text: str) -> Iterator[Problem]:
    if not text:
        yield Problem(number, Reason.FIELD_MISSING, f"{name} is required", name)
    elif len(text) > LABEL_CHARS_MAX or not text.isprintable():
        said = f"{name} is at most {LABEL_CHARS_MAX} printable characters"
        yield Problem(number, Reason.FIELD_INVALID, said, name)


def changes(state: CodeList, command: LoadCodes) -> tuple[ReferenceEvent, ...]:
    """The facts that bring the list to what the command says; `Refused` if they do not fit it.

    CODE_UNKNOWN: what is to be withdrawn was never listed. CODE_OVERLAPS: two entries of a code
    would hold on one day.
    """
    held = {key_of(entry): entry for entry in state.entries}
    new: list[ReferenceEvent] = []
    for gone in command.withdrawn:
        if key_of(gone) in held:
            new.append(gone)
        elif key_of(gone) not in state.withdrawn:
            message = f"{gone.code} from {gone.effective_from} was never listed"
            raise Refused(Reason.CODE_UNKNOWN, message, field="withdrawals")
    new += [row for row in command.listed if held.get(key_of(row)) != row]
    after = state
    for event in new:
        after = evolve(after, event)
    for one, other in zip(after.entries, after.entries[1:], strict=False):
        if one.code == other.code and one.holds_on(other.effective_from):
            message = f"{one.code} would have two entries on {other.effective_from}"
            raise Refused(Reason.CODE_OVERLAPS, message, field="codes")
    return tuple(new)


def _decide(
    specs: Mapping[str, ListSpec], state: CodeList, command: LoadCodes, now: datetime
) -> tuple[ReferenceEvent, ...]:
    """The facts of a load. Nobody's clock plays a part: days are what the rows say."""
    if command.by.role not in LOADERS:
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, "only governance loads standing data")
    spec = specs.get(command.list_name)
    if spec is None:
        raise Invalid(Reason.LIST_UNKNOWN, "this domain has no such list", field="list")
    rows = len(command.listed) + len(command.withdrawn)
    if not rows:
        raise Invalid(Reason.FIELD_MISSING, "there is nothing to load", field="codes")
    if rows > ROWS_MAX:
        raise Invalid(Reason.REQUEST_TOO_LARGE, f"at most {ROWS_MAX} rows a load", field="codes")
    for problem in problems(spec, command):
        raise Invalid(problem.reason, problem.text, field=problem.field)
    return changes(state, command)


def standing_data(topic: str, signer: SignerRole, specs: Mapping[str, ListSpec]) -> Domain:
    """How the reference topic of a domain folds, and who may write it: a value for the spine."""

    def decide(state: CodeList, command: LoadCodes, now: datetime) -> tuple[ReferenceEvent, ...]:
        return _decide(specs, state, command, now)

    return Domain(
        name="reference",
        topic=topic,
        signer=signer,
        version=1,
        events=EVENTS,
        state_type=CodeList,
        initial=CodeList,
        evolve=evolve,
        decide=decide,
    )


EVENTS: Final[Mapping[str, type]] = {
    "reference.CodeListed": CodeListed,
    "reference.CodeWithdrawn": CodeWithdrawn,
}


def specs_by_name(*specs: ListSpec) -> Mapping[str, ListSpec]:
    """The lists of a domain by name."""
    return {spec.name: spec for spec in specs}


def check_listed(codes: CodeList, code: str, day: date, what: str, field: str) -> CodeListed:
    """What the code means on that day; Invalid(CODE_UNKNOWN) if it is not listed then."""
    found = codes.find(code, day)
    if found is None:
        message = f"standing data knows no such {what} on that day"
        raise Invalid(Reason.CODE_UNKNOWN, message, field=field)
    return found
