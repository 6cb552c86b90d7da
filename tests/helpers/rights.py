"""Who may read what, worked out a second time: from the events alone, and not by the policy.

Nothing here is shared with `spine.policy`, `spine.trust` or `domains`: events come as their names
and plain fields, in log order. Where the policy folds a state and judges that, this looks back over
the history for each question, by the rules as the sector states them:

- Consent (GDPR art. 6(1)(a), Data Access and Privacy Framework): only to the data user named, for
  the purpose named, the categories named; as long as nobody ended or suspended it, not before or
  after its term; only while whoever gave it lives there; nothing from before moving in or before
  the history it opens.
- The subject (art. 15): what was metered while living there, then and after.
- Licence duty and contract: the supplier for the days it supplied, the agent for those of its
  appointment.
- Since the second policy: a supplier bills by daily values unless the occupier objects (a basis of
  its own, the contract carries monthly ones only); settlement opens half hours unless the occupier
  objects. An objection holds for what was metered while whoever made it lived there, and shuts
  values, not the standing data of the meter.
- Nobody but a consumer reads without a live accreditation for role and purpose, and no one
  suspended does. Once there is a table of equal accreditations, one of another scheme than the
  DSI's opens nothing by itself: a line of the last table has to say so, for its tier and purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

Fields = Mapping[str, Any]
Event = tuple[str, Fields]
Span = tuple[datetime, datetime]
FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
ALWAYS = (datetime(1, 1, 1, tzinfo=UTC), FOREVER)

WELL_KNOWN_ROLES = {
    *("consumer", "data_user", "supplier", "data_service", "consent_service"),
    *("governance", "auditor", "coordinator", "dsi"),
}
METER_DATA = {"HH_CONSUMPTION", "DAILY", "REGISTER", "TARIFF", "EXPORT", "ASSET", "METERING_POINT"}
OPEN_TO = {
    "CONSENT": (
        {"data_user", "supplier"},
        {
            *("ENERGY_ADVICE", "FLEXIBILITY", "PRICE_COMPARISON"),
            *("CARBON_REPORTING", "RESEARCH", "BILLING"),
        },
        METER_DATA | {"CONSENTS"},
    ),
    "LEGAL_OBLIGATION": (
        {"supplier", "data_service"},
        {"SETTLEMENT"},
        {"HH_CONSUMPTION", "EXPORT", "METERING_POINT"},
    ),
    "CONTRACT": ({"supplier"}, {"BILLING"}, {"DAILY", "REGISTER", "METERING_POINT"}),
    "SUBJECT": ({"consumer"}, {"OWN_USE"}, METER_DATA | {"CONSENTS"}),
}
DUTY, DAILY_VALUES = ("LEGAL_OBLIGATION", "SETTLEMENT"), ("OPT_OUT", "BILLING")
MAY_BE_REFUSED = {DUTY: {"HH_CONSUMPTION", "EXPORT"}, DAILY_VALUES: {"DAILY"}}
OPEN_TO_SINCE_2 = OPEN_TO | {
    "OPT_OUT": ({"supplier"}, {"BILLING"}, {"DAILY", "METERING_POINT"}),
    "CONTRACT": ({"supplier"}, {"BILLING"}, {"REGISTER", "METERING_POINT"}),
}
QUANTITIES = {"HH_CONSUMPTION": {"AI", "RI"}, "EXPORT": {"AE", "RE"}}


@dataclass(frozen=True)
class Right:
    """What opens: under which consent (if one is needed), and which spans of the interval asked."""

    consent_id: str
    spans: tuple[Span, ...]


def rights(
    request: Fields,
    meter: Sequence[Event],
    party: Sequence[Event],
    now: datetime,
    tables: Sequence[Sequence[Fields]] = (),
    policy: int = 1,
) -> list[Right]:
    """Every right the caller has to what it asks, at `now`; empty if it has none.

    `meter` are the events of the meter, `party` those of governance about the caller, `tables` the
    lines of every table of equal accreditations that was adopted, `policy` the version in force.
    """
    open_to = OPEN_TO if policy == 1 else OPEN_TO_SINCE_2
    if not _is_a_question_at_all(request, open_to):
        return []
    if not _accredited(request, party, now, tables):
        return []
    found = {
        "CONSENT": _by_consents,
        "SUBJECT": _of_the_subject,
        "LEGAL_OBLIGATION": _of_the_appointed,
        "OPT_OUT": _of_the_appointed,
        "CONTRACT": _of_the_appointed,
    }[request["basis"]](request, meter, now)
    asked = (request["interval_from"], request["interval_to"])
    shut = _objected_to(request, meter) if policy > 1 else []
    cut = (Right(one.consent_id, tuple(_within(_outside(one.spans, shut), asked))) for one in found)
    return [one for one in cut if one.spans]


def _is_a_question_at_all(request: Fields, open_to: Mapping[str, Any]) -> bool:
    roles, purposes, categories = open_to.get(request["basis"], (set(), set(), set()))
    return (
        request["role"] in WELL_KNOWN_ROLES & roles
        and request["purpose"] in purposes
        and request["category"] in categories
        and request["measurement_quantity"] in QUANTITIES.get(request["category"], {""})
    )


def _accredited(
    request: Fields, party: Sequence[Event], now: datetime, tables: Sequence[Sequence[Fields]]
) -> bool:
    if request["role"] == "consumer":
        return True
    suspended, held = True, dict[int, Fields]()
    for number, (name, said) in enumerate(party):
        if name == "ParticipantAdmitted":
            suspended, held = False, {}
        elif name == "ParticipantSuspended":
            suspended = True
        elif name == "ParticipantReinstated":
            suspended = False
        elif name == "AccreditationGranted":
            held[number] = said
        elif name == "AccreditationWithdrawn":
            gone = (said["role"], said["scheme"])
            held = {n: a for n, a in held.items() if (a["role"], a["scheme"]) != gone}
    return not suspended and any(
        one["role"] == request["role"]
        and one["effective_from"] <= now < (one["effective_to"] or FOREVER)
        and request["purpose"] in _purposes_at_the_dsi(one, tables)
        for one in held.values()
    )


def _purposes_at_the_dsi(held: Fields, tables: Sequence[Sequence[Fields]]) -> set[str]:
    """For which purposes an accreditation lets its holder in."""
    of_role = [purposes for roles, purposes, _ in OPEN_TO.values() if held["role"] in roles]
    own = set(held["purposes"]) or set().union(*of_role)
    if not tables or held["scheme"] == "DSI":
        return own
    return {
        line["to_purpose"]
        for line in tables[-1]
        if line["to_scheme"] == "DSI"
        and line["from_scheme"] == held["scheme"]
        and line["from_tier"] == held["tier"]
        and line["from_purpose"] in own
    }


def _by_consents(request: Fields, meter: Sequence[Event], now: datetime) -> Iterator[Right]:
    named = request["consent_id"]
    for consent_id in dict.fromkeys(_about(said) for _, said in meter if _about(said)):
        story = [event for event in meter if _about(event[1]) == consent_id]
        told = [said for name, said in story if name in ("ConsentGranted", "ConsentRequested")]
        terms = told[-1] if told else {}
        if terms.get("data_user") != request["party"] or named not in ("", consent_id):
            continue
        if request["category"] == "CONSENTS":
            yield Right("", (ALWAYS,))
        elif (span := _open_under(consent_id, story, request, meter, now)) is not None:
            yield Right(consent_id, (span,))


def _open_under(
    consent_id: str, story: Sequence[Event], request: Fields, meter: Sequence[Event], now: datetime
) -> Span | None:
    granted = [said for name, said in story if name == "ConsentGranted"]
    said_last = {name: place for place, (name, _) in enumerate(story)}
    if not granted or _OVER & said_last.keys():
        return None
    if said_last.get("ConsentSuspended", -1) > said_last.get("ConsentResumed", -1):
        return None
    scope = dict(granted[-1])
    for name, said in story[said_last["ConsentGranted"] :]:
        if name == "ConsentNarrowed":
            scope.update({key: said[key] for key in ("categories", "history_from", "expires")})
    standing = request["category"] == "METERING_POINT"
    if scope["purpose"] != request["purpose"]:
        return None
    if not standing and request["category"] not in scope["categories"]:
        return None
    stay = _stay(meter, scope["tenancy_id"])
    if stay is None or not stay[0] <= now < stay[1]:
        return None
    if not scope["valid_from"] <= now < scope["expires"]:
        return None
    return max(scope["history_from"], stay[0]), stay[1]


_OVER = {"ConsentRevoked", "ConsentWithdrawn", "ConsentDeclined", "ConsentLapsed"}


def _about(said: Fields) -> str:
    return str(said.get("consent_id", ""))


def _stay(meter: Sequence[Event], tenancy_id: str) -> Span | None:
    """From moving in to moving out."""
    moved_in = moved_out = None
    for name, said in meter:
        if said.get("tenancy_id") == tenancy_id and name == "TenancyStarted":
            moved_in = moved_in or said["effective_from"]
        elif said.get("tenancy_id") == tenancy_id and name == "TenancyEnded":
            moved_out = said["effective_to"]
    return None if moved_in is None else (moved_in, moved_out or FOREVER)


def _of_the_subject(request: Fields, meter: Sequence[Event], now: datetime) -> Iterator[Right]:
    own = [
        stay
        for name, said in meter
        if name == "TenancyStarted" and said["consumer_ref"] == request["party"]
        if (stay := _stay(meter, said["tenancy_id"])) is not None and stay[0] <= now
    ]
    own = [stay for stay in own if stay[0] < stay[1]]
    if own:
        yield Right("", (ALWAYS,) if request["category"] == "CONSENTS" else tuple(own))


def _of_the_appointed(request: Fields, meter: Sequence[Event], now: datetime) -> Iterator[Right]:
    """The days between each start of theirs and the end that was said of it last."""
    supplier = request["role"] == "supplier"
    begins, ends = (
        ("SupplyStarted", "SupplyEnded")
        if supplier
        else ("AgentAppointed", "AgentAppointmentEnded")
    )
    key = "supplier" if supplier else "agent"
    spans: list[list[datetime]] = []
    for name, said in meter:
        theirs = said.get(key) == request["party"]
        if not theirs or (not supplier and said.get("agent_role") != request["role"]):
            continue
        if name == begins:
            spans.append([said["effective_from"], FOREVER])
        elif name == ends:
            of = max((s for s in spans if s[0] <= said["effective_to"]), key=lambda s: s[0])
            of[1] = said["effective_to"]
    held = tuple((start, end) for start, end in spans if start < end)
    if held:
        yield Right("", held)


def _objected_to(request: Fields, meter: Sequence[Event]) -> list[Span]:
    """The stays of those whose last word on this use was no."""
    use = (request["basis"], request["purpose"])
    if request["category"] not in MAY_BE_REFUSED.get(use, set()):
        return []
    last_word = {
        said["tenancy_id"]: name
        for name, said in meter
        if name in ("UseObjected", "UseAllowed") and (said["basis"], said["purpose"]) == use
    }
    stays = (_stay(meter, who) for who, name in last_word.items() if name == "UseObjected")
    return [stay for stay in stays if stay is not None]


def _outside(spans: Sequence[Span], shut: Sequence[Span]) -> list[Span]:
    """What of the spans is left, cut at every edge of what is shut."""
    edges = sorted({edge for span in (*spans, *shut) for edge in span})
    left: list[Span] = []
    for start, end in spans:
        inside = [start, *(edge for edge in edges if start < edge < end), end]
        whole: list[datetime] = []
        for begin, stop in pairwise(inside):
            if any(lost[0] <= begin and stop <= lost[1] for lost in shut):
                continue
            if whole and whole[-1] == begin:
                whole[-1] = stop
            else:
                whole += [begin, stop]
        left += zip(whole[::2], whole[1::2], strict=True)
    return left


def _within(spans: Sequence[Span], asked: Span) -> Iterator[Span]:
    for start, end in spans:
        begin, stop = max(start, asked[0]), min(end, asked[1])
        if begin < stop:
            yield begin, stop


# What both say of a question


def agree(permitted: Mapping[str, Sequence[Span]] | None, found: Sequence[Right]) -> bool:
    """Whether the policy permits what the calculator finds: nothing and nothing; or the same spans
    under the same consent, one that opens as much as any.

    `permitted` maps the consent relied on (or an empty id) to the spans; None is a refusal.
    """
    if permitted is None:
        return not found
    ((consent_id, spans),) = permitted.items()
    same = [sorted(one.spans) for one in found if one.consent_id == consent_id]
    return sorted(spans) in same and _length(spans) == max(_length(one.spans) for one in found)


def _length(spans: Sequence[Span]) -> timedelta:
    return sum((end - start for start, end in spans), timedelta())
