"""The data sets of assets behind the meter, and its lists of standing data.

The appointment of the coordinator is provisional (white paper, chapter 13) and is shown as such.
"""

from __future__ import annotations

from typing import Final

from domains.btm_assets.events import Agreement, AssetClass, Scheme, VerificationLevel
from domains.btm_assets.views import COORDINATOR
from spine import trust
from spine.catalogue import Appointment, DataDomain, DataSet, Label, Personal
from spine.codelist import ListSpec, specs_by_name, standing_data
from spine.domain import Domain
from spine.event import SignerRole

ASSET_CLASSES: Final = "asset_classes"

LISTS: Final = specs_by_name(
    ListSpec(ASSET_CLASSES, "Classes of asset", only=frozenset(AssetClass)),
    ListSpec("link_schemes", "Schemes of identifiers of an asset", only=frozenset(Scheme)),
    ListSpec("connection_agreements", "Connection agreements", only=frozenset(Agreement)),
    ListSpec("verification_levels", "How an asset was verified", only=frozenset(VerificationLevel)),
)

BTM_ASSETS_STANDING: Final[Domain] = standing_data(
    trust.BTM_ASSETS_REFERENCE, SignerRole.BTM_ASSETS, LISTS
)

DATA_DOMAIN: Final = DataDomain(
    "btm_assets",
    "Assets behind the meter",
    COORDINATOR.organisation,
    Appointment(COORDINATOR.appointment),
    (
        DataSet(
            "assets",
            "Assets behind the meter",
            "What stands behind a meter, who answers for it, and what other registers call it.",
            "the owner of each asset",
            Label.SHARED,
            Personal.PSEUDONYMOUS,
            "By consent or as the occupier, decided for each read.",
            (trust.BTM_ASSETS_TOPIC,),
            ("ASSET",),
            ("spine.dsi.v1.Dsi/GetAsset", "spine.dsi.v1.Dsi/ListAssets"),
        ),
        DataSet(
            "btm_assets_standing_data",
            "Standing data of assets behind the meter",
            "Classes, schemes, agreements and levels, each entry with its days.",
            "the source that each entry names",
            Label.OPEN,
            Personal.NONE,
            "Anybody with a certificate may ask.",
            (trust.BTM_ASSETS_REFERENCE,),
            methods=("spine.reference.v1.Reference/ListCodes",),
            licence="as each entry says",
        ),
    ),
    trust.BTM_ASSETS_REFERENCE,
    LISTS,
)
