"""Who may say something of the assets behind a meter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from domains.btm_assets.commands import (
    ActivateAsset,
    DeclareAsset,
    DecommissionAsset,
    LinkAsset,
    RejectAsset,
    SuspendAsset,
    TransferAsset,
    UnlinkAsset,
    VerifyAsset,
)
from domains.btm_assets.entitlement import check_entitled, entitled
from domains.btm_assets.events import AssetClass, Details, Kind, Link, Scheme
from spine.domain import Actor
from spine.errors import NotPermitted, Reason
from spine.policy import (
    Appointment,
    Consent,
    ConsentState,
    MeterAccess,
    Role,
    Supply,
    Tenancy,
)

NOW = datetime(2025, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SUPPLIER = Actor(Role.SUPPLIER, "north-supply")
SERVICE = Actor(Role.DATA_SERVICE, "meter-reader")
FLEX = Actor(Role.DATA_USER, "flex-co")
PORTAL = Actor(Role.CONSENT_SERVICE, "portal")
ALLOWED = Consent(
    consent_id="may",
    version=1,
    state=ConsentState.ACTIVE,
    data_user="flex-co",
    tenancy_id="t-1",
    consumer_ref="c-1",
    purpose="FLEXIBILITY",
    categories=("ASSET",),
    history_from=NOW - DAY,
    valid_from=NOW - DAY,
    expires=NOW + DAY,
    changed_at=NOW - DAY,
)
SERVED = MeterAccess(
    (Tenancy("t-1", "c-1", NOW - DAY),),
    (Supply("north-supply", NOW - DAY, NOW + DAY),),
    (Appointment("meter-reader", Role.DATA_SERVICE, NOW - DAY),),
    (ALLOWED,),
)
ID = "urn:energyos:asset:01JZ0000000000000000000001"
LINK = Link(Scheme.UPRN, "1", "x", NOW)
SAYING: tuple[Callable[[Actor], Any], ...] = (
    lambda by: DeclareAsset(by, ID, Details(Kind(AssetClass.BATTERY))),
    lambda by: ActivateAsset(by, ID),
    lambda by: TransferAsset(by, ID, "c-1", "", "", NOW),
    lambda by: LinkAsset(by, ID, LINK),
)
JUDGING: tuple[Callable[[Actor], Any], ...] = (
    lambda by: VerifyAsset(by, ID, "INSPECTION"),
    lambda by: RejectAsset(by, ID, "not there"),
)
TAKING: tuple[Callable[[Actor], Any], ...] = (
    lambda by: SuspendAsset(by, ID),
    lambda by: DecommissionAsset(by, ID),
    lambda by: UnlinkAsset(by, ID, "UPRN", "1", NOW),
)


@pytest.mark.parametrize("by", [SUPPLIER, SERVICE, FLEX], ids=lambda actor: str(actor.role))
def test_who_serves_the_meter_may_and_a_stranger_to_it_may_not(by: Actor) -> None:
    for make in SAYING:
        check_entitled(SERVED, make(by), NOW)
        for stranger, access in ((by, MeterAccess()), (replace(by, party="other"), SERVED)):
            with pytest.raises(NotPermitted) as refused:
                check_entitled(access, make(stranger), NOW)
            assert refused.value.reason is Reason.NOT_PERMITTED


def test_a_data_service_judges_declarations_only_where_it_is_appointed() -> None:
    for make in JUDGING:
        check_entitled(SERVED, make(SERVICE), NOW)
        with pytest.raises(NotPermitted):
            check_entitled(MeterAccess(), make(SERVICE), NOW)


def test_a_role_that_never_may_hears_so_first() -> None:
    for make in JUDGING:
        with pytest.raises(NotPermitted) as refused:
            check_entitled(MeterAccess(), make(FLEX), NOW)
        assert refused.value.reason is Reason.ROLE_NOT_ALLOWED


def test_who_acts_for_all_meters_needs_no_part_in_this_one() -> None:
    for make in (*SAYING, *JUDGING):
        check_entitled(MeterAccess(), make(PORTAL), NOW)


def test_what_only_takes_away_hangs_on_the_asset_and_not_on_the_meter() -> None:
    for make in TAKING:
        check_entitled(MeterAccess(), make(SUPPLIER), NOW)


@pytest.mark.parametrize("at", [NOW - DAY - DAY, NOW + DAY], ids=["before", "after"])
def test_a_supplier_may_only_while_it_supplies(at: datetime) -> None:
    assert entitled(SERVED, SUPPLIER, NOW) and not entitled(SERVED, SUPPLIER, at)


def test_an_agent_of_another_kind_is_no_data_service() -> None:
    other = structs.replace(
        SERVED, appointments=(Appointment("meter-reader", "meter_operator", NOW),)
    )
    assert not entitled(other, SERVICE, NOW)


@pytest.mark.parametrize(
    "consent",
    [
        structs.replace(ALLOWED, categories=("HH_CONSUMPTION",)),
        structs.replace(ALLOWED, state=ConsentState.REVOKED),
        structs.replace(ALLOWED, state=ConsentState.SUSPENDED),
        structs.replace(ALLOWED, expires=NOW),
        structs.replace(ALLOWED, tenancy_id="t-0"),
    ],
    ids=["another category", "revoked", "suspended", "expired", "of a former occupier"],
)
def test_only_a_live_consent_to_its_assets_lets_a_data_user_in(consent: Consent) -> None:
    assert not entitled(structs.replace(SERVED, consents=(consent,)), FLEX, NOW)
