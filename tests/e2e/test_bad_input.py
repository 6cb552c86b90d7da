"""Bad input to every method of every service: a stable reason, nothing recorded, nothing stuck.

The methods are those of the descriptors, so that none can be forgotten: `CASES` must name each. For
each, what any method refuses (no message, no deadline, no key, no meter) is made from its request,
and what only this one refuses stands in the table. Then the good request passes, on whose effect
the later ones of its service rest: the cases of a service are a story, told in order.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from spine import trust
from spine.common.v1 import common_pb2
from spine.console import context
from spine.console.client import stamp
from spine.log import LogReader, partition_counts
from spine.murmur2 import murmur2_partition
from spine.policy import Role
from spine.policy_data import POLICY_DATA, data_hash
from spine.server import connect_sync, error_from
from spine.whereabouts import service_target
from tests.e2e.conftest import SINCE, Installation, audit, grant

ROOT = Path(__file__).parents[2]
PROCESS: Final = {
    "Governance": "governance",
    "Consumers": "consumers",
    "Erasures": "consumers",
    "Changes": "consumers",
    "Webhooks": "consumers",
    "Deletions": "consumers",
    "Metering": "metering",
    "Aggregates": "metering",
    "BtmAssets": "assets",
    "Dsi": "dsi",
    "Ledger": "ledger",
    "Members": "dsi",
    "Quarantined": "readings",
    "Seals": "consumers",
    "SharedTrust": "dsi",
    "ConsentTokens": "consumers",
    "Reference": "metering",
    "Operations": "metering",
}
# A meter for each story, and one that nobody knows.
MPAN, METERED, BEHIND = "1200000000207", "1200000000216", "1200000000225"
HOME, BULKY, UNKNOWN = "1200000000234", "1200000000252", "1200000000243"
ASSET, OTHER = (f"urn:energyos:asset:01JZ000000000000000000BAD{n}" for n in (1, 2))
BOARD, PORTAL = "governance-board", "consent-service"
SERVER = "server-dsi"
SUPPLIER, ADVISER, STRANGER = "bad-supply", "bad-advice", "bad-stranger"
NOW = datetime.now(UTC).replace(microsecond=0)
FROM, SOON, LATER = stamp(SINCE), stamp(NOW + timedelta(days=1)), stamp(NOW + timedelta(days=9))
NEVER, YEAR_ONE = Timestamp(seconds=10**15), Timestamp(seconds=-62_135_596_800)
WEEK = {"start": stamp(SINCE), "end": stamp(SINCE + timedelta(days=7))}
# Appended to by what is no command: requests for data, and what became of them.
READS_APPEND_TO = (trust.CONSUMER_LOG, trust.OUTCOMES_TOPIC)
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Bad:
    """A request that is refused for a reason: the good one with these fields, or from somebody."""

    reason: str
    fields: dict[str, Any]
    by: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """A request that passes, who sends it, and what is wrong with others like it.

    Where the whole installation has nothing that it could be about, `passes` is False: then it is
    only what the wrong ones are made from.
    """

    by: str
    good: dict[str, Any]
    bad: tuple[Bad, ...] = ()
    passes: bool = True


def bad(because: str, /, by: str = "", **fields: Any) -> Bad:
    return Bad(because, fields, by)


TERMS: Final = {
    "purpose": "ENERGY_ADVICE",
    "categories": ["HH_CONSUMPTION", "ASSET"],
    "history_from": FROM,
    "valid_from": FROM,
    "expires": LATER,
}
READ: Final = {"mpxn": HOME, "purpose": "ENERGY_ADVICE", "basis": "CONSENT"}
QUESTION: Final = {"mpxn": HOME, "data_user": ADVISER, "purpose": "ENERGY_ADVICE"}
AT_METER: Final = {"mpxn": BEHIND, "asset_id": ASSET}
AGENT: Final = {"mpxn": MPAN, "agent": "agent-1", "agent_role": "data_service"}
NEWEST: Final = max(POLICY_DATA)
USE: Final = {
    "mpxn": MPAN,
    "basis": "OPT_OUT",
    "purpose": "BILLING",
    "consumer_ref": "c-bad",
}
SUPPLY: Final = {"mpxn": BULKY, "supplier": SUPPLIER, "effective_from": FROM}
POINT: Final = {"mpxn": METERED, "registered_from": FROM}
BULK: Final = {"idempotency_key": "bad-input-bulk"}
LINK: Final = {"scheme": "UPRN", "value": "1", "source": "x", "effective_from": FROM}
HEADER: Final = {
    "sender_reference": "bad-input",
    "source_digest": bytes(32),
    "measurement_quantity": "AI",
    "quality_codes": ["A"],
}
CODE: Final = {
    "code": "_C",
    "label": "London",
    "attributes": [],
    "effective_from": "1991-01-01",
    "effective_to": "1991-01-02",
    "source": "made up",
    "licence": "Apache-2.0",
}
ELSEWHERE: Final = common_pb2.PositionToken(
    log_id=bytes(32),
    positions=[common_pb2.Position(topic=trust.CONSUMER_LOG, partition=0, offset=1)],
)
TERMS_AT_FAULT: Final = (
    bad("CODE_UNKNOWN", terms=TERMS | {"purpose": "NOSINESS"}),
    bad("CODE_UNKNOWN", terms=TERMS | {"categories": ["DIARY"]}),
    bad("FIELD_MISSING", terms=TERMS | {"categories": []}),
    bad("FIELD_MISSING", terms=TERMS | {"history_from": None}),
    bad("TIME_INVALID", terms=TERMS | {"expires": NEVER}),
    bad("INTERVAL_INVALID", terms=TERMS | {"expires": FROM}),
)
READS_AT_FAULT: Final = (
    bad("PURPOSE_UNKNOWN", purpose="NOSINESS"),
    bad("FIELD_MISSING", purpose=""),
    bad("BASIS_UNKNOWN", basis="BECAUSE"),
    bad("BASIS_NOT_FOR_ROLE", basis="SUBJECT"),
    bad("POSITION_INVALID", at_least=ELSEWHERE),
    bad("NOT_PERMITTED", mpxn=UNKNOWN),
    bad("NOT_PERMITTED", by=STRANGER),
)
OWN: Final = {"mpxn": HOME, "purpose": "OWN_USE", "basis": "SUBJECT"}
LOGGED: Final = {"topic": trust.CONSUMER_LOG, "partition": 0, "offset": 0, "entry": 0}
PLACED: Final = {"place": "metering.events.v1-0-1-0", "reason": "MENDED"}
PLACES_AT_FAULT: Final = (
    bad("FIELD_INVALID", place="nowhere"),
    bad("QUARANTINE_UNKNOWN", place="metering.events.v1-0-999999-0"),
    bad("FIELD_INVALID", reason="because"),
    bad("FIELD_MISSING", reason=""),
    bad("ROLE_NOT_ALLOWED", by=ADVISER),
)
INTERVALS: Final = (
    bad("FIELD_MISSING", interval={}),
    bad("INTERVAL_INVALID", interval={"start": SOON, "end": FROM}),
    bad("TIME_INVALID", interval={"start": FROM, "end": NEVER}),
    bad("POSITION_INVALID", at_least=ELSEWHERE),
)
STRANGE_ASSET: Final = (
    bad("NOT_PERMITTED", mpxn=UNKNOWN),
    bad("NOT_PERMITTED", by=ADVISER),
    bad("ASSET_UNKNOWN", asset_id=f"{ASSET[:-1]}9"),
)
HOME_PARTITION = murmur2_partition(HOME.encode(), 4)
COLUMNS: Final = {"start": FROM, "values_wh": [1], "runs": [{"half_hours": 1}]}
KEY = bytes(range(32))
# By this the advisers, whom the DSI's scheme accredits, are given tokens.
EQUAL = {
    "from_scheme": "DSI",
    "from_tier": "1",
    "from_purpose": "ENERGY_ADVICE",
    "to_scheme": "CCS",
    "to_tier": "2",
    "to_purpose": "ENERGY_ADVICE",
}
GRANT = {"party": "bad-one", "role": "supplier", "scheme": "DSI", "effective_from": FROM}
FORGED = (
    bad("ROLE_NOT_ALLOWED", by=ADVISER),
    bad("FORWARD_INVALID"),
    bad("FORWARD_INVALID", passport=b"\xff", signature=bytes(64)),
)
CASES: Final[dict[str, dict[str, Case]]] = {
    "Erasures": {
        "EraseSubject": Case(
            PORTAL,
            {"consumer_ref": "c-bad-input"},
            (
                bad("FIELD_MISSING", consumer_ref=""),
                bad("FIELD_INVALID", consumer_ref="no reference"),
                bad("CODE_UNKNOWN", duty="HABIT", keep_until=LATER),
                bad("INTERVAL_INVALID", duty="TAX_RECORDS"),
                bad("INTERVAL_INVALID", duty="TAX_RECORDS", keep_until=FROM),
                bad("TIME_INVALID", duty="TAX_RECORDS", keep_until=NEVER),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
    },
    "Changes": {
        "FollowChanges": Case(ADVISER, {}, (bad("ROLE_NOT_ALLOWED", by=PORTAL),), passes=False),
        "AcknowledgeChange": Case(
            ADVISER,
            {"mpxn": HOME, "change_id": "0" * 32},
            (
                bad("FIELD_MISSING", change_id=""),
                bad("FIELD_INVALID", change_id="no change"),
                bad("CHANGE_UNKNOWN"),
                bad("CHANGE_UNKNOWN", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=PORTAL),
            ),
            passes=False,
        ),
        "ListChanges": Case(ADVISER, {}, (bad("ROLE_NOT_ALLOWED", by=PORTAL),)),
        "ListReceivers": Case(
            PORTAL,
            {},
            (bad("ROLE_NOT_ALLOWED", by=ADVISER), bad("FIELD_INVALID", after="no such party!")),
        ),
    },
    "Webhooks": {
        "SetWebhook": Case(
            ADVISER,
            {"url": "https://bad-advice.example/changes"},
            (
                bad("FIELD_MISSING", url=""),
                bad("FIELD_INVALID", url="http://bad-advice.example/changes"),
                bad("FIELD_INVALID", url="https://us:secret@bad-advice.example/"),
                bad("FIELD_INVALID", url="https://bad-advice.example/" + "x" * 2_048),
                bad("ROLE_NOT_ALLOWED", by=PORTAL),
            ),
        ),
        "GetWebhook": Case(ADVISER, {}, (bad("ROLE_NOT_ALLOWED", by=PORTAL),)),
        "RemoveWebhook": Case(ADVISER, {}, (bad("ROLE_NOT_ALLOWED", by=PORTAL),)),
    },
    "Deletions": {
        "ConfirmDeletion": Case(
            ADVISER,
            {"mpxn": HOME, "consent_id": "no-such-consent"},
            (
                bad("FIELD_MISSING", consent_id=""),
                bad("FIELD_INVALID", consent_id="no consent"),
                bad("CONSENT_UNKNOWN"),
                bad("CONSENT_UNKNOWN", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=PORTAL),
            ),
            passes=False,
        ),
        "ListDeletions": Case(
            ADVISER,
            {},
            (bad("MPXN_FORMAT", only_mpxn="12"), bad("ROLE_NOT_ALLOWED", by=PORTAL)),
        ),
        "ListDeletionsOwed": Case(PORTAL, {}, (bad("ROLE_NOT_ALLOWED", by=ADVISER),)),
    },
    "Governance": {
        "AdmitParticipant": Case(
            BOARD,
            {"party": "bad-one", "name": "Bad One"},
            (
                bad("FIELD_MISSING", party=""),
                bad("FIELD_INVALID", party="no party"),
                bad("FIELD_MISSING", name=""),
                bad("FIELD_INVALID", name="\x1b[2J"),
                bad("PARTICIPANT_EXISTS", party=ADVISER),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "GrantAccreditation": Case(
            BOARD,
            GRANT,
            (
                bad("CODE_UNKNOWN", role="janitor"),
                bad("CODE_UNKNOWN", role="consumer"),
                bad("CODE_UNKNOWN", purposes=["WORLD_PEACE"]),
                bad("FIELD_INVALID", scheme="free text"),
                bad("PARTICIPANT_UNKNOWN", party="nobody"),
                bad("ROLE_NOT_ALLOWED", by=SUPPLIER),
            ),
        ),
        "SuspendParticipant": Case(
            BOARD,
            {"party": "bad-one", "reason": "CHECK"},
            (
                bad("PARTICIPANT_UNKNOWN", party="nobody"),
                bad("FIELD_INVALID", reason="because"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "ReinstateParticipant": Case(
            BOARD,
            {"party": "bad-one", "reason": "CLEARED"},
            (
                bad("PARTICIPANT_UNKNOWN", party="nobody"),
                bad("FIELD_MISSING", reason=""),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "WithdrawAccreditation": Case(
            BOARD,
            {"party": "bad-one", "role": "supplier", "scheme": "DSI"},
            (
                bad("ACCREDITATION_UNKNOWN", role="auditor"),
                bad("PARTICIPANT_UNKNOWN", party="nobody"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "AuthoriseSigningKey": Case(
            BOARD,
            {"public_key": KEY, "role": "dsi", "holder": "dsi-9"},
            (
                bad("FIELD_INVALID", public_key=b"short"),
                bad("CODE_UNKNOWN", role="root"),
                bad("FIELD_MISSING", holder=""),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "RevokeSigningKey": Case(
            BOARD,
            {"key_id": trust.key_id(KEY), "reason": "RETIRED"},
            (
                bad("KEY_UNKNOWN", key_id=bytes(8)),
                bad("KEY_UNKNOWN", key_id=b"short"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "AdoptPolicyVersion": Case(
            BOARD,
            {"version": NEWEST, "data_hash": data_hash(POLICY_DATA[NEWEST])},
            (
                bad("FIELD_INVALID", data_hash=bytes(32)),
                bad("POLICY_VERSION_STATE", version=1, data_hash=data_hash(POLICY_DATA[1])),
                bad("POLICY_VERSION_STATE", version=99),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "AdoptEquivalenceTable": Case(
            BOARD,
            {"version": 1, "rows": [EQUAL]},
            (
                bad("EQUIVALENCE_STATE", version=99),
                bad("FIELD_INVALID", rows=[EQUAL, EQUAL]),
                bad("FIELD_INVALID", rows=[EQUAL | {"from_scheme": "free text"}]),
                bad("CODE_UNKNOWN", rows=[EQUAL | {"to_purpose": "WORLD_PEACE"}]),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "SetIdentifiers": Case(
            BOARD,
            {"party": "bad-one", "identifiers": "PAIRWISE", "ground": "NO_NEED_OF_MPXN"},
            (
                bad("FIELD_MISSING", party=""),
                bad("PARTICIPANT_UNKNOWN", party="nobody-knows"),
                bad("CODE_UNKNOWN", identifiers="UPRN"),
                bad("CODE_UNKNOWN", role="landlord"),
                bad("FIELD_INVALID", role="supplier"),
                bad("IDENTIFIERS_STATE", party="north-supply"),
                bad("FIELD_MISSING", ground=""),
                bad("FIELD_INVALID", ground="free text"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "GetEquivalenceTable": Case(BOARD, {}, (bad("POSITION_INVALID", at_least=ELSEWHERE),)),
        "HoldParty": Case(
            BOARD,
            {"party": "bad-one"},
            (
                bad("FIELD_MISSING", party=""),
                bad("FIELD_INVALID", kind="free text"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "ApproveRelease": Case(
            BOARD,
            {"party": "bad-one", "hold": 1, "reason": "CLEARED"},
            (
                bad("HOLD_UNKNOWN", hold=7),
                bad("HOLD_UNKNOWN", party=ADVISER),
                bad("FIELD_INVALID", reason="because"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "ListHolds": Case(BOARD, {}, (bad("ROLE_NOT_ALLOWED", by=ADVISER),)),
        "ListParticipants": Case(
            BOARD,
            {},
            (
                bad("FIELD_INVALID", page_size=-1),
                bad("CURSOR_INVALID", cursor="?"),
                bad("POSITION_INVALID", at_least=ELSEWHERE),
            ),
        ),
    },
    "Consumers": {
        "StartSupply": Case(
            PORTAL,
            {"mpxn": MPAN, "supplier": SUPPLIER, "effective_from": FROM},
            (bad("FIELD_MISSING", supplier=""), bad("ROLE_NOT_ALLOWED", by=ADVISER)),
        ),
        "StartTenancy": Case(
            PORTAL,
            {"mpxn": MPAN, "tenancy_id": "t-bad", "consumer_ref": "c-bad", "effective_from": FROM},
            (
                bad("FIELD_INVALID", tenancy_id="two words"),
                bad("FIELD_INVALID", person={"name": "x" * 300}),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "AppointAgent": Case(
            PORTAL,
            {
                "mpxn": MPAN,
                "agent": "agent-1",
                "agent_role": "data_service",
                "effective_from": FROM,
            },
            (
                bad("CODE_UNKNOWN", agent_role="janitor"),
                bad("FIELD_MISSING", agent=""),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "RequestConsent": Case(
            ADVISER,
            {"consent_id": "asked", "mpxns": [MPAN], "terms": TERMS, "answer_by": SOON},
            (*TERMS_AT_FAULT, bad("ROLE_NOT_ALLOWED", by=BOARD)),
        ),
        "DeclineConsent": Case(
            PORTAL,
            {"consent_id": "asked", "mpxns": [MPAN]},
            (
                bad("FIELD_INVALID", consent_id="two words"),
                bad("FIELD_MISSING", consent_id=""),
                bad("ROLE_NOT_ALLOWED", by=SUPPLIER),
            ),
        ),
        "GrantConsent": Case(
            PORTAL,
            {
                "consent_id": "given",
                "mpxns": [MPAN],
                "data_user": ADVISER,
                "consumer_ref": "c-bad",
                "terms": TERMS,
            },
            (
                *TERMS_AT_FAULT,
                bad("NOT_AN_OCCUPIER", consumer_ref="c-else"),
                bad("CONSENT_DECLINED", consent_id="asked"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "NarrowConsent": Case(
            PORTAL,
            {"consent_id": "given", "mpxns": [MPAN], "categories": ["HH_CONSUMPTION"]},
            (
                bad("CONSENT_WIDER", categories=["HH_CONSUMPTION", "TARIFF"]),
                bad("CONSENT_UNKNOWN", consent_id="never-was"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "SuspendConsent": Case(
            PORTAL,
            {"consent_id": "given", "mpxns": [MPAN], "reason": "CHECK"},
            (
                bad("FIELD_INVALID", consent_id="two words"),
                bad("FIELD_INVALID", reason="because"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "ResumeConsent": Case(
            PORTAL,
            {"consent_id": "given", "mpxns": [MPAN]},
            (
                bad("CONSENT_UNKNOWN", consent_id="never-was"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "WithdrawConsent": Case(
            ADVISER,
            {"consent_id": "given", "mpxns": [MPAN]},
            (
                bad("FIELD_INVALID", reason="because"),
                bad("CONSENT_NOT_YOURS", by=SUPPLIER),
            ),
        ),
        "ObjectToUse": Case(
            PORTAL,
            USE,
            (
                bad("FIELD_MISSING", basis=""),
                bad("FIELD_INVALID", basis="no code"),
                bad("FIELD_MISSING", purpose=""),
                bad("FIELD_MISSING", consumer_ref=""),
                bad("FIELD_INVALID", consumer_ref="no reference"),
                bad("OBJECTION_NOT_POSSIBLE", basis="CONTRACT"),
                bad("OBJECTION_NOT_POSSIBLE", purpose="CURIOSITY"),
                bad("NOT_AN_OCCUPIER", consumer_ref="c-else"),
                bad("NOT_AN_OCCUPIER", mpxn=UNKNOWN),
                bad("MPXN_FORMAT", mpxn="12"),
                bad("ROLE_NOT_ALLOWED", by=SUPPLIER),
            ),
        ),
        "AllowUse": Case(
            PORTAL,
            USE,
            (
                bad("FIELD_MISSING", basis=""),
                bad("FIELD_MISSING", purpose=""),
                bad("FIELD_INVALID", consumer_ref="no reference"),
                bad("NOT_AN_OCCUPIER", consumer_ref="c-else"),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "GetReceipt": Case(
            PORTAL,
            {"consent_id": "given", "mpxn": MPAN},
            (
                bad("FIELD_MISSING", consent_id=""),
                bad("CONSENT_NOT_ANSWERED", consent_id="asked"),
                bad("NOT_PERMITTED", consent_id="never-was"),
                bad("NOT_PERMITTED", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "RevokeConsent": Case(
            PORTAL,
            {"consent_id": "never-given", "mpxns": [MPAN]},
            (
                bad("FIELD_MISSING", consent_id=""),
                bad("ROLE_NOT_ALLOWED", by=SUPPLIER),
            ),
        ),
        "Bulk": Case(
            PORTAL,
            {"commands": [{"start_supply": BULK | SUPPLY}]},
            (
                bad("REQUEST_TOO_LARGE", commands=[]),
                bad("FIELD_MISSING", commands=[{}]),
                bad("MPXN_FORMAT", commands=[{"start_supply": BULK | SUPPLY | {"mpxn": "12"}}]),
                bad("FIELD_MISSING", commands=[{"start_supply": BULK | SUPPLY | {"supplier": ""}}]),
                bad("IDEMPOTENCY_KEY_REQUIRED", commands=[{"start_supply": SUPPLY}]),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "EndAgentAppointment": Case(
            PORTAL,
            AGENT | {"effective_to": SOON},
            (
                bad("APPOINTMENT_UNKNOWN", agent="agent-2"),
                bad("APPOINTMENT_UNKNOWN", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "EndTenancy": Case(
            PORTAL,
            {"mpxn": MPAN, "tenancy_id": "t-bad", "effective_to": SOON},
            (
                bad("TENANCY_UNKNOWN", tenancy_id="t-else"),
                bad("TENANCY_UNKNOWN", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "EndSupply": Case(
            PORTAL,
            {"mpxn": MPAN, "supplier": SUPPLIER, "effective_to": LATER},
            (
                bad("SUPPLY_UNKNOWN", supplier="other-supply"),
                bad("SUPPLY_UNKNOWN", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
    },
    "Metering": {
        "RegisterMeteringPoint": Case(
            SUPPLIER,
            {"mpxn": METERED, "registered_from": FROM},
            (
                bad("CODE_UNKNOWN", fuel="STEAM"),
                bad("CODE_UNKNOWN", energy_direction="SIDEWAYS"),
                bad("CODE_UNKNOWN", measurement_quantity="ZZ"),
                bad("GSP_GROUP_UNKNOWN", gsp_group="_Z"),
                bad("NOT_PERMITTED", mpxn=UNKNOWN),
                bad("NOT_PERMITTED", by=ADVISER),
            ),
        ),
        "RecordReadings": Case(
            SUPPLIER,
            {"header": HEADER},
            (
                bad("FIELD_INVALID", header=None),
                bad("FIELD_INVALID", header=HEADER | {"source_digest": b"short"}),
                bad("CODE_UNKNOWN", header=HEADER | {"measurement_quantity": "ZZ"}),
                bad("FIELD_INVALID", header=HEADER | {"quality_codes": []}),
                bad("FIELD_INVALID", header=HEADER | {"sender_reference": ""}),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "RegisterMeteringPoints": Case(
            SUPPLIER,
            {"commands": [BULK | POINT]},
            (
                bad("REQUEST_TOO_LARGE", commands=[]),
                bad("MPXN_FORMAT", commands=[BULK | POINT | {"mpxn": "12"}]),
                bad("CODE_UNKNOWN", commands=[BULK | POINT | {"fuel": "STEAM"}]),
                bad("NOT_PERMITTED", commands=[BULK | POINT | {"mpxn": UNKNOWN}]),
                bad("IDEMPOTENCY_KEY_REQUIRED", commands=[POINT]),
                bad("NOT_PERMITTED", by=ADVISER),
            ),
        ),
        "ReportCommunicationLost": Case(
            SUPPLIER,
            {"mpxn": METERED, "effective_from": FROM},
            (bad("NOT_PERMITTED", mpxn=UNKNOWN), bad("NOT_PERMITTED", by=ADVISER)),
        ),
        "ReportCommunicationRestored": Case(
            SUPPLIER,
            {"mpxn": METERED, "effective_to": LATER},
            (bad("NOT_PERMITTED", mpxn=UNKNOWN), bad("NOT_PERMITTED", by=ADVISER)),
        ),
        "WithdrawReadings": Case(
            SUPPLIER,
            {
                "mpxn": METERED,
                "measurement_quantity": "AI",
                "interval": WEEK,
                "reason": "WRONG_METER",
            },
            (
                bad("CODE_UNKNOWN", measurement_quantity="ZZ"),
                bad("FIELD_INVALID", reason="because it was wrong"),
                bad("FIELD_MISSING", interval=None),
                bad(
                    "REQUEST_TOO_LARGE",
                    interval=WEEK | {"end": stamp(NOW.replace(minute=0, second=0))},
                ),
                bad(
                    "INTERVAL_INVALID", interval=WEEK | {"end": stamp(SINCE + timedelta(minutes=5))}
                ),
                bad("NOT_PERMITTED", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "DeregisterMeteringPoint": Case(
            SUPPLIER,
            {"mpxn": METERED, "effective_to": LATER},
            (bad("NOT_PERMITTED", mpxn=UNKNOWN), bad("NOT_PERMITTED", by=ADVISER)),
        ),
    },
    "BtmAssets": {
        "DeclareAsset": Case(
            SUPPLIER,
            AT_METER | {"kind": {"asset_class": "BATTERY"}},
            (
                bad("CODE_UNKNOWN", kind={"asset_class": "TOASTER"}),
                bad("FIELD_INVALID", specification={"phases": -1}),
                bad("GSP_GROUP_UNKNOWN", connection={"gsp_group": "_Z"}),
                bad("MPAN_FORMAT", connection={"export_mpan": "12"}),
                bad("FIELD_MISSING", links=[{"scheme": "UPRN", "value": "1"}]),
                bad("NOT_PERMITTED", mpxn=UNKNOWN),
                bad("NOT_PERMITTED", by=ADVISER),
                bad("ROLE_NOT_ALLOWED", by=BOARD),
            ),
        ),
        "VerifyAsset": Case(
            PORTAL,
            AT_METER | {"level": "INSPECTION"},
            (
                bad("CODE_UNKNOWN", level="HEARSAY"),
                bad("ASSET_UNKNOWN", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=SUPPLIER),
            ),
        ),
        "ActivateAsset": Case(SUPPLIER, AT_METER, STRANGE_ASSET),
        "RejectAsset": Case(
            PORTAL,
            AT_METER | {"asset_id": OTHER, "reason": "not there"},
            (
                bad("FIELD_MISSING", reason=""),
                bad("ASSET_UNKNOWN", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=SUPPLIER),
            ),
        ),
        "LinkAsset": Case(
            SUPPLIER,
            AT_METER | {"link": LINK},
            (
                bad("CODE_UNKNOWN", link=LINK | {"scheme": "FACEBOOK"}),
                bad("FIELD_INVALID", link=LINK | {"value": "no number"}),
                bad("FIELD_MISSING", link={}),
                *STRANGE_ASSET,
            ),
        ),
        "UnlinkAsset": Case(
            SUPPLIER,
            AT_METER | {"scheme": "UPRN", "value": "1", "effective_to": SOON},
            (
                bad("CODE_UNKNOWN", scheme="FACEBOOK"),
                bad("LINK_UNKNOWN", value="2"),
                bad("ASSET_NOT_YOURS", by=ADVISER),
            ),
        ),
        "TransferAsset": Case(
            SUPPLIER,
            AT_METER | {"ownership": {"owner": "c-bad"}, "effective_from": FROM},
            (bad("FIELD_MISSING", ownership={}), *STRANGE_ASSET),
        ),
        "SuspendAsset": Case(
            SUPPLIER,
            AT_METER,
            (bad("ASSET_UNKNOWN", mpxn=UNKNOWN), bad("ASSET_NOT_YOURS", by=ADVISER)),
        ),
        "DecommissionAsset": Case(
            SUPPLIER,
            AT_METER,
            (bad("ASSET_UNKNOWN", mpxn=UNKNOWN), bad("ASSET_NOT_YOURS", by=ADVISER)),
        ),
    },
    "Aggregates": {
        "PublishAggregates": Case(
            BOARD,
            {"day": "2013-01-05"},
            (
                bad("TIME_INVALID", day=""),
                bad("TIME_INVALID", day="yesterday"),
                bad("AGGREGATE_NOT_DUE", day=f"{NOW:%Y-%m-%d}"),
                bad("ROLE_NOT_ALLOWED", by=SUPPLIER),
            ),
        ),
        "ListAggregates": Case(
            ADVISER,
            {"day": "2013-01-05"},
            (
                bad("TIME_INVALID", day=""),
                bad("TIME_INVALID", day="2013-01-32"),
                bad("POSITION_INVALID", at_least=ELSEWHERE),
            ),
        ),
    },
    # Nothing is quarantined here; tests/coordinators redrives and releases.
    "Operations": {
        "Redrive": Case(BOARD, PLACED, PLACES_AT_FAULT, passes=False),
        "Release": Case(BOARD, PLACED, PLACES_AT_FAULT, passes=False),
    },
    # Served by every coordinator for the lists of its domain.
    "Reference": {
        "LoadCodes": Case(
            BOARD,
            {"list": "gsp_groups", "codes": [CODE]},
            (
                bad("LIST_UNKNOWN", list="colours"),
                bad("FIELD_MISSING", codes=[]),
                bad("FIELD_INVALID", codes=[CODE | {"code": "two words"}]),
                bad("TIME_INVALID", codes=[CODE | {"effective_from": "yesterday"}]),
                bad("INTERVAL_INVALID", codes=[CODE | {"effective_to": "1990-06-01"}]),
                bad(
                    "CODE_UNKNOWN",
                    withdrawals=[{"code": "_X", "effective_from": "2020-01-01", "why": "wrong"}],
                ),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
            ),
        ),
        "ListCodeLists": Case(ADVISER, {}, (bad("POSITION_INVALID", at_least=ELSEWHERE),)),
        "ListCodes": Case(
            ADVISER,
            {"list": "gsp_groups"},
            (
                bad("LIST_UNKNOWN", list="colours"),
                bad("TIME_INVALID", as_of_valid="yesterday"),
                bad("TIME_INVALID", as_of_known=NEVER),
                bad("FIELD_INVALID", as_of_known=FROM, known_below=1),
                bad("POSITION_INVALID", known_below=10**9),
                bad("POSITION_INVALID", at_least=ELSEWHERE),
            ),
        ),
        "GetCode": Case(
            ADVISER,
            {"list": "gsp_groups", "code": "_C"},
            (
                bad("LIST_UNKNOWN", list="colours"),
                bad("CODE_UNKNOWN", code="_X"),
                bad("TIME_INVALID", as_of_valid="yesterday"),
                bad("POSITION_INVALID", at_least=ELSEWHERE),
            ),
        ),
    },
    "Dsi": {
        "GetReadings": Case(ADVISER, READ | {"interval": WEEK}, (*READS_AT_FAULT, *INTERVALS)),
        "StreamReadings": Case(
            ADVISER,
            {"mpxns": [HOME], "purpose": "ENERGY_ADVICE", "basis": "CONSENT", "interval": WEEK},
            (
                bad("PURPOSE_UNKNOWN", purpose="NOSINESS"),
                bad("BASIS_UNKNOWN", basis="BECAUSE"),
                bad("CATEGORY_UNKNOWN", category="TARIFF"),
                bad("NOT_PERMITTED", mpxns=[UNKNOWN]),
                bad("NOT_PERMITTED", by=STRANGER),
                bad("FIELD_INVALID", members_per_message=2),
                bad("FIELD_INVALID", members_per_message=49, in_columns=True),
                bad("FIELD_INVALID", members_per_message=-1, in_columns=True),
                *INTERVALS,
            ),
        ),
        "GetMeteringPoint": Case(ADVISER, READ, READS_AT_FAULT),
        "ListConsents": Case(ADVISER, READ, READS_AT_FAULT),
        "ListTenancies": Case(ADVISER, READ, READS_AT_FAULT),
        "GetPersonalRecord": Case(
            "bad-home",
            OWN,
            (
                bad("PURPOSE_UNKNOWN", purpose="NOSINESS"),
                bad("FIELD_MISSING", purpose=""),
                bad("BASIS_UNKNOWN", basis="BECAUSE"),
                bad("BASIS_NOT_FOR_ROLE", basis="CONSENT"),
                bad("TIME_INVALID", as_of_known=NEVER),
                bad("FIELD_INVALID", from_offset=-1),
                bad("FIELD_INVALID", from_offset=2**63 - 1),
                bad("POSITION_INVALID", at_least=ELSEWHERE),
                bad("NOT_PERMITTED", mpxn=UNKNOWN),
                bad("ROLE_NOT_ALLOWED", by=ADVISER),
                bad("ROLE_NOT_ALLOWED", by=SUPPLIER),
            ),
        ),
        "ListAssets": Case(ADVISER, READ, READS_AT_FAULT),
        "GetAsset": Case(ADVISER, READ | {"asset_id": ASSET}, READS_AT_FAULT),
        "CheckAccess": Case(
            ADVISER,
            {"questions": [QUESTION]},
            (
                bad("REQUEST_TOO_LARGE", questions=[]),
                bad("MPXN_FORMAT", questions=[{"mpxn": "12"}]),
                bad("FIELD_MISSING", questions=[QUESTION | {"data_user": ""}]),
                bad("FIELD_INVALID", questions=[QUESTION, QUESTION | {"data_user": "!!"}]),
                bad("FIELD_MISSING", questions=[QUESTION | {"purpose": ""}]),
                bad("FIELD_INVALID", questions=[QUESTION | {"purpose": "a\tb"}]),
                bad("POSITION_INVALID", at_least=ELSEWHERE),
            ),
        ),
    },
    "Ledger": {
        "ListOwnMeters": Case(
            "bad-home",
            {},
            (bad("POSITION_INVALID", at_least=ELSEWHERE), bad("ROLE_NOT_ALLOWED", by=ADVISER)),
        ),
        "ListReads": Case(
            ADVISER,
            {"mpxn": HOME},
            (
                bad("FIELD_INVALID", page_size=501),
                bad("FIELD_INVALID", page_size=-1),
                bad("FIELD_INVALID", page_size=201, with_proofs=True),
                bad("CURSOR_INVALID", cursor="?"),
                bad("TIME_INVALID", since=NEVER),
                bad("POSITION_INVALID", at_least=ELSEWHERE),
                bad("ROLE_NOT_ALLOWED", by=BOARD),
                bad("ROLE_NOT_ALLOWED", by=PORTAL),
            ),
        ),
        # tests/e2e/test_ledger.py has what passes.
        "GetProvenance": Case(
            ADVISER,
            {"mpxn": HOME, "partition": HOME_PARTITION, "columns": COLUMNS},
            (
                bad("DECISION_UNKNOWN"),
                bad("POSITION_INVALID", partition=(HOME_PARTITION + 1) % 4),
                bad("FIELD_INVALID", columns={"start": FROM}),
                bad("FIELD_INVALID", columns=COLUMNS | {"values_wh": []}),
                bad("FIELD_INVALID", columns=COLUMNS | {"runs": [{"half_hours": -1}]}),
                bad("TIME_INVALID", columns=COLUMNS | {"start": NEVER}),
                bad("ROLE_NOT_ALLOWED", by=BOARD),
            ),
            passes=False,
        ),
    },
    "SharedTrust": {
        "DescribeTrust": Case(ADVISER, {}),
        "JudgeAccreditations": Case(
            ADVISER,
            {"asked": [{"party": ADVISER, "role": "data_user", "purpose": "RESEARCH"}]},
            (
                bad("REQUEST_TOO_LARGE", asked=[]),
                bad("FIELD_MISSING", asked=[{}]),
                bad("FIELD_INVALID", asked=[{"party": "no party"}]),
            ),
        ),
        "CheckConsentToken": Case(
            ADVISER,
            {"token": "no token of anybody"},
            (bad("FIELD_MISSING", token=""), bad("REQUEST_TOO_LARGE", token="x" * 16_385)),
        ),
    },
    "ConsentTokens": {
        "IssueConsentToken": Case(
            ADVISER,
            {"consent_id": "bad-home-advice", "mpxns": [HOME]},
            (
                bad("FIELD_MISSING", consent_id=""),
                bad("FIELD_INVALID", consent_id="two words"),
                bad("NOT_PERMITTED", consent_id="never-was"),
                bad("NOT_PERMITTED", mpxns=[UNKNOWN]),
                bad("NOT_PERMITTED", by=STRANGER),
                bad("NOT_PERMITTED", by=BOARD),
            ),
        ),
    },
    # What only servers ask; tests/coordinators/test_personal_record.py has what passes.
    "Seals": {
        "OpenSeals": Case(
            SERVER,
            {"read": LOGGED},
            (
                bad("NOT_PERMITTED"),
                bad("NOT_PERMITTED", read=None),
                bad("NOT_PERMITTED", read=LOGGED | {"topic": trust.METERING_TOPIC}),
                bad("NOT_PERMITTED", read=LOGGED | {"partition": -1}),
                bad("NOT_PERMITTED", read=LOGGED | {"offset": -1}),
                bad("FOLD_BEHIND", read=LOGGED | {"offset": 2**62}),
                bad("ROLE_NOT_ALLOWED", by="bad-home"),
                bad("ROLE_NOT_ALLOWED", by=PORTAL),
            ),
            passes=False,
        ),
    },
    "Quarantined": {
        "ListQuarantined": Case(
            "server-metering",
            {},
            (
                bad("ROLE_NOT_ALLOWED", by=SERVER),
                bad("ROLE_NOT_ALLOWED", by=PORTAL),
                bad("IDENTIFIERS_PAIRWISE", by=ADVISER),  # whose standing nobody knows there
                bad("FIELD_INVALID", last=[{"offset": -1}]),
                bad("FIELD_INVALID", last=[{"entry": -1}]),
            ),
        ),
    },
    # tests/broker/test_members.py has what passes.
    "Members": {
        "Standing": Case(SERVER, {}, (bad("ROLE_NOT_ALLOWED", by=ADVISER),)),
        "Forward": Case(SERVER, {"key_id": bytes(8)}, FORGED, passes=False),
        "ForwardStream": Case(SERVER, {"key_id": bytes(8)}, FORGED, passes=False),
    },
}


@dataclass(frozen=True, slots=True)
class Place:
    """A method and the process that serves it."""

    service: str
    method: Any

    @property
    def path(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"


@cache
def services() -> dict[str, dict[str, Place]]:
    """Every method of every service that `proto/` describes."""
    found: dict[str, dict[str, Place]] = {}
    for proto in sorted((ROOT / "proto").rglob("*.proto")):
        name = proto.relative_to(ROOT / "proto").with_suffix("").as_posix().replace("/", ".")
        described = importlib.import_module(f"{name}_pb2").DESCRIPTOR
        for service in described.services_by_name.values():
            found[service.name] = {m.name: Place(service.name, m) for m in service.methods}
    return found


def test_every_method_of_every_service_has_its_bad_input() -> None:
    listed = {service: set(cases) for service, cases in CASES.items()}
    assert listed == {service: set(methods) for service, methods in services().items()}
    assert set(PROCESS) == set(listed)


@pytest.fixture(scope="module")
def town(spine: Installation) -> Installation:
    """A supplier, two advisers, and meters for each story, all of this module alone."""
    spine.party(SUPPLIER, Role.SUPPLIER)
    for adviser in (ADVISER, STRANGER):
        spine.party(adviser, Role.DATA_USER)
    portal = spine.as_(PORTAL)
    for mpxn in (METERED, BEHIND):
        portal.consumers("StartSupply", mpxn=mpxn, supplier=SUPPLIER, effective_from=FROM)
    kind = {"asset_class": "OTHER"}
    spine.as_(SUPPLIER).assets("DeclareAsset", mpxn=BEHIND, asset_id=OTHER, kind=kind)
    spine.meter(HOME, SUPPLIER)
    home = spine.occupier(HOME, "bad-home")
    grant(home, HOME, ADVISER, terms=TERMS, consent_id="bad-home-advice")
    return spine


class Callers:
    """Sends messages, or bytes that may be none, over one connection for each identity."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._open: dict[tuple[str, str], grpc.Channel] = {}

    def ask(
        self, place: Place, by: str, sent: Message | bytes, timeout_s: float | None = 20
    ) -> list[Any]:
        """Every answer."""
        shape = (place.method.client_streaming, place.method.server_streaming)
        answer: Any = place.method.output_type._concrete_class
        call = getattr(
            self._channel(PROCESS[place.service], by),
            "_".join("stream" if streams else "unary" for streams in shape),
        )(place.path, _bytes_of, answer.FromString)
        said = call(iter([sent]) if shape[0] else sent, timeout=timeout_s)
        return list(said) if shape[1] else [said]

    def refusal(
        self, place: Place, by: str, sent: Message | bytes, timeout_s: float | None = 20
    ) -> str:
        """The reason for which it, or the one command in it, was refused; empty if it passed."""
        try:
            (*_, said) = self.ask(place, by, sent, timeout_s)
        except grpc.RpcError as error:
            return error_from(error).reason
        return str(said.results[0].refused) if hasattr(said, "results") else ""

    def close(self) -> None:
        for channel in self._open.values():
            channel.close()

    def _channel(self, process: str, by: str) -> grpc.Channel:
        if (process, by) not in self._open:
            target = service_target(self._data_dir, process)
            identity = self._data_dir / "identities" / by
            self._open[process, by] = connect_sync(target, identity)
        return self._open[process, by]


