"""Runs the cases of this folder: events, one command, what follows, and how reads are judged then.

`given.yaml` is what happened, `when.yaml` the command and its time. `then.yaml` states the events
or the refusal, and reads with the interval they are permitted or the reason they are refused for.
`reads_before` are judged before the command, `shown` is what the adviser is shown.
"""

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml

from domains.consumers.commands import ConsumersCommand
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import ConsumersEvent
from domains.consumers.views import consents_for
from spine.errors import Reason
from spine.gb import Interval
from spine.policy import POLICIES, MeterAccess, Permit, Refuse, Situation
from spine.trust import Accreditation, Participant
from tests.helpers.access import access_request
from tests.helpers.specification import given

HERE = Path(__file__).parent
TYPES = {t.__name__: t for t in get_args(ConsumersCommand) + get_args(ConsumersEvent)}


def read_yaml(case: Path, name: str) -> Any:
    return yaml.safe_load((case / f"{name}.yaml").read_text())


def build(said: dict[str, Any]) -> Any:
    """`{Name: fields}` as the event or command of that name."""
    ((name, fields),) = said.items()
    return msgspec.convert(fields, TYPES[name])


def judge(access: MeterAccess, read: dict[str, Any]) -> Permit | Refuse:
    role, now = read["by"]["role"], read["at"]
    interval = Interval(*read["interval"])
    held = Accreditation(role, "CCS", "1", (), interval.start, None)
    request = access_request(interval, **read["by"], **read["for"])
    participant = Participant("any", accreditations=(held,))
    return POLICIES[1](request, Situation(access, participant, now))


def check(access: MeterAccess, read: dict[str, Any]) -> None:
    decision = judge(access, read)
    if "refuse" in read:
        assert isinstance(decision, Refuse), read
        assert decision.reason == Reason(read["refuse"]), read
        return
    assert isinstance(decision, Permit), (read, decision)
    assert decision.covered == (Interval(*read["permit"]),)
    if "half_hours" in read:
        assert len(list(decision.covered[0].half_hours())) == read["half_hours"]


@pytest.mark.parametrize(
    "case", sorted(p.parent for p in HERE.glob("*/when.yaml")), ids=lambda case: case.name
)
def test_case(case: Path) -> None:
    when, then = read_yaml(case, "when"), read_yaml(case, "then")
    before = given(CONSUMERS, *map(build, read_yaml(case, "given"))).at(when["at"])
    for read in then.get("reads_before", ()):
        check(before.state, read)
    asked = before.when(build(when["command"]))
    if "refused" in then:
        asked.refused(Reason(then["refused"]))
        after = before
    else:
        after = asked.then(*map(build, then["events"]))
    for read in then.get("reads", ()):
        check(after.state, read)
    if "shown" in then:
        views = consents_for(after.state, "data_user", "adviser", then["shown"]["at"])
        assert {v.consent_id: str(v.state) for v in views} == then["shown"]["consents"]
