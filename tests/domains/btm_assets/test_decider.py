"""The life of an asset behind a meter, one row per refusal in order of precedence."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from domains.btm_assets import BTM_ASSETS
from domains.btm_assets.commands import (
    MAY_COMMAND,
    ActivateAsset,
    DeclareAsset,
    DecommissionAsset,
    LinkAsset,
    RejectAsset,
    SuspendAsset,
    TransferAsset,
    UnlinkAsset,
    VerifyAsset,
    tightens,
)
from domains.btm_assets.decider import ASSETS_MAX, LINKS_MAX
from domains.btm_assets.events import (
    AssetActivated,
    AssetDeclared,
    AssetDecommissioned,
    AssetLinked,
    AssetRejected,
    AssetState,
    AssetSuspended,
    AssetTransferred,
    AssetUnlinked,
    AssetVerified,
    Connection,
    Details,
    Kind,
    Link,
    MeterAssets,
    Ownership,
    Specification,
)
from domains.btm_assets.views import COORDINATOR, asset_views
from spine.codelist import NOT_LOADED
from spine.domain import Actor, fold
from spine.errors import Invalid, NotPermitted, Reason, Refused, SpineError
from tests.helpers.specification import DEFAULT_NOW as NOW
from tests.helpers.specification import given
from tests.helpers.standing import shipped_list

MPAN = "1200000000011"
ID = "urn:energyos:asset:01JZ0000000000000000000001"
OTHER_ID = "urn:energyos:asset:01JZ0000000000000000000002"
FLEX, RIVAL = Actor("data_user", "flex-co"), Actor("data_user", "rival")
SERVICE, BOARD = Actor("consent_service", "portal"), Actor("governance", "board")
JULY, AUGUST = datetime(2025, 7, 1, tzinfo=UTC), datetime(2025, 8, 1, tzinfo=UTC)

DETAILS = Details(
    Kind("BATTERY"),
    Specification("Maker", "M", "S-1", rated_export_w=5_000, storage_wh=13_500),
    Connection(MPAN, "NOT_APPLICABLE", "G98", 5_000),
)
LINK = Link("AMSID", "1234567890123", "flex-co", NOW)
CLASSES = shipped_list("btm_assets", "asset_classes")
DECLARE = DeclareAsset(FLEX, ID, DETAILS, asset_classes=CLASSES)
VERIFY = VerifyAsset(SERVICE, ID, "INSPECTION")
REJECT = RejectAsset(SERVICE, ID, "not there")
ACTIVATE, SUSPEND = ActivateAsset(FLEX, ID), SuspendAsset(FLEX, ID, "repair")
TRANSFER = TransferAsset(FLEX, ID, "c-2", "rival", "consent-2", JULY)
DECOMMISSION = DecommissionAsset(FLEX, ID, "scrapped")
LINK_IT, UNLINK = LinkAsset(FLEX, ID, LINK), UnlinkAsset(FLEX, ID, LINK.scheme, LINK.value, JULY)

DECLARED = AssetDeclared(ID, DETAILS, "flex-co", NOW)
VERIFIED = AssetVerified(ID, "INSPECTION", "portal", NOW)
REJECTED = AssetRejected(ID, "not there", NOW)
ACTIVATED, SUSPENDED = AssetActivated(ID, NOW), AssetSuspended(ID, "data_user", "repair", NOW)
TRANSFERRED = AssetTransferred(ID, "c-2", "rival", "consent-2", JULY, NOW)
DECOMMISSIONED = AssetDecommissioned(ID, "scrapped", NOW)
LINKED = AssetLinked(ID, LINK, NOW)
UNLINKED = AssetUnlinked(ID, LINK.scheme, LINK.value, JULY, NOW)
ACTIVE = (DECLARED, VERIFIED, ACTIVATED)


def start(*events: object) -> Any:
    return given(BTM_ASSETS, *events)


def state(*events: object) -> MeterAssets:
    folded: MeterAssets = fold(BTM_ASSETS, events)
    return folded


def test_a_whole_life() -> None:
    (
        start()
        .when(DECLARE)
        .then(DECLARED)
        .when(VERIFY)
        .then(VERIFIED)
        .when(ACTIVATE)
        .then(ACTIVATED)
        .when(SUSPEND)
        .then(SUSPENDED)
        .when(ACTIVATE)
        .then(ACTIVATED)
        .when(TRANSFER)
        .then(TRANSFERRED)
        .when(replace(DECOMMISSION, by=RIVAL))
        .then(DECOMMISSIONED)
    )


@pytest.mark.parametrize(
    ("events", "command"),
    [
        ((DECLARED,), DECLARE),
        ((DECLARED, LINKED), replace(DECLARE, links=(LINK,))),
        ((DECLARED, VERIFIED), VERIFY),
        ((DECLARED, REJECTED), REJECT),
        (ACTIVE, ACTIVATE),
        ((*ACTIVE, SUSPENDED), SUSPEND),
        ((*ACTIVE, TRANSFERRED), TRANSFER),
        ((DECLARED, DECOMMISSIONED), DECOMMISSION),
        ((DECLARED, LINKED), LINK_IT),
        ((DECLARED, LINKED, UNLINKED), UNLINK),
        ((DECLARED, LINKED, UNLINKED), replace(UNLINK, effective_to=AUGUST)),
    ],
)
def test_what_is_so_already_makes_no_fact(events: tuple[object, ...], command: Any) -> None:
    start(*events).when(command).nothing()


def test_a_declaration_brings_its_links() -> None:
    start().when(replace(DECLARE, links=(LINK,))).then(DECLARED, LINKED)


def test_a_link_can_be_made_again_once_it_ended() -> None:
    later = replace(LINK, effective_from=JULY)
    again = start(DECLARED, LINKED).when(UNLINK).then(UNLINKED).when(replace(LINK_IT, link=later))
    after = again.then(AssetLinked(ID, later, NOW)).when(replace(UNLINK, effective_to=AUGUST))
    (asset,) = after.then(replace(UNLINKED, effective_to=AUGUST)).state.assets
    assert [(k.effective_from, k.effective_to) for k in asset.links] == [
        (NOW, JULY),
        (JULY, AUGUST),
    ]


def test_what_governance_suspends_only_governance_lifts() -> None:
    by_board = AssetSuspended(ID, "governance", "repair", NOW)
    held = start(*ACTIVE, SUSPENDED).when(replace(SUSPEND, by=BOARD)).then(by_board)
    held.when(SUSPEND).nothing()
    held.when(replace(SUSPEND, by=BOARD)).nothing()
    held.when(ACTIVATE).refused(Reason.ROLE_NOT_ALLOWED)
    held.when(replace(ACTIVATE, by=BOARD)).then(ACTIVATED)


def test_an_ended_device_makes_room_for_itself() -> None:
    again = replace(DECLARE, asset_id=OTHER_ID)
    start(DECLARED, REJECTED).when(again).then(replace(DECLARED, asset_id=OTHER_ID))
    taken = replace(again, links=(LINK,), details=replace(DETAILS, specification=Specification()))
    start(DECLARED, LINKED).when(taken).refused(Reason.LINK_EXISTS)
    shared = Link("UPRN", "100012345678", "flex-co", NOW)
    start(DECLARED, AssetLinked(ID, shared, NOW)).when(replace(taken, links=(shared,))).then(
        AssetDeclared(OTHER_ID, taken.details, "flex-co", NOW), AssetLinked(OTHER_ID, shared, NOW)
    )


def details(**groups: Any) -> DeclareAsset:
    return replace(DECLARE, details=replace(DETAILS, **groups))


def crowd(count: int) -> tuple[object, ...]:
    ids = [f"urn:energyos:asset:01JZ{n:022d}" for n in range(100, 100 + count)]
    return tuple(AssetDeclared(i, Details(Kind("OTHER")), "flex-co", NOW) for i in ids)


NAIVE = datetime(2025, 1, 1)  # noqa: DTZ001 - the flaw under test
LINKS = tuple(replace(LINK, scheme="BMU", value=f"B-{n}") for n in range(LINKS_MAX + 1))
FULL = tuple(AssetLinked(ID, link, NOW) for link in LINKS[:LINKS_MAX])


@pytest.mark.parametrize("command", [DECLARE, VERIFY, REJECT, ACTIVATE, SUSPEND, TRANSFER])
def test_a_role_that_may_not(command: Any) -> None:
    for role in ("consumer", "auditor", "dsi", "coordinator"):
        barred = replace(command, by=Actor(role, "x"))
        start(DECLARED).when(barred).refused(Reason.ROLE_NOT_ALLOWED)
    assert set(MAY_COMMAND) >= {type(command)}


@pytest.mark.parametrize(
    ("events", "command", "error", "reason"),
    [
        ((), replace(DECLARE, asset_id="1200000000011"), Invalid, "FIELD_INVALID"),
        ((), replace(DECLARE, asset_id=ID.lower()), Invalid, "FIELD_INVALID"),
        ((), details(kind=Kind("REACTOR")), Invalid, "CODE_UNKNOWN"),
        ((), replace(DECLARE, asset_classes=NOT_LOADED), Invalid, "CODE_UNKNOWN"),
        ((), details(kind=Kind("BATTERY", "x" * 129)), Invalid, "FIELD_INVALID"),
        ((), details(kind=Kind("BATTERY", "\x1b[2J")), Invalid, "FIELD_INVALID"),
        ((), details(specification=Specification(rated_import_w=-1)), Invalid, "FIELD_INVALID"),
        ((), details(kind=Kind("SOLAR_PV")), Invalid, "FIELD_INVALID"),
        ((), details(connection=Connection()), Invalid, "FIELD_MISSING"),
        ((), details(connection=Connection("", "12")), Invalid, "MPAN_FORMAT"),
        ((), details(connection=Connection("", MPAN, "G1")), Invalid, "CODE_UNKNOWN"),
        (
            (),
            details(connection=Connection("", MPAN, gsp_group="_I")),
            Invalid,
            "GSP_GROUP_UNKNOWN",
        ),
        ((), details(connection=Connection("", MPAN, "G98", 4_999)), Invalid, "FIELD_INVALID"),
        ((), replace(DECLARE, links=(replace(LINK, scheme="X"),)), Invalid, "CODE_UNKNOWN"),
        ((), replace(DECLARE, links=(replace(LINK, value="12"),)), Invalid, "FIELD_INVALID"),
        ((), replace(DECLARE, links=(replace(LINK, value=""),)), Invalid, "FIELD_MISSING"),
        ((), replace(DECLARE, links=(replace(LINK, source=""),)), Invalid, "FIELD_MISSING"),
        (
            (),
            replace(DECLARE, links=(replace(LINK, scheme="MPAN", value="1"),)),
            Invalid,
            "MPAN_FORMAT",
        ),
        (
            (),
            replace(DECLARE, links=(replace(LINK, scheme="MPRN", value="1"),)),
            Invalid,
            "MPRN_FORMAT",
        ),
        (
            (),
            replace(DECLARE, links=(replace(LINK, effective_from=NAIVE),)),
            Invalid,
            "TIME_INVALID",
        ),
        (
            (),
            replace(DECLARE, links=(replace(LINK, effective_to=NOW),)),
            Invalid,
            "INTERVAL_INVALID",
        ),
        ((), replace(DECLARE, links=(LINK, LINK)), Refused, "LINK_EXISTS"),
        ((), replace(DECLARE, links=LINKS), Refused, "ASSET_LIMIT"),
        (crowd(ASSETS_MAX), DECLARE, Refused, "ASSET_LIMIT"),
        ((DECLARED,), details(kind=Kind("V2X")), Refused, "ASSET_EXISTS"),
        ((DECLARED,), replace(DECLARE, by=RIVAL), Refused, "ASSET_EXISTS"),
        ((DECLARED, DECOMMISSIONED), DECLARE, Refused, "ASSET_EXISTS"),
        ((DECLARED,), replace(DECLARE, asset_id=OTHER_ID), Refused, "ASSET_EXISTS"),
        ((), VERIFY, Refused, "ASSET_UNKNOWN"),
        ((DECLARED,), replace(VERIFY, level="HEARSAY"), Invalid, "CODE_UNKNOWN"),
        (
            (DECLARED,),
            replace(VERIFY, by=Actor("data_service", "flex-co")),
            Refused,
            "ASSET_SELF_VERIFIED",
        ),
        (ACTIVE, VERIFY, Refused, "ASSET_STATE"),
        ((), REJECT, Refused, "ASSET_UNKNOWN"),
        ((DECLARED,), replace(REJECT, reason=""), Invalid, "FIELD_MISSING"),
        (
            (DECLARED,),
            replace(REJECT, by=Actor("data_service", "flex-co")),
            Refused,
            "ASSET_SELF_VERIFIED",
        ),
        ((DECLARED, VERIFIED), REJECT, Refused, "ASSET_STATE"),
        ((), ACTIVATE, Refused, "ASSET_UNKNOWN"),
        ((DECLARED, VERIFIED), replace(ACTIVATE, by=RIVAL), NotPermitted, "ASSET_NOT_YOURS"),
        ((DECLARED,), ACTIVATE, Refused, "ASSET_STATE"),
        ((DECLARED, VERIFIED), SUSPEND, Refused, "ASSET_STATE"),
        (ACTIVE, replace(SUSPEND, by=RIVAL), NotPermitted, "ASSET_NOT_YOURS"),
        (ACTIVE, replace(TRANSFER, by=RIVAL), NotPermitted, "ASSET_NOT_YOURS"),
        (ACTIVE, replace(TRANSFER, owner=""), Invalid, "FIELD_MISSING"),
        (ACTIVE, replace(TRANSFER, effective_from=NAIVE), Invalid, "TIME_INVALID"),
        ((DECLARED, VERIFIED), TRANSFER, Refused, "ASSET_STATE"),
        ((DECLARED,), replace(DECOMMISSION, by=RIVAL), NotPermitted, "ASSET_NOT_YOURS"),
        ((DECLARED, REJECTED), DECOMMISSION, Refused, "ASSET_STATE"),
        ((), LINK_IT, Refused, "ASSET_UNKNOWN"),
        ((DECLARED, REJECTED), LINK_IT, Refused, "ASSET_STATE"),
        (
            (DECLARED, LINKED),
            replace(LINK_IT, link=replace(LINK, source="x")),
            Refused,
            "LINK_EXISTS",
        ),
        ((DECLARED, *FULL), LINK_IT, Refused, "ASSET_LIMIT"),
        ((DECLARED,), UNLINK, Refused, "LINK_UNKNOWN"),
        ((DECLARED, LINKED), replace(UNLINK, scheme="X"), Invalid, "CODE_UNKNOWN"),
        ((DECLARED, LINKED), replace(UNLINK, effective_to=NOW), Invalid, "INTERVAL_INVALID"),
    ],
)
def test_refusals(
    events: tuple[object, ...], command: Any, error: type[SpineError], reason: str
) -> None:
    with pytest.raises(error) as refusal:
        BTM_ASSETS.decide(state(*events), command, NOW)
    assert refusal.value.reason == reason
    assert MPAN not in str(refusal.value)


def test_a_limitation_scheme_may_rate_more_than_it_exports() -> None:
    limited = details(connection=Connection("", MPAN, "G100", 3_680))
    start().when(limited).then(replace(DECLARED, details=limited.details))


@pytest.mark.parametrize(
    "events",
    [
        (DECLARED, DECLARED),
        (VERIFIED,),
        (DECLARED, REJECTED, VERIFIED),
        (replace(DECLARED, details=Details(Kind("?"))),),
        (DECLARED, replace(VERIFIED, level="?")),
    ],
)
def test_a_fact_that_does_not_fit_does_not_fold(events: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"declared|ended|not a valid"):
        state(*events)


def test_only_what_takes_away_is_tried_again_by_itself() -> None:
    every = (DECLARE, VERIFY, REJECT, ACTIVATE, SUSPEND, TRANSFER, DECOMMISSION, LINK_IT, UNLINK)
    assert {c for c in every if tightens(c)} == {REJECT, SUSPEND, DECOMMISSION, UNLINK}
    assert {type(c) for c in every} == set(MAY_COMMAND)


def test_the_view_of_a_meters_assets() -> None:
    assert asset_views(MPAN, BTM_ASSETS.initial(), NOW) == ()
    owned = replace(DECLARED, details=replace(DETAILS, ownership=Ownership("c-1", "op", "secret")))
    folded = state(owned, LINKED, UNLINKED)
    (view,) = asset_views(MPAN, folded, NOW)
    assert (view.state, view.owner, view.operator) == (AssetState.DECLARED, "c-1", "op")
    assert view.links == (replace(LINK, effective_to=JULY),)
    assert "secret" not in repr(view)
    assert asset_views(MPAN, folded, JULY)[0].links == ()
    assert asset_views(MPAN, state(DECLARED, DECOMMISSIONED), NOW) == ()
    assert (COORDINATOR.organisation, COORDINATOR.appointment) == ("Elexon", "PROVISIONAL")
