"""Runs the cases of this folder: events, one command, what follows, and how reads are judged then.

`given.yaml` is what happened, `when.yaml` the command and its time. `then.yaml` states the events
or the refusal, and reads with the interval they are permitted or the reason they are refused for;
`suspended` says that the reader is, as a participant; `policy` is the version that judges, else 1.
`reads_before` are judged before the command, `shown` is what the adviser is shown, `told` who is
told which state, and `record` the newest version of the record; each of them may be `_before`.
"""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml

from domains.consumers.chain import record_of
from domains.consumers.commands import ConsumersCommand
from domains.consumers.decider import CONSUMERS
from domains.consumers.events import ConsumersEvent
from domains.consumers.views import consents_for
from spine.errors import Reason
from spine.gb import Interval
from spine.policies import POLICIES
from spine.policy import MeterAccess, Permit, Refuse, Situation
from spine.trust import Accreditation, Participant
from tests.helpers.access import access_request
from tests.helpers.changes import changes
from tests.helpers.specification import given

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
README = (ROOT / "domains/consumers/README.md").read_text()
RULES = re.compile(r"^(\d+)\. (.*?)(?=^\d+\. |^\S)", re.M | re.S)
NAMED = re.compile(r"`([a-z_/.:]+)`")
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
    suspended = read.get("suspended", False)
    participant = Participant("any", suspended, accreditations=(held,))
    return POLICIES[read.get("policy", 1)](request, Situation(access, participant, now))


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
    for state, suffix in ((before.state, "_before"), (after.state, "")):
        if f"told{suffix}" in then:
            told = changes("1200000000003", state, when["at"])
            assert {c.receiver: str(c.state) for c in told} == then[f"told{suffix}"]
        if f"record{suffix}" in then:
            record = record_of(state, "k-1")
            assert record is not None
            said = {"version": record.version, "previous": record.previous.hex()}
            assert said | {"hash": record.hash.hex()} == then[f"record{suffix}"]
    if "shown" in then:
        views = consents_for(after.state, "data_user", "adviser", then["shown"]["at"])
        assert {v.consent_id: str(v.state) for v in views} == then["shown"]["consents"]


def rules() -> dict[int, set[str]]:
    """Each numbered rule of the domain's README, and the scenarios and tests it names."""
    _, _, rest = README.partition("## The rules, and the scenario that shows each\n")
    stated, _, _ = rest.partition("\n## ")
    return {
        int(number): set(NAMED.findall(text)) for number, text in RULES.findall(f"{stated}\nend")
    }


def cases() -> set[str]:
    """The scenarios by name."""
    return {p.parent.name for p in HERE.glob("*/when.yaml")}


def is_there(named: str) -> bool:
    """Whether there is that scenario, that file of tests, or after `::` that test in it."""
    name, _, test = named.partition("::")
    if named in cases():
        return True
    path = ROOT / name
    return path.is_file() and (not test or f"def {test}(" in path.read_text())


def shown_by_nothing(readme: str) -> list[str]:
    """The numbered lists that name no scenario and no test up to the next list or heading."""
    lists = re.split(r"^(?=1\. )", re.sub(r"^## ", "\x00", readme, flags=re.M), flags=re.M)[1:]
    texts = [text.partition("\x00")[0] for text in lists]
    return [
        text
        for text in texts
        if not any(n.startswith("tests/") or n in cases() for n in NAMED.findall(text))
    ]


def test_every_numbered_list_names_what_shows_it_and_that_is_there() -> None:
    assert len(re.findall(r"^1\. ", README, re.M)) > 5
    assert shown_by_nothing(README) == []
    named = {name for name in NAMED.findall(README) if name.startswith("tests/")}
    assert [name for name in named - {"tests/scenarios/consumers/"} if not is_there(name)] == []


def test_a_list_that_names_nothing_or_what_is_not_there_is_found() -> None:
    naive = "## A\n1. It stands.\n2. `due` too.\n## B\n1. So. `narrowing`\n\nAlso:\n1. No.\n"
    assert [text.split()[1] for text in shown_by_nothing(naive)] == ["It", "No."]
    this = "tests/scenarios/consumers/test_scenarios.py"
    assert is_there(this) and is_there(f"{this}::test_case") and is_there("narrowing")
    assert not is_there("tests/test_nowhere.py") and not is_there(f"{this}::test_no_such")


def test_every_rule_has_its_scenario_and_every_scenario_its_rule() -> None:
    stated = rules()
    assert list(stated) == list(range(1, len(stated) + 1)) and len(stated) > 10
    for number, named in stated.items():
        assert named, f"rule {number} is shown by nothing"
        for name in named:
            assert is_there(name), f"rule {number} names {name}, which is not there"
    assert cases() <= set().union(*stated.values())
