"""Reads of assets: gated like readings, and rebuilt by the audit from the log alone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from domains.btm_assets import BTM_ASSETS
from domains.btm_assets.events import (
    AssetDeclared,
    AssetDecommissioned,
    AssetLinked,
    AssetVerified,
    Details,
    Kind,
    Link,
)
from spine import trust
from spine.errors import Reason
from spine.policy import Basis, Category, Refuse
from spine.verdict import Verdict
from tests.helpers.history import BY_ASSETS, History, Read, audit, day
from tests.helpers.records import BEGUN, BY_METERING, METER, command, granted, moved_in, revoked

ID, OTHER_ID = (f"urn:energyos:asset:01JZ000000000000000000000{n}" for n in (1, 2))
DECLARED = AssetDeclared(ID, Details(Kind("BATTERY")), "flex-co", BEGUN)
OTHER = AssetDeclared(OTHER_ID, Details(Kind("SOLAR_PV")), "flex-co", BEGUN)
LINKED = AssetLinked(ID, Link("UPRN", "1", "flex-co", day(1, 1)), BEGUN)
VERIFIED = AssetVerified(ID, "INSPECTION", "portal", BEGUN)
GONE = AssetDecommissioned(ID, "", BEGUN)


def lived() -> History:
    """A meter with two assets, an occupier, and a consent to see what stands there."""
    history = History()
    key = trust.SigningKeyAuthorised(BY_ASSETS.public_key, "btm_assets", "btm_assets")
    history.govern(trust.key_subject(BY_ASSETS.kid), key)
    history.facts(OTHER)
    history.facts(DECLARED, LINKED)
    history.facts(moved_in(), replace(granted(), categories=("ASSET",)))
    return history


def read(history: History, method: str = "ListAssets", **changes: Any) -> Read:
    """A read of assets at a time after the tenancy began."""
    terms: dict[str, Any] = {
        "category": Category.ASSET,
        "measurement_quantity": "",
        "method": method,
    }
    asked = history.asked(**(terms | changes))
    return history.read(asked, vector=history.positions(trust.BTM_ASSETS_TOPIC))


def rows(done: Read) -> int:
    (outcome,) = done.outcomes
    assert (outcome.decision, outcome.release) == ("PERMIT", "RELEASED")
    return outcome.rows


def test_the_assets_behind_a_meter_and_one_of_them() -> None:
    history = lived()
    listed, one = read(history), read(history, f"GetAsset/{ID}")
    assert (rows(listed), rows(one)) == (2, 1)
    assert rows(read(history, f"GetAsset/{ID[:-1]}9")) == 0
    shown = history.answer(listed.record, listed.decided[0]).assets
    assert [view.asset_id for view in shown] == [ID, OTHER_ID]
    assert [link.scheme for link in shown[0].links] == ["UPRN"]
    assert listed.outcomes[0].digest != one.outcomes[0].digest
    before = history.positions(trust.BTM_ASSETS_TOPIC)
    history.facts(VERIFIED)
    history.facts(GONE)
    assert rows(read(history)) == 1
    asked = history.asked(category=Category.ASSET, measurement_quantity="", method="ListAssets")
    assert rows(history.read(asked, vector=before)) == 2  # as known before
    assert audit(history.records()).verdicts == {Verdict.SAME: 5}


def test_a_consumer_sees_its_own() -> None:
    history = lived()
    own = {"party": "c-1", "role": "consumer", "basis": Basis.SUBJECT, "purpose": "OWN_USE"}
    assert rows(read(history, **own)) == 2
    assert audit(history.records()).verdicts == {Verdict.SAME: 1}


def test_a_meter_without_assets_has_none() -> None:
    history = History()
    history.facts(moved_in(), replace(granted(), categories=("ASSET",)))
    assert rows(read(history)) == 0
    assert audit(history.records()).verdicts == {Verdict.SAME: 1}


@pytest.mark.parametrize(
    ("changes", "reason", "disclosed"),
    [
        ({"party": "stranger"}, Reason.PARTICIPANT_UNKNOWN, Reason.PARTICIPANT_UNKNOWN),
        ({"role": "data_service"}, Reason.BASIS_NOT_FOR_ROLE, Reason.BASIS_NOT_FOR_ROLE),
        ({"measurement_quantity": "AI"}, Reason.QUANTITY_NOT_IN_CATEGORY, None),
        (
            {"category": Category.HH_CONSUMPTION, "measurement_quantity": "AI"},
            Reason.CONSENT_SCOPE,
            None,
        ),
    ],
)
def test_a_read_that_is_refused(changes: Any, reason: Reason, disclosed: Reason | None) -> None:
    history = lived()
    refused = read(history, **changes)
    (decided,) = refused.decided
    assert isinstance(decided.decision, Refuse)
    assert (decided.decision.reason, decided.decision.disclosed) == (reason, disclosed or reason)
    assert (refused.outcomes[0].decision, refused.outcomes[0].rows) == ("REFUSE", 0)
    assert audit(history.records()).verdicts == {Verdict.SAME: 1}


def test_whom_the_meter_does_not_concern_learns_nothing() -> None:
    history = History()
    history.facts(moved_in())
    (decided,) = read(history).decided
    assert isinstance(decided.decision, Refuse)
    assert (decided.decision.reason, decided.decision.disclosed) == (
        Reason.NO_CONSENT,
        Reason.NOT_PERMITTED,
    )


def test_a_revocation_shuts() -> None:
    history = lived()
    history.facts(revoked())
    (decided,) = read(history).decided
    assert isinstance(decided.decision, Refuse)
    assert decided.decision.reason is Reason.CONSENT_REVOKED


def test_another_fact_in_the_place_of_one_is_found() -> None:
    history = lived()
    row = history.folds[trust.BTM_ASSETS_TOPIC].subject(METER)
    verified = history.facts(VERIFIED)
    read(history)
    one = command(METER, GONE, previous=(row.offset, row.entry), domain=BTM_ASSETS)
    other = history.log(trust.BTM_ASSETS_TOPIC).facts(one, by=BY_ASSETS)
    history.put_in_place_of(verified, other)
    assert audit(history.records()).verdicts == {Verdict.DIFFERENT: 1}


def test_no_other_coordinator_may_write_assets() -> None:
    history = lived()
    row = history.folds[trust.BTM_ASSETS_TOPIC].subject(METER)
    forged = command(METER, GONE, previous=(row.offset, row.entry), domain=BTM_ASSETS)
    history.keep(history.log(trust.BTM_ASSETS_TOPIC).facts(forged, by=BY_METERING))
    assert rows(read(history)) == 2
    assert audit(history.records()).verdicts == {Verdict.SAME: 1}
