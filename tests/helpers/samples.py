"""One fixed value of every released schema: what `tests/golden/values.json` keeps the bytes of."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime
from typing import Final

from domains.btm_assets import events as assets
from domains.consumers import events as consumers
from domains.consumers.changes import ChangeAcknowledged
from domains.consumers.commands import ConsentTerms
from domains.consumers.deletions import DeletionConfirmed
from domains.consumers.erasure import SubjectErased, SubjectRestricted
from domains.consumers.fan_out import FanOutCompleted, FanOutOrdered
from domains.consumers.record import RecordTerms
from domains.consumers.tightenings import TighteningOrdered
from domains.consumers.webhooks import WebhookRemoved, WebhookSet
from domains.governance import holds
from domains.metering.events import (
    MeterCommunicationLost,
    MeterCommunicationRestored,
    MeteringPointDeregistered,
    MeteringPointRegistered,
)
from domains.metering.gas import Conversion
from domains.metering.readings import GasVolumeBatch, ReadingsBatch, as_volumes
from domains.metering.withdrawals import ReadingsWithdrawn, withdrawal
from spine import event, trust
from spine.answer import Absent, HalfHour, Recorded
from spine.codelist import Attribute, CodeListed, CodeWithdrawn
from spine.gb import HALF_HOUR, Interval
from spine.ledger.note import PublishedHead
from spine.policy_data import POLICY_DATA_V1, data_hash
from tests.helpers.aggregates import published

METER: Final = "1200000000003"
OLD_DAY: Final = 20_240  # 2025-06-01


def at(month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    """An instant of 2026, UTC."""
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


SEALED = event.Sealed("k-1", bytes(range(12)), b"sealed and unread", "consumers/t-1")
TERMS = ConsentTerms(
    "adviser",
    "c-1",
    "ENERGY_ADVICE",
    ("HH_CONSUMPTION", "TARIFF"),
    at(1, 1),
    at(2, 1),
    at(12, 31, 23, 59),
    b"\x11" * 32,
    "cy-GB",
    SEALED,
)
REQUEST = event.AccessRequest(
    bytes(range(16)),
    "adviser",
    "data_user",
    b"\x22" * 32,
    "dsi-2",
    "GetReadings",
    "ENERGY_ADVICE",
    "CONSENT",
    "HH_CONSUMPTION",
    "AI",
    "consent-1",
    (METER, "1200000000005"),
    at(6, 1),
    at(6, 2),
    at(6, 3, 4, 5),
    None,
    0,
)


ASSET: Final = "urn:energyos:asset:01JZ0000000000000000000001"
DETAILS: Final = assets.Details(
    assets.Kind("BATTERY", "Stored energy", "Electrochemical"),
    assets.Specification(
        "Maker", "M-1", "S-1", "1.2", 5_000, 5_000, 13_500, 900, 1, 5_000, "MAKER/00001/V1", 2021
    ),
    assets.Connection(METER, "NOT_APPLICABLE", "G98", 3_680, 230, "Primary", "Grid", "_K"),
    assets.Ownership("c-1", "adviser", "consent-1"),
    assets.Registration("ECR", "R-1", "distributor", at(2, 3)),
    assets.Operational(2_000, None, "inverter"),
)


def readings_batch(mpxn: str, partition: int, first_wh: int = 100) -> ReadingsBatch:
    """One meter-day, its last half hour absent and one value estimated."""
    values = [first_wh + i for i in range(47)] + [0]
    return ReadingsBatch(
        trust.READINGS_TOPIC,
        partition,
        bytes(range(16)),
        "agent-1",
        "file-7",
        b"\x33" * 32,
        3,
        5,
        "AI",
        "Wh",
        1,
        mpxn.encode(),
        struct.pack("<i", OLD_DAY),
        b"\xff\xff\xff\xff\xff\x7f",
        struct.pack("<48i", *values),
        bytes([0, 1] + [0] * 46),
        ("A", "E"),
    )


def gas_batch(mprn: str, partition: int, first_dm3: int = 100) -> GasVolumeBatch:
    """The same of a gas meter, in dm3 of 39.5 MJ/m3."""
    batch = readings_batch(mprn.ljust(13, "\0"), partition, first_dm3)
    return as_volumes(batch, batch.values, Conversion(39_500))


def withdrawn(
    mpxn: str, partition: int, first: int = 0, end: int = 48, reference: str = "withdrawal key-1"
) -> ReadingsWithdrawn:
    """Half hours [first, end) of the same day, withdrawn."""
    midnight = datetime(2025, 6, 1, tzinfo=UTC)
    return withdrawal(
        mpxn,
        "AI",
        Interval(midnight + HALF_HOUR * first, midnight + HALF_HOUR * end),
        partition=partition,
        sender="agent-1",
        sender_reference=reference,
        reason="WRONG_METER",
        registration_position=3,
        consumer_log_position=5,
    )


_TERMS_OF_CONSENT = (
    "consent-1",
    "adviser",
    "t-1",
    "c-1",
    "ENERGY_ADVICE",
    ("HH_CONSUMPTION", "TARIFF"),
    at(1, 1),
    at(2, 1),
    at(12, 31),
)

# In the order of the released ids. A null is chosen here and a value there, so both are kept.
VALUES: Final[dict[str, object]] = {
    "spine/Opening/1": event.Opening(1, 4, b"\x44" * 32, at(1, 1), bytes(range(16))),
    "spine/Facts/1": event.Facts(
        "consumers.events.v1",
        3,
        (
            event.Command(
                bytes(range(16)),
                METER,
                b"\x55" * 32,
                -1,
                -1,
                "consent_service/portal",
                (event.Fact("consumers.TenancyEnded", at(3, 4, 5, 6), b"\x00\x00\x00\x00\xd8x"),),
            ),
            event.Command(bytes(16), "1200000000005", bytes(32), 1 << 40, 199, "", ()),
        ),
    ),
    "spine/GovernanceCopy/1": event.GovernanceCopy(
        "governance.events.v1",
        0,
        7,
        1_767_225_600_123,
        5,
        b"party:adviser",
        (event.Header("t", b"f"), event.Header("sig", b"\x66" * 64)),
        b"\x00\x00\x00\x00\x02",
    ),
    "spine/AccessRequests/1": event.AccessRequests(
        "consumers.events.v1",
        3,
        "dsi-1",
        b"\x77" * 32,
        ((event.DataPosition("metering.readings.v1", 3, 42),), ()),
        (REQUEST,),
    ),
    "spine/AccessOutcomes/1": event.AccessOutcomes(
        "access.outcomes.v1",
        3,
        "dsi-1",
        (
            event.AccessOutcome(
                bytes(range(16)),
                3,
                17,
                0,
                METER,
                2,
                "PERMIT",
                "",
                "RELEASED",
                "",
                "consent-1",
                1,
                1,
                1,
                b"\x88" * 32,
                "2026a",
                48,
                b"\x99" * 32,
                (event.AbsentRun(at(6, 1, 23, 30), 1, "NEVER_RECORDED"),),
            ),
        ),
    ),
    "spine/Quarantined/1": event.Quarantined(
        "metering.readings.v1",
        3,
        9,
        0,
        1_767_225_600_123,
        "READINGS_MALFORMED",
        None,
        (event.Header("t", b"r"),),
        b"junk",
    ),
    "spine/PublishedHead/1": PublishedHead("origin\n1\nroot\n\n\u2014 origin sig\n"),
    "spine/Settled/1": event.Settled(
        "metering.readings.v1",
        3,
        17,
        0,
        "REDRIVEN",
        "governance/board",
        "KEY_SPREAD",
        3,
        21,
        at(4, 5),
    ),
    "governance/AccreditationGranted/1": trust.AccreditationGranted(
        "data_user", "REC", "other user", ("ENERGY_ADVICE",), at(1, 1), None
    ),
    "governance/AccreditationWithdrawn/1": trust.AccreditationWithdrawn("data_user", "REC"),
    "governance/ParticipantAdmitted/1": trust.ParticipantAdmitted("Cyngor Ynni Cyf"),
    "governance/ParticipantReinstated/1": trust.ParticipantReinstated("assured again"),
    "governance/ParticipantSuspended/1": trust.ParticipantSuspended("assurance lapsed"),
    "governance/PolicyVersionAdopted/1": trust.PolicyVersionAdopted(1, data_hash(POLICY_DATA_V1)),
    "governance/SigningKeyAuthorised/1": trust.SigningKeyAuthorised(b"\xaa" * 32, "dsi", "dsi-1"),
    "governance/SigningKeyRevoked/1": trust.SigningKeyRevoked("rotated"),
    "governance/EquivalenceTableAdopted/1": trust.EquivalenceTableAdopted(
        3, (trust.EquivalenceRow("CCS", "2", "ENERGY_ADVICE", "DSI", "", "ENERGY_ADVICE"),)
    ),
    "governance/IdentifiersSet/1": trust.IdentifiersSet("PAIRWISE", "NO_NEED_OF_MPXN"),
    "governance/PartyHeld/1": holds.PartyHeld(
        1, "READS", 1_000_001, 1_000_000, "dsi/dsi-1", at(4, 5)
    ),
    "governance/PartyReleased/1": holds.PartyReleased(1, at(4, 6)),
    "governance/ReleaseApproved/1": holds.ReleaseApproved(1, "alice", "LOOKED_INTO", at(4, 6)),
    "consumers/AgentAppointed/1": consumers.AgentAppointed("agent-1", "data_service", at(1, 1)),
    "consumers/AgentAppointmentEnded/1": consumers.AgentAppointmentEnded(
        "agent-1", "data_service", at(9, 1)
    ),
    "consumers/ChangeAcknowledged/1": ChangeAcknowledged(
        "user-1", METER, "consent-1", 2, "REVOKED", at(5, 1)
    ),
    "consumers/ConsentDeclined/1": consumers.ConsentDeclined("consent-1", at(5, 1)),
    "consumers/ConsentGranted/1": consumers.ConsentGranted(
        *_TERMS_OF_CONSENT, at(5, 1), b"\xbb" * 32, "en-GB", SEALED, "web", "evidence-1"
    ),
    "consumers/ConsentLapsed/1": consumers.ConsentLapsed("consent-1", at(5, 1)),
    "consumers/ConsentNarrowed/1": consumers.ConsentNarrowed(
        "consent-1", 2, ("HH_CONSUMPTION",), at(2, 1), at(11, 30), at(5, 1)
    ),
    "consumers/ConsentRequested/1": consumers.ConsentRequested(
        *_TERMS_OF_CONSENT, at(5, 15), at(5, 1)
    ),
    "consumers/ConsentResumed/1": consumers.ConsentResumed("consent-1", at(5, 1)),
    "consumers/ConsentRevoked/1": consumers.ConsentRevoked("consent-1", at(5, 1)),
    "consumers/ConsentSuspended/1": consumers.ConsentSuspended(
        "consent-1", "consumer", "away for a while", at(5, 1)
    ),
    "consumers/ConsentTermsRecorded/1": consumers.ConsentTermsRecorded(
        "consent-1",
        RecordTerms(
            "ACCOUNT_HOLDER",
            "SUBSTANTIAL",
            "LOGIN",
            "100012345678",
            "DAY",
            True,
            ("partner",),
            "processor-1",
            "REC other user",
            "CIN",
            SEALED,
            b"\xcc" * 32,
        ),
        at(5, 1),
    ),
    "consumers/ConsentWithdrawn/1": consumers.ConsentWithdrawn("consent-1", at(5, 1)),
    "consumers/DeletionConfirmed/1": DeletionConfirmed("user-1", METER, "consent-1", at(6, 1)),
    "consumers/FanOutCompleted/1": FanOutCompleted(1, "GRANT", at(5, 1)),
    "consumers/FanOutOrdered/1": FanOutOrdered(
        1,
        "consent-1",
        "GRANT",
        (METER, "1200000000001"),
        TERMS,
        at(5, 15),
        "web",
        "evidence-1",
        "",
        "consent_service",
        "portal",
        at(5, 1),
    ),
    "consumers/SubjectErased/1": SubjectErased(at(5, 1)),
    "consumers/SubjectRestricted/1": SubjectRestricted("TAX_RECORDS", at(9, 1), at(5, 1)),
    "consumers/SupplyEnded/1": consumers.SupplyEnded("supplier-1", at(8, 1)),
    "consumers/SupplyStarted/1": consumers.SupplyStarted("supplier-1", at(1, 1)),
    "consumers/TenancyEnded/1": consumers.TenancyEnded("t-1", at(8, 1)),
    "consumers/TenancyStarted/1": consumers.TenancyStarted("t-1", "c-1", at(1, 1), SEALED),
    "consumers/TighteningOrdered/1": TighteningOrdered(
        2,
        "consent-1",
        "NARROW",
        (METER,),
        ("TARIFF",),
        at(4, 1),
        None,
        "",
        "CONSUMER",
        "c-1",
        at(5, 1),
    ),
    "consumers/UseAllowed/1": consumers.UseAllowed(
        "LEGAL_OBLIGATION", "SETTLEMENT", "t-1", at(7, 1)
    ),
    "consumers/UseObjected/1": consumers.UseObjected(
        "LEGAL_OBLIGATION", "SETTLEMENT", "t-1", at(6, 1)
    ),
    "consumers/WebhookRemoved/1": WebhookRemoved("user-1", "data_user", "GONE", at(6, 1)),
    "consumers/WebhookSet/1": WebhookSet(
        "user-1", "data_user", "https://user-1.example/changes", at(5, 1)
    ),
    "metering/MeteringPointDeregistered/1": MeteringPointDeregistered(at(9, 1), at(8, 1)),
    "metering/MeteringPointRegistered/1": MeteringPointRegistered(
        "ELECTRICITY", "_K", "IMPORT", "AI", at(1, 1), at(1, 2)
    ),
    "metering/ReadingsBatch/1": readings_batch(METER, 3),
    "metering/GasVolumeBatch/1": gas_batch("3938424403", 2),
    "metering/MeterCommunicationLost/1": MeterCommunicationLost(at(5, 1), at(5, 2)),
    "metering/MeterCommunicationRestored/1": MeterCommunicationRestored(at(5, 3), at(5, 4)),
    "metering/ReadingsWithdrawn/1": withdrawn(METER, 3, 2, 47),
    "metering/AggregatesPublished/1": published(),
    "btm_assets/AssetActivated/1": assets.AssetActivated(ASSET, at(3, 1)),
    "btm_assets/AssetDeclared/1": assets.AssetDeclared(ASSET, DETAILS, "adviser", at(3, 1)),
    "btm_assets/AssetDecommissioned/1": assets.AssetDecommissioned(ASSET, "replaced", at(3, 1)),
    "btm_assets/AssetLinked/1": assets.AssetLinked(
        ASSET, assets.Link("UPRN", "100012345678", "adviser", at(2, 1), None), at(3, 1)
    ),
    "btm_assets/AssetRejected/1": assets.AssetRejected(ASSET, "not there", at(3, 1)),
    "btm_assets/AssetSuspended/1": assets.AssetSuspended(ASSET, "governance", "inquiry", at(3, 1)),
    "btm_assets/AssetTransferred/1": assets.AssetTransferred(
        ASSET, "c-2", "adviser", "consent-2", at(4, 1), at(3, 1)
    ),
    "btm_assets/AssetUnlinked/1": assets.AssetUnlinked(
        ASSET, "UPRN", "100012345678", at(4, 1), at(3, 1)
    ),
    "btm_assets/AssetVerified/1": assets.AssetVerified(ASSET, "INSPECTION", "registrar", at(3, 1)),
    "reference/CodeListed/1": CodeListed(
        "distributors",
        "10",
        "Eastern",
        (Attribute("gsp_group", "_A"), Attribute("kind", "HOST")),
        date(2026, 1, 1),
        date(2026, 4, 1),
        "a document",
        "OGL-UK-3.0",
    ),
    "reference/CodeWithdrawn/1": CodeWithdrawn("distributors", "99", date(2026, 1, 1), "a slip"),
}

HALF_HOURS: Final = (
    HalfHour(METER, at(6, 1), Recorded(123, "A", 9, 0)),
    HalfHour(METER, at(6, 1, 0, 30), Recorded(0, "", 1 << 40, 499)),
    HalfHour(METER, at(6, 1, 1), None, Absent.NEVER_RECORDED),
    HalfHour(METER, at(6, 1, 1, 30), None, Absent.CONSENT_DOES_NOT_COVER),
)
