"""The domains of this installation: what a command line hands to the spine, which imports none."""

from __future__ import annotations

from typing import Final

from domains.btm_assets import BTM_ASSETS
from domains.consumers.decider import CONSUMERS
from domains.consumers.fan_out import CONSENT_FAN_OUT
from domains.governance.decider import GOVERNANCE
from domains.governance.holds import PARTY_HOLDS
from domains.metering import METERING, READINGS
from spine import trust
from spine.runtime import Domains

DOMAINS: Final = Domains(
    GOVERNANCE,
    {
        trust.CONSUMER_LOG: CONSUMERS,
        trust.CONSUMERS_REFERENCE: CONSENT_FAN_OUT,
        trust.METERING_TOPIC: METERING,
        trust.READINGS_TOPIC: READINGS,
        trust.BTM_ASSETS_TOPIC: BTM_ASSETS,
        trust.QUARANTINE_TOPIC: PARTY_HOLDS,
    },
)
