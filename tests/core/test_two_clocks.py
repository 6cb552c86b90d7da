"""What held, and what was known of it: an answer as of two times is the same whenever it is asked.

Times in the world are instants; times in the log are positions, which stand in the request. Consent
to the read itself is judged now in all of this.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from msgspec import structs

from domains.btm_assets.events import AssetDeclared, AssetDecommissioned, Details, Kind
from domains.consumers.events import SupplyEnded, SupplyStarted, TenancyEnded
from domains.metering.events import MeteringPointDeregistered, MeteringPointRegistered
from spine import trust
from spine.dsi.answering import Answer
from spine.errors import Reason
from spine.event import DataPosition
from spine.policy import Basis, Category, Refuse
from spine.verdict import Verdict
from tests.helpers.history import BY_ASSETS, History, Read, audit, day
from tests.helpers.records import BEGUN, granted, moved_in, revoked

NOW = BEGUN
REGISTERED = MeteringPointRegistered("ELECTRICITY", "_K", "IMPORT", "AI", day(1, 1), BEGUN)
ASSET = "urn:energyos:asset:01JZ0000000000000000000001"
OWN: dict[str, Any] = {
    "party": "c-1",
    "role": "consumer",
    "basis": Basis.SUBJECT,
    "purpose": "OWN_USE",
}
TOPICS = {
    Category.METERING_POINT: (trust.METERING_TOPIC, trust.CONSUMER_LOG),
    Category.CONSENTS: (trust.CONSUMER_LOG,),
    Category.ASSET: (trust.BTM_ASSETS_TOPIC,),
}


def ask(
    history: History, category: Category, vector: tuple[DataPosition, ...], **more: Any
) -> Read:
    terms = {"category": category, "measurement_quantity": "", **OWN, **more}
    return history.read(history.asked(**terms), vector=vector)


def answered(history: History, read: Read) -> Answer:
    (outcome,) = read.outcomes
    assert outcome.release == "RELEASED", outcome
    return history.answer(read.record, read.decided[0])


def lived() -> History:
    history = History()
    key = trust.SigningKeyAuthorised(BY_ASSETS.public_key, "btm_assets", "btm_assets")
    history.govern(trust.key_subject(BY_ASSETS.kid), key)
    history.facts(REGISTERED)
    history.facts(moved_in(), SupplyStarted("old-supply", day(1, 1)), granted())
    history.facts(AssetDeclared(ASSET, Details(Kind("BATTERY")), "flex-co", BEGUN))
    history.readings()
    return history


def correct(history: History) -> None:
    """What becomes known later, much of it about earlier times."""
    history.facts(MeteringPointDeregistered(day(9, 1), BEGUN))
    history.facts(SupplyEnded("old-supply", day(2, 1)), SupplyStarted("new-supply", day(2, 1)))
    history.facts(revoked())
    history.facts(TenancyEnded("t-1", day(8, 1)))
    history.facts(AssetDecommissioned(ASSET, "", BEGUN))
    history.readings(first_wh=900)


SHOWN: dict[str, tuple[Category, dict[str, Any]]] = {
    "readings": (Category.HH_CONSUMPTION, {"measurement_quantity": "AI"}),
    "metering point": (Category.METERING_POINT, {"as_of_valid": day(6, 1)}),
    "consents": (Category.CONSENTS, {"method": "ListConsents"}),
    "tenancies": (Category.CONSENTS, {"method": "ListTenancies"}),
    "assets": (Category.ASSET, {"method": "ListAssets", "as_of_valid": day(6, 1)}),
    "one asset": (Category.ASSET, {"method": f"GetAsset/{ASSET}", "as_of_valid": day(6, 1)}),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_correction_changes_only_answers_asked_after_it(name: str) -> None:
    category, terms = SHOWN[name]
    history = lived()
    topics = TOPICS.get(category, (trust.READINGS_TOPIC,))
    then = history.positions(*topics)
    before = ask(history, category, then, **terms).outcomes[0]
    correct(history)
    again = ask(history, category, then, **terms).outcomes[0]
    after = ask(history, category, history.positions(*topics), **terms).outcomes[0]
    assert (before.release, before.digest) == ("RELEASED", again.digest)
    assert after.digest != before.digest
    assert audit(history.records()).verdicts == {Verdict.SAME: 3}


def test_who_supplied_the_meter_is_told_as_it_was_known() -> None:
    history = lived()
    then = history.positions(*TOPICS[Category.METERING_POINT])
    correct(history)
    known = [
        (then, "old-supply"),
        (history.positions(*TOPICS[Category.METERING_POINT]), "new-supply"),
    ]
    for vector, supplier in known:
        read = ask(history, Category.METERING_POINT, vector, as_of_valid=day(6, 1))
        point = answered(history, read).metering_point
        assert point is not None
        assert point.supplier == supplier


def test_a_request_that_names_no_position_is_answered_from_its_decision_as_ever() -> None:
    history = lived()
    then = history.positions(trust.METERING_TOPIC)
    correct(history)
    point = ask(history, Category.METERING_POINT, then, as_of_valid=day(6, 1))
    consents = ask(history, Category.CONSENTS, (), method="ListConsents")
    found = answered(history, point).metering_point
    assert found is not None and found.supplier == "new-supply"
    assert answered(history, consents).consents[0].state == "REVOKED"
    assert audit(history.records()).verdicts == {Verdict.SAME: 2}


def states(history: History, at: datetime | None) -> list[str]:
    here = history.positions(trust.CONSUMER_LOG)
    read = ask(history, Category.CONSENTS, here, as_of_valid=at, method="ListConsents")
    return [str(view.state) for view in answered(history, read).consents]


def test_a_consent_is_shown_as_it_stood_then() -> None:
    history = lived()
    asked_for = granted().decided_at
    later = structs.replace(revoked(), decided_at=asked_for.replace(month=asked_for.month + 1))
    history.facts(later)
    assert states(history, None) == ["REVOKED"]
    assert states(history, asked_for) == ["ACTIVE"]
    assert states(history, asked_for.replace(year=asked_for.year - 1)) == []
    assert states(history, later.decided_at) == ["REVOKED"]
    assert audit(history.records()).verdicts == {Verdict.SAME: 4}


def tenancies(history: History, **more: Any) -> list[str]:
    here = history.positions(trust.CONSUMER_LOG)
    read = ask(history, Category.CONSENTS, here, method="ListTenancies", **more)
    return [view.tenancy_id for view in answered(history, read).tenancies]


def test_a_consumer_sees_its_own_tenancies_and_a_data_user_those_still_open_to_it() -> None:
    adviser = {"party": "adviser", "role": "data_user", "basis": Basis.CONSENT} | {
        "purpose": "ENERGY_ADVICE"
    }
    history = lived()
    assert tenancies(history) == tenancies(history, **adviser) == ["t-1"]
    assert tenancies(history, as_of_valid=day(2, 1)) == []
    history.facts(revoked())
    history.facts(TenancyEnded("t-1", day(8, 1)))
    assert tenancies(history) == ["t-1"]
    assert tenancies(history, as_of_valid=day(8, 1)) == []
    assert tenancies(history, **adviser) == []  # and so learns of no later move
    assert audit(history.records()).verdicts == {Verdict.SAME: 6}


def test_consent_to_the_read_is_judged_now_whatever_the_clocks_say() -> None:
    history = lived()
    then = history.positions(trust.READINGS_TOPIC)
    history.facts(revoked())
    read = history.read(history.asked(as_of_known=NOW, as_of_valid=day(6, 1)), vector=then)
    (decided,) = read.decided
    assert isinstance(decided.decision, Refuse)
    assert decided.decision.reason is Reason.CONSENT_REVOKED


def test_a_position_of_the_consumer_log_that_lies_ahead_is_no_honest_one() -> None:
    history = lived()
    here = history.positions(trust.CONSUMER_LOG)
    ahead = tuple(replace(p, offset=p.offset + 9) for p in here)
    ask(history, Category.CONSENTS, ahead, method="ListConsents")
    (found,) = audit(history.records()).found
    assert found == (Verdict.CANNOT_TELL, "consumers.events.v1 does not reach that far any more")
