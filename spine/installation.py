"""The domains of this installation: what a command line hands to the spine, which imports none."""

from __future__ import annotations

from typing import Final

from domains.btm_assets import BTM_ASSETS
from domains.btm_assets import catalogue as btm_assets
from domains.consumers import catalogue as consumers
from domains.consumers.acknowledgements import ACKNOWLEDGEMENTS
from domains.consumers.decider import CONSUMERS
from domains.consumers.erasure import ERASURES
from domains.consumers.fan_out import CONSENT_FAN_OUT
from domains.governance import catalogue as governance
from domains.governance.decider import GOVERNANCE
from domains.governance.holds import PARTY_HOLDS
from domains.metering import AGGREGATES, METERING, READINGS
from domains.metering import catalogue as metering
from spine import trust
from spine.catalogue import DataDomain
from spine.runtime import Domains

DOMAINS: Final = Domains(
    GOVERNANCE,
    {
        trust.CONSUMER_LOG: CONSUMERS,
        trust.CONSUMERS_REFERENCE: CONSENT_FAN_OUT,
        trust.ERASURES_TOPIC: ERASURES,
        trust.ACKNOWLEDGEMENTS_TOPIC: ACKNOWLEDGEMENTS,
        trust.METERING_TOPIC: METERING,
        trust.READINGS_TOPIC: READINGS,
        trust.BTM_ASSETS_TOPIC: BTM_ASSETS,
        trust.QUARANTINE_TOPIC: PARTY_HOLDS,
        trust.METERING_REFERENCE: metering.METERING_STANDING,
        trust.AGGREGATES_TOPIC: AGGREGATES,
        trust.GOVERNANCE_REFERENCE: governance.GOVERNANCE_STANDING,
        trust.BTM_ASSETS_REFERENCE: btm_assets.BTM_ASSETS_STANDING,
    },
)

CATALOGUE: Final[tuple[DataDomain, ...]] = (
    governance.DATA_DOMAIN,
    consumers.DATA_DOMAIN,
    metering.DATA_DOMAIN,
    btm_assets.DATA_DOMAIN,
)
