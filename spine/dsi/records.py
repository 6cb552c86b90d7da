"""Metering points, consents and tenancies as the DSI sends them."""

from __future__ import annotations

from typing import Any

from domains.consumers.chain import FIRST_LINE
from domains.consumers.views import ConsentView, RecordedConsentView, RecordView, TenancyView
from spine import trust
from spine.common.v1 import common_pb2
from spine.dsi.answering import MeteringPointRecord
from spine.dsi.v1 import consent_record_pb2, dsi_pb2
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
        record=consent_record(view.record) if isinstance(view, RecordedConsentView) else None,
    )


def consent_record(said: RecordView) -> Any:
    """A record, in its blocks."""
    return consent_record_pb2.ConsentRecord(
        header={
            "version": said.version,
            "previous": said.previous,
            "hash": said.hash,
            "created_at": wire.stamp(said.created_at),
            "schema": FIRST_LINE,
        },
        subject={
            "consumer_ref": said.consumer_ref,
            "relation": said.relation,
            "authentication_level": said.authentication_level,
            "authentication_method": said.authentication_method,
        },
        scope={"uprn": said.uprn, "granularity": said.granularity},
        purpose={
            "onward_sharing": said.onward_sharing,
            "recipients": said.recipients,
            "details": said.has_details,
        },
        parties={"tier": said.tier, "holders": said.holders, "processor": said.processor},
        times={
            "data_from": wire.stamp(said.data_from),
            "confirmed_at": said.confirmed_at and wire.stamp(said.confirmed_at),
            "granted_at": said.granted_at and wire.stamp(said.granted_at),
        },
        evidence={
            "notice_sha256": said.notice_hash,
            "notice_language": said.notice_language,
            "channel": said.channel,
            "evidence": said.evidence,
            "method": said.evidence_method,
        },
        state={"changed_by": said.changed_by, "reason": said.reason},
    )


def tenancy(view: TenancyView) -> Any:
    """One tenancy."""
    return dsi_pb2.Tenancy(
        tenancy_id=view.tenancy_id,
        effective_from=wire.stamp(view.effective_from),
        effective_to=view.effective_to and wire.stamp(view.effective_to),
    )
