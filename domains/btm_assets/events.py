"""What happens to the assets behind one meter, and the state that follows from it.

The subject is the MPxN of the boundary meter: an asset lives under the meter it stands behind, and
its own key is a URN that is never another body's number. What other bodies call it stands in links.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never


class AssetClass(StrEnum):
    """What the asset is."""

    EV_CHARGE_POINT = "EV_CHARGE_POINT"
    BATTERY = "BATTERY"
    SOLAR_PV = "SOLAR_PV"
    WIND = "WIND"
    HEAT_PUMP = "HEAT_PUMP"
    ELECTRIC_STORAGE_HEATER = "ELECTRIC_STORAGE_HEATER"
    HOT_WATER = "HOT_WATER"
    CHP = "CHP"
    DIESEL = "DIESEL"
    V2X = "V2X"
    OTHER = "OTHER"


class AssetState(StrEnum):
    """Where the asset stands in its life. The last two are final."""

    DECLARED = "DECLARED"
    VERIFIED = "VERIFIED"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    DECOMMISSIONED = "DECOMMISSIONED"
    REJECTED = "REJECTED"

    @property
    def ended(self) -> bool:
        """Whether nothing can happen to the asset any more."""
        return self in (AssetState.DECOMMISSIONED, AssetState.REJECTED)


class Agreement(StrEnum):
    """The engineering recommendation that the connection was agreed under."""

    G98 = "G98"
    G99 = "G99"
    G100 = "G100"  # with an export or import limitation scheme


class VerificationLevel(StrEnum):
    """How the asset was verified."""

    DOCUMENTS = "DOCUMENTS"
    INSTALLER = "INSTALLER"
    INSPECTION = "INSPECTION"
    TELEMETRY = "TELEMETRY"


class Unsaid(StrEnum):
    """Why a number is not given, where the difference matters. Empty text says nothing at all."""

    UNKNOWN = "UNKNOWN"
    WITHHELD = "WITHHELD"
    NOT_APPLICABLE = "NOT_APPLICABLE"


class Scheme(StrEnum):
    """Whose identifier a link gives."""

    MPAN = "MPAN"
    MPRN = "MPRN"
    AMSID = "AMSID"
    EUI64 = "EUI64"
    FMAR = "FMAR"
    MCS = "MCS"
    ECR = "ECR"
    BMU = "BMU"
    UPRN = "UPRN"
    SERIAL = "SERIAL"


# The six data groups


@dataclass(frozen=True, slots=True)
class Kind:
    """Type: what the asset is and what it runs on."""

    asset_class: str
    energy_source: str = ""
    conversion_technology: str = ""


@dataclass(frozen=True, slots=True)
class Specification:
    """Specification: as the maker rates it. W, VA and Wh in whole numbers; None is unknown."""

    maker: str = ""
    model: str = ""
    serial: str = ""
    firmware: str = ""
    rated_import_w: int | None = None
    rated_export_w: int | None = None
    storage_wh: int | None = None
    round_trip_permille: int | None = None
    phases: int | None = None
    inverter_va: int | None = None
    type_test_reference: str = ""
    pas1878_year: int | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """Connection characteristics. An MPAN is 13 digits, an `Unsaid`, or empty."""

    import_mpan: str = ""
    export_mpan: str = ""
    agreement: str = ""
    export_limit_w: int | None = None
    voltage_v: int | None = None
    primary_substation: str = ""
    grid_supply_point: str = ""
    gsp_group: str = ""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Ownership: party ids or consumer references, never names; and the consent it rests on."""

    owner: str = ""
    operator: str = ""
    consent_id: str = ""


@dataclass(frozen=True, slots=True)
class Registration:
    """Registration: which register said so first, under which number, and when."""

    register: str = ""
    reference: str = ""
    registrar: str = ""
    registered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Operational:
    """Operational data that is declared. What is measured each moment is telemetry and not here."""

    flexible_up_w: int | None = None
    flexible_down_w: int | None = None
    telemetry_source: str = ""


@dataclass(frozen=True, slots=True)
class Details:
    """All that is declared of an asset."""

    kind: Kind
    specification: Specification = Specification()
    connection: Connection = Connection()
    ownership: Ownership = Ownership()
    registration: Registration = Registration()
    operational: Operational = Operational()


@dataclass(frozen=True, slots=True)
class Link:
    """What a scheme calls the asset, from when until when, and who said so."""

    scheme: str
    value: str
    source: str
    effective_from: datetime
    effective_to: datetime | None = None

    def live_at(self, now: datetime) -> bool:
        """Whether the link holds at that instant."""
        return self.effective_from <= now and (self.effective_to is None or now < self.effective_to)


