"""Commands about assets behind the meter: what is there, its life, its names, and reading it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf.json_format import ParseDict, ParseError

from domains.btm_assets.adapters.report import urn
from domains.btm_assets.events import (
    Connection,
    Kind,
    Link,
    Operational,
    Registration,
    Specification,
    VerificationLevel,
)
from spine.btm_assets.v1 import btm_assets_pb2
from spine.console import assets_import
from spine.console.client import stamp
from spine.console.context import As, AsJson, Mpxn, instant
from spine.console.output import details, out, say, say_json, table, when
from spine.console.parties import acknowledge, client
from spine.console.reading import AsOfKnown, AsOfValid, ByBasis, Purpose, clocks, decided
from spine.errors import Invalid, Reason
from spine.policy import Basis
from spine.services.asset_groups import group_from

AssetId = Annotated[str, typer.Argument(help="The asset: urn:energyos:asset: and a ULID.")]
Why = Annotated[str, typer.Option(help="Why.")]
Since = Annotated[str, typer.Option("--from", help="Date or time, UTC.")]
GROUPS: Final[Mapping[str, type[Any]]] = {
    "kind": Kind,
    "specification": Specification,
    "connection": Connection,
    "registration": Registration,
    "operational": Operational,
}


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    assets = typer.Typer(no_args_is_help=True, help="Assets behind the meter.")
    assets.command()(declare)
    assets.command()(verify)
    assets.command()(reject)
    assets.command()(activate)
    assets.command()(suspend)
    assets.command()(transfer)
    assets.command()(decommission)
    assets.command()(link)
    assets.command()(unlink)
    assets.command("import")(assets_import.import_register)
    assets.command("list")(list_assets)
    assets.command()(show)
    app.add_typer(assets, name="assets")


# -- its life -------------------------------------------------------------------------------------


def declare(
    mpxn: Mpxn,
    as_: As,
    asset_class: Annotated[str, typer.Option("--class", help="Such as BATTERY.")] = "",
    maker: Annotated[str, typer.Option(help="Who made it.")] = "",
    model: Annotated[str, typer.Option(help="Its model.")] = "",
    serial: Annotated[str, typer.Option(help="Its serial number.")] = "",
    rated_import_w: Annotated[int | None, typer.Option(help="W it takes at most.")] = None,
    rated_export_w: Annotated[int | None, typer.Option(help="W it gives at most.")] = None,
    storage_wh: Annotated[int | None, typer.Option(help="Wh that it stores.")] = None,
    export_mpan: Annotated[
        str, typer.Option(help="13 digits, UNKNOWN, WITHHELD or NOT_APPLICABLE.")
    ] = "",
    owner: Annotated[str, typer.Option(help="Party id or consumer reference.")] = "",
    operator: Annotated[str, typer.Option(help="Party id of who operates it.")] = "",
    file: Annotated[
        Path | None,
        typer.Option("--details", exists=True, dir_okay=False, help="All six groups, as JSON."),
    ] = None,
    asset_id: Annotated[str, typer.Option(help="Its id; made for you if empty.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say that an asset stands behind a meter. Options win over the file."""
    made = asset_id or mint()
    request = btm_assets_pb2.DeclareAssetRequest() if file is None else described(file)
    given: dict[str, dict[str, Any]] = {
        "kind": {"asset_class": asset_class},
        "specification": {
            "maker": maker,
            "model": model,
            "serial": serial,
            "rated_import_w": rated_import_w,
            "rated_export_w": rated_export_w,
            "storage_wh": storage_wh,
        },
        "connection": {"export_mpan": export_mpan},
        "ownership": {"owner": owner, "operator": operator},
    }
    for group, fields in given.items():
        for name, value in fields.items():
            if value not in ("", None):
                in_range(name, value)
                setattr(getattr(request, group), name, value)
    groups = {field.name: value for field, value in request.ListFields()}
    answer = client(as_).assets("DeclareAsset", **groups | {"mpxn": mpxn, "asset_id": made})
    acknowledge(answer, f"{made} declared", as_json, asset_id=made)


