"""What btm_assets decides: which facts a command makes of the assets behind one meter. Pure.

An empty answer means that it is already so. The precedence of the refusals is the order in which
the functions here check: the role, the command by itself, the asset, whose it is, its state.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, assert_never

from domains.btm_assets.checks import check_details, check_id, check_link, check_text, code
from domains.btm_assets.commands import (
    ActivateAsset,
    AssetCommand,
    DeclareAsset,
    DecommissionAsset,
    LinkAsset,
    RejectAsset,
    SuspendAsset,
    TransferAsset,
    UnlinkAsset,
    VerifyAsset,
    check_role,
    tightens,
)
from domains.btm_assets.events import (
    Asset,
    AssetActivated,
    AssetDeclared,
    AssetDecommissioned,
    AssetEvent,
    AssetLinked,
    AssetRejected,
    AssetState,
    AssetSuspended,
    AssetTransferred,
    AssetUnlinked,
    AssetVerified,
    Link,
    MeterAssets,
    Ownership,
    Scheme,
    VerificationLevel,
)
from spine.codelist import check_listed, day_of
from spine.domain import Actor
from spine.errors import NotPermitted, Reason, Refused
from spine.gb import Interval, utc
from spine.policy import Role

__all__ = ["decide", "tightens"]

ASSETS_MAX: Final = 100
LINKS_MAX: Final = 50
# Identifiers of which each means one asset at a time; the others may be shared behind a meter.
_OF_ONE_ASSET: Final = frozenset({Scheme.AMSID, Scheme.EUI64, Scheme.FMAR})
# Who speaks for consumers or for the whole needs no part in an asset to command it.
_FOR_OTHERS: Final = frozenset({Role.CONSENT_SERVICE, Role.GOVERNANCE})

AssetEvents = tuple[AssetEvent, ...]


def decide(state: MeterAssets, command: AssetCommand, now: datetime) -> AssetEvents:
    """The facts of an accepted command, none if it is already so; otherwise raises one of these.

    NotPermitted  ROLE_NOT_ALLOWED: the role may never do this, or not lift this suspension
                  ASSET_NOT_YOURS: the actor neither declared it nor owns or operates it
    Invalid       FIELD_MISSING, FIELD_INVALID, CODE_UNKNOWN, GSP_GROUP_UNKNOWN, MPAN_FORMAT,
                  MPRN_FORMAT, TIME_INVALID, INTERVAL_INVALID: a part of the command at fault
    Refused       ASSET_UNKNOWN, ASSET_EXISTS, ASSET_STATE, ASSET_SELF_VERIFIED, ASSET_LIMIT,
                  LINK_EXISTS, LINK_UNKNOWN: the register says otherwise
    """
    check_role(command)
    check_id(command.asset_id)
    match command:
        case DeclareAsset():
            return _declare(state, command, now)
        case VerifyAsset():
            return _verify(_known(state, command.asset_id), command, now)
        case RejectAsset():
            return _reject(_known(state, command.asset_id), command, now)
        case ActivateAsset():
            return _activate(_own(state, command), command, now)
        case SuspendAsset():
            return _suspend(_own(state, command), command, now)
        case TransferAsset():
            return _transfer(_own(state, command), command, now)
        case DecommissionAsset():
            return _decommission(_own(state, command), command, now)
        case LinkAsset():
            link = check_link(command.link)
            return _link(state, _own(state, command), link, now)
        case UnlinkAsset():
            return _unlink(_own(state, command), command, now)
        case _:
            assert_never(command)


def _known(state: MeterAssets, asset_id: str) -> Asset:
    asset = state.get(asset_id)
    if asset is None:
        raise Refused(Reason.ASSET_UNKNOWN, "no such asset was declared behind this meter")
    return asset


def _own(
    state: MeterAssets,
    command: ActivateAsset
    | SuspendAsset
    | TransferAsset
    | DecommissionAsset
    | LinkAsset
    | UnlinkAsset,
) -> Asset:
    asset = _known(state, command.asset_id)
    if command.by.role not in _FOR_OTHERS and command.by.party not in _parties(asset):
        message = "another party declared, owns and operates the asset"
        raise NotPermitted(Reason.ASSET_NOT_YOURS, message)
    return asset


def _parties(asset: Asset) -> set[str]:
    ownership = asset.details.ownership
    return {asset.declared_by, ownership.owner, ownership.operator} - {""}


def _in(asset: Asset, *states: AssetState) -> None:
    if asset.state not in states:
        message = f"the asset is {asset.state}, and must be {' or '.join(states)}"
        raise Refused(Reason.ASSET_STATE, message)


def _declare(state: MeterAssets, command: DeclareAsset, now: datetime) -> AssetEvents:
    check_details(command.details)
    links = tuple(check_link(link) for link in command.links)
    before = state.get(command.asset_id)
    if before is not None:
        same = before.details == command.details and not before.state.ended
        if same and _all_linked(before, links) and before.declared_by == command.by.party:
            return ()
        raise Refused(Reason.ASSET_EXISTS, "the asset is declared already, and otherwise")
    asset_class = command.details.kind.asset_class
    check_listed(command.asset_classes, asset_class, day_of(now), "class of asset", "asset_class")
    if len(state.assets) >= ASSETS_MAX or len(links) > LINKS_MAX:
        raise Refused(Reason.ASSET_LIMIT, f"at most {ASSETS_MAX} assets, {LINKS_MAX} links each")
    if any(_same_device(other, command) for other in state.assets):
        raise Refused(Reason.ASSET_EXISTS, "an asset of this maker and serial stands there")
    declared = AssetDeclared(command.asset_id, command.details, command.by.party, now)
    linked: list[AssetEvent] = []
    seen: set[tuple[str, str]] = set()
    for link in links:
        if (link.scheme, link.value) in seen or _taken(state, command.asset_id, link):
            raise Refused(Reason.LINK_EXISTS, "the identifier is given twice, or means another")
        seen.add((link.scheme, link.value))
        linked.append(AssetLinked(command.asset_id, link, now))
    return (declared, *linked)


def _all_linked(asset: Asset, links: tuple[Link, ...]) -> bool:
    held = {(link.scheme, link.value) for link in asset.links}
    return all((link.scheme, link.value) in held for link in links)


def _same_device(other: Asset, command: DeclareAsset) -> bool:
    mine, theirs = command.details.specification, other.details.specification
    named = bool(mine.maker and mine.serial)
    same = (mine.maker, mine.serial) == (theirs.maker, theirs.serial)
    return named and same and not other.state.ended


def _verify(asset: Asset, command: VerifyAsset, now: datetime) -> AssetEvents:
    level = code(VerificationLevel, command.level, "level")
    _not_its_declarer(asset, command.by)
    if asset.state is AssetState.VERIFIED and asset.verification_level == level:
        return ()
    _in(asset, AssetState.DECLARED)
    return (AssetVerified(asset.asset_id, level, command.by.party, now),)


def _reject(asset: Asset, command: RejectAsset, now: datetime) -> AssetEvents:
    check_text(command.reason, "reason")
    _not_its_declarer(asset, command.by)
    if asset.state is AssetState.REJECTED:
        return ()
    _in(asset, AssetState.DECLARED)
    return (AssetRejected(asset.asset_id, command.reason, now),)


def _not_its_declarer(asset: Asset, by: Actor) -> None:
    if by.party == asset.declared_by:
        raise Refused(Reason.ASSET_SELF_VERIFIED, "who declared it does not judge it")


def _activate(asset: Asset, command: ActivateAsset, now: datetime) -> AssetEvents:
    if asset.state is AssetState.ACTIVE:
        return ()
    _in(asset, AssetState.VERIFIED, AssetState.SUSPENDED)
    if asset.suspended_by == Role.GOVERNANCE and command.by.role != Role.GOVERNANCE:
        message = "only governance lifts what governance imposed"
        raise NotPermitted(Reason.ROLE_NOT_ALLOWED, message)
    return (AssetActivated(asset.asset_id, now),)


def _suspend(asset: Asset, command: SuspendAsset, now: datetime) -> AssetEvents:
    """A suspension by governance overtakes another; any other finds its wish fulfilled."""
    if command.reason:
        check_text(command.reason, "reason")
    if asset.state is AssetState.SUSPENDED and (
        command.by.role != Role.GOVERNANCE or asset.suspended_by == Role.GOVERNANCE
    ):
        return ()
    _in(asset, AssetState.ACTIVE, AssetState.SUSPENDED)
    return (AssetSuspended(asset.asset_id, command.by.role, command.reason, now),)


def _transfer(asset: Asset, command: TransferAsset, now: datetime) -> AssetEvents:
    check_text(command.owner, "owner")
    for field in ("operator", "consent_id"):
        if text := getattr(command, field):
            check_text(text, field)
    effective_from = utc(command.effective_from)
    wanted = Ownership(command.owner, command.operator, command.consent_id)
    if asset.state is AssetState.ACTIVE and asset.details.ownership == wanted:
        return ()
    _in(asset, AssetState.ACTIVE)
    return (
        AssetTransferred(
            asset.asset_id, wanted.owner, wanted.operator, wanted.consent_id, effective_from, now
        ),
    )


def _decommission(asset: Asset, command: DecommissionAsset, now: datetime) -> AssetEvents:
    if command.reason:
        check_text(command.reason, "reason")
    if asset.state is AssetState.DECOMMISSIONED:
        return ()
    _in(asset, *(state for state in AssetState if not state.ended))
    return (AssetDecommissioned(asset.asset_id, command.reason, now),)


def _link(state: MeterAssets, asset: Asset, link: Link, now: datetime) -> AssetEvents:
    if link in asset.links:
        return ()
    _in(asset, *(each for each in AssetState if not each.ended))
    if len(asset.links) >= LINKS_MAX:
        raise Refused(Reason.ASSET_LIMIT, f"an asset has at most {LINKS_MAX} links")
    if _taken(state, asset.asset_id, link):
        raise Refused(Reason.LINK_EXISTS, "the identifier means this or another asset then")
    return (AssetLinked(asset.asset_id, link, now),)


def _taken(state: MeterAssets, asset_id: str, link: Link) -> bool:
    """Whether the identifier is linked at an overlapping time, where it may be only once."""
    return any(
        (held.scheme, held.value) == (link.scheme, link.value) and _overlap(held, link)
        for other in state.assets
        if other.asset_id == asset_id or (link.scheme in _OF_ONE_ASSET and not other.state.ended)
        for held in other.links
    )


def _overlap(one: Link, other: Link) -> bool:
    first, second = sorted((one, other), key=lambda link: link.effective_from)
    return first.effective_to is None or second.effective_from < first.effective_to


def _unlink(asset: Asset, command: UnlinkAsset, now: datetime) -> AssetEvents:
    scheme = code(Scheme, command.scheme, "scheme")
    effective_to = utc(command.effective_to)
    held = [link for link in asset.links if (link.scheme, link.value) == (scheme, command.value)]
    if not held:
        raise Refused(Reason.LINK_UNKNOWN, "the asset has no such link")
    latest = held[-1]
    if latest.effective_to is not None and latest.effective_to <= effective_to:
        return ()
    Interval(latest.effective_from, effective_to)
    return (AssetUnlinked(asset.asset_id, scheme, command.value, effective_to, now),)
