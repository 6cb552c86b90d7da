"""What can be asked of the assets behind a meter, and by which role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from domains.btm_assets.events import Details, Link
from spine.codelist import NOT_LOADED, CodeList
from spine.domain import Actor
from spine.errors import NotPermitted, Reason
from spine.policy import Role


@dataclass(frozen=True, slots=True)
class DeclareAsset:
    """Say that an asset stands behind this meter; the caller minted its id.

    `asset_classes` is the list of standing data that the coordinator has folded; a list that is not
    there knows no class.
    """

    by: Actor
    asset_id: str
    details: Details
    links: tuple[Link, ...] = ()
    asset_classes: CodeList = NOT_LOADED


@dataclass(frozen=True, slots=True)
class VerifyAsset:
    """Say that a declaration was found to be right, and how; never by who declared it."""

    by: Actor
    asset_id: str
    level: str


@dataclass(frozen=True, slots=True)
class RejectAsset:
    """Say that a declaration was found to be wrong; final."""

    by: Actor
    asset_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ActivateAsset:
    """Let a verified asset take part, or a suspended one again."""

    by: Actor
    asset_id: str


@dataclass(frozen=True, slots=True)
class SuspendAsset:
    """Stop an active asset from taking part for now."""

    by: Actor
    asset_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TransferAsset:
    """Hand an asset to a new owner or operator. It stays behind this meter and keeps its id."""

    by: Actor
    asset_id: str
    owner: str
    operator: str
    consent_id: str
    effective_from: datetime


@dataclass(frozen=True, slots=True)
class DecommissionAsset:
    """Say that the asset is gone from this meter; final."""

    by: Actor
    asset_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LinkAsset:
    """Say what another body calls the asset."""

    by: Actor
    asset_id: str
    link: Link


@dataclass(frozen=True, slots=True)
class UnlinkAsset:
    """Say that another body's identifier means the asset no longer, from an instant on."""

    by: Actor
    asset_id: str
    scheme: str
    value: str
    effective_to: datetime


AssetCommand = (
    DeclareAsset
    | VerifyAsset
    | RejectAsset
    | ActivateAsset
    | SuspendAsset
    | TransferAsset
    | DecommissionAsset
    | LinkAsset
    | UnlinkAsset
)

KEEPERS: Final = frozenset({Role.SUPPLIER, Role.DATA_SERVICE, Role.DATA_USER, Role.CONSENT_SERVICE})
VERIFIERS: Final = frozenset({Role.DATA_SERVICE, Role.CONSENT_SERVICE, Role.GOVERNANCE})
MAY_COMMAND: Final[Mapping[type, frozenset[Role]]] = {
    DeclareAsset: KEEPERS,
    VerifyAsset: VERIFIERS,
    RejectAsset: VERIFIERS,
    ActivateAsset: KEEPERS | {Role.GOVERNANCE},
    SuspendAsset: KEEPERS | {Role.GOVERNANCE},
    TransferAsset: KEEPERS,
    DecommissionAsset: KEEPERS,
    LinkAsset: KEEPERS,
    UnlinkAsset: KEEPERS,
}


def check_role(command: AssetCommand) -> None:
    """NotPermitted(ROLE_NOT_ALLOWED) if the actor's role may never do this."""
    if command.by.role not in MAY_COMMAND[type(command)]:
        message = f"{type(command).__name__} is not for this role"
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, message)


def tightens(command: object) -> bool:
    """Whether the command can only take something away, so that a lost race may be run again."""
    return isinstance(command, RejectAsset | SuspendAsset | DecommissionAsset | UnlinkAsset)