# Facts


@dataclass(frozen=True, slots=True)
class AssetDeclared:
    """Somebody says that the asset stands behind this meter."""

    asset_id: str
    details: Details
    declared_by: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AssetVerified:
    """Somebody else found it to be so."""

    asset_id: str
    level: str
    verified_by: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AssetRejected:
    """It was found not to be so. Final."""

    asset_id: str
    reason: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AssetActivated:
    """It may take part; also the end of a suspension."""

    asset_id: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AssetSuspended:
    """It may not take part until it is activated again. `suspended_by` is a role."""

    asset_id: str
    suspended_by: str
    reason: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AssetTransferred:
    """It has a new owner or operator; it stays where it is and keeps its id."""

    asset_id: str
    owner: str
    operator: str
    consent_id: str
    effective_from: datetime
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AssetDecommissioned:
    """It is gone from this meter. Final."""

    asset_id: str
    reason: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AssetLinked:
    """Another body's identifier means this asset."""

    asset_id: str
    link: Link
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AssetUnlinked:
    """That identifier means it no longer, from then on."""

    asset_id: str
    scheme: str
    value: str
    effective_to: datetime
    decided_at: datetime


AssetEvent = (
    AssetActivated
    | AssetDeclared
    | AssetDecommissioned
    | AssetLinked
    | AssetRejected
    | AssetSuspended
    | AssetTransferred
    | AssetUnlinked
    | AssetVerified
)


# State


@dataclass(frozen=True, slots=True)
class Asset:
    """One asset as the facts of its meter tell it. `suspended_by` is empty unless suspended."""

    asset_id: str
    details: Details
    declared_by: str
    state: AssetState = AssetState.DECLARED
    suspended_by: str = ""
    verified_at: datetime | None = None
    verification_level: str = ""
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class MeterAssets:
    """The assets behind one meter, ended ones included, in the order of their declaration."""

    assets: tuple[Asset, ...] = ()

    def get(self, asset_id: str) -> Asset | None:
        """The asset of that id."""
        return next((asset for asset in self.assets if asset.asset_id == asset_id), None)


def evolve(state: MeterAssets, event: AssetEvent) -> MeterAssets:
    """The meter's assets after one more fact; ValueError for a fact that does not fit."""
    before = state.get(event.asset_id)
    if isinstance(event, AssetDeclared):
        if before is not None:
            raise ValueError("declared twice")
        AssetClass(event.details.kind.asset_class)
        asset = Asset(event.asset_id, event.details, event.declared_by)
        return MeterAssets((*state.assets, asset))
    if before is None:
        raise ValueError("never declared")
    if before.state.ended:
        raise ValueError("ended")
    after = _after(before, event)
    return MeterAssets(tuple(after if a is before else a for a in state.assets))


def _after(
    asset: Asset,
    event: AssetActivated
    | AssetDecommissioned
    | AssetLinked
    | AssetRejected
    | AssetSuspended
    | AssetTransferred
    | AssetUnlinked
    | AssetVerified,
) -> Asset:
    match event:
        case AssetVerified():
            return replace(
                asset,
                state=AssetState.VERIFIED,
                verified_at=event.decided_at,
                verification_level=VerificationLevel(event.level),
            )
        case AssetRejected():
            return replace(asset, state=AssetState.REJECTED)
        case AssetActivated():
            return replace(asset, state=AssetState.ACTIVE, suspended_by="")
        case AssetSuspended():
            return replace(asset, state=AssetState.SUSPENDED, suspended_by=event.suspended_by)
        case AssetDecommissioned():
            return replace(asset, state=AssetState.DECOMMISSIONED, suspended_by="")
        case AssetTransferred():
            ownership = Ownership(event.owner, event.operator, event.consent_id)
            return replace(asset, details=replace(asset.details, ownership=ownership))
        case AssetLinked():
            return replace(asset, links=(*asset.links, event.link))
        case AssetUnlinked():
            return replace(asset, links=tuple(_ended(link, event) for link in asset.links))
        case _:
            assert_never(event)


def _ended(link: Link, event: AssetUnlinked) -> Link:
    named = (link.scheme, link.value) == (event.scheme, event.value)
    begun = link.effective_from < event.effective_to
    lasts = link.effective_to is None or event.effective_to < link.effective_to
    return replace(link, effective_to=event.effective_to) if named and begun and lasts else link
