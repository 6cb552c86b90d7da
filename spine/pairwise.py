"""What a party with pairwise identifiers is told: every field of every answer that it can get.

Two such parties that put together what they were told shall find no consumer again by it, but for
the readings. So such a party is told

- no name of a thing but its own identifier for it,
- no place in the log, nor anything that depends on one,
- no instant but those of half hours, and of its own calls, these by the second,
- nothing as it stood at an instant of its choice, which would tell all others by halving.

This is the table of it. A test walks the messages: a field that is not named here fails it, and
would be left empty; one of a request fails it too. `spine.services.pairwise` carries it out. What
is not hidden stands in docs/pairwise.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from spine.identifiers import Kind


class Treatment(StrEnum):
    """What is done with a field. Of a message, also what is in it is treated, unless withheld."""

    NAMED = "its own identifier"
    HANDED_BACK = "sealed, to be handed back"
    COMPARED = "sealed, to be compared"
    WITHHELD = "left empty"
    BY_SECOND = "cut to the second"
    BARE = "without what follows a /"
    SHUFFLED = "in the order of its own identifiers"
    JOINED = "runs that look alike made one"
    TOLD = "as it is"
    # Of a request only
    REFUSED = "refused if it is set"


class Rule(NamedTuple):
    """What is done with a field and why; `kind` where it is sealed."""

    treatment: Treatment
    why: str
    kind: Kind | None = None


COMMON, DSI, CONSUMERS = "spine.common.v1", "spine.dsi.v1", "spine.consumers.v1"
LEDGER, ASSETS, TIMESTAMP = "spine.ledger.v1", "spine.btm_assets.v1", "google.protobuf.Timestamp"

# Wherever they stand, unless the field itself is named below.
TYPES: Final = {
    f"{COMMON}.PositionToken": Rule(
        Treatment.HANDED_BACK, "says in which partition a meter is", Kind.POSITIONS
    ),
    f"{COMMON}.RecordRef": Rule(Treatment.WITHHELD, "a place in the log is the same to everybody"),
    f"{DSI}.Version": Rule(Treatment.WITHHELD, "a place in the log is the same to everybody"),
}


def _each(package: str, fields: str, rule: Rule) -> Iterator[tuple[str, Rule]]:
    return ((f"{package}.{field}", rule) for field in fields.split())


def _named(kind: Kind) -> Rule:
    return Rule(Treatment.NAMED, f"{kind}_…", kind)


def _told(why: str) -> Rule:
    return Rule(Treatment.TOLD, why)


def _withheld(why: str) -> Rule:
    return Rule(Treatment.WITHHELD, why)


_READINGS: Final = _told("a reading, or why there is none")
_OWN: Final = _told("what the party itself said, or is")
_FEW: Final = _told("one of few values")
_SAME: Final = _told("the same to everybody, whatever the meter")
_COUNT: Final = _told("counts within this consent, call or answer")
_INSTANT: Final = _withheld("when something happened to a consumer is the same to everybody")
_OWN_TIME: Final = Rule(
    Treatment.BY_SECOND, "when the party itself called; finer, it is of a record"
)
_DIGEST: Final = Rule(Treatment.COMPARED, "the same answer has the same digest", Kind.DIGEST)
_CURSOR: Final = Rule(Treatment.HANDED_BACK, "holds places in the log", Kind.CURSOR)
_LIST: Final = Rule(Treatment.SHUFFLED, "the order of MPxNs is the same to everybody")
_MANY: Final = _withheld("of several meters: its length says how many partitions they are in")
_ASKED: Final = _told("what the party asks for, in words of its own")
_SHAPE: Final = _told("how the answer is to be written")
_TERMS: Final = _told("what the party itself proposes to a consumer")
_AS_OF: Final = Rule(
    Treatment.REFUSED, "asked of one instant after another, it tells when something happened"
)
_THING: Final = _withheld("a maker's, network's or register's word for one thing in the world")

FIELDS: Final[dict[str, Rule]] = dict(
    [
        # The DSI
        *_each(
            DSI,
            "StreamReadingsResponse.mpxn MeteringPoint.mpxn Asset.mpxn GetReadingsRequest.mpxn"
            " StreamReadingsRequest.mpxns GetMeteringPointRequest.mpxn ListConsentsRequest.mpxn"
            " ListTenanciesRequest.mpxn ListAssetsRequest.mpxn GetAssetRequest.mpxn"
            " AccessQuestion.mpxn MemberChunk.mpxn",
            _named(Kind.METER),
        ),
        *_each(
            DSI,
            "Decision.consent_id Consent.consent_id AccessAdvice.consent_id"
            " GetReadingsRequest.consent_id GetMeteringPointRequest.consent_id"
            " ListAssetsRequest.consent_id GetAssetRequest.consent_id",
            _named(Kind.CONSENT),
        ),
        *_each(DSI, "Tenancy.tenancy_id", _named(Kind.TENANCY)),
        *_each(DSI, "Asset.asset_id GetAssetRequest.asset_id", _named(Kind.ASSET)),
        *_each(DSI, "GetReadingsResponse.next_cursor GetReadingsRequest.cursor", _CURSOR),
        *_each(
            DSI,
            "GetReadingsResponse.digest StreamReadingsResponse.digest"
            " GetMeteringPointResponse.digest ListConsentsResponse.digest"
            " ListTenanciesResponse.digest ListAssetsResponse.digest GetAssetResponse.digest"
            " MemberChunk.digest",
            _DIGEST,
        ),
        *_each(
            DSI,
            "HalfHour.start HalfHour.value_wh HalfHour.absent HalfHour.quality"
            " HalfHourColumns.start HalfHourColumns.values_wh"
            " HalfHourRun.half_hours HalfHourRun.absent HalfHourRun.quality",
            _READINGS,
        ),
        *_each(
            DSI,
            "HalfHourColumns.runs",
            Rule(Treatment.JOINED, "where one batch ends and the next begins"),
        ),
        *_each(
            DSI,
            "Decision.partition Decision.offset Decision.entry",
            _withheld("a place in the log; all reads of a meter are in one partition"),
        ),
        *_each(DSI, "CheckAccessResponse.as_of", _MANY),
        *_each(CONSUMERS, "ConsentResponse.positions", _MANY),
        *_each(DSI, "Decision.request_id", _told("random, fresh for every read")),
        *_each(DSI, "Decision.decided_at", _OWN_TIME),
        *_each(
            DSI,
            "Decision.consent_version StreamReadingsResponse.chunk Consent.version"
            " MemberChunk.chunk",
            _COUNT,
        ),
        *_each(
            DSI, "Decision.policy_version Coordinator.organisation Coordinator.appointment", _SAME
        ),
        *_each(
            DSI,
            "StreamReadingsResponse.interval_complete StreamReadingsResponse.refused"
            " MeteringPoint.fuel MeteringPoint.gsp_group MeteringPoint.energy_direction"
            " MeteringPoint.measurement_quantity MeteringPoint.supplier"
            " Consent.state Consent.purpose Consent.categories"
            " Asset.state Asset.verification_level"
            " AccessAdvice.would_permit AccessAdvice.reason AccessAdvice.rule"
            " MemberChunk.interval_complete MemberChunk.refused",
            _FEW,
        ),
        *_each(DSI, "Consent.data_user", _OWN),
        *_each(
            DSI,
            "GetReadingsRequest.as_of_known StreamReadingsRequest.as_of_known"
            " GetMeteringPointRequest.as_of_valid GetMeteringPointRequest.as_of_known"
            " ListConsentsRequest.as_of_valid ListConsentsRequest.as_of_known"
            " ListTenanciesRequest.as_of_valid ListTenanciesRequest.as_of_known"
            " ListAssetsRequest.as_of_valid ListAssetsRequest.as_of_known"
            " GetAssetRequest.as_of_valid GetAssetRequest.as_of_known",
            _AS_OF,
        ),
        *_each(
            DSI,
            "GetReadingsRequest.purpose GetReadingsRequest.basis GetReadingsRequest.category"
            " GetReadingsRequest.measurement_quantity StreamReadingsRequest.purpose"
            " StreamReadingsRequest.basis StreamReadingsRequest.category"
            " StreamReadingsRequest.measurement_quantity StreamReadingsRequest.follow"
            " GetMeteringPointRequest.purpose GetMeteringPointRequest.basis"
            " ListConsentsRequest.purpose ListConsentsRequest.basis"
            " ListTenanciesRequest.purpose ListTenanciesRequest.basis"
            " ListAssetsRequest.purpose ListAssetsRequest.basis"
            " GetAssetRequest.purpose GetAssetRequest.basis"
            " AccessQuestion.data_user AccessQuestion.purpose AccessQuestion.category",
            _ASKED,
        ),
        *_each(
            DSI,
            "GetReadingsRequest.page_size GetReadingsRequest.in_columns"
            " StreamReadingsRequest.in_columns StreamReadingsRequest.members_per_message",
            _SHAPE,
        ),
        # The record of a consent
        *_each(
            DSI,
            "RecordSubject.relation RecordSubject.authentication_level"
            " RecordSubject.authentication_method RecordScope.granularity"
            " RecordPurpose.onward_sharing RecordPurpose.details RecordParties.tier"
            " RecordEvidence.method RecordState.changed_by",
            _FEW,
        ),
        *_each(DSI, "RecordHeader.version", _COUNT),
        *_each(DSI, "RecordHeader.schema", _SAME),
        *_each(
            DSI,
            "RecordHeader.created_at RecordTimes.data_from RecordTimes.confirmed_at"
            " RecordTimes.granted_at",
            _INSTANT,
        ),
        *_each(
            DSI,
            "RecordHeader.previous RecordHeader.hash RecordSubject.consumer_ref RecordScope.uprn"
            " RecordPurpose.recipients RecordParties.holders RecordEvidence.notice_sha256"
            " RecordEvidence.evidence",
            _withheld("says who the consumer is, or is of what it gave to this party and others"),
        ),
        *_each(
            DSI,
            "RecordParties.processor RecordEvidence.notice_language RecordEvidence.channel"
            " RecordState.reason",
            _withheld("in words of whoever recorded it, who may say the same of nobody else"),
        ),
        *_each(
            DSI,
            "MeteringPoint.registered_from MeteringPoint.effective_to Consent.history_from"
            " Consent.valid_from Consent.expires Consent.changed_at"
            " Tenancy.effective_from Tenancy.effective_to Asset.verified_at",
            _INSTANT,
        ),
        *_each(
            DSI,
            "ListConsentsResponse.consents ListTenanciesResponse.tenancies"
            " ListAssetsResponse.assets",
            _LIST,
        ),
        *_each(
            DSI,
            "Asset.specification Asset.connection Asset.owner Asset.operator Asset.registration"
            " Asset.operational Asset.links",
            _THING,
        ),
        *_each(ASSETS, "Kind.asset_class", _FEW),
        *_each(ASSETS, "Kind.energy_source Kind.conversion_technology", _THING),
        # The consumers coordinator
        *_each(
            CONSUMERS,
            "Leg.mpxn ChangeTold.mpxn Deletion.mpxn RequestConsentRequest.mpxns"
            " WithdrawConsentRequest.mpxns AcknowledgeChangeRequest.mpxn"
            " ConfirmDeletionRequest.mpxn ListDeletionsRequest.only_mpxn",
            _named(Kind.METER),
        ),
        *_each(
            CONSUMERS,
            "ConsentResponse.consent_id ChangeTold.consent_id Deletion.consent_id"
            " RequestConsentRequest.consent_id WithdrawConsentRequest.consent_id"
            " ConfirmDeletionRequest.consent_id",
            _named(Kind.CONSENT),
        ),
        *_each(
            CONSUMERS,
            "ChangeTold.change_id AcknowledgeChangeRequest.change_id",
            _named(Kind.CHANGE),
        ),
        *_each(
            CONSUMERS,
            "CommandResponse.replayed ConsentResponse.replayed AcknowledgeChangeResponse.replayed"
            " Leg.state Leg.refused Leg.reads_refused ChangeTold.state ChangeTold.overdue"
            " ListChangesResponse.more ListDeletionsResponse.more Deletion.purpose Deletion.overdue"
            " GetWebhookResponse.last_outcome",
            _FEW,
        ),
        *_each(CONSUMERS, "Leg.version ChangeTold.version ChangeTold.times", _COUNT),
        *_each(CONSUMERS, "ChangeTold.since Deletion.since Deletion.due", _INSTANT),
        *_each(CONSUMERS, "Deletion.confirmed_at GetWebhookResponse.last_sent", _OWN_TIME),
        *_each(CONSUMERS, "Deletion.data_user GetWebhookResponse.url", _OWN),
        *_each(CONSUMERS, "GetWebhookResponse.public_key", _SAME),
        *_each(CONSUMERS, "ListChangesResponse.changes ListDeletionsResponse.deletions", _LIST),
        *_each(
            CONSUMERS,
            "Leg.receipt Leg.opens Leg.shuts",
            _withheld("for the consumer, and names the meter"),
        ),
        *_each(
            CONSUMERS,
            "RequestConsentRequest.data_user RequestConsentRequest.answer_by Terms.purpose"
            " Terms.categories Terms.history_from Terms.valid_from Terms.expires Notice.text"
            " Notice.language Notice.channel Notice.evidence RecordTerms.relation"
            " RecordTerms.authentication_level RecordTerms.authentication_method RecordTerms.uprn"
            " RecordTerms.granularity RecordTerms.onward_sharing RecordTerms.recipients"
            " RecordTerms.processor RecordTerms.evidence_method RecordTerms.purpose_text"
            " RecordTerms.account_reference RecordTerms.evidence_id",
            _TERMS,
        ),
        *_each(
            CONSUMERS,
            "RequestConsentRequest.idempotency_key WithdrawConsentRequest.idempotency_key"
            " WithdrawConsentRequest.reason ConfirmDeletionRequest.idempotency_key"
            " SetWebhookRequest.idempotency_key SetWebhookRequest.url"
            " RemoveWebhookRequest.idempotency_key ListChangesRequest.overdue"
            " ListDeletionsRequest.overdue",
            _ASKED,
        ),
        # The ledger
        *_each(LEDGER, "ListReadsRequest.mpxn", _named(Kind.METER)),
        *_each(LEDGER, "Read.consent_id", _named(Kind.CONSENT)),
        *_each(LEDGER, "ListReadsResponse.next_cursor ListReadsRequest.cursor", _CURSOR),
        *_each(
            LEDGER,
            "ListReadsRequest.with_proofs",
            Rule(Treatment.REFUSED, "a proof shows signed bytes, which name the meter"),
        ),
        *_each(LEDGER, "Read.proof", _withheld("signed bytes name the meter")),
        *_each(LEDGER, "Read.request_id", _told("random, fresh for every read")),
        *_each(LEDGER, "Read.at ListReadsRequest.since", _OWN_TIME),
        *_each(LEDGER, "ListReadsRequest.page_size", _SHAPE),
        *_each(
            LEDGER, "Read.method", Rule(Treatment.BARE, "of one asset, its id follows the method")
        ),
        *_each(LEDGER, "Read.party Read.role Read.purpose Read.basis Read.category", _OWN),
        *_each(COMMON, "Interval.start Interval.end", _OWN),
        *_each(LEDGER, "Read.permitted Read.refused Read.release", _FEW),
        *_each(LEDGER, "Read.consent_version Read.metering_points", _COUNT),
        *_each(LEDGER, "Read.rows", _told("how many half hours were read")),
    ]
)

# Methods whose messages are treated so.
TREATED: Final = frozenset(
    f"{service}/{method}"
    for service, methods in {
        f"{DSI}.Dsi": "GetReadings StreamReadings GetMeteringPoint ListConsents ListTenancies"
        " ListAssets GetAsset CheckAccess",
        f"{CONSUMERS}.Consumers": "RequestConsent WithdrawConsent",
        f"{CONSUMERS}.Changes": "FollowChanges AcknowledgeChange ListChanges",
        f"{CONSUMERS}.Webhooks": "SetWebhook RemoveWebhook GetWebhook",
        f"{CONSUMERS}.Deletions": "ConfirmDeletion ListDeletions",
        f"{LEDGER}.Ledger": "ListReads",
    }.items()
    for method in methods.split()
)

# Methods that answer everybody the same, of no meter and no consumer: they answer as they are.
SAME_TO_EVERYBODY: Final = frozenset(
    {
        "spine.shared_trust.v1.SharedTrust/DescribeTrust",
        "spine.shared_trust.v1.SharedTrust/JudgeAccreditations",
        "spine.governance.v1.Governance/ListParticipants",
        "spine.governance.v1.Governance/GetEquivalenceTable",
        "spine.metering.v1.Aggregates/ListAggregates",
        "spine.reference.v1.Reference/ListCodeLists",
        "spine.reference.v1.Reference/ListCodes",
        "spine.reference.v1.Reference/GetCode",
    }
)

# Methods of a data user that such a party is refused (IDENTIFIERS_PAIRWISE), and why. So is every
# method that is not named here: what is new is refused until somebody has looked at it.
REFUSED: Final = {
    "spine.shared_trust.v1.ConsentTokens/IssueConsentToken": "a token is signed and names meters",
    "spine.shared_trust.v1.SharedTrust/CheckConsentToken": "a token is signed and names meters",
    f"{LEDGER}.Ledger/GetProvenance": "a provenance record is signed and names the meter",
    **{
        f"{ASSETS}.BtmAssets/{verb}Asset": "an asset has the id under which all say things of it"
        for verb in ("Declare", "Verify", "Activate", "Suspend", "Link", "Unlink")
    },
}
