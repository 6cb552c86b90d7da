"""Every way the spine says no, as one small tree with stable reasons.

    SpineError
    ├── Invalid           INVALID_ARGUMENT    the request is malformed; sending it again cannot help
    ├── Unauthenticated   UNAUTHENTICATED     no certificate the spine trusts names the caller
    ├── NotFound          NOT_FOUND           nothing of that name (never said of a meter)
    ├── Refused           FAILED_PRECONDITION a rule of the domain forbids the command in this state
    │   └── NotPermitted  PERMISSION_DENIED   the fold decided against a read
    ├── Conflict          ABORTED             a race was lost, or a key was reused for other content
    ├── Pushback          UNAVAILABLE         not now; `retry_after_s` says when to try again
    │   └── Throttled     RESOURCE_EXHAUSTED  more than this party may ask; slow down
    └── Bug               INTERNAL            a broken invariant of ours

A `Reason` is part of the interface: it is never renamed, and the documentation lists every one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Final


class Reason(StrEnum):
    """Stable reason codes, as sent in google.rpc.ErrorInfo and stored in outcomes."""

    # Input
    MPAN_FORMAT = "MPAN_FORMAT"
    MPRN_FORMAT = "MPRN_FORMAT"
    MPXN_FORMAT = "MPXN_FORMAT"
    MPID_FORMAT = "MPID_FORMAT"
    GSP_GROUP_UNKNOWN = "GSP_GROUP_UNKNOWN"
    INTERVAL_INVALID = "INTERVAL_INVALID"
    SETTLEMENT_PERIOD_INVALID = "SETTLEMENT_PERIOD_INVALID"
    TIME_INVALID = "TIME_INVALID"
    FIELD_MISSING = "FIELD_MISSING"
    FIELD_INVALID = "FIELD_INVALID"
    CODE_UNKNOWN = "CODE_UNKNOWN"
    FILE_UNRECOGNISED = "FILE_UNRECOGNISED"
    FILE_UNREADABLE = "FILE_UNREADABLE"
    FILE_EMPTY = "FILE_EMPTY"
    FILE_AGGREGATED = "FILE_AGGREGATED"
    MPXN_REQUIRED = "MPXN_REQUIRED"
    REQUEST_MALFORMED = "REQUEST_MALFORMED"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    DEADLINE_REQUIRED = "DEADLINE_REQUIRED"
    CURSOR_INVALID = "CURSOR_INVALID"
    POSITION_INVALID = "POSITION_INVALID"
    IDEMPOTENCY_KEY_REQUIRED = "IDEMPOTENCY_KEY_REQUIRED"

    # Identity
    IDENTITY_MISSING = "IDENTITY_MISSING"
    ROLE_NOT_ALLOWED = "ROLE_NOT_ALLOWED"
    PARTY_HELD = "PARTY_HELD"
    IDENTIFIERS_PAIRWISE = "IDENTIFIERS_PAIRWISE"
    IDENTIFIER_UNKNOWN = "IDENTIFIER_UNKNOWN"
    FORWARD_INVALID = "FORWARD_INVALID"

    # Reads: why a fold refused
    NOT_PERMITTED = "NOT_PERMITTED"
    CLOCK_UNSURE = "CLOCK_UNSURE"
    ROLE_UNKNOWN = "ROLE_UNKNOWN"
    PARTICIPANT_UNKNOWN = "PARTICIPANT_UNKNOWN"
    PARTICIPANT_SUSPENDED = "PARTICIPANT_SUSPENDED"
    ACCREDITATION_MISSING = "ACCREDITATION_MISSING"
    ACCREDITATION_NOT_EQUIVALENT = "ACCREDITATION_NOT_EQUIVALENT"
    PURPOSE_UNKNOWN = "PURPOSE_UNKNOWN"
    CATEGORY_UNKNOWN = "CATEGORY_UNKNOWN"
    QUANTITY_NOT_IN_CATEGORY = "QUANTITY_NOT_IN_CATEGORY"
    BASIS_UNKNOWN = "BASIS_UNKNOWN"
    BASIS_NOT_FOR_ROLE = "BASIS_NOT_FOR_ROLE"
    METER_UNKNOWN = "METER_UNKNOWN"
    METER_CLOSED = "METER_CLOSED"
    PARTITION_CLOSED = "PARTITION_CLOSED"
    NOT_THE_OCCUPIER = "NOT_THE_OCCUPIER"
    NOT_THE_SUPPLIER = "NOT_THE_SUPPLIER"
    NOT_THE_AGENT = "NOT_THE_AGENT"
    NO_CONSENT = "NO_CONSENT"
    CONSENT_NOT_ANSWERED = "CONSENT_NOT_ANSWERED"
    CONSENT_DECLINED = "CONSENT_DECLINED"
    CONSENT_LAPSED = "CONSENT_LAPSED"
    CONSENT_SUSPENDED = "CONSENT_SUSPENDED"
    CONSENT_REVOKED = "CONSENT_REVOKED"
    CONSENT_WITHDRAWN = "CONSENT_WITHDRAWN"
    CONSENT_EXPIRED = "CONSENT_EXPIRED"
    CONSENT_NOT_YET_VALID = "CONSENT_NOT_YET_VALID"
    CONSENT_ENDED_WITH_TENANCY = "CONSENT_ENDED_WITH_TENANCY"
    CONSENT_SCOPE = "CONSENT_SCOPE"
    OPTED_OUT = "OPTED_OUT"
    INTERVAL_NOT_COVERED = "INTERVAL_NOT_COVERED"

    # Releases: why a permitted answer was not, or not wholly, sent
    PERMIT_EXPIRED = "PERMIT_EXPIRED"
    CLIENT_GONE = "CLIENT_GONE"
    DATA_BEHIND = "DATA_BEHIND"
    RELEASE_FAILED = "RELEASE_FAILED"
    PROVENANCE_UNAVAILABLE = "PROVENANCE_UNAVAILABLE"

    # Domain rules
    NOT_AN_OCCUPIER = "NOT_AN_OCCUPIER"
    TENANCY_OVERLAPS = "TENANCY_OVERLAPS"
    TENANCY_UNKNOWN = "TENANCY_UNKNOWN"
    TENANCY_STATE = "TENANCY_STATE"
    SUPPLY_OVERLAPS = "SUPPLY_OVERLAPS"
    SUPPLY_UNKNOWN = "SUPPLY_UNKNOWN"
    SUPPLY_STATE = "SUPPLY_STATE"
    APPOINTMENT_OVERLAPS = "APPOINTMENT_OVERLAPS"
    APPOINTMENT_UNKNOWN = "APPOINTMENT_UNKNOWN"
    APPOINTMENT_STATE = "APPOINTMENT_STATE"
    CONSENT_UNKNOWN = "CONSENT_UNKNOWN"
    CONSENT_EXISTS = "CONSENT_EXISTS"
    CONSENT_STATE = "CONSENT_STATE"
    CONSENT_WIDER = "CONSENT_WIDER"
    CONSENT_NOT_YOURS = "CONSENT_NOT_YOURS"
    OBJECTION_NOT_POSSIBLE = "OBJECTION_NOT_POSSIBLE"
    GRANULARITY_TOO_FINE = "GRANULARITY_TOO_FINE"
    ONWARD_SHARING_NOT_ALLOWED = "ONWARD_SHARING_NOT_ALLOWED"
    TOKEN_NOT_OURS = "TOKEN_NOT_OURS"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    TOKEN_OUTDATED = "TOKEN_OUTDATED"
    TOKEN_LEGS_DIFFER = "TOKEN_LEGS_DIFFER"
    SUBJECT_ERASED = "SUBJECT_ERASED"
    CHANGE_UNKNOWN = "CHANGE_UNKNOWN"
    CHANGE_OUT_OF_ORDER = "CHANGE_OUT_OF_ORDER"
    METER_EXISTS = "METER_EXISTS"
    METER_NOT_REGISTERED = "METER_NOT_REGISTERED"
    SENDER_NOT_APPOINTED = "SENDER_NOT_APPOINTED"
    READING_OUT_OF_RANGE = "READING_OUT_OF_RANGE"
    READING_IN_FUTURE = "READING_IN_FUTURE"
    READINGS_MALFORMED = "READINGS_MALFORMED"
    QUANTITY_NOT_FOR_METER = "QUANTITY_NOT_FOR_METER"
    MPXN_CHECK_DIGIT = "MPXN_CHECK_DIGIT"
    AGGREGATE_UNKNOWN = "AGGREGATE_UNKNOWN"
    AGGREGATE_NOT_DUE = "AGGREGATE_NOT_DUE"
    AGGREGATE_MALFORMED = "AGGREGATE_MALFORMED"
    AGGREGATE_UNSAFE = "AGGREGATE_UNSAFE"
    PARTICIPANT_EXISTS = "PARTICIPANT_EXISTS"
    PARTICIPANT_STATE = "PARTICIPANT_STATE"
    ACCREDITATION_EXISTS = "ACCREDITATION_EXISTS"
    ACCREDITATION_UNKNOWN = "ACCREDITATION_UNKNOWN"
    HOLD_UNKNOWN = "HOLD_UNKNOWN"
    RELEASE_NEEDS_ANOTHER = "RELEASE_NEEDS_ANOTHER"
    QUARANTINE_UNKNOWN = "QUARANTINE_UNKNOWN"
    QUARANTINE_SETTLED = "QUARANTINE_SETTLED"
    KEY_EXISTS = "KEY_EXISTS"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_STATE = "KEY_STATE"
    POLICY_VERSION_STATE = "POLICY_VERSION_STATE"
    EQUIVALENCE_STATE = "EQUIVALENCE_STATE"
    IDENTIFIERS_STATE = "IDENTIFIERS_STATE"
    ASSET_UNKNOWN = "ASSET_UNKNOWN"
    ASSET_EXISTS = "ASSET_EXISTS"
    ASSET_STATE = "ASSET_STATE"
    ASSET_NOT_YOURS = "ASSET_NOT_YOURS"
    ASSET_SELF_VERIFIED = "ASSET_SELF_VERIFIED"
    ASSET_LIMIT = "ASSET_LIMIT"
    LINK_EXISTS = "LINK_EXISTS"
    LINK_UNKNOWN = "LINK_UNKNOWN"
    LIST_UNKNOWN = "LIST_UNKNOWN"
    CODE_OVERLAPS = "CODE_OVERLAPS"

    # The log
    RACE_LOST = "RACE_LOST"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    RECORD_UNSIGNED = "RECORD_UNSIGNED"
    RECORD_BAD_SIGNATURE = "RECORD_BAD_SIGNATURE"
    RECORD_MALFORMED = "RECORD_MALFORMED"
    RECORD_UNKNOWN_TYPE = "RECORD_UNKNOWN_TYPE"
    RECORD_OUT_OF_RANGE = "RECORD_OUT_OF_RANGE"
    VOID_PARTITION = "VOID_PARTITION"
    VOID_KEY = "VOID_KEY"
    VOID_ROLE = "VOID_ROLE"
    VOID_CHAIN = "VOID_CHAIN"
    VOID_SIGNER_REVOKED = "VOID_SIGNER_REVOKED"
    OPENING_DIFFERS = "OPENING_DIFFERS"
    TOPIC_SETTINGS = "TOPIC_SETTINGS"
    LOG_MISSING = "LOG_MISSING"
    LOG_DIFFERS = "LOG_DIFFERS"
    SNAPSHOT_UNFIT = "SNAPSHOT_UNFIT"
    WITNESS_UNFIT = "WITNESS_UNFIT"
    ARCHIVE_DAMAGED = "ARCHIVE_DAMAGED"
    SEAL_DAMAGED = "SEAL_DAMAGED"
    DECISION_UNKNOWN = "DECISION_UNKNOWN"
    SCHEMA_INCOMPATIBLE = "SCHEMA_INCOMPATIBLE"

    # Not now
    FOLD_BEHIND = "FOLD_BEHIND"
    HEAD_BEHIND = "HEAD_BEHIND"
    LOG_UNREACHABLE = "LOG_UNREACHABLE"
    LOG_CREDENTIALS_REFUSED = "LOG_CREDENTIALS_REFUSED"
    LOG_CERTIFICATE_REFUSED = "LOG_CERTIFICATE_REFUSED"
    LOG_PROTOCOL_DIFFERS = "LOG_PROTOCOL_DIFFERS"
    KEY_NOT_SEEN = "KEY_NOT_SEEN"
    KEYS_NOT_AT_HAND = "KEYS_NOT_AT_HAND"
    STARTING = "STARTING"
    IDENTIFIERS_CHANGED = "IDENTIFIERS_CHANGED"
    OVERLOADED = "OVERLOADED"
    RATE_LIMITED = "RATE_LIMITED"
    METERS_LIMITED = "METERS_LIMITED"
    INDETERMINATE = "INDETERMINATE"

    BUG = "BUG"


# A fact of an error: the cursor that goes on behind the page that was refused.
NEXT_CURSOR: Final = "next_cursor"

# Their messages speak of brokers and settings: for whoever runs a process, and for no caller.
OF_THE_BROKERS: Final = frozenset(
    {
        Reason.LOG_CREDENTIALS_REFUSED,
        Reason.LOG_CERTIFICATE_REFUSED,
        Reason.LOG_PROTOCOL_DIFFERS,
    }
)


class SpineError(Exception):
    """The root: a stable `reason`, a sentence for a person, and the gRPC code it maps to.

    `facts` are what a program needs beside them to go on, by name.
    """

    grpc_code: ClassVar[str] = "INTERNAL"

    def __init__(self, reason: Reason, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.facts: dict[str, str] = {}

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    @property
    def told(self) -> str:
        """The message as a caller of ours gets it."""
        return "the log takes nobody now" if self.reason in OF_THE_BROKERS else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it comes whole from another process."""
        return _as_it_was, (type(self), self.message), self.__dict__