def _bytes_of(sent: Message | bytes) -> bytes:
    return sent if isinstance(sent, bytes) else sent.SerializeToString()


def message(place: Place, fields: dict[str, Any]) -> Any:
    """The request with these fields, under a key of its own if it has one."""
    made: Any = place.method.input_type._concrete_class
    names = place.method.input_type.fields_by_name
    key = {"idempotency_key": f"bad-input-{next(_numbers)}"} if "idempotency_key" in names else {}
    return made(**key | fields)


def of_any_method(place: Place, case: Case) -> Iterator[Bad]:
    """What every method refuses that has such a field."""
    names = place.method.input_type.fields_by_name
    if "idempotency_key" in names:
        for key in ("", "x" * 65, "é"):
            yield bad("IDEMPOTENCY_KEY_REQUIRED", idempotency_key=key)
    for text in ("", "12", "2" * 14, "20000273919 0", "drop table"):
        if "mpxn" in names:
            yield bad("MPXN_FORMAT", mpxn=text)
        if "mpxns" in names:
            yield bad("MPXN_FORMAT", mpxns=[text])
    if "mpxns" in names:
        yield bad("REQUEST_TOO_LARGE" if place.service == "Dsi" else "FIELD_INVALID", mpxns=[])
    if "asset_id" in names:
        yield bad("FIELD_INVALID", asset_id="urn:energyos:asset:1")
    for name, value in case.good.items():
        if isinstance(value, Timestamp):
            yield Bad("FIELD_MISSING", {name: None})
            yield Bad("TIME_INVALID", {name: NEVER})
            yield Bad("TIME_INVALID", {name: YEAR_ONE})
    if "as_of_known" in names:
        yield bad("TIME_INVALID", as_of_known=SOON)
        yield bad("TIME_INVALID", as_of_known=YEAR_ONE)
    if "as_of_valid" in names and names["as_of_valid"].message_type is not None:
        yield bad("TIME_INVALID", as_of_valid=YEAR_ONE)
    if "interval" in names:
        half_a_ms_late = Timestamp(seconds=FROM.seconds + 1_800, nanos=500_000)
        yield bad("INTERVAL_INVALID", interval={"start": FROM, "end": half_a_ms_late})
        yield bad("TIME_INVALID", interval={"start": YEAR_ONE, "end": FROM})
        yield bad("FIELD_MISSING", interval={"start": FROM})


