"""Metering points, consents and tenancies as the DSI sends them."""

from __future__ import annotations

from typing import Any

from domains.consumers.views import ConsentView, TenancyView
from spine import trust
from spine.common.v1 import common_pb2
from spine.dsi.answering import MeteringPointRecord
from spine.dsi.v1 import dsi_pb2
from spine.services import wire


def metering_point(record: MeteringPointRecord | None) -> Any:
    """A metering point; None if none was registered."""
    if record is None:
        return None
    view = record.view
    return dsi_pb2.MeteringPoint(
        mpxn=view.mpxn,
        fuel=view.fuel,
        gsp_group=view.gsp_group,
        energy_direction=view.energy_direction,
        measurement_quantity=view.measurement_quantity,
        registered_from=wire.stamp(view.registered_from),
        effective_to=view.effective_to and wire.stamp(view.effective_to),
        supplier=record.supplier,
        version=common_pb2.RecordRef(
            topic=trust.METERING_TOPIC, offset=record.offset, entry=record.entry
        ),
    )


def consent(view: ConsentView) -> Any:
    """One consent."""
    return dsi_pb2.Consent(
        consent_id=view.consent_id,
        version=view.version,
        state=view.state,
        data_user=view.data_user,
        purpose=view.purpose,
        categories=view.categories,
        history_from=wire.stamp(view.history_from),
        valid_from=wire.stamp(view.valid_from),
        expires=wire.stamp(view.expires),
        changed_at=wire.stamp(view.changed_at),
    )


def tenancy(view: TenancyView) -> Any:
    """One tenancy."""
    return dsi_pb2.Tenancy(
        tenancy_id=view.tenancy_id,
        effective_from=wire.stamp(view.effective_from),
        effective_to=view.effective_to and wire.stamp(view.effective_to),
    )