def mint() -> str:
    """A fresh id: milliseconds since 1970 in 48 bits, then 80 random ones (the ULID layout)."""
    return urn(int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big"))


def in_range(name: str, value: object) -> None:
    """Invalid if the wire has no room for it."""
    if isinstance(value, int) and not 0 <= value < 1 << 63:
        raise Invalid(Reason.FIELD_INVALID, f"{name} is out of range", field=name)


def described(file: Path) -> Any:
    """The declaration that a JSON document of data groups and links makes."""
    request = btm_assets_pb2.DeclareAssetRequest()
    try:
        ParseDict(json.loads(file.read_text("utf-8")), request)
    except (ValueError, RecursionError):
        message = f"{file.name} is no JSON document"
        raise Invalid(Reason.FILE_UNREADABLE, message) from None
    except ParseError as error:
        message = f"{file.name} does not describe an asset: {error}"
        raise Invalid(Reason.FILE_UNRECOGNISED, message) from None
    return request


def verify(
    mpxn: Mpxn,
    asset_id: AssetId,
    level: Annotated[VerificationLevel, typer.Option(help="How it was found to be right.")],
    as_: As,
    as_json: AsJson = False,
) -> None:
    """Say that a declaration is right; never as the party that made it."""
    _change("VerifyAsset", "verified", mpxn, asset_id, as_, as_json, level=level)


def reject(mpxn: Mpxn, asset_id: AssetId, reason: Why, as_: As, as_json: AsJson = False) -> None:
    """Say that a declaration is wrong; final."""
    _change("RejectAsset", "rejected", mpxn, asset_id, as_, as_json, reason=reason)


def activate(mpxn: Mpxn, asset_id: AssetId, as_: As, as_json: AsJson = False) -> None:
    """Let a verified asset take part, or a suspended one again."""
    _change("ActivateAsset", "active", mpxn, asset_id, as_, as_json)


def suspend(
    mpxn: Mpxn, asset_id: AssetId, as_: As, reason: Why = "", as_json: AsJson = False
) -> None:
    """Stop an active asset from taking part for now."""
    _change("SuspendAsset", "suspended", mpxn, asset_id, as_, as_json, reason=reason)


def transfer(
    mpxn: Mpxn,
    asset_id: AssetId,
    owner: Annotated[str, typer.Option(help="Party id or consumer reference.")],
    from_: Since,
    as_: As,
    operator: Annotated[str, typer.Option(help="Party id of who operates it.")] = "",
    consent_id: Annotated[str, typer.Option(help="The consent that this rests on.")] = "",
    as_json: AsJson = False,
) -> None:
    """Give an asset a new owner or operator; it stays where it is and keeps its id."""
    _change(
        "TransferAsset",
        f"transferred to {owner}",
        mpxn,
        asset_id,
        as_,
        as_json,
        ownership={"owner": owner, "operator": operator, "consent_id": consent_id},
        effective_from=stamp(instant(from_)),
    )


def decommission(
    mpxn: Mpxn, asset_id: AssetId, as_: As, reason: Why = "", as_json: AsJson = False
) -> None:
    """Say that an asset is gone from this meter; final."""
    _change("DecommissionAsset", "decommissioned", mpxn, asset_id, as_, as_json, reason=reason)


def link(
    mpxn: Mpxn,
    asset_id: AssetId,
    scheme: Annotated[str, typer.Option(help="Whose identifier, such as AMSID or UPRN.")],
    value: Annotated[str, typer.Option(help="The identifier.")],
    source: Annotated[str, typer.Option(help="Who said so.")],
    from_: Since,
    as_: As,
    as_json: AsJson = False,
) -> None:
    """Say what another body calls an asset."""
    since = stamp(instant(from_))
    named = {"scheme": scheme, "value": value, "source": source, "effective_from": since}
    _change("LinkAsset", f"linked to its {scheme}", mpxn, asset_id, as_, as_json, link=named)


def unlink(
    mpxn: Mpxn,
    asset_id: AssetId,
    scheme: Annotated[str, typer.Option(help="Whose identifier, such as AMSID or UPRN.")],
    value: Annotated[str, typer.Option(help="The identifier.")],
    until: Annotated[str, typer.Option("--until", help="Date or time, UTC; exclusive.")],
    as_: As,
    as_json: AsJson = False,
) -> None:
    """Say that an identifier means the asset no longer, from then on."""
    ended = {"scheme": scheme, "value": value, "effective_to": stamp(instant(until))}
    _change("UnlinkAsset", f"no longer its {scheme}", mpxn, asset_id, as_, as_json, **ended)


def _change(
    method: str,
    became: str,
    mpxn: str,
    asset_id: str,
    as_: str,
    as_json: bool,
    **fields: Any,
) -> None:
    answer = client(as_).assets(method, mpxn=mpxn, asset_id=asset_id, **fields)
    acknowledge(answer, f"{asset_id} {became}", as_json, asset_id=asset_id)


# -- reading --------------------------------------------------------------------------------------


def list_assets(
    mpxn: Mpxn,
    purpose: Purpose,
    as_: As,
    basis: ByBasis = Basis.CONSENT,
    as_of_valid: AsOfValid = "",
    as_of_known: AsOfKnown = "",
    as_json: AsJson = False,
) -> None:
    """The assets behind a meter; logged and decided like every read."""
    at = clocks(as_of_valid, as_of_known)
    answer = client(as_).dsi("ListAssets", mpxn=mpxn, purpose=purpose, basis=basis, **at)
    if as_json:
        say_json([asset_as_dict(asset) for asset in answer.assets])
        return
    columns = ("asset", "state", "class", "export W", "import W", "storage Wh", "links")
    table("Assets behind the meter", columns, map(_line, answer.assets))
    say(coordinated(answer.coordinator))
    say(decided(answer.decision))


def show(
    mpxn: Mpxn,
    asset_id: AssetId,
    purpose: Purpose,
    as_: As,
    basis: ByBasis = Basis.CONSENT,
    as_of_valid: AsOfValid = "",
    as_of_known: AsOfKnown = "",
    as_json: AsJson = False,
) -> None:
    """One asset with its data groups and links; logged and decided like every read."""
    terms = {"purpose": purpose, "basis": basis, "asset_id": asset_id}
    at = clocks(as_of_valid, as_of_known)
    answer = client(as_).dsi("GetAsset", mpxn=mpxn, **terms, **at)
    shown = asset_as_dict(answer.asset) if answer.HasField("asset") else None
    if as_json:
        say_json(shown)
        return
    if shown is None:
        say("no such asset stands behind this meter")
    else:
        _show(shown)
    say(coordinated(answer.coordinator))
    say(decided(answer.decision))


def coordinated(coordinator: Any) -> str:
    """Who coordinates the domain, and how firmly it was appointed, in a line."""
    return (
        f"[dim]coordinator of the domain: {coordinator.organisation}, "
        f"appointment {coordinator.appointment}[/]"
    )


def asset_as_dict(asset: Any) -> dict[str, Any]:
    """An asset for programs: what is unset is null, an empty text says nothing."""
    groups = {name: asdict(group_from(getattr(asset, name), kind)) for name, kind in GROUPS.items()}
    return {
        "mpxn": asset.mpxn,
        "asset_id": asset.asset_id,
        "state": asset.state,
        **groups,
        "owner": asset.owner,
        "operator": asset.operator,
        "verified_at": when(asset.verified_at) if asset.HasField("verified_at") else None,
        "verification_level": asset.verification_level,
        "links": [asdict(group_from(link, Link)) for link in asset.links],
    }


def _line(asset: Any) -> tuple[object, ...]:
    about = asset_as_dict(asset)
    rated = about["specification"]
    links = ", ".join(f"{link['scheme']} {link['value']}" for link in about["links"])
    return (
        about["asset_id"],
        about["state"],
        about["kind"]["asset_class"],
        rated["rated_export_w"],
        rated["rated_import_w"],
        rated["storage_wh"],
        links,
    )


def _show(shown: Mapping[str, Any]) -> None:
    plain = {name: value for name, value in shown.items() if name not in (*GROUPS, "links")}
    details("Asset", {name: value for name, value in plain.items() if value})
    for name in GROUPS:
        said = {key: value for key, value in shown[name].items() if value not in ("", None)}
        if said:
            out.print(f"[bold]{name}[/]")
            details("", said)
    columns = ("scheme", "value", "source", "from", "to")
    table("Links", columns, [tuple(link.values()) for link in shown["links"]])
