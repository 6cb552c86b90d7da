"""What the table of `spine.pairwise` comes to for messages: requests opened, answers closed.

What is to be done with a type of message is worked out once, from its descriptor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from spine.common.v1 import common_pb2
from spine.encoded import Encoded, as_message
from spine.errors import NEXT_CURSOR, Invalid, NotPermitted, Reason
from spine.identifiers import Identifiers, Kind
from spine.pairwise import FIELDS, TIMESTAMP, TYPES, Rule, Treatment

Act = Callable[["Party", Any, str], None]


@dataclass(frozen=True, slots=True)
class Party:
    """Whose identifiers they are, and the key they are made under."""

    name: str
    identifiers: Identifiers

    def named(self, kind: Kind, name: str) -> str:
        """Its identifier of that thing; nothing stays nothing."""
        return self.identifiers.close(kind, self.name, name) if name else ""

    def cursor(self, cursor: str) -> str:
        """The cursor, sealed to be handed back: it names places in the log."""
        return self.identifiers.close_text(Kind.CURSOR, self.name, cursor)

    def facts(self, facts: Mapping[str, str]) -> dict[str, str]:
        """What it is told of the facts of an error: the cursor, sealed, and no other."""
        cursor = facts.get(NEXT_CURSOR)
        return {} if cursor is None else {NEXT_CURSOR: self.cursor(cursor)}

    def meant(self, kind: Kind, text: str, where: str) -> str:
        """What its identifier stands for.

        Invalid(IDENTIFIERS_PAIRWISE)  it is the number itself, which this party is not to use
        Invalid(IDENTIFIER_UNKNOWN)    it is no identifier, or one under a key no longer in use
        NotPermitted(NOT_PERMITTED)    it is none of this party: as of a meter not its own
        """
        if not text:
            return ""
        if not text.startswith(f"{kind}_"):
            message = f"you name things by the identifiers you were given, here {kind}_…"
            raise Invalid(Reason.IDENTIFIERS_PAIRWISE, message, field=where)
        try:
            opened = self.identifiers.open(kind, self.name, text)
        except Invalid as unknown:
            raise Invalid(unknown.reason, unknown.message, field=where) from None
        if opened is None:
            raise NotPermitted(Reason.NOT_PERMITTED, "not permitted")
        return opened


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with messages of one type: here, and with those in them that need it."""

    acts: list[tuple[Act, str]] = field(default_factory=list)
    inner: list[tuple[str, bool, Plan]] = field(default_factory=list)
    after: list[tuple[Act, str]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether such a message is left as it is."""
        return not (self.acts or self.inner or self.after)

    def carry_out(self, party: Party, message: Any) -> None:
        """Do it, in place."""
        for act, name in self.acts:
            act(party, message, name)
        for name, repeated, plan in self.inner:
            if repeated:
                for each in getattr(message, name):
                    plan.carry_out(party, each)
            elif message.HasField(name):
                plan.carry_out(party, getattr(message, name))
        for act, name in self.after:
            act(party, message, name)


def rule_of(field: FieldDescriptor) -> Rule | None:
    """What the table says of a field, by its name or its type; None if it says nothing."""
    kind = field.message_type
    return FIELDS.get(field.full_name) or (None if kind is None else TYPES.get(kind.full_name))


@cache
def closing(kind: Descriptor) -> Plan:
    """How answers of that type are closed. What the table does not name is withheld."""
    plan = Plan()
    for each in kind.fields:
        rule, inside = rule_of(each), each.message_type
        treatment = Treatment.WITHHELD if rule is None else rule.treatment
        if rule is None and inside is not None and inside.full_name != TIMESTAMP:
            treatment = Treatment.TOLD
        if treatment is not Treatment.TOLD:
            late = treatment in (Treatment.SHUFFLED, Treatment.JOINED)
            act = _CLOSE[treatment](rule)
            (plan.after if late else plan.acts).append((act, each.name))
        if inside is not None and treatment in _LOOKED_INTO and inside.full_name != TIMESTAMP:
            inner = closing(inside)
            if not inner.is_empty:
                plan.inner.append((each.name, each.is_repeated, inner))
    return plan


@cache
def sealing(kind: Descriptor) -> Plan:
    """How answers of that type are closed if they say the same to everybody: tokens are sealed."""
    plan = Plan()
    for each in kind.fields:
        inside = each.message_type
        if inside is None or inside.full_name == TIMESTAMP:
            continue
        if inside.full_name in TYPES and TYPES[inside.full_name].kind is Kind.POSITIONS:
            plan.acts.append((_hand_out_positions, each.name))
        elif not (inner := sealing(inside)).is_empty:
            plan.inner.append((each.name, each.is_repeated, inner))
    return plan


@cache
def opening(kind: Descriptor) -> Plan:
    """How requests of that type are opened."""
    plan = Plan()
    for each in kind.fields:
        rule, inside = rule_of(each), each.message_type
        if rule is not None and rule.treatment in _OPEN:
            plan.acts.append((_OPEN[rule.treatment](rule), each.name))
        elif inside is not None and inside.full_name != TIMESTAMP:
            inner = opening(inside)
            if not inner.is_empty:
                plan.inner.append((each.name, each.is_repeated, inner))
    return plan


def _replaced(message: Any, name: str, change: Callable[[Any], Any]) -> None:
    value = getattr(message, name)
    if isinstance(value, str | bytes):
        setattr(message, name, change(value))
    else:
        value[:] = [change(each) for each in value]


def _name(rule: Rule) -> Act:
    assert rule.kind is not None
    kind = rule.kind
    return lambda party, message, name: _replaced(message, name, lambda n: party.named(kind, n))


def _hand_out(rule: Rule) -> Act:
    if rule.kind is Kind.POSITIONS:
        return _hand_out_positions
    return _hand_out_cursor


def _hand_out_positions(party: Party, message: Any, name: str) -> None:
    if message.HasField(name):
        token = getattr(message, name)
        content = token.SerializeToString(deterministic=True)
        token.Clear()
        token.sealed = party.identifiers.close_once(Kind.POSITIONS, party.name, content)


def _hand_out_cursor(party: Party, message: Any, name: str) -> None:
    if cursor := getattr(message, name):
        setattr(message, name, party.cursor(cursor))


def _compare(rule: Rule) -> Act:
    def act(party: Party, message: Any, name: str) -> None:
        if digest := getattr(message, name):
            sealed = party.identifiers.close_bytes(Kind.DIGEST, party.name, digest)
            setattr(message, name, sealed)

    return act


def _withhold(party: Party, message: Any, name: str) -> None:
    message.ClearField(name)


def _by_second(party: Party, message: Any, name: str) -> None:
    if message.HasField(name):
        getattr(message, name).nanos = 0


def _bare(party: Party, message: Any, name: str) -> None:
    setattr(message, name, getattr(message, name).partition("/")[0])


def _shuffle(party: Party, message: Any, name: str) -> None:
    """By their bytes, which begin with an identifier: an order that only this party has."""
    getattr(message, name).sort(key=lambda each: each.SerializeToString(deterministic=True))


def _join(party: Party, message: Any, name: str) -> None:
    """Runs of one version each, once the versions are gone."""
    runs = getattr(message, name)
    joined: list[Any] = []
    for run in runs:
        if joined and (joined[-1].absent, joined[-1].quality) == (run.absent, run.quality):
            joined[-1].half_hours += run.half_hours
        else:
            joined.append(run)
    kept = [type(run).FromString(run.SerializeToString()) for run in joined]
    del runs[:]
    runs.extend(kept)


_CLOSE: Final[dict[Treatment, Callable[[Any], Act]]] = {
    Treatment.NAMED: _name,
    Treatment.HANDED_BACK: _hand_out,
    Treatment.COMPARED: _compare,
    Treatment.WITHHELD: lambda rule: _withhold,
    Treatment.BY_SECOND: lambda rule: _by_second,
    Treatment.BARE: lambda rule: _bare,
    Treatment.SHUFFLED: lambda rule: _shuffle,
    Treatment.JOINED: lambda rule: _join,
}
_LOOKED_INTO: Final = frozenset({Treatment.TOLD, Treatment.SHUFFLED, Treatment.JOINED})


def _mean(rule: Rule) -> Act:
    assert rule.kind is not None
    kind = rule.kind

    def act(party: Party, message: Any, name: str) -> None:
        _replaced(message, name, lambda text: party.meant(kind, text, name))

    return act


def _take_back(rule: Rule) -> Act:
    return _take_back_positions if rule.kind is Kind.POSITIONS else _take_back_cursor


def _take_back_positions(party: Party, message: Any, name: str) -> None:
    if not message.HasField(name):
        return
    token = getattr(message, name)
    if token.positions:
        said = "a position token is handed back as it was given to you"
        raise Invalid(Reason.IDENTIFIERS_PAIRWISE, said, field=name)
    if not token.sealed:
        return
    content = party.identifiers.open_once(Kind.POSITIONS, party.name, token.sealed)
    if content is None:
        raise Invalid(Reason.POSITION_INVALID, "the position token is not yours", field=name)
    token.CopyFrom(common_pb2.PositionToken.FromString(content))


def _take_back_cursor(party: Party, message: Any, name: str) -> None:
    if cursor := getattr(message, name):
        opened = party.identifiers.open_text(Kind.CURSOR, party.name, cursor)
        if opened is None:
            raise Invalid(Reason.CURSOR_INVALID, "the cursor is not of this request", field=name)
        setattr(message, name, opened)


def _refuse(rule: Rule) -> Act:
    def act(party: Party, message: Any, name: str) -> None:
        # Not whether it is true: an instant that is set may be that of zero.
        if any(set_one.name == name for set_one, _ in message.ListFields()):
            raise Invalid(Reason.IDENTIFIERS_PAIRWISE, rule.why, field=name)

    return act


_OPEN: Final[dict[Treatment, Callable[[Any], Act]]] = {
    Treatment.NAMED: _mean,
    Treatment.HANDED_BACK: _take_back,
    Treatment.REFUSED: _refuse,
    Treatment.BY_SECOND: lambda rule: _by_second,
}


def opened(party: Party, request: Message) -> Any:
    """A copy of the request that names things as the spine does. Fails like `Party.meant`."""
    meant = type(request)()
    meant.CopyFrom(request)
    opening(request.DESCRIPTOR).carry_out(party, meant)
    return meant


def closed(party: Party, answer: Message | Encoded) -> Any:
    """The answer, changed in place to what the party is told."""
    told = as_message(answer)
    closing(told.DESCRIPTOR).carry_out(party, told)
    return told


def sealed(party: Party, answer: Message) -> Any:
    """An answer that is the same to everybody, but for its position tokens, in place."""
    sealing(answer.DESCRIPTOR).carry_out(party, answer)
    return answer