def ends(reader: LogReader, service: str, method: str) -> dict[tuple[str, int], int]:
    """Where the log ends in each partition, but for where asking itself leaves a record.

    A read is recorded; a token or a receipt is given after a record without content, whose place
    says that all that was acknowledged before is folded.
    """
    asking_leaves = service in ("Dsi", "ConsentTokens") or method == "GetReceipt"
    skipped = READS_APPEND_TO if asking_leaves else (trust.OUTCOMES_TOPIC,)
    return {
        (topic, partition): reader.bounds(topic, partition)[1]
        for topic, partitions in partition_counts(context.runtime().partitions).items()
        if topic not in skipped
        for partition in range(partitions)
    }


@pytest.fixture(scope="module")
def reader(town: Installation) -> Iterator[LogReader]:
    opened = context.runtime().reader()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def callers(town: Installation) -> Iterator[Callers]:
    made = Callers(town.data_dir)
    yield made
    made.close()


@pytest.mark.parametrize("service", CASES)
def test_bad_input_gets_a_reason_and_changes_nothing(
    callers: Callers, reader: LogReader, service: str
) -> None:
    surprises: list[str] = []
    for name, case in CASES[service].items():
        place = services()[service][name]
        good, before = message(place, case.good), ends(reader, service, name)
        for wrong in (*of_any_method(place, case), *case.bad):
            said = callers.refusal(
                place, wrong.by or case.by, message(place, case.good | wrong.fields)
            )
            if said != wrong.reason:
                surprises.append(f"{name} {wrong}: {said or 'passed'}")
        assert callers.refusal(place, case.by, b"\xff\xff") == "REQUEST_MALFORMED", name
        assert callers.refusal(place, case.by, good, None) == "DEADLINE_REQUIRED", name
        if ends(reader, service, name) != before:
            surprises.append(f"{name} recorded what it refused")
        if case.passes:
            assert callers.ask(place, case.by, good), name
    assert not surprises, "\n".join(surprises)


def test_nothing_was_lost_by_it_and_every_decision_is_made_again(
    town: Installation, tmp_path: Path
) -> None:
    _, report = audit(town, tmp_path)
    outcomes = ("applied", "duplicate", "void", "quarantined", "held", "access")
    for partition in report["partitions"]:
        assert partition["consumed"] == sum(partition[outcome] for outcome in outcomes)
        assert not partition["closed"] and partition["held"] == 0
    mine = {MPAN, METERED, BEHIND, HOME, UNKNOWN}
    assert report["counts"]["DIFFERENT"] == 0
    assert [line for line in report["findings"] if line["mpxn"] in mine] == []
