"""What a permitted reader is shown of the assets behind a meter, and who coordinates the domain.

A view names no consent: that it rests on one is between its parties. Assets that ended are not
listed, for a later occupier has no part in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from domains.btm_assets.events import (
    Asset,
    Connection,
    Kind,
    Link,
    MeterAssets,
    Operational,
    Registration,
    Specification,
)


@dataclass(frozen=True, slots=True)
class Coordinator:
    """Which organisation coordinates the domain, and how firmly it was appointed."""

    organisation: str
    appointment: str


COORDINATOR: Final = Coordinator("Elexon", "PROVISIONAL")


@dataclass(frozen=True, slots=True)
class AssetView:
    """One asset as a reader sees it: its state, the six data groups, and its links."""

    mpxn: str
    asset_id: str
    state: str
    kind: Kind
    specification: Specification
    connection: Connection
    owner: str
    operator: str
    registration: Registration
    verified_at: datetime | None
    verification_level: str
    operational: Operational
    links: tuple[Link, ...]


def asset_views(mpxn: str, state: MeterAssets, now: datetime) -> tuple[AssetView, ...]:
    """The assets that stand behind the meter, by id, with the links that hold at `now`."""
    standing = (asset for asset in state.assets if not asset.state.ended)
    return tuple(_view(mpxn, a, now) for a in sorted(standing, key=lambda a: a.asset_id))


def _view(mpxn: str, asset: Asset, now: datetime) -> AssetView:
    details = asset.details
    links = (link for link in asset.links if link.live_at(now))
    return AssetView(
        mpxn,
        asset.asset_id,
        asset.state,
        details.kind,
        details.specification,
        details.connection,
        details.ownership.owner,
        details.ownership.operator,
        details.registration,
        asset.verified_at,
        asset.verification_level,
        details.operational,
        tuple(sorted(links, key=lambda link: (link.scheme, link.value, link.effective_from))),
    )
