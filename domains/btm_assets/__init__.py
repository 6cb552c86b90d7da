"""Assets behind the meter: what is there, who answers for it, and what other registers call it.

`BTM_ASSETS` is what the command line hands to the spine. The appointment of the organisation that
coordinates this domain is provisional (`views.COORDINATOR`).
"""

from __future__ import annotations

from typing import Final

from domains.btm_assets import decider, events
from spine.domain import Domain
from spine.event import SignerRole
from spine.trust import BTM_ASSETS_TOPIC

__all__ = ["BTM_ASSETS"]

BTM_ASSETS: Final = Domain(
    name="btm_assets",
    topic=BTM_ASSETS_TOPIC,
    signer=SignerRole.BTM_ASSETS,
    version=1,
    events={
        f"btm_assets.{event.__name__}": event
        for event in (
            events.AssetActivated,
            events.AssetDeclared,
            events.AssetDecommissioned,
            events.AssetLinked,
            events.AssetRejected,
            events.AssetSuspended,
            events.AssetTransferred,
            events.AssetUnlinked,
            events.AssetVerified,
        )
    },
    state_type=events.MeterAssets,
    initial=events.MeterAssets,
    evolve=events.evolve,
    decide=decider.decide,
)