def _as_it_was(kind: type[SpineError], message: str) -> SpineError:
    return kind.__new__(kind, message)


class Invalid(SpineError):
    """The request is malformed; `field` names the part at fault."""

    grpc_code = "INVALID_ARGUMENT"


class Unauthenticated(SpineError):
    """No certificate the spine trusts names the caller."""

    grpc_code = "UNAUTHENTICATED"


class NotFound(SpineError):
    """Nothing of that name is known to this caller."""

    grpc_code = "NOT_FOUND"


class Refused(SpineError):
    """A rule of the domain forbids the command in the present state."""

    grpc_code = "FAILED_PRECONDITION"


class NotPermitted(Refused):
    """The caller's role, or the fold's decision on a read, says no."""

    grpc_code = "PERMISSION_DENIED"


class Conflict(SpineError):
    """A race was lost, or an idempotency key was used again for other content."""

    grpc_code = "ABORTED"


class Pushback(SpineError):
    """Not now: nothing was given out, and the same request may pass after `retry_after_s`."""

    grpc_code = "UNAVAILABLE"

    def __init__(self, reason: Reason, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(reason, message)
        self.retry_after_s = retry_after_s


class Throttled(Pushback):
    """More than this party may ask of this server: nothing was done, and it should slow down."""

    grpc_code = "RESOURCE_EXHAUSTED"


class Bug(SpineError):
    """An invariant of ours is broken. Crashes a test, and is INTERNAL to a caller."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.BUG, message)
